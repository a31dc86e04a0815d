"""Both bounds of an entropic problem from its potentials alone, in one or two passes over all pairs.

Let (f, g) be such that no column of P_ij = r_i s_j exp((f_i + g_j - C_ij) / epsilon) has more mass than b_j, and let
f2 be the best row potential for g. One pass gives f2, hence the masses p = a exp((f - f2) / epsilon) of the rows of P,
and the masses c of the columns of F, which is P with row i scaled by min(1, a_i / p_i): the Gibbs plan of
(min(f, f2), g).

Lower bound: the dual objective at (f2, g).

Upper bound, both marginals hard: F has marginals w = min(p, a) and c <= b. With what is missing, alpha = a - w and
beta = b - c, both of mass delta, F + alpha beta' / delta has the marginals asked for. The entropy is jointly convex
and homogeneous, so it costs no more than F against the share m / M of r x s and the rest against the share delta / M,
where M is the mass and m = M - delta:

    <w, min(f, f2)> + <c, g> + <C, alpha beta'> / delta
        + epsilon (<alpha, log(alpha / r)> + <beta, log(beta / s)> - delta log delta
                   - m log(m / M) - delta log(delta / M) - M + |r| |s|).

A soft marginal needs no rounding: the plan of (f2, g) is feasible, and what it costs follows from its marginals p and q
as C + epsilon log(P / r x s) = f2 + g on it. Scaling it by the best constant only helps.

Source: Altschuler, Weed and Rigollet 2017 (rounding); the bound on the entropy is the log-sum inequality.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from barrow.cost import Cost
from barrow.ops.summation import pairwise_sum
from barrow.problem import Problem, log_ratio, marginal_penalty, step
from barrow.repair import served, support

EXCESS = 0.1  # of a column beyond its weight, as a share of the gap wanted, that is mended by scaling; else by a pass


class Witnessed(NamedTuple):
    """Potentials (B, n), (B, m), one the best for the other, the mass (B,) of their plan, and the upper bound (B,)."""

    f: Tensor
    g: Tensor
    mass: Tensor
    upper: Tensor


class _Side(NamedTuple):
    weight: Tensor
    reference: Tensor
    rho: float

    @property
    def hard(self) -> bool:
        return math.isinf(self.rho)

    @property
    def present(self) -> Tensor:
        return (self.weight > 0) & (self.reference > 0)

    def update(self, epsilon: float, soft: Tensor) -> Tensor:
        """The potential from the soft minimum."""
        return served(step(self.rho, epsilon, soft, log_ratio(self.weight, self.reference)), self.rho)


def bound_from_potentials(problem: Problem, f: Tensor | None, g: Tensor | None, wanted: float = 0.0) -> Witnessed:
    """The best of both potentials that a pass or two find, and an upper bound without its rounding.

    The second pass is left out where the first promises a relative gap below ``wanted``.
    """
    spare = min(max(EXCESS * wanted, 1e-13), 0.01)
    r, s = problem.measures
    a, b = _Side(problem.a, r, problem.rho[0]), _Side(problem.b, s, problem.rho[1])
    if b.hard and not a.hard:  # the hard side is that of the rows
        g, f, mass, upper = _bound(problem.cost.T, problem.epsilon, b, a, g, f, spare)
        return Witnessed(f, g, mass, upper)
    return _bound(problem.cost, problem.epsilon, a, b, f, g, spare)


def _bound(
    cost: Cost, epsilon: float, a: _Side, b: _Side, f: Tensor | None, g: Tensor | None, spare: float
) -> Witnessed:
    log_r, log_s = a.reference.log(), b.reference.log()

    def right(f: Tensor) -> Tensor:
        return b.update(epsilon, cost.softmin(support(f, log_r, epsilon), epsilon, -2))

    def seen(g: Tensor) -> Tensor:
        return torch.where(b.weight > 0, support(g, log_s, epsilon), -torch.inf)

    balanced = a.hard and b.hard
    if balanced:
        f, g = _anchored(f, g, a, b)
    if f is None:
        f = torch.zeros_like(a.weight) if g is None else a.update(epsilon, cost.softmin(seen(g), epsilon, -1))
    if g is None or not balanced:
        # Soft marginals show in the second order of a bound, but in the first of a gradient: hence one step more.
        g = right(f)
    if not balanced:
        # Masses of the rows at their best potential: a exp(-f2 / rho), a itself at rho = inf.
        power = 1.0 if a.hard else epsilon / (a.rho + epsilon)
        free = epsilon * (a.weight.log() - power * log_ratio(a.weight, a.reference))
        soft, p, q = cost.gibbs_pass(seen(g), epsilon, a.weight if a.hard else None, None if a.hard else free, power)
        f = a.update(epsilon, soft)
        return Witnessed(f, _everywhere(g, b, right, f), pairwise_sum(p), _soft_upper(epsilon, a, b, f, g, p, q))

    u = support(f, log_r, epsilon)
    soft, w, c = cost.gibbs_pass(seen(g), epsilon, a.weight, u, 1.0)
    excess = _excess(c, b)
    # Potentials that are no pair, as far as can be seen: a column too heavy, or the wrong mass in all.
    M, mass = a.weight.sum(-1), torch.where(a.weight > 0, ((u - soft) / epsilon).exp(), 0).sum(-1)
    fits = (excess <= 1 + spare) & ((mass - M).abs() <= spare * M) & g.isfinite().all(-1)
    if not bool(fits.all()):
        again = right(f)
        new = (*cost.gibbs_pass(seen(again), epsilon, a.weight, u, 1.0), again)
        soft, w, c, g = (torch.where(fits[:, None], t, s) for t, s in zip((soft, w, c, g), new, strict=True))
        excess = _excess(c, b)
    best = a.update(epsilon, soft)
    upper = _hard_upper(cost, epsilon, a, b, torch.minimum(f, best), g, w, c, excess.clamp_min(1))
    g = _everywhere(g, b, right, best)
    # Potentials of a balanced problem are free up to a constant: give each side half of the value.
    half = ((pairwise_sum(a.weight * best) - pairwise_sum(b.weight * g)) / (2 * M))[:, None]
    return Witnessed(best - half, g + half, pairwise_sum(a.weight), upper)


def _excess(c: Tensor, b: _Side) -> Tensor:
    """How many times its weight the heaviest column has."""
    return torch.where(b.weight > 0, c / b.weight, 1).amax(-1)


def _anchored(f: Tensor | None, g: Tensor | None, a: _Side, b: _Side) -> tuple[Tensor | None, Tensor | None]:
    """The same pair with f at most 0 where it counts: large numbers would swallow the cost."""
    if f is None and g is None:
        return f, g
    one, side = (g, b) if f is None else (f, a)
    assert one is not None
    highest = torch.where(side.present & one.isfinite(), one, -torch.inf).amax(-1, keepdim=True)
    shift = torch.where(highest.isfinite(), highest, 0)
    if f is None or g is None:
        return (None, one - shift) if f is None else (one - shift, None)
    return f - shift, g + shift


def _everywhere(g: Tensor, b: _Side, right: object, f: Tensor) -> Tensor:
    """The potentials, and on columns without weight the value that their own marginal derivative has."""
    absent = ~b.present | ~g.isfinite()
    return torch.where(absent, right(f), g) if bool(absent.any()) else g  # type: ignore[operator]


def _inner(w: Tensor, h: Tensor) -> Tensor:
    """<w, h>, where nothing times anything is nothing."""
    return pairwise_sum(torch.where(w > 0, w * torch.where(w > 0, h, 0), 0))


def _hard_upper(
    cost: Cost, epsilon: float, a: _Side, b: _Side, f: Tensor, g: Tensor, w: Tensor, c: Tensor, excess: Tensor
) -> Tensor:
    w, c = w / excess[:, None], c / excess[:, None]
    M, m = a.weight.sum(-1), pairwise_sum(w)
    alpha, beta = (a.weight - w).clamp_min(0), (b.weight - c).clamp_min(0)
    delta, other = pairwise_sum(alpha), pairwise_sum(beta)
    beta = beta * torch.where(other > 0, delta / torch.where(other > 0, other, 1), 0)[:, None]
    moved = torch.where(delta > 0, cost.spread(alpha, beta, tight=True) / torch.where(delta > 0, delta, 1), 0)
    entropy = _relative(alpha, a.reference) + _relative(beta, b.reference) - torch.xlogy(delta, delta)
    entropy = entropy - torch.xlogy(m, m / M) - torch.xlogy(delta, delta / M)
    entropy = entropy - M + pairwise_sum(a.reference) * pairwise_sum(b.reference) - m * excess.log()
    return _inner(w, f) + _inner(c, g) + moved + epsilon * entropy


def _relative(q: Tensor, r: Tensor) -> Tensor:
    """<q, log(q / r)>: inf where q has mass and r has none."""
    return pairwise_sum(torch.where(q > 0, torch.xlogy(q, q / r), 0))


def _soft_upper(epsilon: float, a: _Side, b: _Side, f: Tensor, g: Tensor, p: Tensor, q: Tensor) -> Tensor:
    inner, mass = _inner(p, f) + _inner(q, g), pairwise_sum(p)
    constant = epsilon * pairwise_sum(a.reference) * pairwise_sum(b.reference)
    if a.hard:
        return inner - epsilon * mass + constant + pairwise_sum(marginal_penalty(b.rho, q, b.weight))
    # With both marginals soft the plan may be scaled by any k: the best one is a formula.
    slope = inner + a.rho * _relative(p, a.weight) + b.rho * _relative(q, b.weight)
    stiffness = epsilon + a.rho + b.rho
    k = torch.exp((-slope / (stiffness * mass)).nan_to_num(nan=0.0).clamp(-1, 1))
    value = k * inner + epsilon * (torch.xlogy(k, k) - k) * mass + constant
    for side, marginal in ((a, p), (b, q)):
        value = value + pairwise_sum(marginal_penalty(side.rho, k[:, None] * marginal, side.weight))
    return value
