"""Parquet files of one column of text, written byte by byte as the format says."""

from __future__ import annotations

from collections.abc import Sequence


def varint(value: int) -> bytes:
    made = b""
    while value >= 0x80:
        made += bytes([value & 0x7F | 0x80])
        value >>= 7
    return made + bytes([value])


def number(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else ~(value << 1))


def struct(*fields: tuple[int, int, bytes]) -> bytes:
    """Fields (number, kind, value) of Thrift's compact protocol."""
    made, last = b"", 0
    for which, kind, value in fields:
        short = 0 < which - last < 16
        made += (bytes([(which - last) << 4 | kind]) if short else bytes([kind]) + number(which)) + value
        last = which
    return made + b"\0"


def many(kind: int, values: Sequence[bytes]) -> bytes:
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind]) + varint(len(values))
    return head + b"".join(values)


def text(value: bytes) -> bytes:
    return varint(len(value)) + value


def plain(words: Sequence[str]) -> bytes:
    return b"".join(len(w.encode()).to_bytes(4, "little") + w.encode() for w in words)


def snappy(block: bytes) -> bytes:
    """Literals only, of every length the format has."""
    made = varint(len(block))
    for at in range(0, len(block), 70_000):
        piece = block[at : at + 70_000]
        if len(piece) <= 60:
            made += bytes([(len(piece) - 1) << 2]) + piece
        else:
            width = ((len(piece) - 1).bit_length() + 7) // 8
            made += bytes([(59 + width) << 2]) + (len(piece) - 1).to_bytes(width, "little") + piece
    return made


def page(kind: int, content: bytes, header: tuple[int, int, bytes], codec: int) -> bytes:
    packed = snappy(content) if codec == 1 else content
    return struct((1, 5, number(kind)), (2, 5, number(len(content))), (3, 5, number(len(packed))), header) + packed


def data_page(content: bytes, count: int, encoding: int, codec: int, optional: bool) -> bytes:
    if optional:
        levels = varint(count << 1) + b"\x01"
        content = len(levels).to_bytes(4, "little") + levels + content
    header = struct((1, 5, number(count)), (2, 5, number(encoding)), (3, 5, number(3)), (4, 5, number(3)))
    return page(0, content, (5, 12, header), codec)


def file(
    pages: bytes, count: int, *, codec: int = 1, optional: bool = True, kind: int = 6, rows: int | None = None,
    dictionary: int | None = None, first: int | None = None,
) -> bytes:  # fmt: skip
    start = 4 if first is None else first
    meta: list[tuple[int, int, bytes]] = [
        (1, 5, number(kind)), (2, 9, many(5, [number(0)])), (3, 9, many(8, [text(b"index")])), (4, 5, number(codec)),
        (5, 6, number(count)), (6, 6, number(len(pages))), (7, 6, number(len(pages))), (9, 6, number(start)),
    ]  # fmt: skip
    if dictionary is not None:
        meta.append((11, 6, number(dictionary)))
    column = struct((2, 6, number(4)), (3, 12, struct(*meta)))
    group = struct((1, 9, many(12, [column])), (2, 6, number(0)), (3, 6, number(count)))
    root = struct((4, 8, text(b"schema")), (5, 5, number(1)))
    leaf = struct(
        (1, 5, number(kind)), (3, 5, number(int(optional))), (4, 8, text(b"index")), (10, 12, struct((1, 12, struct())))
    )
    footer = struct(
        (1, 5, number(2)), (2, 9, many(12, [root, leaf])), (3, 6, number(count if rows is None else rows)),
        (4, 9, many(12, [group])), (6, 8, text(b"by hand")), (40, 2, b""), (41, 7, bytes(8)),
    )  # fmt: skip
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"
