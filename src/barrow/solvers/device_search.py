"""The search for entropic potentials between clouds on a device, each answer judged by the certificate."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from barrow.certify import bracket, gibbs, within
from barrow.cost import Points
from barrow.problem import Problem
from barrow.solution import Bracket, Status, Witness
from barrow.solvers.base import Start, Watch
from barrow.solvers.opening import opening, target_error

ROUNDS = 8  # searches with ever smaller errors, until the proof says that it is enough
SINGLE = 2  # rounds in single precision, at most
ROUNDING = 2.0**-22  # of single precision, in a sweep
COARSE = 0.05  # epsilon: potentials that single precision knows no better are not worth its sweeps
RANGE = 1e15  # and its inverse: numbers whose squares single precision still holds
AWAY = 2.0  # epsilon: how far a potential is from the best one, on average, in shares of the mass that is wrong
LESS = 2.0  # gaps are mostly smaller than predicted, by this factor or more
LEAP = 0.01  # errors are made smaller by this factor at once, at most
MANY = 2**31 - 1  # sweeps, beyond which the device does not count


def launched(problem: Problem) -> bool:
    """Whether the kernels of a device search for the potentials of this problem."""
    return isinstance(problem.cost, Points) and problem.cost.launched(problem.a, problem.b, *problem.measures)


def device_search(
    problem: Problem, start: Start | None, watch: Watch, tol: float, max_steps: int, time_limit: float | None
) -> Witness:
    """Sweeps that the device stops problem by problem, then the bracket in float64; again where its gap exceeds tol.

    Sweeps are made in single precision as long as its rounding is below the error that is asked for, and in double
    precision after that. The host waits for the device when a search ends, never for a sweep.
    """
    B, device = len(problem.a), problem.a.device
    g, begin, mean, _ = opening(problem, start, annealed=True, watch=watch, limit=time_limit)
    f, error, omega = torch.zeros_like(problem.a), torch.full_like(begin, target_error(tol)), torch.ones_like(begin)
    steps = torch.zeros(B, dtype=torch.long, device=device)
    codes, proof = torch.full_like(steps, Status.step_limit.code), None
    fine = (ROUNDING * mean > COARSE * problem.epsilon) | ~_single(problem)
    active = torch.arange(B, device=device)
    clock = _Clock(watch, time_limit)
    for count in range(ROUNDS):
        for dtype in (torch.float32, torch.float64):
            chosen = active[fine[active] == (dtype == torch.float64)]
            if not len(chosen):
                continue
            left = (max_steps - steps[chosen]).clamp(0, MANY)
            aim = _Aim(begin[chosen], omega[chosen], error[chosen], mean[chosen], left, tol, dtype, count == 0)
            found = _sweep(problem if len(chosen) == B else problem.select(chosen), g[chosen], aim, clock)
            f, g = f.index_copy(0, chosen, found.f), g.index_copy(0, chosen, found.g)
            steps = steps.index_add(0, chosen, found.steps)
            unsettled = Status.time_limit if clock.late else Status.step_limit
            codes[chosen] = torch.where(found.settled, Status.gap.code, unsettled.code)
            error[chosen], omega[chosen] = found.wanted, found.omega
            # From here on at the epsilon of the problem. What single precision cannot tell from its rounding is left
            # to double precision, in the same round.
            begin[chosen] = 0
            fine[chosen] |= found.noise > found.wanted
        part = problem if len(active) == B else problem.select(active)
        judged = bracket(part, None, f[active], g[active], wanted=tol)
        pieces = judged if proof is None else (t.index_copy(0, active, u) for t, u in zip(proof, judged, strict=True))
        proof = Bracket(*pieces)
        gap = (judged.upper - judged.lower) / judged.upper.abs().clamp_min(torch.finfo(f.dtype).tiny)
        done = within(judged, tol, torch.float64)
        codes[active[done]] = 0
        # The gap is at most proportional to the error: ask for so much less.
        error[active] *= (0.3 * tol / gap).nan_to_num(nan=0.1).clamp(LEAP, 0.5)
        fine |= count + 1 >= SINGLE
        if len(active):
            watch.tell("sweeps", clock.sweeps, gap=float(gap.max()), now=True)
        active = active[~done & (steps[active] < max_steps)]
        if clock.late or not len(active):
            break
    return Witness(gibbs(problem, f, g), f, g, codes, steps, proof)


class _Clock:
    """Told how many sweeps were launched, says whether it is too late for more."""

    def __init__(self, watch: Watch, limit: float | None) -> None:
        self.watch, self.limit = watch, limit
        self.sweeps, self.before, self.late = 0, 0, False

    def __call__(self, launched: int) -> bool:
        self.before = 0 if launched == 0 else self.before
        self.sweeps, self.before = self.sweeps + launched - self.before, launched
        self.late = self.watch.left(self.limit) <= 0
        self.watch.tell("sweeps", self.sweeps)
        return self.late


class _Aim(NamedTuple):
    """Where sweeps begin and how far they go, one number a problem (B,) first."""

    begin: Tensor  # epsilon
    omega: Tensor  # the over-relaxation
    error: Tensor  # the share of the mass that may be wrong
    mean_cost: Tensor  # of the independent coupling: what a unit of misplaced mass may cost
    left: Tensor  # sweeps
    tol: float
    dtype: torch.dtype
    rough: bool  # whether costs may be off by a share of epsilon as small as the error


class _Found(NamedTuple):
    """Where sweeps ended: potentials in float64 and one number a problem (B,)."""

    f: Tensor
    g: Tensor
    steps: Tensor
    settled: Tensor
    omega: Tensor
    wanted: Tensor  # the error that makes a gap of tol likely
    noise: Tensor  # the error that rounding may make up


def _sweep(problem: Problem, g: Tensor, aim: _Aim, clock: _Clock) -> _Found:
    """Sweeps until the error is the one aimed at, and then until it makes the gap that is asked for likely."""
    from barrow.ops.triton.sinkhorn import Effort, Entropic, Sweeps

    cost = problem.cost
    assert isinstance(cost, Points)
    asked = Entropic(
        cost.x,
        cost.y,
        problem.a,
        problem.b,
        problem.epsilon,
        cost.p,
        cost.norm,
        problem.rho,
        problem.reference,
        problem.symmetric,
    )
    product, share = None if aim.rough else "direct", min(0.01, target_error(aim.tol))
    state = Sweeps(
        asked, Effort((None, g), aim.begin, aim.omega, AWAY * aim.error, aim.left, aim.dtype, product, share)
    )
    state.drive(clock)
    wanted = torch.minimum(aim.error, _likely(problem, state.f.double(), state.g.double(), aim))
    state.resume(state.moved > AWAY * wanted, AWAY * wanted)
    state.drive(clock)
    found = state.potentials()
    f, g, omega = (t.double() for t in (found.f, found.g, state.omega))
    return _Found(f, g, found.steps.long(), found.settled, omega, wanted, state.noise / AWAY)


def _likely(problem: Problem, f: Tensor, g: Tensor, aim: _Aim) -> Tensor:
    """The error (B,) at which the gap of a balanced problem is likely tol: misplaced mass costs the mean.

    With soft marginals the gap is of second order in the error.
    """
    if not problem.balanced:
        return aim.error
    (a, b), (r, s) = (problem.a, problem.b), problem.measures
    mass = a.sum(-1)
    dual = torch.where(a > 0, a * f, 0).sum(-1) + torch.where(b > 0, b * g, 0).sum(-1)
    dual = dual + problem.epsilon * (r.sum(-1) * s.sum(-1) - mass)
    dearer = (aim.mean_cost * mass - dual).clamp_min(torch.finfo(f.dtype).tiny)
    return torch.maximum(LESS * aim.tol * dual.abs() / dearer, LEAP * aim.error)


def _single(problem: Problem) -> Tensor:
    """Which problems (B,) have numbers that single precision holds."""
    _, largest = problem.cost.limits()
    sizes = [problem.epsilon, *(rho for rho in problem.rho if not math.isinf(rho))]
    inside = all(1 / RANGE < size < RANGE for size in sizes)
    return ((largest > 1 / RANGE) & (largest < RANGE) & inside).expand(len(problem.a))
