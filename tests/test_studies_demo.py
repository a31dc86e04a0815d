"""The main job: the numbers of its table are those of the library."""

from __future__ import annotations

import pytest
import torch

import barrow
from barrow.studies import demo, digits
from barrow.studies.work import silent


def test_the_demo_agrees_with_the_library() -> None:
    done = demo.run(seed=0, quick=True, progress=silent)
    (_, known), (_, (before, after)) = done.sections
    assert all(answer.value == pytest.approx(35, abs=1e-3) for answer in known)
    assert [answer.how for answer in known] == ["Simplex", *["Sinkhorn"] * 3, "1-Lipschitz network"]
    x, y = digits.two_classes(3, 8, digits.size(True)[0], torch.Generator().manual_seed(0))
    assert before.value == pytest.approx(float(barrow.wasserstein(x, y)), rel=1e-9)
    assert after.value < 0.05 * before.value
