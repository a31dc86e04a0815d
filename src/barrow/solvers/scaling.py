"""The search for entropic potentials of many measures under one cost: Cuturi's scalings, accelerated.

An iteration is two products of matrices, with the kernel and with its transpose, for all problems at once; those that
are settled leave. Everything is in units of epsilon. docs/performance.md says what else was tried.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from barrow.cost.kernel import SINGLE, Kernel
from barrow.ops.sinkhorn import SETTLED, STEP_LIMIT, TIME_LIMIT, Aim, Found, Sides
from barrow.solvers.base import Watch

LENGTH = 1.7  # of a step, where 1 is the plain one and from 2 on nothing decays
TOGETHER = 0.5  # the same where both potentials are one, and plain steps go back and forth
MEMORY = 2  # steps that the acceleration looks back to
RIDGE = 1e-3  # of its normal equations
SAFE = 2  # how much more than it looks a gap may be
STAY = 0.8  # settled problems leave when no larger share is left


def scaling(
    kernel: Kernel, sides: Sides, g: Tensor, aim: Aim, *, symmetric: bool, fine: bool, limit: float | None, watch: Watch
) -> Found:
    """Maximise the dual for every problem of a batch under one kernel; arguments and answer as of the core's search.

    Over-relaxed iterations under Anderson mixing, in single precision unless ``fine`` is asked for or the kernel is
    too wide for it.

    Source: Cuturi 2013, Algorithm 1; Anderson 1965 (mixing).
    """
    dtype = torch.float64 if fine or kernel.reach > SINGLE else torch.float32
    K, epsilon, shift = kernel.K.to(dtype), kernel.epsilon, kernel.shift / kernel.epsilon
    rows = _Side.of(sides.a, sides.r, sides.rho[0] / epsilon, dtype)
    cols = _Side.of(sides.b, sides.s, sides.rho[1] / epsilon, dtype)
    x = torch.where(cols.weight > 0, g / epsilon, 0).to(dtype)
    want = [t.to(dtype) for t in (aim.error, aim.tol, aim.mean_cost / epsilon)]
    mixing = _Mixing(x, TOGETHER if symmetric else LENGTH, 1e-13 if dtype == torch.float64 else 1e-5)
    active = torch.arange(len(g), device=g.device)
    running = torch.ones_like(active, dtype=torch.bool)
    found = Found(torch.empty_like(sides.a), torch.empty_like(g), active.clone(), active.clone(), aim.error.clone())
    for count in range(1, aim.max_steps + 1):
        V, top = cols.raised(x)
        phi = rows.potential(V @ K.mT, top - shift)
        if symmetric:
            stepped = phi
        else:
            U, top = rows.raised(phi)
            stepped = cols.potential(U @ K, top - shift)
        error, dual, good = _judge(rows, cols, phi, x, stepped, *want)
        if not (symmetric or (rows.hard and cols.hard)):
            level = _translation(rows, cols, phi, stepped)
            phi, stepped = phi + level, stepped - level
        watch.tell("passes", count)
        late = watch.left(limit) <= 0
        ends = running if late or count == aim.max_steps else running & good
        if bool(ends.any()):
            here = active[ends]
            pair = (x + stepped,) * 2 if symmetric else (phi, stepped)
            for room, t in zip(found[:2], pair, strict=True):
                room[here] = t[ends].double() * (epsilon / 2 if symmetric else epsilon)
            found.code[here] = torch.where(good[ends], SETTLED, TIME_LIMIT if late else STEP_LIMIT)
            found.steps[here], found.error[here] = count, error[ends].double()
            running = running & ~ends
        x = mixing.next(x, stepped - x, cols.weight, dual)
        left = running.nonzero()[:, 0]
        if len(left) == 0:
            break
        if len(left) <= STAY * len(active):
            mixing.select(left)
            rows, cols = rows.select(left), cols.select(left)
            x, active, running, want = x[left], active[left], running[left], [t[left] for t in want]
    return found


class _Side(NamedTuple):
    """One marginal: weights and references (B, n), both 0 where either is, and log(weight / reference), 0 there."""

    weight: Tensor
    reference: Tensor
    ratio: Tensor | None  # None: 0 everywhere
    absent: Tensor | None  # None: nowhere
    rho: float

    @classmethod
    def of(cls, weight: Tensor, reference: Tensor, rho: float, dtype: torch.dtype) -> _Side:
        absent = (weight <= 0) | (reference <= 0)
        missing = bool(absent.any())
        w, r = (t.masked_fill(absent, 0) if missing else t for t in (weight, reference))
        ratio = None if weight is reference else torch.where(absent, 0, w.log() - r.log()).to(dtype)
        return cls(w.to(dtype), r.to(dtype), ratio, absent if missing else None, rho)

    def select(self, index: Tensor) -> _Side:
        w, r, ratio, absent = (None if t is None else t[index] for t in self[:4])
        assert w is not None
        assert r is not None
        return _Side(w, r, ratio, absent, self.rho)

    @property
    def hard(self) -> bool:
        return math.isinf(self.rho)

    @property
    def share(self) -> float:
        return 1.0 if self.hard else self.rho / (self.rho + 1)

    def raised(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What is raised to powers, r exp(h - top), and the highest exponent, top."""
        top = (h if self.absent is None else h.masked_fill(self.absent, -torch.inf)).amax(-1, keepdim=True)
        top = top.nan_to_num(neginf=0.0)
        return (h - top).exp_().mul_(self.reference), top

    def potential(self, sums: Tensor, top: Tensor) -> Tensor:
        """The best potential, where the other side sums to ``sums`` exp(top)."""
        h = sums.log().add_(top).neg_()
        if self.ratio is not None:
            h = h.add_(self.ratio)
        if not self.hard:
            h = h.mul_(self.share)
        return h if self.absent is None else h.masked_fill_(self.absent, 0)

    def target(self, h: Tensor) -> Tensor:
        """The marginal that the potential asks for."""
        return self.weight if self.hard else self.weight * (h / -self.rho).exp()

    def dual(self, h: Tensor) -> Tensor:
        """What the potential is worth."""
        worth = h if self.hard else -self.rho * torch.expm1(h / -self.rho)
        return (self.weight * worth).sum(-1)


def _judge(
    rows: _Side, cols: _Side, f: Tensor, g: Tensor, stepped: Tensor, most: Tensor, tol: Tensor, mean_cost: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The share of the mass that columns have wrong, the dual, and whether that will do, where f is the best for g.

    Mass that is misplaced costs no more than by the independent coupling, on average.
    """
    mass = cols.weight * (g - stepped / cols.share).exp_()
    total = cols.weight.sum(-1)
    error = (mass - cols.target(g)).abs_().sum(-1) / (2 * total)
    moved = rows.target(f).sum(-1)
    dual = rows.dual(f) + cols.dual(g) - moved + rows.reference.sum(-1) * cols.reference.sum(-1)
    dearer = (mean_cost - dual / total).clamp_min(0)
    return error, dual, (error <= most) & (SAFE * error * dearer * total <= tol * dual.abs())


def _translation(rows: _Side, cols: _Side, f: Tensor, g: Tensor) -> Tensor:
    """The constant (B, 1) that raises the dual most, added to f and taken from g: what unbalanced steps are slow at."""
    left, right = rows.target(f).sum(-1, keepdim=True), cols.target(g).sum(-1, keepdim=True)
    return (left.log() - right.log()) / (1 / rows.rho + 1 / cols.rho)


class _Mixing:
    """Anderson mixing: the combination of the last iterates whose steps cancel best. Mutable."""

    def __init__(self, x: Tensor, length: float, grain: float) -> None:
        self.length, self.grain = length, grain  # of a step; how much the dual may fall by rounding, relatively
        self.points, self.steps = (x.new_zeros(len(x), MEMORY, x.shape[-1]) for _ in "xr")
        self.highest = x.new_full((len(x),), -torch.inf)
        self.known = torch.zeros(len(x), dtype=torch.long, device=x.device)  # how many of the last iterates count
        self.count = self.begun = 0

    def select(self, index: Tensor) -> None:
        """Keep some of the problems."""
        self.points, self.steps = self.points[index], self.steps[index]
        self.highest, self.known = self.highest[index], self.known[index]

    def next(self, x: Tensor, r: Tensor, weight: Tensor, dual: Tensor) -> Tensor:
        """Where to go from x, whose step is r and whose dual is given: the plain step before, if the dual fell."""
        dr, dx = r[:, None] - self.steps, x[:, None] - self.points
        ages = (self.count - 1 - torch.arange(MEMORY, device=x.device)) % MEMORY
        if self.count - self.begun < MEMORY:
            void = (ages >= self.known[:, None])[..., None]
            dr, dx = dr.masked_fill_(void, 0), dx.masked_fill_(void, 0)
        weighted = dr * weight[:, None]
        N, c = (weighted @ dr.mT).double(), (weighted @ r[..., None]).double()
        ridge = RIDGE * N.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-300
        N = N + torch.diag_embed(ridge[:, None].expand(N.shape[:-1]))
        gamma = torch.linalg.solve(N, c).to(x.dtype)
        to = torch.add(x, r, alpha=self.length).sub_((gamma.mT @ dx.add_(dr, alpha=self.length))[:, 0])
        self.known = self.known + 1
        astray = dual < self.highest - self.grain * self.highest.abs()
        self.highest = dual
        if bool(astray.any()):
            last = (self.count - 1) % MEMORY
            to = torch.where(astray[:, None], self.points[:, last] + self.steps[:, last], to)
            self.highest = torch.where(astray, -torch.inf, dual)
            self.known, self.begun = torch.where(astray, 0, self.known), self.count + 1
        self.points[:, self.count % MEMORY], self.steps[:, self.count % MEMORY] = x, r
        self.count += 1
        return to
