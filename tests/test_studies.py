"""The studies in their quick form: claims that hold, files that are whole, and claims that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import barrow
from barrow.cli import main
from barrow.studies import STUDIES, Claim, MissingExtra, Outcome, Study, demo, need
from barrow.studies.study import solved


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def silent(what: str, done: int, total: int) -> None:
    """A progress bar that nobody sees."""


class Ticks:
    """A progress bar that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.append((what, done, total))


def is_a_picture(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and np.asarray(image.convert("RGB"), dtype=float).std() > 20


# -- the pieces --------------------------------------------------------------------------------------------------------


def test_answers_bracket_the_truth() -> None:
    x, y = torch.zeros(2, 2).double(), torch.tensor([[3.0, 4.0]]).double()
    answer = solved("a question", barrow.Problem(barrow.Points(x, y, p=2)), root=2)
    assert answer.value == pytest.approx(5)
    assert answer.contains(5)
    assert not answer.contains(5.1)
    assert answer.relative_gap < 1e-9


def test_missing_packages_are_named() -> None:
    need("matplotlib")
    with pytest.raises(MissingExtra, match=r"nothing_of_the_kind is not installed.*pip install 'barrow\[studies\]'"):
        need("matplotlib", "nothing_of_the_kind")


# -- whole studies -----------------------------------------------------------------------------------------------------


# Claims that some quick run refutes: the paper's need larger networks than minutes allow, and are not lowered.
REFUTED = {"consistency", "label-noise", "ratings", "sinkhorn-svm", "spectrum", "tags"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_from_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["study", name, "--quick", "--seed", "3", "--output", "made/reports"])
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert ("NO" in out.split()) == (code == 1)
    assert code == 0 or (code == 1 and name in REFUTED)
    folder = Path("made/reports") / name
    results = json.loads((folder / "results.json").read_text())
    pictures = {f"{title}.png" for title in results["captions"]}
    assert {path.name for path in folder.iterdir()} == {"results.json", "report.html", "parts", *pictures}
    assert pictures
    assert all(is_a_picture(folder / picture) for picture in pictures)
    assert all(results["captions"].values())
    assert (results["study"], results["seed"], results["quick"], results["holds"]) == (name, 3, True, code == 0)
    assert len(results["claims"]) >= 2
    assert results["essay"]
    assert results["tables"]
    assert results["numbers"]
    assert results["seconds"]["all"] > 0
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)


def test_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    out, _ = capsys.readouterr()
    for study in STUDIES.values():
        assert study.name in out
        assert study.paper in out
        assert study.summary in out


def test_an_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "sqares"]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "did you mean 'squares'?" in err
    assert "digits" in err
    assert main(["study", "zzz"]) == 2
    _, err = capsys.readouterr()
    assert "did you mean" not in err
    assert "squares, digits" in err


def test_a_claim_that_does_not_hold_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = Outcome((Claim("one is two", "2", "1", False), Claim("one is one", "1", "1", True)), {}, {}, {})
    monkeypatch.setattr(Study, "run", lambda self, work: outcome)
    assert main(["study", "squares", "--output", "reports"]) == 1
    out, _ = capsys.readouterr()
    assert "NO" in out
    assert "1 of 2 claims hold" in out
    assert json.loads(Path("reports/squares/results.json").read_text())["holds"] is False


def test_output_that_cannot_be_made(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the work was started")

    monkeypatch.setattr(Study, "run", refuse)
    monkeypatch.setattr(demo, "run", refuse)
    Path("file").write_text("")
    for arguments in (["study", "squares", "--output", "file"], ["demo", "--output", "file/demo.png"]):
        assert main(arguments) == 2
        _, err = capsys.readouterr()
        assert err.startswith("barrow: ")
        assert err.count("\n") == 1


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--quick", "--seed", "1", "--output", "picture.png"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert out.count("35.0000") >= 4
    assert "critic, seed 1" in out
    assert [path.name for path in Path().iterdir()] == ["picture.png"]
    assert is_a_picture(Path("picture.png"))
    with Image.open("picture.png") as image:
        assert min(image.size) >= 1000


def test_figures_leave_pyplot_alone() -> None:
    """matplotlib's global state, which would open windows, is never loaded."""
    code = (
        "import sys\nfrom barrow.cli import main\n"
        "assert main(['distance', 'x.csv', 'x.csv', '--plot', 'plot.png']) == 0\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    Path("x.csv").write_text("1,2\n3,4\n")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
