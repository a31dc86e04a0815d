"""Pages from results and pixels alone: all that was found is there, once, escaped, and nothing is asked of anybody."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from PIL import Image

import fakes
from barrow.cli import files, results
from barrow.studies import Study, Work, page
from barrow.studies.page import Card, Picture


def png(width: int = 60, height: int = 20, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 50).convert(mode).save(out, "png")
    return out.getvalue()


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What results.json holds for the fake."""
    fakes.install(monkeypatch, {"fake": lambda _: fakes.outcome()})
    work = Work(seed=3, quick=True)
    fakes.throws(work)
    study = Study("fake", "The paper & its authors 2015", "what it is about: W_1 <= 35")
    kept = results.gather(study, fakes.outcome(), work, 83.4)
    return json.loads(json.dumps(files.finite(kept)))  # type: ignore[no-any-return]


PICTURES = {"errors": png(160, 40), "a_face": png(40, 50)}


class Reader(HTMLParser):
    """Tags that were opened and closed, attributes, and the words outside of the style."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.words)


# -- the page of one study ---------------------------------------------------------------------------------------------


def test_everything_is_on_the_page(found: dict[str, Any]) -> None:
    text = Reader(page.report(found, PICTURES)).text
    for said in (
        "What it is about: W₁ ≤ 35", "The paper & its authors 2015", "1 of 2 claims hold", "seed 3", "1 min 23 s",
        "How far is it from a < b to W₁ ≤ 35?", "Nobody knows & nobody asks: <script>alert(1)</script>.",
        "One is ≤ two", "One is two <b>always</b>", "2 ± 0.1", "1.000 & no more", "2.0, read off figure 4",
        "Left, what was expected; right, what W₁ says.", "Error by loss", "-0.250 ± 0.010",
        "small digits; barrow data mnist fetches the real ones", "barrow study fake --quick --seed 3",
        "This is the quick form", "4 parts and the time that each took", "throw 3", found["machine"]["cpu"],
        f"torch {found['versions']['torch']}",
    ):  # fmt: skip
        assert said in text, said
    assert len(re.findall(r"\bholds\b", text)) == 1
    assert text.count("does not hold ") == 2  # the claim, and the last line


def test_what_is_not_there_is_not_spoken_of(found: dict[str, Any]) -> None:
    bare = {**found, "quick": False, "tables": {}, "sources": [], "captions": {}, "essay": [], "claims": []}
    bare["seconds"] = {"all": 2.0, "parts": {}}
    text = Reader(page.report(bare, {})).text
    for unsaid in ("quick form", "Table", "Figure", "Data", "part", "in the paper", "barrow studies"):
        assert unsaid not in text
    assert "0 of 0 claims hold" in text


def test_nothing_is_written_as_markup_that_was_said(found: dict[str, Any]) -> None:
    nasty = '"><img src=x onerror=alert(1)>{{ 7 * 7 }}'

    def spoil(thing: Any) -> Any:
        if isinstance(thing, dict):
            return {key: spoil(value) for key, value in thing.items()}
        if isinstance(thing, list):
            return [spoil(value) for value in thing]
        return thing + nasty if isinstance(thing, str) else thing

    spoilt = spoil({**found, "study": "fake"})
    spoilt["tables"][nasty] = {"columns": [nasty], "rows": [[nasty]]}
    spoilt["seconds"]["parts"][nasty] = 1.0
    good, bad = Reader(page.report(found, PICTURES)), Reader(page.report(spoilt, {**PICTURES, nasty: png()}))
    assert {attribute for _, given in bad.tags for attribute in given} == {
        attribute for _, given in good.tags for attribute in given
    }
    assert {tag for tag, _ in bad.tags} == {tag for tag, _ in good.tags}
    assert "49" not in bad.text
    cards = [Card(nasty, nasty, nasty, reason=nasty), Card("fake", nasty, nasty, spoilt, png())]
    assert not any("onerror" in given for _, given in Reader(page.index(cards)).tags)


def test_the_page_is_alone_in_the_world(found: dict[str, Any]) -> None:
    for html in (page.report(found, PICTURES), page.index([Card("fake", "p", "s", found, PICTURES["errors"])])):
        read = Reader(html)
        for given in (given for _, given in read.tags):
            for name in ("src", "href", "srcset", "action"):
                address = given.get(name) or "#"
                assert address.startswith(("data:", "#")) or address == "fake/report.html"
        assert "url(" not in html
        assert "@import" not in html
        assert read.all("script") == []
        policy = next(m["content"] for m in read.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_are_the_pixels_that_were_given(found: dict[str, Any]) -> None:
    read = Reader(page.report(found, PICTURES))
    wide, tall = read.all("img")
    assert (wide["width"], wide["height"], tall["width"], tall["height"]) == ("160", "40", "40", "50")
    assert wide["alt"] == "Left, what was expected; right, what W₁ says."
    assert tall["alt"] == "Figure: a_face"
    assert wide["src"] == Picture.of("errors", "", PICTURES["errors"]).uri
    assert ["wide" in str(given["class"]) for given in read.all("figure")] == [True, False]


def test_a_page_is_a_page(found: dict[str, Any]) -> None:
    for html in (page.report(found, PICTURES, home="../index.html"), page.index([Card("a", "b", "c", reason="d")])):
        read = Reader(html)
        assert html.startswith("<!DOCTYPE html>")
        assert read.all("html") == [{"lang": "en"}]
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all("meta")
        assert len(read.all("h1")) == len(read.all("title")) == len(read.all("main")) == 1
        ids = [given["id"] for _, given in read.tags if "id" in given]
        assert len(ids) == len(set(ids))
        aims = [str(given["href"])[1:] for given in read.all("a") if str(given["href"]).startswith("#")]
        aims += [given["aria-labelledby"] or "" for _, given in read.tags if "aria-labelledby" in given]
        assert set(aims) <= set(ids)
    assert Reader(page.report(found, PICTURES, home="../index.html")).all("a")[0]["href"] == "../index.html"


def test_the_same_results_give_the_same_page(found: dict[str, Any]) -> None:
    before = copy.deepcopy(found)
    assert page.report(found, PICTURES) == page.report(found, PICTURES)
    assert found == before


def test_results_that_lack_something_are_not_a_page(found: dict[str, Any]) -> None:
    del found["sources"]
    with pytest.raises(Exception, match="sources"):
        page.report(found, PICTURES)


# -- the page of all studies -------------------------------------------------------------------------------------------


def test_a_card_a_study(found: dict[str, Any]) -> None:
    good = {**found, "claims": found["claims"][:1], "quick": False}
    cards = [
        Card("first", "paper one", "what one is about", good, PICTURES["errors"]),
        Card("second", "paper two", "what two is about", found),
        Card("third", "paper three", "what three is about", reason="the belt is missing: ``barrow data belt``"),
    ]
    read = Reader(page.index(cards))
    for said in ("2 of 3 claims hold", "2 of 3 studies were run", "1 of 1 claims hold", "1 of 2 claims hold",
                 "What one is about", "Paper two", "not run", "the belt is missing: barrow data belt"):  # fmt: skip
        assert said in read.text, said
    assert [given["href"] for given in read.all("a")] == ["first/report.html"] * 2 + ["second/report.html"]
    assert len(read.all("img")) == 1
    assert read.text.count("quick form") == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_thumbnails_are_smaller_and_alike(mode: str) -> None:
    little = png(300, 200, mode)
    assert page.thumbnail(little) is little
    large = png(2400, 500, mode)
    small = page.thumbnail(large)
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("PNG", (960, 200))
    assert len(small) < len(large)


def test_thumbnails_of_what_is_transparent_are_white() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (2000, 100), (0, 0, 0, 0)).save(out, "png")
    with Image.open(io.BytesIO(page.thumbnail(out.getvalue()))) as image:
        assert image.convert("RGB").getextrema() == ((255, 255),) * 3


# -- words and numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2.5", "-3"], True),
        (["−0.5 ± 0.1", "≤ 3", "–"], True),
        (["[0.1, 0.2]", "(3)", ""], True),
        (["KL", "EMD", "1"], False),
        (["W1", "L2"], False),
        ([], False),
    ],
)
def test_numbers_are_known_by_their_looks(cells: list[str], expected: bool) -> None:
    assert page.numeric([["name", cell] for cell in cells], 1) is expected


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.00 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (3599.6, "1 h 0 min"), (7322, "2 h 2 min")],
)
def test_times_as_one_says_them(seconds: float, said: str) -> None:
    assert page.time(seconds) == said


def test_the_templates_travel_with_the_package() -> None:
    names = {path.name for path in resources.files("barrow.studies").joinpath("templates").iterdir()}
    assert {"base.html.j2", "style.css.j2", "report.html.j2", "index.html.j2"} <= names
