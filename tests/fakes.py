"""Studies that take no time: for the engine, its command and its pages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from barrow.studies import STUDIES, Claim, Outcome, Study, Work
from barrow.studies.study import Table

ESSAY = """How far is it from ``a < b`` to W_1 <= 35?

Nobody knows & nobody asks: <script>alert(1)</script>.
"""
TRUE = Claim("one is <= two", "<= 2", "1.000", True)
FALSE = Claim("one is two <b>always</b>", "2 ± 0.1", "1.000 & no more", False, paper="2.0, read off figure 4")


def figure(wide: float = 6, high: float = 3) -> Figure:
    """Something to look at."""
    drawn = Figure(figsize=(wide, high), dpi=80, facecolor="white")
    drawn.subplots().plot([0, 1, 2], [3, 1, 2])
    return drawn


def outcome(claims: tuple[Claim, ...] = (TRUE, FALSE), **changes: Any) -> Outcome:
    """Everything that a study can leave, some of it too wide for a telephone."""
    given: dict[str, Any] = {
        "figures": {"errors": figure(16, 4), "a_face": figure(4, 5)},
        "captions": {"errors": "Left, what was expected; right, what W_1 says."},
        "numbers": {"errors": [0.25, 0.5], "worst": float("inf")},
        "tables": {
            "error by loss": Table(
                ("loss", *(f"{k / 10:.1f}" for k in range(12))),
                (("KL", *["0.500 ± 0.010"] * 12), ("W_1", *["-0.250 ± 0.010"] * 12)),
            ),
            "remarks": Table(("loss", "remark"), (("KL", "x" * 40 + " " + "said at length " * 5),)),
        },
        "sources": ("small digits; ``barrow data mnist`` fetches the real ones",),
    }
    return Outcome(claims, **{**given, **changes})


def install(monkeypatch: pytest.MonkeyPatch, runs: Mapping[str, Callable[[Work], Outcome]]) -> None:
    """Let these be all the studies that there are; those whose name has "data" in it take some."""
    for name in list(STUDIES):
        monkeypatch.delitem(STUDIES, name)
    for name, run in runs.items():
        data = "a folder of numbers" if "data" in name else ""
        monkeypatch.setitem(STUDIES, name, Study(name, f"The paper of {name}", f"what {name} is about", data=data))
        module = ModuleType(f"barrow.studies.{name.replace('-', '_')}", ESSAY)
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)


def throws(work: Work, count: int = 4) -> list[int]:
    """Parts with chance in them, of which a seed knows the result."""
    cells = {f"throw {k}": lambda k=k: torch.randint(1000 * (k + 1), (1,)).item() for k in range(count)}
    return [int(value) for value in work.parts(cells).values()]
