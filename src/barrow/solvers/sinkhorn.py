"""Entropic transport."""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.certify import bracket, gibbs, within
from barrow.cost import Dense, Points
from barrow.ops import pairs
from barrow.ops.sinkhorn import Aim, Sides, sinkhorn
from barrow.problem import Problem
from barrow.solution import Bracket, Status, Witness
from barrow.solvers.ascent import ascend
from barrow.solvers.base import Solver, Start, Watch, seconds
from barrow.solvers.device_search import launched, search
from barrow.solvers.opening import opening, target_error

ROUNDS = 8  # searches with ever smaller errors, until the proof says that it is enough
FINE = 3e-5  # tol: below, passes are made in double precision
NOISE = 1e-6  # errors that single precision may make up


@final
@dataclasses.dataclass(frozen=True)
class Sinkhorn(Solver):
    """Entropic transport by block ascent on the dual, in the log domain.

    The solver of every problem with epsilon > 0: balanced, unbalanced (finite rho), semi-relaxed, any reference. Memory
    is O((n + m) chunk): the cost matrix is never stored unless it is small. epsilon is annealed from the largest cost
    down to its target; then each problem of a batch sweeps, over-relaxed by what its own rate of decay allows, until
    its own certified gap is at most tol.

    Args:
        tol: the relative gap between the certified bounds.
        max_steps: full iterations (both potentials) at most. Small epsilon needs many: of the order of
            max C / epsilon.
        time_limit: seconds after which no new sweep begins; the bracket reached is honest. None is no limit.

    >>> x, y = torch.zeros(3, 2), torch.ones(4, 2)
    >>> barrow.solve(barrow.Problem(barrow.Points(x, y), epsilon=0.1), barrow.Sinkhorn(tol=1e-6)).status
    Status.converged

    Source: Cuturi 2013, Algorithm 1, in the log domain (Peyre and Cuturi, section 4.4); Chizat, Peyre, Schmitzer and
    Vialard 2018 (unbalanced); Sejourne, Vialard and Peyre 2022 (the translation step of unbalanced problems); Thibault,
    Chizat, Dossal and Papadakis 2021 (over-relaxation).
    """

    tol: float = 1e-3
    max_steps: int = 10_000
    time_limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "max_steps", check.whole("max_steps", self.max_steps))
        object.__setattr__(self, "time_limit", seconds(self.time_limit))

    def rejects(self, problem: Problem) -> str | None:
        if problem.epsilon == 0:
            return "Sinkhorn needs epsilon > 0, got 0; use Simplex() for exact transport, or choose an epsilon"
        return None

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        if launched(problem):
            return search(problem, start, watch, self.tol, self.max_steps, self.time_limit)
        data = _swept(problem)
        if isinstance(problem.cost, Dense) and problem.cost.kernel(len(problem.a), problem.epsilon) is not None:
            # Cuturi's many histograms against one kernel: products of matrices, which need no annealing.
            start = start or Start(torch.zeros_like(problem.a), torch.zeros_like(problem.b))
            data = None
        if data is None:
            return ascend(problem, start, watch, self.tol, self.max_steps, self.time_limit)
        return self._search(problem, data, start, watch)

    def _search(self, problem: Problem, data: _Data, start: Start | None, watch: Watch) -> Witness:
        """Searches of the core, each judged by the certificate, until it is content with all problems."""
        B, (r, s), symmetric = len(problem.a), problem.measures, problem.symmetric
        first = opening(problem)
        g, begin = first.g, first.epsilon
        if start is not None or symmetric:
            g, begin = (start.g if start is not None else torch.zeros_like(problem.b)), torch.zeros_like(first.epsilon)
        error, tol = (torch.full_like(first.epsilon, t) for t in (target_error(self.tol), self.tol))
        f, steps = torch.zeros_like(problem.a), torch.zeros(B, dtype=torch.long)
        codes, proof = torch.full((B,), Status.step_limit.code), None
        fine = tol < FINE
        data, unit = _in_range(data, problem)
        active = torch.arange(B)
        for _ in range(ROUNDS):
            left = self.max_steps - int(steps[active].max()) if len(active) else 0
            if left <= 0:
                break
            for double in (False, True):
                chosen = active[fine[active] == double]
                if not len(chosen):
                    continue
                found = sinkhorn(
                    _select(data, chosen, B),
                    Sides(problem.a[chosen], problem.b[chosen], r[chosen], s[chosen], _times(problem.rho, 1 / unit)),
                    problem.epsilon / unit,
                    g[chosen] / unit,
                    Aim(begin[chosen] / unit, error[chosen], tol[chosen], first.mean_cost[chosen] / unit, left),
                    symmetric=symmetric,
                    fine=double,
                    seconds=watch.left(self.time_limit),
                    listener=watch.listener,
                )
                f, g = f.index_copy(0, chosen, found.f * unit), g.index_copy(0, chosen, found.g * unit)
                steps = steps.index_add(0, chosen, found.steps)
                codes[chosen] = found.code.masked_fill(found.code == 0, Status.step_limit.code)
                error[chosen] = torch.minimum(error[chosen], found.error)
            part = bracket(problem if len(active) == B else problem.select(active), None, f[active], g[active])
            pieces = part if proof is None else (t.index_copy(0, active, u) for t, u in zip(proof, part, strict=True))
            proof = Bracket(*pieces)
            done = within(part, self.tol, torch.float64)
            gap = (part.upper - part.lower) / part.upper.abs().clamp_min(torch.finfo(f.dtype).tiny)
            watch.tell("passes", int(steps.max()), gap=float(gap.max()), now=True)
            late = bool((codes[active] == Status.time_limit.code).any())
            codes[active[done]] = 0
            # The gap is at most proportional to the error: ask for so much less.
            less = (0.3 * self.tol / gap).nan_to_num(nan=0.1).clamp(0.01, 0.5)
            error[active], tol[active] = less * error[active], less * tol[active]
            fine = fine | (error < NOISE)
            begin = torch.zeros_like(begin)
            active = active[~done]
            if late or not len(active):
                break
        return Witness(gibbs(problem, f, g), f, g, codes, steps, proof)


_Data = tuple[Tensor, Tensor, float, float] | Tensor


def _swept(problem: Problem) -> _Data | None:
    """What the core needs of a cost, where it knows it."""
    cost = problem.cost
    if isinstance(cost, Points) and cost.dtype == torch.float64 and pairs.swept(cost.x, cost.y) and cost.p <= 32:
        return cost.x, cost.y, cost.p, cost.norm
    if isinstance(cost, Dense) and cost.dtype == torch.float64 and pairs.swept(cost.C) and not cost.forbids:
        return cost.C if cost.C.dim() == 3 else cost.C[None]
    return None


def _select(data: _Data, index: Tensor, size: int) -> _Data:
    """The costs of some problems of a batch."""
    if len(index) == size:
        return data
    if isinstance(data, Tensor):
        return data[index] if len(data) > 1 else data
    x, y, p, norm = data
    return (x[index] if x.dim() == 3 else x), (y[index] if y.dim() == 3 else y), p, norm


def _in_range(data: _Data, problem: Problem) -> tuple[_Data, float]:
    """The costs in a unit in which neither they nor their squares leave the range of a float, and that unit."""
    low, high = problem.cost.limits()
    largest = float(torch.maximum(low.abs(), high.abs()).max()) if len(problem.a) else 1.0
    if 1e-15 < largest < 1e15 or not 0 < largest < math.inf:
        return data, 1.0
    unit = 2.0 ** round(math.log2(largest))
    if isinstance(data, Tensor):
        return data / unit, unit
    x, y, p, norm = data
    scale = unit ** (1 / p)
    return (x.double() / scale, y.double() / scale, p, norm), unit


def _times(rho: tuple[float, float], factor: float) -> tuple[float, float]:
    return rho[0] * factor, rho[1] * factor
