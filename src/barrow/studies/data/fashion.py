"""Fashion-MNIST, complete: 70,000 images of clothes, with the meanings of their ten classes in WordNet."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from barrow.studies.data import cache, idx
from barrow.studies.data.cache import Dataset, Source

SIDE = 28
CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
#: WordNet 3.0: jersey (T-shirt), trouser, pullover, dress (frock), coat, sandal, shirt, gym shoe (sneaker),
#: bag (handbag), boot (covers the foot and the lower leg). The first is a kind of the seventh: not all are leaves.
WNIDS = (
    "n03595614", "n04489008", "n04021028", "n03236735", "n03057021",
    "n04133789", "n04197391", "n03472535", "n02774152", "n02872752",
)  # fmt: skip
_FILES = {
    part: (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
    for part, stem in (("train", "train"), ("test", "t10k"))
}
_FOLDER = "usr/share/datasets/fashion-mnist"
DATASET = Dataset(
    name="fashion",
    title="Fashion-MNIST",
    summary="Fashion-MNIST, complete: 60,000 and 10,000 grey images of ten kinds of clothes, 28 x 28",
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset, arXiv:1708.07747, 2017",
    sources=(
        Source(
            tuple(
                f"{mirror}/pool/main/d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
                for mirror in (
                    "http://deb.debian.org/debian",
                    "http://snapshot.debian.org/archive/debian/20250520T000000Z",
                )
            ),
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            30900652,
            {f"{_FOLDER}/{name}": name for names in _FILES.values() for name in names},
        ),
    ),
    folders=(f"/{_FOLDER}",),
)


@final
@dataclasses.dataclass(frozen=True)
class Clothes:
    """Images (n, 1, 28, 28) in [0, 1], their classes (n,) in the order of :data:`CLASSES`, and where they come from."""

    images: Tensor
    labels: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.images)


def find(part: str = "train", data: Path | None = None) -> Clothes:
    """The 60,000 images to train on, or the 10,000 to test with (``part`` = "test").

    From ``data``, the Debian package dataset-fashion-mnist or a folder of the four idx files, else from where that
    package installs them, else from the cache.

    Raises:
        ValueError: there is no such part.
        BadData: ``data`` holds no Fashion-MNIST, or a file is damaged.
        MissingData: it is nowhere.
    """
    if part not in _FILES:
        raise ValueError(f"there is no part {part!r}: there are {' and '.join(_FILES)}")
    contents, place = cache.load(DATASET, data)
    pictures, classes = _FILES[part]
    name = pictures
    try:
        images = idx.images(contents[pictures], SIDE)
        name = classes
        labels = idx.labels(contents[classes], len(images), len(CLASSES))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise cache.unreadable(Path(place), DATASET, ValueError(f"{name}: {error}")) from error
    return Clothes(
        torch.from_numpy(images.astype(np.float32))[:, None] / 255,
        torch.from_numpy(labels.astype(np.int64)),
        f"Fashion-MNIST, {len(images)} images ({part}) of {place}",
    )
