"""Entropic transport."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from barrow import check
from barrow.certify import bracket, gibbs, within
from barrow.cost import Dense, Points
from barrow.cost.kernel import Kernel
from barrow.ops import pairs
from barrow.ops.sinkhorn import ROUNDED, TIME_LIMIT, Aim, Found, Sides, sinkhorn
from barrow.problem import Problem
from barrow.solution import Bracket, Status, Witness
from barrow.solvers.ascent import ascend
from barrow.solvers.base import Solver, Start, Watch, seconds
from barrow.solvers.device_search import device_search, launched
from barrow.solvers.opening import opening, target_error
from barrow.solvers.scaling import scaling

ROUNDS = 8  # searches with ever smaller errors, until the proof says that it is enough
FINE = 3e-5  # tol: below, passes are made in double precision
SHARE = 0.1  # of an error asked for: what rounding may make up
PATIENCE = 100  # products with the kernel: who needs more has a plan near an exact one, and is better annealed
NOISE = 1e-6  # errors that single precision may make up


@final
@dataclasses.dataclass(frozen=True)
class Sinkhorn(Solver):
    """Entropic transport by block ascent on the dual, in the log domain, while epsilon falls to its target.

    The solver of every problem with epsilon > 0: balanced, unbalanced (finite rho), semi-relaxed, any reference. Each
    problem of a batch goes on until its own certified gap is at most tol.

    Points and Dense on the CPU are searched by the C++ core. A pass over all pairs gives the row potentials, a step of
    the column potentials, and the entries of the plan that matter. Where these are few, the iteration goes on with them
    alone, by Anderson acceleration, until the next pass tells what that was worth; elsewhere the last epsilon's passes
    themselves are accelerated. The search begins at potentials of Gaussians (squared distances) or at mean costs, and
    an epsilon that suits them, or at those of exact transport if epsilon is below a thousandth of the mean cost; given
    a start, at its g and the final epsilon, or little above. Passes are in single precision unless tol asks for more.
    No matrix is stored, but a list may hold some percent of the pairs, or all if they are few.

    Many histograms against one Dense matrix are scaled by products with its kernel, accelerated likewise. Grid, Tree,
    forbidden pairs and other devices are swept in torch: epsilon falls from the largest cost, then sweeps are
    over-relaxed by what each problem's own rate of decay allows. A cost matrix is kept only if it is small.

    Args:
        tol: the relative gap between the certified bounds.
        max_steps: passes over all pairs at most, or sweeps of both potentials, all searches together. Mostly tens
            suffice; sweeps in torch need more, of the order of max C / epsilon.
        time_limit: seconds after which no new pass begins; the bracket reached is honest. None is no limit.

    >>> x, y = torch.zeros(3, 2), torch.ones(4, 2)
    >>> barrow.solve(barrow.Problem(barrow.Points(x, y), epsilon=0.1), barrow.Sinkhorn(tol=1e-6)).status
    Status.converged

    Source: Cuturi 2013, Algorithm 1, in the log domain (Peyre and Cuturi, section 4.4 and, for Gaussians, remark 2.31);
    Chizat, Peyre, Schmitzer and Vialard 2018 (unbalanced); Sejourne, Vialard and Peyre 2022 (the translation step of
    unbalanced problems); Schmitzer 2019 (the entries that matter); Walker and Ni 2011 (Anderson acceleration);
    Thibault, Chizat, Dossal and Papadakis 2021 (over-relaxation).
    """

    tol: float = 1e-3
    max_steps: int = 10_000
    time_limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "max_steps", check.whole("max_steps", self.max_steps))
        object.__setattr__(self, "time_limit", seconds(self.time_limit))

    def rejects(self, problem: Problem) -> str | None:
        if problem.epsilon == 0:
            return "Sinkhorn needs epsilon > 0, got 0; use Simplex() for exact transport, or choose an epsilon"
        return None

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        if launched(problem):
            return device_search(problem, start, watch, self.tol, self.max_steps, self.time_limit)
        passes, scalings = _passes(problem, watch, self.time_limit), _scalings(problem, watch, self.time_limit)
        if scalings is not None and passes is not None and self.max_steps > PATIENCE:
            return self._in_turn(problem, scalings, passes, start, watch)
        search = scalings or passes
        if search is None:
            return ascend(problem, start, watch, self.tol, self.max_steps, self.time_limit)
        return self._proved(problem, search, start, watch)

    def _in_turn(self, problem: Problem, first: Search, second: Search, start: Start | None, watch: Watch) -> Witness:
        """Who is not settled by the first search soon begins anew with the second."""
        found = dataclasses.replace(self, max_steps=PATIENCE)._proved(problem, first, start, watch)
        left = (found.codes == Status.step_limit.code).nonzero()[:, 0]
        if not len(left):
            return found
        rest = dataclasses.replace(self, max_steps=self.max_steps - PATIENCE)
        part, chosen = problem.select(left), _Chosen(second, left)
        more = rest._proved(part, chosen, None, watch)  # what it was started from has not helped
        f, g = found.f.index_copy(0, left, more.f), found.g.index_copy(0, left, more.g)
        steps, codes = found.steps.index_add(0, left, more.steps), found.codes.index_copy(0, left, more.codes)
        assert found.proof is not None
        assert more.proof is not None
        proof = Bracket(*(t.index_copy(0, left, u) for t, u in zip(found.proof, more.proof, strict=True)))
        return Witness(gibbs(problem, f, g), f, g, codes, steps, proof)

    def _proved(self, problem: Problem, search: Search, start: Start | None, watch: Watch) -> Witness:
        """Searches, each judged by the certificate, until it is content with all problems."""
        B, device = len(problem.a), problem.a.device
        g, begin, mean, decay = opening(problem, start, annealed=search.anneals, watch=watch, limit=self.time_limit)
        error, tol = (torch.full_like(mean, t) for t in (target_error(self.tol), self.tol))
        f, steps = torch.zeros_like(problem.a), torch.zeros(B, dtype=torch.long, device=device)
        codes, proof = torch.full_like(steps, Status.step_limit.code), None
        fine = tol < FINE
        if search.anneals:  # exponents of single precision are off by their rounding, and masses by as large a share
            fine |= torch.finfo(torch.float32).eps / 2 * mean.abs() / problem.epsilon > SHARE * error
        active = torch.arange(B, device=device)
        for _ in range(ROUNDS):
            left = self.max_steps - int(steps[active].max()) if len(active) else 0
            if left <= 0:
                break
            for double in (False, True):
                chosen = active[fine[active] == double]
                if not len(chosen):
                    continue
                aim = Aim(begin[chosen], error[chosen], tol[chosen], mean[chosen], decay[chosen], left)
                found = search(chosen, g[chosen], aim, fine=double)
                f, g = f.index_copy(0, chosen, found.f), g.index_copy(0, chosen, found.g)
                steps = steps.index_add(0, chosen, found.steps)
                stopped = found.code == TIME_LIMIT
                codes[chosen] = torch.where(stopped, Status.time_limit.code, Status.step_limit.code)
                fine[chosen] |= found.code == ROUNDED
                error[chosen] = torch.minimum(error[chosen], found.error)
            part = bracket(
                problem if len(active) == B else problem.select(active), None, f[active], g[active], wanted=self.tol
            )
            pieces = part if proof is None else (t.index_copy(0, active, u) for t, u in zip(proof, part, strict=True))
            proof = Bracket(*pieces)
            done = within(part, self.tol, torch.float64)
            gap = (part.upper - part.lower) / part.upper.abs().clamp_min(torch.finfo(f.dtype).tiny)
            watch.tell("passes", int(steps.max()), gap=float(gap.max()), now=True)
            late = bool((codes[active] == Status.time_limit.code).any())
            codes[active[done]] = 0
            # The gap is at most proportional to the error: ask for so much less.
            less = (0.3 * self.tol / gap).nan_to_num(nan=0.1).clamp(0.01, 0.5)
            error[active], tol[active] = less * error[active], less * tol[active]
            fine = fine | (error < NOISE)
            begin, decay = torch.zeros_like(begin), torch.ones_like(decay)
            active = active[~done]
            if late or not len(active):
                break
        return Witness(gibbs(problem, f, g), f, g, codes, steps, proof)


# -- who searches ------------------------------------------------------------------------------------------------------


class Search(Protocol):
    """A search for the potentials of some problems of a batch, in single precision unless ``fine``."""

    @property
    def anneals(self) -> bool:
        """Whether it begins at a larger epsilon."""
        ...

    def __call__(self, chosen: Tensor, g: Tensor, aim: Aim, *, fine: bool) -> Found: ...


def _scalings(problem: Problem, watch: Watch, limit: float | None) -> Search | None:
    """Products with a kernel, the fastest where there is one for many problems."""
    if isinstance(problem.cost, Dense):
        kernel = problem.cost.kernel(len(problem.a), problem.epsilon)
        return None if kernel is None else _Scalings(problem, kernel, watch, limit)
    return None


def _passes(problem: Problem, watch: Watch, limit: float | None) -> Search | None:
    """The core, which knows coordinates and matrices."""
    cost = problem.cost
    if isinstance(cost, Points) and cost.dtype == torch.float64 and pairs.swept(cost.x, cost.y) and cost.p <= 32:
        return _Passes(problem, (cost.x, cost.y, cost.p, cost.norm), watch, limit)
    if isinstance(cost, Dense) and cost.dtype == torch.float64 and pairs.swept(cost.C) and not cost.forbids:
        return _Passes(problem, cost.C if cost.C.dim() == 3 else cost.C[None], watch, limit)
    return None


@dataclasses.dataclass(frozen=True)
class _Passes:
    """Passes of the core over coordinates or matrices."""

    problem: Problem
    data: tuple[Tensor, Tensor, float, float] | Tensor
    watch: Watch
    limit: float | None
    anneals: ClassVar[bool] = True

    def __call__(self, chosen: Tensor, g: Tensor, aim: Aim, *, fine: bool) -> Found:
        return sinkhorn(
            self._select(chosen),
            _sides(self.problem, chosen),
            self.problem.epsilon,
            g,
            aim,
            symmetric=self.problem.symmetric,
            fine=fine,
            seconds=self.watch.left(self.limit),
            listener=self.watch.listener,
        )

    def _select(self, index: Tensor) -> tuple[Tensor, Tensor, float, float] | Tensor:
        data = self.data
        if len(index) == len(self.problem.a):
            return data
        if isinstance(data, Tensor):
            return data[index] if len(data) > 1 else data
        x, y, p, norm = data
        return (x[index] if x.dim() == 3 else x), (y[index] if y.dim() == 3 else y), p, norm


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """A search for some problems of a batch, which are numbered anew."""

    search: Search
    index: Tensor

    @property
    def anneals(self) -> bool:
        return self.search.anneals

    def __call__(self, chosen: Tensor, g: Tensor, aim: Aim, *, fine: bool) -> Found:
        return self.search(self.index[chosen], g, aim, fine=fine)


@dataclasses.dataclass(frozen=True)
class _Scalings:
    """Cuturi's many measures against one kernel: products of matrices, which need no annealing."""

    problem: Problem
    kernel: Kernel
    watch: Watch
    limit: float | None
    anneals: ClassVar[bool] = False

    def __call__(self, chosen: Tensor, g: Tensor, aim: Aim, *, fine: bool) -> Found:
        sides, symmetric = _sides(self.problem, chosen), self.problem.symmetric
        return scaling(self.kernel, sides, g, aim, symmetric=symmetric, fine=fine, limit=self.limit, watch=self.watch)


def _sides(problem: Problem, chosen: Tensor) -> Sides:
    (a, b), (r, s) = (problem.a, problem.b), problem.measures
    if len(chosen) == len(a):
        return Sides(a, b, r, s, problem.rho)
    u, v = a[chosen], b[chosen]
    # The same tensors stay the same: then nobody has to compare them.
    return Sides(u, v, u if r is a else r[chosen], v if s is b else s[chosen], problem.rho)
