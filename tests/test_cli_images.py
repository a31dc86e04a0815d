"""``barrow distance`` between two images: what it reads, what it says, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import barrow
from barrow.cli import main
from barrow.cli.images import read_images

Result = tuple[int, str, str]
Run = Callable[..., Result]
DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def save(name: str, pixels: object, dtype: str = "u1", mode: str | None = None, **options: object) -> None:
    array = np.array(pixels, dtype=dtype)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(name, **options)


def dot(name: str, row: int, column: int, shape: tuple[int, int] = (9, 12)) -> None:
    pixels = np.zeros(shape)
    pixels[row, column] = 200
    save(name, pixels)


def levels(name: str) -> list[list[float]]:
    """The masses of pixels, in units of the largest."""
    found, _ = read_images(Path(name), Path(name))
    assert found.weights is not None
    assert found.weights.sum() == pytest.approx(1, rel=1e-14)
    grid = found.weights.reshape(*found.sides) if found.sides else found.weights
    return (grid / grid.max()).tolist()  # type: ignore[no-any-return]


# -- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("p", [1, 2])
def test_two_dots(run: Run, p: float, norm: str) -> None:
    dot("one.png", 1, 10)
    dot("two.png", 4, 6)
    code, out, err = run("distance", "one.png", "two.png", "--p", p, "--norm", norm, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["value"] == pytest.approx({"1": 7, "2": 5, "inf": 4}[norm], rel=1e-12)
    assert found["lower"] <= found["value"] <= found["upper"]
    assert (found["quantity"], found["n"], found["m"], found["d"]) == (f"W_{p}", 108, 108, 2)


@pytest.mark.parametrize("epsilon", [0, 0.5])
def test_it_agrees_with_the_library(run: Run, epsilon: float) -> None:
    one, two = (DRAW.integers(0, 256, (5, 7)).astype("u1") for _ in range(2))
    save("one.png", one)
    save("two.PNG", two)
    code, out, _ = run("distance", "one.png", "two.PNG", "--epsilon", epsilon, "--json")
    a, b = (torch.from_numpy(t.astype(float) / t.sum(dtype=float)).flatten() for t in (one, two))
    expected = float(barrow.solve(barrow.Problem(barrow.Grid((5, 7), 2), a, b, epsilon=epsilon)).value)
    assert code == 0
    assert json.loads(out)["cost"] == pytest.approx(expected, rel=1e-9)


def test_a_figure(run: Run) -> None:
    dot("one.png", 1, 10)
    dot("two.png", 4, 6)
    assert run("distance", "one.png", "two.png", "--plot", "plan.png")[0] == 0
    with Image.open("plan.png") as image:
        assert image.format == "PNG"


def test_points_are_pixels_as_one_looks_at_them() -> None:
    dot("one.png", 2, 5, (4, 6))
    found, _ = read_images(Path("one.png"), Path("one.png"))
    assert found.sides == (4, 6)
    assert found.weights is not None
    assert found.points[found.weights > 0].tolist() == [[5, -2]]
    grid = barrow.Grid((4, 6), 2).beside(found.points)
    assert torch.equal(grid.dense(), barrow.Points(found.points, found.points, 2).dense().round())


# -- what it reads -----------------------------------------------------------------------------------------------------


def test_grey_levels_of_every_depth() -> None:
    save("a.png", [[0, 51], [255, 102]])
    assert levels("a.png") == [[0, 0.2], [1, 0.4]]
    save("b.png", [[0, 13107], [65535, 1]], "u2")
    assert levels("b.png") == [[0, 0.2], [1, pytest.approx(1 / 65535)]]
    save("c.png", [[0, 255], [255, 0]], mode="1")
    assert levels("c.png") == [[0, 1], [1, 0]]
    save("d.jpg", np.full((8, 8), 77))
    assert levels("d.jpg") == [[1] * 8] * 8
    save("e.png", [[0, 51], [255, 102]], transparency=255)
    assert levels("e.png") == [[0, 0.5], [0, 1]]


def test_colour_is_luminance_and_transparency_is_nothing() -> None:
    save("a.png", [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]])
    assert np.allclose(levels("a.png"), [[0.299, 0.587, 0.114, 1]], rtol=1e-14)
    save("b.png", [[[255, 255, 255, 255], [255, 255, 255, 51], [255, 255, 255, 0], [255, 0, 0, 255]]])
    assert np.allclose(levels("b.png"), [[1, 0.2, 0, 0.299]], rtol=1e-14)
    save("c.png", [[[255, 0, 0], [0, 0, 255]]], mode="P")
    assert np.allclose(levels("c.png"), [[1, 0.114 / 0.299]], rtol=0.02)
    save("d.png", [[200, 100]], mode="LA")
    assert np.allclose(levels("d.png"), [[1, 0.5]])


def test_photographs_are_turned_the_way_they_were_taken() -> None:
    upright = Image.fromarray(np.array([[255] * 16] * 8 + [[0] * 16] * 8, dtype="u1"))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright.save("a.jpg", exif=exif, quality=100)
    found = np.array(levels("a.jpg"))
    assert found[:8].max() < 0.1
    assert found[8:].min() > 0.9


# -- what it refuses ---------------------------------------------------------------------------------------------------


def cut_short() -> None:
    save("x.png", DRAW.integers(0, 256, (64, 64)))
    Path("x.png").write_bytes(Path("x.png").read_bytes()[:-2000])


def flicker() -> None:
    frames = [Image.fromarray(np.full((2, 2), k, dtype="u1")) for k in (9, 99)]
    frames[0].save("x.png", save_all=True, append_images=frames[1:])


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: None, "x.png does not exist: give the path of an image"),
    "directory": (lambda: Path("x.png").mkdir(), "x.png is a directory"),
    "empty": (lambda: Path("x.png").write_bytes(b""), "x.png is not an image"),
    "rubbish": (lambda: Path("x.png").write_bytes(b"rubbish"), "x.png is not an image"),
    "cut short": (cut_short, "x.png cannot be read as an image"),
    "black": (lambda: save("x.png", np.zeros((3, 4))), "x.png is blank, .*: an image must have some mass"),
    "transparent": (lambda: save("x.png", np.full((3, 4, 4), (255, 255, 255, 0))), "x.png is blank"),
    "size": (lambda: save("x.png", np.ones((4, 3))), "3 x 4 pixels.* 4 x 3: both must have one size; resize or crop"),
    "two pictures": (flicker, "x.png holds 2 pictures"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_get_one_line(run: Run, case: str) -> None:
    make, message = BAD[case]
    make()
    save("y.png", np.ones((3, 4)))
    for pair in (("x.png", "y.png"), ("y.png", "x.png")):
        code, out, err = run("distance", *pair)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("barrow: ")
        assert "Traceback" not in err
    if case != "size":
        assert re.search(message, err), err
    else:
        assert "y.png is 4 x 3 pixels but x.png is 3 x 4: both must have one size" in err


def test_an_image_against_a_cloud_is_refused(run: Run) -> None:
    save("x.png", np.ones((3, 4)))
    np.save("y.npy", np.ones((3, 2)))
    for pair in (("x.png", "y.npy"), ("y.npy", "x.png")):
        code, _, err = run("distance", *pair)
        assert code == 2
        assert "x.png is an image but y.npy is none: give two images, or two clouds of points" in err


def test_a_wrong_exponent_is_told_in_words(run: Run) -> None:
    dot("x.png", 1, 1)
    for p, words in ((0.5, "p is 0.5"), (1000, "make costs that float64 cannot hold")):
        code, _, err = run("distance", "x.png", "x.png", "--p", p)
        assert code == 2
        assert words in err
    assert run("distance", "x.png", "x.png", "--p", 30)[0] == 0
