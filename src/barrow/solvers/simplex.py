"""Exact transport for any cost."""

from __future__ import annotations

import dataclasses
from typing import Any, final

from barrow import check
from barrow.cost import Points
from barrow.ops.network_simplex import solve_now
from barrow.ops.small_clouds import simplex_clouds
from barrow.plan import SparsePlan
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.base import Solver, Start, Watch, inexact, matrix, one_by_one, seconds


@final
@dataclasses.dataclass(frozen=True)
class Simplex(Solver):
    """Exact transport for any cost by the network simplex, in float64 on the CPU.

    The choice for exact values, plans and potentials up to a few thousand points: it stores the cost matrix. CUDA
    inputs are copied to the host once. Prefer Sort on a line and TreeFlow on a tree. Given a start, it begins at the
    start's plan as far as that fits, and goes on greedily under its potentials.

    Args:
        max_steps: pivots at most; by default a bound that no sound problem reaches. Running into it is a status with an
            honest bracket, never a plan of zeros.
        time_limit: seconds after which the pivots end, likewise; the proof comes on top. None is no limit.

    >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    >>> barrow.solve(barrow.Problem(barrow.Points(x, y)), barrow.Simplex()).plan.dense()
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])

    Source: Peyre and Cuturi, Computational Optimal Transport, section 3.5; Cunningham 1976 (strongly feasible trees).
    """

    max_steps: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is not None:
            object.__setattr__(self, "max_steps", check.whole("max_steps", self.max_steps, least=0))
        object.__setattr__(self, "time_limit", seconds(self.time_limit))

    @property
    def on_host(self) -> bool:
        return True

    def rejects(self, problem: Problem) -> str | None:
        return inexact(problem, "Simplex")

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        device, cost = problem.a.device, problem.cost
        a, b = problem.a.cpu(), problem.b.cpu()
        plan = None if start is None else start.plan
        g = None if start is None else start.g.cpu()
        arcs = None if plan is None else (plan.rows.cpu(), plan.cols.cpu(), plan.mass.cpu())
        limits: dict[str, Any] = {
            "max_steps": self.max_steps,
            "seconds": watch.left(self.time_limit),
            "listener": watch.listener,
        }
        if (clouds := one_by_one(problem)) is not None:
            assert isinstance(cost, Points)
            solved = simplex_clouds(*clouds, cost.p, cost.norm, a, b, g=g, arcs=arcs, **limits)
        else:
            C = matrix(cost).cpu().expand(len(a), *problem.shape)
            solved = solve_now(a, b, C, g=g, arcs=arcs, **limits)
        rows, cols, mass, f, g, codes, steps = (t.to(device) for t in solved)
        return Witness(SparsePlan(rows, cols, mass, problem.shape), f, g, codes, steps)
