"""Transport on a line."""

from __future__ import annotations

import dataclasses
from typing import final

import torch

from barrow.cost import Points
from barrow.ops.line import line_plan
from barrow.plan import SparsePlan
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.base import Solver, Start, Watch, inexact


@final
@dataclasses.dataclass(frozen=True)
class Sort(Solver):
    """Exact transport between points on a line, by sorting both sides.

    The first choice whenever d = 1, for every p >= 1, with weights and n != m, in O((n + m) log(n + m)). The plan is
    the monotone coupling, a staircase of n + m - 1 arcs; the potentials are tight along it, and feasible off it because
    |x - y|^p is a Monge cost.

    >>> x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[5.0], [6.0], [8.0]])
    >>> float(barrow.solve(barrow.Problem(barrow.Points(x, y, p=1)), barrow.Sort()).value)
    5.0

    Source: Peyre and Cuturi, Computational Optimal Transport, section 2.6.
    """

    def rejects(self, problem: Problem) -> str | None:
        if not isinstance(problem.cost, Points):
            return f"Sort needs Points with d = 1, got {type(problem.cost).__name__}; use Simplex() or Sinkhorn()"
        if problem.cost.d != 1:
            return f"Sort needs Points with d = 1, got d = {problem.cost.d}; use Simplex() or Sinkhorn()"
        return inexact(problem, "Sort")

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        cost, (n, m) = problem.cost, problem.shape
        assert isinstance(cost, Points)
        x, y = cost.coordinates
        rows, cols, mass, f, g = line_plan(x[..., 0], y[..., 0], problem.a, problem.b, cost.p)
        done = torch.zeros(len(mass), dtype=torch.long, device=mass.device)
        return Witness(SparsePlan(rows, cols, mass, (n, m)), f, g, done, torch.ones_like(done))
