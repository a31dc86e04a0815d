"""Pictures with tags, and vectors that say how near two tags are: emoji with their keywords, and a set made here."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from barrow.studies.data import cache, emoji, glove

SIDE = 8  # pixels of the features
LEVELS = 4  # of each colour in their histogram
ADVICE = "for emoji and word vectors: barrow data emoji glove"


@final
@dataclasses.dataclass(frozen=True)
class TagSet:
    """Features (n, d) of pictures, which tags each has (n, K), 0 or 1 and at least one, and unit vectors of tags."""

    name: str
    x: Tensor
    tags: Tensor
    vectors: Tensor
    words: tuple[str, ...]
    source: str

    @functools.cached_property
    def distance(self) -> Tensor:
        """Euclidean between the vectors, (K, K)."""
        apart: Tensor = torch.linalg.vector_norm(self.vectors[:, None] - self.vectors, dim=-1)
        return apart

    def reduced(self, least: float) -> TagSet:
        """Without tags that are nearer than ``least`` to one that comes before them, and pictures that lose all."""
        kept: list[int] = []
        for k in range(len(self.words)):
            if not kept or float(self.distance[k, kept].min()) >= least:
                kept.append(k)
        tags = self.tags[:, kept]
        rows = tags.sum(1) > 0
        words = tuple(self.words[k] for k in kept)
        return TagSet(f"{self.name}, less redundant", self.x[rows], tags[rows], self.vectors[kept], words, self.source)


def synthetic(generator: torch.Generator, *, count: int = 1000, clusters: int = 8, each: int = 5) -> TagSet:
    """Tags in clusters of unit vectors; a picture shows a random non-empty subset of the tags of one cluster.

    Its features are those of its cluster, less those of the tags that it shows, and noise as large.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    unit = nn.functional.normalize
    centres = unit(normal(clusters, 1, 10), dim=-1)
    vectors = unit(centres + 0.6 * unit(normal(clusters, each, 10), dim=-1), dim=-1).flatten(0, 1)
    cluster = torch.randint(clusters, (count,), generator=generator)
    subset = torch.randint(1, 2**each, (count,), generator=generator)
    shown = (subset[:, None] >> torch.arange(each)) & 1
    tags = torch.zeros(count, clusters, each).scatter(
        1, cluster[:, None, None].expand(-1, 1, each), shown[:, None] * 1.0
    )
    tags = tags.flatten(1)
    looks, places = 0.5 * normal(clusters * each, 20), normal(clusters, 20)
    x = places[cluster] + tags @ looks / tags.sum(1, keepdim=True) + 1.5 * normal(count, 20)
    words = tuple(f"{'abcdefghijklmnopqrstuvwxyz'[c % 26]}{k}" for c in range(clusters) for k in range(each))
    source = f"{count} synthetic pictures with {clusters * each} tags in {clusters} clusters, made here"
    return TagSet("synthetic", x, tags, vectors, words, source)


def pictures(data: Path | None = None, *, at_least: int = 10) -> TagSet:
    """Emoji as Google draws them, without flags, with those keywords that so many have and that GloVe knows.

    Features are 8 x 8 pixels of three colours and a histogram of 64 colours.

    Raises:
        BadData: ``data`` does not hold both, or they are damaged.
        MissingData: they are nowhere.
    """
    found = emoji.find(data=cache.within(data, "emoji"))
    vectors = glove.find(cache.within(data, "glove"))
    words, tags = found.tagged(at_least)
    table, known = vectors.vectors(words)
    tags, words = tags[:, known], tuple(word for word, is_known in zip(words, known.tolist(), strict=True) if is_known)
    rows = tags.sum(1) > 0
    return TagSet(
        "emoji",
        features(found.images[rows]),
        tags[rows],
        nn.functional.normalize(table[known], dim=1),
        words,
        f"{found.source}: {int(rows.sum())} with {len(words)} keywords; {vectors.source}",
    )


def features(images: Tensor) -> Tensor:
    """Pixels and colours (n, 3, h, w), in [0, 1], to (n, 256)."""
    pixels = nn.functional.adaptive_avg_pool2d(images, SIDE).flatten(1)
    level = (images * LEVELS).long().clamp_max(LEVELS - 1).flatten(2)
    colour = (level[:, 0] * LEVELS + level[:, 1]) * LEVELS + level[:, 2]
    counts = nn.functional.one_hot(colour, LEVELS**3).float().mean(1)
    return torch.cat((pixels, counts.sqrt()), 1)
