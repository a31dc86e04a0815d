"""``barrow data``: what it lists, what it fetches, how it exits."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from barrow.cli import main
from barrow.studies import data as sets
from barrow.studies.data import DATASETS, Dataset
from barrow.studies.data.cache import Source
from packing import tar

GOOD = tar({"package/words.txt": b"earth mover"})


@pytest.fixture(autouse=True)
def small_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets instead of the real ones: one there to fetch, one whose address is wrong."""
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))
    (tmp_path / "words.tgz").write_bytes(GOOD)
    digest = hashlib.sha256(GOOD).hexdigest()
    for name in list(DATASETS):
        monkeypatch.delitem(DATASETS, name)
    for name, file in (("words", "words.tgz"), ("lost", "lost.tgz")):
        source = Source(((tmp_path / file).as_uri(),), digest, len(GOOD), {"package/words.txt": "words.txt"})
        made = Dataset(name, f"the {name}", f"some {name}", "MIT", "A. N. Author 1999", (source,))
        monkeypatch.setitem(DATASETS, name, made)


def test_the_list_says_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()[:5] in ("words", "lost ")}
    assert [rows[name][1] for name in ("words", "lost")] == ["no", "no"]
    assert "MIT" in rows["words"]
    assert f"they are kept in {tmp_path / 'cache'}" in out
    assert not (tmp_path / "cache").exists(), "a list fetches nothing"
    assert main(["data", "words"]) == 0
    assert capsys.readouterr().out == f"words: {tmp_path / 'cache/words'}\n  MIT; cite A. N. Author 1999\n"
    assert main(["data"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "some words" in line] == ["yes"]


def test_json_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "words", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cache"] == str(tmp_path / "cache")
    assert found["datasets"]["words"]["at"] == str(tmp_path / "cache/words")
    assert found["datasets"]["lost"]["at"] is None
    assert found["datasets"]["lost"]["bytes"] == len(GOOD)
    assert found["datasets"]["lost"]["from"][0]["url"].endswith("lost.tgz")


def test_what_is_here_is_not_fetched_unless_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "words"]) == 0
    kept = tmp_path / "cache/words/words.txt"
    kept.write_bytes(b"mine")
    assert main(["data", "words"]) == 0
    assert kept.read_bytes() == b"mine"
    assert main(["data", "--again", "words"]) == 0
    assert kept.read_bytes() == b"earth mover"
    capsys.readouterr()


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "lost", "words"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("barrow: lost cannot be fetched: file://")
    assert said.out.startswith(f"words: {tmp_path / 'cache/words'}\n")
    assert main(["data", "--all"]) == 2
    assert (tmp_path / "cache/words/words.txt").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["wrds"], "there are no data 'wrds', did you mean 'words'? there are words, lost"),
        (["zzzzz"], "there are no data 'zzzzz': there are words, lost"),
        (["words", "--all"], "give names or --all, not both: words --all"),
        (["--again"], "--again needs names, or --all: barrow data --again NAME"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *arguments]) == 2
    assert capsys.readouterr().err == f"barrow: {words}\n"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["file", "file/deeper", "x" * 300, "locked/deeper", "~nobody-of-that-name/cache"])
def test_a_folder_that_cannot_be_is_a_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "locked").mkdir()
    if place.startswith(("locked", "~")):
        monkeypatch.setattr(Path, "mkdir", _locked)  # whoever is root may write everywhere
    folder = place if place.startswith("~") else str(tmp_path / place)
    monkeypatch.setenv("BARROW_DATA", folder)
    assert main(["data"]) == 0
    assert f"they are kept in {folder}\n" in capsys.readouterr().out
    assert main(["data", "words"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"barrow: words cannot be kept in {re.escape(folder)}/words: [A-Z][\w ]+\n", said.err)


def _locked(path: Path, *given: object, **options: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_the_help_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("BARROW_DATA", "XDG_CACHE_HOME"))
    assert all(name in (sets.__doc__ or "") for name in ("BARROW_DATA", "XDG_CACHE_HOME"))


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path) -> None:
    """A server that never finishes, and a user who loses patience."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"""
import sys
from barrow.cli import main
from barrow.studies import data as sets
from barrow.studies.data import DATASETS, Dataset
from barrow.studies.data.cache import Source
source = Source(("http://127.0.0.1:{port}/w.tgz",), "0" * 64, 10**6, dict(a="a"))
DATASETS["words"] = Dataset("words", "the words", "some words", "MIT", "nobody", (source,))
sys.exit(main(["data", "words"]))
"""
        environment = os.environ | {"BARROW_DATA": str(tmp_path / "cache"), "no_proxy": "*"}
        with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as run:
            server.settimeout(60)
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(500_000))
                while not any((tmp_path / "cache").glob(".words.*/w.tgz")):
                    time.sleep(0.05)
                run.send_signal(signal.SIGINT)
                _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said == b"barrow: interrupted\n"
    assert list((tmp_path / "cache").iterdir()) == []
