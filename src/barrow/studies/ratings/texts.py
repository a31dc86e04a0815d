"""Texts that people rated from -4 to +4: features of their words, histograms of their ratings, a set made here."""

from __future__ import annotations

import dataclasses
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from barrow.studies.data import cache, glove, vader
from barrow.studies.data.cache import MissingData

GRADES = torch.arange(vader.LOWEST, vader.HIGHEST + 1.0)
BUCKETS = 1024  # that words and pairs of words are hashed into
ADVICE = "for the ratings of people: barrow data vader glove"

Split = tuple[Tensor, Tensor, Tensor]  # rows to train on, to choose by, to judge by

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[^\sa-z0-9]+")


@final
@dataclasses.dataclass(frozen=True)
class Corpus:
    """Features (n, d) of texts, how many people gave each of nine grades (n, 9), and which source each is from (n,)."""

    name: str
    x: Tensor
    histograms: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shares(self) -> Tensor:
        """The histograms as probabilities, (n, 9)."""
        return self.histograms / self.histograms.sum(1, keepdim=True)

    def split(self, generator: torch.Generator) -> Split:
        """Rows to train on (60 %), to choose by (20 %), to judge by (the rest), at random; no source is in two of them.

        >>> one = torch.zeros(10, 1)
        >>> corpus = Corpus("a", one, one, torch.arange(10) // 2)
        >>> [corpus.sources[rows].unique().numel() for rows in corpus.split(torch.Generator().manual_seed(0))]
        [3, 1, 1]
        """
        count = int(self.sources.max()) + 1
        share = torch.empty(count)
        share[torch.randperm(count, generator=generator)] = (torch.arange(count) + 0.5) / count
        rows = torch.randperm(len(self), generator=generator)
        where = share[self.sources[rows]]
        return rows[where < 0.6], rows[(where >= 0.6) & (where < 0.8)], rows[where >= 0.8]


# -- words -------------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Lower case words, and runs of signs, which are words in tweets.

    >>> words("I don't LIKE it :( !!!")
    ['i', "don't", 'like', 'it', ':(', '!!!']
    """
    return _WORD.findall(text.lower())


def hashed(texts: Sequence[str], buckets: int = BUCKETS) -> Tensor:
    """How often words and pairs of neighbouring words fall into each bucket, of norm 1: (n, buckets).

    The bucket of a word is known without a vocabulary, so that nothing is learnt from texts that are held out.
    """
    cells = []
    for row, text in enumerate(texts):
        found = words(text)
        terms = (*found, *(" ".join(pair) for pair in itertools.pairwise(found)))
        cells += [row * buckets + zlib.crc32(term.encode()) % buckets for term in terms]
    counts = torch.bincount(torch.tensor(cells, dtype=torch.int64), minlength=len(texts) * buckets)
    return nn.functional.normalize(counts.view(len(texts), buckets).float(), dim=1)


def features(texts: Sequence[str], vectors: glove.Glove | None) -> Tensor:
    """Twice the hashed words; where there are vectors, before them the mean direction of the vectors of the words.

    Each coordinate of the latter has mean 0 and deviation 1 over ``texts``. The result is (n, d).
    """
    if vectors is None:
        return 2 * hashed(texts)
    found = [words(text) for text in texts]
    vocabulary = sorted({word for text in found for word in text})
    table, _ = vectors.vectors(vocabulary)
    rows = {word: row for row, word in enumerate(vocabulary)}
    sums = torch.stack([table[[rows[word] for word in text]].sum(0) for text in found])
    mean = nn.functional.normalize(sums, dim=1)
    return torch.cat(((mean - mean.mean(0)) / mean.std(0).clamp_min(1e-6), 2 * hashed(texts)), 1)


# -- people's ratings --------------------------------------------------------------------------------------------------


def rated(data: Path | None = None) -> tuple[list[Corpus], tuple[str, ...]]:
    """The four domains of VADER, and where they and the word vectors come from.

    A text that comes again within its domain is left out. Sentences of one review or one editorial share their source;
    where the ids do not tell, each text is its own.

    Raises:
        BadData: ``data`` holds no such texts, or they are damaged.
        MissingData: they are nowhere.
    """
    found = vader.find(cache.within(data, "vader"))
    try:
        vectors = glove.find(data / "glove" if data is not None and (data / "glove").exists() else None)
        note = vectors.source
    except MissingData:
        vectors, note = None, "hashed words alone, which need no other data; for word vectors: barrow data glove"
    kept = {name: _different(domain.texts) for name, domain in found.domains.items()}
    x = features([found[name].texts[row] for name, rows in kept.items() for row in rows], vectors)
    corpora = []
    for (name, rows), part in zip(kept.items(), x.split([len(rows) for rows in kept.values()]), strict=True):
        ids = [found[name].ids[row] for row in rows]
        number = {one: k for k, one in enumerate(dict.fromkeys(ids))}
        sources = torch.tensor([number[one] for one in ids])
        corpora.append(Corpus(name, part, found[name].histograms[rows], sources))
    return corpora, (f"{found.source}, {len(x)} of them different", note)


def _different(texts: Sequence[str]) -> list[int]:
    """Where each text comes first."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    return list(first.values())


# -- a stand-in --------------------------------------------------------------------------------------------------------


def simulated(seed: int, *, count: int = 1000, vocabulary: int = 300, raters: int = 20) -> list[Corpus]:
    """Two domains of the same words, some of them more frequent in one than in the other, and simulated raters.

    A text of 5 to 20 words w has the valence v = 1.5 sum_w value_w / sqrt(length) + 0.8 normal, of which words say the
    first part, and the spread s = 0.4 + sum_w doubt_w / length, with fixed values and doubts of words; a rater answers
    v + s normal, rounded and clipped to -4 ... 4.
    """
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(vocabulary, generator=generator) * (torch.rand(vocabulary, generator=generator) < 0.4)
    doubt = 2 * torch.rand(vocabulary, generator=generator)
    usual = 1 / torch.arange(1.0, vocabulary + 1)
    corpora = []
    for name in ("simulated", "simulated, other words"):
        frequency = usual[torch.randperm(vocabulary, generator=generator)] + 0.3 * usual.mean()
        length = torch.randint(5, 21, (count, 1), generator=generator)
        drawn = torch.multinomial(frequency, count * 20, replacement=True, generator=generator).view(count, 20)
        counts = torch.zeros(count, vocabulary).scatter_add(1, drawn, (torch.arange(20) < length).float())
        unsaid = 0.8 * torch.randn(count, 1, generator=generator)
        v = 1.5 * (counts @ value)[:, None] / length.sqrt() + unsaid
        s = 0.4 + (counts @ doubt)[:, None] / length
        grades = (v + s * torch.randn(count, raters, generator=generator)).round().clamp(vader.LOWEST, vader.HIGHEST)
        histograms = nn.functional.one_hot((grades - vader.LOWEST).long(), vader.BINS).float().sum(1)
        corpora.append(Corpus(name, 3 * nn.functional.normalize(counts, dim=1), histograms, torch.arange(count)))
    return corpora
