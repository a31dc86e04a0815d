"""Choosing a solver from the structure of the problem."""

from __future__ import annotations

import dataclasses
from typing import Any, final

from barrow.check import Incompatible
from barrow.cost import Points, Tree
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.assignment import Assignment
from barrow.solvers.base import Solver, Start, Watch, seconds
from barrow.solvers.column_generation import ColumnGeneration
from barrow.solvers.simplex import Simplex
from barrow.solvers.sinkhorn import Sinkhorn
from barrow.solvers.sort import Sort
from barrow.solvers.treeflow import TreeFlow


@final
@dataclasses.dataclass(frozen=True)
class Auto(Solver):
    """The right solver for the structure at hand: what :func:`barrow.solve` uses unless told otherwise.

    epsilon > 0: Sinkhorn. epsilon = 0: TreeFlow on a tree, Sort on a line, ColumnGeneration from about 800 points on,
    Assignment below where n = m and both weights are left to be uniform, Simplex elsewhere.

    Args:
        tol: handed on; None leaves each solver its own (1e-9 exact, 1e-3 Sinkhorn).
        time_limit: handed on to solvers that iterate; closed forms have none.

    >>> barrow.Auto().select(barrow.Problem(barrow.Points(torch.zeros(3, 1), torch.ones(3, 1))))
    Sort(tol=1e-09)
    """

    tol: float | None = None  # type: ignore[assignment]
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.tol is not None:
            super().__post_init__()
        object.__setattr__(self, "time_limit", seconds(self.time_limit))

    def select(self, problem: Problem) -> Solver:
        """The solver that will run."""
        kind: type[Solver]
        if problem.epsilon > 0:
            kind = Sinkhorn
        elif isinstance(problem.cost, Tree):
            kind = TreeFlow
        elif isinstance(problem.cost, Points) and problem.cost.d == 1:
            kind = Sort
        elif _many(problem) and ColumnGeneration().rejects(problem) is None:
            kind = ColumnGeneration
        elif problem.balanced and problem.uniform == (True, True) and problem.shape[0] == problem.shape[1]:
            kind = Assignment
        else:
            kind = Simplex
        has = {field.name for field in dataclasses.fields(kind)}
        wanted = {"tol": self.tol, "time_limit": self.time_limit}
        options: dict[str, Any] = {name: x for name, x in wanted.items() if x is not None and name in has}
        return kind(**options)

    def rejects(self, problem: Problem) -> str | None:
        return self.select(problem).rejects(problem)

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        raise Incompatible("Auto only selects: run the solver that Auto().select(problem) returns")


def _many(problem: Problem) -> bool:
    """Whether there are so many pairs that a short list of them is better than all (docs/performance.md)."""
    n, m = problem.shape
    # Far from the plane few searches are long, and Assignment is fast for longer.
    spread_out = isinstance(problem.cost, Points) and problem.cost.d > 8
    even = problem.uniform == (True, True) and n == m
    return n * m > (3000 if even and spread_out else 500 if even else 800) ** 2
