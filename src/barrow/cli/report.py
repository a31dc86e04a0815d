"""Tables, JSON and progress bars: all that is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from barrow.cli.files import finite
from barrow.studies import Claim
from barrow.studies.study import Answer

WIDE = 132  # columns of a table in a log, where nobody's window limits them


def _console() -> Console:
    # Made for each use: standard output may have been replaced since.
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDE)


def say(line: str = "") -> None:
    """One line on standard output, however long."""
    print(line)


def aside(line: str) -> None:
    """One line on standard error, for what is no result."""
    print(line, file=sys.stderr)


def one_line_json(data: Mapping[str, Any]) -> None:
    """Exactly one line on standard output."""
    print(json.dumps(finite(dict(data)), allow_nan=False))


def pairs(rows: Mapping[str, str]) -> None:
    """Names and values, aligned."""
    width = max(map(len, rows))
    for name, value in rows.items():
        say(f"{name:<{width}}  {value}")


def entries(rows: Mapping[str, Sequence[str]]) -> None:
    """Names, and beside each its lines one below the other, however long."""
    width = max(map(len, rows), default=0)
    for name, lines in rows.items():
        for k, line in enumerate(lines):
            say(f"{'' if k else name:<{width}}  {line}")


def number(value: float, other: float | None = None) -> str:
    """Six digits, or as many (up to nine) as tell it from its neighbour ``other``."""
    digits = 6
    while digits < 9 and other is not None and other != value and f"{value:.{digits}g}" == f"{other:.{digits}g}":
        digits += 1
    return f"{value:.{digits}g}"


def bracket(lower: float, upper: float) -> str:
    """[lower, upper], and how far apart they are."""
    gap = (upper - lower) / abs(upper) if upper else upper - lower
    return f"[{number(lower, upper)}, {number(upper, lower)}]  (relative gap {gap:.1e})"


def claims_table(title: str, claims: Sequence[Claim]) -> None:
    """Claims against measurements."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    reported = any(claim.paper for claim in claims)
    table.add_column("claim", ratio=3)
    table.add_column("expected", ratio=2)
    table.add_column("measured", ratio=2)
    if reported:
        table.add_column("paper", ratio=2)
    table.add_column("holds", justify="center")
    for claim in claims:
        verdict = "[green]yes[/]" if claim.holds else "[bold red]NO[/]"
        words = (claim.sentence, claim.expected, claim.measured, *([claim.paper] if reported else ()))
        table.add_row(*map(escape, words), verdict)
    _console().print(table)


def answers_table(title: str, sections: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """Answers with their brackets, under a heading each."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("question", min_width=15)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("truth in", no_wrap=True)
    table.add_column("found by")
    table.add_column("seconds", justify="right", no_wrap=True)
    for heading, answers in sections:
        table.add_row(f"[bold]{escape(heading)}[/]")
        for answer in answers:
            truth = escape(f"[{answer.lower:.6f}, {answer.upper:.6f}]")
            table.add_row(
                f"  {escape(answer.question)}", f"{answer.value:.4f}", truth, answer.how, f"{answer.seconds:.2f}"
            )
        table.add_section()
    _console().print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Rows under headings."""
    table = Table(title=title and escape(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(escape, row))
    _console().print(table)


class Bar:
    """A progress bar on standard error that changes its task as it is told; silent where nobody watches."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of ``what`` are done; text after a colon may change as it goes."""
        key = what.partition(":")[0]
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(what, total=total or None)
        self._progress.update(self._tasks[key], completed=done, description=what)


@contextmanager
def bar(*, silent: bool = False) -> Iterator[Bar]:
    """A progress bar while the block runs, on a terminal only; none at all where ``silent``."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=silent or not sys.stderr.isatty(),
    )
    with progress:
        yield Bar(progress)
