"""``barrow study`` and ``barrow demo``."""

from __future__ import annotations

import difflib
import platform
import time
from pathlib import Path
from typing import Annotated

import numpy
import torch
import typer

import barrow
from barrow.cli import files, plots, report
from barrow.cli.complaint import BROKEN, CONVERGED, Complaint
from barrow.studies import STUDIES, BadData, need

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 2**16, help="Seed of all randomness.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smaller experiment with the same claims.")]


def study(
    name: Annotated[str | None, typer.Argument(help="Which one; without a name they are listed.")] = None,
    seed: Seed = 0,
    quick: Quick = False,
    output: Annotated[Path, typer.Option(help="Directory for a directory of results.")] = Path("reports"),
    data: Annotated[Path | None, typer.Option(help="Input, for w1benchmark and consistency.")] = None,
) -> None:
    """Run an experiment: claims against measurements, figures.

    Writes OUTPUT/NAME/results.json (claims, numbers, seed, versions, seconds) and one PNG a figure.

    EXIT CODES. 0: all claims hold; 1: a claim does not hold; 2: bad input; 130: interrupted.
    """
    if name is None:
        report.plain_table(("study", "paper", "what it does"), [(s.name, s.paper, s.summary) for s in STUDIES.values()])
        report.say("run one with: barrow study NAME")
        return
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ":"
        raise Complaint(f"there is no study {name!r}{hint} there are {', '.join(STUDIES)}")
    if data is not None and not STUDIES[name].data:
        takers = ", ".join(f"{s.name} ({s.data})" for s in STUDIES.values() if s.data)
        raise Complaint(f"the study {name} takes no --data: leave it out; it is for {takers}")
    if data is not None and not data.exists():
        raise Complaint(f"--data {data} does not exist: {name} takes {STUDIES[name].data}")
    need("matplotlib", "sklearn")
    folder = files.directory(output / name)
    start = time.perf_counter()
    try:
        with report.bar() as progress:
            outcome = STUDIES[name].run(seed=seed, quick=quick, progress=progress, data=data)
    except BadData as error:
        raise Complaint(str(error)) from error
    seconds = time.perf_counter() - start
    for title, figure in outcome.figures.items():
        plots.save(figure, folder / f"{title}.png")
    results = {
        "study": name,
        "paper": STUDIES[name].paper,
        "holds": outcome.holds,
        "claims": [vars(claim) for claim in outcome.claims],
        "numbers": outcome.numbers,
        "seed": seed,
        "quick": quick,
        "versions": {
            "barrow": barrow.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
        },
        "seconds": {**outcome.durations, "all": seconds},
    }
    files.write_json(folder / "results.json", results)
    for table in outcome.tables.values():
        report.plain_table(*table)
    report.claims_table(f"{name}: {STUDIES[name].summary}", outcome.claims)
    report.say(
        f"{sum(c.holds for c in outcome.claims)} of {len(outcome.claims)} claims hold, {seconds:.1f} s; see {folder}"
    )
    raise typer.Exit(CONVERGED if outcome.holds else BROKEN)


def demo(
    output: Annotated[Path, typer.Option(help="The picture to write.")] = Path("demo.png"),
    quick: Quick = False,
    seed: Seed = 0,
) -> None:
    """The main job on real input, in half a minute: one table, one picture.

    Two laws of images 35 apart, measured exactly, with entropy and by a 1-Lipschitz network; then handwritten threes
    moved onto eights by gradient descent, the exact distance falling.

    EXIT CODES. 0: done; 2: bad input; 130: interrupted.
    """
    need("matplotlib", "sklearn")
    plots.plottable(output)
    from barrow.studies import demo as experiment

    with report.bar() as progress:
        done = experiment.run(seed=seed, quick=quick, progress=progress)
        progress("picture", 0, 1)
        plots.save(done.figure, output)
        progress("picture", 1, 1)
    report.answers_table("barrow: every distance comes with a proof", done.sections)
    report.say(f"{done.seconds:.1f} s; see {output}")
