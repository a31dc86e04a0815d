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
from barrow.ops.rough import has_rough_products
from barrow.ops.sinkhorn import ROUNDED, SETTLED, STEP_LIMIT, TIME_LIMIT, Aim, Found, Sides
from barrow.solvers.base import Watch

LENGTH = 1.7  # of a step, where 1 is the plain one and from 2 on nothing decays
TOGETHER = 0.5  # the same where both potentials are one, and plain steps go back and forth
MEMORY = 2  # steps that the acceleration looks back to
RIDGE = 1e-3  # of its normal equations
SAFE = 3  # how much more than it looks a gap may be: a second search costs more than a few iterations
STAY = 0.9  # settled problems leave when no larger share is left
FALL = 0.7  # an error that is less than this share of the least so far has fallen
GROWN = 1.5  # how much larger than the least an error is when the last combination went too far:
SHORTER = 0.25  # then the next ones keep to such a share of its coefficients,
LONGER = 2  # and may have as many times larger ones after each that went well
ASTRAY = 4  # how much larger than the least an error may become before acceleration begins anew
ROUGH = 0.01  # errors above are found as well by products in bfloat16,
ROUGHLY = 16  # which are given up after so many iterations all the same: they may be worse than that
GRAIN = 3e-5  # errors that single precision may make up,
PATIENCE = 10  # if they do not fall in so many iterations


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
    mixing = _Mixing(cols.weight, TOGETHER if symmetric else LENGTH)
    active = torch.arange(len(g), device=g.device)
    running, idle = torch.ones_like(active, dtype=torch.bool), torch.zeros_like(active)
    found = Found(torch.empty_like(sides.a), torch.empty_like(g), active.clone(), active.clone(), aim.error.clone())
    rough = dtype == torch.float32 and has_rough_products(K.device)
    factor = K.bfloat16() if rough else K
    direct = rows.hard and cols.hard and not symmetric
    for count in range(1, aim.max_steps + 1):
        V, top = cols.raised(x)
        sums = _times(V, factor.mT)
        if direct:
            # Neither a logarithm nor an exponential for the rows: what they are raised to is weight / sum.
            T = _times(rows.weight / sums, factor)
            error = _apart(V * T, cols.weight) / (2 * cols.mass)
            step = cols.potential(T, -top).sub_(x)
        else:
            phi = rows.potential(sums, top - shift)
            if symmetric:
                step = phi - x
            else:
                U, top = rows.raised(phi)
                step = cols.potential(_times(U, factor), top - shift).sub_(x)
            error = cols.wrong(x, step) / (2 * cols.mass)
        watch.tell("passes", count)
        late = watch.left(limit) <= 0
        last = late or count == aim.max_steps
        if not (symmetric or direct):
            level = _translation(rows, cols, phi, x + step)
            phi, step = phi + level, step - level
        close = error <= want[0]
        idle = torch.where((error < FALL * mixing.least) | (error > GRAIN), 0, idle + 1)
        stuck = (idle >= PATIENCE) & (dtype == torch.float32)
        if last or (not rough and bool((close | stuck).any())):
            if direct:
                phi = rows.potential(sums, top - shift)
            close &= _good(rows, cols, phi, x, error, *want[1:]) & (not rough)
            ends = running if last else running & (close | stuck)
            here = active[ends]
            pair = (2 * x + step,) * 2 if symmetric else (phi, x + step)
            for room, t in zip(found[:2], pair, strict=True):
                room[here] = t[ends].double() * (epsilon / 2 if symmetric else epsilon)
            unsettled = torch.where(stuck, ROUNDED, TIME_LIMIT if late else STEP_LIMIT)
            found.code[here] = torch.where(close, SETTLED, unsettled)[ends]
            found.steps[here], found.error[here] = count, error[ends].double()
            running = running & ~ends
        x = mixing.next(x, step, error)
        if rough and (count == ROUGHLY or bool(error.median() <= ROUGH)):
            rough, factor = False, K
        left = running.nonzero()[:, 0]
        if len(left) == 0:
            break
        if len(left) <= STAY * len(active):
            mixing.select(left)
            rows, cols = rows.select(left), cols.select(left)
            x, active, running, idle, want = x[left], active[left], running[left], idle[left], [t[left] for t in want]
    return found


def _times(V: Tensor, K: Tensor) -> Tensor:
    return V @ K if V.dtype == K.dtype else (V.to(K.dtype) @ K).to(V.dtype)


class _Side(NamedTuple):
    """One marginal: weights and references (B, n), both 0 where either is, and log(weight / reference), 0 there.

    Potentials of atoms without weight are like any others, and count for nothing.
    """

    weight: Tensor
    reference: Tensor
    mass: Tensor  # (B,) of the weights
    size: Tensor  # (B,) of the references
    ratio: Tensor | None  # None: 0 everywhere
    bare: Tensor | None  # where there is neither; None: nowhere
    rho: float

    @classmethod
    def of(cls, weight: Tensor, reference: Tensor, rho: float, dtype: torch.dtype) -> _Side:
        size, present = reference.sum(-1).to(dtype), (weight > 0) & (reference > 0)
        w, r = (torch.where(present, t, 0).to(dtype) for t in (weight, reference))
        ratio = None if weight is reference else torch.where(present, weight.log() - reference.log(), 0).to(dtype)
        bare = None if bool(present.all()) else ~present
        return cls(w, r, w.sum(-1), size, ratio, bare, rho)

    def select(self, index: Tensor) -> _Side:
        weight, reference, mass, size = (t[index] for t in (self.weight, self.reference, self.mass, self.size))
        ratio, bare = (None if t is None else t[index] for t in (self.ratio, self.bare))
        return _Side(weight, reference, mass, size, ratio, bare, self.rho)

    @property
    def hard(self) -> bool:
        return math.isinf(self.rho)

    @property
    def share(self) -> float:
        return 1.0 if self.hard else self.rho / (self.rho + 1)

    def raised(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What is raised to powers, r exp(h - top), and the highest exponent, top."""
        if self.bare is not None:  # beside a high potential that counts for nothing, the others would be lost
            h = h.masked_fill(self.bare, -torch.inf)
        top = h.amax(-1, keepdim=True)
        return (h - top).exp_().mul_(self.reference), top

    def potential(self, sums: Tensor, top: Tensor) -> Tensor:
        """The best potential, where the other side sums to ``sums`` exp(top)."""
        h = sums.log_().add_(top).neg_()
        if self.ratio is not None:
            h = h.add_(self.ratio)
        return h if self.hard else h.mul_(self.share)

    def moved(self, h: Tensor) -> Tensor:
        """The mass (B,) that the potential asks for."""
        return self.mass if self.hard else _dot(self.weight, (h / -self.rho).exp_())

    def worth(self, h: Tensor) -> Tensor:
        """What the potential adds to the dual, (B,)."""
        return _dot(self.weight, h) if self.hard else -self.rho * _dot(self.weight, (h / -self.rho).expm1_())

    def wrong(self, h: Tensor, step: Tensor) -> Tensor:
        """How much mass (B,) is off the marginal that the potential asks for, given the step to its best."""
        if self.hard:
            return _dot(self.weight, step.neg().expm1_().abs_())
        asked = (h / -self.rho).exp_()
        return _dot(self.weight, asked.mul_((step / -self.share).expm1_().abs_()))


def _apart(u: Tensor, v: Tensor) -> Tensor:
    """The sum of |u - v| for each problem; u is used up."""
    return u.sub_(v).abs_().sum(-1)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    """<u, v> for each problem."""
    product: Tensor = torch.linalg.vecdot(u, v)
    return product


def _good(rows: _Side, cols: _Side, f: Tensor, g: Tensor, error: Tensor, tol: Tensor, mean_cost: Tensor) -> Tensor:
    """Whether the gap (B,) is likely below tol, where f is the best for g and columns have the share ``error`` wrong.

    Mass that is misplaced costs no more than by the independent coupling, on average.
    """
    dual = rows.worth(f) + cols.worth(g) - rows.moved(f) + rows.size * cols.size
    dearer = (mean_cost - dual / cols.mass).clamp_min(0)
    return SAFE * error * dearer * cols.mass <= tol * dual.abs()


def _translation(rows: _Side, cols: _Side, f: Tensor, g: Tensor) -> Tensor:
    """The constant (B, 1) that raises the dual most, added to f and taken from g: what unbalanced steps are slow at."""
    return ((rows.moved(f).log() - cols.moved(g).log()) / (1 / rows.rho + 1 / cols.rho))[:, None]


class _Mixing:
    """Anderson mixing: the combination of the last iterates whose steps cancel best. Mutable.

    Iterates are kept as where they lead, x + length r, beside their steps r: as the coefficients of a combination sum
    to 1, that is all of it.
    """

    def __init__(self, weight: Tensor, length: float) -> None:
        self.weight, self.length = weight, length
        bare = weight == 0
        self.bare = bare if bool(bare.any()) else None
        self.steps: list[Tensor] = []
        self.ends: list[Tensor] = []
        self.products: list[Tensor] = []  # (B, k) of a step with those before it, from itself backwards
        self.known = torch.zeros(len(weight), dtype=torch.long, device=weight.device)  # how many of them count
        self.least = weight.new_full((len(weight),), torch.inf)  # error
        self.taken, self.reach = (
            torch.zeros_like(self.least),
            self.least.clone(),
        )  # the largest coefficient, and allowed

    def select(self, index: Tensor) -> None:
        """Keep some of the problems."""
        self.weight, self.known, self.least = self.weight[index], self.known[index], self.least[index]
        self.taken, self.reach = self.taken[index], self.reach[index]
        self.bare = None if self.bare is None else self.bare[index]
        for part in (self.steps, self.ends, self.products):
            part[:] = [t[index] for t in part]

    def next(self, x: Tensor, r: Tensor, error: Tensor) -> Tensor:
        """Where to go from x, whose step is r and whose error is given: the plain step before, if that grew."""
        end, heavy = torch.add(x, r, alpha=self.length), self.weight * r
        steps, ends = [r, *self.steps], [end, *self.ends]
        self.products.insert(0, torch.stack([_dot(heavy, s) for s in steps], -1))
        # Where the plan is nearly one of exact transport, steps are alike until it changes, and tell nothing of then.
        self.reach = torch.where(error > GROWN * self.least, SHORTER * self.taken, LONGER * self.reach)
        shares = self._shares(len(steps))
        to = end * shares[:, :1]
        for c, other in enumerate(self.ends, 1):
            to.addcmul_(other, shares[:, c : c + 1])
        self.known = self.known + 1
        astray = ~(error <= ASTRAY * self.least)  # not a number is astray, too
        self.least = torch.minimum(self.least, error)
        if self.ends and bool(astray.any()):
            plain = torch.add(self.ends[0], self.steps[0], alpha=1 - self.length)
            to = torch.where(astray[:, None], plain, to)
            self.least = torch.where(astray, torch.inf, self.least)
            self.known = torch.where(astray, 0, self.known)
        self.steps, self.ends, self.products = steps[:MEMORY], ends[:MEMORY], self.products[:MEMORY]
        # Nothing in the products restrains a combination where there is no weight: there it could go anywhere, and
        # what is raised to powers would be lost beside it.
        return to if self.bare is None else torch.where(self.bare, x + r, to)

    def _shares(self, count: int) -> Tensor:
        """The coefficients (B, count), of sum 1, that minimise the combined step."""
        # Products of all pairs, and from them those of the differences to the newest.
        rows = [torch.nn.functional.pad(p, (c, count - c - p.shape[-1])) for c, p in enumerate(self.products)]
        half = torch.stack(rows, -2).double()
        pairs = half + half.mT - torch.diag_embed(half.diagonal(dim1=-2, dim2=-1))
        c = pairs[:, 0, :1] - pairs[:, 0, 1:]
        N = pairs[:, :1, :1] - pairs[:, :1, 1:] - pairs[:, 1:, :1] + pairs[:, 1:, 1:]
        if count == 1:
            return torch.ones_like(self.products[0])
        void = torch.arange(1, count, device=N.device) > self.known[:, None]
        N, c = N.masked_fill(void[:, None] | void[..., None], 0), c.masked_fill(void, 0)
        ridge = RIDGE * N.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) + 1e-300
        gamma = torch.linalg.solve(N + torch.diag_embed(ridge.expand_as(c)), c)
        largest = gamma.abs().amax(-1)
        gamma = gamma * (self.reach / largest).clamp(max=1).nan_to_num(1)[:, None]
        self.taken = torch.minimum(largest.to(self.reach.dtype), self.reach)
        return torch.cat((1 - gamma.sum(-1, keepdim=True), gamma), -1).to(self.products[0].dtype)
