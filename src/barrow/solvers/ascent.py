"""Block ascent on the entropic dual in torch: for costs and devices that the core does not know."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from barrow.certify import bracket, gibbs, within
from barrow.cost import Cost, Dense, Grid
from barrow.ops.chunks import ENTRIES
from barrow.problem import Problem, log_ratio, step
from barrow.repair import served
from barrow.solution import Status, Witness
from barrow.solvers.base import Start, Watch

HOLD = 0.05  # epsilon: a level of the annealing is settled when potentials move less than this share of it in a sweep
LONGEST = 40  # sweeps at most on a level
LAST = 16  # times the final epsilon: levels below are passed quickly
SETTLED = 4  # sweeps at the final epsilon before the first proof is sought
PERIOD = 8  # sweeps between two judgements of the over-relaxation
CACHED = 8 * ENTRIES  # entries of a cost matrix that are kept rather than computed again in every sweep


def ascend(
    problem: Problem, start: Start | None, watch: Watch, tol: float, max_steps: int, time_limit: float | None
) -> Witness:
    """Sweeps while epsilon falls from the largest cost to its target, then until each problem's gap is at most tol.

    Source: Peyre and Cuturi, Computational Optimal Transport, section 4.4; Thibault, Chizat, Dossal and Papadakis 2021
    (over-relaxation).
    """
    state = _State.begin(problem, start)
    B = problem.a.shape[0]
    f, g = state.f.clone(), state.g.clone()
    codes = torch.full((B,), Status.step_limit.code, device=f.device)
    steps = torch.zeros_like(codes)
    active = torch.arange(B, device=f.device)
    sought = torch.zeros(B, device=f.device)  # the sweep at which a proof was last sought
    factor = torch.full((B,), torch.inf, dtype=f.dtype, device=f.device)  # gap per movement, as last seen
    gaps = torch.full_like(factor, torch.inf)  # as last proved
    worst, late = None, False
    for count in range(1, max_steps + 1):
        if late or not len(active):
            break
        change = state.sweep()
        steps[active] = count
        late = watch.left(time_limit) <= 0
        watch.tell("sweeps", count, gap=worst)
        # A proof costs a few sweeps, so it is sought when the last one predicts success, or at growing intervals.
        # Each problem decides alone: its answer does not depend on the batch it is in.
        hopeful = (change * factor <= tol) | (count >= 1.5 * sought)
        due = (hopeful & (state.age >= SETTLED)) | (count == max_steps) | late
        if not bool(due.any()):
            continue
        pick = due.nonzero()[:, 0]
        judged = state.select(pick)
        f[active[pick]], g[active[pick]] = judged.f, judged.g
        proof = bracket(judged.exact, None, judged.f, judged.g)
        done = within(proof, tol, torch.float64)
        codes[active[pick[done]]] = 0
        hopeless = proof.lower == torch.inf
        codes[active[pick[hopeless]]] = Status.infeasible.code
        done = done | hopeless
        gap = (proof.upper - proof.lower) / proof.upper.abs().clamp_min(torch.finfo(f.dtype).tiny)
        factor[pick] = gap / change[pick].clamp_min(torch.finfo(f.dtype).tiny)
        sought[pick] = count
        gaps[active[pick]] = torch.where(hopeless, torch.inf, gap)
        worst = float(gaps.max())
        watch.tell("sweeps", count, gap=worst, now=True)
        stay = torch.ones_like(due)
        stay[pick[done]] = False
        left = stay.nonzero()[:, 0]
        active, factor, sought, state = active[left], factor[left], sought[left], state.select(left)
    if late:
        codes[active] = Status.time_limit.code
    return Witness(gibbs(problem, f, g), f, g, codes, steps)


@dataclasses.dataclass
class _State:
    """The iterates of the problems that still run. Mutable, unlike everything a user sees."""

    exact: Problem
    cost: Cost  # the same cost, as a stored matrix where that is small
    f: Tensor
    g: Tensor
    epsilon: Tensor  # (B,) the annealed strength of the entropy
    level: Tensor  # (B,) sweeps at this epsilon
    age: Tensor  # (B,) sweeps at the epsilon of the problem
    omega: Tensor  # (B,) the over-relaxation in force
    mark: Tensor  # (B,) how far f moved in the sweep that omega was last judged at

    @staticmethod
    def begin(problem: Problem, start: Start | None) -> _State:
        n, m = problem.shape
        low, high = problem.cost.limits()
        target = torch.full_like(problem.a[:, 0], problem.epsilon)
        epsilon = target
        f, g = (torch.zeros_like(w) for w in (problem.a, problem.b))
        if start is not None:
            f, g = start.f, start.g
        elif target.numel():
            epsilon = torch.maximum((high - low).expand_as(target), target)
        entries = math.prod(problem.cost.batch_shape) * n * m
        # Axis by axis a sweep is faster than over a stored matrix, however small.
        by_axis = isinstance(problem.cost, Grid) and problem.cost.separable
        cost = Dense(problem.cost.dense()) if entries <= CACHED and not by_axis else problem.cost
        zero, one = torch.zeros_like(target), torch.ones_like(target)
        return _State(
            problem, cost, f, g, epsilon, level=zero, age=zero, omega=one, mark=torch.full_like(one, torch.nan)
        )

    def select(self, index: Tensor) -> _State:
        if len(index) == len(self.epsilon):
            return self
        return _State(
            self.exact.select(index),
            self.cost.select(index),
            self.f[index],
            self.g[index],
            self.epsilon[index],
            self.level[index],
            self.age[index],
            self.omega[index],
            self.mark[index],
        )

    def sweep(self) -> Tensor:
        """One block ascent on each side; returns (B,) how far the left potential moved, in units of epsilon."""
        problem, epsilon = self.exact, self.epsilon
        (rho_a, rho_b), (r, s) = problem.rho, problem.measures
        eps = epsilon[:, None]
        before = self.f
        if problem.symmetric:
            # One potential for both sides; averaging turns the oscillation of the plain iteration into fast decay.
            soft = self.cost.softmin(self.f + eps * r.log(), epsilon, -1)
            self.f = self.g = (self.f + served(step(rho_a, eps, soft, 0.0), rho_a)) / 2
        else:
            shift = self._translation()[:, None]
            f, g = self.f + shift, self.g - shift
            # On the last levels both sides step at once, half way: what is nearly symmetric stays so. Plain sweeps lift
            # f and lower g atom by atom there, and at the final epsilon nothing decays as slowly as that.
            together = ((epsilon > problem.epsilon) & (epsilon <= LAST * problem.epsilon))[:, None]
            length = torch.where(together, 0.5, self.omega[:, None])
            soft = self.cost.softmin(f + eps * r.log(), epsilon, -2)
            self.g = g + length * (served(step(rho_b, eps, soft, log_ratio(problem.b, s)), rho_b) - g)
            soft = self.cost.softmin(torch.where(together, g, self.g) + eps * s.log(), epsilon, -1)
            self.f = f + length * (served(step(rho_a, eps, soft, log_ratio(problem.a, r)), rho_a) - f)
        moved = torch.where(problem.a > 0, problem.a * (self.f - before).abs(), 0).sum(-1)
        moved = moved / (epsilon * problem.a.sum(-1))
        self._anneal(moved)
        if not problem.symmetric:
            self._relax(moved)
        return moved

    def _anneal(self, moved: Tensor) -> None:
        """Halve epsilon where the level is settled, or hopeless.

        Mass that must cross a gap of many epsilon is seen at large epsilon only: a level that is left too early is paid
        for at all later ones. The last levels are passed at one sweep each.
        """
        target = torch.full_like(self.epsilon, self.exact.epsilon)
        self.age = torch.where(self.epsilon > target, 0, self.age + 1)
        self.level = self.level + 1
        leave = (moved <= HOLD) | (self.level >= LONGEST) | (self.epsilon <= LAST * target)
        self.epsilon = torch.where(leave, torch.maximum(self.epsilon / 2, target), self.epsilon)
        self.level = torch.where(leave, 0, self.level)

    def _relax(self, moved: Tensor) -> None:
        """Choose omega from the observed rate of decay.

        Near the solution block ascent is Gauss-Seidel on the Hessian of the dual. If its slowest mode decays by theta a
        sweep, then under omega it decays by lambda with (lambda + omega - 1)^2 = lambda omega^2 theta, as long as omega
        is below its best value 2 / (1 + sqrt(1 - theta)). An observed lambda gives theta, and theta a better omega;
        early estimates are too small, which is the safe side. Growth sends a problem back to plain sweeps.
        """
        due = (self.age > 0) & (self.age % PERIOD == 0)
        rate = (moved / self.mark).pow(1 / PERIOD)
        theta = ((rate + self.omega - 1).square() / (rate * self.omega.square())).clamp(0, 1 - 1e-6)
        best = 2 / (1 + (1 - theta).sqrt())
        # Above its best value omega only rotates modes of modulus omega - 1: nothing is learned about theta there.
        learned = due & (rate < 1) & (rate > self.omega - 1)
        before = self.omega
        self.omega = torch.where(learned, torch.maximum(best, before), torch.where(due & (rate >= 1), 1.0, before))
        # A new omega changes the length of a step before its decay: it is judged only after a period of rest.
        self.mark = torch.where(due, torch.where(self.omega == before, moved, torch.nan), self.mark)

    def _translation(self) -> Tensor:
        """The constant that, added to f and taken from g, raises the dual most: what unbalanced sweeps are slow at."""
        problem = self.exact
        if problem.balanced:
            return torch.zeros_like(self.epsilon)
        logs, rates = [], []
        for rho, w, h in zip(problem.rho, (problem.a, problem.b), (self.f, self.g), strict=True):
            logs.append(torch.logsumexp(w.log() - h / rho, -1))
            rates.append(1 / rho)
        return (logs[0] - logs[1]) / sum(rates)
