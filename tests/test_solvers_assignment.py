import pytest
import torch

import barrow
from barrow import Assignment, Auto, Dense, Incompatible, Points, Problem, Simplex, SolveError, Status
from barrow.solve import attempt
from problems import F64, KINDS, Known, check_solution, check_truth_inside, cloud, solved_by_lp, uniform


def clouds(n: int, d: int = 2) -> Problem:
    return Problem(Points(cloud(n, d, seed=0), cloud(n, d, seed=1)))


def test_what_it_rejects():
    C = Dense(torch.rand(3, 3))
    for problem, words in [
        (Problem(C, epsilon=0.5), r"Assignment solves exact transport, but epsilon is 0\.5; use Sinkhorn"),
        (Problem(C, rho=(1.0, float("inf"))), r"Assignment solves balanced transport, but rho is \(1.0, inf\)"),
        (Problem(Dense(torch.rand(3, 4))), r"as many atoms on both sides, but there are 3 and 4; use Simplex\(\)"),
        (
            Problem(C, torch.tensor([0.5, 0.25, 0.25])),
            r"weights that are all equal, but those of a are not; use Simplex",
        ),
        (Problem(C, None, torch.tensor([[1.0, 1, 1], [1, 2, 0]])), "but those of b are not"),
        (Problem(C, torch.full((3,), torch.nan)), "but those of a are not"),
    ]:
        assert Assignment().rejects(problem).startswith("Assignment ")
        with pytest.raises(Incompatible, match=words):
            barrow.solve(problem, Assignment())
    assert Assignment().rejects(Problem(C)) is None
    assert Assignment().rejects(Problem(C, torch.full((3,), 0.7))) is None


@pytest.mark.parametrize("value", [-1, 2.5, "many", True])
def test_bad_limits(value):
    with pytest.raises(ValueError, match="max_steps is"):
        Assignment(max_steps=value)
    with pytest.raises(ValueError, match="time_limit is"):
        Assignment(time_limit=-1)


def test_equal_weights_that_are_given():
    C = uniform(4, 9, 9, seed=0)
    default = barrow.solve(Problem(Dense(C)), Assignment())
    w = torch.tensor([1.0, 2.5, 1e-9, 3e7], dtype=F64)[:, None].expand(4, 9)
    given = barrow.solve(Problem(Dense(C), w, w.clone()), Assignment())
    assert torch.allclose(given.value, 9 * w[:, 0] * default.value, rtol=1e-12)
    assert torch.allclose(given.plan.dense(), 9 * w[:, :, None] * default.plan.dense(), rtol=1e-12)
    assert torch.allclose(given.f, default.f, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_uniform_weights_in_low_precision(dtype):
    x, y = cloud(11, 2, seed=0).to(dtype), cloud(11, 2, seed=1).to(dtype)
    w = torch.full((11,), 1 / 11, dtype=dtype)
    for problem in (Problem(Points(x, y)), Problem(Points(x, y), w, w)):
        one, two = barrow.solve(problem, Assignment()), barrow.solve(problem, Simplex())
        assert one.value.dtype == dtype
        assert torch.equal(one.value, two.value)


def test_the_plan_is_a_permutation_and_the_gradient_its_own():
    x, y = cloud(12, 3, seed=0).requires_grad_(), cloud(12, 3, seed=1)
    s = barrow.solve(Problem(Points(x, y)), Assignment())
    assert isinstance(s.plan, barrow.SparsePlan)
    assert s.plan.mass.shape == (12,)
    assert ((s.plan.dense() > 0).sum(0) == 1).all()
    s.value.backward()
    assert torch.allclose(x.grad, 2 * (x.detach() - s.plan @ y * 12) / 12)


@pytest.mark.parametrize("limit", [0, 1, 5, 20])
def test_a_step_limit_is_told_with_an_honest_bracket(limit):
    known = solved_by_lp(Problem(Dense(uniform(25, 25, seed=0))))
    s = attempt(known.problem, Assignment(max_steps=limit))
    assert s.status is Status.step_limit
    assert s.steps <= limit
    check_truth_inside(*s.bounds, known)
    with pytest.raises(SolveError, match="certified only truth in"):
        barrow.solve(known.problem, Assignment(max_steps=limit))
    check_solution(barrow.solve(known.problem, Assignment(max_steps=1000)), known, 1e-9)


def test_a_time_limit_is_told_with_an_honest_bracket():
    known = solved_by_lp(Problem(Dense(uniform(25, 25, seed=0))))
    s = attempt(known.problem, Assignment(time_limit=1e-9))
    assert s.status is Status.time_limit
    check_truth_inside(*s.bounds, known)


def test_a_start_saves_steps_and_changes_nothing():
    problem = clouds(100)
    cold = barrow.solve(problem, Assignment())
    warm = barrow.solve(problem, Assignment(), start=cold)
    assert warm.steps < cold.steps
    check_solution(warm, Known(problem, cold.value), 1e-9)
    entropic = barrow.solve(Problem(problem.cost, epsilon=0.05), barrow.Sinkhorn(tol=0.1))
    check_solution(barrow.solve(problem, Assignment(), start=entropic), Known(problem, cold.value), 1e-9)


def test_one_cost_for_many():
    C, w = uniform(7, 7, seed=0), torch.tensor([1.0, 2.0, 3.0], dtype=F64)[:, None].expand(3, 7)
    s = barrow.solve(Problem(Dense(C), w, w), Assignment())
    alone = barrow.solve(Problem(Dense(C)), Assignment())
    assert torch.allclose(s.value, 7 * w[:, 0] * alone.value, rtol=1e-12)
    again = barrow.solve(Problem(Dense(C), w, w), Assignment(), start=s)
    assert torch.equal(again.plan.dense(), s.plan.dense())
    assert s.steps.shape == (3,)


def test_forbidden_pairs():
    C = torch.full((4, 4), torch.inf, dtype=F64)
    C[range(4), [2, 0, 3, 1]] = torch.arange(4, dtype=F64)
    s = attempt(Problem(Dense(C)), Assignment())
    assert s.status is Status.converged
    assert s.value == pytest.approx(1.5)
    C[:, 2] = torch.inf
    s = attempt(Problem(Dense(C)), Assignment())
    assert s.status is Status.infeasible


def test_faulty_problems_leave_the_others_alone():
    C = uniform(3, 6, 6, seed=0)
    C[1, 2, 3] = torch.nan
    s = attempt(Problem(Dense(C)), Assignment())
    assert s.status == [Status.converged, Status.not_finite, Status.converged]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("costs", ["ties", "plane", "signs"])
def test_it_agrees_with_the_simplex(costs, seed):
    C = {
        "ties": lambda: (4 * uniform(40, 40, seed=seed)).floor(),
        "plane": lambda: torch.cdist(cloud(40, 2, seed=seed), cloud(40, 2, seed=seed + 1)),
        "signs": lambda: uniform(40, 40, seed=seed, low=-1),
    }[costs]()
    one, two = barrow.solve(Problem(Dense(C)), Assignment()), barrow.solve(Problem(Dense(C)), Simplex())
    check_solution(one, Known(Problem(Dense(C)), two.value), 1e-9)


def test_auto_knows_when():
    problem = clouds(5)
    assert Auto().select(problem) == Assignment()
    assert Auto(tol=1e-3, time_limit=5).select(problem) == Assignment(tol=1e-3, time_limit=5)
    assert Auto().select(problem.flatten()) == Assignment()
    assert Auto().select(problem.detach(torch.float32)) == Assignment()
    assert Auto().select(Problem(Points(torch.zeros(400, 3), torch.zeros(400, 3)))) == Assignment()
    # Weights are only looked at where somebody asks for this solver.
    for other in (
        Problem(problem.cost, problem.a.clone()),
        problem.replace(b=problem.b),
        Problem(Points(cloud(4, 2, seed=0), cloud(5, 2, seed=1))),
        Problem(problem.cost, rho=1.0),
    ):
        assert isinstance(Auto().select(other), Simplex)
    assert barrow.solve(KINDS["permuted"](0).problem).solver == "Assignment"
