"""Rated texts: histograms that add up, ids that join, damage that is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from barrow.studies.data import cache, vader
from barrow.studies.study import BadData
from packing import tar

STEMS = ("tweets", "amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets")


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def files() -> dict[str, bytes]:
    """Two texts a domain, the ratings in another order, a byte-order mark, a form feed, odd bytes."""
    made = {}
    for k, stem in enumerate(STEMS):
        made[f"{stem}_GroundTruth.txt"] = b"1_1\t0.5\tGood \x0c day\r\n1_2\t-4\tb\xe9d " + str(k).encode() + b"\r\n"
        made[f"{stem}_anonDataRatings.txt"] = b"\xef\xbb\xbf1_2\t-4\t0.0\t[-4, -4]\r\n1_1\t0.5\t1.5\t[4, 0, -1, -1]\r\n"
    return made


def put(folder: Path, made: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def test_texts_and_ratings_are_joined_by_id(tmp_path: Path) -> None:
    found = vader.find(put(tmp_path / "given", files()))
    assert list(found.domains) == ["tweets", "amazon", "movie", "nyt"]
    for k, domain in enumerate(found.domains.values()):
        assert len(domain) == 2
        assert domain.texts == ("Good \x0c day", f"b\ufffdd {k}")
        assert domain.ids == ("1", "1")
        assert domain.histograms.dtype == torch.float32
        assert domain.histograms.tolist() == [[0, 0, 0, 2, 1, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0, 0, 0, 0]]
        assert domain.raters.tolist() == [4, 2]
        assert domain.shares.tolist() == [[0, 0, 0, 0.5, 0.25, 0, 0, 0, 0.25], [1, 0, 0, 0, 0, 0, 0, 0, 0]]
        assert domain.means.tolist() == [0.5, -4]
    assert found["nyt"].name == "nyt"
    assert found.source == f"VADER, 8 rated texts of {tmp_path / 'given'}"


def test_texts_know_their_sources(tmp_path: Path) -> None:
    texts = b"1_1\t0\ta\r\n1_10\t0\tb\r\n10_2\t0\tc\r\n3\t0\td\r\n4\t0\te\r\n"
    ratings = b"".join(key + b"\t0\t0\t[0]\r\n" for key in (b"4", b"3", b"10_2", b"1_10", b"1_1"))
    stem = "nytEditorialSnippets"
    made = files() | {f"{stem}_GroundTruth.txt": texts, f"{stem}_anonDataRatings.txt": ratings}
    assert vader.find(put(tmp_path / "given", made))["nyt"].ids == ("1", "1", "10", "3", "4")


def test_the_package_the_tar_in_it_and_the_cache_are_read(tmp_path: Path) -> None:
    inner = tar({f"hutto_ICWSM_2014/{name}": content for name, content in files().items()})
    outer = tar({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    put(tmp_path / "given", {"hutto_ICWSM_2014.tar.gz": inner, "vaderSentiment-3.3.2.tar.gz": outer})
    put(tmp_path / "alone", {"renamed.tar.gz": outer})
    put(tmp_path / "cache/vader", files())
    for data in (*(tmp_path / "given").iterdir(), tmp_path / "given", tmp_path / "alone/renamed.tar.gz", None):
        assert vader.find(data)["tweets"].means.tolist() == [0.5, -4]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tweets_GroundTruth.txt", b"1_1\t0.5\tGood\r\n", "tweets: the id 1_2 has a text or ratings, but not both"),
        (
            "tweets_anonDataRatings.txt",
            b"1_1\t0.5\t1\t[5]\r\n1_2\t0\t0\t[1]",
            r"the ratings of 1_1 are no list of grades",
        ),
        (
            "tweets_anonDataRatings.txt",
            b"1_1\t0.5\t1\t[]\r\n1_2\t0\t0\t[1]",
            r"the ratings of 1_1 are no list of grades",
        ),
        ("tweets_anonDataRatings.txt", b"1_1\t0.5\t1\t[1.5]\r\n", r"the ratings of 1_1 are no list of grades"),
        (
            "movieReviewSnippets_anonDataRatings.txt",
            b"1_1\t0.5\t[1]\r\n",
            r"movieReviewSnippets: row 1 has 3 cells, not 4",
        ),
        ("nytEditorialSnippets_GroundTruth.txt", b"\r\n", r"nytEditorialSnippets: row 1 has 1 cells, not 3"),
    ],
)
def test_damage_is_refused_in_a_sentence(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "given", files() | {name: content})
    with pytest.raises(BadData, match=rf"given cannot be read as the ratings of VADER: .*{words}"):
        vader.find(folder)


def test_empty_files_are_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "given", files() | {"tweets_GroundTruth.txt": b"", "tweets_anonDataRatings.txt": b""})
    with pytest.raises(BadData, match="tweets: it is empty"):
        vader.find(folder)


def test_the_command_is_named() -> None:
    with pytest.raises(BadData, match=r"^this machine does not have the ratings of VADER: run `barrow data vader`"):
        vader.find()


def test_the_real_ratings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if cache.present(vader.DATASET) is None:
        pytest.skip("VADER is not on this machine: barrow data vader")
    found = vader.find()
    assert {name: len(domain) for name, domain in found.domains.items()} == {
        "tweets": 4200, "amazon": 3708, "movie": 10605, "nyt": 5190,
    }  # fmt: skip
    assert {name: len(set(domain.ids)) for name, domain in found.domains.items()} == {
        "tweets": 4200, "amazon": 300, "movie": 10605, "nyt": 498,
    }  # fmt: skip
    assert found["tweets"].histograms[0].tolist() == [1, 0, 0, 0, 0, 4, 33, 35, 22]
    assert [int(d.raters.min()) for d in found.domains.values()] == [20, 20, 15, 20]
    assert [int(d.raters.max()) for d in found.domains.values()] == [99, 20, 29, 20]
