"""From any numbers to feasible potentials: the lower half of a certificate.

epsilon = 0: c-transforms make any numbers f feasible. epsilon > 0: every pair is feasible, and one block ascent on
either side only improves it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow.ops.summation import pairwise_sum
from barrow.problem import Problem, log_ratio, step

UNIT = torch.finfo(torch.float64).eps / 2  # the unit roundoff
SERVED = 40  # rho: where the potential of an atom without an arc ends, exp(-40) being nothing


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
        return served(step(rho_a, epsilon, cost.softmin(support(g, log_s, epsilon), epsilon, -1), ratio_a), rho_a)

    def right(f: Tensor, where: Tensor | None = None) -> Tensor:
        soft = cost.softmin(support(f, log_r, epsilon), epsilon, -2, where)
        return served(step(rho_b, epsilon, soft, ratio_b), rho_b)

    if f is None:
        f = torch.zeros_like(problem.a) if g is None else left(anchored(problem, g, s))
    proved = None
    if epsilon == 0 and g is not None and problem.balanced:
        # The potentials of an exact solver are as good as it says, and one pass shows it.
        low = anchored(problem, g, s)
        one_pass = left(low)
        proved = _as_good(problem, one_pass, low, f, g)[:, None]
    if proved is not None and bool(proved.all()):
        f, g = one_pass, low
    else:
        g = right(anchored(problem, f, r))
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


def anchored(problem: Problem, h: Tensor, weight: Tensor) -> Tensor:
    """The same potential, 0 at most, where a constant is free: large numbers would swallow the cost."""
    if not problem.balanced:
        return h
    highest = torch.where((weight > 0) & h.isfinite(), h, -torch.inf).amax(-1, keepdim=True)
    return h - torch.where(highest.isfinite(), highest, 0)


def support(h: Tensor, log_weight: Tensor, epsilon: float) -> Tensor:
    """The sum h + epsilon log weight, with -inf off the support; what is not a number there counts as absent."""
    shifted = h + epsilon * log_weight if epsilon > 0 else h
    present = (log_weight > -torch.inf) & h.isfinite()
    # Where nothing is left, zeros are as good as any numbers.
    hopeless = ~present.any(-1, keepdim=True)
    fallback = epsilon * log_weight if epsilon > 0 else torch.where(log_weight > -torch.inf, 0.0, -torch.inf)
    return torch.where(hopeless, fallback, torch.where(present, shifted, -torch.inf))
