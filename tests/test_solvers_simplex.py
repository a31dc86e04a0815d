import itertools

import pytest
import torch

import barrow
from barrow import Dense, Incompatible, Points, Problem, Simplex, SolveError, Status
from barrow.solve import attempt
from problems import EPS, F64, KINDS, check_truth_inside, cloud, scale_of, solved_by_lp, uniform


def test_what_it_rejects():
    C = Dense(torch.rand(3, 3))
    with pytest.raises(Incompatible, match=r"Simplex solves exact transport, but epsilon is 0\.5; use Sinkhorn"):
        barrow.solve(Problem(C, epsilon=0.5), Simplex())
    with pytest.raises(Incompatible, match=r"Simplex solves balanced transport, but rho is \(1.0, inf\)"):
        barrow.solve(Problem(C, rho=(1.0, float("inf"))), Simplex())
    assert Simplex().rejects(Problem(C)) is None
    assert issubclass(Incompatible, ValueError)


@pytest.mark.parametrize("value", [-1, 2.5, "many", True])
def test_bad_limits(value):
    with pytest.raises(ValueError, match="max_steps is"):
        Simplex(max_steps=value)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), None])
def test_bad_tolerances(value):
    with pytest.raises(ValueError, match="tol is"):
        Simplex(tol=value)


@pytest.mark.parametrize("limit", [0, 1, 5, 20])
def test_a_step_limit_is_told_with_an_honest_bracket(limit):
    known = solved_by_lp(Problem(Dense(uniform(24, 30, seed=0))))
    with pytest.raises(SolveError, match="certified only truth in") as caught:
        barrow.solve(known.problem, Simplex(max_steps=limit))
    s = caught.value.solution
    assert s.status is Status.step_limit
    assert not s.converged
    assert s.steps == limit
    check_truth_inside(*s.bounds, known)
    plan = s.plan.dense()
    assert (plan >= 0).all()
    assert (plan.sum(1) - 1 / 24).abs().max() <= 1e-14, "never a plan of zeros"
    assert (plan.sum(0) - 1 / 30).abs().max() <= 1e-14
    assert s.value <= known.value + 1e-9
    assert "step_limit" in repr(s)


def test_more_pivots_never_raise_the_upper_bound():
    problem = Problem(Dense(uniform(12, 15, seed=0)))
    uppers = [float(attempt(problem, Simplex(max_steps=k)).bounds.upper) for k in range(0, 60, 6)]
    assert all(two <= one + 1e-12 for one, two in itertools.pairwise(uppers))


def test_a_limit_in_a_batch_stops_only_who_reaches_it():
    C = torch.stack((uniform(8, 8, seed=0), torch.zeros(8, 8, dtype=F64)))
    s = attempt(Problem(Dense(C)), Simplex(max_steps=3))
    assert s.status == [Status.step_limit, Status.converged]
    with pytest.raises(SolveError, match="problem 0 of 2"):
        barrow.solve(Problem(Dense(C)), Simplex(max_steps=3))


def test_a_loose_tolerance_accepts_what_was_reached():
    problem = Problem(Dense(1 + 0.01 * uniform(9, 9, seed=0)))
    assert attempt(problem, Simplex(max_steps=0, tol=1e-9)).status is Status.step_limit
    assert attempt(problem, Simplex(max_steps=0, tol=0.05)).status is Status.converged


def test_the_plan_is_a_basis():
    s = barrow.solve(Problem(Points(cloud(20, 2, seed=0), cloud(30, 2, seed=1))))
    assert isinstance(s.plan, barrow.SparsePlan)
    assert s.plan.mass.shape == (49,)
    assert int((s.plan.mass > 0).sum()) <= 49


def test_many_solves_agree_bit_for_bit():
    problem = Problem(Points(cloud(3, 15, 2, seed=0), cloud(3, 12, 2, seed=1)))
    one, two = barrow.solve(problem), barrow.solve(problem)
    assert torch.equal(one.value, two.value)
    assert torch.equal(one.plan.dense(), two.plan.dense())


def test_degenerate_costs():
    for C in (torch.zeros(7, 5), torch.ones(7, 5), -torch.ones(7, 5), torch.eye(6)):
        known = solved_by_lp(Problem(Dense(C.double())))
        s = barrow.solve(known.problem)
        check_truth_inside(*s.bounds, known)
        assert abs(s.value - known.value) <= 100 * EPS * max(1.0, float(scale_of(known.problem)))


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300])
def test_costs_at_the_ends_of_the_exponent_range(size):
    known = KINDS["dense_lp_zero_weights"](0)
    s = attempt(Problem(Dense(known.problem.cost.C * size), known.problem.a, known.problem.b))
    assert s.bounds.lower <= size * known.value * (1 + 1e-9)
    assert s.bounds.upper >= size * known.value * (1 - 1e-9)
    assert s.converged
