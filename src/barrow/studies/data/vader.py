"""Short texts and how strongly people felt about them: 23,703 histograms of ratings from -4 to +4, in four domains."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from barrow.studies.data import cache
from barrow.studies.data.archives import members
from barrow.studies.data.cache import Contents, Dataset, Source

DOMAINS = {
    "tweets": "tweets",
    "amazon": "amazonReviewSnippets",
    "movie": "movieReviewSnippets",
    "nyt": "nytEditorialSnippets",
}
TEXTS, RATINGS = "_GroundTruth.txt", "_anonDataRatings.txt"
LOWEST, HIGHEST = -4, 4
BINS = HIGHEST - LOWEST + 1
_GRADES = {str(grade): grade - LOWEST for grade in range(LOWEST, HIGHEST + 1)}
_FILES = tuple(stem + kind for stem in DOMAINS.values() for kind in (TEXTS, RATINGS))
_INNER = "hutto_ICWSM_2014.tar.gz"


def _unpack(raw: Contents) -> Contents:
    """The texts are in a tar within the package."""
    inner = members(raw[_INNER], [f"hutto_ICWSM_2014/{name}" for name in _FILES])
    return {name.rpartition("/")[2]: content for name, content in inner.items()}


DATASET = Dataset(
    name="vader",
    title="the ratings of VADER",
    summary="23,703 short texts (tweets, reviews, editorials), each with 15 to 99 human ratings from -4 to +4",
    licence="MIT (the package); the texts are third parties': do not publish them again",
    citation="Hutto and Gilbert, VADER: a parsimonious rule-based model for sentiment analysis, ICWSM 2014",
    sources=(
        Source(
            (
                "https://files.pythonhosted.org/packages/77/8c/"
                "4a48c10a50f750ae565e341e697d74a38075a3e43ff0df6f1ab72e186902/vaderSentiment-3.3.2.tar.gz",
            ),
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            2466783,
            {f"vaderSentiment-3.3.2/additional_resources/{_INNER}": _INNER},
        ),
    ),
    files=_FILES,
    reduce=_unpack,
)


@final
@dataclasses.dataclass(frozen=True)
class Domain:
    """Texts (n,) of one kind, and how many raters gave each of the nine grades: ``histograms`` (n, 9), float32.

    ``ids`` (n,) say what each text is from: in ``amazon`` and ``nyt`` the review or the editorial, which several share;
    in ``tweets`` and ``movie``, whose sources are not told, each has its own.
    """

    name: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    histograms: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def raters(self) -> Tensor:
        """How many people rated each text, (n,)."""
        return self.histograms.sum(1)

    @property
    def shares(self) -> Tensor:
        """The histograms as probabilities, (n, 9)."""
        return self.histograms / self.raters[:, None]

    @property
    def means(self) -> Tensor:
        """The mean valence of each text, (n,), in [-4, 4]."""
        return self.shares @ torch.arange(LOWEST, HIGHEST + 1.0)


@final
@dataclasses.dataclass(frozen=True)
class Ratings:
    """The domains by name (``tweets``, ``amazon``, ``movie``, ``nyt``), and where they come from."""

    domains: Mapping[str, Domain]
    source: str

    def __getitem__(self, name: str) -> Domain:
        return self.domains[name]


def find(data: Path | None = None) -> Ratings:
    """The rated texts, from ``data`` (the package's sdist, the tar in it, or a folder of its text files) or the cache.

    Texts and ratings are joined by their ids. Means are taken from the ratings: those beside the texts differ from
    them in 199 of the 4,200 tweets.

    Raises:
        BadData: ``data`` holds no such texts, or they are damaged.
        MissingData: they are nowhere.

    Source: Hutto and Gilbert 2014, section 3.
    """
    contents, place = cache.load(DATASET, data)
    domains: dict[str, Domain] = {}
    for name, stem in DOMAINS.items():
        try:
            domains[name] = _domain(name, contents[stem + TEXTS], contents[stem + RATINGS])
        except ValueError as error:
            raise cache.unreadable(Path(place), DATASET, ValueError(f"{stem}: {error}")) from error
    return Ratings(domains, f"VADER, {sum(map(len, domains.values()))} rated texts of {place}")


def _domain(name: str, texts: bytes, ratings: bytes) -> Domain:
    """Rows of id, mean and text; rows of id, mean, deviation and the list of ratings."""
    said = {row[0]: row[2] for row in _rows(texts, 3)}
    rated = {row[0]: _histogram(row[3], row[0]) for row in _rows(ratings, 4)}
    if lonely := said.keys() ^ rated.keys():
        raise ValueError(f"the id {min(lonely)} has a text or ratings, but not both")
    if not said:
        raise ValueError("it is empty")
    ids = tuple(key.partition("_")[0] for key in said)  # source_sentence in amazon and nyt, elsewhere a number
    return Domain(name, tuple(said.values()), ids, torch.from_numpy(np.stack([rated[key] for key in said])))


def _rows(content: bytes, width: int) -> list[list[str]]:
    # One of the files begins with a byte-order mark, and a form feed within a text does not end its row.
    rows = [line.rstrip("\r\n").split("\t") for line in io.StringIO(content.decode("utf-8-sig", errors="replace"))]
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} cells, not {width}")
    return rows


def _histogram(ratings: str, key: str) -> npt.NDArray[np.float32]:
    """Of a list such as [2, -1, 0]."""
    grades = [
        _GRADES.get(grade.strip(), -1) for grade in ratings.strip().removeprefix("[").removesuffix("]").split(",")
    ]
    if min(grades) < 0:
        raise ValueError(f"the ratings of {key} are no list of grades from {LOWEST} to {HIGHEST}")
    return np.bincount(grades, minlength=BINS).astype(np.float32)
