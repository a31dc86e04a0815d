"""Column generation from previous answers, and from nonsense: sooner, and never another answer."""

import numpy as np
import pytest
import torch

from barrow.ops.network_simplex import STEP_LIMIT
from problems import EPS, F64
from transports import CLOUDS, MATRICES, check_optimal, check_plan, dense, drawn, matrix_of, solve_one


@pytest.mark.parametrize("kind", ["square", "lattice", "far clusters", "wide", "signs"])
def test_a_start_never_changes_the_value(kind):
    a, b, cost = drawn(90, 110, ("dirichlet", "integers"), kind, 0)
    C = matrix_of(cost)
    cold = solve_one(a, b, cost)
    value, r = check_optimal(a, b, C, cold), torch.Generator().manual_seed(0)
    some = torch.randn(110, dtype=F64, generator=r)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300, -1e300, 1.7e308, 0.0]).double()
    starts = [cold.g, cold.g + 1e3, torch.zeros_like(some), some, 1e300 * some.sign(), some * torch.inf]
    starts += [odd[torch.randint(7, (110,), generator=r)], torch.full_like(some, torch.nan)]
    for start in starts:
        again = solve_one(a, b, cost, start=start)
        assert check_optimal(a, b, C, again) == pytest.approx(value, rel=1e-12, abs=32 * EPS * C.abs().max().item())


def test_potentials_of_its_own_save_steps():
    a, b, cost = drawn(800, 800, ("dirichlet", "dirichlet"), "square", 0)
    cold = solve_one(a, b, cost)
    check_optimal(a, b, matrix_of(cost), cold)
    poor = solve_one(a, b, cost, start=torch.zeros(800, dtype=F64))
    assert 2 * solve_one(a, b, cost, start=cold.g).steps < poor.steps


@pytest.mark.parametrize("kind", MATRICES + CLOUDS)
def test_from_its_own_answer_no_pivot_is_left(kind):
    for weighting in (("uniform", "uniform"), ("dirichlet", "integers"), ("peaked", "heavy")):
        a, b, cost = drawn(130, 130, weighting, kind, 0)
        cold = solve_one(a, b, cost)
        again = solve_one(a, b, cost, start=cold.g, arcs=cold[:3])
        assert again.steps == 0
        check_optimal(a, b, matrix_of(cost), again)
        assert torch.equal(dense(again, 130, 130), dense(cold, 130, 130))


@pytest.mark.parametrize("move", [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("weighting", [("uniform", "uniform"), ("dirichlet", "integers")])
def test_points_that_moved_since(move, weighting):
    for seed, (n, m) in enumerate([(150, 150), (300, 200)]):
        a, b, (x, y) = drawn(n, m, weighting, "square", seed)
        before = solve_one(a, b, (x, y))
        moved = (x + move * torch.from_numpy(np.random.default_rng(9).normal(size=x.shape)), y)
        C = matrix_of(moved)
        value = check_optimal(a, b, C, solve_one(a, b, moved))
        for cost in (moved, C):
            warm = solve_one(a, b, cost, start=before.g, arcs=before[:3])
            assert check_optimal(a, b, C, warm) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("change", [1e-9, 1e-3, 0.1, 3.0])
def test_weights_that_changed_since(change):
    a, b, cost = drawn(200, 300, ("dirichlet", "peaked"), "square", 0)
    before = solve_one(a, b, cost)
    r = np.random.default_rng(1)
    a, b = (w * torch.from_numpy(np.exp(change * r.normal(size=len(w)))) for w in (a, b))
    a[:3] = 0
    a, b = a / a.sum(), b / b.sum()
    C = matrix_of(cost)
    value = check_optimal(a, b, C, solve_one(a, b, cost))
    warm = solve_one(a, b, cost, start=before.g, arcs=before[:3])
    assert check_optimal(a, b, C, warm) == pytest.approx(value, rel=1e-12)


def test_a_small_change_leaves_few_pivots():
    a, b, (x, y) = drawn(1000, 1000, ("dirichlet", "dirichlet"), "square", 0)
    before = solve_one(a, b, (x, y))
    moved = (x + 1e-5 * torch.from_numpy(np.random.default_rng(9).normal(size=x.shape)), y)
    assert solve_one(a, b, moved, start=before.g, arcs=before[:3]).steps < 50


@pytest.mark.parametrize("kind", ["square", "lattice", "wide"])
@pytest.mark.parametrize("seed", range(4))
def test_arcs_of_nonsense_do_no_harm(kind, seed):
    pick = torch.Generator().manual_seed(seed)
    a, b, cost = drawn(90, 110, ("dirichlet", "integers"), kind, 0)
    C = matrix_of(cost)
    cold = solve_one(a, b, cost)
    value = check_optimal(a, b, C, cold)
    pool = torch.tensor([0.0, -1.0, 0.3, torch.inf, -torch.inf, torch.nan, 1e300, -1e300]).double()
    rows, cols = torch.randint(-3, 115, (2, 500), generator=pick)
    mass = pool[torch.randint(8, (500,), generator=pick)]
    rows[7], cols[8] = 2**62, -(2**62)
    true = cold[:3]
    shuffled = (true[0], true[1][torch.randperm(199, generator=pick)], true[2])
    doubled = tuple(torch.cat((t, t)) for t in true)
    half = tuple(t[::2] for t in true)
    mixed = tuple(torch.cat(pair) for pair in zip(true, (rows, cols, mass), strict=True))
    nothing = tuple(t[:0] for t in true)
    for arcs in ((rows, cols, mass), shuffled, doubled, half, mixed, nothing, (*true[:2], torch.nan * true[2])):
        for g in (None, cold.g, torch.nan * cold.g, 1e300 * cold.g.sign(), torch.zeros_like(cold.g)):
            warm = solve_one(a, b, cost, start=g, arcs=arcs)
            assert check_optimal(a, b, C, warm) == pytest.approx(value, rel=1e-12, abs=32 * EPS * C.abs().max().item())


def test_a_limit_holds_after_a_start_too():
    a, b, (x, y) = drawn(300, 300, ("dirichlet", "dirichlet"), "square", 0)
    before = solve_one(a, b, (x, y))
    moved = (x + 0.01 * torch.from_numpy(np.random.default_rng(9).normal(size=x.shape)), y)
    stopped = solve_one(a, b, moved, start=before.g, arcs=before[:3], max_steps=1)
    assert (stopped.code, stopped.steps) == (STEP_LIMIT, 1)
    check_plan(a, b, stopped)
    check_plan(a, b, solve_one(a, b, moved, start=before.g, arcs=before[:3], seconds=0.0))
