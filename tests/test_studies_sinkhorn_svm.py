"""Sinkhorn distances as kernels: a protocol that sees what is there, true measurements, claims that can fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import barrow
import barrow.sklearn
from barrow.studies import BadData, Work, sinkhorn_svm
from barrow.studies.sinkhorn_svm import GAPS, Size
from barrow.studies.sinkhorn_svm import kernels as sinkhorn_kernels
from barrow.studies.sinkhorn_svm import speed as sinkhorn_speed
from barrow.studies.sinkhorn_svm.kernels import EMD, EUCLID, FAMILIES, SINKHORN, TV

TINY = Size(images=(80, 120), exact=80, groups=2, repeats=1, bins=(12, 16), pairs=5, triples=4)


@pytest.fixture
def few_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the grid."""
    monkeypatch.setattr(sinkhorn_kernels, "WIDTHS", (0.1, 0.5))
    monkeypatch.setattr(sinkhorn_kernels, "PENALTIES", (1.0, 1e4))


def simplex(n: int, d: int, seed: int = 0) -> Tensor:
    return sinkhorn_speed.uniform_histograms(n, d, torch.Generator().manual_seed(seed))


def metric(d: int, seed: int = 0) -> Tensor:
    return sinkhorn_speed.random_metric(d, torch.Generator().manual_seed(seed))


# -- Algorithm 1 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [1.0, 10.0, 40.0])
def test_algorithm_1_finds_the_cost_of_the_entropic_plan(lam: float) -> None:
    M, (r, *others) = metric(12), simplex(6, 12)
    C = torch.stack(others)
    r[3], C[0, 2:5] = 0, 0
    r, C = r / r.sum(), C / C.sum(1, keepdim=True)
    found = sinkhorn_speed.algorithm_1(r, C, M, lam, steps=2000)
    torch.testing.assert_close(
        found.distance, barrow.sinkhorn_transport(r.expand(5, -1), C, M, epsilon=1 / lam, tol=1e-9), rtol=1e-4, atol=0
    )
    assert found.steps.tolist() == [2000] * 5


@pytest.mark.parametrize("steps", [1, 3, 20, None])
def test_algorithm_1_bounds_exact_transport_wherever_it_stops(steps: int | None) -> None:
    M, (r, *others) = metric(12), simplex(20, 12)
    C = torch.stack(others)
    exact = barrow.solve(barrow.Problem(barrow.Dense(M), r.expand(len(C), -1), C)).value
    for lam in (1.0, 10.0, 50.0):
        assert bool((sinkhorn_speed.algorithm_1(r, C, M, lam, steps=steps).lower <= exact + 1e-12).all())
    assert bool((sinkhorn_speed.algorithm_1(r, C, M, 50.0).lower > 0.6 * exact).all())


def test_iterations_are_counted_until_each_distance_stands() -> None:
    M, (r, *others) = metric(16), simplex(5, 16)
    for c, together in zip(others, sinkhorn_speed.algorithm_1(r, torch.stack(others), M, 10.0).steps, strict=True):
        values = [
            float(sinkhorn_speed.algorithm_1(r, c[None], M, 10.0, steps=k).distance)
            for k in range(1, int(together) + 1)
        ]
        changes = [abs(now / last - 1) for last, now in itertools.pairwise(values)]
        assert changes[-1] < 1e-4 <= min(changes[:-1])
        assert int(sinkhorn_speed.algorithm_1(r, c[None], M, 10.0).steps) == int(together)


def test_it_gives_up_at_the_limit() -> None:
    M, (r, c) = metric(8), simplex(2, 8)
    assert sinkhorn_speed.algorithm_1(r, c[None], M, 50.0, tol=0, limit=7).steps.tolist() == [7]


# -- random metrics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 9, 40])
def test_random_metrics_are_metrics_of_shortest_paths(d: int) -> None:
    M = metric(d)
    assert torch.equal(M, M.mT)
    assert torch.equal(M.diagonal(), torch.zeros(d).double())
    assert bool((M + torch.eye(d) > 0).all())
    assert bool((M[:, None] <= M[..., None] + M + 1e-12).all())
    assert float(M.median()) == 1
    # What is not made of two shorter ways is an edge: a graph in one piece has at least d - 1.
    through = torch.stack([M[:, k, None] + M[k] for k in range(d)])
    through[range(d), range(d)], through[range(d), :, range(d)] = math.inf, math.inf
    edges = through.amin(0) > M + 1e-12
    assert d - 1 <= int(edges.triu(1).sum()) < max(d, d * (d - 1) / 2 * 0.75)


def test_a_measurement_tells_of_every_solver() -> None:
    found = sinkhorn_speed.measure(16, 0)
    assert set(found) == {"seconds", "steps", "gaps"}
    assert all(value > 0 for value in found["seconds"].values())
    assert {"exact: barrow.Simplex", "exact: barrow.Auto", "Sinkhorn, λ = 50", "Sinkhorn, λ = 50, 64 at once"} <= set(
        found["seconds"]
    )
    assert [len(found["steps"][lam]) for lam in ("1", "10", "50")] == [64] * 3
    assert all(low > high for low, high in zip(found["gaps"]["1"], found["gaps"]["10"], strict=True))
    again = sinkhorn_speed.measure(16, 0)
    assert (again["steps"], again["gaps"]) == (found["steps"], found["gaps"])


# -- against exact transport -------------------------------------------------------------------------------------------


def test_brackets_hold_exact_transport() -> None:
    M, A, B = metric(12), simplex(4, 12), simplex(4, 12, seed=1)
    exact = sinkhorn_speed.brackets(A, B, M, math.inf)
    truth = [float(v) for v in barrow.solve(barrow.Problem(barrow.Dense(M), A, B)).value]
    assert exact["lower"] == pytest.approx(truth, rel=1e-8)
    assert exact["upper"] == pytest.approx(truth, rel=1e-8)
    for lam in (1.0, 30.0):
        found = sinkhorn_speed.brackets(A, B, M, lam)
        assert all(low <= v <= high for low, v, high in zip(found["lower"], truth, found["upper"], strict=True))
        plans = barrow.sinkhorn_transport(A, B, M, epsilon=1 / lam, tol=1e-8)
        assert found["upper"] == pytest.approx(plans.tolist(), rel=1e-3)


def test_laws_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    X = simplex(40, 9)
    found = sinkhorn_speed.laws(X, 3, seed=0, triples=4)
    assert found["batch"] <= 1e-10
    assert found["independence"] <= 1e-12
    assert -1e-3 <= found["triangle"] <= 1e-5  # the tight triangles are there
    assert found["triangles"] == 4 * len(sinkhorn_speed.ALPHAS)

    ball = barrow.sinkhorn_ball

    def squared(*args: Tensor, **options: Any) -> Tensor:
        return ball(*args, **options) ** 2

    monkeypatch.setattr(barrow, "sinkhorn_ball", squared)
    broken = sinkhorn_speed.laws(X, 3, seed=0, triples=4)
    assert broken["triangle"] > 0.1
    assert broken["independence"] > 0.01


# -- data --------------------------------------------------------------------------------------------------------------


def test_small_digits_are_histograms_as_many_of_each() -> None:
    data = sinkhorn_kernels.digits(Work(quick=True, seed=5), 100)
    assert data.X.shape == (100, 64)
    torch.testing.assert_close(data.X.sum(1), torch.ones(100).double())
    assert all(sorted(data.y[: 10 * k].tolist()) == sorted(list(range(10)) * k) for k in (1, 3, 10))
    assert len(data.X.unique(dim=0)) == 100
    assert float(data.metric.median()) == 1
    ratio = data.metric[0, 9] / data.metric[0, 1]  # a step on the diagonal
    assert float(ratio) == pytest.approx(math.sqrt(2), abs=1e-12)
    other = sinkhorn_kernels.digits(Work(quick=True, seed=6), 100)
    assert not torch.equal(data.X, other.X)


def test_given_images_are_used_without_their_margin(tmp_path: Path) -> None:
    images = np.zeros((20, 28, 28), dtype=int)
    images[:, 4:24, 4:24] = np.random.default_rng(0).integers(1, 256, (20, 20, 20))
    table = np.column_stack([images.reshape(20, -1), np.arange(20) % 10])
    path = tmp_path / "mnist_5k.csv.gz"
    np.savetxt(path, table, fmt="%d", delimiter=",")
    data = sinkhorn_kernels.digits(Work(quick=True, data=path), 20)
    assert data.side == 20
    assert "20 images" in data.source
    ink = torch.as_tensor(images[:, 4:24, 4:24].reshape(20, -1)).double()
    apart = torch.cdist(data.X, ink / ink.sum(1, keepdim=True))
    assert sorted(apart.argmin(1).tolist()) == list(range(20))
    assert float(apart.amin(1).max()) < 1e-7
    assert torch.equal(apart.argmin(1) % 10, data.y)
    with pytest.raises(BadData, match="fewer than 3 images of some digit"):
        sinkhorn_kernels.digits(Work(quick=True, data=path), 30)


def test_distances_found_in_groups_are_those_found_at_once() -> None:
    data = sinkhorn_kernels.digits(Work(quick=True), 30)
    apart = sinkhorn_kernels.distances(Work(quick=True), data, 20, 3)
    whole = sinkhorn_kernels.distances(Work(quick=True), data, 20, 1)
    assert set(apart) == {name for members in FAMILIES.values() for name in members}
    for name, D in apart.items():
        assert len(D) == (20 if name == EMD else 30)
        torch.testing.assert_close(D, whole[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(D, D.mT, rtol=1e-5, atol=1e-7)
    a, b = data.X[0], data.X[1]
    assert float(apart[EMD][0, 1]) == pytest.approx(
        float(barrow.solve(barrow.Problem(barrow.Dense(data.metric), a, b)).value), rel=1e-8
    )
    assert float(apart[f"{SINKHORN}, λ = 9"][0, 1]) == pytest.approx(
        float(barrow.sinkhorn_transport(a, b, data.metric, epsilon=1 / 9)), rel=0.05
    )
    assert float(apart[TV][0, 1]) == pytest.approx(float((a - b).abs().sum() / 2), rel=1e-12)


# -- the protocol ------------------------------------------------------------------------------------------------------


def test_kernels_are_made_positive_by_their_diagonal_alone() -> None:
    D = torch.tensor([[0.0, 5.0, 0.1], [5.0, 0.0, 0.1], [0.1, 0.1, 0.0]]).double()  # no triangle inequality
    plain = torch.exp(-D)
    assert float(torch.linalg.eigvalsh(plain)[0]) < -0.1
    K = sinkhorn_kernels.gram(D, 1.0)
    assert float(torch.linalg.eigvalsh(K)[0]) == pytest.approx(0, abs=1e-12)
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.equal(K[off], plain[off])
    line = torch.cdist(torch.arange(4.0)[:, None], torch.arange(4.0)[:, None]).double()
    assert torch.equal(sinkhorn_kernels.gram(line, 2.0), torch.exp(-line / 2))


def test_widths_are_one_and_quantiles_between_different_images() -> None:
    D = 3.0 * (1 - torch.eye(5)).double()
    assert sinkhorn_kernels.widths(D) == [1.0, 3.0, 3.0, 3.0]


def told_apart(y: Tensor) -> Tensor:
    """A distance that knows all labels."""
    return 1.0 + (y[:, None] != y).double() * 3 - torch.eye(len(y), dtype=torch.float64)


def test_the_protocol_finds_what_a_distance_knows(few_choices: None) -> None:
    y = torch.arange(10).repeat(8)
    noise = torch.rand(80, 80, generator=torch.Generator().manual_seed(0)).double()
    noise = (noise + noise.mT) / 2
    first, *rest = FAMILIES[SINKHORN]
    matrices = dict.fromkeys(FAMILIES[SINKHORN], noise) | {rest[1]: told_apart(y), TV: noise}
    found = sinkhorn_kernels.repeat(matrices, y, seed=0)
    assert len(found) == 4
    for fold in found:
        assert set(fold["errors"]) == {SINKHORN, f"{SINKHORN}, λ = 9", TV}  # what there is no matrix of is left out
        assert fold["errors"][SINKHORN] == 0
        assert fold["chosen"][SINKHORN][0] == rest[1] != first
        assert fold["errors"][TV] > 0.6


def test_a_quarter_is_trained_on_and_never_the_test(few_choices: None, monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.arange(10).repeat(8)
    seen: list[tuple[Tensor, Tensor]] = []
    own = sinkhorn_kernels.fold_errors

    def watched(matrices: Any, y: Tensor, train: Tensor, test: Tensor, seed: int) -> Any:
        seen.append((train, test))
        return own(matrices, y, train, test, seed)

    monkeypatch.setattr(sinkhorn_kernels, "fold_errors", watched)
    sinkhorn_kernels.repeat({TV: told_apart(y)}, y, seed=0)
    assert [(len(train), len(test)) for train, test in seen] == [(20, 60)] * 4
    assert sorted(torch.cat([train for train, _ in seen]).tolist()) == list(range(80))
    train, test = seen[0]
    assert not set(train.tolist()) & set(test.tolist())
    changed = y.clone()
    changed[test] = y[test].flip(0)  # labels of the test alone
    D = torch.rand(80, 80, generator=torch.Generator().manual_seed(1)).double()
    first, second = (own({TV: D + D.mT, EUCLID: told_apart(y)}, labels, train, test, 0) for labels in (y, changed))
    assert first["chosen"] == second["chosen"]
    assert first["errors"][EUCLID] == 0 < second["errors"][EUCLID]


# -- claims ------------------------------------------------------------------------------------------------------------

Given = dict[str, Any]


def ideal() -> Given:
    """Measurements of which every claim holds."""
    levels = dict.fromkeys(FAMILIES, 0.2) | {SINKHORN: 0.1, f"{SINKHORN}, λ = 9": 0.11, EMD: 0.12}
    errors = {n: {family: [e, e + 0.01, e + 0.02] for family, e in levels.items()} for n in (100, 200, 400)}
    del errors[400][EMD]
    above = dict(zip(GAPS, (1.0, 0.5, 0.3, 0.2, 0.1, 0.04, 0.01), strict=True))
    gaps = {str(lam): {"lower": [0.9, 1.8], "upper": [1 + gap, 2 + 2 * gap]} for lam, gap in above.items()}
    gaps["exact"] = {"lower": [1.0, 2.0], "upper": [1.0, 2.0]}
    speed = {d: {"steps": {"1": [3, 4], "10": [30, 40], "50": [100, 140]}} for d in (64, 128)}
    return {
        "errors": errors, "gaps": gaps, "speed": speed,
        "seen": {"batch": 1e-16, "independence": 1e-16, "triangle": -0.1, "triangles": 12},
    }  # fmt: skip


def test_all_claims_hold_of_ideal_measurements() -> None:
    found = sinkhorn_svm.claims(**ideal())
    assert [claim.holds for claim in found] == [True] * 12
    assert all(claim.measured for claim in found)


def _worse(family: str, n: int, by: float) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        given["errors"][n][family] = [e + by for e in given["errors"][n][family]]

    return change


def _gap(lam: int, side: str, value: float) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        given["gaps"][str(lam)][side][1] = value

    return change


def _steps(d: int, lam: str, value: float) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        given["speed"][d]["steps"][lam] = [value, value]

    return change


def _seen(name: str, value: float) -> Callable[[Given], None]:
    return lambda given: given["seen"].update({name: value})


@pytest.mark.parametrize(
    ("change", "fallen"),
    [
        (_worse(EMD, 200, -0.03), [0, 3]),
        (_worse(EMD, 100, -0.03), [3]),  # exact transport is compared at the largest size that it has
        (_worse(TV, 400, -0.11), [1, 3]),
        (_worse(EUCLID, 400, -0.11), [2, 3]),
        (_worse("Hellinger", 100, -0.11), [3]),
        (_gap(9, "upper", 1.9), [4, 6]),
        (_gap(9, "upper", 3.2), [4]),
        (_gap(50, "upper", 2.18), [5]),
        (_gap(25, "lower", 2.1), [6]),
        (_seen("batch", 1e-9), [7]),
        (_steps(128, "10", 60), [8]),
        (_steps(128, "10", 3), [9]),
        (_seen("independence", 1e-9), [10]),
        (_seen("triangle", 1e-4), [11]),
    ],
)
def test_wrong_measurements_refute_claims(change: Callable[[Given], None], fallen: list[int]) -> None:
    given = ideal()
    change(given)
    assert [k for k, claim in enumerate(sinkhorn_svm.claims(**given)) if not claim.holds] == fallen


def test_one_standard_error_is_allowed_and_no_more() -> None:
    given = ideal()
    own = given["errors"][200][SINKHORN]
    given["errors"][200][EMD] = [e - d for e, d in zip(own, (0.0, 0.0, 0.02), strict=True)]  # mean = one error
    assert sinkhorn_svm.claims(**given)[0].holds
    given["errors"][200][EMD] = [e - d for e, d in zip(own, (0.001, 0.001, 0.02), strict=True)]
    assert not sinkhorn_svm.claims(**given)[0].holds


# -- whole runs --------------------------------------------------------------------------------------------------------


def without_seconds(outcome: Any) -> dict[str, Any]:
    return {name: value for name, value in outcome.numbers.items() if name != "seconds"}


def test_a_run_that_was_cut_off_goes_on_to_the_same_numbers(few_choices: None, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    ticks: list[str] = []
    whole = sinkhorn_svm.run(
        Work(seed=3, quick=True, folder=folder, progress=lambda what, *_: ticks.append(what)), TINY
    )
    parts = sorted(path for path in folder.iterdir() if path.name != "run.ckpt")
    for path in parts[::2]:
        path.unlink()
    work = Work(seed=3, quick=True, folder=folder, resume=True)
    again = sinkhorn_svm.run(work, TINY)
    assert work.resumed == len(parts) // 2
    assert without_seconds(again) == without_seconds(whole)
    assert any("exact transport" in what for what in ticks)

    assert set(whole.figures) == set(whole.captions) == {"errors", "speed", "plans"}
    names = ["test error, %", "λ chosen by Sinkhorn, folds", "above exact transport", "random metrics"]
    assert list(whole.tables) == names
    assert [sum(map(int, row[1:])) for row in whole.tables[names[1]].rows] == [4, 4]
    for table in whole.tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert {row[0]: row[2] for row in whole.tables["test error, %"].rows}[EMD] == "not done above 80"
    assert len(whole.claims) == 12
    assert "barrow data mnist" in whole.sources[0]
    errors = whole.numbers["errors"]
    assert {n: len(values[SINKHORN]) for n, values in errors.items()} == {80: 4, 120: 4}
    assert all(0 <= e <= 1 for some in errors.values() for values in some.values() for e in values)
    for figure in whole.figures.values():
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 10_000
