"""Emoji as two vendors draw them, with Unicode's groups and with keywords: small colour images with a hierarchy."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from barrow.studies.data import cache
from barrow.studies.data.cache import Contents, Dataset, Source
from barrow.studies.study import need

VENDORS, SIZES = ("google", "twitter"), (16, 32)
NAMES, KEYWORDS = "emoji_pretty.json", "native.json"
FLAGS = "Flags"
_KEYWORDS = Source(
    ("https://registry.npmjs.org/@emoji-mart/data/-/data-1.2.1.tgz",),
    "93899f6e12097a8842fb63d8b84b3d68f7ef2bbe625735a2f5d48bfc33237c2c",
    5385091,
    {"package/sets/15/native.json": KEYWORDS},
)


def _drawings(vendor: str, sha256: str, size: int) -> Source:
    package = f"emoji-datasource-{vendor}"
    sheets = {f"package/img/{vendor}/sheets/{side}.png": f"{side}.png" for side in SIZES}
    return Source(
        (f"https://registry.npmjs.org/{package}/-/{package}-16.0.0.tgz",),
        sha256,
        size,
        {f"package/{NAMES}": NAMES, **sheets},
    )


_CITATION = "Unicode emoji 16.0; emoji-datasource 16.0.0; keywords of @emoji-mart/data 1.2.1"
DATASETS = {
    "google": Dataset(
        name="emoji",
        title="the emoji as Google draws them",
        summary="1,906 emoji as Google (Noto) draws them, 16 and 32 pixels wide; 9 groups, 98 subgroups, keywords",
        licence="Apache-2.0 (drawings); MIT (names, groups, keywords)",
        citation=_CITATION,
        sources=(
            _drawings("google", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438", 74344091),
            _KEYWORDS,
        ),
    ),
    "twitter": Dataset(
        name="emoji-twitter",
        title="the emoji as Twitter draws them",
        summary="the same emoji as Twitter (Twemoji) draws them",
        licence="CC-BY 4.0 (drawings); MIT (names, groups, keywords)",
        citation=_CITATION,
        sources=(
            _drawings("twitter", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877", 61683754),
            _KEYWORDS,
        ),
    ),
}


@final
@dataclasses.dataclass(frozen=True)
class Emoji:
    """Images (n, 3, side, side) in [0, 1] on white, and what each shows.

    ``labels`` (n,) point into ``groups`` and ``sublabels`` (n,) into ``subgroups``; subgroup ``s`` belongs to the group
    ``parents[s]``. ``keywords`` are lower-case words and some emoticons; a few emoji have none. Order and ``codes`` are
    the same for both vendors: image k of one is the counterpart of image k of the other.
    """

    images: Tensor
    codes: tuple[str, ...]
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    labels: Tensor
    sublabels: Tensor
    groups: tuple[str, ...]
    subgroups: tuple[str, ...]
    parents: tuple[int, ...]
    source: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def flags(self) -> Tensor:
        """Which of them are flags, (n,): a seventh, hard to tell apart, and tagged with the names of countries."""
        if FLAGS not in self.groups:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.labels == self.groups.index(FLAGS)

    def tagged(self, at_least: int) -> tuple[tuple[str, ...], Tensor]:
        """Keywords that so many emoji have or more, the most frequent first, and who has which: (n, tags), 0 or 1.

        Flags do not count and have no tags.
        """
        plain = [() if flag else words for flag, words in zip(self.flags.tolist(), self.keywords, strict=True)]
        counts = collections.Counter(word for words in plain for word in words)
        tags = tuple(sorted((w for w, k in counts.items() if k >= at_least), key=lambda w: (-counts[w], w)))
        column = {word: k for k, word in enumerate(tags)}
        table = torch.zeros(len(self), len(tags))
        for row, words in enumerate(plain):
            table[row, [column[word] for word in words if word in column]] = 1
        return tags, table


def find(vendor: str = "google", size: int = 16, data: Path | None = None) -> Emoji:
    """Emoji of one vendor, ``size`` pixels wide: from ``data``, a folder that holds both packages or what is in them,
    else from the cache.

    The five swatches of skin and hair (group Component) are left out, and so is what the other vendor does not draw.

    Raises:
        ValueError: there is no such vendor or size.
        BadData: ``data`` holds no emoji, or they are damaged.
        MissingData: they are nowhere.
    """
    if vendor not in VENDORS:
        raise ValueError(f"there is no vendor {vendor!r}: there are {' and '.join(VENDORS)}")
    if size not in SIZES:
        raise ValueError(f"emoji are not {size} pixels wide here: take {' or '.join(map(str, SIZES))}")
    need("PIL")
    dataset = DATASETS[vendor]
    contents, place = cache.load(dataset, data)
    try:
        return _parsed(contents, size, f"emoji of {vendor}, {size} pixels wide, of {place}")
    except (ValueError, KeyError, TypeError, OSError) as error:
        missing = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise cache.unreadable(Path(place), dataset, ValueError(str(missing))) from error


def _parsed(contents: Contents, size: int, source: str) -> Emoji:
    everything: list[dict[str, Any]] = json.loads(contents[NAMES])
    drawn = [
        e for e in everything if e["category"] != "Component" and all(e[f"has_img_{vendor}"] for vendor in VENDORS)
    ]
    if not drawn:
        raise ValueError(f"{NAMES} names no emoji")
    drawn.sort(key=lambda e: int(e["sort_order"]))
    groups = tuple(dict.fromkeys(str(e["category"]) for e in drawn))
    subgroups = tuple(dict.fromkeys((str(e["category"]), str(e["subcategory"])) for e in drawn))
    words = _keywords(contents[KEYWORDS])
    return Emoji(
        images=_cut(contents[f"{size}.png"], size, [(int(e["sheet_x"]), int(e["sheet_y"])) for e in drawn]),
        codes=tuple(str(e["unified"]) for e in drawn),
        names=tuple(str(e["name"] or e["short_name"]).lower() for e in drawn),
        keywords=tuple(words.get(str(e["unified"]).lower(), ()) for e in drawn),
        labels=torch.tensor([groups.index(e["category"]) for e in drawn]),
        sublabels=torch.tensor([subgroups.index((e["category"], e["subcategory"])) for e in drawn]),
        groups=groups,
        subgroups=tuple(name for _, name in subgroups),
        parents=tuple(groups.index(group) for group, _ in subgroups),
        source=f"{len(drawn)} {source}",
    )


def _keywords(content: bytes) -> dict[str, tuple[str, ...]]:
    """Words by the code of the emoji without a tone of skin."""
    known = json.loads(content)["emojis"].values()
    return {
        str(e["skins"][0]["unified"]).lower(): tuple(dict.fromkeys(str(w).lower() for w in e["keywords"]))
        for e in known
    }


def _cut(sheet: bytes, size: int, cells: list[tuple[int, int]]) -> Tensor:
    """Cells of a sheet are a pixel apart from their frames on each side."""
    from PIL import Image

    with Image.open(io.BytesIO(sheet)) as image:
        layers = image.convert("RGBA")
    paper = Image.new("RGBA", layers.size, "white")
    paper.alpha_composite(layers)
    pixels = torch.from_numpy(np.array(paper.convert("RGB"))).permute(2, 0, 1)
    step = size + 2
    last = max(max(cell) for cell in cells)
    if min(pixels.shape[1:]) < (last + 1) * step:
        raise ValueError(
            f"the sheet {size}.png has {pixels.shape[2]} x {pixels.shape[1]} pixels, too few for its emoji"
        )
    tiles = [pixels[:, y * step + 1 : y * step + 1 + size, x * step + 1 : x * step + 1 + size] for x, y in cells]
    return torch.stack(tiles).float() / 255
