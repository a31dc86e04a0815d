"""Benchmarks against the peers: `python -m benchmarks --help`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.clouds import BATCH, CLOUDS
from benchmarks.entropic import MANYSMALL, SINKHORN, SWEEP
from benchmarks.exact import EXACT
from benchmarks.flows import FLOWS
from benchmarks.harness import HERE, append, show
from benchmarks.images import IMAGES
from benchmarks.line import LINE, SLICED
from benchmarks.lipschitz import CONVOLUTION_STEP, LINEAR_STEP
from benchmarks.losses import DIVERGENCE, HISTOGRAMS, MEMORY
from benchmarks.measure import compare, use_threads

EXACTLY = (EXACT, CLOUDS, BATCH, IMAGES, LINE, SLICED, FLOWS)
ENTROPIC = (SWEEP, SINKHORN, DIVERGENCE, MEMORY, HISTOGRAMS, MANYSMALL)
LIPSCHITZ = (LINEAR_STEP, CONVOLUTION_STEP)
CASES = {case.name: case for case in (*EXACTLY, *ENTROPIC, *LIPSCHITZ)}


def main(
    cases: Annotated[list[str] | None, typer.Argument(help=f"Which ones: {', '.join(CASES)}. All by default.")] = None,
    sizes: Annotated[str, typer.Option(help="Sizes n, separated by commas; each case has its own default.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="How often each contender runs.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads of everybody; 0 leaves their choices.")] = 1,
    limit: Annotated[float, typer.Option(min=0, help="Seconds a run may take in a search; 0: the case's own.")] = 0,
    output: Annotated[Path, typer.Option(help="The CSV file to append to.")] = HERE / "results.csv",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the table and append nothing.")] = False,
) -> None:
    """Time ourselves and the peers on the same inputs, in turns; show a table and append to a CSV file."""
    unknown = [name for name in cases or () if name not in CASES]
    if unknown:
        raise typer.BadParameter(f"there is no case {unknown[0]}; there are: {', '.join(CASES)}")
    try:
        chosen = [int(size) for size in sizes.split(",") if size]
    except ValueError:
        raise typer.BadParameter(f"--sizes takes whole numbers separated by commas, not {sizes}") from None
    if threads:
        use_threads(threads)
    console = Console()
    for name in cases or CASES:
        case = dataclasses.replace(CASES[name], limit_s=limit or CASES[name].limit_s)
        for setting in case.settings(chosen):
            rows = compare(case, setting, repeats)
            show(rows, console)
            if not dry_run:
                append(rows, output)


if __name__ == "__main__":
    typer.run(main)
