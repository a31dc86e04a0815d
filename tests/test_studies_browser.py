"""The pages as a browser shows them: nothing complained of, nothing asked for, nothing wider than the window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import browser
import fakes
from barrow.cli import main
from barrow.studies import BadData, Outcome, Work

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium here")

SIZES = [(1280, False), (1280, True), (375, False), (375, True), (360, False)]


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Browser]:
    opened = browser.Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of studies, as the command leaves it: one refuted, one with nothing to show, one that was not run."""

    def study(work: Work) -> Outcome:
        fakes.throws(work)
        return fakes.outcome()

    def bare(work: Work) -> Outcome:
        return Outcome((), {}, {})

    def missing(work: Work) -> Outcome:
        raise BadData("there is no belt in /a/path/" + "so_long_that_it_must_be_broken_somewhere/" * 4)

    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch, {"study": study, "bare": bare, "missing": missing})
        assert main(["study", "--all", "--report", str(folder)]) == 2
    return {name: folder / name for name in ("study/report.html", "bare/report.html", "index.html")}


def overflows(tab: browser.Browser) -> Any:
    """What reaches out of the window, other than inside of a box that scrolls."""
    return tab.ask(
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5"
        " && !e.parentElement.closest('.scroll, .sheet, .run')).map(e => e.tagName + '.' + e.className)"
    )


def judge(tab: browser.Browser) -> None:
    """Everything that is asked of every page."""
    assert tab.complaints == []
    assert tab.requests == []
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    assert overflows(tab) == []
    assert tab.ask(
        "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.width > 100 && i.height > 20"
        " && i.getBoundingClientRect().left >= 0 && i.getBoundingClientRect().right <= innerWidth && i.alt)"
    )
    sizes = tab.ask("[...document.querySelectorAll('body *')].map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= 13
    words = tab.ask(
        "[...document.querySelectorAll('p, dd, td, li, h1')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(words) >= 14


@pytest.mark.parametrize(("width", "dark"), SIZES)
@pytest.mark.parametrize("name", ["study/report.html", "bare/report.html", "index.html"])
def test_a_page_in_a_window(tab: browser.Browser, pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    tab.open(pages[name], width=width, dark=dark)
    assert tab.ask("innerWidth") == width
    judge(tab)


def test_there_is_something_to_see(tab: browser.Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["study/report.html"])
    assert tab.ask("document.images.length") == 2
    assert tab.ask("document.querySelectorAll('.claims li').length") == 2
    tab.open(pages["index.html"])
    assert tab.ask("document.images.length") == 1
    assert tab.ask("document.querySelectorAll('.card').length") == 3


def contrast(tab: browser.Browser, selector: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of the letters and what is behind them, as WCAG 2.2 defines it."""
    value = tab.ask(
        f"""(() => {{
        const light = c => {{
            const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3)
                .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }};
        const e = document.querySelector({selector!r});
        let behind = e;
        while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        const [a, b] = [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor].map(light);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }})()"""
    )
    return float(value)


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_by_day_and_night(tab: browser.Browser, pages: dict[str, Path], dark: bool) -> None:
    tab.open(pages["study/report.html"], dark=dark)
    for what in (
        "h1",
        ".paper",
        ".lead",
        ".mark.good",
        ".mark.bad",
        ".kicker a",
        "figcaption",
        "thead th",
        "tbody td",
        "dt",
    ):
        assert contrast(tab, what) >= 4.5, what
    assert tab.ask("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 27)" if dark else "rgb(252, 252, 251)"
    )
    assert tab.ask("getComputedStyle(document.querySelector('.sheet')).backgroundColor") == "rgb(255, 255, 255)"


def test_tables_and_large_figures_scroll_in_their_own_boxes(tab: browser.Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["study/report.html"], width=375)
    assert tab.ask("(b => b.scrollWidth > b.clientWidth)(document.querySelector('.scroll'))")
    sheet = "document.querySelector('.sheet')"
    assert tab.ask(f"{sheet}.scrollWidth <= {sheet}.clientWidth")
    tab.ask("document.querySelector('.zoom input').click()")
    assert tab.ask(f"{sheet}.scrollWidth > 2 * {sheet}.clientWidth")
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")


SPOIL: dict[str, Callable[[str], str]] = {
    "a picture that is none": lambda html: html.replace("base64,iVBOR", "base64,iVBOS"),
    "a picture from elsewhere": lambda html: html.replace('src="data:image/png', 'src="http://127.0.0.1:9/x.png#', 1),
    "a script": lambda html: html.replace("</main>", "<script>console.log(1)</script></main>"),
    "something wide": lambda html: html.replace("</main>", "<p style='width: 2000px'>wide</p></main>"),
    "a table that does not scroll": lambda html: html.replace('class="scroll"', 'class="scrol"'),
    "small print": lambda html: html.replace("</main>", "<p style='font-size: 10px'>small</p></main>"),
}


@pytest.mark.parametrize("how", SPOIL)
def test_a_spoilt_page_is_noticed(tab: browser.Browser, pages: dict[str, Path], tmp_path: Path, how: str) -> None:
    html = pages["study/report.html"].read_text()
    spoilt = SPOIL[how](html)
    assert spoilt != html
    (tmp_path / "spoilt.html").write_text(spoilt)
    tab.open(tmp_path / "spoilt.html", width=375)
    with pytest.raises(AssertionError):
        judge(tab)
