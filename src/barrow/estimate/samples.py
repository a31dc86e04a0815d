"""Samples of a law, whoever keeps them: what trains, what judges, and the statistics of what is read in pieces."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from barrow.check import real_tensor, shape

__all__ = [
    "ArraySamples",
    "DatasetSamples",
    "Moments",
    "Source",
    "TensorSamples",
    "permutation",
    "precise",
    "sample_of",
    "width",
]

FEWEST = 4
_GROUP = 2**22  # numbers in the blocks that are held at once, where one block is not larger


def precise(t: Tensor) -> Tensor:
    """In float64, where a device has it."""
    return t.cpu().double() if t.device.type == "mps" else t.double()


class Moments:
    """Count, mean and spread of vectors that come in pieces, in float64.

        norm^2 = sum_i |t_i - mean|^2

    Pieces are merged without squaring anything large: any data that float64 holds keeps its digits.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self) -> None:
        self.count, self.norm = 0, 0.0
        self.mean = torch.zeros((), dtype=torch.float64)

    def add(self, t: Tensor) -> None:
        """Take in (k, ...) in float64."""
        k = len(t)
        if k == 0:
            return
        mean = t.mean(0)
        delta = mean - self.mean.to(mean.device)
        both = self.count + k
        self.norm = math.hypot(self.norm, _norm(t - mean), _norm(delta) * math.sqrt(self.count * (k / both)))
        self.mean = mean - delta * (self.count / both)
        self.count = both

    @property
    def stderr(self) -> float:
        """The standard error of the mean of numbers."""
        return self.norm / math.sqrt(self.count * (self.count - 1))

    def about(self, centre: Tensor) -> float:
        """The root of sum_i |t_i - centre|^2."""
        return math.hypot(self.norm, math.sqrt(self.count) * _norm(self.mean - centre))


def _norm(t: Tensor) -> float:
    peak = t.abs().max().item()
    return peak * float(torch.linalg.vector_norm(t / peak)) if peak > 0 else 0.0


class Source(abc.ABC):
    """Samples of one law, read in pieces, and who of them does what: train, validate or judge.

    Attributes:
        name: of the argument, or the path, for complaints.
        shape: of one sample.
        dtype: float32 or float64, of what is read.
        device: where pieces are put.
        count: how many samples there are; known after :meth:`survey` at the latest.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    count: int

    def survey(self, rows: int, generator: torch.Generator | None) -> Moments:
        """Read everything once: refuse what is not finite, deal out the roles, return the moments of what may train."""
        self._deal(generator)
        moments, start = Moments(), 0
        for piece in self._pass(rows):
            finite = piece.isfinite().all(1)
            if not finite.all():
                raise ValueError(
                    f"{self.name} has NaN or infinite entries, first in sample {start + int(finite.int().argmin())}: "
                    "drop those samples, or clean them with nan_to_num"
                )
            moments.add(precise(piece[self._learns(start, len(piece)).to(piece.device)]))
            start += len(piece)
        self.count = start
        self._enough()
        return moments

    def _enough(self) -> None:
        if self.count < FEWEST:
            raise ValueError(
                f"{self.name} has shape {(self.count, *self.shape)}, but samples must have shape (n, ...) with "
                f"n >= {FEWEST}: half of them train the critic, the others judge it"
            )

    @abc.abstractmethod
    def _deal(self, generator: torch.Generator | None) -> None:
        """Decide which half judges."""

    @abc.abstractmethod
    def _learns(self, start: int, count: int) -> Tensor:
        """Whether samples start, start + 1, ... belong to the half that trains."""

    @abc.abstractmethod
    def _pass(self, rows: int) -> Iterator[Tensor]:
        """All samples in order, in pieces (k, d) of at most ``rows`` where the source can choose."""

    @abc.abstractmethod
    def _pick(self, index: Tensor, rows: int) -> Tensor:
        """The samples of these numbers, in this order."""

    @abc.abstractmethod
    def validate(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Take ``count`` samples from the half that trains, and train no more with them."""

    @property
    @abc.abstractmethod
    def learning(self) -> int:
        """How many samples train."""

    @abc.abstractmethod
    def minibatches(self, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Batches of samples that train, without end; all of them where there are no more than ``size``."""

    @abc.abstractmethod
    def judges(self, rows: int) -> Iterator[Tensor]:
        """The half that never trained, once, in pieces."""

    def blocks(self, size: int, count: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Independent blocks (g, size, d) of different samples, ``count`` in all, a few at a time."""
        order = permutation(self.count, generator)[: size * count].view(count, size)
        together = max(1, _GROUP // (size * max(1, math.prod(self.shape))))
        for start in range(0, count, together):
            index = order[start : start + together]
            yield precise(self._pick(index.flatten(), size)).unflatten(0, tuple(index.shape))

    def _flat(self, t: Tensor) -> Tensor:
        return t.detach().to(self.device, self.dtype).reshape(len(t), -1)


def permutation(n: int, generator: torch.Generator | None) -> Tensor:
    """A random order of n things, on the CPU."""
    return torch.randperm(n, generator=generator, device=_where(generator)).cpu()


def _where(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


# -- samples that can be had by number ---------------------------------------------------------------------------------


class _Numbered(Source, abc.ABC):
    """Samples that can be had in any order; a random half trains."""

    _trains: Tensor
    _judges: Tensor

    @abc.abstractmethod
    def _read(self, index: slice | Tensor) -> Tensor:
        """Samples (k, ...) as they are kept."""

    def _deal(self, generator: torch.Generator | None) -> None:
        order = permutation(self.count, generator)
        self._trains, self._judges = order[: self.count // 2], order[self.count // 2 :]
        self._mask = torch.zeros(self.count, dtype=torch.bool)
        self._mask[self._trains] = True

    def _learns(self, start: int, count: int) -> Tensor:
        return self._mask[start : start + count]

    def _pass(self, rows: int) -> Iterator[Tensor]:
        for start in range(0, self.count, rows):
            yield self._flat(self._read(slice(start, min(start + rows, self.count))))

    def _pick(self, index: Tensor, rows: int) -> Tensor:
        return torch.cat([self._flat(self._read(part)) for part in index.split(rows)])

    def validate(self, count: int, generator: torch.Generator | None) -> Tensor:
        kept = len(self._trains) - count
        self._trains, held = self._trains[:kept], self._trains[kept:]
        return self._pick(held, count)

    @property
    def learning(self) -> int:
        return len(self._trains)

    def minibatches(self, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        everything = self._pick(self._trains, size) if self.learning <= size else None
        while True:
            if everything is not None:
                yield everything
            else:
                draw = torch.randint(self.learning, (size,), generator=generator, device=_where(generator)).cpu()
                yield self._pick(self._trains[draw], size)

    def judges(self, rows: int) -> Iterator[Tensor]:
        # In order, which a disk likes better.
        for index in self._judges.sort().values.split(rows):
            yield self._flat(self._read(index))


@final
class TensorSamples(_Numbered):
    """A tensor (n, ...)."""

    def __init__(self, name: str, samples: Tensor, device: torch.device | None) -> None:
        self.name, self._samples = name, real_tensor(name, samples, what="samples").detach()
        if samples.ndim == 0 or samples.numel() == 0:
            raise ValueError(
                f"{name} has shape {shape(samples)}, but samples must have shape (n, ...) with n >= {FEWEST} and some "
                "numbers each"
            )
        self.count, self.shape = len(samples), tuple(samples.shape[1:])
        self.dtype = width(samples.dtype)
        self.device = samples.device if device is None else device
        self._enough()

    def _read(self, index: slice | Tensor) -> Tensor:
        return self._samples[index if isinstance(index, slice) else index.to(self._samples.device)]


@final
class ArraySamples(_Numbered):
    """An array (n, ...), in memory or mapped from a file; integers are read as float64."""

    def __init__(self, name: str, samples: npt.NDArray[Any], device: torch.device | None) -> None:
        self.name, self._samples = name, samples
        if samples.dtype.kind not in "fbiu":
            raise ValueError(f"{name} has dtype {samples.dtype}, but samples must be real numbers")
        if samples.ndim == 0 or samples.size == 0:
            raise ValueError(
                f"{name} has shape {samples.shape}, but samples must have shape (n, ...) with n >= {FEWEST} and some "
                "numbers each"
            )
        single = samples.dtype.kind == "f" and samples.dtype.itemsize <= 4
        self.count, self.shape = len(samples), tuple(samples.shape[1:])
        self.dtype = torch.float32 if single else torch.float64
        self.device = device or torch.device("cpu")
        self._kind = np.dtype(np.float32 if single else np.float64)
        self._enough()

    def _read(self, index: slice | Tensor) -> Tensor:
        where = index if isinstance(index, slice) else index.numpy()
        # A copy in the machine's byte order and of positive strides, which torch wants.
        return torch.from_numpy(np.array(self._samples[where], dtype=self._kind, order="C"))


@final
class DatasetSamples(_Numbered):
    """A map-style dataset of samples, or of (sample, label)."""

    def __init__(self, name: str, dataset: Any, collate: Any, device: torch.device | None) -> None:
        self.name, self._dataset, self._collate = name, dataset, collate
        self.count = len(dataset)
        self.device = device or torch.device("cpu")
        self.shape = ()
        self._enough()
        first = self._collated([0])[0] if collate else self._item(0)
        self.shape, self.dtype = tuple(first.shape), width(first.dtype)
        if first.numel() == 0:
            raise ValueError(f"sample 0 of {name} has shape {shape(first)}: it holds no numbers")

    def _item(self, k: int) -> Tensor:
        return sample_of(f"sample {k} of {self.name}", self._dataset[k])

    def _collated(self, index: list[int]) -> Tensor:
        batch = sample_of(f"a batch of {self.name}", self._collate([self._dataset[k] for k in index]))
        if batch.ndim == 0 or len(batch) != len(index):
            raise ValueError(
                f"the collate_fn of {self.name} made shape {shape(batch)} of {len(index)} samples: the first dimension "
                "must count them"
            )
        return batch

    def _read(self, index: slice | Tensor) -> Tensor:
        numbers = list(range(index.start, index.stop)) if isinstance(index, slice) else index.tolist()
        if self._collate:
            batch = self._collated(numbers)
            if tuple(batch.shape[1:]) != self.shape:
                raise ValueError(
                    f"sample {numbers[0]} of {self.name} has shape {shape(batch[0])} but sample 0 has shape "
                    f"{self.shape}: all must agree"
                )
            return batch
        items = [self._item(k) for k in numbers]
        for k, item in zip(numbers, items, strict=True):
            if tuple(item.shape) != self.shape:
                raise ValueError(
                    f"sample {k} of {self.name} has shape {shape(item)} but sample 0 has shape {self.shape}: all must "
                    "agree"
                )
        return torch.stack([item.to(self.device, self.dtype) for item in items])


def width(dtype: torch.dtype) -> torch.dtype:
    """What samples of a floating dtype are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sample_of(what: str, given: object) -> Tensor:
    """The tensor in a sample or a batch, without its label."""
    t = given[0] if isinstance(given, tuple | list) and given else given
    if isinstance(t, np.ndarray) and t.dtype.kind in "fbiu":
        t = torch.from_numpy(np.array(t, dtype=t.dtype.newbyteorder("="), order="C"))
    if not isinstance(t, Tensor):
        inside = f" that begins with a {type(t).__name__}" if t is not given else ""
        raise ValueError(
            f"{what} is a {type(given).__name__}{inside}, but it must be a tensor or a pair (tensor, label): transform "
            "it to a tensor"
        )
    if not t.is_floating_point():
        reason = "these look like labels; give (sample, label), or samples alone" if t.ndim <= 1 else "call .float()"
        raise ValueError(
            f"{what} has dtype {t.dtype} and shape {shape(t)}, but samples must be floating point: {reason}"
        )
    return t.detach()
