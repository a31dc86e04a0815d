"""The nouns of WordNet 3.0, whose offsets are the ids of ImageNet's classes."""

from __future__ import annotations

from pathlib import Path

from barrow.studies.data import cache
from barrow.studies.data.cache import Dataset, Source

NOUNS = "data.noun"
DATASET = Dataset(
    name="wordnet",
    title="the nouns of WordNet 3.0",
    summary="82,115 meanings of English nouns, each with its more general ones",
    licence="WordNet 3.0 licence (free use, with the notice at its top)",
    citation="Fellbaum, WordNet: an electronic lexical database, MIT Press 1998; Princeton University",
    sources=(
        Source(
            (
                "http://deb.debian.org/debian/pool/main/w/wordnet/wordnet-base_3.0-37_all.deb",
                "http://snapshot.debian.org/archive/debian/20250520T000000Z/"
                "pool/main/w/wordnet/wordnet-base_3.0-37_all.deb",
            ),
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            6467132,
            {f"usr/share/wordnet/{NOUNS}": NOUNS},
        ),
    ),
    folders=("/usr/share/wordnet",),
)


def find(data: Path | None = None) -> Path:
    """The path of ``data.noun``: ``data`` itself or in the folder ``data``, else the system's, else the cache's.

    Raises:
        BadData: ``data`` is neither, or is of another version: the ids of ImageNet are offsets in the files of 3.0.
        MissingData: it is nowhere.
    """
    place = cache.locate(DATASET) if data is None else data
    path = place / NOUNS if place.is_dir() else place
    try:
        with path.open("rb") as file:
            top = file.read(4096)
    except OSError as error:
        raise cache.unreadable(path, DATASET, error) from error
    if b"WordNet 3.0 Copyright" not in top:
        raise cache.unreadable(path, DATASET, ValueError(f"it does not begin as {NOUNS} of version 3.0 does"))
    return path
