"""Batches that are read from their beginning, and what becomes of everything that can be given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from barrow.estimate import samples as samples_module
from barrow.estimate.samples import ArraySamples, DatasetSamples, TensorSamples
from barrow.estimate.streams import Stream, _hash, source


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int) -> Tensor:
    """Sample k is (k, -k)."""
    return torch.stack((torch.arange(float(n)), -torch.arange(float(n))), 1)


class Again:
    """Batches of so many samples, as often as asked, and how many of them are alive at once."""

    def __init__(self, n: int, size: int) -> None:
        self.n, self.size, self.passes = n, size, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        for start in range(0, self.n, self.size):
            batch = cloud(min(start + self.size, self.n))[start:]
            yield batch, torch.zeros(len(batch), dtype=torch.int64)


def firsts(pieces: Any) -> list[int]:
    return [int(v) for piece in pieces for v in piece[:, 0]]


@pytest.mark.parametrize(("n", "size"), [(4, 1), (5, 2), (101, 10), (1000, 7), (64, 64)])
def test_who_judges_never_trains_or_validates(n: int, size: int) -> None:
    stream = Stream("x", Again(n, size), None)
    moments = stream.survey(1, None)
    judges = firsts(stream.judges(1))
    half = moments.count
    assert stream.count == n
    assert stream.learning == half
    assert abs(half - n / 2) <= 0.5
    held = firsts([stream.validate(n // 8, seeded(0))]) if n >= 16 else []
    assert len(held) == (n // 8 if n >= 16 else 0)
    batches = stream.minibatches(6, None)
    trains = set(firsts(itertools.islice(batches, n)))
    assert len(trains) == stream.learning == half - len(held)
    assert sorted([*judges, *held, *trains]) == list(range(n))


def test_the_halves_are_a_rule_on_the_number() -> None:
    by_ten, by_three = (Stream("x", Again(100, size), None) for size in (10, 3))
    for stream in (by_ten, by_three):
        stream.survey(1, None)
    assert firsts(by_ten.judges(1)) == firsts(by_three.judges(1))


def test_the_rule_has_no_period_and_no_preference() -> None:
    bits = (_hash(np.arange(20000, dtype=np.uint64)) & np.uint64(1)).astype(float) * 2 - 1
    spectrum = np.abs(np.fft.rfft(bits)) / np.sqrt(len(bits))
    assert spectrum.max() < 4.5
    assert _hash(np.zeros(1, dtype=np.uint64))[0] == 0xE220A8397B1DCDAF  # the first number of SplitMix64 from seed 0


def test_an_epoch_gives_each_sample_once() -> None:
    stream = Stream("x", Again(96, 10), None)
    stream.survey(1, None)
    batches = stream.minibatches(16, None)
    epoch = firsts(itertools.islice(batches, 3))
    assert len(set(epoch)) == 48
    assert firsts(itertools.islice(batches, 3)) == epoch


def test_small_streams_are_read_once_for_training() -> None:
    again = Again(20, 5)
    stream = Stream("x", again, None)
    stream.survey(1, None)
    before = again.passes
    batches = stream.minibatches(50, None)
    assert len({id(next(batches)) for _ in range(9)}) == 1
    assert again.passes == before + 1


def test_blocks_are_different_samples_in_random_order() -> None:
    stream = Stream("x", Again(100, 9), None)
    stream.survey(1, None)
    blocks = torch.cat(list(stream.blocks(20, 4, seeded(0))))
    tensor = TensorSamples("x", cloud(100), None)
    tensor.survey(50, None)
    assert torch.equal(blocks, torch.cat(list(tensor.blocks(20, 4, seeded(0)))))
    assert len(set(blocks[..., 0].flatten().tolist())) == 80


def test_large_samples_are_held_one_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    again = Again(100, 10)
    stream = Stream("x", again, None)
    stream.survey(1, None)
    for group, passes in ((2 * 40, [2, 2]), (1, [1, 1, 1, 1])):
        monkeypatch.setattr(samples_module, "_GROUP", group)
        before = again.passes
        assert [len(blocks) for blocks in stream.blocks(20, 4, None)] == passes
        assert again.passes == before + len(passes)


class Shuffling(Again):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = list(super().__iter__())
        return iter(batches if self.passes < 3 else batches[::-1])


class Fading(Again):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(super().__iter__(), 5 if self.passes < 2 else 2)


class Swapping(Again):
    """The same batches, two samples of one of them exchanged."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch, labels in super().__iter__():
            yield batch if self.passes < 3 else batch.flip(0), labels


class Spent:
    """Looks as if it could be read again."""

    def __init__(self) -> None:
        self.batches = iter(Again(40, 4))

    def __iter__(self) -> Iterator[Any]:
        return self.batches


@pytest.mark.parametrize("changing", [Shuffling(40, 4), Fading(40, 4), Swapping(40, 4), Spent()])
def test_a_stream_that_changes_is_refused(changing: Any) -> None:
    stream = Stream("x", changing, None)
    stream.survey(1, None)
    with pytest.raises(ValueError, match=r"x is not the same when it is read again .* would also judge: switch"):
        list(stream.judges(1))


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ((b for b in [cloud(8)]), "x is a generator, which can be read only once: give a list of batches"),
        (map(float, range(3)), "x is a map, which can be read only once"),
        ([], "x is a list without any batches"),
        ([cloud(8), torch.ones(8, 3)], r"batch 1 of x has samples of shape \(3,\) but those of batch 0 have shape \(2"),
        ([torch.arange(8)], r"batch 0 of x has dtype torch.int64 and shape \(8,\), .* look like labels"),
        ([(torch.arange(8), cloud(8))], "look like labels; give .sample, label."),
        ([torch.tensor(1.0)], "batch 0 of x is one number"),
        ([cloud(8)[:, :0]], "its samples hold no numbers"),
        ([cloud(2), cloud(1)], r"x has shape \(3, 2\), but samples must have shape .* n >= 4"),
        ([cloud(3), cloud(8) / 0], "x has NaN or infinite entries, first in sample 3"),
        ([cloud(8), "b"], "batch 1 of x is a str"),
        ([{"image": cloud(8)}], "batch 0 of x is a dict, but it must be a tensor or a pair"),
    ],
)  # fmt: skip
def test_bad_streams(batches: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Stream("x", batches, None).survey(1, None)


# -- what was given ----------------------------------------------------------------------------------------------------


class Endless(IterableDataset[Tensor]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[Tensor]:
        return iter(cloud(self.n))


DATA = TensorDataset(cloud(30), torch.arange(30))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (cloud(30), TensorSamples),
        (cloud(30).numpy(), ArraySamples),
        (DATA, DatasetSamples),
        (Subset(DATA, list(range(30))), DatasetSamples),
        (DataLoader(DATA, batch_size=7), DatasetSamples),
        (DataLoader(DATA, batch_size=7, shuffle=True, drop_last=True), DatasetSamples),
        (DataLoader(DATA, batch_size=7, collate_fn=lambda pairs: torch.stack([p[0] for p in pairs])), DatasetSamples),
        (DataLoader(Endless(30), batch_size=7), Stream),
        (Endless(30), Stream),
        ([cloud(30)], Stream),
        (cloud(30).split(4), Stream),
        (Again(30, 4), Stream),
        (DataLoader(DATA, batch_size=None), Stream),
    ],
)  # fmt: skip
def test_everything_that_can_be_given(given: Any, kind: type) -> None:
    if isinstance(given, DataLoader) and given.batch_size is None:
        given = DataLoader([(cloud(30)[:9], 0), (cloud(30)[9:], 1)], batch_size=None)  # type: ignore[arg-type]
    found = source("x", given, rows=5)
    assert type(found) is kind
    found.survey(5, None)
    assert (found.count, found.shape, found.dtype) == (30, (2,), torch.float32)
    next(found.minibatches(5, None))
    assert sum(map(len, found.judges(5))) == 15


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(DATA, replacement=True),
        RandomSampler(DATA, num_samples=20),
        SubsetRandomSampler(range(0, 30, 2)),
        WeightedRandomSampler([1.0] * 15 + [0.0] * 15, 30),
    ],
)
def test_a_sampler_that_changes_the_law_is_no_shuffling(sampler: Any) -> None:
    found = source("x", DataLoader(DATA, batch_size=5, sampler=sampler), rows=5)
    assert isinstance(found, Stream)
    found.survey(5, None)
    with pytest.raises(ValueError, match="not the same when it is read again"):
        list(itertools.chain.from_iterable(found.judges(5) for _ in range(9)))


def test_files_are_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", cloud(30).numpy())
    found = source("x", str(tmp_path / "x.npy"), rows=5)
    assert isinstance(found, ArraySamples)
    assert isinstance(found._samples, np.memmap)
    assert found.name == str(tmp_path / "x.npy")
    (tmp_path / "x.csv").write_text("1,2")
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    for name, words in (
        ("x.csv", "has the suffix '.csv'"),
        ("none.npy", "does not exist"),
        ("damaged.npy", "cannot be mapped"),
        ("objects.npy", "cannot be mapped"),
        ("words.npy", "must be real numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            source("x", tmp_path / name, rows=5)


@pytest.mark.parametrize("given", [None, 3.0, {"a": 1}, b"abc", {1, 2}, len])
def test_what_is_no_source(given: Any) -> None:
    with pytest.raises(ValueError, match=r"x is a .*, but samples must be a torch.Tensor, an array"):
        source("x", given, rows=5)


@pytest.mark.parametrize(
    ("collate", "words"),
    [
        (lambda pairs: torch.ones(3, 2), "the collate_fn of x made shape"),
        (lambda pairs: [p[1] for p in pairs], "a batch of x has dtype torch.int64"),
        (lambda pairs: torch.ones(len(pairs), len(pairs)), r"sample \d+ of x has shape"),
    ],
)
def test_bad_collate_functions(collate: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        source("x", DataLoader(DATA, batch_size=7, collate_fn=collate), rows=5).survey(5, None)
