"""Labels that slip on a lattice: a law with known answers, losses with closed forms, claims that can fail."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import barrow
from barrow.studies import Work, label_noise
from barrow.studies.label_noise import COLOURS, EXACT, FIRST, KL, MEDIAN, MODE, SECOND, Lattice, Size

TINY = Size(
    sides=(2, 3), noises=(0.1, 0.9), repeats=2, train=5, held=4, test=6, steps=4, batch=6, rates=(0.3, 1.0)
)  # fmt: skip


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- data --------------------------------------------------------------------------------------------------------------


def test_labels_slip_to_neighbours_only() -> None:
    lattice = Lattice(3)
    slips = lattice.slips(0.6)
    assert torch.allclose(slips.sum(1), torch.ones(9))
    assert torch.allclose(slips.diagonal(), torch.full((9,), 0.4))
    assert (slips > 0).sum(1).tolist() == [3, 4, 3, 4, 5, 4, 3, 4, 3]  # corners, edges and the middle, and themselves
    assert slips[0].tolist() == pytest.approx([0.4, 0.3, 0, 0.3, 0, 0, 0, 0, 0])


def test_noise_is_as_large_as_it_says() -> None:
    lattice, noises = Lattice(4), (0.0, 0.25, 0.75, 1.0)
    true = torch.arange(16).repeat(500)
    labels = lattice.labels(true, noises, 3, random())
    assert labels.shape == (4, 3, 8000)
    slipped = (labels != true).float().mean((1, 2)).tolist()
    assert slipped == pytest.approx(noises, abs=0.01)
    apart = lattice.distance[labels, true]
    assert set(apart.unique().tolist()) == {0.0, 1.0}
    # More noise moves more of the same labels.
    assert bool((labels[1] == labels[2])[labels[1] != true].all())
    # From a corner to either neighbour equally often.
    away = labels[3][:, true == 0].flatten()
    assert float((away == 1).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_points_lie_about_their_vertices() -> None:
    lattice = Lattice(5)
    assert lattice.vertices.mean(0).tolist() == [0, 0]
    x, true = lattice.points(400, 2, random())
    assert x.shape == (2, 10_000, 2)
    assert torch.bincount(true).tolist() == [400] * 25
    off = x - lattice.vertices[true]
    assert off.std((0, 1)).tolist() == pytest.approx([label_noise.SIGMA] * 2, rel=0.02)
    assert off.mean((0, 1)).tolist() == pytest.approx([0, 0], abs=0.01)


def test_scores_and_rules_by_hand() -> None:
    lattice = Lattice(3)
    predicted, true = torch.tensor([[0, 4, 8], [8, 4, 0]]), torch.tensor([0, 4, 0])
    assert lattice.score(predicted, true).tolist() == pytest.approx([math.sqrt(8) / 3, math.sqrt(8) / 3])
    rules = lattice.rules(lattice.vertices, 0.1)
    assert rules[MODE].tolist() == rules[MEDIAN].tolist() == list(range(9))
    # In the middle, at t = 0.9, each neighbour is likelier than the truth, and the truth is nearest to all of them.
    rules = lattice.rules(lattice.vertices, 0.9)
    assert int(rules[MODE][4]) != 4
    assert int(rules[MEDIAN][4]) == 4
    assert lattice.cost(2).max() == 1
    assert float(lattice.cost(2)[0, 1]) == pytest.approx(1 / 8)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_losses_are_what_they_say() -> None:
    lattice = Lattice(3)
    logits = torch.randn((7, 9), generator=random())
    y = torch.tensor([0, 8, 3, 3, 1, 5, 7])
    h, target = logits.softmax(-1), functional.one_hot(y, 9).float()
    assert torch.allclose(
        label_noise.loss(KL, logits, y, lattice), functional.cross_entropy(logits, y, reduction="none")
    )
    solved = barrow.solve(barrow.Problem(barrow.Dense(lattice.cost(1)), h, target)).value
    assert torch.allclose(label_noise.loss(EXACT, logits, y, lattice), solved, atol=1e-6)
    for how, p in ((FIRST, 1), (SECOND, 2)):
        linear = (h * lattice.cost(p)[:, y].T).sum(-1)
        entropy = -torch.xlogy(h, h).sum(-1)
        found = label_noise.loss(how, logits, y, lattice)
        assert torch.allclose(found, linear - label_noise.EPSILON * entropy, atol=1e-5)
    assert label_noise.linearity() < 1e-8


def test_training_learns_clean_labels() -> None:
    size = Size(noises=(0.0,), repeats=2, steps=120, batch=30, train=20, test=30)
    start = label_noise.train(KL, 3, 0.0, size, 0)
    for how in (KL, FIRST, SECOND):
        found = label_noise.train(how, 3, 0.3, size, 0)
        assert found["test"].shape == found["held"].shape == found[MODE].shape == (1, 2)
        assert float(found["test"].max()) < 0.3 < float(start["test"].min())
        assert float(found["accuracy"].min()) > 0.75


# -- claims ------------------------------------------------------------------------------------------------------------


def scored(gaps: Tensor, rule: float = 0.1) -> dict[tuple[int, str], Tensor]:
    """Scores (sides, noises) of KL at 1 and of others as much below."""
    scores: dict[tuple[int, str], Tensor] = {}
    for side, row in zip(TINY.sides, gaps, strict=True):
        each = row[:, None].expand(-1, 2)
        scores |= {(side, KL): torch.ones(2, 2), (side, EXACT): torch.ones(2, 2)}
        scores |= {(side, how): 1 - each for how in (FIRST, SECOND)}
        scores |= {(side, MODE): torch.ones(2, 2), (side, MEDIAN): torch.full((2, 2), 1 - rule)}
    return scores


def held(gaps: list[list[float]], rule: float = 0.1) -> list[bool]:
    return [claim.holds for claim in label_noise.claims(scored(torch.tensor(gaps), rule), TINY)]


def test_every_claim_can_fail() -> None:
    good = [[0.1, 0.2], [0.2, 0.4]]
    assert held(good) == [True] * 10
    # A lattice that is worse; a noise level that is; more for little noise; more for the small lattice.
    assert held([[-0.1, -0.1], [0.3, 0.5]])[:4] == [False, True, True, True]
    assert held([[0.1, -0.1], [0.3, -0.1]])[1:3] == [False, False]
    assert held([[0.2, 0.1], [0.4, 0.2]])[2] is False
    assert held([[0.2, 0.4], [0.1, 0.2]])[3] is False
    assert held([[-0.1, -0.1], [0.3, 0.5]])[4:8] == [False, True, True, True]
    assert held(good, rule=-0.1)[8] is False


def test_the_identity_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    true = barrow.label_wasserstein
    monkeypatch.setattr(barrow, "label_wasserstein", lambda *a, **k: true(*a, **k) + 1e-3)
    assert held([[0.1, 0.2], [0.2, 0.4]])[9] is False


def test_rates_are_chosen_on_held_out_points() -> None:
    first = {"held": torch.tensor([[1.0, 1.0], [3.0, 3.0]]), "test": torch.tensor([[5.0, 5.0], [6.0, 6.0]])}
    second = {"held": torch.tensor([[2.0, 2.0], [1.0, 1.0]]), "test": torch.tensor([[0.0, 0.0], [0.5, 0.5]])}
    test, rates = label_noise.chosen([first, second], [0.1, 0.2])
    assert test.tolist() == [[5, 5], [0.5, 0.5]]
    assert rates == [0.1, 0.2]


# -- the study ---------------------------------------------------------------------------------------------------------


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    whole = label_noise.run(Work(folder=tmp_path, study="label-noise", seed=3), TINY)
    parts = sorted(tmp_path.glob("*w*.ckpt"))
    for path in parts[::2]:
        path.unlink()
    work = Work(folder=tmp_path, study="label-noise", seed=3, resume=True)
    again = label_noise.run(work, TINY)
    assert 0 < work.resumed < len(work.seconds) == 2 * len(COLOURS) * 2
    assert again.numbers == whole.numbers
    other = label_noise.run(Work(seed=4), TINY)
    assert other.numbers != whole.numbers


def test_the_outcome_is_whole() -> None:
    outcome = label_noise.run(Work(), TINY)
    (table,) = outcome.tables.values()
    assert len(table.rows) == 2 * len(COLOURS)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert outcome.captions.keys() == outcome.figures.keys()
    assert len(outcome.sources) == 1
    for scores in outcome.numbers["scores"].values():
        assert torch.tensor(scores).isfinite().all()
    (figure,) = outcome.figures.values()
    assert len(figure.axes) == 3
    assert label_noise.QUICK.sides[0] < label_noise.QUICK.sides[-1]
