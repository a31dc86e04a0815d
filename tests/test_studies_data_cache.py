"""Where data are found: the given path, an installed copy, the cache; and what is said where they are nowhere."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from barrow.studies.data import DATASETS, cache
from barrow.studies.data.cache import Contents, Dataset, MissingData, Source
from barrow.studies.study import BadData
from packing import tar, wheel


def double(raw: Contents) -> Contents:
    return {"both.txt": raw["a.txt"] + raw["b.txt"]}


PLAIN = Dataset(
    name="plain",
    title="the plain words",
    summary="two words",
    licence="none",
    citation="nobody",
    sources=(
        Source(
            ("https://x.invalid/plain-1.tar.gz",),
            "0" * 64,
            10,
            {"carrier/d/a.txt": "a.txt", "carrier/d/b.txt": "b.txt"},
        ),
    ),
    packages=("carrier",),
)
REDUCED = Dataset(
    name="reduced",
    title="the joined words",
    summary="two words in one",
    licence="none",
    citation="nobody",
    sources=PLAIN.sources,
    files=("both.txt",),
    reduce=double,
)
TWO = Dataset(
    name="two",
    title="words of two packages",
    summary="one word each",
    licence="none",
    citation="nobody",
    sources=(
        Source(("https://x.invalid/one.tgz",), "0" * 64, 10, {"package/one.txt": "1.txt"}),
        Source(("https://x.invalid/two.whl",), "0" * 64, 10, {"m/two.txt": "2.txt"}),
    ),
)
WORDS = {"a.txt": b"earth", "b.txt": b"mover"}
ARCHIVE = tar({f"carrier/d/{name}": content for name, content in WORDS.items()})


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def put(folder: Path, files: Contents) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# -- where the cache is ------------------------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.root() == tmp_path / "cache"
    monkeypatch.setenv("BARROW_DATA", "~/earth")
    assert cache.root() == Path.home() / "earth"
    monkeypatch.setenv("BARROW_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/caches")
    assert cache.root() == Path("/some/caches/barrow")
    monkeypatch.delenv("BARROW_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache" / "barrow"


# -- where data are found ----------------------------------------------------------------------------------------------


def test_the_given_path_comes_first_then_the_package_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> bytes:
        return cache.load(PLAIN)[0]["a.txt"]

    with pytest.raises(MissingData):
        first()
    put(tmp_path / "cache/plain", {"a.txt": b"cached", "b.txt": b""})
    assert first() == b"cached"
    put(tmp_path / "site/carrier", {"__init__.py": b"raise RuntimeError('imported')"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    assert first() == b"cached", "a package without the files is none"
    put(tmp_path / "site/carrier/d", {"a.txt": b"installed", "b.txt": b""})
    assert first() == b"installed"
    assert "carrier" not in sys.modules
    given = put(tmp_path / "given", {"a.txt": b"given", "b.txt": b""})
    assert cache.load(PLAIN, given) == ({"a.txt": b"given", "b.txt": b""}, str(given))
    assert cache.present(PLAIN) == tmp_path / "site/carrier/d"


def test_one_set_of_several_is_looked_for_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert cache.within(tmp_path, "plain") == tmp_path / "plain"
    assert cache.within(tmp_path, "two") == tmp_path
    assert cache.within(None, "plain") is None


def test_a_folder_of_the_system_is_found(tmp_path: Path) -> None:
    system = dataclasses.replace(PLAIN, packages=(), folders=(str(tmp_path / "share"),))
    assert cache.present(system) is None
    put(tmp_path / "share", WORDS)
    assert cache.locate(system) == tmp_path / "share"


def test_a_finder_of_its_own_comes_before_the_cache(tmp_path: Path) -> None:
    put(tmp_path / "cache/plain", WORDS)
    for place, found in ((tmp_path / "there", tmp_path / "there"), (None, tmp_path / "cache/plain")):
        assert cache.locate(dataclasses.replace(PLAIN, search=lambda place=place: place)) == found


@pytest.mark.parametrize("level", ["carrier/d", "d", "."])
def test_an_unpacked_package_is_read_at_any_level(level: str, tmp_path: Path) -> None:
    put(tmp_path / "given" / level, WORDS)
    assert cache.load(PLAIN, tmp_path / "given")[0] == WORDS
    assert cache.load(REDUCED, tmp_path / "given")[0] == {"both.txt": b"earthmover"}


def test_an_archive_is_read_alone_and_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/plain-1.tar.gz").write_bytes(ARCHIVE)
    for data in (tmp_path / "given", tmp_path / "given/plain-1.tar.gz"):
        assert cache.load(PLAIN, data)[0] == WORDS
        assert cache.load(REDUCED, data)[0] == {"both.txt": b"earthmover"}


def test_what_is_reduced_already_is_not_reduced_again(tmp_path: Path) -> None:
    put(tmp_path / "given", {"both.txt": b"joined"})
    for data in (tmp_path / "given", tmp_path / "given/both.txt"):
        assert cache.load(REDUCED, data)[0] == {"both.txt": b"joined"}


def test_two_packages_are_read_from_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "given", {"one.tgz": tar({"package/one.txt": b"I"}), "m/two.txt": b"II"})
    assert cache.load(TWO, tmp_path / "given")[0] == {"1.txt": b"I", "2.txt": b"II"}
    put(tmp_path / "both", {"one.tgz": tar({"package/one.txt": b"I"}), "two.whl": wheel({"m/two.txt": b"II"})})
    assert cache.load(TWO, tmp_path / "both")[0] == {"1.txt": b"I", "2.txt": b"II"}
    with pytest.raises(BadData, match=r"it is one file: give a folder with one\.tgz and two\.whl$"):
        cache.load(TWO, tmp_path / "both/one.tgz")


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_missing_names_the_command(name: str) -> None:
    dataset = DATASETS[name]
    said = str(dataset.missing())
    assert said == f"this machine does not have {dataset.title}: run `barrow data {name}`, or give --data"
    assert isinstance(dataset.missing(), BadData)


def test_what_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"nothing does not exist: give plain-1\.tar\.gz, or leave it out$"):
        cache.load(PLAIN, tmp_path / "nothing")
    with pytest.raises(
        BadData, match=r"cannot be read as the plain words: it holds neither a\.txt nor plain-1\.tar\.gz$"
    ):
        cache.load(PLAIN, tmp_path)
    (tmp_path / "plain-1.tar.gz").write_bytes(ARCHIVE[:-30])
    with pytest.raises(BadData, match=r"plain-1\.tar\.gz cannot be read as the plain words: it is no whole archive"):
        cache.load(PLAIN, tmp_path / "plain-1.tar.gz")
    put(tmp_path / "cache/reduced", {"both.txt": b"x"})
    error = cache.unreadable(tmp_path / "cache/reduced", REDUCED, ValueError("it is empty."))
    assert str(error).endswith("as the joined words: it is empty; fetch it again: barrow data --again reduced")


# -- what is declared --------------------------------------------------------------------------------------------------


def test_every_set_of_data_is_declared_whole() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert all((dataset.title, dataset.summary, dataset.licence, dataset.citation))
        for source in dataset.sources:
            assert len(source.sha256) == 64
            assert source.size > 1000
            assert all(
                url.startswith(("https://", "http://deb.debian.org/", "http://snapshot.debian.org/"))
                for url in source.urls
            )
            assert len({url.rpartition("/")[2] for url in source.urls}) == 1
        raw = [kept for source in dataset.sources for kept in source.members.values()]
        assert len(set(raw)) == len(raw)
        assert (dataset.reduce is None) == (dataset.files == ())
