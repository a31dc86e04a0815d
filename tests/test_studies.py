"""The studies in their quick form: claims that hold, files that are whole, and claims that can fail."""

from __future__ import annotations

import dataclasses
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
from barrow.studies import STUDIES, Claim, MissingExtra, Outcome, Study, demo, digits, need, squares
from barrow.studies.study import Answer, solved


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


@pytest.mark.parametrize(("size", "side"), [(64, 35), (32, 17), (16, 8)])
def test_the_laws_are_as_far_apart_as_they_say(size: int, side: int) -> None:
    laws = squares.Laws.draw(size)
    assert laws.truth == side
    assert (laws.squares != 0).sum() == 2 * side**2
    x, y = laws.samples(6)
    assert x.shape == y.shape == (6, size, size)
    assert float(y.sum()) == 0
    assert float(barrow.wasserstein(x.flatten(1), y.flatten(1), p=1)) == pytest.approx(side, rel=1e-6)
    assert squares.exact(laws).contains(side)


@pytest.mark.parametrize("epsilon", squares.EPSILONS)
def test_entropy_does_not_matter_where_all_costs_are_equal(epsilon: float) -> None:
    answer = squares.entropic(squares.Laws.draw(16), epsilon)
    assert answer.contains(8)
    assert answer.upper - answer.lower < 1e-6


def test_the_critic_finds_the_distance() -> None:
    ticks = Ticks()
    laws = squares.Laws.draw()
    critic = squares.train(laws, 5, quick=True, progress=ticks)
    assert critic.answer.value == pytest.approx(35, abs=1e-3)
    assert critic.answer.lower <= critic.answer.value <= 35 <= critic.answer.upper + 1e-9
    assert critic.curve[-1][0] == ticks.seen[-1][1] == ticks.seen[-1][2]
    assert len({what.partition(":")[0] for what, _, _ in ticks.seen}) == 1
    black, minus, plus = critic.heights
    assert black - minus == pytest.approx(35, abs=1e-2)
    assert black - plus == pytest.approx(35, abs=1e-2)


def test_digits_are_what_they_say() -> None:
    x, y = digits.two_classes(3, 8, 50, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50, 64)
    assert x.dtype == torch.float64
    assert 0 <= x.min() <= x.max() <= 1
    again, _ = digits.two_classes(3, 8, 50, torch.Generator().manual_seed(0))
    other, _ = digits.two_classes(3, 8, 50, torch.Generator().manual_seed(1))
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_the_flow_arrives() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 4, generator=generator, dtype=torch.float64)
    y = torch.rand(12, 4, generator=generator, dtype=torch.float64) + 2
    moved = digits.flow(x, y, steps=16, progress=silent)
    assert torch.equal(moved.frames[0], x)
    assert len(moved.frames) == len(moved.distances) == 17
    for k in (0, 7, 16):
        assert moved.distances[k].contains(float(barrow.wasserstein(moved.frames[k], y)), 1e-9)
    assert moved.last.value < 0.05 * moved.first.value


def test_answers_bracket_the_truth() -> None:
    x, y = torch.zeros(2, 2).double(), torch.tensor([[3.0, 4.0]]).double()
    answer = solved("a question", barrow.Problem(barrow.Points(x, y, p=2)), root=2)
    assert answer.value == pytest.approx(5)
    assert answer.contains(5)
    assert not answer.contains(5.1)
    assert answer.relative_gap < 1e-9


def test_principal_axes_are_orthonormal_and_leading() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 5.0, 1.0])
    mean, axes = digits.principal_axes(z + 7)
    assert torch.allclose(axes.T @ axes, torch.eye(2).double())
    assert torch.allclose(mean, (z + 7).mean(0))
    assert axes.abs().argmax(0).tolist() == [1, 2]
    assert bool((axes.amax(0) == axes.abs().amax(0)).all())


def test_missing_packages_are_named() -> None:
    need("matplotlib")
    with pytest.raises(MissingExtra, match=r"nothing_of_the_kind is not installed.*pip install 'barrow\[studies\]'"):
        need("matplotlib", "nothing_of_the_kind")


# -- whole studies -----------------------------------------------------------------------------------------------------


# Claims that some quick run refutes: the paper's need larger networks than minutes allow, and are not lowered.
REFUTED = {"consistency"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_from_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["study", name, "--quick", "--seed", "3", "--output", "made/reports"])
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert ("NO" in out) == (code == 1)
    assert code == 0 or (code == 1 and name in REFUTED)
    folder = Path("made/reports") / name
    assert {path.name for path in folder.iterdir()} == {"results.json", f"{name}.png"}
    assert is_a_picture(folder / f"{name}.png")
    results = json.loads((folder / "results.json").read_text())
    assert (results["study"], results["seed"], results["quick"], results["holds"]) == (name, 3, True, code == 0)
    assert len(results["claims"]) >= 6
    assert all(set(claim) == {"sentence", "expected", "measured", "holds"} for claim in results["claims"])
    assert set(results["versions"]) == {"barrow", "python", "torch", "numpy"}
    assert results["seconds"]["all"] > 0


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
    monkeypatch.setattr(Study, "run", lambda self, **_: outcome)
    assert main(["study", "squares", "--output", "reports"]) == 1
    out, _ = capsys.readouterr()
    assert "NO" in out
    assert "1 of 2 claims hold" in out
    assert json.loads(Path("reports/squares/results.json").read_text())["holds"] is False


def test_wrong_measurements_refute_claims() -> None:
    laws = squares.Laws.draw()
    good = Answer("exact", 35.0, 35.0, 35.0, "by hand", 0.0)
    critic = squares.train(squares.Laws.draw(), 0, quick=True, progress=silent)

    def verdicts(reference: Answer, smooth: list[Answer], critic: squares.Critic) -> list[bool]:
        return [claim.holds for claim in squares._claims(laws, reference, smooth, [critic])]

    assert all(verdicts(good, [good], critic))
    off = dataclasses.replace(good, value=34.9, lower=34.9, upper=34.9)
    assert verdicts(off, [good], critic).count(False) == 1
    assert verdicts(good, [off], critic).count(False) == 1
    low = dataclasses.replace(critic, answer=dataclasses.replace(critic.answer, value=34.99, lower=34.99))
    assert verdicts(good, [good], low).count(False) == 2
    cheat = dataclasses.replace(critic, estimate=dataclasses.replace(critic.estimate, lipschitz_bound=1.1))
    assert verdicts(good, [good], cheat).count(False) == 1
    flat = dataclasses.replace(critic, heights=(0.0, 0.0, 0.0))
    assert verdicts(good, [good], flat).count(False) == 1


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


def test_the_demo_agrees_with_the_library() -> None:
    done = demo.run(seed=0, quick=True, progress=silent)
    (_, known), (_, (before, after)) = done.sections
    assert all(answer.value == pytest.approx(35, abs=1e-3) for answer in known)
    assert [answer.how for answer in known] == ["Simplex", *["Sinkhorn"] * 3, "1-Lipschitz network"]
    x, y = digits.two_classes(3, 8, digits.size(True)[0], torch.Generator().manual_seed(0))
    assert before.value == pytest.approx(float(barrow.wasserstein(x, y)), rel=1e-9)
    assert after.value < 0.05 * before.value


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
