"""Sinkhorn's iteration on the device: sweeps are launched ahead, and every problem of a batch stops by itself there.

The iteration, its annealing and its over-relaxation are those of the loop in torch (`barrow.solvers.ascent`). The C++
core searches otherwise (`csrc/sinkhorn.hpp`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from barrow.ops.triton import softmin, sweep
from barrow.ops.triton.clouds import Clouds, affordable, box, guard, lay_out

CHUNK = 16  # sweeps, at most, between two looks at the flags
LOOK = 1 << 36  # pairs, about, between two looks: a fraction of a second
SMALL = 1 << 28  # pairs in a sweep below which launches take longer than sweeps: those are recorded once and replayed
NOISE = 4.0  # roundings of the potentials: those that move by less do not move

Over = Callable[[int], bool]  # whether it is time to end, given the number of sweeps that were launched


@dataclasses.dataclass(frozen=True, eq=False)
class Entropic:
    """B problems of entropic transport between clouds.

    Args:
        x: points (B, n, d), or (n, d) for all problems.
        y: points (B, m, d) or (m, d). For symmetric problems, x.
        a: weights (B, n); zeros are legal.
        b: weights (B, m).
        epsilon: a number, or one a problem (B,).
        p: the exponent.
        norm: the ground norm, 1, 2 or inf.
        rho: the marginal penalties; inf is a hard constraint.
        reference: (r, s), shaped like a and b, unless it is a x b.
        symmetric: whether this is a measure against itself; then f = g, and sweeps are averaged.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    epsilon: Tensor | float
    p: float = 2
    norm: float = 2
    rho: tuple[float, float] = (math.inf, math.inf)
    reference: tuple[Tensor, Tensor] | None = None
    symmetric: bool = False

    @property
    def measures(self) -> tuple[Tensor, Tensor]:
        """The reference measure (r, s)."""
        return (self.a, self.b) if self.reference is None else self.reference

    @property
    def seen(self) -> tuple[Tensor | None, Tensor | None]:
        """Which points of the clouds have mass."""
        r, s = self.measures
        return _seen(self.a, r, self.x), _seen(self.b, s, self.y)

    @property
    def target(self) -> Tensor:
        """The strength of the entropy, one number a problem (B,), float64."""
        device, B = self.a.device, len(self.a)
        if isinstance(self.epsilon, Tensor):
            return self.epsilon.to(device, torch.float64).expand(B)
        return torch.full((B,), self.epsilon, dtype=torch.float64, device=device)

    def largest(self) -> Tensor:
        """The cost across the box around what is seen of both clouds (B,), float64."""
        low, high = box(self.x.double(), self.y.double(), self.seen)
        size: Tensor = torch.linalg.vector_norm((high - low).clamp_min(0), ord=self.norm, dim=-1).pow(self.p)
        return size.reshape(-1).expand(len(self.a))


@dataclasses.dataclass(frozen=True, eq=False)
class Effort:
    """Where sweeps begin, in what arithmetic they are made, and when they end.

    Args:
        start: potentials (f, g); without f, the best one for g is the first.
        begin: the epsilon (B,) at which annealing begins; by default the largest cost, or the final epsilon after a
            ``start``.
        omega: the over-relaxation (B,) that a previous search has learned.
        settle: a problem stops when, at its final epsilon, f was closer than this share of epsilon to the best one for
            g (B,), on average, or closer than rounding. In balanced transport that is about twice the share of mass
            that is in the wrong place.
        max_steps: sweeps at most, a number or one a problem (B,).
        dtype: float32 or float64.
        product: how squared distances are found, see `clouds.choose_product`; unless given, the fastest one whose error
            is at most the ``share`` of epsilon (one number is read from the device to know).
        share: of epsilon, that costs may be off.
    """

    start: tuple[Tensor | None, Tensor] | None = None
    begin: Tensor | None = None
    omega: Tensor | None = None
    settle: Tensor | float = 1e-3
    max_steps: Tensor | int = 1000
    dtype: torch.dtype = torch.float32
    product: str | None = None
    share: float = 0.01


class Potentials(NamedTuple):
    """Where the sweeps ended, for B problems. Nothing is proved here: hand f and g to `barrow.certify`."""

    f: Tensor  # (B, n)
    g: Tensor  # (B, m)
    steps: Tensor  # (B,) sweeps
    moved: Tensor  # (B,) how far f was from the best one for g in the last sweep, on average, in units of epsilon
    settled: Tensor  # (B,) whether that was little enough


def sinkhorn_on_device(problem: Entropic, effort: Effort | None = None) -> Potentials:
    """Potentials of entropic transport between clouds, by sweeps that never wait for the host.

        g <- rho_b / (rho_b + epsilon) (softmin_i(C_ij - f_i - epsilon log r_i) + epsilon log(b_j / s_j)),   f likewise

    Returns:
        Potentials of the computing dtype.

    Raises:
        ValueError: a product for costs that have none.

    Source: Cuturi 2013, Algorithm 1, in the log domain; Schmitzer 2019 (absorbed potentials).
    """
    state = Sweeps(problem, effort)
    state.drive()
    return state.potentials()


class Sweeps:
    """The state of :func:`sinkhorn_on_device`, for callers who prove and go on: `drive`, `potentials`, `resume`."""

    def __init__(self, problem: Entropic, effort: Effort | None = None) -> None:
        effort = effort or Effort()
        a, b, dtype, start = problem.a, problem.b, effort.dtype, effort.start
        (r, s), (B, device) = problem.measures, (a.shape[0], a.device)
        target, largest = problem.target, problem.largest()
        product = effort.product
        if product is None:
            units = (largest / target).max() if B else largest.new_zeros(())
            product = affordable(problem.x, problem.p, problem.norm, dtype, units, effort.share)
        other = problem.x if problem.symmetric else problem.y
        self.clouds: Clouds = lay_out(
            problem.x, other, problem.p, problem.norm, dtype=dtype, product=product, seen=problem.seen
        )
        self.symmetric = problem.symmetric
        self.balanced = problem.rho == (math.inf, math.inf)

        def ready(t: Tensor) -> Tensor:
            return t.to(dtype).clone(memory_format=torch.contiguous_format)

        self.a, self.b = ready(a), ready(b)
        self.log_a, self.log_b = ready(a.double().log()), ready(b.double().log())
        self.log_r, self.log_s = (
            (self.log_a, self.log_b) if problem.reference is None else (ready(t.double().log()) for t in (r, s))
        )
        tiny = torch.finfo(a.dtype).tiny
        one = self.a.new_zeros(1, 1)
        self.ratios = one.expand(1, a.shape[1]).clone(), one.expand(1, b.shape[1]).clone()
        if problem.reference is not None:
            self.ratios = _log_ratio(a, r, tiny).to(dtype), _log_ratio(b, s, tiny).to(dtype)
        self.mass = ready(a.double().sum(-1).clamp_min(torch.finfo(dtype).tiny))
        self.per_rho = torch.stack([torch.full((), 1 / rho, dtype=dtype, device=device) for rho in problem.rho])
        self.per_right = self.per_rho[1:]

        self.target = ready(target)
        begin = effort.begin if effort.begin is not None else largest if start is None else target
        self.epsilon = ready(torch.maximum(begin, target))
        f, g = (torch.zeros_like(self.a), torch.zeros_like(self.b)) if start is None else start
        self.g = ready(g)
        self.next_g = self.g.clone()
        self.noise = NOISE * torch.finfo(dtype).eps / 2 * largest / target
        self.goal = ready(self.noise.clamp_min(effort.settle))
        self.omega = torch.ones_like(self.target) if effort.omega is None else ready(effort.omega)
        self.mark = torch.full_like(self.target, math.nan)
        self.moved, self.constant = torch.full_like(self.target, math.inf), torch.zeros_like(self.target)
        self.level, self.age, self.steps = (torch.zeros(B, dtype=torch.int32, device=device) for _ in range(3))
        self.limit = (torch.zeros_like(self.steps) + effort.max_steps).to(torch.int32)
        self.active = (self.limit > 0).to(torch.int32)
        # The left side sees g as it was where both sides step at once: which problems those are is known to the device.
        self.together = ((self.epsilon > self.target) & (self.epsilon <= sweep.LAST.value * self.target)).to(
            torch.int32
        )
        atoms = sweep.ATOMS.value
        self.moves = self.a.new_zeros(B, triton.cdiv(a.shape[1], atoms))
        self.on_left, self.on_right = softmin.room(self.clouds, B), softmin.room(self.clouds.T, B)
        self.graph: torch.cuda.CUDAGraph | None = None  # of one chunk of sweeps
        self.f = ready(f) if f is not None else self.g.clone() if self.symmetric else self._best_left()

    @property
    def chunk(self) -> int:
        """Sweeps between two looks at the flags."""
        return min(CHUNK, max(1, LOOK // max(1, self.f.numel() * self.clouds.m)))

    def _best_left(self) -> Tensor:
        """The best f for g, at the epsilon at hand."""
        if not self.active.numel():
            return self.a.clone()
        with guard(self.g):
            everywhere = torch.ones_like(self.active)
            softmin.launch(self.clouds, self.g, self.epsilon, everywhere, self.on_left, weight=self.log_s)
            soft = softmin.finish(self.on_left, self.epsilon)
        want = (soft + self.epsilon[:, None] * self.ratios[0]) / (1 + self.epsilon * self.per_rho[0])[:, None]
        ceiling = torch.where(self.per_rho[0] > 0, sweep.SERVED.value / self.per_rho[0], 0)
        return torch.where(soft == math.inf, ceiling, want).contiguous()

    def potentials(self) -> Potentials:
        """Copies of the potentials as they are."""
        f, g = self.f.clone(), (self.f if self.symmetric else self.g).clone()
        return Potentials(f, g, self.steps.clone(), self.moved.clone(), self.moved <= self.goal)

    def resume(self, which: Tensor, settle: Tensor | float) -> None:
        """Let the problems ``which`` (B,) go on until they move by less than ``settle``; the others stay as they are.

        Below the noise of rounding nothing is gained: a problem that is there stops after one more sweep.
        """
        # The noise is that of the potentials, which are mostly far smaller than the largest cost.
        size = torch.where(self.a > 0, self.f.abs(), 0).amax(-1) + torch.where(self.b > 0, self.g.abs(), 0).amax(-1)
        unit = torch.finfo(self.f.dtype).eps / 2
        self.noise = torch.minimum(self.noise, NOISE * unit * (size / self.target).double())
        goal = self.noise.clamp_min(settle)
        self.goal.copy_(torch.where(which, goal.to(self.goal.dtype), self.goal))
        self.active.copy_((which & (self.steps < self.limit)).to(torch.int32))

    def drive(self, over: Over | None = None) -> None:
        """Sweep until every problem has stopped, or until ``over``, asked now and then, says so."""
        if (over is not None and over(0)) or not bool(self.active.any()):
            return
        with guard(self.f):
            if self.f.is_cuda:
                self._drive_ahead(over)
                return
            launched = 0
            while bool(self.active.any()) and not (over is not None and over(launched)):
                self.advance(1)
                launched += 1

    def _drive_ahead(self, over: Over | None) -> None:
        """The flags of one chunk are read while the next one runs: the device never waits for the host.

        What runs in vain is one chunk of problems that have stopped.
        """
        count = self.chunk
        self.advance(count)  # compiles what a recording must find compiled
        if self.graph is None and self.f.numel() * self.clouds.m < SMALL:
            self.graph = self._record()
        seen, copied = [_flag() for _ in range(2)], [torch.cuda.Event() for _ in range(2)]
        turn, launched = 0, count
        while True:
            seen[turn].copy_(self.active.any(), non_blocking=True)
            copied[turn].record()
            if self.graph is None:
                self.advance(count)
            else:
                self.graph.replay()
            launched += count
            copied[turn].synchronize()
            if not bool(seen[turn]) or (over is not None and over(launched)):
                break
            turn = 1 - turn
        torch.cuda.current_stream().synchronize()  # a recording must outlive its last replay

    def _record(self) -> torch.cuda.CUDAGraph:
        graph, stream, here = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            self.advance(self.chunk)
            graph.capture_end()
        here.wait_stream(stream)
        return graph

    def advance(self, count: int) -> None:
        """Launch ``count`` sweeps: no allocation, no look at the device."""
        for _ in range(count):
            if not (self.balanced or self.symmetric):
                sweep.constant_kernel[(len(self.target),)](
                    self.f, self.g, self.log_a, self.log_b, self.per_rho, self.active, self.constant, self.f.shape[1],
                    self.g.shape[1],
                )  # fmt: skip
            if not self.symmetric:
                self._right()
            self._left()
            sweep.control_kernel[(len(self.target),)](
                self.epsilon, self.target, self.omega, self.mark, self.level, self.age, self.steps, self.limit,
                self.goal, self.mass, self.moves, self.moved, self.active, self.together, self.moves.shape[1],
                SYMMETRIC=self.symmetric, num_warps=1,
            )  # fmt: skip

    def _right(self) -> None:
        B, m = self.g.shape
        softmin.launch(
            self.clouds.T, self.f, self.epsilon, self.active, self.on_right, weight=self.log_r,
            shift=(self.g, self.per_right),
        )  # fmt: skip
        pieces = self.on_right.shape[1]
        sweep.right_kernel[(B * triton.cdiv(m, sweep.ATOMS.value),)](
            self.on_right, self.g, self.next_g, self.ratios[1], self.epsilon, self.target, self.omega, self.constant,
            self.per_rho, self.active, m, 0 if self.ratios[1].shape[0] == 1 else m, pieces, WHOLE=pieces == 1,
        )  # fmt: skip

    def _left(self) -> None:
        (B, n), m = self.f.shape, self.g.shape[1]
        softmin.launch(
            self.clouds, self.f if self.symmetric else self.next_g, self.epsilon, self.active, self.on_left,
            other=None if self.symmetric else (self.g, self.together), weight=self.log_s,
            shift=(self.f, self.per_rho),
        )  # fmt: skip
        pieces, atoms = self.on_left.shape[1], sweep.ATOMS.value
        blocks = triton.cdiv(n, atoms) + (0 if self.symmetric else triton.cdiv(m, atoms))
        sweep.left_kernel[(B * blocks,)](
            self.on_left, self.f, self.g, self.next_g, self.ratios[0], self.a, self.epsilon, self.target, self.omega,
            self.constant, self.per_rho, self.active, self.moves, n, m, 0 if self.ratios[0].shape[0] == 1 else n,
            pieces, WHOLE=pieces == 1, SYMMETRIC=self.symmetric,
        )  # fmt: skip


def _seen(w: Tensor, r: Tensor, points: Tensor) -> Tensor | None:
    """Which points of a cloud have mass. A cloud that all problems share is seen whole: none depends on the others."""
    return (w > 0) | (r > 0) if points.dim() == 3 and points.shape[0] == w.shape[0] else None


def _log_ratio(w: Tensor, r: Tensor, tiny: float) -> Tensor:
    """Finite for zero weights, whose potential is then merely very low."""
    return (w.clamp_min(tiny).double().log() - r.clamp_min(tiny).double().log()).contiguous()


def _flag() -> Tensor:
    """A truth value that the device can write to while the host does something else."""
    return torch.ones((), dtype=torch.bool, pin_memory=True)
