"""Repair, round, bracket: from anybody's witnesses to lower <= truth <= upper.

* Repair: any numbers f become feasible potentials by c-transforms (epsilon = 0); at epsilon > 0 every pair is
  feasible and one block ascent on either side only improves it. That is the lower bound.
* Rounding: any nonnegative matrix is moved into the transport polytope (primal.py). That is the upper bound.
* Arithmetic is float64, and both bounds are widened by an a-priori bound on its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from barrow import check
from barrow.cost import Tree
from barrow.ops.summation import pairwise_sum
from barrow.plan import DensePlan, GibbsPlan, Plan, SparsePlan
from barrow.primal import Rounded, detour, forbids, primal_objective, round_to_marginals
from barrow.problem import Problem, log_ratio, marginal_dual, step
from barrow.screen import complaint, screen
from barrow.solution import BadInput, Bounds

ArrayLike = Tensor | np.ndarray[Any, Any] | Sequence[Any]  # whatever torch.as_tensor reads
UNIT = torch.finfo(torch.float64).eps / 2  # the unit roundoff
GRAIN = 2.0**-50  # a share of the mass: no atom is known better
SERVED = 40  # rho: where the potential of an atom without an arc ends, exp(-40) being nothing


class Bracket(NamedTuple):
    """A certificate with what it was made of, for a flattened float64 problem."""

    value: Tensor  # (B,) the dual objective at the repaired potentials
    f: Tensor
    g: Tensor
    lower: Tensor
    upper: Tensor
    slack: Tensor  # what rounding, of the arithmetic and of the masses, may have added to the gap
    scale: Tensor  # the dearest arc for all the mass


def certify(
    problem: Problem, *, plan: Plan | ArrayLike | None = None, f: ArrayLike | None = None, g: ArrayLike | None = None
) -> Bounds:
    """Bracket the truth of ``problem`` with anybody's answer.

    Nothing about the arguments is believed: any nonnegative plan is rounded to one with the right marginals (negative
    and non-finite entries count as 0) and is an upper bound; any numbers are turned into feasible potentials and are a
    lower bound. Nonsense gives a wide bracket, never a wrong one.

    Args:
        problem: the question.
        plan: a :class:`barrow.plan.Plan` or a matrix (..., n, m), a tensor or an array. Without one, the Gibbs plan of
            the potentials (epsilon > 0) or the independent coupling is rounded.
        f: numbers (..., n).
        g: numbers (..., m).

    Returns:
        Bounds, float64, batched like the problem.

    Raises:
        ValueError: shapes that do not fit, or data that make no problem (NaN, negative weights, different masses).

    Where arcs are forbidden (+inf in a Dense cost) and Hall's condition fails, both bounds are inf, which is the truth.

    >>> x, y = torch.zeros(3, 1), torch.ones(3, 1)
    >>> bounds = certify(Problem(Points(x, y, p=1)), f=torch.tensor([0.0, 7.0, -2.0]))
    >>> bool(bounds.lower <= 1 <= bounds.upper)
    True

    Source: Altschuler, Weed and Rigollet 2017; Peyre and Cuturi, Computational Optimal Transport, sections 2.5, 4.4.
    """
    flat, codes, defect = screen(problem)
    if bool(codes.any()):
        raise BadInput(complaint(problem, codes))
    batch, (n, m) = problem.batch_shape, problem.shape
    f, g = (_numbers(name, t, size, problem) for name, t, size in (("f", f, n), ("g", g, m)))
    bracketed = bracket(flat, _as_plan(plan, problem), f, g, defect, problem.dtype)
    return Bounds(bracketed.lower.reshape(batch), bracketed.upper.reshape(batch))


def bracket(
    problem: Problem,
    plan: Plan | None,
    f: Tensor | None,
    g: Tensor | None,
    defect: Tensor | float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Bracket:
    """Repair, round and bracket, for a flattened float64 problem that was screened.

    ``defect`` is the relative difference of mass that was mended: V grows in proportion to the mass, so the bracket is
    widened by that share and holds for either way of mending. Where arcs are forbidden, mass that finds none is mended
    likewise as long as it is rounding of weights in ``dtype``, that of the data; beyond that there is no plan.
    """
    f, g = repair(problem, f, g)
    value = dual_objective(problem, f, g)
    if plan is None and problem.epsilon > 0:
        plan = gibbs(problem, f, g)
    low, high = problem.cost.limits()
    largest = torch.maximum(low.abs(), high.abs())
    known = 0.0 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    grain = (GRAIN * sum(problem.shape) + known + 2 * defect) * problem.a.sum(-1)
    rounded = round_to_marginals(problem, plan, grain)
    upper = primal_objective(problem, rounded, largest)
    slack, slack_above = rounding_error(problem, f, g, upper, rounded, low, largest)
    lower = (value - slack).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    upper = (upper + slack_above).nan_to_num(nan=torch.inf, posinf=torch.inf)
    mended = defect * upper.abs().nan_to_num(posinf=0.0)
    # Every term of the equation is nonnegative where no cost is negative.
    lower = torch.where(low >= 0, (lower - mended).clamp_min(0), lower - mended)
    scale = largest * problem.a.sum(-1)
    slack = slack + slack_above + 2 * mended
    if forbids(problem.cost):
        upper = torch.where(rounded.lost > grain, torch.inf, upper)  # wherever it is stranded too
        lower = torch.where(rounded.stranded, torch.inf, lower)
    return Bracket(value, f, g, lower, upper + mended, slack, scale.expand_as(value))


def within(proof: Bracket, tol: float, dtype: torch.dtype) -> Tensor:
    """Whether (upper - lower) / max(|upper|, tiny) <= tol, tiny being what the rounding of the data amounts to."""
    gap = proof.upper - proof.lower
    noise = 2 * proof.slack + 8 * torch.finfo(dtype).eps * proof.scale
    return gap.isfinite() & ((gap <= tol * proof.upper.abs()) | (gap <= noise))


# -- repair ------------------------------------------------------------------------------------------------------------


def repair(problem: Problem, f: Tensor | None, g: Tensor | None) -> tuple[Tensor, Tensor]:
    """Feasible potentials at least as good as (f, g), finite on every atom, weighted or not.

    Zero-weight atoms constrain nobody and receive the value that their own marginal derivative has.
    """
    cost, epsilon, (rho_a, rho_b) = problem.cost, problem.epsilon, problem.rho
    r, s = problem.measures
    if epsilon == 0:
        r, s = problem.a, problem.b
    log_r, log_s = r.log(), s.log()
    ratio_a, ratio_b = log_ratio(problem.a, r), log_ratio(problem.b, s)

    def left(g: Tensor) -> Tensor:
        return served(step(rho_a, epsilon, cost.softmin(_support(g, log_s, epsilon), epsilon, -1), ratio_a), rho_a)

    def right(f: Tensor, where: Tensor | None = None) -> Tensor:
        soft = cost.softmin(_support(f, log_r, epsilon), epsilon, -2, where)
        return served(step(rho_b, epsilon, soft, ratio_b), rho_b)

    if f is None:
        f = torch.zeros_like(problem.a) if g is None else left(_anchored(problem, g, s))
    proved = None
    if epsilon == 0 and g is not None and problem.balanced:
        # The potentials of an exact solver are as good as it says, and one pass shows it.
        low = _anchored(problem, g, s)
        one_pass = left(low)
        proved = _as_good(problem, one_pass, low, f, g)[:, None]
    if proved is not None and bool(proved.all()):
        f, g = one_pass, low
    else:
        g = right(_anchored(problem, f, r))
        f = left(g)
        if proved is not None:
            f, g = torch.where(proved, one_pass, f), torch.where(proved, low, g)
    if epsilon == 0 and bool((problem.b == 0).any()):
        g = torch.where(problem.b > 0, g, right(f, problem.b == 0))
    if problem.balanced:
        # Potentials of a balanced problem are free up to a constant: give each side half of the value.
        half = (pairwise_sum(problem.a * f) - pairwise_sum(problem.b * g)) / (2 * problem.a.sum(-1))
        f, g = f - half[:, None], g + half[:, None]
    return f, g


def _as_good(problem: Problem, f: Tensor, g: Tensor, said_f: Tensor, said_g: Tensor) -> Tensor:
    """Which problems' feasible (f, g) reach what (said_f, said_g) claim, up to rounding: (B,), balanced and exact."""
    a, b = problem.a, problem.b
    moved, wanted = (
        torch.where(a > 0, a * u, 0).sum(-1) + torch.where(b > 0, b * v, 0).sum(-1)
        for u, v in ((f, g), (said_f, said_g))
    )
    size = (a * f).abs().sum(-1) + torch.where(b > 0, b * g, 0).abs().sum(-1)
    return g.isfinite().all(-1) & (moved >= wanted - 64 * UNIT * size)


def served(h: Tensor, rho: float) -> Tensor:
    """Finite potentials for atoms that no allowed arc leads to: nothing bounds them, so any number is feasible."""
    highest = torch.where(h == torch.inf, -torch.inf, h).amax(-1, keepdim=True)
    ceiling = SERVED * rho if not math.isinf(rho) else torch.where(highest > -torch.inf, highest, 0)
    return torch.where(h == torch.inf, ceiling, h)


def _anchored(problem: Problem, h: Tensor, weight: Tensor) -> Tensor:
    """The same potential, 0 at most, where a constant is free: large numbers would swallow the cost."""
    if not problem.balanced:
        return h
    highest = torch.where((weight > 0) & h.isfinite(), h, -torch.inf).amax(-1, keepdim=True)
    return h - torch.where(highest.isfinite(), highest, 0)


def _support(h: Tensor, log_weight: Tensor, epsilon: float) -> Tensor:
    """The sum h + epsilon log weight, with -inf off the support; what is not a number there counts as absent."""
    shifted = h + epsilon * log_weight if epsilon > 0 else h
    present = (log_weight > -torch.inf) & h.isfinite()
    # Where nothing is left, zeros are as good as any numbers.
    hopeless = ~present.any(-1, keepdim=True)
    fallback = epsilon * log_weight if epsilon > 0 else torch.where(log_weight > -torch.inf, 0.0, -torch.inf)
    return torch.where(hopeless, fallback, torch.where(present, shifted, -torch.inf))


def gibbs(problem: Problem, f: Tensor, g: Tensor) -> GibbsPlan:
    """P = exp((f + g - C) / epsilon) r x s."""
    r, s = problem.measures
    return GibbsPlan(problem.cost, f + problem.epsilon * r.log(), g + problem.epsilon * s.log(), problem.epsilon)


# -- the two objectives --------------------------------------------------------------------------------------------


def dual_objective(problem: Problem, f: Tensor, g: Tensor) -> Tensor:
    """The dual objective (B,) at repaired potentials, whose left marginal is therefore known without a pass."""
    (rho_a, rho_b), epsilon = problem.rho, problem.epsilon
    value = pairwise_sum(marginal_dual(rho_a, f, problem.a)) + pairwise_sum(marginal_dual(rho_b, g, problem.b))
    if epsilon > 0:
        r, s = problem.measures
        total = pairwise_sum(problem.a if math.isinf(rho_a) else problem.a * torch.exp(-f / rho_a))
        value = value - epsilon * (total - pairwise_sum(r) * pairwise_sum(s))
    return value


# -- arithmetic ----------------------------------------------------------------------------------------------------


def rounding_error(
    problem: Problem, f: Tensor, g: Tensor, upper: Tensor, rounded: Rounded, low: Tensor, largest: Tensor
) -> tuple[Tensor, Tensor]:
    """A-priori bounds (B,), (B,) on what float64 rounding can have done to the lower and to the upper bound.

    First-order analysis, with a factor 2 for the higher orders. All long sums are pairwise, log2 of their length deep.
    Lower: each potential is an entry of the matrix minus another potential, weighted by its mass. Upper: each moved
    entry, and marginals that are off by the rounding of their ``terms`` terms, whose correction costs something too.
    Entropic terms add logarithms and exponentials of at most 64 epsilon (|log x| <= 745 for a float64, and x log x
    damps the small ones) and sums over whole rows inside the soft minimum.
    """
    n, m = problem.shape
    (rho_a, rho_b), a, b, epsilon = problem.rho, problem.a, problem.b, problem.epsilon
    depth = 2 * math.log2(n + m) + 16
    entry = problem.cost.roundings + depth
    f, g = torch.where(a > 0, f, 0), torch.where(b > 0, g, 0)
    size = f.abs().amax(-1) + g.abs().amax(-1)
    mass = a.sum(-1) + b.sum(-1)
    for rho, w, h in ((rho_a, a, f), (rho_b, b, g)):
        if not math.isinf(rho):
            mass = mass + (w * torch.exp(-h / rho)).sum(-1)
            size = size + rho * torch.expm1(-h / rho).abs().amax(-1)
    if epsilon > 0:
        r, s = problem.measures
        mass = mass + r.sum(-1) * s.sum(-1)
        size = size + largest + 64 * epsilon
        entry = entry + n + m
    # The distances in a tree are differences of sums along paths: their error is that of the longest path.
    differences = isinstance(problem.cost, Tree)
    if differences:
        size = size + largest
    lower = 2 * UNIT * entry * size * mass + rounded.lost * size
    terms, detours = rounded.plan.terms(), detour(problem)
    if epsilon > 0:
        return lower, lower + 2 * UNIT * (entry * upper.abs() + detours * terms * largest * mass)
    # A share of 2 terms u of either marginal may have to be moved anew, in proportion to the weights. Costs of both
    # signs cancel in the two sums, their roundings do not.
    moved = torch.where((low < 0) | differences, largest * mass, upper.abs())
    anew = detours * torch.where(low < 0, largest * mass, problem.cost.spread(a, b) / a.sum(-1))
    return lower, 2 * UNIT * (entry * moved + 2 * terms * anew)


# -- reading what anybody hands in ---------------------------------------------------------------------------------


def _read(name: str, t: object, problem: Problem) -> Tensor:
    """Anybody's array, in float64 and on the problem's device."""
    try:
        return torch.as_tensor(t).detach().to(problem.cost.device, torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is a {type(t).__name__}, but it must be a tensor or an array of numbers") from None


def _numbers(name: str, t: object | None, size: int, problem: Problem) -> Tensor | None:
    if t is None:
        return None
    h = _read(name, t, problem)
    batch = problem.batch_shape
    if h.dim() == 0 or h.shape[-1] != size:
        raise ValueError(f"{name} has shape {check.shape(h)}, but there are {size} atoms on that side: (..., {size})")
    _fits(name, h.shape[:-1], batch)
    return h.expand(*batch, size).reshape(-1, size)


def _as_plan(plan: Plan | object | None, problem: Problem) -> Plan | None:
    if plan is None:
        return None
    batch, (n, m) = problem.batch_shape, problem.shape
    if isinstance(plan, Plan):
        if tuple(plan.shape) != (*batch, n, m):
            raise ValueError(f"plan has shape {tuple(plan.shape)}, but the problem has shape {(*batch, n, m)}")
        plan = plan.to(torch.float64).reshape_batch((math.prod(batch),))
        if isinstance(plan, SparsePlan):
            return SparsePlan(plan.rows, plan.cols, _nonnegative(plan.mass), plan.size)
        return plan
    P = _read("plan", plan, problem)
    if P.shape[-2:] != (n, m):
        raise ValueError(f"plan has shape {check.shape(P)}, but the problem is {n} x {m}: expected (..., {n}, {m})")
    _fits("plan", P.shape[:-2], batch)
    return DensePlan(_nonnegative(P.expand(*batch, n, m).reshape(-1, n, m)))


def _fits(name: str, given: torch.Size, batch: torch.Size) -> None:
    if torch.broadcast_shapes(batch, check.batch(**{f"of {name}": given, "of the problem": batch})) != batch:
        raise ValueError(f"{name} has batch dimensions {tuple(given)}, but the problem has {tuple(batch)}")


def _nonnegative(mass: Tensor) -> Tensor:
    return torch.where(mass.isfinite() & (mass > 0), mass, 0)
