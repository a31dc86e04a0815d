"""Batches that can only be read from their beginning, and the choice of a reader for whatever was given."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import default_collate as _default_collate

from barrow.check import shape
from barrow.estimate.images import Images
from barrow.estimate.samples import ArraySamples, DatasetSamples, Source, TensorSamples, permutation, sample_of, width

__all__ = ["Stream", "source"]


@final
class Stream(Source):
    """Batches that can be read again and again, always in one order, and only from their beginning.

    Of samples 2 k and 2 k + 1 a hash of k chooses the one that trains; the other judges. So halves are known before the
    length is, and no period of the stream can agree with them.
    """

    def __init__(self, name: str, batches: Iterable[Any], device: torch.device | None) -> None:
        self.name, self._batches, self.count = name, batches, 0
        if isinstance(batches, Iterator):
            raise ValueError(
                f"{name} is a {type(batches).__name__}, which can be read only once: give a list of batches, a "
                "DataLoader, or an object whose __iter__ starts again"
            )
        given = next(iter(batches), None)
        if given is None:
            raise ValueError(f"{name} is a {type(batches).__name__} without any batches: it must give some samples")
        first = self._batch(0, given)
        self.shape, self.dtype = tuple(first.shape[1:]), width(first.dtype)
        self.device = device or torch.device("cpu")
        if math.prod(self.shape) == 0:
            raise ValueError(f"batch 0 of {name} has shape {shape(first)}: its samples hold no numbers")
        self._seals: list[int] = []
        self._held = torch.zeros(0, dtype=torch.int64)

    def _batch(self, k: int, given: object) -> Tensor:
        batch = sample_of(f"batch {k} of {self.name}", given)
        if batch.ndim == 0:
            raise ValueError(f"batch {k} of {self.name} is one number: the first dimension of a batch counts samples")
        return batch

    def _deal(self, generator: torch.Generator | None) -> None:
        self._seals, self.count = [], 0

    def _learns(self, start: int, count: int) -> Tensor:
        k = np.arange(start, start + count, dtype=np.uint64)
        return torch.from_numpy((k & np.uint64(1)) == (_hash(k >> np.uint64(1)) & np.uint64(1)))

    def _pass(self, rows: int) -> Iterator[Tensor]:
        first, k = self.count == 0, -1
        for k, given in enumerate(self._batches):
            batch = self._batch(k, given)
            if tuple(batch.shape[1:]) != self.shape:
                raise ValueError(
                    f"batch {k} of {self.name} has samples of shape {tuple(batch.shape[1:])} but those of batch 0 have "
                    f"shape {self.shape}: all must agree"
                )
            seal = _seal(batch)
            if first:
                self._seals.append(seal)
            elif k >= len(self._seals) or self._seals[k] != seal:
                raise self._changed(f"batch {k} is another one")
            yield self._flat(batch)
        if not first and k + 1 < len(self._seals):
            raise self._changed(f"it ended after {k + 1} of {len(self._seals)} batches")

    def _changed(self, what: str) -> ValueError:
        return ValueError(
            f"{self.name} is not the same when it is read again ({what}), so samples that trained would also judge: "
            "switch its shuffling and random augmentation off, or give a dataset whose samples can be had by number"
        )

    def _pick(self, index: Tensor, rows: int) -> Tensor:
        order = index.sort()
        found, start = torch.empty(len(index), math.prod(self.shape), dtype=self.dtype, device=self.device), 0
        for piece in self._pass(rows):
            low, high = torch.searchsorted(order.values, torch.tensor([start, start + len(piece)])).tolist()
            if high > low:
                found[order.indices[low:high].to(self.device)] = piece[(order.values[low:high] - start).to(self.device)]
            start += len(piece)
        return found

    def validate(self, count: int, generator: torch.Generator | None) -> Tensor:
        pairs = permutation(self.count // 2, generator)[:count].sort().values
        self._held = 2 * pairs + torch.from_numpy((_hash(pairs.numpy().astype(np.uint64)) & np.uint64(1)) == 1)
        return self._pick(self._held, count)

    @property
    def learning(self) -> int:
        odd = int(self._learns(self.count - 1, 1)) if self.count % 2 else 0
        return self.count // 2 + odd - len(self._held)

    def minibatches(self, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        whole, size = self.learning <= size, min(size, self.learning)
        kept: list[Tensor] = []
        while True:
            start = 0
            for piece in self._pass(size):
                learns = self._learns(start, len(piece))
                low, high = torch.searchsorted(self._held, torch.tensor([start, start + len(piece)])).tolist()
                learns[self._held[low:high] - start] = False
                kept.append(piece[learns.to(piece.device)])
                start += len(piece)
                if sum(map(len, kept)) >= size and not whole:
                    waiting = torch.cat(kept)
                    while len(waiting) >= size:
                        yield waiting[:size]
                        waiting = waiting[size:]
                    kept = [waiting.clone()]
            if whole:
                everything = torch.cat(kept)
                while True:
                    yield everything

    def judges(self, rows: int) -> Iterator[Tensor]:
        start = 0
        for piece in self._pass(rows):
            yield piece[~self._learns(start, len(piece)).to(piece.device)]
            start += len(piece)


def _hash(k: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Well mixed bits of a number (the finaliser of SplitMix64)."""
    z = (k + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _seal(batch: Tensor) -> int:
    """A number that another batch hardly shares."""
    return zlib.crc32(batch.cpu().contiguous().view(-1).view(torch.uint8).numpy().data, len(batch))


# -- what was given ----------------------------------------------------------------------------------------------------


def source(name: str, given: Any, *, rows: int, device: torch.device | None = None) -> Source:
    """The samples in whatever was given, and where they can be had by number, that.

    Args:
        name: of the argument, for complaints.
        given: a tensor or an array (n, ...), the path of a .npy file or of a folder of images, a map-style dataset, a
            DataLoader, or batches that can be read again and again.
        rows: samples in a batch, where an iterable dataset gives them one by one.
        device: where pieces are put; None follows a tensor, and is the CPU for everything else.

    Raises:
        ValueError: it is none of these, or its first samples are already bad.
    """
    if isinstance(given, Tensor):
        return TensorSamples(name, given, device)
    if isinstance(given, np.ndarray):
        return ArraySamples(name, given, device)
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        given, name = (Images(path), str(path)) if path.is_dir() else (_mapped(path), str(path))
        if isinstance(given, np.ndarray):
            return ArraySamples(name, given, device)
    if isinstance(given, Images):
        return ArraySamples(str(given.folder), given.array, device)
    if isinstance(given, DataLoader):
        if _by_number(given):
            collate = None if given.collate_fn is _default_collate else given.collate_fn
            return DatasetSamples(name, given.dataset, collate, device)
        return Stream(name, given, device)
    if isinstance(given, IterableDataset):
        return Stream(name, DataLoader(given, batch_size=rows), device)
    if isinstance(given, Dataset):
        if not isinstance(given, Sized):
            raise ValueError(f"{name} is a {type(given).__name__} without a length: give it __len__, or batches of it")
        return DatasetSamples(name, given, None, device)
    if isinstance(given, Iterable) and not isinstance(given, dict | set | bytes):
        return Stream(name, given, device)
    raise ValueError(
        f"{name} is a {type(given).__name__}, but samples must be a torch.Tensor, an array, a Dataset, a DataLoader, "
        "batches that can be read again, or the path of a .npy file or of a folder of images"
    )


def _by_number(loader: DataLoader[Any]) -> bool:
    """Whether a loader only goes through its whole dataset, in order or shuffled."""
    if isinstance(loader.dataset, IterableDataset) or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler = loader.sampler
    if type(sampler) is SequentialSampler:
        return True
    return type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]


def _mapped(path: Path) -> npt.NDArray[Any]:
    if not path.exists():
        raise ValueError(f"{path} does not exist: give the path of a .npy file or of a folder of images")
    if path.suffix.lower() != ".npy":
        raise ValueError(
            f"{path} has the suffix {path.suffix or '(none)'!r}, but samples are read from .npy files and folders of "
            "images: load it first"
        )
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be mapped: {' '.join(str(error).split())}") from None
    return array
