"""Transport on a line."""

from __future__ import annotations

import dataclasses
from typing import final

import torch

from barrow.cost import Points
from barrow.ops.staircase import in_units, staircase, staircase_potentials
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
        B = problem.a.shape[0]
        x, x_order = cost.x[..., 0].expand(B, n).sort(-1)
        y, y_order = cost.y[..., 0].expand(B, m).sort(-1)
        a, b, unit = in_units(problem.a.gather(-1, x_order), problem.b.gather(-1, y_order))
        path = staircase(a, b)

        xs, ys = x.gather(-1, path.rows), y.gather(-1, path.cols)
        here = (xs - ys).abs().pow(cost.p)
        right = (xs[:, :-1] - ys[:, 1:]).abs().pow(cost.p) - here[:, :-1]
        down = (xs[:, 1:] - ys[:, :-1]).abs().pow(cost.p) - here[:, :-1]
        f, g = staircase_potentials(path, right, down, n, m)
        g = g + here[:, :1]  # tight at the first cell, where f is 0

        plan = SparsePlan(x_order.gather(-1, path.rows), y_order.gather(-1, path.cols), path.mass * unit, (n, m))
        f = torch.empty_like(f).scatter_(-1, x_order, f)
        g = torch.empty_like(g).scatter_(-1, y_order, g)
        done = torch.zeros(B, dtype=torch.long, device=f.device)
        return Witness(plan, f, g, done, torch.ones_like(done))
