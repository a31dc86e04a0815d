"""Exact transport between large clouds."""

from __future__ import annotations

import dataclasses
from typing import final

from torch import Tensor

from barrow import check
from barrow.cost import Cost, Dense, Grid, Points
from barrow.ops.column_generation import Lattice, column_generation
from barrow.plan import SparsePlan
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.base import Solver, Start, Watch, inexact, seconds


@final
@dataclasses.dataclass(frozen=True)
class ColumnGeneration(Solver):
    """Exact transport by the network simplex on a short list of arcs that grows, in memory O(n + m).

    The choice for clouds of about a thousand points and more, to a hundred thousand and beyond, in any dimension: it
    never stores the cost matrix of Points, and it is an order of magnitude faster than Simplex there. Below, Simplex
    and Assignment are faster. On a Grid at p = 2 a sweep is one along each axis, which makes images its strength; other
    p go by way of the pixels' coordinates. Matrices are taken too. CUDA inputs are copied to the host once. Given a
    start, the solution of a similar problem, it goes on from there as far as that is worth it: from its own solution
    one sweep is left to do, and points that moved by a hundredth of their spread take a quarter to a half of the time.

    Args:
        max_steps: pivots at most; by default a bound that no sound problem reaches. Running into it is a status with an
            honest bracket.
        time_limit: seconds after which the search ends, likewise; the proof comes on top. None is no limit.

    >>> x = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
    >>> barrow.solve(barrow.Problem(barrow.Points(x, x + 1)), barrow.ColumnGeneration()).value
    tensor(3.)

    Source: Schmitzer 2016 (short lists); Goldberg and Tarjan 1990 (cost scaling); Cunningham 1976 (feasible trees).
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
        cost = problem.cost
        if not isinstance(cost, Points | Grid | Dense):
            return f"ColumnGeneration needs Points, Grid or Dense, got {type(cost).__name__}; use Simplex()"
        if isinstance(cost, Points | Grid) and cost.p > 32:
            return f"ColumnGeneration sweeps in single precision, too narrow for p = {cost.p:g}; use Simplex()"
        if isinstance(cost, Dense) and cost.forbids:
            return "ColumnGeneration needs finite costs, but some arcs are forbidden; use Simplex()"
        return inexact(problem, "ColumnGeneration")

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        device = problem.a.device
        plan = None if start is None else start.plan
        data, p, norm = _swept(problem.cost)
        solved = column_generation(
            problem.a.cpu(),
            problem.b.cpu(),
            data,
            p,
            norm,
            start=None if start is None else start.g.cpu(),
            arcs=None if plan is None else (plan.rows.cpu(), plan.cols.cpu(), plan.mass.cpu()),
            max_steps=self.max_steps,
            seconds=watch.left(self.time_limit),
            listener=watch.listener,
        )
        rows, cols, mass, f, g, codes, steps = (t.to(device) for t in solved)
        return Witness(SparsePlan(rows, cols, mass, problem.shape), f, g, codes, steps)


def _swept(cost: Cost) -> tuple[tuple[Tensor, Tensor] | Tensor | Lattice, float, float]:
    """What the sweeps take, on the host, with the exponent and the norm."""
    if isinstance(cost, Grid):
        if cost.separable:
            return Lattice(cost.sides, cost.weights), 2, 2
        pixels = cost.pixels().cpu()[None]
        return (pixels, pixels), cost.p, 2
    tensors = cost.coordinates if isinstance(cost, Points) else cost.tensors
    data = [(t if cost.batch_shape else t[None]).cpu() for t in tensors]
    return ((data[0], data[1]), cost.p, cost.norm) if isinstance(cost, Points) else (data[0], 2, 2)
