"""A study as it is run, and again after half of its parts were lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from barrow.studies import Outcome, Work
from barrow.studies.work import STAMP


def resumed(run: Callable[[Work], Outcome], folder: Path, *, parts: int, seed: int = 3) -> Outcome:
    """The outcome of a quick run of so many parts, which is whole, and the same when every other part is made again."""
    outcome = run(Work(seed=seed, quick=True, folder=folder))
    kept = sorted(path for path in folder.glob("*.ckpt") if path.name != STAMP)
    assert len(kept) == parts
    for path in kept[::2]:
        path.unlink()
    work = Work(seed=seed, quick=True, folder=folder, resume=True)
    again = run(work)
    assert work.resumed == parts // 2
    assert again.numbers == outcome.numbers
    assert again.claims == outcome.claims
    assert again.tables == outcome.tables
    json.dumps(outcome.numbers, allow_nan=False)
    assert set(outcome.captions) == set(outcome.figures) != set()
    assert outcome.tables
    assert all(len(row) == len(table.columns) for table in outcome.tables.values() for row in table.rows)
    assert outcome.sources
    return outcome
