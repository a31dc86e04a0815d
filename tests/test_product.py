"""Every solver on every kind of problem: the same demands for all."""

import pytest
import torch
from hypothesis import given, settings

import barrow
from barrow import Assignment, Auto, ColumnGeneration, Incompatible, Simplex, Sinkhorn, Solver, Sort, TreeFlow
from problems import KINDS, check_solution, small_entropic, small_lps

# A new solver is one line here; a new kind of problem is one function under @kind in problems.py.
SOLVERS: list[Solver] = [
    Simplex(),
    Assignment(),
    ColumnGeneration(),
    Sort(),
    TreeFlow(),
    Sinkhorn(),
    Sinkhorn(tol=1e-7),
    Auto(),
]
SEEDS = [0, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_every_solver_on_every_kind(solver, kind):
    for seed in SEEDS:
        known = KINDS[kind](seed)
        runs = solver.select(known.problem)
        if solver.rejects(known.problem) is not None:
            assert not isinstance(solver, Auto)
            with pytest.raises(Incompatible, match=f"^{type(solver).__name__} "):
                barrow.solve(known.problem, solver)
        else:
            check_solution(barrow.solve(known.problem, solver), known, runs.tol)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_no_solver_escapes_by_rejecting_everything(solver):
    accepted = [name for name, draw in KINDS.items() if solver.rejects(draw(0).problem) is None]
    assert len(accepted) >= 3, accepted


@given(small_lps())
@settings(max_examples=60)
def test_simplex_on_awkward_problems(known):
    check_solution(barrow.solve(known.problem), known, 1e-9)


@given(small_entropic())
@settings(max_examples=40)
def test_sinkhorn_on_the_whole_family(known):
    check_solution(barrow.solve(known.problem, Sinkhorn(tol=1e-6)), known, 1e-6)


def test_leading_dimensions_of_any_depth_and_of_no_problems():
    x, y = torch.rand(2, 1, 3, 4, 2), torch.rand(5, 1, 6, 2)
    problem = barrow.Problem(barrow.Points(x, y, p=1), torch.full((4,), 0.25))
    solution = barrow.solve(problem)
    assert solution.value.shape == (2, 5, 3)
    assert solution.plan.shape == (2, 5, 3, 4, 6)
    for i, j, k in [(0, 0, 0), (1, 4, 2)]:
        alone = barrow.solve(barrow.Problem(barrow.Points(x[i, 0, k], y[j, 0], p=1))).value
        assert torch.allclose(alone, solution.value[i, j, k])
    for epsilon in (0.0, 0.1):
        empty = barrow.solve(barrow.Problem(barrow.Points(torch.rand(0, 4, 2), torch.rand(0, 5, 2)), epsilon=epsilon))
        assert empty.value.shape == (0,)
        assert empty.f.shape == (0, 4)
