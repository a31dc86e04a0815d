"""``barrow estimate`` on folders of images and on large files: what it reads, what it says, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barrow.cli import main
from barrow.estimate.streams import source

Result = tuple[int, str, str]
Run = Callable[..., Result]
QUICK = ("--steps", 12)


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


def folder(name: str, levels: list[int], n: int = 16, sides: tuple[int, int] = (6, 8)) -> Path:
    """Images of one level each."""
    Path(name).mkdir()
    for k in range(n):
        Image.fromarray(np.full(sides, levels[k % len(levels)], dtype="u1")).save(f"{name}/{k:02}.png")
    return Path(name)


@pytest.fixture
def photos() -> tuple[Path, Path]:
    """Black images, and grey ones of two levels, 0.3 apart in the mean."""
    return folder("a", [0]), folder("b", [51, 102])


def complains(result: Result, words: str) -> bool:
    code, out, err = result
    one_line = code == 2 and out == "" and err.startswith("barrow: ") and err.count("\n") == 1
    return one_line and "Traceback" not in err and re.search(words, err) is not None


def test_two_folders(run: Run, photos: tuple[Path, Path]) -> None:
    (photos[0] / "notes.txt").write_text("ignore me")
    code, out, err = run("estimate", "a/", "b/", "--size", 4, "--gray", "--steps", 60, "--json", "--plot", "p.png")
    found = json.loads(out)
    assert (code, err) == (0, "")
    truth = 0.3 * 4
    assert found["lower"] <= truth <= found["upper"] + 1e-9
    assert found["value"] > 0.6 * truth
    assert (found["n"], found["m"], found["shape"]) == (16, 16, [4, 4])
    assert (found["skipped"], found["ignored"], found["device"], found["batch_size"]) == (0, 1, "cpu", 256)
    with Image.open("p.png") as image:
        assert image.format == "PNG"
    out = run("estimate", "a", "b", *QUICK)[1]
    assert re.search(r"samples +16 and 16 of shape \(3, 6, 8\)", out)
    assert re.search(r"ignored +1 file of other kinds", out)
    assert "skipped" not in out


@pytest.mark.parametrize(
    ("options", "shape"),
    [((), [3, 6, 8]), (("--colour",), [3, 6, 8]), (("--grey",), [6, 8]), (("--color", "--size", 5), [3, 5, 5])],
)
def test_shapes(run: Run, photos: object, options: tuple[object, ...], shape: list[int]) -> None:
    assert json.loads(run("estimate", "a", "b", *QUICK, "--json", *options)[1])["shape"] == shape


def test_a_folder_against_an_array(run: Run, photos: object) -> None:
    np.save("y.npy", np.full((20, 6, 8), 0.5))
    found = json.loads(run("estimate", "a", "y.npy", "--grey", "--steps", 40, "--json")[1])
    assert found["lower"] <= 0.5 * 48**0.5 <= found["upper"] + 1e-9
    result = run("estimate", "a", "y.npy", *QUICK)
    assert complains(result, r"a sample of a has shape \(3, 6, 8\) but one of y has shape \(6, 8\)")


def test_broken_images(run: Run, photos: object) -> None:
    for k in range(4):
        Path(f"a/{k:02}.png").write_bytes(b"rubbish")
    result = run("estimate", "a", "b", *QUICK)
    assert complains(
        result, r"a/00\.png is not an image that Pillow can read; mend it, remove it, or skip broken files"
    )
    code, out, err = run("estimate", "a", "b", *QUICK, "--skip-broken")
    assert (code, err) == (0, "")
    assert re.search(r"skipped +4 broken: a/00\.png, a/01\.png, a/02\.png, \.\.\.", out)
    assert "12 and 16 of shape" in out
    assert json.loads(run("estimate", "a", "b", *QUICK, "--skip-broken", "--json")[1])["skipped"] == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", 0), "size is 0"),
        (("--steps", 0), "steps must be a positive integer"),
        (("--batch-size", 0), "batch_size must be a positive integer"),
        (("--patience", 0), "patience is 0"),
        (("--device", "nonsense"), "device is 'nonsense', but nothing can be put there"),
        (("--confidence", 2), "confidence must be a probability"),
    ],
)
def test_bad_options(run: Run, photos: object, options: tuple[object, ...], words: str) -> None:
    assert complains(run("estimate", "a", "b", *options), words)


def test_bad_folders(run: Run, photos: object) -> None:
    Path("empty").mkdir()
    assert complains(run("estimate", "empty", "b"), "empty holds no images: it must hold files that end in")
    folder("other", [7], sides=(3, 3))
    Image.fromarray(np.zeros((2, 2), dtype="u1")).save("other/z.png")
    words = r"other/z\.png is 2 x 2 pixels but other/00\.png is 3 x 3 pixels: .* give a size"
    assert complains(run("estimate", "a", "other"), words)
    folder("few", [7], n=3)
    assert complains(run("estimate", "few", "b"), r"few has shape \(3, 3, 6, 8\), but samples must have shape")
    assert complains(run("estimate", "none", "b"), "none")


@pytest.mark.parametrize("option", [("--size", 3), ("--grey",), ("--colour",), ("--skip-broken",)])
def test_options_that_would_do_nothing(run: Run, option: tuple[object, ...]) -> None:
    np.save("x.npy", np.zeros((8, 2)))
    assert complains(run("estimate", "x.npy", "x.npy", *option), f"{option[0]} is for folders of images")


def test_a_missing_pillow_gives_the_command(run: Run, photos: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "PIL" else real(name, *a))
    assert complains(run("estimate", "a", "b"), r"Pillow is not installed.*pip install 'barrow\[studies\]'")


def test_large_arrays_are_mapped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    np.save("x.npy", draw.normal(size=(100, 3)))
    np.save("y.npy", draw.normal(size=(80, 3)) + 1)
    expected = json.loads(run("estimate", "x.npy", "y.npy", *QUICK, "--json")[1])
    monkeypatch.setattr("barrow.cli.estimation.MAPPED", 1)
    monkeypatch.setattr("barrow.cli.files.read", lambda path: pytest.fail("read whole"))
    found = json.loads(run("estimate", "x.npy", "y.npy", *QUICK, "--json")[1])
    assert isinstance(source("x", "x.npy", rows=3)._samples, np.memmap)  # type: ignore[attr-defined]
    for name in ("value", "lower", "upper", "n", "m", "shape"):
        assert found[name] == expected[name]
    bad = draw.normal(size=(100, 3))
    bad[7, 1] = np.nan
    np.save("x.npy", bad)
    assert complains(run("estimate", "x.npy", "y.npy"), r"x\.npy has NaN or infinite entries, first in sample 7")


def test_patience(run: Run) -> None:
    draw = np.random.default_rng(0)
    np.save("x.npy", draw.normal(size=(60, 30)))
    np.save("y.npy", draw.normal(size=(60, 30)) + 0.3)
    found = json.loads(
        run("estimate", "x.npy", "y.npy", "--steps", 150, "--patience", 2, "--json", "--plot", "p.png")[1]
    )
    assert found["steps"] < 150
    assert found["patience"] == 2
    assert Path("p.png").exists()
