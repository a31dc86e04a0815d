"""The nouns of WordNet: found, and of the right version."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from barrow.cost import wordnet as nouns
from barrow.studies.data import cache, wordnet
from barrow.studies.data.cache import MissingData
from barrow.studies.study import BadData

TOP = b"  1 This software and database\n  2 WordNet 3.0 Copyright 2006 by Princeton University.\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without WordNet."""
    for variable in ("WNHOME", "WNSEARCHDIR", "NLTK_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(nouns, "SHARED", tmp_path / "share")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))


def put(path: Path, content: bytes = TOP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_file_is_found_where_it_is(tmp_path: Path) -> None:
    given, cached = put(tmp_path / "given/data.noun"), put(tmp_path / "cache/wordnet/data.noun")
    assert wordnet.find(tmp_path / "given") == given
    assert wordnet.find(given) == given
    assert wordnet.find() == cached
    assert cache.present(wordnet.DATASET) == cached.parent


def test_it_is_looked_for_where_trees_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cache/wordnet/data.noun")
    archive = tmp_path / "home/nltk_data/corpora/wordnet.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("wordnet/data.noun", TOP)
    assert wordnet.find() == nouns.find(None) == archive
    assert cache.present(wordnet.DATASET) == archive
    shared = put(tmp_path / "share/wordnet/data.noun")
    assert wordnet.find() == nouns.find(None) == shared
    monkeypatch.setenv("WNHOME", str(tmp_path / "WordNet"))
    own = put(tmp_path / "WordNet/dict/data.noun")
    assert wordnet.find() == nouns.find(None) == own


def test_other_versions_and_damage_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "new"))
    put(tmp_path / "new/data.noun", TOP.replace(b"3.0", b"3.1"))
    put(tmp_path / "home/nltk_data/corpora/wordnet.zip", b"PK")
    with pytest.raises(MissingData, match="run `barrow data wordnet`"):
        wordnet.find()
    assert cache.present(wordnet.DATASET) is None
    cached = put(tmp_path / "cache/wordnet/data.noun")
    assert wordnet.find() == cached
    put(cached, b"")
    with pytest.raises(BadData, match=r"it is something else; fetch it again: barrow data --again wordnet$"):
        wordnet.find()


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"data\.noun does not exist: data must name WordNet's data\.noun or its folder"):
        wordnet.find(tmp_path)
    put(tmp_path / "data.noun", TOP.replace(b"3.0", b"3.1"))
    with pytest.raises(BadData, match=r"cannot be read as the nouns of WordNet 3\.0: it is WordNet 3\.1$"):
        wordnet.find(tmp_path)
    archive = put(tmp_path / "wordnet.zip", b"PK")
    with pytest.raises(BadData, match=r"cannot be read as the nouns of WordNet 3\.0: .* is no whole archive"):
        wordnet.find(archive)
    with pytest.raises(MissingData, match="run `barrow data wordnet`"):
        wordnet.find()


def test_the_real_nouns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(wordnet.DATASET) is None:
        pytest.skip("WordNet is not on this machine: barrow data wordnet")
    assert sum(line[:1] != b" " for line in wordnet.find().read_bytes().splitlines()) == 82115
