"""Emoji: each cell of a sheet with its own name, group and words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from barrow.studies.data import cache, emoji
from barrow.studies.study import BadData
from packing import tar

# name, code, category, subcategory, sheet x, sheet y, order, drawn by Twitter
ROWS = (
    ("WOLF FACE", "1F43A", "Animals", "mammal", 1, 0, 30, True),
    ("GRINNING", "1F600", "Smileys", "face", 0, 1, 10, True),
    ("FLAG FOR ITALY", "1F1EE-1F1F9", "Flags", "country", 1, 1, 50, True),
    ("SKIN TONE", "1F3FB", "Component", "skin", 0, 0, 5, True),
    ("CAT", "1F408", "Animals", "mammal", 0, 2, 20, True),
    ("ANT", "1F41C", "Animals", "bug", 1, 2, 40, True),
    ("ONLY ONE", "1F6FF", "Smileys", "face", 2, 2, 1, False),
)
WORDS = {"1f43a": ["Animal", "wild", "animal"], "1f600": ["happy"], "1f408": ["animal"], "1f1ee-1f1f9": ["animal"]}


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def colour(x: int, y: int) -> tuple[int, int, int, int]:
    return (51 * x, 51 * y, 102, 255)


def sheet(size: int) -> bytes:
    """Cells of one colour each in a frame of red; the upper left pixel of each is transparent."""
    image = Image.new("RGBA", (3 * (size + 2), 3 * (size + 2)), "red")
    for x in range(3):
        for y in range(3):
            at = x * (size + 2) + 1, y * (size + 2) + 1
            image.paste(colour(x, y), (*at, at[0] + size, at[1] + size))
            image.putpixel(at, (0, 0, 0, 0))
    made = io.BytesIO()
    image.save(made, "png")
    return made.getvalue()


def files() -> dict[str, bytes]:
    names = [
        {
            "name": name, "short_name": name.lower(), "unified": code, "category": category, "subcategory": sub,
            "sheet_x": x, "sheet_y": y, "sort_order": order, "has_img_google": True, "has_img_twitter": twitter,
        }
        for name, code, category, sub, x, y, order, twitter in ROWS
    ]  # fmt: skip
    known = {str(k): {"skins": [{"unified": code}], "keywords": words} for k, (code, words) in enumerate(WORDS.items())}
    return {
        "emoji_pretty.json": json.dumps(names).encode(),
        "native.json": json.dumps({"emojis": known}).encode(),
        **{f"{size}.png": sheet(size) for size in (16, 32)},
    }


def put(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True)
    for name, content in {**files(), **changed}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("size", [16, 32])
def test_each_cell_goes_with_its_name(size: int, tmp_path: Path) -> None:
    found = emoji.find("google", size, put(tmp_path / "given"))
    assert found.names == ("grinning", "cat", "wolf face", "ant", "flag for italy")
    assert found.codes == ("1F600", "1F408", "1F43A", "1F41C", "1F1EE-1F1F9")
    assert found.images.shape == (5, 3, size, size)
    for image, (x, y) in zip(found.images, ((0, 1), (0, 2), (1, 0), (1, 2), (1, 1)), strict=True):
        expected = (torch.tensor(colour(x, y)[:3]) / 255)[:, None, None].expand(3, size, size).clone()
        expected[:, 0, 0] = 1  # paper
        assert torch.equal(image, expected)
    assert found.groups == ("Smileys", "Animals", "Flags")
    assert found.labels.tolist() == [0, 1, 1, 1, 2]
    assert found.subgroups == ("face", "mammal", "bug", "country")
    assert found.sublabels.tolist() == [0, 1, 1, 2, 3]
    assert found.parents == (0, 1, 1, 2)
    assert found.keywords == (("happy",), ("animal",), ("animal", "wild"), (), ("animal",))
    assert found.flags.tolist() == [False] * 4 + [True]
    assert found.source == f"5 emoji of google, {size} pixels wide, of {tmp_path / 'given'}"


def test_tags_are_words_that_enough_emoji_have(tmp_path: Path) -> None:
    found = emoji.find(data=put(tmp_path / "given"))
    tags, table = found.tagged(1)
    assert tags == ("animal", "happy", "wild")
    assert table.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]]
    tags, table = found.tagged(2)
    assert tags == ("animal",)
    assert table.flatten().tolist() == [0, 1, 1, 0, 0]
    assert found.tagged(4)[1].shape == (5, 0)


def test_packages_and_cache_are_read(tmp_path: Path) -> None:
    made = files()
    packed = tmp_path / "packed"
    packed.mkdir()
    for vendor in emoji.VENDORS:
        inside = {f"package/img/{vendor}/sheets/{size}.png": made[f"{size}.png"] for size in (16, 32)}
        inside["package/emoji_pretty.json"] = made["emoji_pretty.json"]
        (packed / f"emoji-datasource-{vendor}-16.0.0.tgz").write_bytes(tar(inside))
    (packed / "data-1.2.1.tgz").write_bytes(tar({"package/sets/15/native.json": made["native.json"]}))
    put(tmp_path / "cache/emoji-twitter")
    for vendor, data in (("google", packed), ("twitter", packed), ("twitter", None)):
        assert emoji.find(vendor, 16, data).names[:2] == ("grinning", "cat")
    with pytest.raises(BadData, match="run `barrow data emoji`"):
        emoji.find("google")


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no vendor 'apple': there are google and twitter"):
        emoji.find("apple")
    with pytest.raises(ValueError, match="emoji are not 64 pixels wide here: take 16 or 32"):
        emoji.find("google", 64)
    rows = json.loads(files()["emoji_pretty.json"])
    for k, (name, content, words) in enumerate((
        ("emoji_pretty.json", b"[", "Expecting value"),
        ("emoji_pretty.json", b"[]", "names no emoji"),
        ("emoji_pretty.json", json.dumps([{"category": "x"}]).encode(), "it lacks 'has_img_google'"),
        ("emoji_pretty.json", json.dumps([rows[0] | {"sheet_x": 3}]).encode(), "54 x 54 pixels, too few"),
        ("native.json", b"{}", "it lacks 'emojis'"),
        ("16.png", b"no picture", "cannot identify image"),
        ("16.png", files()["16.png"][:-60], ""),
    )):  # fmt: skip
        folder = put(tmp_path / f"given{k}", **{name: content})
        with pytest.raises(BadData, match=rf"given{k} cannot be read as the emoji as Google draws them: .*{words}"):
            emoji.find(data=folder)


def test_the_real_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if any(cache.present(dataset) is None for dataset in emoji.DATASETS.values()):
        pytest.skip("the emoji are not on this machine: barrow data emoji emoji-twitter")
    google, twitter = (emoji.find(vendor) for vendor in emoji.VENDORS)
    assert google.codes == twitter.codes
    assert (len(google), len(google.groups), len(google.subgroups)) == (1906, 9, 98)
    assert not torch.equal(google.images, twitter.images)
    assert int(google.sublabels.bincount().max()) == 259
    assert "happy" in google.keywords[google.names.index("grinning face")]
