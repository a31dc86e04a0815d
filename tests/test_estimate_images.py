"""Folders of images as samples."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from barrow.estimate import images as images_module
from barrow.estimate.images import Images

DRAW = np.random.default_rng(0)


def save(path: Path, pixels: object, dtype: str = "u1", mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(pixels, dtype=dtype))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def only(folder: Path, **options: Any) -> torch.Tensor:
    images = Images(folder, **options)
    assert len(images) == 1
    sample = images[0]
    assert sample.dtype == torch.float32
    return sample


def test_levels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = DRAW.integers(0, 256, (5, 7, 3)).astype("u1")
    save(tmp_path / "a.png", pixels)
    assert np.array_equal(only(tmp_path).numpy(), (pixels / np.float32(255)).transpose(2, 0, 1))
    grey = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.allclose(only(tmp_path, colour=False).numpy(), grey, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "dtype", "mode", "options", "levels"),
    [
        ([[0, 51], [255, 102]], "u1", None, {}, [[0, 0.2], [1, 0.4]]),
        ([[0, 13107], [65535, 1]], "u2", None, {}, [[0, 0.2], [1, 1 / 65535]]),
        ([[0, 255], [255, 0]], "u1", "1", {}, [[0, 1], [1, 0]]),
        ([[0, 51], [255, 102]], "u1", None, {"transparency": 255}, [[0, 0.2], [0, 0.4]]),
        ([[[255, 255, 255, 51], [255, 255, 255, 0]]], "u1", None, {}, [[0.2, 0]]),
        ([[200, 100]], "u1", "LA", {}, [[200 / 255, 100 / 255]]),
        ([[[255, 255, 255], [0, 0, 0]]], "u1", "P", {}, [[1, 0]]),
    ],
)
def test_kinds_of_images(
    tmp_path: Path, pixels: object, dtype: str, mode: str | None, options: dict[str, Any], levels: list[list[float]]
) -> None:
    save(tmp_path / "a.png", pixels, dtype, mode, **options)
    assert np.allclose(only(tmp_path, colour=False).numpy(), levels, atol=1e-6)
    assert np.allclose(only(tmp_path).numpy(), [levels] * 3, atol=1e-6)


def test_resizing_averages_about_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16))
    pixels[:, 4:8] = 255  # the left half of the central square
    pixels[:, :2] = 255  # cut off
    save(tmp_path / "a.png", pixels)
    small = only(tmp_path, size=4, colour=False)
    assert small.shape == (4, 4)
    assert torch.equal(small[:, [0, 3]], torch.tensor([[1.0, 0.0]]).expand(4, 2))
    assert only(tmp_path, size=(2, 6)).shape == (3, 2, 6)
    assert only(tmp_path, size=20).shape == (3, 20, 20)
    for kind in ("u1", "u2"):
        save(tmp_path / "a.png", np.full((9, 9), 2 ** (8 * int(kind[1])) - 1), kind)
        assert torch.allclose(only(tmp_path, size=5), torch.ones(3, 5, 5))


def test_photographs_are_turned_the_way_they_were_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", np.zeros((8, 24)), exif=exif)
    assert only(tmp_path, colour=False).shape == (24, 8)


def test_a_second_picture_of_a_telephone_is_ignored(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), level, dtype="u1")) for level in (255, 0)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert torch.equal(only(tmp_path), torch.ones(3, 8, 8))


def test_order_ignored_files_and_progress(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/b/c.png", "a.png", "a/.hidden.png", ".git/x.png"):
        save(tmp_path / name, np.full((2, 2), 7))
    for name in ("readme.txt", "a/labels.csv", "a/noise"):
        (tmp_path / name).write_text("1")
    seen: list[tuple[int, int]] = []
    images = Images(str(tmp_path), progress=lambda *args: seen.append(args))
    found = [path.relative_to(tmp_path).as_posix() for path in images.paths]
    assert found == sorted(found) == ["a.png", "a/b/c.png", "a/z.JPG", "b.png"]
    assert images.ignored == 3
    assert images.broken == ()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_many_images_wait_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(4):
        save(tmp_path / f"{k}.png", np.full((2, 3), 51 * k))
    (tmp_path / "2.png").write_bytes(b"rubbish")
    held = Images(tmp_path, skip_broken=True)
    monkeypatch.setattr(images_module, "_HELD", 10)
    mapped = Images(tmp_path, skip_broken=True)
    assert not isinstance(held.array, np.memmap)
    assert isinstance(mapped.array, np.memmap)
    assert np.array_equal(held.array, mapped.array)
    assert [round(float(t.max()), 3) for t in (mapped[k] for k in range(3))] == [0, 0.2, 0.6]
    monkeypatch.setattr(images_module.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 5}))
    with pytest.raises(ValueError, match="give a smaller size"):
        Images(tmp_path, skip_broken=True)


def test_broken_images_are_refused_by_name_or_skipped(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / f"{k}.png", DRAW.integers(0, 256, (32, 32)))
    for k, keep in ((1, 500), (3, 0)):
        path = tmp_path / f"{k}.png"
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image: .*; mend it, remove it, or skip broken"):
        Images(tmp_path)
    images = Images(tmp_path, skip_broken=True)
    assert [path.name for path in images.paths] == ["0.png", "2.png"]
    assert [path.name for path in images.broken] == ["1.png", "3.png"]
    assert len(images) == len(images.array) == 2
    assert bool((images.array[1] != 0).any())
    for k in (0, 2):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(ValueError, match=r"has 2 images but none can be decoded: .*1\.png is the first"):
        Images(tmp_path, skip_broken=True)


def flicker(folder: Path) -> None:
    frames = [Image.fromarray(np.full((2, 2), k, dtype="u1")) for k in (9, 99)]
    frames[0].save(folder / "x.png", save_all=True, append_images=frames[1:])


def wrong_size(folder: Path) -> None:
    save(folder / "a.png", np.ones((2, 3)))
    save(folder / "b/c.png", np.ones((4, 2)))


BAD: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "nothing": (lambda folder: None, {}, "holds no images: it must hold files that end in"),
    "others": (lambda folder: (folder / "a.txt").write_text("a"), {}, r"holds no images \(1 files of other kinds\)"),
    "two pictures": (flicker, {}, r"x\.png holds 2 pictures"),
    "two pictures, resized": (flicker, {"size": 4}, r"x\.png holds 2 pictures"),
    "sizes": (wrong_size, {}, r"b/c\.png is 2 x 4 pixels but .*a\.png is 3 x 2 pixels: .* give a size"),
    "NaN": (lambda folder: save(folder / "a.tif", [[math.nan]], "f4"), {}, r"a\.tif has levels outside of \[0, 1\]"),
    "floats": (lambda folder: save(folder / "a.tif", [[0.0, 7.0]], "f4"), {}, r"a\.tif has levels outside"),
    "no size": (flicker, {"size": 0}, "size is 0"),
    "half a size": (flicker, {"size": (3,)}, "pair .height, width."),
    "no number": (flicker, {"size": "x"}, "size is 'x'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path: Path, case: str) -> None:
    make, options, words = BAD[case]
    make(tmp_path)
    with pytest.raises(ValueError, match=words):
        Images(tmp_path, **options)


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: give the path of a folder of images"):
        Images(tmp_path / "none")
    with pytest.raises(ValueError, match="is a file: give the path of a folder"):
        Images(save(tmp_path / "a.png", [[1]]))


def test_a_missing_pillow_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", [[1]])
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"Pillow is not installed.*pip install 'barrow\[studies\]'"):
        Images(tmp_path)
