"""Threes moved onto eights: clouds, descent, and claims that can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import barrow
from barrow.studies import Work, digits
from resuming import resumed


def test_digits_are_what_they_say() -> None:
    x, y = digits.two_classes(3, 8, 50, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50, 64)
    assert x.dtype == torch.float64
    assert 0 <= x.min() <= x.max() <= 1
    again, _ = digits.two_classes(3, 8, 50, torch.Generator().manual_seed(0))
    other, _ = digits.two_classes(3, 8, 50, torch.Generator().manual_seed(1))
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_the_flow_arrives() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 4, generator=generator, dtype=torch.float64)
    y = torch.rand(12, 4, generator=generator, dtype=torch.float64) + 2
    moved = digits.flow(x, y, steps=16)
    assert torch.equal(moved.frames[0], x)
    assert len(moved.frames) == len(moved.distances) == 17
    for k in (0, 7, 16):
        assert moved.distances[k].contains(float(barrow.wasserstein(moved.frames[k], y)), 1e-9)
    assert moved.last.value < 0.05 * moved.first.value


def test_principal_axes_are_orthonormal_and_leading() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 5.0, 1.0])
    mean, axes = digits.principal_axes(z + 7)
    assert torch.allclose(axes.T @ axes, torch.eye(2).double())
    assert torch.allclose(mean, (z + 7).mean(0))
    assert axes.abs().argmax(0).tolist() == [1, 2]
    assert bool((axes.amax(0) == axes.abs().amax(0)).all())


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "size", lambda quick: (16, 3))
    outcome = resumed(digits.run, tmp_path, parts=1)
    assert len(outcome.numbers["distances"]) == 4
    assert outcome.numbers["distances"][0] == outcome.numbers["answers"]["W₂, threes to eights"]["value"]
    assert not outcome.holds  # three steps do not arrive
    work = Work(seed=3, quick=True, folder=tmp_path, resume=True)
    assert digits.run(work).numbers == outcome.numbers
    assert work.resumed == 1
