"""Column generation against linear programming, the assignment problem, and the simplex on the whole matrix."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from barrow.ops.column_generation import column_generation
from barrow.ops.network_simplex import OPTIMAL, STEP_LIMIT, TIME_LIMIT, SimplexResult, network_simplex
from barrow.ops.pairs import distances
from problems import EPS, F64, lp
from transports import CLOUDS, GROUNDS, MATRICES, WEIGHTS, check_optimal, check_plan, drawn, matrix_of, solve_one

# -- against others ----------------------------------------------------------------------------------------------------

small = st.builds(
    drawn,
    st.integers(1, 12),
    st.integers(1, 12),
    st.tuples(st.sampled_from(WEIGHTS), st.sampled_from(WEIGHTS)),
    st.sampled_from(MATRICES + CLOUDS),
    st.integers(0, 2**31),
)


@settings(max_examples=300)
@given(small, st.sampled_from(GROUNDS))
def test_agrees_with_linear_programming(problem, ground):
    a, b, cost = problem
    C = matrix_of(cost, *ground)
    value = check_optimal(a, b, C, solve_one(a, b, cost, *ground))
    # The oracle is blind to masses below 1e-7; the potentials above are the sharp eye.
    assert value == pytest.approx(lp(C, a, b)[0], rel=1e-6, abs=1e-6 * C.abs().max().item())


@pytest.mark.parametrize("kind", MATRICES + CLOUDS)
def test_agrees_with_the_assignment_problem(kind):
    for n in (*range(1, 8), 19, 33, 64, 65, 150):
        a, b, cost = drawn(n, n, ("uniform", "uniform"), kind, n)
        ground = GROUNDS[n % 12]
        C = matrix_of(cost, *ground)
        best = C.numpy()[linear_sum_assignment(C.numpy())].mean().item()
        value = check_optimal(a, b, C, solve_one(a, b, cost, *ground))
        assert value == pytest.approx(best, rel=1e-12, abs=32 * EPS * C.abs().max().item())


SHAPES = [(1, 1), (1, 300), (300, 1), (2, 70), (63, 65), (130, 127), (300, 400), (400, 40)]


@pytest.mark.parametrize("kind", MATRICES + CLOUDS)
def test_agrees_with_the_simplex_on_the_matrix(kind):
    mixes = itertools.cycle(itertools.product(WEIGHTS, WEIGHTS))
    for k, (n, m) in enumerate(SHAPES):
        for _ in range(2):
            a, b, cost = drawn(n, m, next(mixes), kind, k)
            ground = GROUNDS[(5 * k + n) % 12]
            C = matrix_of(cost, *ground)
            value = check_optimal(a, b, C, solve_one(a, b, cost, *ground))
            full = SimplexResult(*(t[0] for t in network_simplex(a[None], b[None], C[None])))
            expected = (C[full.rows, full.cols] * full.mass).sum().item()
            assert value == pytest.approx(expected, rel=1e-12, abs=32 * EPS * C.abs().max().item())


@pytest.mark.parametrize(
    ("kind", "weighting"),
    [*itertools.product(["normal", "square", "twins"], WEIGHTS), ("lattice", "dirichlet"), ("far clusters", "uniform")],
)
def test_problems_that_are_made_coarse(kind, weighting):
    a, b, cost = drawn(1010, 1050, (weighting, "dirichlet"), kind, 0)
    C = matrix_of(cost)
    value = check_optimal(a, b, C, solve_one(a, b, cost))
    assert check_optimal(a, b, C, solve_one(a, b, C)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("p", [1, 2, 7, 32])
def test_powers(p):
    a, b, cost = drawn(80, 90, ("dirichlet", "integers"), "square", 3)
    for norm in (1, 2, math.inf):
        check_optimal(a, b, matrix_of(cost, p, norm), solve_one(a, b, cost, p, norm))


def test_points_that_stay_where_they_are():
    r = np.random.default_rng(0)
    x, w = torch.from_numpy(r.normal(size=(200, 3))), torch.from_numpy(r.dirichlet(np.ones(200)))
    for p in (1, 2):
        assert check_optimal(w, w, distances(x, x, p, 2), solve_one(w, w, (x, x), p)) == 0
        moved = solve_one(w, w, (x, x + 1), p, 1)
        assert check_optimal(w, w, distances(x, x + 1, p, 1), moved) == pytest.approx(3.0**p)


@pytest.mark.parametrize("size", [1e-100, 1e-12, 1e12, 1e100])
@pytest.mark.parametrize("mass", [1e-12, 1.0, 1e12])
def test_scales(size, mass):
    a, b, (x, y) = drawn(40, 50, ("peaked", "dirichlet"), "square", 0)
    value = check_optimal(a, b, distances(x, y, 2, 2), solve_one(a, b, (x, y)))
    x, y, a, b = size * x, size * y, mass * a, mass * b
    C = distances(x, y, 2, 2)
    assert check_optimal(a, b, C, solve_one(a, b, (x, y))) == pytest.approx(mass * value * size**2, rel=1e-12)
    assert check_optimal(a, b, C, solve_one(a, b, C)) == pytest.approx(mass * value * size**2, rel=1e-12)


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e160, 1e200])
def test_costs_beyond_the_range_of_doubles(size):
    a, b, (x, y) = drawn(30, 20, ("peaked", "dirichlet"), "square", 0)
    for p in (1, 2):
        check_plan(a, b, solve_one(a, b, (size * x, size * y), p))


def test_no_weight_at_all_and_empty_batches():
    zero, C = torch.zeros(3, dtype=F64), torch.rand(3, 3, dtype=F64) - 0.5
    assert check_optimal(zero, zero, C, solve_one(zero, zero, C)) == 0
    empty = column_generation(zero[:0].view(0, 3), zero[:0].view(0, 4), torch.empty(0, 3, 4, dtype=F64))
    assert empty.rows.shape == (0, 6)
    empty = column_generation(*(zero[:0].view(0, 3),) * 2, (torch.empty(0, 3, 2, dtype=F64),) * 2)
    assert empty.code.shape == (0,)


# -- limits ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(small, st.integers(0, 10))
def test_an_early_stop_still_gives_a_plan(problem, limit):
    a, b, cost = problem
    result = solve_one(a, b, cost, max_steps=limit)
    assert result.steps <= limit
    assert result.code in (OPTIMAL, STEP_LIMIT)
    check_plan(a, b, result)
    C = matrix_of(cost)
    if result.code == OPTIMAL:
        check_optimal(a, b, C, result)
    value = (C[result.rows, result.cols] * result.mass).sum().item()
    assert value >= lp(C, a, b)[0] - 1e-6 * C.abs().max().item()


def test_the_limits_are_reported():
    a, b, cost = drawn(300, 300, ("dirichlet", "dirichlet"), "square", 0)
    zero = torch.zeros(300, dtype=F64)  # a poor start
    steps = solve_one(a, b, cost, start=zero).steps.item()
    assert steps > 1
    for limit in (0, 1, steps - 1):
        result = solve_one(a, b, cost, start=zero, max_steps=limit)
        assert (result.code, result.steps) == (STEP_LIMIT, limit)
        check_plan(a, b, result)
    assert solve_one(a, b, cost, start=zero, max_steps=steps).code == OPTIMAL


@pytest.mark.parametrize("kind", ["square", "normal"])
def test_no_time_at_all(kind):
    a, b, cost = drawn(700, 600, ("dirichlet", "dirichlet"), kind, 0)
    result = solve_one(a, b, cost, seconds=0.0)
    assert result.code == TIME_LIMIT
    check_plan(a, b, result)
    a, b, cost = drawn(5, 4, ("dirichlet", "dirichlet"), kind, 0)
    check_plan(a, b, solve_one(a, b, cost, seconds=0.0))


def test_what_a_listener_hears_and_throws():
    a, b, cost = drawn(900, 900, ("dirichlet", "dirichlet"), "square", 0)
    heard: list[tuple[str, int, int]] = []
    solve_one(a, b, cost, listener=lambda *word: heard.append(word))
    assert heard
    assert {stage for stage, _, _ in heard} <= {"annealing", "scaling", "pivots", "arcs"}
    assert all(done >= 0 and (total == -1 or done <= total) for _, done, total in heard)

    def bored(*word: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        solve_one(a, b, cost, listener=bored)
    heard.clear()
    a, b, C = drawn(5, 5, ("uniform", "uniform"), "normal", 0)
    column_generation(a.expand(3, 5), b.expand(3, 5), C[None], listener=lambda *word: heard.append(word))
    assert heard[-1] == ("problems", 3, 3)


# -- batches, threads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_is_a_loop(threads):
    r = np.random.default_rng(0)
    a, b = (torch.from_numpy(r.dirichlet(np.ones(k), 7)) for k in (60, 70))
    x, y = (torch.from_numpy(r.normal(size=(7, k, 3))) for k in (60, 70))
    C, start = distances(x, y, 1, 2), torch.from_numpy(r.normal(size=(7, 70)))
    loops = [solve_one(a[k], b[k], (x[k], y[k]), 1) for k in range(7)]
    matrices = [solve_one(a[k], b[k], C[k], start=start[k]) for k in range(7)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = column_generation(a, b, (x, y), 1)
        of_matrices = column_generation(a, b, C, start=start)
        again = column_generation(a, b, (x, y), 1, start=batch.g, arcs=batch[:3])
    finally:
        torch.set_num_threads(before)
    assert (again.steps == 0).all()
    for k in range(7):
        assert all(torch.equal(one, many[k]) for one, many in zip(loops[k], batch, strict=True))
        assert all(torch.equal(one, many[k]) for one, many in zip(matrices[k], of_matrices, strict=True))


def test_clouds_and_matrices_may_be_shared():
    r = np.random.default_rng(0)
    a, b = (torch.from_numpy(r.dirichlet(np.ones(k), 4)) for k in (20, 30))
    x, y = (torch.from_numpy(r.normal(size=(1, k, 2))) for k in (20, 30))
    many = (x.expand(4, 20, 2), y.repeat(4, 1, 1))
    for one, other in (((x, y), many), ((x, many[1]), many), (distances(x, y, 2, 2), distances(*many, 2, 2))):
        assert all(map(torch.equal, column_generation(a, b, one), column_generation(a, b, other)))
    turned = distances(y, x, 2, 2).mT
    assert all(map(torch.equal, column_generation(a, b, turned), column_generation(a, b, turned.contiguous())))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["square", "twins", "normal"])
def test_answers_of_several_threads_are_optimal(kind, threads):
    a, b, cost = drawn(1100, 1200, ("dirichlet", "uniform"), kind, 1)
    C = matrix_of(cost)
    alone = check_optimal(a, b, C, solve_one(a, b, cost))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = solve_one(a, b, cost)
    finally:
        torch.set_num_threads(before)
    assert check_optimal(a, b, C, result) == pytest.approx(alone, rel=1e-12, abs=32 * EPS * C.abs().max().item())


def test_shapes_that_do_not_fit_are_refused():
    w, x = torch.full((2, 4), 0.25, dtype=F64), torch.zeros(1, 4, 3, dtype=F64)
    for bad, words in [
        ((x, x[..., :2]), "same dimension"),
        ((x, x[:, :3]), "one weight for every point"),
        ((x.repeat(3, 1, 1), x), "do not fit the batch"),
        (torch.zeros(1, 4, 5, dtype=F64), "cost needs the shape"),
        (torch.zeros(3, 4, 4, dtype=F64), "cost needs the shape"),
    ]:
        with pytest.raises(ValueError, match=words):
            column_generation(w, w, bad)
    with pytest.raises(ValueError, match="g of the start needs the shape"):
        column_generation(w, w, (x, x), start=w[:1])
    none = torch.zeros(2, 3, dtype=torch.int64)
    for rows, cols, mass in ((none, none[:1], w[:, :3]), (none, none, w), (none[:1], none[:1], w[:1, :3])):
        with pytest.raises(ValueError, match="rows, cols and mass of the start need"):
            column_generation(w, w, (x, x), start=w, arcs=(rows, cols, mass))
