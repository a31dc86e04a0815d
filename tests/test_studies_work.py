"""A run made of parts: killed anywhere, damaged, given to another run, and always the same numbers."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import barrow
import fakes
from barrow.studies import BadData, Work
from barrow.studies.work import STAMP, _slug, one_thread


def parts(folder: Path) -> list[Path]:
    """The parts that are kept, in the order in which they were made."""
    return sorted((p for p in folder.glob("*.ckpt") if p.name != STAMP), key=lambda p: p.stat().st_mtime_ns)


RUN = """
import sys, time
from pathlib import Path
import fakes
from barrow.studies import Work
work = Work(seed=5, study="throws", folder=Path(sys.argv[1]))
fakes.throws(work, 3)
print("three are done", flush=True)
work.part("the fourth", lambda: time.sleep(600))
"""


def test_killed_in_the_middle_and_taken_up_again(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{RUN}", str(tmp_path / "parts")],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "three are done\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert len(parts(tmp_path / "parts")) == 3
    work = Work(seed=5, study="throws", folder=tmp_path / "parts", resume=True)
    assert fakes.throws(work, 6) == fakes.throws(Work(seed=5), 6)
    assert work.resumed == 3
    assert list(work.seconds) == [f"throw {k}" for k in range(6)]


@pytest.mark.parametrize("kept", range(5))
def test_any_parts_may_be_missing(tmp_path: Path, kept: int) -> None:
    whole = fakes.throws(Work(seed=1, folder=tmp_path))
    for path in parts(tmp_path)[kept:]:
        path.unlink()
    work = Work(seed=1, folder=tmp_path, resume=True)
    assert fakes.throws(work) == whole
    assert work.resumed == kept


def test_a_part_on_the_disk_is_not_made_again(tmp_path: Path) -> None:
    Work(folder=tmp_path).part("once", lambda: {"a": torch.ones(2), "b": (1, "two", None)})
    again = Work(folder=tmp_path, resume=True).part("once", lambda: pytest.fail("it was made again"))
    assert torch.equal(again["a"], torch.ones(2))
    assert again["b"] == (1, "two", None)


def test_seconds_are_those_of_the_making(tmp_path: Path) -> None:
    first = Work(folder=tmp_path)
    first.part("long", lambda: None)
    again = Work(folder=tmp_path, resume=True)
    again.part("long", lambda: None)
    assert again.seconds == first.seconds


def damage(raw: bytes) -> list[bytes]:
    return [b"", raw[:10], raw[:-1], raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:], b"something else altogether"]


@pytest.mark.parametrize("how", range(5))
def test_a_damaged_part_is_made_again(tmp_path: Path, how: int) -> None:
    whole = fakes.throws(Work(seed=2, folder=tmp_path))
    victim = parts(tmp_path)[1]
    before = victim.read_bytes()
    victim.write_bytes(damage(before)[how])
    work = Work(seed=2, folder=tmp_path, resume=True)
    assert fakes.throws(work) == whole
    assert work.resumed == 3
    assert len(victim.read_bytes()) == len(before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 8}, "with seed 7, but this is one with seed 8"),
        ({"quick": True}, "with quick False, but this is one with quick True"),
        ({"study": "another"}, "with study 'throws', but this is one with study 'another'"),
        ({"data": Path("digits")}, "with data None, but this is one with data '.*digits'"),
    ],
)
def test_parts_of_another_run_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"seed": 7, "study": "throws", "folder": tmp_path}
    fakes.throws(Work(**given))
    with pytest.raises(BadData, match=f"{said}: leave out --resume"):
        Work(**{**given, **changes}, resume=True)
    assert len(parts(tmp_path)) == 4  # nothing was lost by asking
    Work(**{**given, **changes})
    assert parts(tmp_path) == []


def test_parts_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.throws(Work(folder=tmp_path))
    monkeypatch.setattr(barrow, "__version__", "99.0")
    with pytest.raises(BadData, match=r"with barrow '.*', but this is one with barrow '99\.0'"):
        Work(folder=tmp_path, resume=True)


def test_a_damaged_stamp_is_refused(tmp_path: Path) -> None:
    Work(folder=tmp_path)
    (tmp_path / STAMP).write_bytes((tmp_path / STAMP).read_bytes()[:-3])
    with pytest.raises(BadData, match=r"is cut off.*leave out --resume"):
        Work(folder=tmp_path, resume=True)


def test_to_resume_what_was_never_begun_is_to_begin(tmp_path: Path) -> None:
    work = Work(seed=4, folder=tmp_path / "new", resume=True)
    assert fakes.throws(work) == fakes.throws(Work(seed=4))
    assert work.resumed == 0


def test_chance_is_the_same_whatever_was_done_before() -> None:
    def throw() -> list[int]:
        return torch.randint(10**6, (3,)).tolist()

    torch.manual_seed(11)
    alone = Work(seed=3).part("throw", throw)
    torch.manual_seed(12)
    torch.rand(7)
    work = Work(seed=3)
    work.part("noise", lambda: torch.rand(100).tolist())
    assert work.part("throw", throw) == alone
    assert Work(seed=4).part("throw", throw) != alone


def test_a_part_leaves_the_callers_chance_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Work().part("noise", lambda: torch.rand(100).tolist())
    with pytest.raises(ZeroDivisionError):
        Work().part("broken", lambda: torch.rand(100).tolist()[1 // 0])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kept", [False, True])
def test_two_parts_of_one_name_are_refused(tmp_path: Path, kept: bool) -> None:
    work = Work(folder=tmp_path if kept else None)
    work.part("a", lambda: 1)
    with pytest.raises(ValueError, match="two parts 'a' in one run: give each its own name"):
        work.part("a", lambda: 2)


def test_a_part_that_failed_may_be_tried_again(tmp_path: Path) -> None:
    work = Work(folder=tmp_path)
    with pytest.raises(ZeroDivisionError):
        work.part("a", lambda: 1 // 0)
    assert work.part("a", lambda: 2) == 2


def test_names_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    names = ["p = 1", "p: 1", "P=1", "ε", "", "x" * 500, "x" * 501, "../../p"]
    work = Work(folder=tmp_path / "parts")
    work.parts({name: lambda name=name: name for name in names})
    again = Work(folder=tmp_path / "parts", resume=True)
    assert list(again.parts({name: lambda: "made again" for name in names}).values()) == names
    assert len({_slug(name) for name in names}) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_what_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Found:
        value: int

    with pytest.raises(ValueError, match="is a Found, but a checkpoint holds"):
        Work(folder=tmp_path).part("a", lambda: Found(1))
    assert parts(tmp_path) == []


def test_progress_counts_the_parts() -> None:
    seen: list[tuple[str, int, int]] = []
    work = Work(progress=lambda *told: seen.append(told))
    assert work.parts({"a": lambda: 1, "b": lambda: 2}, "cells") == {"a": 1, "b": 2}
    assert seen == [("cells: a", 0, 2), ("cells: b", 1, 2), ("cells", 2, 2)]


def test_one_thread_for_a_while() -> None:
    def fail() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError):
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
