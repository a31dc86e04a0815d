"""``barrow study`` and ``barrow demo``."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from barrow.cli import files, plots, report, results
from barrow.cli.complaint import BAD_INPUT, BROKEN, CONVERGED, Complaint, Interrupted, one_line
from barrow.studies import STUDIES, BadData, MissingExtra, Work, need, takers
from barrow.studies.work import STAMP

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 2**16, help="Seed of all randomness.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smaller experiment with the same claims.")]


def study(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Which one; without a name they are listed.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every study, one after the other, and an index of them.")
    ] = False,
    seed: Seed = 0,
    quick: Quick = False,
    data: Annotated[
        Path | None, typer.Option(help="Input, for a study that takes some; with --all a folder with one entry a NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up a run where it was interrupted.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for a folder of results a study; reports, if it is not given.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--report", help="As --output, and renew its index.html, the page of all studies.")
    ] = None,
) -> None:
    """Run an experiment: claims against measurements, tables, figures.

    Writes OUTPUT/NAME/report.html (a page that can be read offline), results.json (claims, tables, numbers, seed,
    versions, machine, seconds) and one PNG a figure; parts/ keeps what --resume takes up.

    EXIT CODES. 0: all claims hold; 1: a claim does not hold; 2: bad input, or a study could not run; 130: interrupted.
    """
    if name is None and not every:
        given = _given(context)
        if given:
            raise Complaint(f"{', '.join(given)}: for which study? Give a NAME, or --all; barrow study lists them")
        report.entries({study.name: (study.summary, study.paper) for study in STUDIES.values()})
        report.say("\nrun one with: barrow study NAME; all of them with: barrow study --all")
        return
    if name is not None and every:
        raise Complaint(f"both the study {name!r} and --all were given: leave one of them out")
    if output is not None and index is not None:
        raise Complaint(
            "both --output and --report were given, but there is one place for results: leave one of them out"
        )
    folder = index or output or Path("reports")
    options = {"seed": seed, "quick": quick, "resume": resume}
    if name is None:
        raise typer.Exit(_all(folder, data, options))
    _check(name, data)
    need("matplotlib", "sklearn", "jinja2")
    try:
        found = _one(name, folder, data, options, indexed=index is not None)
    except BadData as error:
        raise Complaint(str(error)) from error
    if index is not None:
        results.write_index(folder)
    raise typer.Exit(CONVERGED if found["holds"] else BROKEN)


def _given(context: typer.Context) -> list[str]:
    """The options that were given, as they are written."""
    sources = {p.opts[0]: context.get_parameter_source(str(p.name)) for p in context.command.params}
    return [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _check(name: str, data: Path | None) -> None:
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ":"
        raise Complaint(f"there is no study {name!r}{hint} there are {', '.join(STUDIES)}")
    if data is not None and not STUDIES[name].data:
        raise Complaint(f"the study {name} takes no --data: leave it out; it is for {', '.join(takers())}")
    if data is not None and not data.exists():
        raise Complaint(f"--data {data} does not exist: {name} takes {STUDIES[name].data}")


def _one(name: str, folder: Path, data: Path | None, options: Mapping[str, Any], *, indexed: bool) -> Mapping[str, Any]:
    """Run one study, print what it found and write its folder; what results.json holds."""
    about = STUDIES[name]
    place = files.directory(folder / name)
    start = time.perf_counter()
    try:
        with report.bar() as progress:
            work = Work(study=name, data=data, folder=place / results.PARTS, progress=progress, **options)
            outcome = about.run(work)
        found = results.gather(about, outcome, work, time.perf_counter() - start)
        results.write(place, found, outcome, home=f"../{results.INDEX}" if indexed else None)
    except KeyboardInterrupt:
        raise Interrupted(_interrupted(name, place / results.PARTS)) from None
    except OSError as error:
        raise Complaint(f"{name}: {error.strerror or error}") from error
    for title, table in outcome.tables.items():
        report.plain_table(*table, title=title)
    report.claims_table(f"{name}: {about.summary}", outcome.claims)
    if work.resumed:
        report.say(f"{work.resumed} of {len(work.seconds)} parts were there already")
    holds = f"{sum(claim.holds for claim in outcome.claims)} of {len(outcome.claims)} claims hold"
    report.say(f"{holds}, {found['seconds']['all']:.1f} s; see {place / results.REPORT}")
    return found


def _interrupted(name: str, parts: Path) -> str:
    kept = len([path for path in parts.glob("*.ckpt") if path.name != STAMP])
    if not kept:
        return f"interrupted before a part of {name} was finished"
    finished = "1 finished part is" if kept == 1 else f"{kept} finished parts are"
    return f"interrupted; {finished} kept in {parts}: give the same command with --resume to continue"


def _all(folder: Path, data: Path | None, options: Mapping[str, Any]) -> int:
    """Run every study that can run, with an index that is renewed after each; the exit code."""
    inputs = {} if data is None else _inputs(data)
    need("matplotlib", "sklearn", "jinja2")
    files.directory(folder)
    done: list[Mapping[str, Any]] = []
    reasons: dict[str, str] = {}
    for name in STUDIES:
        try:
            done.append(_one(name, folder, inputs.get(name), options, indexed=True))
        except (BadData, MissingExtra) as error:
            reasons[name] = one_line(error)
            report.aside(f"barrow: {name} was not run: {reasons[name]}")
        results.write_index(folder, reasons)
    claims = [claim["holds"] for found in done for claim in found["claims"]]
    ran = f"{len(done)} of {len(STUDIES)} studies were run"
    report.say(f"{ran}, {sum(claims)} of {len(claims)} claims hold; see {folder / results.INDEX}")
    return BAD_INPUT if reasons else CONVERGED if all(claims) else BROKEN


def _inputs(data: Path) -> dict[str, Path]:
    """By name, what ``data`` holds for the studies that take data."""
    takers = [study.name for study in STUDIES.values() if study.data]
    found = {name: data / name for name in takers if (data / name).exists()}
    if not found:
        raise Complaint(f"--data {data} holds nothing for --all, which looks in it for {', '.join(takers)}")
    return found


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
