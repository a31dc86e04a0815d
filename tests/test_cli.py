"""The command line, through its entry point: what it says, what it writes, how it exits."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import barrow
from barrow.cli import main
from barrow.cli.files import finite, read, write
from barrow.cli.plots import arcs
from barrow.cli.transport import _root

Result = tuple[int, str, str]
Run = Callable[..., Result]


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


@pytest.fixture
def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds in space, saved as x.npy and y.npy."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(20, 3)), draw.normal(size=(15, 3)) + 1
    np.save("x.npy", x)
    np.save("y.npy", y)
    return torch.from_numpy(x), torch.from_numpy(y)


def is_one_complaint(result: Result) -> bool:
    code, out, err = result
    return code == 2 and out == "" and err.startswith("barrow: ") and err.count("\n") == 1 and "Traceback" not in err


def is_a_picture(path: Path) -> bool:
    """A PNG that is no blank sheet, in colour."""
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("RGB"), dtype=float)
        return image.format == "PNG" and pixels.std() > 5 and float(np.ptp(pixels, axis=2).max()) > 50


def leftovers() -> set[str]:
    """What is in the folder that was not asked for."""
    return {path.name for path in Path().iterdir() if path.name.startswith(".")}


# -- distance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_json_agrees_with_the_library(run: Run, clouds: tuple[torch.Tensor, torch.Tensor], p: float, norm: str) -> None:
    code, out, err = run("distance", "x.npy", "y.npy", "--p", p, "--norm", norm, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    expected = float(barrow.wasserstein(*clouds, p=p, norm=float(norm)))
    assert found["value"] == pytest.approx(expected, rel=1e-12)
    assert found["lower"] <= found["value"] <= found["upper"] <= found["lower"] * (1 + 1e-9)
    assert found["cost"] == pytest.approx(expected**p, rel=1e-12)
    assert found["cost_lower"] <= found["cost"] <= found["cost_upper"]
    assert (found["quantity"], found["rho"], found["epsilon"]) == (f"W_{p:g}", None, 0)
    assert found["norm"] == (None if norm == "inf" else float(norm))
    assert (found["solver"], found["status"], found["n"], found["m"], found["d"]) == ("Simplex", "converged", 20, 15, 3)


@pytest.mark.parametrize("rho", [math.inf, 2.0])
def test_entropy_gives_the_cost(run: Run, clouds: tuple[torch.Tensor, torch.Tensor], rho: float) -> None:
    options = () if math.isinf(rho) else ("--rho", rho)
    code, out, _ = run("distance", "x.npy", "y.npy", "--epsilon", 0.1, "--tol", 1e-6, "--json", *options)
    found = json.loads(out)
    expected = float(barrow.sinkhorn_cost(*clouds, epsilon=0.1, rho=rho, tol=1e-6))
    assert code == 0
    assert found["value"] == found["cost"] == pytest.approx(expected, rel=1e-9)
    assert (found["quantity"], found["solver"]) == ("V", "Sinkhorn")
    assert 0 <= found["upper"] - found["lower"] <= 1e-6 * found["upper"]


def test_every_key_is_documented(run: Run, clouds: object) -> None:
    for command in (("distance", "x.npy", "y.npy"), ("estimate", "x.npy", "y.npy", "--steps", 2), ("doctor",)):
        found = json.loads(run(*command, "--json")[1])
        text = run(command[0], "--help")[1]
        assert all(re.search(rf"\b{key}\b", text) for key in found), command


def test_words_say_what_json_says(run: Run, clouds: object) -> None:
    value = json.loads(run("distance", "x.npy", "y.npy", "--json")[1])["value"]
    code, out, err = run("distance", "x.npy", "y.npy")
    assert (code, err) == (0, "")
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert lines["W_2"] == f"{value:.6g}"
    assert lines["status"] == "converged"
    assert lines["solver"].startswith("Simplex, ")


def test_a_known_distance(run: Run) -> None:
    Path("x.csv").write_text("0,0\n")
    Path("y.csv").write_text("3,4\n")
    for p in (1, 2, 3):
        found = json.loads(run("distance", "x.csv", "y.csv", "--p", p, "--json")[1])
        assert found["lower"] <= 5 <= found["upper"]
        assert found["value"] == pytest.approx(5, rel=1e-14)


@pytest.mark.parametrize(("cost", "p"), [(2.0, 2.0), (3.0, 3.5), (1e-300, 1.5), (7e250, 2.0)])
def test_roots_of_bounds_are_bounds(cost: float, p: float) -> None:
    low, mid, high = (_root(cost, p, way) for way in (-1, 0, 1))
    assert low < mid < high < low * (1 + 1e-12)
    assert Fraction(low) ** int(2 * p) <= Fraction(cost) ** 2 <= Fraction(high) ** int(2 * p)
    assert _root(cost, 1, -1) == _root(cost, 1, 1) == cost


def test_not_certified_has_its_own_exit_code(run: Run, clouds: object) -> None:
    arguments = ("distance", "x.npy", "y.npy", "--epsilon", 0.01, "--max-steps", 2)
    code, out, err = run(*arguments)
    assert (code, err) == (3, "")
    assert "step_limit" in out
    assert "truth in" in out
    code, out, _ = run(*arguments, "--json")
    assert (code, json.loads(out)["status"]) == (3, "step_limit")
    code, out, _ = run("distance", "x.npy", "y.npy", "--max-steps", 1, "--json")
    found = json.loads(out)
    assert (code, found["status"]) == (3, "step_limit")
    assert found["lower"] < found["upper"]


def test_dtypes_are_kept_or_widened() -> None:
    x = np.arange(6).reshape(3, 2)
    for given, expected in (
        ("i4", torch.float64),
        ("u1", torch.float64),
        ("?", torch.float64),
        ("f2", torch.float32),
        ("f4", torch.float32),
        (">f8", torch.float64),
        ("f8", torch.float64),
    ):
        np.save("x.npy", x.astype(given))
        found = read(Path("x.npy"))
        assert found.points.dtype == expected, given
        assert found.points.tolist() == x.astype(given).astype(float).tolist()
    np.save("x.npy", x.astype("f4")[::-1].T)
    assert read(Path("x.npy")).points.tolist() == [[4, 2, 0], [5, 3, 1]]


def test_formats_agree(run: Run) -> None:
    x, w = np.array([[0.0, 1.0], [2.5, -1.0], [4.0, 4.0]]), np.array([0.5, 0.25, 0.25])
    np.savez("a.npz", points=x, weights=w)
    np.savez("b.npz", x=x, a=w, other=np.zeros(5))
    np.savez("c.npz", whatever=x, weights=w)
    Path("d.csv").write_text("u,v,weight\n0,1,.5\n2.5,-1,.25\n\n4,4,.25\n")
    Path("e.csv").write_text("\ufeffWeights,0,1\r\n0.5,0,1\r\n0.25,2.5,-1\r\n0.25,4e0,4\r\n")
    Path("y.csv").write_text("1,1\n0,3\n")
    found = {json.loads(run("distance", name, "y.csv", "--json")[1])["value"] for name in os.listdir() if name < "f"}
    expected = barrow.wasserstein(torch.from_numpy(x), torch.tensor([[1.0, 1], [0, 3]]).double(), torch.from_numpy(w))
    assert found == {float(expected)}
    Path("x.csv").write_text("0\n1\n3\n")
    np.save("z.npy", [5, 6, 8])
    found_on_a_line = json.loads(run("distance", "x.csv", "z.npy", "--p", 1, "--json")[1])
    assert (found_on_a_line["value"], found_on_a_line["solver"], found_on_a_line["d"]) == (5, "Sort", 1)


# -- bad input ---------------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def text(content: str) -> Callable[[], None]:
    def make() -> None:
        Path("x.csv").write_text(content)

    return make


def array(values: object, dtype: str = "f8") -> Callable[[], None]:
    return lambda: np.save("x.npy", np.array(values, dtype=dtype), allow_pickle=False)


def arrays(**values: object) -> Callable[[], None]:
    return lambda: np.savez("x.npz", **{name: np.array(value) for name, value in values.items()})


def raw(name: str, content: bytes) -> Callable[[], None]:
    def make() -> None:
        Path(name).write_bytes(content)

    return make


def pickled_array() -> None:
    np.save("x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)


def pickled_in_npz() -> None:
    np.savez("x.npz", x=np.array([Bomb()], dtype=object), allow_pickle=True)


def cut_short() -> None:
    np.save("x.npy", np.zeros((100, 2)))
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:-50])


def boasting() -> None:
    """A header that promises more than there is memory."""
    np.save("x.npy", np.zeros((1, 2)))
    whole = Path("x.npy").read_bytes()
    Path("x.npy").write_bytes(whole.replace(b"(1, 2), }          ", b"(99999999999999, 2)}", 1))


BAD = {
    "missing": (lambda: None, "x.npy", "does not exist"),
    "directory": (lambda: Path("x.npy").mkdir(), "x.npy", "is a directory"),
    "suffix": (raw("x.txt", b"1,2"), "x.txt", "suffix '.txt'.*.npy, .npz or .csv"),
    "no suffix": (raw("x", b"1,2"), "x", "suffix"),
    "empty npy": (raw("x.npy", b""), "x.npy", "is empty"),
    "empty csv": (text(""), "x.csv", "is empty"),
    "blank csv": (text("\n \n"), "x.csv", "is empty"),
    "no points": (array(np.zeros((0, 2))), "x.npy", r"shape \(0, 2\)"),
    "no coordinates": (array(np.zeros((2, 0))), "x.npy", r"shape \(2, 0\)"),
    "one number": (array(3.0), "x.npy", "one number"),
    "three dimensions": (array(np.zeros((4, 2, 3))), "x.npy", r"\(4, 2, 3\).*reshape it to \(4, 6\)"),
    "pickled array": (pickled_array, "x.npy", "pickled"),
    "pickle": (raw("x.npy", pickle.dumps(Bomb())), "x.npy", "not a .npy file"),
    "pickle in npz": (pickled_in_npz, "x.npz", "pickled"),
    "rubbish npy": (raw("x.npy", b"\x93NUMPY rubbish"), "x.npy", "damaged"),
    "rubbish npz": (raw("x.npz", b"PK\x03\x04 rubbish"), "x.npz", "damaged"),
    "no npz": (raw("x.npz", b"rubbish"), "x.npz", "not a .npz"),
    "cut short": (cut_short, "x.npy", "damaged or cut short"),
    "too large": (boasting, "x.npy", "too large|damaged"),
    "strings": (array([["a", "b"]], "U1"), "x.npy", "dtype <U1"),
    "complex": (array([[1, 2]], "c16"), "x.npy", "real numbers"),
    "dates": (array(["2020-01-01"], "M8[D]"), "x.npy", "real numbers"),
    "NaN": (array([[1, 2], [math.nan, 3]]), "x.npy", r"entry \[1, 0\] is nan"),
    "infinity": (array([[1, math.inf], [math.nan, 3]]), "x.npy", r"\[0, 1\] is inf \(and 1 more\)"),
    "NaN in npz": (arrays(points=[[math.nan, 1]]), "x.npz", r"points\[0, 0\] is nan"),
    "NaN in csv": (text("u,v\n1,2\n\n3,nan\n"), "x.csv", "line 4, cell 2 is nan"),
    "text cell": (text("u,v\n1,2\n3,four\n"), "x.csv", "line 3, cell 2 is 'four'"),
    "text in the first line": (text("1,two\n3,4\n"), "x.csv", "line 1, cell 2 is 'two'"),
    "empty cell": (text("1,2\n3,\n"), "x.csv", "line 2, cell 2 is empty"),
    "digit groups": (text("1_000,2\n1,2"), "x.csv", "line 1, cell 1"),
    "semicolons": (text("1;2\n3;4\n"), "x.csv", "'3;4'.*between commas"),
    "ragged": (text("1,2\n3,4,5\n"), "x.csv", "line 2: 3 cells, but the first line has 2"),
    "header alone": (text("u,v\n"), "x.csv", "header but no points"),
    "weights alone": (text("weight\n1\n"), "x.csv", "no coordinates"),
    "two weights": (text("weight,weights,u\n1,2,3\n"), "x.csv", "2 columns of weights"),
    "binary csv": (raw("x.csv", b"\xff\xfe\x00\x01"), "x.csv", "not a text file"),
    "other space": (array([[1, 2, 3]]), "x.npy", "3 coordinates.*have 2"),
    "line against plane": (array([1, 2, 3]), "x.npy", "1 coordinates.*have 2"),
    "negative weights": (arrays(x=[[1, 2], [3, 4]], weights=[1.5, -0.5]), "x.npz", r"weights\[1\] is -0.5"),
    "NaN weights": (arrays(x=[[1, 2], [3, 4]], weights=[1, math.nan]), "x.npz", r"weights\[1\] is nan"),
    "weights that do not fit": (arrays(x=[[1, 2], [3, 4]], a=[1, 2, 3]), "x.npz", r"2 points but weights.*\(3,\)"),
    "no mass": (arrays(x=[[1, 2], [3, 4]], a=[0, 0]), "x.npz", "some mass"),
    "other mass": (arrays(x=[[1, 2], [3, 4]], a=[2, 2]), "x.npz", "sum to 4 but those of .* to 1"),
    "many arrays": (arrays(u=[[1, 2]], v=[[1, 2]]), "x.npz", "call the points 'x'"),
    "no arrays": (arrays(), "x.npz", "no arrays|damaged"),
    "two of points": (arrays(x=[[1, 2]], points=[[1, 2]]), "x.npz", "both 'x' and 'points'"),
    "overflow": (array([[1e200, 0]]), "x.npy", "so far apart"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_one_line(run: Run, case: str) -> None:
    make, name, message = BAD[case]
    make()
    np.save("y.npy", [[0.0, 1.0], [2.0, 3.0]])
    before = set(os.listdir())
    result = run("distance", name, "y.npy", "--plot", "plot.png")
    assert is_one_complaint(result), result
    assert re.search(message, result[2])
    assert set(os.listdir()) == before
    swapped = run("distance", "y.npy", name)
    assert is_one_complaint(swapped), swapped
    assert not Path("exploded").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is readable to root")
def test_unreadable(run: Run, clouds: object) -> None:
    Path("x.npy").chmod(0)
    assert is_one_complaint(run("distance", "x.npy", "y.npy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--p", 0.5), "p is 0.5.*at least 1"),
        (("--p", "nan"), "p is NaN"),
        (("--p", "two"), "--p"),
        (("--norm", 3), "norms are 1, 2 and inf"),
        (("--epsilon", -1), "epsilon is -1"),
        (("--epsilon", "inf"), "epsilon is inf"),
        (("--rho", 1), "needs an entropy: add --epsilon"),
        (("--rho", -1, "--epsilon", 1), "rho is -1"),
        (("--tol", 0), "tol is 0"),
        (("--max-steps", -1), "max_steps is -1"),
        (("--max-steps", 1.5), "--max-steps"),
        (("--plot", "plot.xyz"), "suffix '.xyz'.*png"),
        (("--plot", "plot"), "suffix"),
        (("--plot", "nowhere/plot.png"), "directory nowhere does not exist"),
        (("--plot", "x.npy/plot.png"), "does not exist"),
        (("--plot", "folder.png"), "is a directory"),
        (("--nonsense",), "nonsense"),
        (("z.npy",), "z.npy"),
    ],
)
def test_bad_options_get_one_line_before_any_work(
    run: Run, clouds: object, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], message: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the work was started")

    monkeypatch.setattr(barrow, "solve", refuse)
    Path("folder.png").mkdir()
    before = set(os.listdir())
    result = run("distance", "x.npy", "y.npy", *options)
    assert is_one_complaint(result), result
    assert re.search(message, result[2])
    assert set(os.listdir()) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory that nobody can write to")
def test_an_unwritable_directory(run: Run, clouds: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(barrow, "solve")
    result = run("distance", "x.npy", "y.npy", "--plot", "/proc/plot.png")
    assert is_one_complaint(result)
    assert "cannot be written" in result[2]


def test_too_little_memory_is_foreseen(run: Run, clouds: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barrow.cli.files.free_memory", lambda: 1000)
    result = run("distance", "x.npy", "y.npy")
    assert is_one_complaint(result)
    assert "--epsilon" in result[2]
    assert run("distance", "x.npy", "y.npy", "--epsilon", 1)[0] == 0


def test_a_plot_that_fails_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.png").write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(Path("a.png"), fail)
    assert Path("a.png").read_text() == "old"
    assert leftovers() == set()
    given: list[Path] = []

    def succeed(path: Path) -> None:
        given.append(path)
        path.write_text("new")

    write(Path("a.png"), succeed)
    assert [(path.suffix, path.name == "a.png") for path in given] == [(".png", False)]
    assert Path("a.png").read_text() == "new"
    assert leftovers() == set()


def test_ctrl_c(run: Run, clouds: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(barrow, "solve", interrupt)
    assert run("distance", "x.npy", "y.npy", "--plot", "plot.png") == (130, "", "barrow: interrupted\n")
    assert not Path("plot.png").exists()


@pytest.mark.parametrize("options", [(), ("--epsilon", 1e-4, "--tol", 1e-9)])
def test_a_time_limit_gives_a_bracket_and_its_exit_code(run: Run, clouds: object, options: tuple[object, ...]) -> None:
    code, out, err = run("distance", "x.npy", "y.npy", "--time-limit", 1e-9, "--json", *options)
    found = json.loads(out)
    assert (code, err, found["status"]) == (3, "", "time_limit")
    truth = json.loads(run("distance", "x.npy", "y.npy", "--json")[1])
    if not options:
        assert 0 <= found["lower"] <= truth["value"] <= found["upper"] < math.inf
        assert found["steps"] == 0
    code, out, err = run("distance", "x.npy", "y.npy", "--time-limit", 1e-9, *options)
    assert (code, err) == (3, "")
    assert "time_limit: time_limit was reached" in out
    assert run("distance", "x.npy", "y.npy", "--time-limit", 1e6, "--json")[0] == 0
    assert is_one_complaint(run("distance", "x.npy", "y.npy", "--time-limit", -1))


@pytest.mark.parametrize("options", [(), ("--epsilon", 0.1)])
def test_the_bar_is_drawn_on_a_terminal_and_never_beside_json(
    clouds: object, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...]
) -> None:
    for terminal, json_, drawn in ((True, False, True), (True, True, False), (False, False, False)):
        screen = io.StringIO()
        monkeypatch.setattr(screen, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        code = main(["distance", "x.npy", "y.npy", *map(str, options), *(["--json"] if json_ else [])])
        assert code == 0
        assert bool(screen.getvalue()) == drawn
        if drawn:
            assert "proof" in screen.getvalue()
            assert ("passes: " if options else "pivots: 0") in screen.getvalue()


def test_ctrl_c_in_the_midst_of_a_solve(run: Run, clouds: object) -> None:
    """The listener of the bar is the one place where a test can be sure to be inside."""
    solve = barrow.solve

    def interrupted(problem: barrow.Problem, solver: barrow.Solver, *, progress: object) -> barrow.Solution:
        return solve(problem, solver, progress=lambda _: signal.raise_signal(signal.SIGINT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barrow, "solve", interrupted)
        assert run("distance", "x.npy", "y.npy") == (130, "", "barrow: interrupted\n")
    assert run("distance", "x.npy", "y.npy")[0] == 0


def test_bugs_are_not_hidden(clouds: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(barrow, "solve", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["distance", "x.npy", "y.npy"])


def test_as_a_program(clouds: object) -> None:
    """Exit codes and streams as a shell sees them; nothing but text in a log."""

    def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "barrow", *arguments], capture_output=True, text=True, check=False)

    good = shell("distance", "x.npy", "y.npy", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["status"] == "converged"
    pickled_array()
    bad = shell("distance", "x.npy", "y.npy")
    assert is_one_complaint((bad.returncode, bad.stdout, bad.stderr))
    assert not Path("exploded").exists()


# -- plots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("options", [(), ("--epsilon", "0.5")])
def test_plots(run: Run, d: int, options: tuple[str, ...]) -> None:
    draw = np.random.default_rng(d)
    np.savez("x.npz", x=draw.normal(size=(30, d)), weights=np.arange(30) / 435)
    np.save("y.npy", draw.normal(size=(25, d)) + 3)
    assert run("distance", "x.npz", "y.npy", "--plot", "plot.png", *options)[0] == 0
    assert is_a_picture(Path("plot.png"))
    assert leftovers() == set()


def test_plots_of_next_to_nothing(run: Run) -> None:
    for shape in ((1, 1), (1, 2), (1, 4)):
        np.save("x.npy", np.zeros(shape))
        assert run("distance", "x.npy", "x.npy", "--plot", "plot.png")[0] == 0
        assert is_a_picture(Path("plot.png"))


def test_arcs_are_the_heaviest() -> None:
    P = torch.tensor([[0.1, 0.0, 0.4], [0.2, 0.3, 0.0]])
    rows, cols, mass, count = arcs(barrow.DensePlan(P), most=3)
    assert count == 4
    found = sorted(zip(rows.tolist(), cols.tolist(), mass.tolist(), strict=True))
    assert found == sorted((i, j, float(P[i, j])) for i, j in ((0, 2), (1, 1), (1, 0)))
    sparse = barrow.SparsePlan(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1]), torch.tensor([0.1, 0.0, 0.9]), (2, 3))
    rows, cols, mass, count = arcs(sparse, most=10)
    assert count == 2
    assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == {(0, 0), (1, 1)}


# -- estimate ----------------------------------------------------------------------------------------------------------


def test_estimate_takes_images(run: Run) -> None:
    square = np.zeros((6, 6))
    square[1:5, 1:5] = 1
    np.save("x.npy", np.zeros((16, 6, 6), dtype="f4"))
    np.savez("y.npz", x=np.stack([square, -square] * 8).astype("f4"))
    code, out, err = run("estimate", "x.npy", "y.npz", "--steps", 60, "--seed", 3, "--json", "--plot", "plot.png")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert found["lower"] <= 4 <= found["upper"] + 1e-6
    assert 2 < found["value"] < 4 + 1e-6
    assert found["lipschitz_bound"] <= 1 + 1e-6
    assert (found["n"], found["m"], found["shape"], found["steps"], found["seed"]) == (16, 16, [6, 6], 60, 3)
    assert is_a_picture(Path("plot.png"))
    again = json.loads(run("estimate", "x.npy", "y.npz", "--steps", 60, "--seed", 3, "--json")[1])
    assert again["value"] == found["value"]
    assert run("estimate", "x.npy", "y.npz", "--steps", 60, "--seed", 3)[1].startswith("W_1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (array(np.zeros((8, 3))), r"shape \(3,\) but .* \(2,\)"),
        (array(np.zeros((3, 2))), "n >= 4"),
        (array([[math.nan, 1]] * 8), "nan"),
        (lambda: None, "does not exist"),
    ],
)
def test_bad_samples_get_one_line(run: Run, make: Callable[[], None], message: str) -> None:
    make()
    np.save("y.npy", np.zeros((8, 2)))
    result = run("estimate", "x.npy", "y.npy", "--plot", "plot.png")
    assert is_one_complaint(result)
    assert re.search(message, result[2])
    assert not Path("plot.png").exists()


@pytest.mark.parametrize(
    "options", [("--steps", 0), ("--confidence", 1.5), ("--seed", 2**70), ("--plot", "no/a.png"), ("--seed", "x")]
)
def test_bad_estimate_options(run: Run, clouds: object, options: tuple[object, ...]) -> None:
    assert is_one_complaint(run("estimate", "x.npy", "y.npy", *options))


def test_weighted_samples_are_refused(run: Run, clouds: object) -> None:
    np.savez("w.npz", x=np.zeros((5, 3)), weights=np.ones(5) / 5)
    result = run("estimate", "x.npy", "w.npz")
    assert is_one_complaint(result)
    assert "plain samples" in result[2]


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_help_and_version(run: Run) -> None:
    assert run("--version") == (0, f"barrow {barrow.__version__}\n", "")
    code, out, err = run()
    assert (code, err) == (0, "")
    for command in ("distance", "estimate", "study", "demo", "doctor"):
        assert command in out
        code, text, err = run(command, "--help")
        assert (code, err) == (0, "")
        assert "EXIT CODES" in text


def test_unknown_commands_get_one_line(run: Run) -> None:
    result = run("distanze")
    assert is_one_complaint(result)
    assert "distance" in result[2]
    assert is_one_complaint(run("distance"))


def test_doctor(run: Run) -> None:
    code, out, err = run("doctor", "--json")
    found = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert found["healthy"] is True
    assert set(found["checks"]) == {"Simplex", "Sort", "TreeFlow", "Sinkhorn"}
    assert set(found["checks"].values()) == {"ok"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["native_core"]
    assert "all is well" in run("doctor")[1]


def test_doctor_leaves_cuda_asleep() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, which doctor may name")
    assert main(["doctor"]) == 0
    assert not torch.cuda.is_initialized()


def test_doctor_sees_a_wrong_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = barrow.solve

    def wrong(problem: barrow.Problem, solver: barrow.Solver) -> barrow.Solution:
        solution = honest(problem, solver)
        return dataclasses.replace(solution, value=solution.value * 1.01) if solution.solver == "Sort" else solution

    monkeypatch.setattr(barrow, "solve", wrong)
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert (code, found["healthy"]) == (1, False)
    assert found["checks"]["Sort"].startswith("not ok")
    assert found["checks"]["Simplex"] == "ok"
    assert "something is broken" in run("doctor")[1]


def test_doctor_names_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else honest(name))
    assert "pip install 'barrow[studies]'" in json.loads(run("doctor", "--json")[1])["versions"]["scikit-learn"]
    for command in (("demo",), ("study", "squares")):
        result = run(*command)
        assert is_one_complaint(result)
        assert "scikit-learn is not installed" in result[2]
        assert "pip install 'barrow[studies]'" in result[2]
    assert os.listdir() == []


def test_json_has_no_infinities() -> None:
    assert finite({"a": [1.0, math.inf, (math.nan, 2)], "b": -math.inf}) == {"a": [1.0, None, [None, 2]], "b": None}


def test_the_helpers_can_say_no() -> None:
    assert not is_one_complaint((2, "", "barrow: a\nb\n"))
    assert not is_one_complaint((1, "", "barrow: a\n"))
    assert not is_one_complaint((2, "out", "barrow: a\n"))
    assert not is_one_complaint((2, "", "Traceback\n"))
    Image.new("RGB", (50, 50), "white").save("white.png")
    assert not is_a_picture(Path("white.png"))
    Path(".x").touch()
    assert leftovers() == {".x"}
