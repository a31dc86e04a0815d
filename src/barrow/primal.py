"""A plan with the right marginals, and what it costs: the upper half of a certificate.

Any nonnegative matrix is moved into the transport polytope by scaling rows, columns and adding a rank-one term
(Altschuler, Weed and Rigollet 2017, Algorithm 2). Where arcs are forbidden a rank-one term would use them, so what is
missing is sent along allowed arcs by a small transport problem of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from barrow.cost import Cost, Dense
from barrow.ops.hall import stranded
from barrow.ops.network_simplex import solve_now
from barrow.ops.summation import pairwise_sum
from barrow.plan import DensePlan, Plan, SparsePlan
from barrow.problem import Problem, marginal_penalty

NEGLIGIBLE = 1e-9  # a share of the mass below which a cheap bound on the cost of a correction is good enough


class Rounded(NamedTuple):
    """plan + u v' has the marginals asked for, but for ``lost`` (B,), which found no allowed arc.

    ``stranded`` (B,): some rows hold more, beyond rounding, than all columns they may reach want: there is no plan.
    """

    plan: Plan
    u: Tensor
    v: Tensor
    lost: Tensor
    stranded: Tensor


def forbids(cost: Cost) -> bool:
    """Whether some arcs are forbidden."""
    return isinstance(cost, Dense) and cost.forbids


def detour(problem: Problem) -> int:
    """How many arcs, at most, a unit of mass takes when it is moved to where it is missing."""
    return 2 * min(problem.shape) + 1 if forbids(problem.cost) else 1


def keep_allowed(plan: Plan, cost: Cost) -> Plan:
    """The plan without the mass that it has on forbidden arcs."""
    if isinstance(plan, SparsePlan):
        allowed = cost.pairs(plan.rows, plan.cols) < torch.inf
        return SparsePlan(plan.rows, plan.cols, torch.where(allowed, plan.mass, 0), plan.size)
    return DensePlan(torch.where(cost.dense() < torch.inf, plan.dense(), 0))


def round_to_marginals(problem: Problem, plan: Plan | None, grain: Tensor) -> Rounded:
    """Meet the hard marginals, lazily: a scaled Gibbs plan is a Gibbs plan. ``grain`` (B,) is mass that is rounding."""
    a, b = problem.a, problem.b
    hard_a, hard_b = (math.isinf(rho) for rho in problem.rho)
    r_support, s_support = (w > 0 for w in problem.measures)
    if plan is not None:
        rows, _ = plan.marginals()
        if not bool(rows.isfinite().all()):
            plan = None
    if plan is None:
        none = torch.zeros((a.shape[0], 1), dtype=torch.long, device=a.device)
        plan = SparsePlan(none, none, torch.zeros_like(a[:, :1]), problem.shape)
        rows = torch.zeros_like(a)
    elif forbids(problem.cost):
        plan = keep_allowed(plan, problem.cost)
        rows, _ = plan.marginals()

    r = torch.where((a > 0) & r_support, 1.0, 0.0).to(a)
    c = torch.where((b > 0) & s_support, 1.0, 0.0).to(b)
    if hard_a or hard_b:
        rows = _apply(plan, c) if bool((c == 0).any()) else rows
        if hard_a:
            full = torch.where(rows > 0, a / torch.where(rows > 0, rows, 1), 1)
            r = r * (full.clamp_max(1) if hard_b else full)
        if hard_b:
            cols = _apply(plan.T, r)
            full = torch.where(cols > 0, b / torch.where(cols > 0, cols, 1), 1)
            c = c * (full.clamp_max(1) if hard_a else full)
    plan = plan.scale(r, c)
    rows, cols = plan.marginals()
    if hard_a and hard_b:
        missing_a, missing_b = (a - rows).clamp_min(0), (b - cols).clamp_min(0)
    elif hard_a:
        missing_a, missing_b = torch.where(rows > 0, 0.0, a), b
    elif hard_b:
        missing_a, missing_b = a, torch.where(cols > 0, 0.0, b)
    else:
        missing_a, missing_b = torch.zeros_like(a), torch.zeros_like(b)
    if forbids(problem.cost) and (hard_a or hard_b):
        mend = _mend if hard_a and hard_b else _serve
        return mend(problem, plan, missing_a, missing_b, grain)
    share = missing_b.sum(-1, keepdim=True) if hard_a else missing_a.sum(-1, keepdim=True)
    share = torch.where(share > 0, share, 1)
    u, v = (missing_a, missing_b / share) if hard_a else (missing_a / share, missing_b)
    return Rounded(plan, u, v, torch.zeros_like(grain), torch.zeros_like(grain, dtype=torch.bool))


def _apply(plan: Plan, v: Tensor) -> Tensor:
    """P v for one vector a problem."""
    return (plan @ v[..., None])[..., 0]


def _matrix(problem: Problem, k: int) -> Tensor:
    """The cost matrix of one problem of a flattened batch."""
    C = problem.cost.dense()
    return C[k] if C.dim() == 3 else C


# -- mending along allowed arcs ----------------------------------------------------------------------------------------


def _mend(problem: Problem, plan: Plan, u: Tensor, v: Tensor, grain: Tensor) -> Rounded:
    """Both marginals hard: what is missing, u (B, n) and v (B, m), is sent along allowed arcs, problem by problem."""
    B, n, m = plan.shape
    none = torch.zeros_like(grain, dtype=torch.bool)
    rows, cols = plan.marginals()
    over = (rows - problem.a).clamp_min(0).sum(-1) + (cols - problem.b).clamp_min(0).sum(-1)
    lost = torch.maximum(u.sum(-1), v.sum(-1)) + over
    if bool((lost > grain).any()):
        give, hopeless = torch.zeros_like(grain), none.clone()
        i, j = (torch.zeros((B, n + m - 1), dtype=torch.long, device=u.device) for _ in range(2))
        mass = u.new_zeros((B, n + m - 1))
        for k in (lost > grain).nonzero()[:, 0].tolist():
            p, q, a, b, C = (t.cpu() for t in (rows[k], cols[k], problem.a[k], problem.b[k], _matrix(problem, k)))
            give[k], i[k], j[k], mass[k], lost[k], hopeless[k] = _rerouted(p, q, a, b, C, float(grain[k]))
        plan = plan.scale((1 - give)[:, None].expand(B, n), torch.ones_like(v))
        none = hopeless
        if isinstance(plan, SparsePlan):
            i, j, mass = (torch.cat(pair, -1) for pair in ((plan.rows, i), (plan.cols, j), (plan.mass, mass)))
            plan = SparsePlan(i, j, mass, plan.size)
        else:
            plan = DensePlan(plan.dense() + SparsePlan(i, j, mass, (n, m)).dense())
    return Rounded(plan, torch.zeros_like(u), torch.zeros_like(v), lost, none)


_Route = tuple[float, Tensor, Tensor, Tensor, float, bool]


def _rerouted(p: Tensor, q: Tensor, a: Tensor, b: Tensor, C: Tensor, grain: float) -> _Route:
    """A share t of the plan with marginals p, q to give up, arcs that carry the rest, what is lost, and whether all is.

    What is missing may have no allowed arc of its own although a plan exists: then a share t of all mass is moved anew
    together with it, more and more of it; t = 1 is a whole problem. That happens only if Hall's condition does not
    forbid it.
    """
    t = 0.0
    while True:
        u, v = (a - (1 - t) * p).clamp_min(0), (b - (1 - t) * q).clamp_min(0)
        over = ((1 - t) * p - a).clamp_min(0).sum() + ((1 - t) * q - b).clamp_min(0).sum()
        found = solve_now(u[None], v[None], C[None])
        i, j, mass = found.rows[0], found.cols[0], found.mass[0]
        mass = torch.where(C[i, j] < torch.inf, mass, 0)
        # Counted where it counts, in the marginals: the two sides of what is missing need not have the same sum.
        off = [(w - torch.zeros_like(w).index_add(0, k, mass)).abs().sum() for w, k in ((u, i), (v, j))]
        lost = float(over + torch.maximum(*off))
        if lost <= grain or t == 1:
            return t, i, j, mass, lost, False
        if t == 0:
            if stranded(a, b, ~C.isinf()).excess > grain:
                return t, i, j, mass, lost, True
            t = lost / float(a.sum())
        t = min(1.0, 8 * t)


def _serve(problem: Problem, plan: Plan, u: Tensor, v: Tensor, grain: Tensor) -> Rounded:
    """One marginal hard: atoms of that side that have no mass yet spread it over those that they may reach."""
    left = math.isinf(problem.rho[0])
    allowed = (problem.cost.dense() < torch.inf).to(u)
    reach = allowed * v[:, None, :] if left else allowed * u[:, :, None]
    total = reach.sum(-1 if left else -2)
    missing = u if left else v
    share = torch.where(total > 0, missing / torch.where(total > 0, total, 1), 0)
    moved = reach * (share[:, :, None] if left else share[:, None, :])
    lost = torch.where(total > 0, 0, missing).sum(-1)
    plan = DensePlan(plan.dense() + moved)
    return Rounded(plan, torch.zeros_like(u), torch.zeros_like(v), lost, lost > grain)


# -- what it costs -----------------------------------------------------------------------------------------------------


def primal_objective(problem: Problem, rounded: Rounded, largest: Tensor) -> Tensor:
    """The primal objective (B,) of plan + u v', and what it would cost to mend its marginals.

    ``largest`` (B,) bounds the arcs. Mass that is lost costs a way out and back along the longest detour.
    """
    plan, u, v, lost, _ = rounded
    anew = detour(problem) * (largest + 64 * problem.epsilon)
    rank_one = u.sum(-1) * v.sum(-1)
    if problem.epsilon == 0:
        value = _inner(problem.cost, plan)
        if bool((rank_one > NEGLIGIBLE * problem.a.sum(-1)).any()):
            for i, j in problem.cost.chunks(u.shape[0]):
                moved = problem.cost.block(i, j) * u[:, i:j, None] * v[:, None, :]
                value = value + pairwise_sum(moved.flatten(-2))
        else:
            value = value + problem.cost.spread(u, v)
        rows, cols = plan.marginals()
        rows, cols = rows + u * v.sum(-1, keepdim=True), cols + v * u.sum(-1, keepdim=True)
    else:
        value, rows, cols = _entropic(problem, plan, u, v)
        # A potential of 1e8 epsilon scales a Gibbs plan to 8 digits only: what the marginals are off is moved anew.
        for rho, q, w in zip(problem.rho, (rows, cols), (problem.a, problem.b), strict=True):
            if math.isinf(rho):
                value = value + 2 * (q - w).abs().sum(-1) * anew
    for rho, q, w in zip(problem.rho, (rows, cols), (problem.a, problem.b), strict=True):
        value = value + pairwise_sum(marginal_penalty(rho, q, w))
    return value + 2 * lost * anew


def _inner(cost: Cost, plan: Plan) -> Tensor:
    """<C, P> (B,)."""
    total: Tensor | float = 0.0
    for pick, mass in plan.pieces():
        # A zero of the plan forgives whatever the cost is there.
        moved = torch.where(mass > 0, pick(cost) * mass, 0)
        total = total + pairwise_sum(moved.flatten(1))
    assert isinstance(total, Tensor)
    return total


def _entropic(problem: Problem, plan: Plan, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """<C, P> + epsilon KL(P | r x s) and both marginals, in one pass over blocks of rows."""
    r, s = problem.measures
    log_r, log_s = r.log(), s.log()
    value: Tensor | float = 0.0
    rows, cols = [], torch.zeros_like(problem.b)
    for i, j in problem.cost.chunks(u.shape[0]):
        P = plan.block(i, j) + u[:, i:j, None] * v[:, None, :]
        reference = log_r[:, i:j, None] + log_s[:, None, :]
        entry = problem.cost.block(i, j) * P + problem.epsilon * (torch.xlogy(P, P) - P - P * reference)
        value = value + pairwise_sum(torch.where(P > 0, entry, 0).flatten(1))
        rows.append(P.sum(-1))
        cols += P.sum(-2)
    value = value + problem.epsilon * pairwise_sum(r) * pairwise_sum(s)
    return value, torch.cat(rows, -1), cols
