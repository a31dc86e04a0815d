"""Cuturi's two Sinkhorn distances between histograms: the transport part of the entropic plan, and the hard ball."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from barrow import check
from barrow.certify import bracket
from barrow.cost import Dense
from barrow.functional import fixed_point, traced
from barrow.functional.common import ConvergenceWarning, labels, refuse_nonfinite, refuse_weights, solved, value
from barrow.ops.once import once
from barrow.problem import Problem
from barrow.solve import attempt
from barrow.solvers.sinkhorn import Sinkhorn

NOISE = 1e-13  # of the largest cost: no value is known better
POLISH = 100  # Newton steps at most
WIDEST = 4.0  # epsilon is lowered by at most this factor at once


def sinkhorn_transport(
    h: Tensor, t: Tensor, C: Tensor, *, epsilon: float, tol: float = 1e-3, max_steps: int = 10_000
) -> Tensor:
    """What the entropic plan costs: Cuturi's dual-Sinkhorn divergence d^lambda, lambda = 1 / epsilon.

        <P, C>  with  P = argmin over couplings of h and t of  <P, C> - epsilon H(P),   H(P) = -sum P log P

    Above the exact transport cost, decreasing in lambda, and with the exact cost as its limit. Choose it to compare
    with Cuturi's numbers or where a cost without an entropy in it is wanted; to train, :func:`label_wasserstein` has
    the cheaper gradient. All references of the entropy give the same plan, since the marginals are hard.

    Sinkhorn comes near, Newton's method on the same fixed point does the rest. The gradient is that of the fixed point:
    with C = alpha + beta + rest, rest orthogonal under P to all sums of a row and a column function,

        d<P, C>/dC = P (1 - rest / epsilon),   d<P, C>/dh = alpha,   d<P, C>/dt = beta,

    one symmetric linear solve of the size of the smaller histogram.

    Args:
        h: histograms (..., K); zeros are legal.
        t: histograms (..., L), of the same mass.
        C: costs (K, L), shared by all, or (..., K, L).
        epsilon: entropy, in units of C: one over Cuturi's lambda. There is no default: it changes the answer.
        tol: certified relative error of the value. The error of the gradient is of the same order.
        max_steps: sweeps at most.

    Returns:
        (...), differentiable once in h, t and C. With respect to weights each side carries half of the value.

    Raises:
        ValueError: shapes that do not fit, epsilon <= 0, NaN or infinity, negative or different masses.

    Warns:
        ConvergenceWarning: the certified error is above tol.

    >>> C = 1 - torch.eye(2)
    >>> h, t = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    >>> sinkhorn_transport(h, t, C, epsilon=0.02)
    tensor(0.5000)

    Source: Cuturi 2013, equation (2) and Algorithm 1; Peyre and Cuturi, Computational Optimal Transport, section 9.1.
    """
    epsilon = check.positive("epsilon", epsilon)
    solver = Sinkhorn(tol, max_steps)
    h, t, cost = labels(h, t, C)
    if traced.following():
        return traced.matrix("sinkhorn_transport", C, h, t, [epsilon, solver.tol, solver.max_steps])
    batch, a, b, C = _flat(h, t, cost)
    with torch.no_grad():
        found = _transport(a, b, C, epsilon, solver)
    return _attach(found, a, b, C).reshape(batch).to(h.dtype)


def sinkhorn_ball(h: Tensor, t: Tensor, C: Tensor, *, alpha: float, tol: float = 1e-3, max_steps: int = 200) -> Tensor:
    """Cuturi's Sinkhorn distance: the cheapest coupling among those close to independence.

        d = min <P, C>  over couplings P of h and t with  KL(P | h t' / |h|) <= alpha |h|,   |h| = sum h

    For histograms of mass 1 that is d_{M, alpha}: KL(P | h t') is the mutual information of the coupling. alpha = 0
    gives h' C t, the independence kernel; from the smaller entropy of h and t on the bound is idle and d is the exact
    transport cost. For a metric C it satisfies the triangle inequality whatever alpha is. Choose it where a bound on
    the information of the plan is meant; :func:`sinkhorn_transport` with an epsilon is much cheaper.

    It is the maximum over epsilon >= 0 of V(epsilon) - epsilon alpha |h|, V the entropic cost, whose derivative is the
    information of its plan: a safeguarded Newton iteration on log epsilon, for each problem of a batch by itself. Any
    epsilon gives a lower bound and any plan of the ball an upper one, which is the certificate.

    Args:
        h: histograms (..., K); zeros are legal.
        t: histograms (..., L), of the same mass.
        C: costs (K, L), shared by all, or (..., K, L).
        alpha: information allowed, in nats, at least 0; inf is exact transport.
        tol: certified relative gap.
        max_steps: values of epsilon that are tried at most.

    Returns:
        (...), the lower bound; differentiable once in h, t and C (envelope theorem: d/dC is the plan).

    Raises:
        ValueError: shapes that do not fit, alpha < 0, NaN or infinity, negative or different masses.

    Warns:
        ConvergenceWarning: the gap is above tol; the value is then still a lower bound.

    >>> C = 1 - torch.eye(2)
    >>> h, t = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    >>> [round(float(sinkhorn_ball(h, t, C, alpha=alpha)), 3) for alpha in (0, 0.1, 10)]
    [0.5, 0.315, 0.25]

    Source: Cuturi 2013, definition 1, theorem 1 and section 4.
    """
    alpha = check.information("alpha", alpha)
    tol, max_steps = check.positive("tol", tol), check.whole("max_steps", max_steps)
    h, t, cost = labels(h, t, C)
    if not traced.following():
        refuse_nonfinite(h=h, t=t, C=C)
        refuse_weights(h, t, names=("h", "t"))
    dtype = check.compute_dtype(h.dtype)
    mass = h.to(dtype).sum(-1)
    a, b = h.to(dtype) / mass[..., None], t.to(dtype) / t.to(dtype).sum(-1, keepdim=True)
    if traced.following():
        found = traced.matrix("sinkhorn_ball", C.to(dtype), a, b, [alpha, tol, max_steps])
        return (mass * found).to(h.dtype)
    batch, a, b, C = _flat(a, b, Dense(cost.C.to(dtype)))
    with torch.no_grad():
        idle = _idle(a, b, alpha)
    parts = []
    for k in (idle.nonzero()[:, 0], (~idle).nonzero()[:, 0]):
        own = fixed_point.pick(C, k)
        if not len(k):
            parts.append(a.new_empty(0))
        elif not parts:
            parts.append(value(Problem(Dense(own), a[k], b[k])))
        else:
            with torch.no_grad():
                ball = _balls(a[k], b[k], own, alpha, tol, max_steps)
            parts.append(_attach(ball, a[k], b[k], own).to(dtype))
    place = torch.cat([idle.nonzero()[:, 0], (~idle).nonzero()[:, 0]]).argsort()
    return (mass * torch.cat(parts)[place].reshape(batch)).to(h.dtype)


# -- the cost of the entropic plan -------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """Values (B,), and what the gradient follows from: P = a b exp((f + g - C) / epsilon), and how it moves."""

    value: Tensor
    epsilon: Tensor  # (B,); inf is the product
    f: Tensor
    g: Tensor
    slopes: fixed_point.Moved | None  # none where the envelope theorem holds: then they are f and g


def _transport(a: Tensor, b: Tensor, C: Tensor, epsilon: float, solver: Sinkhorn) -> _Found:
    """<P, C> for a flattened batch; warns where it is not certified."""
    refuse_nonfinite(h=a, t=b, C=C)
    refuse_weights(a, b, names=("h", "t"))
    a, b, C = (w.detach().double() for w in (a, b, C))
    b = b * (a.sum(-1) / b.sum(-1))[:, None]
    near = attempt(
        Problem(Dense(C), a, b, epsilon=epsilon), Sinkhorn(min(max(solver.tol, 1e-4), 1e-2), solver.max_steps)
    )
    low, high = Dense(C).limits()
    spread, eps = (high - low).expand(len(a)), torch.full_like(a[:, 0], epsilon)
    out: list[tuple[Tensor, ...]] = [(a[:0, 0], a[:0], b[:0], a[:0], b[:0], a[:0, 0])]
    for k in fixed_point.groups(len(a), C.shape[-2] * C.shape[-1]):
        if not len(k):
            continue
        C_, a_, b_, eps_ = fixed_point.pick(C, k), a[k], b[k], eps[k]
        # The gap that Pinsker's inequality below asks for, as a share of mass that is moved at the spread of C.
        wide = spread[k].clamp_min(torch.finfo(a.dtype).tiny)
        share = solver.tol * (near.value[k].abs() / (a_.sum(-1) * wide)).clamp_max(1)
        goal = (0.1 * share.square() * eps_ / wide).clamp(1e-14, 1e-6)
        g, now = fixed_point.newton(C_, a_, b_, eps_, near.g[k], goal, POLISH)
        moved = fixed_point.project(C_, now, a_, b_, eps_, g)
        cost = (now.R * C_ * a_[..., None]).sum((-2, -1))
        # To first order the columns' error moves the value by beta.
        cost = cost + (moved.beta * (b_ - now.q)).sum(-1)
        proof = bracket(Problem(Dense(C_), a_, b_, epsilon=epsilon), None, now.f, g)
        # F(P) - F(P*) = epsilon KL(P | P*), and Pinsker's inequality. No gap below rounding can be asked for.
        gap = (proof.upper - proof.lower - 2 * proof.slack - 2 * NOISE * proof.scale).clamp_min(0)
        error = spread[k] / 2 * (2 * gap * a_.sum(-1) / epsilon).sqrt()
        out.append((cost, now.f, g, *moved, error))
    cost, f, g, alpha, beta, error = (torch.cat(parts) for parts in zip(*out, strict=True))
    missed = (error > solver.tol * cost.abs()) & (error > NOISE * C.abs().amax() * a.sum(-1))
    if bool(missed.any()):
        worst = float((error / cost.abs().clamp_min(torch.finfo(cost.dtype).tiny))[missed].max())
        told = f"the cost of the entropic plan is certified to a relative error of {worst:.3g} only, of {solver.tol:g}"
        warnings.warn(f"{told} asked for: raise epsilon, tol or max_steps", ConvergenceWarning, stacklevel=3)
    return _Found(cost, eps, f, g, fixed_point.Moved(alpha, beta))


# -- the ball ----------------------------------------------------------------------------------------------------------


def _idle(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Where every coupling is in the ball: its information is at most the smaller entropy."""
    return torch.minimum(_entropy(a), _entropy(b)) <= alpha


def _balls(a: Tensor, b: Tensor, C: Tensor, alpha: float, tol: float, max_steps: int) -> _Found:
    """The lower bounds for a flattened batch of histograms of mass 1 whose bound is not idle; warns."""
    a, b, C = (w.detach().double() for w in (a, b, C))
    a, b = (w / w.sum(-1, keepdim=True) for w in (a, b))  # of mass 1 in single precision only, so far
    if alpha == 0:
        row, col = (C @ b[..., None])[..., 0], (a[:, None, :] @ C)[:, 0]
        cost = (a * row).sum(-1)
        half = cost[:, None] / 2
        return _Found(cost, torch.full_like(cost, torch.inf), row - half, col - half, None)
    found = [
        _ball(a[k], b[k], fixed_point.pick(C, k), alpha, tol, max_steps)
        for k in fixed_point.groups(len(a), C.shape[-2] * C.shape[-1])
    ]
    lower, upper, eps, f, g = (torch.cat(parts) for parts in zip(*found, strict=True))
    gap = (upper - lower) / upper.abs().clamp_min(torch.finfo(torch.float64).tiny)
    missed = ~(gap <= tol) & (upper - lower > NOISE * C.abs().amax())
    if bool(missed.any()):
        told = f"the distance is certified to a relative gap of {float(gap[missed].max()):.3g} only, of {tol:g} asked"
        warnings.warn(f"{told} for: raise tol or max_steps", ConvergenceWarning, stacklevel=3)
    return _Found(lower, eps, f, g, None)


def _ball(a: Tensor, b: Tensor, C: Tensor, alpha: float, tol: float, max_steps: int) -> tuple[Tensor, ...]:
    """Lower and upper bounds (B,), and the epsilon and the potentials of the former.

    The information falls with epsilon: a bracket (below, above) of the right epsilon only shrinks.
    """
    low, high = Dense(C).limits()
    spread = (high - low).expand(len(a)).clamp_min(torch.finfo(a.dtype).tiny)
    eps, g = spread.clone(), torch.zeros_like(b)
    below, above = torch.zeros_like(eps), torch.full_like(eps, torch.inf)
    best_low, best_high = torch.full_like(eps, -torch.inf), (a * (C @ b[..., None])[..., 0]).sum(-1)  # independence
    best_eps, best_f, best_g = eps.clone(), torch.zeros_like(a), g.clone()
    todo = torch.arange(len(a), device=a.device)
    noise = NOISE * C.abs().amax()
    for _ in range(max_steps):
        C_, a_, b_, e = fixed_point.pick(C, todo), a[todo], b[todo], eps[todo]
        g_, now = fixed_point.newton(C_, a_, b_, e, g[todo], 1e-3 * min(tol, 1e-6), POLISH)
        moved = fixed_point.project(C_, now, a_, b_, e, g_)
        P = now.R * a_[..., None]
        cost = (P * C_).sum((-2, -1))
        information = ((now.value + ((now.q - b_) * g_).sum(-1) - cost) / e).clamp_min(0)
        rest = C_ - moved.alpha[..., None] - moved.beta[:, None, :]
        fall = (P * rest.square()).sum((-2, -1)) / e.square()  # -dKL / d log epsilon
        # The dual is exact whatever the columns are; to mend them costs the spread, and information of the same order.
        slack = fixed_point.off(now, b_) * spread[todo]
        lower, upper = now.value - e * alpha, cost + slack
        inside = information <= alpha
        better = lower > best_low[todo]
        k = todo[better]
        best_low[k], best_eps[k], best_f[k], best_g[k] = lower[better], e[better], now.f[better], g_[better]
        best_high[todo] = torch.where(inside, torch.minimum(upper, best_high[todo]), best_high[todo])
        above[todo] = torch.where(inside, torch.minimum(e, above[todo]), above[todo])
        below[todo] = torch.where(inside, below[todo], torch.maximum(e, below[todo]))
        gap = best_high[todo] - best_low[todo]
        going = gap > torch.maximum(tol * best_high[todo].abs(), noise)
        # Halfway between what is allowed and what would just not be certified.
        goal = torch.maximum(alpha - tol * cost.abs() / (2 * e), torch.full_like(e, alpha / 2))
        step = ((information / goal).clamp_min(1e-300).log() * information / fall.clamp_min(1e-300)).nan_to_num(0)
        e_new = e * step.clamp(-math.log(WIDEST), math.log(1e4)).exp()
        middle = torch.where(above[todo].isfinite(), (below[todo].clamp_min(1e-300) * above[todo]).sqrt(), 4 * e)
        middle = torch.maximum(middle, e / WIDEST)
        fits = (e_new > below[todo]) & (e_new < above[todo])
        e_new = torch.where(fits, e_new, middle)
        eps[todo] = e_new
        # Potentials move with epsilon by (f - alpha) / epsilon, to first order.
        g[todo] = g_ + (g_ - moved.beta) * (e_new / e - 1).clamp(-0.75, 3)[:, None]
        todo = todo[going]
        if not len(todo):
            break
    return best_low, best_high, best_eps, best_f, best_g


def _entropy(w: Tensor) -> Tensor:
    return -torch.xlogy(w, w).sum(-1)


# -- gradients ---------------------------------------------------------------------------------------------------------


def _flat(h: Tensor, t: Tensor, cost: Dense) -> tuple[torch.Size, Tensor, Tensor, Tensor]:
    """The batch shape, and weights and costs with one batch dimension; a shared cost stays shared."""
    batch = check.batch(h=h.shape[:-1], t=t.shape[:-1], C=cost.batch_shape)
    a, b = (w.expand(*batch, w.shape[-1]).reshape(math.prod(batch), w.shape[-1]) for w in (h, t))
    C = cost.C
    if cost.batch_shape:
        C = C.expand(*batch, *cost.shape).reshape(math.prod(batch), *cost.shape)
    return batch, a, b, C


def _attach(found: _Found, a: Tensor, b: Tensor, C: Tensor) -> Tensor:
    """The value (B,), differentiable once in a, b and C."""
    if torch.is_grad_enabled() and any(w.requires_grad for w in (a, b, C)):
        attached: Tensor = _Slopes.apply(found.value, found, a, b, C)
        return attached
    return found.value


class _Slopes(torch.autograd.Function):
    """d/dC = P (1 - rest / epsilon), d/da = alpha, d/db = beta; without slopes P, f and g: the envelope theorem."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, found: _Found, *sources: Tensor) -> Tensor:
        ctx.found = found
        # Saved so that torch sees when one is changed in place, and a second derivative finds its way to the refusal.
        ctx.save_for_backward(*sources)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found, (a, b, C) = ctx.found, ctx.saved_tensors
        with torch.no_grad():
            weight = grad.double()[:, None]
            row, col = found.slopes or (found.f, found.g)
            grads = [weight * row, weight * col, _to_matrix(found, weight, a, b, C) if C.requires_grad else None]
            grads = [None if s is None else s.to(w.dtype) for s, w in zip(grads, (a, b, C), strict=True)]
        if torch.is_grad_enabled():
            grads = once([grad, a, b, C], grads)
        return (None, None, *grads)


def _to_matrix(found: _Found, weight: Tensor, a: Tensor, b: Tensor, C: Tensor) -> Tensor:
    """The gradient to C of the values times ``weight`` (B, 1), a group of problems at a time."""
    a, b, C = (w.detach().double() for w in (a, b, C))
    total = torch.zeros_like(C)
    for k in fixed_point.groups(len(a), C.shape[-2] * C.shape[-1]):
        own, eps = fixed_point.pick(C, k), found.epsilon[k][:, None, None]
        joint = a[k][..., None] * b[k][:, None, :]
        P = ((found.f[k][..., None] + found.g[k][:, None, :] - own) / eps).exp()
        P = torch.where(joint > 0, joint * P, 0)  # between two atoms without mass the exponential may be inf
        if found.slopes is not None:
            P = P * (1 - (own - found.slopes.alpha[k][..., None] - found.slopes.beta[k][:, None, :]) / eps)
        P = P * weight[k][..., None]
        if C.dim() == 3:
            total[k] = P
        else:
            total += P.sum(0)
    return total


# -- under torch.compile and torch.func --------------------------------------------------------------------------------


def _spread_out(found: _Found, a: Tensor, b: Tensor, C: Tensor, wants: Sequence[bool]) -> list[Tensor]:
    """The values with their slopes to C, a and b, problem by problem."""
    row, col = found.slopes or (found.f, found.g)
    each = C.expand(len(a), *C.shape[-2:])
    matrix = _to_matrix(found, torch.ones_like(found.value)[:, None], a, b, each) if wants[0] else each
    return [found.value, matrix, row, col]


@traced.matrix_quantity("sinkhorn_transport")
def _(C: Tensor, h: Tensor, t: Tensor, numbers: list[float], wants: list[bool]) -> list[Tensor]:
    epsilon, tol, max_steps = numbers
    _, a, b, C = _flat(h, t, Dense(C))
    return _spread_out(_transport(a, b, C, epsilon, Sinkhorn(tol, int(max_steps))), a, b, C, wants)


@traced.matrix_quantity("sinkhorn_ball")
def _(C: Tensor, h: Tensor, t: Tensor, numbers: list[float], wants: list[bool]) -> list[Tensor]:
    alpha, tol, max_steps = numbers
    _, a, b, C = _flat(h, t, Dense(C))
    refuse_nonfinite(h=a, t=b, C=C)
    refuse_weights(a, b, names=("h", "t"))
    idle = _idle(a, b, alpha)
    out = [C.new_empty(len(a), *tail, dtype=torch.float64) for tail in ((), C.shape[-2:], a.shape[1:], b.shape[1:])]
    for k in (idle.nonzero()[:, 0], (~idle).nonzero()[:, 0]):
        own = fixed_point.pick(C, k)
        if not len(k):
            continue
        if bool(idle[k[0]]):
            s = solved(Problem(Dense(own), a[k], b[k]))
            parts = [s.value, s.plan.dense(), s.f, s.g]
        else:
            parts = _spread_out(_balls(a[k], b[k], own, alpha, tol, int(max_steps)), a[k], b[k], own, wants)
        for whole, part in zip(out, parts, strict=True):
            whole[k] = part.double()
    return out
