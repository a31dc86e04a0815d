"""Images of clothes: the same from every kind of package, with classes that are what WordNet says they are."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from barrow.studies.data import cache, fashion, wordnet
from barrow.studies.study import BadData
from packing import debian

FOLDER = "usr/share/datasets/fashion-mnist"


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 28, 28)).astype(np.uint8)


def files(train: int = 12, test: int = 5) -> dict[str, bytes]:
    made = {}
    for stem, n in (("train", train), ("t10k", test)):
        images = struct.pack(">4I", 0x0803, n, 28, 28) + pixels(n).tobytes()
        labels = struct.pack(">2I", 0x0801, n) + bytes(k % 10 for k in range(n))
        made[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(images)
        made[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(labels)
    return made


def put(folder: Path, made: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def test_both_parts_are_read_from_a_folder_a_package_and_the_cache(tmp_path: Path) -> None:
    folder = put(tmp_path / "given", files())
    package = tmp_path / "fashion.deb"
    package.write_bytes(debian({f"{FOLDER}/{name}": content for name, content in files().items()}))
    put(tmp_path / "cache/fashion", files())
    for data in (folder, package, None):
        for part, n in (("train", 12), ("test", 5)):
            found = fashion.find(part, data)
            assert torch.equal(found.images, torch.from_numpy(pixels(n).astype(np.float32))[:, None] / 255)
            assert found.labels.tolist() == [k % 10 for k in range(n)]
            assert len(found) == n
            assert found.source == f"Fashion-MNIST, {n} images ({part}) of {data or tmp_path / 'cache/fashion'}"


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no part 'all': there are train and test"):
        fashion.find("all")
    with pytest.raises(BadData, match=r"^this machine does not have Fashion-MNIST: run `barrow data fashion`"):
        fashion.find()
    folder = put(tmp_path / "given", files())
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2I", 0x0801, 1) + b"\0"))
    with pytest.raises(BadData, match=r"given cannot be read as Fashion-MNIST: t10k-labels.*has 1, for 5 images$"):
        fashion.find("test", folder)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(files()["train-images-idx3-ubyte.gz"][:-20])
    with pytest.raises(BadData, match=r"given cannot be read as Fashion-MNIST: train-images.*end-of-stream"):
        fashion.find("train", folder)


def test_the_classes_mean_what_wordnet_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(wordnet.DATASET) is None:
        pytest.skip("WordNet is not on this machine: barrow data wordnet")
    lines = wordnet.find().read_text().splitlines()
    words = {
        f"n{line[:8]}": line.split()[4 : 4 + 2 * int(line.split()[3], 16) : 2] for line in lines if line[:1] != " "
    }
    wanted = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "handbag", "boot")
    for wnid, word in zip(fashion.WNIDS, wanted, strict=True):
        assert word in words[wnid]


def test_the_real_clothes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(fashion.DATASET) is None:
        pytest.skip("Fashion-MNIST is not on this machine: barrow data fashion")
    assert fashion.find("test").labels.bincount().tolist() == [1000] * 10
