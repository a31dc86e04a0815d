"""Choosing a solver from the structure of the problem."""

from __future__ import annotations

import dataclasses
from typing import final

from barrow.check import Incompatible
from barrow.cost import Points, Tree
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.base import Solver, Start
from barrow.solvers.simplex import Simplex
from barrow.solvers.sinkhorn import Sinkhorn
from barrow.solvers.sort import Sort
from barrow.solvers.treeflow import TreeFlow


@final
@dataclasses.dataclass(frozen=True)
class Auto(Solver):
    """The right solver for the structure at hand: what :func:`barrow.solve` uses unless told otherwise.

    epsilon > 0: Sinkhorn. epsilon = 0: TreeFlow on a tree, Sort on a line, Simplex elsewhere.

    Args:
        tol: handed on; None leaves each solver its own (1e-9 exact, 1e-3 Sinkhorn).

    >>> barrow.Auto().select(barrow.Problem(barrow.Points(torch.zeros(3, 1), torch.ones(3, 1))))
    Sort(tol=1e-09)
    """

    tol: float | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.tol is not None:
            super().__post_init__()

    def select(self, problem: Problem) -> Solver:
        """The solver that will run."""
        kind: type[Solver]
        if problem.epsilon > 0:
            kind = Sinkhorn
        elif isinstance(problem.cost, Tree):
            kind = TreeFlow
        elif isinstance(problem.cost, Points) and problem.cost.d == 1:
            kind = Sort
        else:
            kind = Simplex
        return kind() if self.tol is None else kind(tol=self.tol)

    def rejects(self, problem: Problem) -> str | None:
        return self.select(problem).rejects(problem)

    def run(self, problem: Problem, start: Start | None) -> Witness:
        raise Incompatible("Auto only selects: run the solver that Auto().select(problem) returns")
