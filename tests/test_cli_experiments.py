"""`barrow study`: what it leaves in its folder, runs that are taken up again, every study in one go, and complaints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import fakes
from barrow.cli import experiments, files, main, report, results
from barrow.studies import BadData, Claim, MissingExtra, Outcome, Work, page

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["study", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "\x1b" not in out
        return code, out, err

    return call


def good(work: Work) -> Outcome:
    """All claims hold, and the numbers are those of the seed."""
    thrown = fakes.throws(work)
    return fakes.outcome((fakes.TRUE,), numbers={"thrown": thrown, "data": str(work.data)})


def bad(work: Work) -> Outcome:
    fakes.throws(work)
    return fakes.outcome()


def needs_data(work: Work) -> Outcome:
    if work.data is None:
        raise BadData("there is no belt:\nbarrow data belt fetches it")
    return good(work)


def read(folder: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((Path(folder) / "results.json").read_text())
    return found


class Stop:
    """Ctrl-C after some parts, until it is told to go on."""

    def __init__(self, after: int) -> None:
        self.after: int | None = after

    def __call__(self, work: Work) -> Outcome:
        if self.after is not None:
            fakes.throws(work, self.after)
            raise KeyboardInterrupt
        return good(work)


# -- one study ---------------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"some-study": bad})
    code, out, err = run("some-study", "--seed", 3, "--quick", "--output", "made/reports")
    assert (code, err) == (1, "")
    assert "error by loss" in out
    assert "2.0, read off" in out
    assert "1 of 2 claims hold" in out
    assert "there already" not in out
    folder = Path("made/reports/some-study")
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.html", "results.json", "errors.png", "a_face.png", "parts"}
    found = read(str(folder))
    assert list(found) == [
        "study", "title", "paper", "essay", "holds", "claims", "captions", "tables", "sources", "numbers", "seed",
        "quick", "data", "versions", "machine", "seconds",
    ]  # fmt: skip
    assert (found["study"], found["seed"], found["quick"], found["holds"]) == ("some-study", 3, True, False)
    assert found["numbers"] == {"errors": [0.25, 0.5], "worst": None}
    assert found["captions"] == {"errors": "Left, what was expected; right, what W_1 says.", "a_face": ""}
    assert found["claims"] == [vars(fakes.TRUE), vars(fakes.FALSE)]
    seconds, machine = found["seconds"], found["machine"]
    assert isinstance(seconds, dict)
    assert isinstance(machine, dict)
    assert list(seconds["parts"]) == [f"throw {k}" for k in range(4)]
    assert seconds["all"] >= sum(seconds["parts"].values())
    assert machine["threads"] == 1
    assert 1 <= machine["cores"] <= (os.cpu_count() or 1)
    assert not list(folder.glob(".*"))


def test_the_page_is_made_from_what_was_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"study": bad})
    run("study")
    folder = Path("reports/study")
    pictures = {name: (folder / f"{name}.png").read_bytes() for name in ("errors", "a_face")}
    assert page.report(read(str(folder)), pictures) == (folder / "report.html").read_text()


def test_durations_of_a_study_without_parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"study": lambda _: fakes.outcome((fakes.TRUE,), durations={"by hand": 2.5})})
    assert run("study")[0] == 0
    assert read("reports/study")["seconds"]["parts"] == {"by hand": 2.5}  # type: ignore[index]


def test_an_interrupted_run_is_taken_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(3)
    fakes.install(monkeypatch, {"study": stop, "whole": good})
    run("whole", "--seed", 7)
    code, out, err = run("study", "--seed", 7)
    assert (code, out) == (130, "")
    assert err == (
        "barrow: interrupted; 3 finished parts are kept in reports/study/parts: "
        "give the same command with --resume to continue\n"
    )
    stop.after = None
    code, out, err = run("study", "--seed", 7, "--resume")
    assert (code, err) == (0, "")
    assert "3 of 4 parts were there already\n" in out
    assert read("reports/study")["numbers"] == read("reports/whole")["numbers"]
    # A finished run is only drawn again.
    code, out, err = run("study", "--seed", 7, "--resume")
    assert "4 of 4 parts were there already\n" in out


def test_interrupted_before_anything_was_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"study": Stop(0)})
    assert run("study") == (130, "", "barrow: interrupted before a part of study was finished\n")
    fakes.install(monkeypatch, {"study": Stop(1)})
    assert "1 finished part is kept" in run("study")[2]


def test_parts_of_another_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"study": good})
    run("study", "--seed", 1)
    before = Path("reports/study/report.html").read_bytes()
    code, out, err = run("study", "--seed", 2, "--resume")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "with seed 1, but this is one with seed 2: leave out --resume" in err
    assert Path("reports/study/report.html").read_bytes() == before
    assert run("study", "--seed", 2)[0] == 0


@pytest.mark.parametrize("at", ["errors.png", "results.json", "report.html"])
def test_an_interrupted_report_leaves_the_page_before_it(run: Run, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    fakes.install(monkeypatch, {"study": good})
    run("study", "--seed", 1)
    page_before = Path("reports/study/report.html").read_text()
    write = files.write

    def interrupted(path: Path, save: Callable[[Path], None]) -> None:
        def half(sibling: Path) -> None:
            save(sibling)
            sibling.write_bytes(sibling.read_bytes()[:10])
            raise KeyboardInterrupt

        write(path, half if path.name == at else save)

    monkeypatch.setattr(files, "write", interrupted)
    code, _, err = run("study", "--seed", 2)
    assert code == 130
    assert "4 finished parts are kept" in err
    assert Path("reports/study/report.html").read_text() == page_before
    json.loads(Path("reports/study/results.json").read_text())
    assert not list(Path("reports/study").glob(".*"))
    monkeypatch.setattr(files, "write", write)
    assert run("study", "--seed", 2, "--resume")[0] == 0
    assert "--seed 2" in Path("reports/study/report.html").read_text()


def test_a_page_that_cannot_be_drawn_touches_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"study": good})
    run("study")
    before = {path: path.read_bytes() for path in Path("reports/study").iterdir() if path.is_file()}
    monkeypatch.setattr(page, "report", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run("study", "--seed", 5)
    assert {path: path.read_bytes() for path in before} == before


def test_a_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: Work) -> Outcome:
        raise OSError(28, "the checkpoint was not written (No space left on device)")

    fakes.install(monkeypatch, {"study": full})
    assert run("study") == (2, "", "barrow: study: the checkpoint was not written (No space left on device)\n")


def test_data_reach_the_study(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"data-study": good, "study": good})
    Path("given").mkdir()
    run("data-study", "--data", "given")
    assert read("reports/data-study")["data"] == "given"
    assert read("reports/data-study")["numbers"]["data"] == "given"  # type: ignore[index]
    assert "--seed 0 --data given" in Path("reports/data-study/report.html").read_text()
    assert run("study", "--data", "given")[2].startswith("barrow: the study study takes no --data")
    assert run("data-study", "--data", "nothing")[2].startswith("barrow: --data nothing does not exist")


def test_the_column_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    report.claims_table("with", [fakes.TRUE, fakes.FALSE])
    head = capsys.readouterr().out.splitlines()[2].split()
    assert head == ["claim", "expected", "measured", "paper", "holds"]
    report.claims_table("without", [fakes.TRUE, Claim("[red]a[/]", "[b]", "c", True)])
    out = capsys.readouterr().out
    assert out.splitlines()[2].split() == ["claim", "expected", "measured", "holds"]
    assert "[red]a[/]" in out


# -- all of them -------------------------------------------------------------------------------------------------------


def test_all_of_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"one": good, "two-data": needs_data, "three": bad})
    code, out, err = run("--all", "--report", "all", "--quick")
    assert code == 2
    assert err == "barrow: two-data was not run: there is no belt: barrow data belt fetches it\n"
    assert out.endswith("2 of 3 studies were run, 2 of 3 claims hold; see all/index.html\n")
    index = Path("all/index.html").read_text()
    assert "2 of 3 claims hold" in index
    assert "2 of 3 studies were run" in index
    assert "there is no belt: barrow data belt fetches it" in index
    assert index.index("one/report.html") < index.index("there is no belt") < index.index("three/report.html")
    for name in ("one", "three"):
        assert 'href="../index.html"' in Path(f"all/{name}/report.html").read_text()
    assert not Path("all/two-data/report.html").exists()


@pytest.mark.parametrize(("second", "code"), [(good, 0), (bad, 1)])
def test_the_exit_code_of_all(
    run: Run, monkeypatch: pytest.MonkeyPatch, second: Callable[[Work], Outcome], code: int
) -> None:
    fakes.install(monkeypatch, {"one": good, "two": second})
    assert run("--all")[0] == code
    assert Path("reports/index.html").exists()


def test_data_for_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"one": good, "two-data": needs_data, "three-data": good})
    code, _, err = run("--all", "--data", "given")
    assert (code, err.count("\n")) == (2, 1)
    assert "--data given holds nothing for --all, which looks in it for two-data, three-data" in err
    Path("given/two-data").mkdir(parents=True)
    assert run("--all", "--data", "given")[0] == 0
    assert read("reports/two-data")["data"] == "given/two-data"
    assert read("reports/three-data")["data"] is None


def test_what_could_not_be_run_again_is_not_shown_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"one-data": needs_data, "two": good})
    Path("given").mkdir()
    assert run("one-data", "--data", "given", "--report", "reports")[0] == 0
    assert "1 of 2 studies were run" in Path("reports/index.html").read_text()
    assert run("--all")[0] == 2
    index = Path("reports/index.html").read_text()
    assert "1 of 2 studies were run" in index
    assert "there is no belt" in index
    assert "one-data/report.html" not in index


def test_a_missing_package_stops_one_study_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(work: Work) -> Outcome:
        raise MissingExtra("soundfile is not installed, but this needs it")

    fakes.install(monkeypatch, {"one": lacking, "two": good})
    code, out, err = run("--all")
    assert (code, err) == (2, "barrow: one was not run: soundfile is not installed, but this needs it\n")
    assert "1 of 2 studies were run" in out
    assert run("one")[::2] == (2, "barrow: soundfile is not installed, but this needs it\n")


def test_all_are_taken_up_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(2)
    fakes.install(monkeypatch, {"one": good, "two": stop, "three": good})
    code, _, err = run("--all")
    assert (code, err.count("\n")) == (130, 1)
    assert "2 finished parts are kept in reports/two/parts" in err
    index = Path("reports/index.html").read_text()
    assert "1 of 3 studies were run" in index
    assert "It was not run yet: <code>barrow study three --report reports</code>" in index
    stop.after = None
    code, out, _ = run("--all", "--resume")
    assert code == 0
    assert out.count("4 of 4 parts were there already") == out.count("2 of 4 parts were there already") == 1
    assert "3 of 3 studies were run" in Path("reports/index.html").read_text()


def test_one_study_renews_the_index(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"one": good, "two": bad, "three": good})
    for name in ("elsewhere", "broken", "old"):
        (Path("all") / name).mkdir(parents=True)
    assert run("two", "--report", "all")[0] == 1
    Path("all/broken/results.json").write_text("{")
    Path("all/old/results.json").write_text('{"study": "old"}')
    Path("all/elsewhere/results.json").write_text(Path("all/two/results.json").read_text())
    assert run("one", "--report", "all")[0] == 0
    index = Path("all/index.html").read_text()
    assert "3 of 4 studies were run" in index  # the three, and one that is no more
    assert [index.count(f'href="{name}/report.html"') for name in ("one", "two", "elsewhere")] == [2, 2, 1]
    assert "broken" not in index
    assert run("three", "--output", "all")[0] == 0
    assert Path("all/index.html").read_text() == index
    assert results.INDEX not in Path("all/three/report.html").read_text()


# -- complaints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("one", "--all"), "both the study 'one' and --all were given: leave one of them out"),
        (("one", "--output", "a", "--report", "b"), "both --output and --report were given"),
        (("--all", "--output", "a", "--report", "b"), "both --output and --report were given"),
        (("--quick",), "--quick: for which study? Give a NAME, or --all"),
        (("--resume", "--data", "x"), "--data, --resume: for which study?"),
        (("--seed", "0"), "--seed: for which study?"),
        (("--report", "a"), "--report: for which study?"),
        (("--output", "reports"), "--output: for which study?"),
        (("onee",), "there is no study 'onee', did you mean 'one'?"),
        (("one", "--output", "file"), "the directory file/one cannot be made"),
        (("--all", "--report", "file"), "the directory file cannot be made"),
    ],
)
def test_complaints(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str) -> None:
    fakes.install(monkeypatch, {"one": lambda _: pytest.fail("the work was started")})
    Path("file").write_text("")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"barrow: {said}")
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_without_options_they_are_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"one": good, "two": bad})
    code, out, err = run()
    assert (code, err) == (0, "")
    for said in ("what one is about", "The paper of two", "run one with: barrow study NAME"):
        assert said in out


@pytest.mark.parametrize("arguments", [("one",), ("--all",)])
def test_missing_packages_are_told_before_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def lacking(*names: str) -> None:
        assert "jinja2" in names
        raise MissingExtra("jinja2 is not installed")

    fakes.install(monkeypatch, {"one": lambda _: pytest.fail("the work was started")})
    monkeypatch.setattr(experiments, "need", lacking)
    assert run(*arguments) == (2, "", "barrow: jinja2 is not installed\n")
    assert list(Path().iterdir()) == []
