"""What every study is made of: claims, answers, an outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

import torch

import barrow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = "pip install 'barrow[studies]'"
_PACKAGES = {"sklearn": "scikit-learn", "PIL": "Pillow"}


class MissingExtra(ImportError):
    """A package of the extra ``studies`` is not installed."""


class BadData(ValueError):
    """A file that was given to a study is not what the study takes."""


def need(*modules: str) -> None:
    """Refuse to start without these modules."""
    missing = [_PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        raise MissingExtra(f"{' and '.join(missing)} {verb} not installed, but this needs it: {EXTRA}")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block in one thread.

    The matrices of the studies are small: a second thread brings little on an idle machine, and on a busy one the two
    wait for each other for most of the time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Progress(Protocol):
    """Told what is being done, and how much of it is done."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@final
@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence that an experiment can refute."""

    sentence: str
    expected: str
    measured: str
    holds: bool


@final
@dataclasses.dataclass(frozen=True)
class Answer:
    """A number, what is known about the truth, and who found it."""

    question: str
    value: float
    lower: float
    upper: float
    how: str
    seconds: float

    @property
    def relative_gap(self) -> float:
        """(upper - lower) / upper."""
        return (self.upper - self.lower) / self.upper if self.upper > 0 else 0.0

    def contains(self, truth: float, slack: float = 0.0) -> bool:
        """Whether the bracket holds ``truth``, to within ``slack``."""
        return self.lower - slack <= truth <= self.upper + slack


class Table(NamedTuple):
    """Headings, and rows of as many cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study found: claims, figures by name, numbers for results.json, seconds by part, tables to print."""

    claims: tuple[Claim, ...]
    figures: Mapping[str, Figure]
    numbers: Mapping[str, Any]
    durations: Mapping[str, float]
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Every claim does."""
        return all(claim.holds for claim in self.claims)


def timed(run: Callable[[], barrow.Solution]) -> tuple[barrow.Solution, float]:
    """A solution and the seconds that it took."""
    start = time.perf_counter()
    solution = run()
    return solution, time.perf_counter() - start


def solved(question: str, problem: barrow.Problem, solver: barrow.Solver | None = None, *, root: float = 1) -> Answer:
    """Solve one problem; ``root`` p turns the cost into W_p."""
    solution, seconds = timed(lambda: barrow.solve(problem, solver))
    lower, upper = (float(t) for t in solution.bounds)
    # The value is at most the truth; so is the lower bound, which may be the better one by a rounding.
    value = max(float(solution.value), lower)
    low, mid, high = (max(t, 0.0) ** (1 / root) for t in (lower, value, upper))
    return Answer(question, mid, low, high, solution.solver, seconds)
