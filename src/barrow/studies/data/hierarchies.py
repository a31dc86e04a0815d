"""Lists of classes by their WordNet ids: ImageNet, Tiny ImageNet, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import final

from barrow.studies.data import cache
from barrow.studies.data.cache import Dataset, Source

LISTS = {
    "imagenet": "Imagenet1000.txt",
    "tiny-imagenet": "TinyImagenet200.txt",
    "cifar10": "CIFAR10.txt",
    "cifar100": "CIFAR100.txt",
}
SIZES = {"imagenet": 1000, "tiny-imagenet": 200, "cifar10": 10, "cifar100": 100}
DATASET = Dataset(
    name="hierarchies",
    title="the lists of classes of ImageNet and CIFAR",
    summary="the classes of ImageNet (1000), Tiny ImageNet (200), CIFAR-10 and CIFAR-100 as ids of WordNet 3.0",
    licence="MIT",
    citation="Wan et al., NBDT: neural-backed decision tree, ICLR 2021",
    sources=(
        Source(
            (
                "https://files.pythonhosted.org/packages/d9/3a/"
                "75fb13e538bb75df5bb4802a7296311e88923eec0c1f76e9da5e2887f6b9/nbdt-0.0.4.tar.gz",
            ),
            "da5873b68e62d7215a72bbb46e8b6f0fc2044380e73b111e654422c5601a3d14",
            119265,
            {f"nbdt-0.0.4/nbdt/wnids/{name}": name for name in LISTS.values()},
        ),
    ),
    packages=("nbdt",),
)


@final
@dataclasses.dataclass(frozen=True)
class Classes:
    """WordNet ids in the order of the classes, such as n01440764, and where they come from."""

    wnids: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.wnids)


def find(name: str = "imagenet", data: Path | None = None) -> Classes:
    """The ids of one list: from ``data`` (the sdist of nbdt or a folder of its lists), an installed nbdt or the cache.

    Raises:
        ValueError: there is no such list.
        BadData: ``data`` does not hold it, or it is damaged.
        MissingData: it is nowhere.
    """
    if name not in LISTS:
        raise ValueError(f"there is no list {name!r}: there are {', '.join(LISTS)}")
    contents, place = cache.load(DATASET, data)
    wnids = tuple(contents[LISTS[name]].decode("ascii", errors="replace").split())
    strange = next((w for w in wnids if not re.fullmatch(r"n\d{8}", w)), None)
    if strange is not None or len(set(wnids)) != SIZES[name] or len(wnids) != SIZES[name]:
        reason = f"{strange!r} is no id" if strange is not None else f"{len(set(wnids))} ids, not {SIZES[name]}"
        raise cache.unreadable(Path(place), DATASET, ValueError(f"{LISTS[name]}: {reason}"))
    return Classes(wnids, f"{len(wnids)} classes of {name}, of {place}")
