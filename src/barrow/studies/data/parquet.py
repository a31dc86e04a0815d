"""The one column of text of a small Parquet file, without a library for all that Parquet can be.

Taken are: one column of byte arrays, plain or through a dictionary, in pages of the first version, compressed with
snappy or not. Everything else is refused.

Source: Apache Parquet's parquet.thrift and Encodings.md; Thrift's compact protocol; snappy's format_description.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAGIC = b"PAR1"
# Of the format: physical type, codecs, kinds of page, encodings.
BYTE_ARRAY = 6
UNCOMPRESSED, SNAPPY = 0, 1
DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8

Struct = dict[int, Any]  # fields by their numbers


def strings(content: bytes) -> list[str]:
    """The column, top to bottom.

    Raises:
        ValueError: the file is damaged, or is more than this reads.
    """
    try:
        return _strings(content)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("it is no Parquet file of one column of text, or damaged") from error


def _strings(content: bytes) -> list[str]:
    if content[:4] != MAGIC or content[-4:] != MAGIC:
        raise ValueError("it is no Parquet file, or cut short")
    size = int.from_bytes(content[-8:-4], "little")
    footer, _ = _struct(content, len(content) - 8 - size)
    schema, groups = footer[2], footer[4]
    # Repetition 0 is required, 1 is optional; 2 would be a list in a cell.
    if len(schema) != 2 or schema[1].get(1) != BYTE_ARRAY or schema[1].get(3) not in (0, 1):
        raise ValueError("it is a Parquet file of something else than one column of text")
    optional = schema[1][3] == 1
    found: list[bytes] = []
    for group in groups:
        found += _column(content, group[1][0][3], optional)
    if len(found) != footer[3]:
        raise ValueError(f"it has {len(found)} rows where its footer says {footer[3]}")
    return [value.decode() for value in found]


def _column(content: bytes, meta: Struct, optional: bool) -> list[bytes]:
    codec, count = meta[4], meta[5]
    if codec not in (UNCOMPRESSED, SNAPPY):
        raise ValueError(f"it is compressed with codec {codec}; only snappy is read")
    at: int = meta[11] if 11 in meta else meta[9]  # the dictionary comes first, if there is one
    words: list[bytes] = []
    dictionary: list[bytes] = []
    while len(words) < count:
        header, at = _struct(content, at)
        if header[3] < 0 or at + header[3] > len(content):
            raise ValueError("a page reaches beyond the file")
        page = content[at : at + header[3]]
        at += header[3]
        page = unsnappy(page) if codec == SNAPPY else page
        if len(page) != header[2]:
            raise ValueError(f"a page has {len(page)} bytes where its header says {header[2]}")
        if header[1] == DICTIONARY_PAGE:
            dictionary = _plain(page, header[7][1])
        elif header[1] == DATA_PAGE:
            words += _page(page, header[5], dictionary, optional)
        else:
            raise ValueError(f"it has a page of kind {header[1]}, which is not read")
    return words


def _page(page: bytes, header: Struct, dictionary: Sequence[bytes], optional: bool) -> list[bytes]:
    count, encoding = header[1], header[2]
    if optional:
        # Definition levels: 1 where a cell is filled. An empty one would be no word.
        size = int.from_bytes(page[:4], "little")
        if 0 in _hybrid(page[4 : 4 + size], 1, count):
            raise ValueError("it has empty cells")
        page = page[4 + size :]
    if encoding == PLAIN:
        return _plain(page, count)
    if encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
        return [dictionary[k] for k in _hybrid(page[1:], page[0], count)]
    raise ValueError(f"it has a page of encoding {encoding}, which is not read")


def _plain(page: bytes, count: int) -> list[bytes]:
    """Lengths of four bytes, each before its text."""
    found, at = [], 0
    for _ in range(count):
        size = int.from_bytes(page[at : at + 4], "little")
        at += 4 + size
        found.append(page[at - size : at])
    if at != len(page):
        raise ValueError(f"a page has {len(page)} bytes where its texts have {at}")
    return found


def _hybrid(page: bytes, width: int, count: int) -> list[int]:
    """Numbers of ``width`` bits: runs of one number, and groups of eight packed together."""
    found: list[int] = []
    at, mask, size = 0, (1 << width) - 1, (width + 7) // 8
    while len(found) < count:
        head, at = _varint(page, at)
        if head & 1:
            groups = head >> 1
            bits = page[at : at + groups * width] + bytes(8)
            at += groups * width
            if at > len(page):
                raise IndexError
            for k in range(8 * groups):
                byte, shift = divmod(k * width, 8)
                found.append(int.from_bytes(bits[byte : byte + 8], "little") >> shift & mask)
        else:
            found += [int.from_bytes(page[at : at + size], "little")] * min(head >> 1, count)
            at += size
    return found[:count]  # the last group may be filled up


# -- snappy ------------------------------------------------------------------------------------------------------------


def unsnappy(block: bytes) -> bytes:
    """Decompress one snappy block: literal bytes, and copies of bytes that are already there.

    Raises:
        ValueError: it is damaged.

    >>> unsnappy(bytes([9, 2 << 2]) + b"ear" + bytes([(6 - 4) << 2 | 1, 3]))
    b'earearear'
    """
    size, at = _varint(block, 0)
    out = bytearray()
    while at < len(block):
        tag = block[at]
        at += 1
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:
            if length > 60:
                extra = length - 60
                length = int.from_bytes(block[at : at + extra], "little") + 1
                at += extra
            out += block[at : at + length]
            at += length
            continue
        if kind == 1:
            length = (tag >> 2 & 7) + 4
            offset = (tag >> 5) << 8 | block[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            offset = int.from_bytes(block[at : at + width], "little")
            at += width
        if not 0 < offset <= len(out):
            raise ValueError("a snappy block points before its beginning")
        start = len(out) - offset
        # A copy may overlap what it writes: then it repeats itself.
        piece = bytes(out[start : start + length])
        out += (piece * (length // len(piece) + 1))[:length] if len(piece) < length else piece
    if len(out) != size:
        raise ValueError(f"a snappy block has {len(out)} bytes where it says {size}")
    return bytes(out)


# -- thrift ------------------------------------------------------------------------------------------------------------


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _struct(content: bytes, at: int) -> tuple[Struct, int]:
    """A struct of the compact protocol: each field tells how far its number is from the last."""
    fields: Struct = {}
    number = 0
    while head := content[at]:
        at += 1
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            zigzag, at = _varint(content, at)
            number = zigzag >> 1 ^ -(zigzag & 1)
        fields[number], at = (kind == 1, at) if kind in (1, 2) else _value(content, at, kind)
    return fields, at + 1


def _value(content: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):  # in a list a boolean is a byte, as a byte is
        return content[at], at + 1
    if kind in (4, 5, 6):
        zigzag, at = _varint(content, at)
        return zigzag >> 1 ^ -(zigzag & 1), at
    if kind in (7, 8):
        size, at = (8, at) if kind == 7 else _varint(content, at)
        if at + size > len(content):
            raise IndexError
        return content[at : at + size], at + size
    if kind in (9, 10):
        head = content[at]
        size, at = (head >> 4, at + 1) if head < 0xF0 else _varint(content, at + 1)
        values = []
        for _ in range(size):
            value, at = _value(content, at, head & 0x0F)
            values.append(value)
        return values, at
    if kind == 12:
        return _struct(content, at)
    raise ValueError(f"its headers hold a value of kind {kind}, which is not read")
