"""What every solver is, and what it is given besides the problem: where to start, when to end, whom to tell."""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Callable
from typing import final

from torch import Tensor

from barrow import check
from barrow.cost import Cost, Points
from barrow.plan import SparsePlan
from barrow.problem import Problem
from barrow.solution import Witness

KEPT = 1 << 24  # numbers in all cost matrices of a batch that may be kept: 128 MiB
PAUSE = 0.1  # seconds between two words on the progress


@final
@dataclasses.dataclass(frozen=True)
class Start:
    """Where an iteration begins: float64, on the device of the problem, for a flattened batch of B problems.

    Hints, never believed: the potentials are finite and no larger than those of a solution can be, but otherwise any
    numbers; the plan, where there is one, need not fit the marginals and may hold any indices and numbers.
    """

    f: Tensor  # (B, n)
    g: Tensor  # (B, m)
    plan: SparsePlan | None = None  # (B, n, m)


@final
@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a solve is.

    Attributes:
        stage: what is counted: "pivots" (Simplex), "passes" (over all pairs, Sinkhorn), "problems" (of a batch),
            "proof" (the certificate, at the end); other solvers have other stages.
        done: how many of them are done.
        total: how many there will be, where that is known.
        gap: the relative gap that is certified so far, the largest of a batch, where a solver proves as it goes.
        seconds: since the solve began.
    """

    stage: str
    done: int
    total: int | None = None
    gap: float | None = None
    seconds: float = 0.0


@final
class Watch:
    """The clock of one solve and whoever looks on. The clock starts when it is made."""

    def __init__(self, progress: Callable[[Progress], object] | None = None) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self._last = -math.inf
        self._stage = ""

    def left(self, limit: float | None) -> float:
        """Seconds left of a time limit that began with the solve; inf without one."""
        return math.inf if limit is None else limit - (time.monotonic() - self._began)

    def tell(
        self, stage: str, done: int, total: int | None = None, gap: float | None = None, *, now: bool = False
    ) -> None:
        """Say how far the solve is: about ten times a second, and ``now`` or at the first word on a stage at once."""
        if self._progress is None:
            return
        moment = time.monotonic()
        if now or stage != self._stage or moment - self._last >= PAUSE:
            self._last, self._stage = moment, stage
            self._progress(Progress(stage, done, total, gap, moment - self._began))

    @property
    def listener(self) -> Callable[[str, int, int], None] | None:
        """What the C++ core tells of its progress, (stage, done, total or -1); it keeps the pace itself."""
        if self._progress is None:
            return None
        return lambda stage, done, total: self.tell(stage, done, None if total < 0 else total, now=True)


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
    """An algorithm and how far it should go; whatever changes the true answer is in the Problem instead.

    Args:
        tol: the relative duality gap, (upper - lower) / max(|upper|, tiny), at which a problem counts as solved.
            tiny is the rounding of the data: no gap below it can be asked for.
    """

    tol: float = 1e-9

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", check.positive("tol", self.tol))

    @abc.abstractmethod
    def rejects(self, problem: Problem) -> str | None:
        """Why this solver cannot solve ``problem``, in one sentence with a way out; None if it can."""

    @abc.abstractmethod
    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        """Solve a flattened, screened float64 problem that :meth:`rejects` let through.

        ``start`` never changes the answer, only how soon it is found; closed forms ignore it.
        """

    @property
    def on_host(self) -> bool:
        """Whether the work is done on the CPU wherever the data are: they are copied once."""
        return False

    def select(self, problem: Problem) -> Solver:
        """The solver that will run: itself."""
        return self


def seconds(limit: object) -> float | None:
    """A time limit, checked: None, or a positive number of seconds (inf is no limit)."""
    return None if limit is None else check.positive("time_limit", limit, infinite=True)


def matrix(cost: Cost) -> Tensor:
    """The cost matrix for a solver that stores it: the certificate may then use it too."""
    return cost.matrix if isinstance(cost, Points) else cost.dense()


def one_by_one(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """The clouds of a batch whose matrices had better live one at a time: there is much of them, or they are padded."""
    cost = problem.cost
    if not isinstance(cost, Points):
        return None
    much = len(problem.a) * math.prod(problem.shape) > KEPT
    padded = bool((problem.a == 0).any()) or bool((problem.b == 0).any())
    return cost.clouds() if much or padded else None


def inexact(problem: Problem, name: str) -> str | None:
    """What every solver of balanced exact transport says to other problems."""
    if problem.epsilon > 0:
        return f"{name} solves exact transport, but epsilon is {problem.epsilon:g}; use Sinkhorn() or epsilon=0"
    if not problem.balanced:
        return f"{name} solves balanced transport, but rho is {problem.rho}; use Sinkhorn() with an epsilon > 0"
    return None
