"""Moments of pieces, and the halves of samples that can be had by number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from barrow.estimate.samples import ArraySamples, DatasetSamples, Moments, Source, TensorSamples, sample_of


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(source: Source, rows: int) -> set[float]:
    """The first numbers of all samples that judge."""
    return {float(v) for piece in source.judges(rows) for v in piece[:, 0]}


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_moments_of_pieces_are_those_of_the_whole(scale: float, shift: float) -> None:
    t = (torch.randn(100, 3, generator=seeded(0), dtype=torch.float64) + shift) * scale
    moments = Moments()
    for piece in (t[:0], t[:1], t[1:7], t[7:7], t[7:]):
        moments.add(piece)
    assert moments.count == 100
    assert torch.allclose(moments.mean, t.mean(0), rtol=1e-14, atol=0)
    unit = (t - t.mean(0)) / scale
    assert math.isclose(moments.norm / scale, float(unit.norm()), rel_tol=1e-9)
    centre = t[0]
    assert math.isclose(moments.about(centre) / scale, float(((t - centre) / scale).norm()), rel_tol=1e-9)


def test_the_standard_error_of_numbers() -> None:
    t = torch.randn(50, generator=seeded(1), dtype=torch.float64)
    moments = Moments()
    for piece in t.split(7):
        moments.add(piece)
    assert math.isclose(moments.stderr, math.sqrt(t.var().item() / 50), rel_tol=1e-12)


class Pairs(Dataset[Any]):
    """(sample, label), sample k being (k, k / 2)."""

    def __init__(self, n: int) -> None:
        self.n, self.reads = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        self.reads += 1
        return torch.tensor([float(k), k / 2]), k % 10


def numbered(n: int) -> list[Source]:
    t = torch.stack((torch.arange(float(n)), torch.arange(float(n)) / 2), 1)
    cpu = torch.device("cpu")
    return [TensorSamples("x", t, None), ArraySamples("x", t.numpy(), cpu), DatasetSamples("x", Pairs(n), None, None)]


@pytest.mark.parametrize("n", [4, 5, 64, 65])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_who_judges_never_trains_or_validates(n: int, kind: int) -> None:
    source = numbered(n)[kind]
    source.survey(7, seeded(0))
    judges = rows_of(source, 3)
    validates = {float(v) for v in source.validate(n // 8, seeded(0))[:, 0]} if n >= 16 else set()
    batches = source.minibatches(8, seeded(0))
    trains = {float(v) for _ in range(60) for v in next(batches)[:, 0]}
    assert len(trains) == source.learning == n // 2 - len(validates)
    assert len(judges) == n - n // 2
    assert judges | trains | validates == set(map(float, range(n)))
    assert len(judges) + len(trains) + len(validates) == n


def test_all_kinds_read_the_same() -> None:
    first, *others = numbered(40)
    moments = first.survey(16, seeded(0))
    batch = next(first.minibatches(4, seeded(1)))
    blocks = torch.cat(list(first.blocks(5, 3, seeded(2))))
    assert blocks.shape == (3, 5, 2)
    assert blocks.dtype == torch.float64
    assert len(set(blocks[..., 0].flatten().tolist())) == 15
    for other in others:
        again = other.survey(16, seeded(0))
        assert torch.equal(again.mean, moments.mean)
        assert again.norm == moments.norm
        assert torch.equal(next(other.minibatches(4, seeded(1))), batch)
        assert torch.equal(torch.cat(list(other.blocks(5, 3, seeded(2)))), blocks)


def test_moments_are_those_of_what_trains() -> None:
    source = numbered(64)[0]
    moments = source.survey(10, seeded(0))
    trains = next(source.minibatches(100, None)).double()
    assert moments.count == len(trains) == 32
    assert torch.allclose(moments.mean, trains.mean(0))


class Counting(np.ndarray[Any, Any]):
    """An array that remembers how many rows were asked of it at once."""

    most = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        Counting.most = max(Counting.most, len(found))
        return np.asarray(found)


def test_no_more_is_read_at_once_than_asked_for() -> None:
    Counting.most = 0
    source = ArraySamples("x", np.arange(2000.0).reshape(1000, 2).view(Counting), None)
    source.survey(64, seeded(0))
    source.validate(50, None)
    batches = source.minibatches(64, None)
    for _ in range(5):
        assert len(next(batches)) == 64
    assert sum(map(len, source.judges(64))) == 500
    for block in source.blocks(64, 4, None):
        assert block.shape[1:] == (64, 2)
    assert Counting.most == 64


@pytest.mark.parametrize("dtype", ["u1", "i8", ">f4", "f2", "?", ">f8"])
def test_arrays_of_every_kind(dtype: str) -> None:
    array = np.arange(12).reshape(6, 2)[::-1].astype(dtype)
    source = ArraySamples("x", array, None)
    assert source.dtype == (torch.float32 if dtype in (">f4", "f2") else torch.float64)
    assert torch.equal(
        source._read(torch.tensor([1, 5])), torch.from_numpy(array[[1, 5]].astype("f8")).to(source.dtype)
    )
    assert torch.equal(source._read(slice(1, 3)), torch.from_numpy(array[1:3].astype("f8")).to(source.dtype))


class Odd(Dataset[Any]):
    def __init__(self, bad: object, where: int) -> None:
        self.bad, self.where = bad, where

    def __len__(self) -> int:
        return 8

    def __getitem__(self, k: int) -> object:
        return self.bad if k == self.where else torch.ones(3)


@pytest.mark.parametrize(
    ("bad", "where", "words"),
    [
        (torch.ones(4), 6, r"sample 6 of x has shape \(4,\) but sample 0 has shape \(3,\)"),
        (torch.tensor([1.0, math.nan, 1.0]), 5, "x has NaN or infinite entries, first in sample 5"),
        (torch.tensor(7), 0, r"sample 0 of x has dtype torch.int64 and shape \(\), .* look like labels"),
        ((torch.tensor(7), torch.ones(3)), 0, "look like labels; give .sample, label."),
        (torch.ones(3, 8, 8, dtype=torch.uint8), 0, r"dtype torch.uint8 .* call \.float"),
        ("cat", 2, "sample 2 of x is a str, but it must be a tensor"),
        (("cat", 1), 2, "sample 2 of x is a tuple that begins with a str"),
        (torch.ones(0), 0, "it holds no numbers"),
    ],
)
def test_bad_samples_are_named(bad: object, where: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DatasetSamples("x", Odd(bad, where), None, None).survey(3, seeded(0))


def test_arrays_within_samples_are_taken() -> None:
    assert torch.equal(sample_of("x", (np.array([1.5], dtype=">f4"), 3)), torch.tensor([1.5]))
    with pytest.raises(ValueError, match=r"dtype torch\.int64"):
        sample_of("x", np.array([1, 2]))
