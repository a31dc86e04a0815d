"""The nouns of WordNet 3.0, whose offsets are the ids of ImageNet's classes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from barrow.cost import wordnet
from barrow.studies.data import cache
from barrow.studies.data.cache import Dataset, Source
from barrow.studies.study import BadData

VERSION = "WordNet 3.0"


def _search() -> Path | None:
    """The folder or the archive, among the places where :meth:`barrow.Tree.from_wordnet` looks; no other version."""
    for path in wordnet.places():
        with contextlib.suppress(OSError, ValueError):
            if wordnet.version(path) == VERSION:
                return path.parent if path.name == wordnet.FILE else path
    return None


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
            {f"usr/share/wordnet/{wordnet.FILE}": wordnet.FILE},
        ),
    ),
    search=_search,
)


def find(data: Path | None = None) -> Path:
    """The path of ``data.noun``, or of NLTK's archive with it: from ``data``, which is either or their folder.

    Unless given, it is the first of the places where :meth:`barrow.Tree.from_wordnet` looks that has version 3.0.

    Raises:
        BadData: ``data`` is neither, or is of another version: the ids of ImageNet are offsets in the files of 3.0.
        MissingData: it is nowhere.
    """
    place = cache.locate(DATASET) if data is None else data
    try:
        path = wordnet.find(place)
    except FileNotFoundError as error:
        raise BadData(str(error)) from error
    try:
        found = wordnet.version(path)
    except (OSError, ValueError) as error:
        raise cache.unreadable(place, DATASET, error) from error
    if found != VERSION:
        raise cache.unreadable(place, DATASET, ValueError(f"it is {found or 'something else'}"))
    return path
