"""How much of a matrix is looked at together."""

from __future__ import annotations

from collections.abc import Iterator

ENTRIES = 1 << 21  # a few megabytes: large enough for vector code, small enough for the cache of a server


def row_ranges(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose blocks hold about :data:`ENTRIES` entries, each row being ``width`` entries wide."""
    step = max(1, ENTRIES // max(1, width))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))
