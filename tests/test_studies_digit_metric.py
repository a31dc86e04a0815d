"""Digits on a line: posteriors with a closed form, claims that can fail."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from barrow.studies import Work, digit_metric
from barrow.studies.data import mnist
from barrow.studies.digit_metric import CROSS, ENTROPIC, EXACT, Found, Size

TINY = Size(powers=(0, 1, 2), seeds=2, train=60, held=20, steps=4, batch=10, width=8, rates=(1e-3, 1e-2))


def test_the_metric_is_a_power_of_the_distance() -> None:
    assert torch.equal(digit_metric.metric(0), 1 - torch.eye(10))
    C = digit_metric.metric(2)
    assert torch.equal(C, C.T)
    assert float(C[3, 7]) == pytest.approx(0.16)
    assert 0 <= float(C.min()) <= float(C.max()) < 1


def test_the_best_answer_minimises_the_loss() -> None:
    """No answer costs less than the softmax of the costs, by the loss itself."""
    y = torch.arange(10)
    for p in (0, 0.5, 2):
        logits = (-digit_metric.metric(p) / digit_metric.EPSILON).double()
        best = float(digit_metric.loss(ENTROPIC, logits, y, p))
        logits.requires_grad_()
        (slope,) = torch.autograd.grad(digit_metric.loss(ENTROPIC, logits, y, p), logits)
        assert float(slope.abs().max()) < 1e-6
        others = logits.detach() + torch.randn(
            (10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        assert float(digit_metric.loss(ENTROPIC, others, y, p)) > best
    assert digit_metric.gibbs(0).diagonal().min() > 0.999


def test_losses_are_what_they_say() -> None:
    logits = torch.randn((5, 10), generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 9, 4, 4, 2])
    h = logits.softmax(-1)
    linear = (h * digit_metric.metric(1.5)[y]).sum(-1)
    assert float(digit_metric.loss(CROSS, logits, y, 1.5)) == pytest.approx(float(-h[range(5), y].log().mean()))
    assert float(digit_metric.loss(EXACT, logits, y, 1.5)) == pytest.approx(float(linear.mean()))
    entropic = linear + digit_metric.EPSILON * torch.xlogy(h, h).sum(-1)
    assert float(digit_metric.loss(ENTROPIC, logits, y, 1.5)) == pytest.approx(float(entropic.mean()), abs=1e-5)
    assert digit_metric.linearity() < 1e-12


def test_mass_by_distance() -> None:
    k = torch.arange(10)
    posterior = (k[:, None] - k).abs().double()
    assert digit_metric.by_distance(posterior).tolist() == list(range(10))
    assert digit_metric.near_to_far(torch.ones(10, 10)) == 1
    assert digit_metric.near_to_far(digit_metric.gibbs(1)) > 2
    assert digit_metric.variation({"posterior": digit_metric.gibbs(1)}, 1) == 0
    assert digit_metric.variation({"posterior": digit_metric.gibbs(1)}, 0) > 0.4


def test_a_network_learns_and_a_seed_decides() -> None:
    data = mnist.small()
    size = Size(train=1000, held=200, steps=80, width=32)
    found = digit_metric.train(ENTROPIC, 0, 1e-2, 0, size, data)
    assert found["accuracy"] > 0.8
    assert torch.allclose(found["posterior"].sum(1), torch.ones(10, dtype=torch.float64))
    assert 0 < found["entropy"] < math.log(10)
    again = digit_metric.train(ENTROPIC, 0, 1e-2, 0, size, data)
    assert torch.equal(found["posterior"], again["posterior"])


# -- claims ------------------------------------------------------------------------------------------------------------


def ideal(p: float, accuracy: float = 0.9) -> Found:
    h = digit_metric.gibbs(p).double()
    entropy = float(-torch.xlogy(h, h).sum(-1).mean())
    return {"posterior": h, "entropy": entropy, "confidence": float(h.amax(-1).mean()), "accuracy": accuracy}


def held(**changed: Found) -> list[bool]:
    found = {(ENTROPIC, float(p)): [ideal(p), changed.get(f"p{p}", ideal(p))] for p in TINY.powers}
    found |= {(CROSS, 0.0): [ideal(0)] * 2}
    return [claim.holds for claim in digit_metric.claims(found, TINY)]


def test_every_claim_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert held() == [True] * 6
    assert held(p2=ideal(1))[0] is False  # no more entropy than before
    assert held(p1={**ideal(1), "posterior": digit_metric.metric(1)})[1] is False  # more the farther
    assert held(p0={**ideal(0), "confidence": 0.8})[2] is False
    assert held(p0=ideal(0, 0.8))[3] is False
    assert held(p1={**ideal(1), "posterior": ideal(0)["posterior"]})[4] is False
    monkeypatch.setattr(
        digit_metric, "metric", lambda p: torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    )
    assert digit_metric.linearity() > 1e-9  # <h, C[:, y]> is not <h, C[y]> there


# -- the study ---------------------------------------------------------------------------------------------------------


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    whole = digit_metric.run(Work(folder=tmp_path, study="digit-metric"), TINY)
    parts = sorted(tmp_path.glob("*seed*.ckpt"))
    for path in parts[::2]:
        path.unlink()
    work = Work(folder=tmp_path, study="digit-metric", resume=True)
    again = digit_metric.run(work, TINY)
    assert 0 < work.resumed < len(work.seconds) == 7 * 3
    assert again.numbers == whole.numbers


def test_the_outcome_is_whole() -> None:
    outcome = digit_metric.run(Work(), TINY)
    (table,) = outcome.tables.values()
    assert len(table.rows) == 7
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert outcome.captions.keys() == outcome.figures.keys()
    assert len(outcome.sources) == 1
    for numbers in outcome.numbers.values():
        assert torch.tensor(numbers["posterior"]).isfinite().all()
        assert len(numbers["entropy"]) == TINY.seeds
    (figure,) = outcome.figures.values()
    assert len(figure.axes) == 3
