"""What a study leaves in its folder: results.json, its pictures, its page; and the page of all studies."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import barrow
from barrow.cli import files
from barrow.studies import STUDIES, Outcome, Study, Work
from barrow.studies.work import one_thread

RESULTS, REPORT, INDEX, PARTS = "results.json", "report.html", "index.html", "parts"
_KEYS = {"study", "title", "paper", "quick", "claims", "captions", "seconds"}  # what the index reads


def gather(study: Study, outcome: Outcome, work: Work, seconds: float) -> dict[str, Any]:
    """All that is known about a finished run but its pixels; ``seconds`` is what this run took."""
    return {
        "study": study.name,
        "title": study.summary,
        "paper": study.paper,
        "essay": list(study.essay),
        "holds": outcome.holds,
        "claims": [dataclasses.asdict(claim) for claim in outcome.claims],
        "captions": {name: outcome.captions.get(name, "") for name in outcome.figures},
        "tables": {title: table._asdict() for title, table in outcome.tables.items()},
        "sources": list(outcome.sources),
        "numbers": outcome.numbers,
        "seed": work.seed,
        "quick": work.quick,
        "data": None if work.data is None else str(work.data),
        "versions": versions(),
        "machine": machine(),
        # Parts that were found on the disk had cost their time before.
        "seconds": {
            "all": max(seconds, sum(work.seconds.values())) if work.resumed else seconds,
            "parts": {**outcome.durations, **work.seconds},
        },
    }


def write(folder: Path, results: Mapping[str, Any], outcome: Outcome, *, home: str | None = None) -> None:
    """Write everything, each file whole or not at all: pixels and page are made before the first file is touched."""
    from barrow.studies import page

    pictures = {name: _png(figure) for name, figure in outcome.figures.items()}
    # As they will be read: the page must not depend on what JSON does not keep.
    kept = json.loads(json.dumps(files.finite(dict(results)), allow_nan=False))
    html = page.report(kept, pictures, home=home)
    for name, png in pictures.items():
        files.write(folder / f"{name}.png", lambda sibling, png=png: sibling.write_bytes(png))  # type: ignore[misc]
    files.write_json(folder / RESULTS, kept)
    files.write_text(folder / REPORT, html)


def write_index(folder: Path, reasons: Mapping[str, str] | None = None) -> None:
    """Write the page of all studies, from what lies in ``folder``; ``reasons`` say why a study could not be run."""
    from barrow.studies import page

    found = (path.parent.name for path in folder.glob(f"*/{RESULTS}"))
    names = [*STUDIES, *sorted(set(found) - set(STUDIES))]
    cards = (_card(folder / name, (reasons or {}).get(name, "")) for name in names)
    files.write_text(folder / INDEX, page.index([card for card in cards if card is not None]))


def _card(folder: Path, reason: str) -> Any:
    from barrow.studies.page import Card

    study = STUDIES.get(folder.name)
    results = None if reason else _read(folder / RESULTS)
    if results is not None:
        names = list(results["captions"])
        picture = folder / f"{names[0]}.png" if names else None
        png = picture.read_bytes() if picture is not None and picture.is_file() else None
        return Card(folder.name, results["paper"], results["title"], results, png)
    if study is None:
        return None
    reason = reason or f"It was not run yet: ``barrow study {study.name} --report {folder.parent}``"
    return Card(study.name, study.paper, study.summary, reason=reason)


def _read(path: Path) -> dict[str, Any] | None:
    """Results as :func:`gather` makes them; None for anything else, such as those of an older version."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return results if isinstance(results, dict) and results.keys() >= _KEYS else None


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Of everything that a number could depend on."""
    modules = {
        "torch": "torch",
        "numpy": "numpy",
        "scipy": "scipy",
        "scikit-learn": "sklearn",
        "matplotlib": "matplotlib",
    }
    found = {name: str(importlib.import_module(module).__version__) for name, module in modules.items()}
    return {"barrow": barrow.__version__, "python": platform.python_version(), **found}


def machine() -> dict[str, Any]:
    """What the seconds were measured on; None for what the system does not say."""
    with one_thread():  # as every study is run
        threads = torch.get_num_threads()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() if affinity is None else len(affinity(0)),
        "threads": threads,
        "memory_gib": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
