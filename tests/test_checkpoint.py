"""Checkpoints: whole or refused, and the one before still there, whatever fails and whenever."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from barrow import checkpoint

STATE: dict[str, Any] = {
    "weights": torch.arange(300.0),
    "half": torch.tensor([0.1, float("nan")], dtype=torch.bfloat16),
    "nested": {"rows": [{"step": 1, "w1": 0.1}, {"step": 2, "w1": 0.2}], 0: (True, None, "name")},
    "ordered": OrderedDict(a=torch.zeros(())),
    "random": torch.Generator().manual_seed(3).get_state(),
}


def step(k: int) -> dict[str, Any]:
    return {"step": k, "weights": torch.full((100,), float(k))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ckpt"


@pytest.fixture
def two(path: Path) -> Path:
    """A checkpoint at step 2, and that of step 1 before it."""
    checkpoint.save(path, step(1))
    checkpoint.save(path, step(2))
    return path


def steps(path: Path) -> tuple[int, int]:
    return checkpoint.load(path)["step"], checkpoint.load(checkpoint.previous(path))["step"]


def names(path: Path) -> set[str]:
    return {p.name for p in path.parent.iterdir()}


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out_to_the_last_bit(path: Path) -> None:
    checkpoint.save(path, STATE)
    back = checkpoint.load(path)
    assert list(back) == list(STATE)
    assert back["nested"] == STATE["nested"]
    assert type(back["nested"][0]) is tuple
    for name in ("weights", "half", "random"):
        assert back[name].dtype == STATE[name].dtype
        assert torch.equal(back[name].view(torch.uint8), STATE[name].view(torch.uint8))
    assert torch.equal(back["ordered"]["a"], torch.zeros(()))
    assert names(path) == {"run.ckpt"}


def test_states_of_modules_and_optimisers(path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    module(torch.randn(5, 3)).square().mean().backward()
    optimiser.step()
    checkpoint.save(path, {"module": module.state_dict(), "optimiser": optimiser.state_dict()})
    back = checkpoint.load(path)
    assert all(torch.equal(back["module"][k], v) for k, v in module.state_dict().items())
    assert back["optimiser"]["param_groups"] == optimiser.state_dict()["param_groups"]


def test_the_one_before_is_kept(two: Path) -> None:
    assert steps(two) == (2, 1)
    checkpoint.save(two, step(3))
    assert steps(two) == (3, 2)
    assert names(two) == {"run.ckpt", "run.ckpt.previous"}


def test_a_file_system_without_links(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint.save(two, step(3))
    assert steps(two) == (3, 2)
    assert names(two) == {"run.ckpt", "run.ckpt.previous"}


# -- what is refused ---------------------------------------------------------------------------------------------------


class Thing:
    pass


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": {"b": [0, Thing()]}}, r"state\['a'\]\['b'\]\[1\] is a Thing, but a checkpoint holds tensors"),
        ({"a": torch.nn.Linear(1, 1)}, r"state\['a'\] is a Linear"),
        ({"a": {(1, 2): 0}}, r"state\['a'\] has the key \(1, 2\), but keys must be strings or numbers"),
        ([1], "state is a list, but a checkpoint holds a dict"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(two: Path, state: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checkpoint.save(two, state)
    assert steps(two) == (2, 1)


def test_nothing_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*run\.ckpt$"):
        checkpoint.load(path)
    checkpoint.save(checkpoint.previous(path), step(1))
    with pytest.raises(FileNotFoundError, match=r"run\.ckpt; the checkpoint before it is .*run\.ckpt\.previous: load"):
        checkpoint.load(path)


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize("share", [0, 1, 26, 60, 118, 119, 120, 500, -100, -1])
def test_a_truncated_file(two: Path, share: int) -> None:
    cut(two, share)
    size = len(two.read_bytes())
    why = "is empty" if size == 0 else "is cut off within its first line" if size < 119 else f"is cut off: {size} of "
    with pytest.raises(ValueError, match=rf"run\.ckpt {why}.*; the checkpoint before it is .*previous: load that one$"):
        checkpoint.load(two)
    assert checkpoint.load(checkpoint.previous(two))["step"] == 1
    # The torn one is replaced, and does not push out the whole one.
    checkpoint.save(two, step(3))
    assert steps(two) == (3, 1)


def test_the_first_line_is_as_long_as_the_test_above_says(two: Path) -> None:
    assert two.read_bytes().index(b"\n") + 1 == 119


@pytest.mark.parametrize("place", [30, 118, 119, 700, -1])
def test_a_changed_byte(two: Path, place: int) -> None:
    raw = bytearray(two.read_bytes())
    raw[place] ^= 1
    two.write_bytes(raw)
    with pytest.raises(ValueError, match=r"is (damaged|cut off).*previous"):
        checkpoint.load(two)
    assert checkpoint.load(checkpoint.previous(two))["step"] == 1


def test_more_bytes_than_were_written(two: Path) -> None:
    two.write_bytes(two.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is damaged: its bytes are not those that were written"):
        checkpoint.load(two)


def test_a_foreign_file_is_neither_read_nor_replaced(path: Path) -> None:
    torch.save({"step": 1}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is no barrow checkpoint: it does not begin like one$"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match="is no barrow checkpoint and would be lost: choose another name"):
        checkpoint.save(path, step(1))
    assert path.read_bytes() == before
    assert names(path) == {"run.ckpt"}


def test_a_file_cannot_run_code(path: Path) -> None:
    """One with an honest header whose content is a program is refused by torch."""
    import hashlib
    import io

    class Program:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (os.mkdir, (str(path.parent / "ran"),))

    buffer = io.BytesIO()
    torch.save({"a": Program()}, buffer)
    content = buffer.getvalue()
    path.write_bytes(checkpoint._HEADER.format(hashlib.sha256(content).hexdigest(), len(content)).encode() + content)
    with pytest.raises(Exception, match="weights_only"):
        checkpoint.load(path)
    assert names(path) == {"run.ckpt"}


# -- what fails --------------------------------------------------------------------------------------------------------


class Full:
    """A file on a disk that takes so many bytes and no more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: Any) -> int:
        self.file.write(bytes(data)[: self.room])
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 50, 119, 600])
@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk(two: Path, monkeypatch: pytest.MonkeyPatch, room: int, links: bool) -> None:
    real = builtins.open

    def opened(name: Any, mode: str = "r", *rest: Any) -> Any:
        file = real(name, mode, *rest)
        return Full(file, room) if "w" in mode else file

    monkeypatch.setattr(builtins, "open", opened)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    with pytest.raises(OSError, match=r"run\.ckpt was not written \(No space left.*run\.ckpt held before is untouched"):
        checkpoint.save(two, step(3))
    monkeypatch.undo()
    assert steps(two) == (2, 1)
    assert names(two) == {"run.ckpt", "run.ckpt.previous"}


@pytest.mark.parametrize("links", [True, False])
def test_a_disk_that_is_full_for_the_copy_only(two: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    real = builtins.open

    def opened(name: Any, mode: str = "r", *rest: Any) -> Any:
        file = real(name, mode, *rest)
        return Full(file, 7) if "w" in mode and str(name).endswith(".keeping") else file

    monkeypatch.setattr(builtins, "open", opened)
    if links:
        checkpoint.save(two, step(3))
        assert steps(two) == (3, 2)
        return
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    with pytest.raises(OSError, match="was not written"):
        checkpoint.save(two, step(3))
    monkeypatch.undo()
    assert steps(two) == (2, 1)
    assert names(two) == {"run.ckpt", "run.ckpt.previous"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_call_that_fails(two: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        checkpoint.save(two, step(3))
    monkeypatch.undo()
    assert steps(two) == (2, 1)
    assert "run.ckpt.writing" not in names(two)
    checkpoint.save(two, step(3))
    assert steps(two) == (3, 2)
    assert names(two) == {"run.ckpt", "run.ckpt.previous"}


def test_no_permission(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def opened(name: Any, mode: str = "r", *rest: Any) -> Any:
        if "w" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return real(name, mode, *rest)

    monkeypatch.setattr(builtins, "open", opened)
    with pytest.raises(PermissionError, match=r"was not written \(Permission denied\): what .* is untouched"):
        checkpoint.save(two, step(3))
    monkeypatch.undo()
    assert steps(two) == (2, 1)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"was not written .*: nothing is there"):
        checkpoint.save(tmp_path / "none" / "run.ckpt", step(1))
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="was not written"):
        checkpoint.save(tmp_path / "folder", step(1))
    with pytest.raises(IsADirectoryError, match="cannot be read"):
        checkpoint.load(tmp_path / "folder")


# -- killed ------------------------------------------------------------------------------------------------------------

KILLED = """
import builtins, os, signal, sys
import torch
from pathlib import Path
from barrow import checkpoint

torch.set_num_threads(1)
path, links = Path(sys.argv[1]), sys.argv[2] == "links"

def state(k):
    return {"step": k, "weights": torch.full((100,), float(k))}

def dying(left):
    # Die at the moment of that many calls of the system from now, before or after it is made.
    left = [left]
    def wrap(call):
        def called(*arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            done = call(*arguments)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return called
    def refuse(*_):
        raise OSError("no links here")
    os.fsync, os.replace, os.link = wrap(os.fsync), wrap(os.replace), wrap(os.link if links else refuse)
    real = builtins.open
    def opened(name, mode="r", *rest):
        file = real(name, mode, *rest)
        if "w" not in mode:
            return file
        class Dying:
            def __enter__(self): return self
            def __exit__(self, *_): file.close()
            def __getattr__(self, name): return getattr(file, name)
            def write(self, data):
                def half():
                    file.write(bytes(data)[: len(data) // 2]); file.flush()
                wrap(half)()
                file.write(bytes(data)[len(data) // 2 :]); file.flush()
        return Dying()
    builtins.open = opened

killed, moment = 0, 0
while True:
    moment += 1
    for old in path.parent.iterdir():
        old.unlink()
    checkpoint.save(path, state(1)); checkpoint.save(path, state(2))
    child = os.fork()
    if child == 0:
        dying(moment)
        checkpoint.save(path, state(3))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    now, before = checkpoint.load(path)["step"], checkpoint.load(checkpoint.previous(path))["step"]
    print(moment, status, now, before)
    assert (now, before) in {(2, 1), (2, 2), (3, 2)}, (moment, now, before)
    checkpoint.save(path, state(4))
    assert checkpoint.load(path)["step"] == 4 and checkpoint.load(checkpoint.previous(path))["step"] == now
    assert {p.name for p in path.parent.iterdir()} == {path.name, path.name + ".previous"}
    if status == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("links", ["links", "no links"])
def test_a_kill_before_and_after_every_call_of_the_system(tmp_path: Path, links: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run.ckpt"), links], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) >= 10
    assert all(status == signal.SIGKILL for _, status, _, _ in rows[:-1])
    # Old until the last step, then new: at no moment neither.
    seen = [now for _, _, now, _ in rows]
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
