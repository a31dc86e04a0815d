"""The idx format of MNIST and Fashion-MNIST: four bytes of kind, big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import numpy.typing as npt

IMAGES, LABELS = 0x0803, 0x0801  # bytes of three dimensions, and of one


def images(content: bytes, side: int) -> npt.NDArray[np.uint8]:
    """Images (n, side, side), gzipped or not.

    Raises:
        ValueError: they are not.
    """
    sizes, pixels = _parsed(content, IMAGES, "images")
    if sizes[0] == 0 or sizes[1:] != [side, side]:
        raise ValueError(f"it says that it has images of shape {tuple(sizes)}, not (n, {side}, {side})")
    if len(pixels) != math.prod(sizes):
        raise ValueError(f"it has {len(pixels)} pixels where its header says {math.prod(sizes)}")
    return np.frombuffer(pixels, np.uint8).reshape(sizes)


def labels(content: bytes, count: int, classes: int = 10) -> npt.NDArray[np.uint8]:
    """Labels (count,) from 0 to ``classes`` - 1, gzipped or not.

    Raises:
        ValueError: they are not.
    """
    sizes, numbers = _parsed(content, LABELS, "labels")
    if sizes != [count] or len(numbers) != count:
        raise ValueError(f"it says that it has {sizes[0]} labels and has {len(numbers)}, for {count} images")
    found = np.frombuffer(numbers, np.uint8)
    if count and found.max() >= classes:
        raise ValueError(f"it has the label {found.max()}, but labels are from 0 to {classes - 1}")
    return found


def _parsed(content: bytes, kind: int, what: str) -> tuple[list[int], bytes]:
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    start = 4 + 4 * (kind & 0xFF)
    if len(content) < start:
        raise ValueError(f"it has {len(content)} bytes, fewer than its header needs")
    found, *sizes = struct.unpack(f">{start // 4}I", content[:start])
    if found != kind:
        raise ValueError(f"it begins with {found:#06x}, not with {kind:#06x} as {what} in the idx format do")
    return sizes, content[start:]
