"""A column of text, byte by byte: files are written here as the format says, and read back."""

from __future__ import annotations

import random

import pytest

from barrow.studies.data.parquet import strings, unsnappy
from packing_parquet import data_page, file, number, page, plain, snappy, struct, varint

WORDS = ["the", "Ünï", "", "a" * 300, "mover"]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("optional", [False, True])
def test_plain_pages_are_read(codec: int, optional: bool) -> None:
    pages = b"".join(data_page(plain(part), len(part), 0, codec, optional) for part in (WORDS, WORDS[::-1], WORDS[:1]))
    assert strings(file(pages, 11, codec=codec, optional=optional)) == WORDS + WORDS[::-1] + WORDS[:1]


@pytest.mark.parametrize("encoding", [2, 8])
def test_dictionary_pages_are_read(encoding: int) -> None:
    header = struct((1, 5, number(len(WORDS))), (2, 5, number(0)))
    dictionary = page(2, plain(WORDS), (7, 12, header), 1)
    packed = sum(k << 3 * place for place, k in enumerate([4, 0, 1, 2, 3, 4, 4, 1]))
    # A run of three 3s, then eight numbers of three bits, of which the last two are filling.
    content = b"\x03" + varint(3 << 1) + b"\x03" + varint(1 << 1 | 1) + packed.to_bytes(3, "little")
    pages = dictionary + data_page(content, 9, encoding, 1, True)
    expected = [WORDS[k] for k in (3, 3, 3, 4, 0, 1, 2, 3, 4)]
    assert strings(file(pages, 9, dictionary=4, first=4 + len(dictionary))) == expected


def test_wide_numbers_are_unpacked() -> None:
    words = [f"w{k}" for k in range(70_000)]
    order = list(range(70_000))
    random.Random(0).shuffle(order)
    header = struct((1, 5, number(len(words))), (2, 5, number(0)))
    dictionary = page(2, plain(words), (7, 12, header), 1)
    bits = sum(k << 17 * place for place, k in enumerate(order[:4000]))
    content = b"\x11" + varint(500 << 1 | 1) + bits.to_bytes(8500, "little")
    content += varint(2 << 1) + (69_999).to_bytes(3, "little")
    pages = dictionary + data_page(content, 4002, 8, 1, True)
    expected = [words[k] for k in order[:4000]] + [words[-1]] * 2
    assert strings(file(pages, 4002, dictionary=4, first=4 + len(dictionary))) == expected


def test_what_is_not_read_is_refused() -> None:
    good = data_page(plain(WORDS), 5, 0, 1, True)
    assert strings(file(good, 5)) == WORDS
    empty_cell = page(
        0, (2).to_bytes(4, "little") + varint(1 << 1) + b"\0", (5, 12, struct((1, 5, number(1)), (2, 5, number(0)))), 1
    )
    for content, words in (
        (b"PAR1 no parquet", "no Parquet file, or cut short"),
        (file(good, 5)[:-3], "no Parquet file, or cut short"),
        (file(good, 5, kind=1), "something else than one column of text"),
        (file(good, 5, codec=2), "codec 2"),
        (file(good, 5, rows=6), "has 5 rows where its footer says 6"),
        (file(good, 6), "no Parquet file of one column of text, or damaged|reaches beyond|of kind"),
        (file(data_page(plain(WORDS), 5, 5, 1, True), 5), "encoding 5"),
        (file(page(3, b"", (8, 12, struct()), 1), 5), "kind 3"),
        (file(empty_cell, 1), "empty cells"),
        (file(data_page(plain(WORDS)[:-1], 5, 0, 1, True), 5), "where its texts have"),
        (file(data_page(b"\x01\x02\x00", 1, 8, 1, True), 1), "damaged"),
        (file(data_page(b"\x01", 1, 8, 1, True), 1), "damaged"),
    ):
        with pytest.raises(ValueError, match=words):
            strings(content)


def test_no_damage_of_a_byte_is_a_crash() -> None:
    content = file(data_page(plain(WORDS), 5, 0, 1, True), 5)
    said = []
    for at in range(len(content)):
        for flip in (1, 0x80, 0xFF):
            damaged = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            try:
                strings(damaged)
            except ValueError as error:
                said.append(str(error))
    assert len(said) > len(content) / 4
    assert not any("\n" in words for words in said)


# -- snappy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 60, 61, 256, 257, 65536, 65537, 200_000])
def test_literals_of_every_length(size: int) -> None:
    block = random.Random(size).randbytes(size)
    assert unsnappy(snappy(block)) == block


def test_copies_of_every_kind() -> None:
    made = varint(4 + 4 + 64 + 10 + 5) + bytes([3 << 2]) + b"abcd"
    made += bytes([0 << 2 | 1, 2])  # four bytes from two back: they overlap
    made += bytes([63 << 2 | 2]) + (8).to_bytes(2, "little")
    made += bytes([9 << 2 | 3]) + (72).to_bytes(4, "little")
    made += bytes([1 << 2 | 1, 1])
    out = b"abcd" + b"cdcd"
    out += (out * 8)[:64]
    out += out[:10]
    out += out[-1:] * 5
    assert unsnappy(made) == out


def test_a_far_copy() -> None:
    block = random.Random(0).randbytes(1500)
    made = varint(1507) + snappy(block)[len(varint(1500)) :] + bytes([(1200 >> 8) << 5 | (7 - 4) << 2 | 1, 1200 & 0xFF])
    assert unsnappy(made) == block + block[300:307]


@pytest.mark.parametrize("made", [b"\x04\x01\x05", b"\x05\x0cabcd", b"\x08\x0cabcd\x01\x00", b"\x08\x0cabcd\x01\x05"])
def test_damaged_blocks_are_refused(made: bytes) -> None:
    with pytest.raises(ValueError, match="a snappy block"):
        unsnappy(made)
