"""Runs contenders on one input, side by side, and writes down time, memory and the gap that each one reached.

A case says how its answers are judged: :func:`judge_plan` for witnesses, :func:`judge_value` for bare numbers.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

HERE = Path(__file__).parent


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


@dataclasses.dataclass(frozen=True)
class Contender:
    """``run`` is what is timed; ``answer`` turns what it returns into what is judged; ``takes`` says which settings."""

    name: str
    package: str
    run: Callable[[Any], Any]
    answer: Callable[[Any], Any]
    takes: Callable[[Setting], bool] = lambda setting: True

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)


@dataclasses.dataclass(frozen=True)
class Case:
    """``make`` draws the input of a setting, ``known`` is what the judge must know of it, found once.

    ``judge(known, answer)`` returns the value and the gap.
    """

    name: str
    contenders: Sequence[Contender]
    settings: Callable[[Sequence[int]], Iterable[Setting]]
    make: Callable[[Setting], Any]
    known: Callable[[Any], Any]
    judge: Callable[[Any, Any], tuple[float, float]]


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


def peak_megabytes(case: Case, setting: Setting, contender: Contender) -> float:
    """Growth of the resident set during one run, in a process of its own."""
    parent, child = multiprocessing.get_context("spawn").Pipe()
    names = (case.name, contender.name, setting, torch.get_num_threads())
    process = multiprocessing.get_context("spawn").Process(target=_measure_memory, args=(child, *names))
    process.start()
    child.close()
    try:
        return float(parent.recv())
    except EOFError:
        return float("nan")
    finally:
        process.join()


def _measure_memory(pipe: Any, case_name: str, contender_name: str, setting: Setting, threads: int) -> None:
    from benchmarks.__main__ import CASES  # the child builds what cannot be pickled

    torch.set_num_threads(threads)
    case = CASES[case_name]
    contender = next(c for c in case.contenders if c.name == contender_name)
    # Imports and thread pools must not count.
    contender.run(case.make(dataclasses.replace(setting, n=8, m=8)))
    data = case.make(setting)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _resident()
    kept = contender.run(data)
    pipe.send((_peak() - before) / 2**20)
    del kept


def _status(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(field)), None)


def _resident() -> float:
    return _status("VmRSS") or _peak()


def _peak() -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return _status("VmHWM") or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(("git", *arguments), cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "../src", "../csrc")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def compare(case: Case, setting: Setting, repeats: int) -> list[Row]:
    """Every contender ``repeats`` times, taking turns, so that a slow spell of the machine hits all of them."""
    data = case.make(setting)
    known = case.known(data)
    contenders = [c for c in case.contenders if c.takes(setting)]
    times: dict[str, list[float]] = {c.name: [] for c in contenders}
    judged: dict[str, tuple[float, float]] = {}
    for repeat in range(repeats + 1):
        for contender in contenders:
            start = time.perf_counter()
            found = contender.run(data)
            if repeat > 0:  # the first warms the caches
                times[contender.name].append(time.perf_counter() - start)
            if contender.name not in judged:
                judged[contender.name] = case.judge(known, contender.answer(found))
            del found
    peer = next((c.name for c in contenders if c.package != "barrow"), contenders[0].name)
    here = (datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), commit(), machine())
    rows = []
    for contender in contenders:
        spent = times[contender.name]
        median = statistics.median(spent)
        low, _, high = statistics.quantiles(spent, n=4, method="inclusive") if repeats > 1 else spent * 3
        rows.append(
            Row(
                *here,
                torch.get_num_threads(),
                case.name,
                contender.name,
                contender.version,
                *dataclasses.astuple(setting),
                repeats,
                median,
                low,
                high,
                peak_megabytes(case, setting, contender),
                *judged[contender.name],
                statistics.median(times[peer]) / median,
            )
        )
    return rows


def append(rows: Sequence[Row], path: Path) -> None:
    """Add lines to a CSV file, with a header if it is new."""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(field.name for field in dataclasses.fields(Row))
        for row in rows:
            writer.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in dataclasses.astuple(row))


def show(rows: Sequence[Row], console: Console) -> None:
    first = rows[0]
    setting = Setting(first.n, first.m, first.d, first.weights, first.task)
    table = Table(title=f"{first.case}: {setting}", title_justify="left")
    table.add_column("contender")
    for name in ("median", "quartiles", "peak", "value", "gap", "speed"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.contender} {row.version}",
            f"{1e3 * row.median_s:.2f} ms",
            f"{1e3 * row.q25_s:.2f} to {1e3 * row.q75_s:.2f}",
            f"{row.peak_mb:.1f} MB",
            f"{row.value:.6g}",
            f"{row.gap:.1e}",
            f"{row.ratio_to_first_peer:.2f}",
        )
    console.print(table)
