"""``barrow doctor``: what is installed, and whether it works."""

from __future__ import annotations

import importlib
import importlib.util
import math
import platform
from typing import Any

import torch
import typer

import barrow
from barrow.cli import report
from barrow.cli.complaint import BROKEN, CONVERGED
from barrow.cli.transport import Json
from barrow.studies.study import EXTRA


def _version(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        return f"not installed: {EXTRA}"
    return str(importlib.import_module(module).__version__)


def _instruction_set() -> str | None:
    """What the native core was dispatched to; None if there is no core."""
    try:
        core = importlib.import_module("barrow._core")
        return str(getattr(core, "instruction_set", lambda: "unknown")())
    except ImportError:
        return None


def _devices() -> list[str]:
    """The CPU, and CUDA devices by name; CUDA is left asleep where there is none."""
    if not torch.cuda.is_available():
        return ["cpu"]
    return ["cpu", *(f"cuda:{k} {torch.cuda.get_device_name(k)}" for k in range(torch.cuda.device_count()))]


def _problems() -> dict[str, tuple[barrow.Solver, barrow.Problem, float]]:
    """One problem a solver, each with its answer by hand."""
    plane = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    translated = barrow.Points(plane, plane + torch.tensor([3.0, 4.0]).double(), p=2)
    line = barrow.Points(plane[:, 1:], plane[:, 1:] + 3, p=3)
    tree = barrow.Tree(torch.tensor([-1, 0, 0]), torch.tensor([0.0, 1.0, 2.0]))
    left, right = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    # One point on each side: the entropy has nothing to choose.
    dirac = barrow.Points(plane[:1], plane[2:], p=2)
    return {
        "Simplex": (barrow.Simplex(), barrow.Problem(translated), 25.0),
        "Sort": (barrow.Sort(), barrow.Problem(line), 27.0),
        "TreeFlow": (barrow.TreeFlow(), barrow.Problem(tree, left, right), 3.0),
        "Sinkhorn": (barrow.Sinkhorn(), barrow.Problem(dirac, epsilon=0.5), 4.0),
    }


def _checked(solver: barrow.Solver, problem: barrow.Problem, truth: float) -> str:
    """The string "ok", or what went wrong."""
    try:
        solution = barrow.solve(problem, solver)
        lower, upper = (float(t) for t in solution.bounds)
        value = float(solution.value)
    except Exception as error:  # whatever a broken installation raises is what the user came to hear
        return f"not ok: {type(error).__name__}: {' '.join(str(error).split())}"
    right = lower <= truth <= upper and math.isclose(value, truth, rel_tol=1e-5)
    return "ok" if right else f"not ok: {value:.9g} in [{lower:.9g}, {upper:.9g}] instead of {truth:g}"


def doctor(json: Json = False) -> None:
    """Versions, the native core, devices, and one solved problem for each solver.

    JSON KEYS. healthy; versions: barrow, python, torch, numpy, matplotlib, scikit-learn; native_core: its instruction
    set, null if it is missing; threads; devices; checks: "ok" or what is wrong, a solver.

    EXIT CODES. 0: all is well; 1: something is broken.
    """
    core = _instruction_set()
    checks = {name: _checked(*case) for name, case in _problems().items()}
    healthy = core is not None and all(verdict == "ok" for verdict in checks.values())
    versions = {
        "barrow": barrow.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: _version(module) for name, module in _OTHERS.items()},
    }
    if json:
        found: dict[str, Any] = {"healthy": healthy, "versions": versions, "native_core": core}
        report.one_line_json(found | {"threads": torch.get_num_threads(), "devices": _devices(), "checks": checks})
    else:
        report.pairs({
            **versions,
            "native core": core or "missing: reinstall barrow with a C++ compiler at hand",
            "threads": str(torch.get_num_threads()),
            "devices": ", ".join(_devices()),
            **{f"check {name}": verdict for name, verdict in checks.items()},
        })  # fmt: skip
        report.say("all is well" if healthy else "something is broken: see above")
    raise typer.Exit(CONVERGED if healthy else BROKEN)


_OTHERS = {"numpy": "numpy", "matplotlib": "matplotlib", "scikit-learn": "sklearn"}
