"""What every study is made of: claims, answers, an outcome."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch

import barrow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = "pip install 'barrow[studies]'"
_PACKAGES = {"sklearn": "scikit-learn", "PIL": "Pillow", "jinja2": "Jinja2"}


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


@final
@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence that an experiment can refute; ``paper`` is what its source reports, where that is known."""

    sentence: str
    expected: str
    measured: str
    holds: bool
    paper: str = ""


@final
@dataclasses.dataclass(frozen=True)
class Spread:
    """One number from several seeds: its mean, and the standard deviation of a single one.

    >>> f"{Spread.of([0.5, 0.75, 1.0]):.2f}, {Spread.of([0.5]):.2f}"  # one seed says nothing of its spread
    '0.75 ± 0.25, 0.50'
    """

    values: tuple[float, ...]

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Of one value a seed."""
        return Spread(tuple(float(value) for value in values))

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """The root of sum (v - mean)^2 / (n - 1); 0 for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def stderr(self) -> float:
        """Of the mean: std / sqrt(n)."""
        return self.std / math.sqrt(len(self.values))

    def __sub__(self, other: Spread) -> Spread:
        """The differences within seeds, of which each gives one value to both."""
        return Spread(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))

    def __format__(self, spec: str) -> str:
        mean = f"{self.mean:{spec}}"
        return mean if len(self.values) == 1 else f"{mean} ± {self.std:{spec}}"


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
    """What a study found.

    Figures and tables are shown in order, under their names; ``captions`` say, by the figure's name, what is to be
    seen there. ``numbers`` go to results.json. ``sources`` are a line for each data set: what was used, and where it
    was a stand-in, how to get the real one.
    """

    claims: tuple[Claim, ...]
    figures: Mapping[str, Figure]
    numbers: Mapping[str, Any]
    durations: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sources: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Every claim does."""
        return all(claim.holds for claim in self.claims)


def descent(optimiser: torch.optim.Optimizer, steps: int) -> Iterator[int]:
    """Steps of ``optimiser``, whose gradients the body of the loop leaves; learning rates fall linearly to 0.

    >>> x = torch.ones(1, requires_grad=True)
    >>> for _ in descent(torch.optim.SGD([x], 0.5), 2):
    ...     x.sum().backward()
    >>> x.detach()  # 1 - 0.5 - 0.25
    tensor([0.2500])
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for step in range(steps):
        optimiser.zero_grad()
        yield step
        optimiser.step()
        schedule.step()


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
