"""Repair, round, bracket: from anybody's witnesses to lower <= truth <= upper.

* Repair: any numbers f become feasible potentials by c-transforms (epsilon = 0); at epsilon > 0 every pair is
  feasible and one block ascent on either side only improves it. That is the lower bound.
* Rounding: any nonnegative matrix is moved into the transport polytope (primal.py). That is the upper bound.
* Arithmetic is float64, and both bounds are widened by an a-priori bound on its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barrow import check
from barrow.cost import Tree
from barrow.entropic import bound_from_potentials
from barrow.ops.summation import pairwise_sum
from barrow.plan import DensePlan, GibbsPlan, Plan, SparsePlan
from barrow.primal import Rounded, detour, forbids, primal_objective, round_to_marginals
from barrow.problem import Problem, marginal_dual, marginal_mass
from barrow.repair import UNIT, repair
from barrow.screen import complaint, screen
from barrow.solution import BadInput, Bounds, Bracket

ArrayLike = Tensor | np.ndarray[Any, Any] | Sequence[Any]  # whatever torch.as_tensor reads
GRAIN = 2.0**-50  # a share of the mass: no atom is known better


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
    wanted: float = 0.0,
) -> Bracket:
    """Repair, round and bracket, for a flattened float64 problem that was screened.

    ``defect`` is the relative difference of mass that was mended: V grows in proportion to the mass, so the bracket is
    widened by that share and holds for either way of mending. Where arcs are forbidden, mass that finds none is mended
    likewise as long as it is rounding of weights in ``dtype``, that of the data; beyond that there is no plan. No
    work is spent on an entropic gap below ``wanted``.
    """
    low, high = problem.cost.limits()
    largest = torch.maximum(low.abs(), high.abs())
    known = 0.0 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    grain = (GRAIN * sum(problem.shape) + known + 2 * defect) * problem.a.sum(-1)
    if problem.epsilon > 0 and plan is None and not forbids(problem.cost):
        f, g, mass, upper = bound_from_potentials(problem, f, g, wanted)
        none = torch.zeros_like(upper)
        rounded = Rounded(gibbs(problem, f, g), problem.a, problem.b, none, none > 0)
    else:
        f, g = repair(problem, f, g)
        rounded = round_to_marginals(
            problem, gibbs(problem, f, g) if problem.epsilon > 0 and plan is None else plan, grain
        )
        upper = primal_objective(problem, rounded, largest)
        # The left potential is the best for the right one, and the mass of its rows known without a pass.
        mass = pairwise_sum(marginal_mass(problem.rho[0], f, problem.a))
    value = dual_objective(problem, f, g, mass)
    slack, slack_above = rounding_error(problem, f, g, upper, rounded, low, largest)
    lower = (value - slack).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    upper = (upper + slack_above).nan_to_num(nan=torch.inf, posinf=torch.inf)
    if forbids(problem.cost):
        upper = torch.where(rounded.lost > grain, torch.inf, upper)  # wherever it is stranded too
        lower = torch.where(rounded.stranded, torch.inf, lower)
    scale = largest * problem.a.sum(-1)
    # Every term of the equation is nonnegative where no cost is negative.
    lower = torch.where(low >= 0, lower.clamp_min(0), lower)
    return mended(Bracket(value, f, g, lower, upper, slack + slack_above, scale.expand_as(value)), low, defect)


def mended(proof: Bracket, low: Tensor, defect: Tensor | float) -> Bracket:
    """The bracket of a problem whose masses differed by a relative ``defect``, with no cost below ``low``."""
    mended = defect * proof.upper.abs().nan_to_num(posinf=0.0)
    lower = proof.lower - mended
    lower = torch.where(low >= 0, lower.clamp_min(0), lower)
    return proof._replace(lower=lower, upper=proof.upper + mended, slack=proof.slack + 2 * mended)


def within(proof: Bracket, tol: float, dtype: torch.dtype) -> Tensor:
    """Whether (upper - lower) / max(|upper|, tiny) <= tol, tiny being what the rounding of the data amounts to.

    What was mended, or may have been lost to rounding, is in the bracket but not held against the solver.
    """
    gap = proof.upper - proof.lower
    noise = 2 * proof.slack + 8 * torch.finfo(dtype).eps * proof.scale
    return gap.isfinite() & ((gap - proof.slack <= tol * proof.upper.abs()) | (gap <= noise))


def gibbs(problem: Problem, f: Tensor, g: Tensor) -> GibbsPlan:
    """P = exp((f + g - C) / epsilon) r x s."""
    r, s = problem.measures
    return GibbsPlan(problem.cost, f + problem.epsilon * r.log(), g + problem.epsilon * s.log(), problem.epsilon)


# -- the two objectives --------------------------------------------------------------------------------------------


def dual_objective(problem: Problem, f: Tensor, g: Tensor, mass: Tensor) -> Tensor:
    """The dual objective (B,) at repaired potentials, whose plan has the ``mass`` (B,)."""
    (rho_a, rho_b), epsilon = problem.rho, problem.epsilon
    value = pairwise_sum(marginal_dual(rho_a, f, problem.a)) + pairwise_sum(marginal_dual(rho_b, g, problem.b))
    if epsilon > 0:
        r, s = problem.measures
        value = value - epsilon * (mass - pairwise_sum(r) * pairwise_sum(s))
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
        # An exponent is off by its own rounding, and the masses of rows and columns with it: nothing is known of them
        # where that is much.
        share = 2 * UNIT * (problem.cost.roundings + depth) * size / epsilon
        blur = torch.where(share < 0.1, 2 * share, torch.inf) * (a.sum(-1) + b.sum(-1)) * size
        return lower, lower + blur + 2 * UNIT * (entry * upper.abs() + detours * terms * largest * mass)
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
