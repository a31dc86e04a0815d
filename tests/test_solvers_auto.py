import pytest
import torch

import barrow
from barrow import (
    Assignment,
    Auto,
    ColumnGeneration,
    Dense,
    Incompatible,
    Points,
    Problem,
    Simplex,
    Sinkhorn,
    Sort,
    Tree,
    TreeFlow,
)
from barrow.solvers.base import Watch
from problems import KINDS


def costs():
    return {
        "line": Points(torch.rand(4, 1), torch.rand(4, 1)),
        "plane": Points(torch.rand(4, 2), torch.rand(4, 2)),
        "oblong": Points(torch.rand(4, 2), torch.rand(5, 2)),
        "dense": Dense(torch.rand(4, 4)),
        "tree": Tree(torch.tensor([-1, 0, 0, 0, 0]), torch.ones(5)),
    }


@pytest.mark.parametrize(
    ("name", "solver"),
    [("line", Sort), ("plane", Assignment), ("dense", Assignment), ("oblong", Simplex), ("tree", TreeFlow)],
)
def test_the_structure_chooses(name, solver):
    cost = costs()[name]
    assert Auto().select(Problem(cost)) == solver()
    assert Auto().select(Problem(cost, epsilon=0.1)) == Sinkhorn()
    assert Auto().select(Problem(cost, epsilon=0.1, rho=1.0)) == Sinkhorn()
    assert Auto(tol=0.01).select(Problem(cost)) == solver(tol=0.01)
    assert Auto(tol=0.01).select(Problem(cost, epsilon=1.0)) == Sinkhorn(tol=0.01)
    s = barrow.solve(Problem(cost))
    assert s.solver == solver.__name__
    assert torch.equal(s.value, barrow.solve(Problem(cost), solver()).value)


def test_the_size_chooses():
    def chosen(n, m, d=3, weights=False, batch=()):
        x, y = torch.zeros(1).expand(*batch, n, d), torch.zeros(1).expand(*batch, m, d)
        a = torch.full((n,), 1 / n) if weights else None
        return type(Auto().select(Problem(Points(x, y), a)))

    assert chosen(400, 400) is Assignment
    assert chosen(400, 400, weights=True) is Simplex
    assert chosen(1000, 1000) is chosen(1000, 1000, weights=True) is chosen(300, 9000) is ColumnGeneration
    assert chosen(2000, 2000, d=64) is Assignment
    assert chosen(2000, 2000, d=64, weights=True) is chosen(4000, 4000, d=64) is ColumnGeneration
    assert chosen(400, 400, batch=(1000,)) is Assignment  # one matrix at a time
    assert type(Auto().select(Problem(Dense(torch.zeros(1).expand(1000, 900))))) is ColumnGeneration
    forbidden = torch.zeros(1000, 900)
    forbidden[0, 0] = torch.inf
    assert type(Auto().select(Problem(Dense(forbidden)))) is Simplex


def test_exact_unbalanced_transport_is_refused_in_words():
    problem = Problem(costs()["dense"], rho=1.0)
    assert "use Sinkhorn() with an epsilon > 0" in Auto().rejects(problem)
    with pytest.raises(Incompatible, match="balanced"):
        barrow.solve(problem)


def test_auto_does_not_run_itself_and_hands_a_start_on():
    problem = Problem(costs()["dense"], epsilon=0.1)
    with pytest.raises(Incompatible, match="Auto only selects"):
        Auto().run(problem.flatten(), None, Watch())
    s = barrow.solve(problem)
    assert barrow.solve(problem, Auto(), start=s).steps <= s.steps


def test_bad_tolerance():
    with pytest.raises(ValueError, match="tol is"):
        Auto(tol=-1)


def test_what_is_neither_a_problem_nor_a_solver():
    with pytest.raises(ValueError, match=r"solve takes a barrow\.Problem"):
        barrow.solve(torch.rand(3, 3))
    with pytest.raises(ValueError, match="must be a barrow solver"):
        barrow.solve(Problem(costs()["dense"]), "simplex")


@pytest.mark.parametrize("kind", KINDS)
def test_auto_takes_every_kind(kind):
    problem = KINDS[kind](0).problem
    assert Auto().rejects(problem) is None
    assert not isinstance(Auto().select(problem), Auto)
