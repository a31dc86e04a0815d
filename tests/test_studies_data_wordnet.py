"""The nouns of WordNet: found, and of the right version."""

from __future__ import annotations

from pathlib import Path

import pytest

from barrow.studies.data import cache, wordnet
from barrow.studies.study import BadData

TOP = b"  1 This software and database\n  2 WordNet 3.0 Copyright 2006 by Princeton University.\n"


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def test_the_file_is_found_where_it_is(tmp_path: Path) -> None:
    for folder in (tmp_path / "given", tmp_path / "cache/wordnet"):
        folder.mkdir(parents=True)
        (folder / "data.noun").write_bytes(TOP)
    assert wordnet.find(tmp_path / "given") == tmp_path / "given/data.noun"
    assert wordnet.find(tmp_path / "given/data.noun") == tmp_path / "given/data.noun"
    assert wordnet.find() in (tmp_path / "cache/wordnet/data.noun", Path("/usr/share/wordnet/data.noun"))


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"data\.noun cannot be read as the nouns of WordNet 3\.0: No such file"):
        wordnet.find(tmp_path)
    (tmp_path / "data.noun").write_bytes(TOP.replace(b"3.0", b"3.1"))
    with pytest.raises(BadData, match=r"it does not begin as data\.noun of version 3\.0 does$"):
        wordnet.find(tmp_path)
    if not Path("/usr/share/wordnet/data.noun").exists():
        with pytest.raises(BadData, match="run `barrow data wordnet`"):
            wordnet.find()


def test_the_real_nouns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(wordnet.DATASET) is None:
        pytest.skip("WordNet is not on this machine: barrow data wordnet")
    assert sum(line[:1] != b" " for line in wordnet.find().read_bytes().splitlines()) == 82115
