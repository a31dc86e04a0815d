"""Fetching: whole or not at all, and a sentence for everything that goes wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from barrow.studies.data import FetchError, cache, fetch
from barrow.studies.data.cache import Contents, Dataset, Source
from packing import tar

WORDS = {"package/words.txt": b"earth mover " * 90_000}
GOOD = tar(WORDS, "")
Told = list[tuple[str, int, int]]


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Shelf(http.server.BaseHTTPRequestHandler):
    """Serves /good.tar, and /short.tar, which promises more than it gives."""

    content = GOOD

    def do_GET(self) -> None:
        if self.path not in ("/good.tar", "/short.tar"):
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content if self.path == "/good.tar" else self.content[:5000])

    def log_message(self, format: str, *args: object) -> None:
        """Not a word."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as shelf:
        thread = threading.Thread(target=shelf.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{shelf.server_address[1]}"
        shelf.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def declared(*urls: str, content: bytes = GOOD, reduce: Callable[[Contents], Contents] | None = None) -> Dataset:
    source = Source(urls, hashlib.sha256(content).hexdigest(), len(content), {"package/words.txt": "words.txt"})
    files = () if reduce is None else ("made.txt",)
    return Dataset("words", "the words", "two words", "free", "A. N. Author 1999", (source,), files, reduce)


def left(tmp_path: Path) -> list[str]:
    """All files of the cache, hidden ones too."""
    return sorted(str(p.relative_to(tmp_path / "cache")) for p in (tmp_path / "cache").rglob("*") if p.is_file())


# -- what goes right ---------------------------------------------------------------------------------------------------


def test_what_is_needed_is_kept_and_the_rest_is_dropped(server: str, tmp_path: Path) -> None:
    told: Told = []
    dataset = declared(f"{server}/good.tar")
    assert cache.present(dataset) is None
    folder = fetch(dataset, lambda *what: told.append(what))
    assert folder == tmp_path / "cache/words" == cache.present(dataset)
    assert left(tmp_path) == ["words/ABOUT.txt", "words/words.txt"]
    assert (folder / "words.txt").read_bytes() == WORDS["package/words.txt"]
    about = (folder / "ABOUT.txt").read_text()
    assert all(part in about for part in ("two words", "free", "A. N. Author", server, dataset.sources[0].sha256))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["words"]
    done = [d for _, d, _ in told]
    assert done == sorted(done)
    assert len(done) > 3
    assert done[-1] == len(GOOD)
    assert {total for _, _, total in told} == {len(GOOD)}
    assert told[-1][0] == "words: unpacking"
    assert {what.partition(":")[0] for what, _, _ in told} == {"words"}


def test_a_file_address_works_as_well(tmp_path: Path) -> None:
    (tmp_path / "good.tar").write_bytes(GOOD)
    folder = fetch(declared((tmp_path / "good.tar").as_uri()), silent)
    assert (folder / "words.txt").read_bytes() == WORDS["package/words.txt"]


def test_what_is_kept_may_be_reduced(server: str, tmp_path: Path) -> None:
    fetch(declared(f"{server}/good.tar", reduce=lambda raw: {"made.txt": raw["words.txt"][:5]}), silent)
    assert left(tmp_path) == ["words/ABOUT.txt", "words/made.txt"]
    assert (tmp_path / "cache/words/made.txt").read_bytes() == b"earth"


def test_the_next_mirror_is_tried(server: str, tmp_path: Path) -> None:
    fetch(declared(f"{server}/none.tar", f"{server}/short.tar", f"{server}/good.tar"), silent)
    assert left(tmp_path) == ["words/ABOUT.txt", "words/words.txt"]


def test_a_new_copy_replaces_the_old_one(server: str, tmp_path: Path) -> None:
    old = tmp_path / "cache/words"
    old.mkdir(parents=True)
    (old / "words.txt").write_bytes(b"damaged")
    (old / "more.txt").write_bytes(b"of an older version")
    fetch(declared(f"{server}/good.tar"), silent)
    assert left(tmp_path) == ["words/ABOUT.txt", "words/words.txt"]


def test_two_packages_count_as_one_download(server: str) -> None:
    told: Told = []
    (source,) = declared(f"{server}/good.tar").sources
    other = dataclasses.replace(source, members={"package/words.txt": "again.txt"})
    dataset = dataclasses.replace(declared(), sources=(source, other))
    fetch(dataset, lambda *what: told.append(what))
    done = [d for _, d, _ in told]
    assert done == sorted(done)
    assert done[-1] == 2 * len(GOOD)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_what_goes_wrong_is_a_sentence_and_leaves_nothing(server: str, tmp_path: Path) -> None:
    other = declared(f"{server}/good.tar", content=GOOD[:-1] + b"x")
    longer = declared(f"{server}/good.tar", content=GOOD[:-5])
    for dataset, words in (
        (declared(f"{server}/none.tar"), r"none\.tar answered 404 Not Found"),
        (declared(f"{server}/short.tar"), rf"short\.tar was cut off after 5000 of {len(GOOD)} bytes"),
        (other, r"good\.tar is not the file it was: its SHA-256 is not [0-9a-f]{64}"),
        (longer, r"good\.tar is not the file it was"),
        (declared("http://127.0.0.1:9/good.tar"), r"good\.tar is out of reach: .*refused"),
        (declared((tmp_path / "none.tar").as_uri()), r"none\.tar is out of reach: .*No such file"),
    ):
        with pytest.raises(FetchError, match=f"^words cannot be fetched: .*{words}") as caught:
            fetch(dataset, silent)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(f"(with {dataset.sources[0].archive} from elsewhere, give the study --data)")
        assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_without_the_file_is_refused(server: str, tmp_path: Path) -> None:
    (source,) = declared(f"{server}/good.tar").sources
    dataset = dataclasses.replace(declared(), sources=(dataclasses.replace(source, members={"package/none": "none"}),))
    with pytest.raises(FetchError, match=r"^words: good\.tar is not as expected: it lacks package/none$"):
        fetch(dataset, silent)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("when", [1, 3])
def test_an_interrupted_fetch_leaves_what_was_there(when: int, server: str, tmp_path: Path) -> None:
    old = tmp_path / "cache/words"
    old.mkdir(parents=True)
    (old / "words.txt").write_bytes(b"old")
    calls = 0

    def interrupt(what: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(declared(f"{server}/good.tar"), interrupt)
    assert left(tmp_path) == ["words/words.txt"]
    assert (old / "words.txt").read_bytes() == b"old"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["words"]


def test_what_a_killed_fetch_left_is_swept_a_day_later(server: str, tmp_path: Path) -> None:
    old, young = tmp_path / "cache/.words.old", tmp_path / "cache/.words.young"
    for aside in (old, young):
        aside.mkdir(parents=True)
        (aside / "half").write_bytes(b"ear")
    os.utime(old, (0, 0))
    fetch(declared(f"{server}/good.tar"), silent)
    assert left(tmp_path) == [".words.young/half", "words/ABOUT.txt", "words/words.txt"]


def test_a_cache_that_cannot_be_written_is_named(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "file/cache"))
    with pytest.raises(FetchError, match=r"^words cannot be kept in .*file/cache/words: Not a directory$"):
        fetch(declared(f"{server}/good.tar"), silent)


def test_a_full_disk_is_not_taken_for_the_network(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(what: str, done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FetchError, match=r"^words cannot be kept in .*: No space left on device$"):
        fetch(declared(f"{server}/good.tar", f"{server}/good.tar"), full)
