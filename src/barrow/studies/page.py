"""Pages of HTML from what a study left: its results.json and its pictures, and nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

WIDE = 1.6  # a picture of more than this aspect gets more room than the text
DENSITY = 1.5  # pixels of a figure to one of the page, where it is shown in full size
ROOM = 1088  # pixels of a page that a picture takes at most
THUMB = 960  # pixels across, for the pictures of an index
_LETTERS = {r"<=": "≤", r">=": "≥", r"([≤≥±]) ": "\\1\u00a0", r"\bW_1\b": "W₁", r"\bW_2\b": "W₂", r"\bW_p\b": "Wₚ"}
_NUMBER = re.compile(r"[-−+<>=≤≥~≈±\[(]*\s*\d")


@final
@dataclasses.dataclass(frozen=True)
class Card:
    """A study on the index: what it found, or the sentence that says why it was not run."""

    name: str
    paper: str
    summary: str
    results: Mapping[str, Any] | None = None
    picture: bytes | None = None
    reason: str = ""


@final
@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG as a page needs it."""

    name: str
    caption: str
    uri: str
    width: int
    height: int

    @staticmethod
    def of(name: str, caption: str, png: bytes) -> Picture:
        """Width and height stand in the first chunk of every PNG."""
        width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))
        uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
        return Picture(name, caption, uri, width, height)

    @property
    def wide(self) -> bool:
        """Whether it would be too small between the margins of the text."""
        return self.width > WIDE * self.height

    @property
    def full(self) -> int:
        """Pixels of the page in full size."""
        return round(self.width / DENSITY)

    @property
    def large(self) -> bool:
        """Whether even a wide window shows less than the full size."""
        return self.full > ROOM


def report(results: Mapping[str, Any], pictures: Mapping[str, bytes], *, home: str | None = None) -> str:
    """The page of one study.

    Args:
        results: what results.json holds.
        pictures: the PNG of every figure, in the order in which they are shown.
        home: address of the index, where there is one.

    Returns:
        A page that asks for nothing else: figures, style and icon are in it.
    """
    captions = results["captions"]
    shown = [Picture.of(name, captions.get(name) or f"Figure: {name}", png) for name, png in pictures.items()]
    return _render("report.html.j2", results=results, pictures=shown, home=home, command=command(results))


def index(cards: Sequence[Card]) -> str:
    """The page of several studies, each with a link to NAME/report.html."""
    done = [card.results for card in cards if card.results is not None]
    claims = [claim for results in done for claim in results["claims"]]
    thumbs = {
        card.name: Picture.of(card.name, _first_caption(card), thumbnail(card.picture))
        for card in cards
        if card.picture is not None
    }
    return _render("index.html.j2", cards=cards, thumbs=thumbs, done=done, claims=claims)


def command(results: Mapping[str, Any]) -> str:
    """What makes these results again.

    >>> command({"study": "tags", "seed": 3, "quick": True, "data": "photos"})
    'barrow study tags --quick --seed 3 --data photos'
    """
    quick = " --quick" if results["quick"] else ""
    data = f" --data {results['data']}" if results.get("data") else ""
    return f"barrow study {results['study']}{quick} --seed {results['seed']}{data}"


def thumbnail(png: bytes) -> bytes:
    """The same picture, at most THUMB pixels across, on white."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        if image.width <= THUMB:
            return png
        plain = Image.new("RGB", image.size, "white")
        rgba = image.convert("RGBA")
        plain.paste(rgba, mask=rgba)
        size = (THUMB, max(1, round(image.height * THUMB / image.width)))
        out = io.BytesIO()
        plain.resize(size, Image.Resampling.LANCZOS).save(out, "png", optimize=True)
    return out.getvalue()


def _first_caption(card: Card) -> str:
    captions = [] if card.results is None else list(card.results["captions"].values())
    return captions[0] if captions and captions[0] else card.summary


# -- words and numbers -------------------------------------------------------------------------------------------------


def prose(text: str) -> Markup:
    r"""Text as it is printed: what stands between backticks is code, elsewhere mathematics has its own letters.

    >>> prose("``a <= b`` & W_1 <= 35")
    Markup('<code>a &lt;= b</code> &amp; W₁ ≤\xa035')
    """
    pieces = enumerate(re.split(r"(``[^`]+``|`[^`]+`)", text))
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(piece.strip("`")) if k % 2 else letters(piece) for k, piece in pieces)


def letters(text: str) -> str:
    """What a keyboard spells with several keys.

    >>> letters("W_2 >= 0")[:4]
    'W₂ ≥'
    """
    for keys, letter in _LETTERS.items():
        text = re.sub(keys, letter, text)
    return text


def sentence(text: str) -> str:
    """The first letter large.

    >>> sentence("a bump moved along a line")
    'A bump moved along a line'
    """
    return text[:1].upper() + text[1:]


def numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether most cells of a column are numbers, which are set flush right."""
    cells = [row[column] for row in rows if row[column].strip(" –—-")]
    return sum(_NUMBER.match(cell) is not None for cell in cells) > len(cells) / 2


def time(seconds: float) -> str:
    """Seconds as one would say them.

    >>> time(0.034), time(7.26), time(83.4), time(3725)
    ('0.03 s', '7.3 s', '1 min 23 s', '1 h 2 min')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _render(name: str, **given: Any) -> str:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "letters": letters, "sentence": sentence, "time": time}
    environment.globals["numeric"] = numeric
    return environment.get_template(name).render(given)


def _source(name: str) -> str:
    return resources.files("barrow.studies").joinpath("templates", name).read_text(encoding="utf-8")
