"""Barycenters of clouds whose places are free."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Points
from barrow.functional.common import ConvergenceWarning
from barrow.plan import DensePlan, Plan, SparsePlan
from barrow.problem import Problem
from barrow.solution import BadInput, Solution, Status
from barrow.solve import attempt, failure, refuse_faults
from barrow.solvers.auto import Auto
from barrow.solvers.base import Progress, Watch

NEAR = 1e-6  # of the diameter: two points nearer than this have a distance of this, where p < 2 divides by it
ENTROPIC = 1e-4  # tol at least where epsilon > 0: entropic plans of more digits take many sweeps


def free_barycenter(
    clouds: Tensor,
    weights: Tensor | None = None,
    masses: Tensor | None = None,
    *,
    n: int,
    p: float = 2,
    epsilon: float = 0.0,
    start: Tensor | None = None,
    tol: float = 1e-6,
    max_steps: int = 100,
    progress: Callable[[Progress], object] | None = None,
) -> Tensor:
    """Barycenter of clouds as n points of equal weight that may lie anywhere.

        min over y of  F(y) = sum_k w_k V(y, x_k),   V = min over couplings P of  sum P_ij |y_i - x_kj|^p
                                                           + epsilon KL(P | uniform x mass)

    Choose it where no grid holds the points: in many dimensions, for few points. F is not convex in y: this is a point
    that no further transport improves, and for two clouds of n points each the barycenter itself. Transport to all
    clouds and moving each point to the mean of what it is sent to alternate; F never rises. epsilon = 0 takes the exact
    plans.

    Args:
        clouds: x_k, (..., k, m, d).
        weights: w_k >= 0 (..., k), of which only the ratios count; equal unless given.
        masses: of the points of the clouds, (..., k, m), uniform unless given; only the ratios within a cloud count.
            Zeros are legal, which is how clouds of different size are padded.
        n: how many points the barycenter has.
        p: exponent, from 1 (a median) to 2 (a mean).
        epsilon: entropy, in units of |x - y|^p; 0 is exact transport.
        start: y to begin with (..., n, d); points of the cloud of largest weight, evenly drawn, unless given.
        tol: the step ends that lowers F, whose every value is certified by its solver, by at most this share; 1e-4 at
            least where epsilon > 0. That is a measurement: F may be far from its minimum.
        max_steps: transports to all clouds at most.
        progress: called with a :class:`barrow.Progress` a few times a second, as by :func:`barrow.solve`.

    Returns:
        (..., n, d), of weight 1/n each. Not differentiable.

    Raises:
        ValueError: shapes that do not fit, p outside [1, 2], epsilon < 0, NaN, negative masses, an argument that
            requires grad.

    Warns:
        ConvergenceWarning: max_steps was reached before tol, or a transport was not certified.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> free_barycenter(torch.stack([x, x + torch.tensor([2.0, 4.0])]), n=2)
    tensor([[1., 2.],
            [2., 2.]])

    Source: Cuturi and Doucet 2014, Algorithm 2; Alvarez-Esteban, del Barrio, Cuesta-Albertos and Matran 2016.
    """
    x, w, a, batch = _asked(clouds, weights, masses)
    n, p = check.whole("n", n), check.exponent("p", p)
    if p > 2:
        raise ValueError(f"p is {p:g}, but points are moved by weighted means, which lower F for p in [1, 2] only")
    epsilon = check.number("epsilon", epsilon)
    tol, max_steps = check.positive("tol", tol), check.whole("max_steps", max_steps)
    if epsilon > 0:
        tol = max(tol, ENTROPIC)
    watch = Watch(progress)
    with torch.no_grad():
        if start is None:
            y = _drawn(x, w, a, n)
        else:
            y = check.cloud("start", start)
            check.same_kind("clouds", clouds, "start", y)
            if y.shape[-2:] != (n, x.shape[-1]):
                raise ValueError(f"start has shape {check.shape(y)}, but it must be (..., {n}, {x.shape[-1]})")
            _refuse_gradient(start=y)
            check.batch(start=y.shape[:-2], clouds=batch)
            batch = torch.broadcast_shapes(y.shape[:-2], batch)
            y = y.to(x)
        y = y.expand(*batch, n, x.shape[-1])
        before = torch.full(batch, torch.inf, dtype=x.dtype, device=x.device)
        going = torch.ones(batch, dtype=torch.bool, device=x.device)
        solution: Solution | None = None
        for count in range(1, max_steps + 1):
            problem = Problem(Points(y[..., None, :, :], x, p=p), None, a, epsilon=epsilon)
            solution = attempt(problem, Auto(tol=min(tol, 1e-3) if epsilon > 0 else None), start=solution)
            refuse_faults(problem, solution)
            if not solution.converged:
                warnings.warn(failure(solution, problem), ConvergenceWarning, stacklevel=2)
            F = (w * solution.value).sum(-1)
            fallen = before - F
            going = going & ~(fallen <= tol * F.abs())
            watch.tell("transports", count, max_steps, gap=float((fallen / F.abs().clamp_min(1e-300)).max()), now=True)
            if not bool(going.any()):
                break
            before = torch.where(going, F, before)
            y = torch.where(going[..., None, None], _moved(problem, solution.plan, y, x, w, p), y)
        else:
            warnings.warn(
                f"the cost of the barycenter still fell by more than tol = {tol:g} of itself after {max_steps} steps: "
                "raise max_steps or tol",
                ConvergenceWarning,
                stacklevel=2,
            )
    return y.to(clouds.dtype).contiguous()


def _asked(clouds: object, weights: object, masses: object) -> tuple[Tensor, Tensor, Tensor | None, torch.Size]:
    """The clouds (..., k, m, d), their weights of sum 1, the masses of sum 1, and the batch shape."""
    x = check.real_tensor("clouds", clouds, what="clouds of points")
    if x.dim() < 3 or 0 in x.shape[-3:]:
        raise ValueError(f"clouds has shape {check.shape(x)}, but k clouds of m points have shape (..., k, m, d)")
    k, m = x.shape[-3:-1]
    w = x.new_ones(k) if weights is None else check.weights("weights", weights, k, x, "clouds")
    a = None if masses is None else check.weights("masses", masses, m, x, "clouds")
    if a is not None and (a.dim() < 2 or a.shape[-2] not in (1, k)):
        raise ValueError(f"masses has shape {check.shape(a)}, but there are {k} clouds: expected (..., {k}, {m})")
    _refuse_gradient(clouds=x, weights=w, masses=a)
    shapes = {"of clouds": x.shape[:-3], "of weights": w.shape[:-1]}
    batch = check.batch(**shapes | ({} if a is None else {"of masses": a.shape[:-2]}))
    for name, t in (("clouds", x), ("weights", w), ("masses", a)):
        if t is not None and not bool(t.isfinite().all()):
            raise BadInput(f"{name} contains a value that is not finite: {Status.not_finite.sentence}")
    w, x, a = w.double(), x.double(), None if a is None else a.double()
    for name, t in (("weights", w), ("masses", a)):
        if t is not None and bool((t < 0).any()):
            raise BadInput(f"{name} contains {float(t.min()):g}: {Status.negative_weights.sentence}")
        if t is not None and bool((t.sum(-1) == 0).any()):
            raise BadInput(Status.no_mass.sentence)
    w = (w / w.sum(-1, keepdim=True)).expand(*batch, k)
    a = None if a is None else a / a.sum(-1, keepdim=True)
    return x, w, a, batch


def _refuse_gradient(**tensors: Tensor | None) -> None:
    for name, t in tensors.items():
        if t is not None and t.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires grad, but a barycenter gives no gradient: pass {name}.detach()")


def _drawn(x: Tensor, w: Tensor, a: Tensor | None, n: int) -> Tensor:
    """Points of the cloud of largest weight, n evenly along its cumulated mass: (..., n, d)."""
    *batch, k = w.shape
    m, d = x.shape[-2:]
    x = x.expand(*batch, k, m, d)
    a = x.new_full((m,), 1 / m) if a is None else a
    a = a.expand(*batch, k, m)
    which = w.argmax(-1)[..., None]
    a = a.take_along_dim(which[..., None], -2)[..., 0, :]
    x = x.take_along_dim(which[..., None, None], -3)[..., 0, :, :]
    at = ((torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n).expand(*batch, n).contiguous()
    place = torch.searchsorted(a.cumsum(-1).contiguous(), at).clamp_max(m - 1)
    return x.take_along_dim(place[..., None], -2)


def _moved(problem: Problem, plan: Plan, y: Tensor, x: Tensor, w: Tensor, p: float) -> Tensor:
    """Each point at the mean of all that it is sent to, which for p < 2 is weighted by |y_i - x_j|^(p - 2).

    |y - x|^p lies below its quadratic that touches at today's distance, so the mean lowers F for p < 2 too.
    """
    if p < 2:
        cost = problem.cost
        nearest = (NEAR * float(cost.limits()[1].max()) ** (1 / p)) ** p or 1.0

        def slope(C: Tensor) -> Tensor:
            return C.clamp_min(nearest).pow((p - 2) / p)

        if isinstance(plan, SparsePlan):
            plan = SparsePlan(plan.rows, plan.cols, plan.mass * slope(cost.pairs(plan.rows, plan.cols)), plan.size)
        else:
            plan = DensePlan(plan.dense() * slope(cost.dense()))
    share = w[..., None]
    pulled = (share[..., None] * (plan @ x)).sum(-3)
    total = (share * plan.marginals()[0]).sum(-2)
    return pulled / total.clamp_min(math.ulp(0.0))[..., None]
