"""Lists of classes: the right number of ids, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from barrow.studies.data import cache, hierarchies, wordnet
from barrow.studies.study import BadData
from packing import tar

FILES = {"Imagenet1000.txt": 1000, "TinyImagenet200.txt": 200, "CIFAR10.txt": 10, "CIFAR100.txt": 100}


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def lists() -> dict[str, bytes]:
    return {name: "\n".join(f"n{k:08}" for k in range(n)).encode() for name, n in FILES.items()}


def put(folder: Path, made: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def test_every_list_is_read(tmp_path: Path) -> None:
    packed = tar({f"nbdt-0.0.4/nbdt/wnids/{name}": content for name, content in lists().items()})
    put(tmp_path, {"nbdt.tar.gz": packed})
    for data in (put(tmp_path / "given", lists()), tmp_path / "nbdt.tar.gz"):
        for name, n in (("imagenet", 1000), ("tiny-imagenet", 200), ("cifar10", 10), ("cifar100", 100)):
            found = hierarchies.find(name, data)
            assert found.wnids == tuple(f"n{k:08}" for k in range(n))
            assert len(found) == n
            assert found.source == f"{n} classes of {name}, of {data}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"n00000001\n" * 10, "1 ids, not 10"),
        (b"n0000000x\n", "'n0000000x' is no id"),
        (b"", "0 ids, not 10"),
        (b"\xff", "is no id"),
    ],
)
def test_damage_is_refused_in_a_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=rf"cannot be read as the lists of classes of .*: CIFAR10\.txt: .*{words}"):
        hierarchies.find("cifar10", put(tmp_path / "given", lists() | {"CIFAR10.txt": content}))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="there is no list 'cifar': there are imagenet, tiny-imagenet, cifar10, cifar100"
    ):
        hierarchies.find("cifar")
    with pytest.raises(BadData, match="run `barrow data hierarchies`"):
        hierarchies.find()
    with pytest.raises(BadData, match=r"it holds neither Imagenet1000\.txt nor nbdt-0\.0\.4\.tar\.gz$"):
        hierarchies.find("cifar10", tmp_path)


def test_the_real_lists_are_in_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(hierarchies.DATASET) is None or cache.present(wordnet.DATASET) is None:
        pytest.skip("the lists or WordNet are not on this machine: barrow data hierarchies wordnet")
    known = {f"n{line[:8].decode()}" for line in wordnet.find().read_bytes().splitlines() if line[:1] != b" "}
    lists = {name: hierarchies.find(name).wnids for name in hierarchies.LISTS}
    assert set(lists["imagenet"]) <= known
    assert set(lists["tiny-imagenet"]) <= known
    assert lists["imagenet"][:2] == ("n01440764", "n01443537")  # tench, goldfish
