"""What a benchmark is made of, how answers are judged, and how results are written down; measure.py runs it.

A case says how its answers are judged: :func:`judge_plan` for witnesses, :func:`judge_value` for bare numbers.
Contenders that take an effort (iterations, a tolerance) are timed at the least one that reaches the gap asked for.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

HERE = Path(__file__).parent
ABSENT = "not installed"


def version_of(package: str) -> str:
    """What is installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


@dataclasses.dataclass(frozen=True)
class Setting:
    """What distinguishes one input of a case from another."""

    n: int
    m: int
    d: int
    weights: str
    task: str = ""  # what is asked of this input, where a case asks for several things

    def __str__(self) -> str:
        return f"n={self.n} m={self.m} d={self.d} {self.weights} {self.task}".rstrip()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a contender found, as float64 tensors: a plan (dense, or rows, cols, mass) and one or both potentials."""

    plan: Tensor | tuple[Tensor, Tensor, Tensor]
    f: Tensor
    g: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Value:
    """What a contender found, where that is a number and perhaps its gradient."""

    value: float
    gradient: Tensor | None = None


class Judged(NamedTuple):
    """What became of an answer."""

    value: float
    gap: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Contender:
    """``run`` is what is timed; ``answer`` turns what it returns into what is judged; ``takes`` says which settings.

    ``efforts``, where given, are rising numbers, roughly in proportion to the time they take: ``run(data, effort)``.
    ``compiles``: its first call builds something, whose time is told but does not count.
    """

    name: str
    package: str
    run: Callable[..., Any]
    answer: Callable[[Any], Any]
    takes: Callable[[Setting], bool] = lambda setting: True
    efforts: Sequence[float] = ()
    unit: str = "iterations"  # of the efforts
    compiles: bool = False

    @property
    def version(self) -> str:
        return version_of(self.package)


@dataclasses.dataclass(frozen=True)
class Case:
    """``make`` draws the input of a setting, ``known`` is what the judge must know of it, found once.

    ``judge(known, answer)`` returns the value and the gap. ``goal(known)`` is the gap that efforts are raised to reach,
    as long as one run takes no more than ``limit_s``. ``alone``: each contender runs once, in a process of its own that
    is ended at the limit.
    """

    name: str
    contenders: Sequence[Contender]
    settings: Callable[[Sequence[int]], Iterable[Setting]]
    make: Callable[[Setting], Any]
    known: Callable[[Any], Any]
    judge: Callable[[Any, Any], tuple[float, float] | Judged]
    goal: Callable[[Any], float] = lambda known: math.inf
    limit_s: float = 120.0
    alone: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of results.csv; ``ratio_to_first_peer`` is the peer's median time over this one's: above 1 is faster."""

    date: str
    commit: str
    machine: str
    torch_threads: int
    case: str
    contender: str
    version: str
    n: int
    m: int
    d: int
    weights: str
    task: str
    repeats: int
    median_s: float
    q25_s: float
    q75_s: float
    peak_mb: float
    value: float
    gap: float
    ratio_to_first_peer: float
    note: str = ""


def judge_plan(known: tuple[Tensor, Tensor, Tensor], answer: Answer) -> tuple[float, float]:
    """Value and relative gap, the same for everybody: a plan of the right marginals against feasible potentials."""
    a, b, C = known
    if isinstance(answer.plan, tuple):
        rows, cols, mass = answer.plan
        plan = torch.zeros_like(C).index_put((rows, cols), mass, accumulate=True)
    else:
        plan = answer.plan
    # Into the polytope (Altschuler, Weed, Rigollet 2017, algorithm 2).
    plan = plan * (a / plan.sum(1)).nan_to_num(0).clamp_max(1)[:, None]
    plan = plan * (b / plan.sum(0)).nan_to_num(0).clamp_max(1)
    left_a, left_b = a - plan.sum(1), b - plan.sum(0)
    plan = plan + left_a[:, None] * left_b / left_a.sum().clamp_min(1e-300)
    upper = (plan * C).sum().item()
    g = (C - answer.f[:, None]).amin(0)
    f = (C - g).amin(1)
    lower = (a @ f + b @ g).item()
    return upper, (upper - lower) / max(abs(upper), 1e-300)


def judge_value(known: Value, answer: Value) -> tuple[float, float]:
    """Value and relative error; of a gradient the largest error against its largest entry counts too."""
    error = abs(answer.value - known.value) / max(abs(known.value), 1e-300)
    if answer.gradient is not None and known.gradient is not None:
        off = (answer.gradient.double() - known.gradient).abs().max() / known.gradient.abs().max()
        error = max(error, off.item())
    return answer.value, error


def append(rows: Sequence[Row], path: Path) -> None:
    """Add lines to a CSV file, with a header if it is new; a file that lacks the last columns gets them, empty."""
    names = [field.name for field in dataclasses.fields(Row)]
    old: list[list[str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            old = list(csv.reader(file))
    if old[:1] != [names] or any(len(line) != len(names) for line in old):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([names, *(line + [""] * (len(names) - len(line)) for line in old[1:])])
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in rows:
            writer.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in dataclasses.astuple(row))


def show(rows: Sequence[Row], console: Console) -> None:
    first = rows[0]
    setting = Setting(first.n, first.m, first.d, first.weights, first.task)
    table = Table(title=f"{first.case}: {setting}", title_justify="left")
    table.add_column("contender")
    for name in ("median", "quartiles", "peak", "value", "gap", "speed"):
        table.add_column(name, justify="right")
    if any(row.note for row in rows):
        table.add_column("note")
    for row in rows:
        cells = [
            f"{row.contender} {row.version}",
            f"{1e3 * row.median_s:.2f} ms",
            f"{1e3 * row.q25_s:.2f} to {1e3 * row.q75_s:.2f}",
            f"{row.peak_mb:.1f} MB",
            f"{row.value:.6g}",
            f"{row.gap:.1e}",
            f"{row.ratio_to_first_peer:.2f}",
            row.note,
        ]
        table.add_row(*("" if cell.startswith("nan") else cell for cell in cells[: len(table.columns)]))
    console.print(table)
