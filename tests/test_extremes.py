"""Exact transport on degenerate input and at the ends of the scale: honest, and it always ends."""

import math

import pytest
import torch

import barrow
from barrow import Auto, BadInput, Dense, Points, Problem, Simplex, Sort, Status, Tree, TreeFlow
from barrow.screen import mass_tolerance
from barrow.solve import attempt
from problems import F64, cloud, dirichlet, lp, uniform

ONE_SIDED = [(1, 1), (1, 7), (7, 1)]


@pytest.mark.parametrize("seed", range(5))
def test_costs_of_all_scales_in_one_matrix(seed):
    """24 orders of magnitude: the dear arcs are used only where nothing else is left."""
    C = 10 ** uniform(12, 10, seed=seed, low=-12, high=12)
    a, b = dirichlet(12, seed=seed), dirichlet(10, seed=seed + 1)
    s = barrow.solve(Problem(Dense(C), a, b))
    truth, _ = lp(C, a, b)
    assert float(s.bounds.lower) <= truth + 1e-7 * float(C.max())
    assert s.bounds.gap <= 1e-12 * C.max()
    # The same at the scale of the answer: by the price that no optimal plan pays.
    cheap = C.clone()
    cheap[s.bounds.upper / min(a.min(), b.min()) < C] = math.inf
    again = attempt(Problem(Dense(cheap), a, b))
    if again.converged:
        assert again.bounds.lower <= s.bounds.upper
        assert s.bounds.lower <= again.bounds.upper


@pytest.mark.parametrize("size", [1e-300, 1e-12, 1e12, 1e300])
@pytest.mark.parametrize("holes", [False, True])
def test_costs_of_any_scale_as_a_whole(size, holes):
    C, a, b = uniform(9, 9, seed=0), dirichlet(9, seed=0), dirichlet(9, seed=1)
    if holes:
        C[uniform(9, 9, seed=5) < 0.3] = math.inf
    one, other = attempt(Problem(Dense(C), a, b)), attempt(Problem(Dense(size * C), a, b))
    assert one.status is other.status
    assert other.value / size == pytest.approx(float(one.value), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), ONE_SIDED)
def test_one_atom_on_a_side(n, m):
    a, b = dirichlet(n, seed=0), dirichlet(m, seed=1)
    C = uniform(n, m, seed=2)
    x, y = cloud(n, 1, seed=3), cloud(m, 1, seed=4)
    for cost, solvers in ((Dense(C), (Simplex(), Auto())), (Points(x, y, 1), (Simplex(), Sort(), Auto()))):
        truth = float((cost.dense() * a[:, None] * b).sum())
        for solver in solvers:
            s = barrow.solve(Problem(cost, a, b), solver)
            assert s.bounds.lower <= truth * (1 + 1e-15)
            assert truth * (1 - 1e-15) <= s.bounds.upper
            assert s.value == pytest.approx(truth, rel=1e-13)
    C[0, 0] = math.inf
    assert attempt(Problem(Dense(C), a, b)).status is Status.infeasible


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("place", [0.0, 1e-300, 1e150, -7.3])
def test_all_points_in_one_place(d, place):
    x, y = torch.full((30, d), place, dtype=F64), torch.full((20, d), place, dtype=F64)
    for solver in (Simplex(), *([Sort()] if d == 1 else [])):
        s = barrow.solve(Problem(Points(x, y, 1), dirichlet(30, seed=0), dirichlet(20, seed=1)), solver)
        assert s.value == 0
        assert s.bounds.lower == 0
        assert s.bounds.upper <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", [Simplex(), Sort(), TreeFlow()], ids=lambda s: type(s).__name__)
def test_masses_that_differ_by_rounding_are_mended_and_by_more_are_not(solver, dtype):
    tree = Tree(torch.tensor([-1, 0, 0, 0]), torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=dtype))
    cost = tree if isinstance(solver, TreeFlow) else Points(torch.rand(3, 1).to(dtype), torch.rand(3, 1).to(dtype))
    a, b = torch.tensor([0.5, 0.25, 0.25], dtype=dtype), torch.tensor([0.25, 0.25, 0.5], dtype=dtype)
    off = mass_tolerance(dtype) / 2
    s = barrow.solve(Problem(cost, a * (1 + off), b), solver)
    for factor in (1.0, 1 + off):  # either way of mending is inside
        whole = barrow.solve(Problem(cost.to(F64), factor * a.double(), factor * b.double()))
        assert s.bounds.lower <= whole.value <= s.bounds.upper
    with pytest.raises(BadInput, match="different masses"):
        barrow.solve(Problem(cost, a * (1 + 5 * off), b), solver)


def test_rows_and_columns_without_mass():
    C = uniform(8, 7, seed=0)
    a, b = dirichlet(8, seed=0), dirichlet(7, seed=1)
    a[[0, 3, 7]], b[[2, 6]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    inner = barrow.solve(Problem(Dense(C[a > 0][:, b > 0]), a[a > 0], b[b > 0]))
    C[0], C[:, 2] = math.inf, 1e300  # nobody pays
    s = barrow.solve(Problem(Dense(C), a, b))
    assert s.value == pytest.approx(float(inner.value), rel=1e-12)
    P = s.plan.dense()
    assert (P[a == 0] == 0).all()
    assert (P[:, b == 0] == 0).all()
    assert s.f.isfinite().all()
    assert s.g.isfinite().all()


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 1e-200, 1e-30, 1e-17])
def test_weights_next_to_nothing(tiny):
    a, b = torch.tensor([1.0, tiny, tiny, 0.0], dtype=F64), torch.tensor([tiny, 1.0, 0.0, tiny], dtype=F64)
    x, y = cloud(4, 1, seed=0), cloud(4, 1, seed=1)
    truth = float((x[0] - y[1]).abs())
    for solver in (Simplex(), Sort()):
        s = barrow.solve(Problem(Points(x, y, 1), a, b), solver)
        assert s.bounds.lower <= truth + 9 * tiny
        assert truth - 9 * tiny <= s.bounds.upper
        assert s.value == pytest.approx(truth, rel=1e-12)
        assert s.f.isfinite().all()


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 1e-300])
def test_weights_that_are_all_next_to_nothing(tiny):
    a, b = tiny * torch.tensor([1.0, 2.0, 3.0], dtype=F64), tiny * torch.tensor([2.0, 2.0, 2.0], dtype=F64)
    s = attempt(Problem(Dense(uniform(3, 3, seed=0)), a, b), Simplex())
    assert s.bounds.lower <= tiny * 6
    assert 0 <= s.bounds.upper <= 1e-290
    assert s.status in (Status.converged, Status.gap)


def test_short_edges_beneath_long_ones():
    """Distances in a tree are differences of long paths: the bracket knows what that costs."""
    length = torch.tensor([0.0, 0.0, 1e-9, 0.0, 0.0, 1.0, 0.0, 0.0], dtype=F64)
    tree = Tree(torch.tensor([-1, 0, 0, 1, 0, 3, 0, 0]), length)
    a, b = torch.eye(5, dtype=F64)[:2]
    for solver in (Simplex(), TreeFlow()):
        s = barrow.solve(Problem(tree, a, b), solver)
        assert s.bounds.lower <= 1e-9 <= s.bounds.upper


def test_a_value_is_never_above_its_bracket():
    """Potentials of size 1, because forbidden arcs have a price, of a problem whose value is 0."""
    C = torch.zeros(7, 6, dtype=F64)
    C[1, 5] = C[3, 5] = math.inf
    a, b = (torch.tensor(w, dtype=F64) for w in ([0, 2, 0, 4, 0, 2, 5], [0, 0, 0, 1, 5, 7]))
    s = barrow.solve(Problem(Dense(C), a, b), Simplex())
    assert s.value == s.bounds.lower == s.bounds.upper == 0


def test_ties_everywhere():
    for C in (torch.zeros(40, 40), torch.ones(40, 30), torch.eye(40), torch.arange(40.0)[:, None] + torch.arange(30.0)):
        s = barrow.solve(Problem(Dense(C.double())), Simplex())
        assert s.bounds.gap <= 1e-12 * max(1.0, float(C.max()))
