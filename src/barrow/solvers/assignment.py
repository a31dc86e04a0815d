"""Exact transport between equally many atoms of equal weight."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Points
from barrow.ops.assignment import assign_now
from barrow.ops.small_clouds import assignment_clouds
from barrow.plan import SparsePlan
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.base import Solver, Start, Watch, inexact, matrix, one_by_one, seconds


@final
@dataclasses.dataclass(frozen=True)
class Assignment(Solver):
    """Exact transport between n atoms and n atoms of equal weight: the cheapest permutation, in float64 on the CPU.

    Minimises sum_i C_i,s(i) over the permutations s: some optimal plan is one of them, each pair with mass 1 / n
    (Birkhoff). The choice for uniform weights and n = m up to a few thousand points, where it is several times faster
    than Simplex; other weights need Simplex. It stores the cost matrix, and CUDA inputs are copied to the host once. A
    previous solution of a similar problem is of use: its g is where the search starts.

    Args:
        max_steps: scans of one row of C at most; by default no limit, as n^2 / 2 + 42 n suffice. Running into it is a
            status with an honest bracket.
        time_limit: seconds after which the search ends, likewise; the proof comes on top. None is no limit.

    >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    >>> barrow.solve(barrow.Problem(barrow.Points(x, y)), barrow.Assignment()).plan.dense()
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])

    Source: Jonker and Volgenant, Computing 38, 1987; Crouse, IEEE Transactions on Aerospace and Electronic Systems 52,
    2016.
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
        if (reason := inexact(problem, "Assignment")) is not None:
            return reason
        n, m = problem.shape
        if n != m:
            return f"Assignment needs as many atoms on both sides, but there are {n} and {m}; use Simplex()"
        for name, w, uniform in zip("ab", (problem.a, problem.b), problem.uniform, strict=True):
            if not uniform and not _even(w):
                return f"Assignment needs weights that are all equal, but those of {name} are not; use Simplex()"
        return None

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        device, (batch, n) = problem.a.device, problem.a.shape
        cost, g = problem.cost, None if start is None else start.g.cpu()
        limits: dict[str, Any] = {
            "max_steps": self.max_steps,
            "seconds": watch.left(self.time_limit),
            "listener": watch.listener,
        }
        if (clouds := one_by_one(problem)) is not None:
            assert isinstance(cost, Points)
            solved = assignment_clouds(*clouds, cost.p, cost.norm, batch, g=g, **limits)
        else:
            C = matrix(cost).cpu()
            if C.dim() == 2:  # one cost for all: then all are one problem, unless they start from different places
                C = C.expand(1 if start is None else batch, n, n)
            solved = assign_now(C, g, **limits)
        cols, f, g, codes, steps = (t.to(device).expand(batch, *t.shape[1:]) for t in solved)
        rows = torch.arange(n, device=device).expand(batch, n)
        return Witness(SparsePlan(rows, cols, problem.a, problem.shape), f, g, codes, steps)


def _even(w: Tensor) -> bool:
    """Whether the weights of each problem are all equal."""
    return bool((w == w[..., :1]).all())
