"""Where a solve begins that is given a previous solution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Points
from barrow.plan import SparsePlan
from barrow.primal import detour
from barrow.problem import Problem, step
from barrow.solution import Solution
from barrow.solvers.base import Start


def begin(start: Solution, problem: Problem, flat: Problem) -> Start:
    """The witnesses of ``start`` as hints for ``problem``, whose screened and flattened form is ``flat``.

    Raises:
        ValueError: potentials of another shape that cannot be extended.
    """
    batch, (n, m) = problem.batch_shape, problem.shape
    f, g, plan = start.f.detach(), start.g.detach(), start.plan
    if f.shape == (*batch, n) and g.shape == (*batch, m):
        fits = isinstance(plan, SparsePlan) and plan.shape == (*batch, n, m)
    else:
        f, g = _extended(start, problem)
        fits = False
    f, g = (h.to(flat.a).expand(*batch, h.shape[-1]).reshape(-1, h.shape[-1]) for h in (f, g))
    f, g = _tamed(f, g, flat)
    if not fits:
        return Start(f, g)
    assert isinstance(plan, SparsePlan)
    rows, cols, mass = (t.reshape(-1, t.shape[-1]).to(f.device) for t in (plan.rows, plan.cols, plan.mass))
    return Start(f, g, SparsePlan(rows, cols, mass.to(f), (n, m)))


def _extended(start: Solution, problem: Problem) -> tuple[Tensor, Tensor]:
    """The potentials of other clouds at these points: one more block ascent, whose atoms are new.

    f(x) = -epsilon log sum_j s_j exp((g_j - c(x, y_j)) / epsilon), the c-transform at epsilon = 0.
    """
    new, old = problem.cost, start.problem
    batch, (n, m) = problem.batch_shape, problem.shape
    complaint = (
        f"start has potentials of shapes {check.shape(start.f)} and {check.shape(start.g)}, "
        f"but this problem needs {(*batch, n)} and {(*batch, m)}"
    )
    if old is None or not isinstance(new, Points) or not isinstance(old.cost, Points):
        raise ValueError(complaint)
    if (new.d, new.p, new.norm) != (old.cost.d, old.cost.p, old.cost.norm):
        raise ValueError(f"{complaint}: they extend only to clouds in the same space, with the same p and norm")
    fits = len(old.batch_shape) <= len(batch)
    if not fits or any(k not in (1, size) for k, size in zip(old.batch_shape[::-1], batch[::-1], strict=False)):
        raise ValueError(f"{complaint}: they extend only to a batch of the same shape")

    def at(t: Tensor) -> Tensor:
        return t.detach().to(new.device, torch.float64)

    x, y, u, v = (at(t) for t in (*new.tensors, *old.cost.tensors))
    found = []
    for points, others, h, weight, rho in (
        (x, v, start.g, old.measures[1], old.rho[0]),
        (y, u, start.f, old.measures[0], old.rho[1]),
    ):
        h = at(h) + (old.epsilon * at(weight).log() if old.epsilon > 0 else 0)
        soft = Points(points, others, new.p, new.norm).softmin(h, old.epsilon, -1)
        found.append(step(rho, old.epsilon, soft, 0.0))
    return found[0], found[1]


def _tamed(f: Tensor, g: Tensor, flat: Problem) -> tuple[Tensor, Tensor]:
    """Finite potentials, none larger than a solution's can be: larger numbers would swallow the cost for good."""
    low, high = (t[:, None] if t.dim() else t for t in flat.cost.limits())
    rhos = [rho for rho in flat.rho if not math.isinf(rho)]
    reach = 2 * detour(flat) * (high - low) + torch.maximum(low.abs(), high.abs()) + 64 * (flat.epsilon + sum(rhos))
    if flat.balanced:
        highest = torch.where(f.isfinite(), f, -torch.inf).amax(-1, keepdim=True)
        shift = torch.where(highest.isfinite(), highest, 0)
        f, g = f - shift, g + shift

    def within(h: Tensor) -> Tensor:
        return torch.where(h.isfinite(), h, 0).clamp(-reach, reach)

    return within(f), within(g)
