"""Classes that are the leaves of a tree, and samples of them: Gaussians about the leaves, clothes, emoji."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional

import barrow
from barrow.cost import wordnet as nouns
from barrow.studies.data import emoji, fashion, hierarchies, wordnet
from barrow.studies.data.cache import MissingData, within

DIMENSION, OFFSET = 32, 0.35  # of the Gaussians; the standard deviation of an offset, where that of the noise is 1
MEMBERS = 15  # a subgroup of emoji with fewer is left out


@final
@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """A tree over classes, and what its nodes are called.

    ``classes`` are nodes, in the order of the histogram; ``above`` has the parent of every node, the root's is None;
    ``words`` names some of them.
    """

    tree: barrow.Tree
    classes: tuple[str, ...]
    above: Mapping[str, str | None]
    words: Mapping[str, str]

    @property
    def distance(self) -> Tensor:
        """Edges between two classes, (K, K)."""
        return self.tree.dense()

    @property
    def rows(self) -> tuple[str, ...]:
        """The classes from top to bottom, so that no branches cross; a class with others below it stands above them."""
        order: list[str] = []

        def visit(node: str) -> None:
            if node in self.classes:
                order.append(node)
            for child, parent in self.above.items():
                if parent == node:
                    visit(child)

        visit(next(node for node, parent in self.above.items() if parent is None))
        return tuple(order)


def balanced(levels: int, branches: int) -> Hierarchy:
    """Each node has as many branches, down to branches^levels leaves; edges have length 1.

    >>> balanced(2, 3).distance[0]
    tensor([0., 2., 2., 4., 4., 4., 4., 4., 4.])
    """
    above: dict[str, str | None] = {"root": None}
    layer = ["root"]
    for level in range(levels):
        nodes = [(f"{'' if not level else node + '.'}{k + 1}", node) for node in layer for k in range(branches)]
        above |= dict(nodes)
        layer = [child for child, _ in nodes]
    return Hierarchy(barrow.Tree.from_parents(_edges(above), leaves=layer), tuple(layer), above, {})


def of_groups(parents: Sequence[int], classes: Sequence[str], groups: Sequence[str]) -> Hierarchy:
    """Two levels: class k is in the group ``parents[k]``."""
    names = tuple(f"class {k}" for k in range(len(classes)))
    above: dict[str, str | None] = {"root": None}
    above |= {f"group {g}": "root" for g in dict.fromkeys(parents)}
    above |= {name: f"group {g}" for name, g in zip(names, parents, strict=True)}
    words = {f"group {g}": groups[g] for g in dict.fromkeys(parents)} | dict(zip(names, classes, strict=True))
    return Hierarchy(barrow.Tree.from_parents(_edges(above), leaves=names), names, above, words)


def of_wordnet(ids: Sequence[str], path: Path, classes: Sequence[str] = ()) -> Hierarchy:
    """WordNet's tree over synsets, which are called as ``classes`` says, else by their first words.

    Raises:
        BadData: ``path`` is no data.noun of WordNet 3.0.
        MissingData: see :func:`barrow.studies.data.wordnet.find`.
    """
    above = _below_the_fork(nouns.parents(ids, path), ids)
    words = nouns.words(above, path) | dict(zip(ids, classes, strict=False))
    return Hierarchy(barrow.Tree.from_wordnet(ids, path), tuple(ids), above, words)


def _edges(above: Mapping[str, str | None]) -> dict[str, str]:
    return {child: parent for child, parent in above.items() if parent is not None}


def _below_the_fork(above: dict[str, str | None], ids: Sequence[str]) -> dict[str, str | None]:
    """Without the nodes above the lowest that has all ``ids`` below it or is one of them."""
    while True:
        (root,) = (node for node, parent in above.items() if parent is None)
        below = [node for node, parent in above.items() if parent == root]
        if len(below) != 1 or root in ids:
            return above
        above = {node: None if node == below[0] else parent for node, parent in above.items() if node != root}


# -- samples -----------------------------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Samples (repeats, n, d) to train on, to choose with and to judge by, and their classes (n,)."""

    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@final
@dataclasses.dataclass(frozen=True)
class Setting:
    """Classes in a tree, and samples of them.

    ``pool`` is given a seed and returns samples (K, m, d), m a class: the first ``test`` are for the test, the next
    ``held`` for validation, of the others those that training needs; more of them include the fewer.
    """

    name: str
    what: str  # the samples are
    hierarchy: Hierarchy
    counts: tuple[int, ...]  # to train on, a class
    held: int
    test: int
    pool: Callable[[int], Tensor]
    source: str

    def split(self, count: int, seeds: Sequence[int]) -> Split:
        """One repeat a seed; the unit of x is the standard deviation in what is trained on, its origin the mean."""
        pools = torch.stack([self.pool(seed) for seed in seeds])
        start = self.test + self.held
        test, held, train = pools[:, :, : self.test], pools[:, :, self.test : start], pools[:, :, start:]
        if train.shape[2] < count:
            raise ValueError(f"{count} samples a class were asked for, but {self.name} has {train.shape[2]}")
        train = train[:, :, :count]
        middle, unit = train.mean((1, 2, 3), keepdim=True), train.std((1, 2, 3), keepdim=True)

        def flat(x: Tensor) -> tuple[Tensor, Tensor]:
            return ((x - middle) / unit).flatten(1, 2), torch.arange(x.shape[1]).repeat_interleave(x.shape[2])

        return Split(flat(train), flat(held), flat(test))


def offsets(hierarchy: Hierarchy, generator: torch.Generator) -> Tensor:
    """Means (K, d) of the classes: each edge of length l adds a Gaussian offset of variance l OFFSET^2 a coordinate.

    The squared distance of two means is then d OFFSET^2 times that of the classes in the tree, on average.
    """
    tree = hierarchy.tree
    parent = tree.parent.tolist()
    step = OFFSET * tree.edge_length.sqrt()[:, None] * torch.randn((len(parent), DIMENSION), generator=generator)
    means = torch.zeros(len(tree.leaves), DIMENSION)
    for k, leaf in enumerate(tree.leaves.tolist()):
        node = leaf
        while node >= 0:
            means[k] += step[node]
            node = parent[node]
    return means


def gaussians(hierarchy: Hierarchy, counts: tuple[int, ...], source: str, *, held: int = 20, test: int = 50) -> Setting:
    """Points about the means of :func:`offsets`, with noise of variance 1 a coordinate."""

    def pool(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        means = offsets(hierarchy, generator)
        return means[:, None] + torch.randn((len(means), test + held + max(counts), DIMENSION), generator=generator)

    return Setting("Gaussians", "points", hierarchy, counts, held, test, pool, source)


def clothes(hierarchy: Hierarchy, counts: tuple[int, ...], data: Path | None) -> Setting:
    """Fashion-MNIST at 14 x 14 pixels; the test is on images of its test part."""
    held, test = 50, 200
    parts = [fashion.find(part, data) for part in ("test", "train")]
    images = [functional.avg_pool2d(part.images, 2).flatten(1) for part in parts]
    members = [[(part.labels == k).nonzero()[:, 0] for k in range(len(fashion.CLASSES))] for part in parts]

    def pool(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            torch.stack([x[rows[torch.randperm(len(rows), generator=generator)[:wanted]]] for rows in of_class])
            for x, of_class, wanted in zip(images, members, (test, held + max(counts)), strict=True)
        ]
        return torch.cat(drawn, 1)

    return Setting("Fashion-MNIST", "images", hierarchy, counts, held, test, pool, parts[1].source)


def pictures(counts: tuple[int, ...], data: Path | None) -> Setting:
    """Google's emoji, 16 x 16 pixels: subgroups of at least MEMBERS as classes, their groups above them."""
    found = emoji.find("google", 16, data)
    sizes = torch.bincount(found.sublabels, minlength=len(found.subgroups))
    kept = (sizes >= MEMBERS).nonzero()[:, 0].tolist()
    x = found.images.flatten(1)
    members = [(found.sublabels == k).nonzero()[:, 0] for k in kept]

    def pool(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([x[rows[torch.randperm(len(rows), generator=generator)[:MEMBERS]]] for rows in members])

    hierarchy = of_groups([found.parents[k] for k in kept], [found.subgroups[k] for k in kept], found.groups)
    source = f"{found.source}: the {len(kept)} of {len(sizes)} subgroups with {MEMBERS} or more"
    return Setting("emoji", "pictures", hierarchy, counts, 3, 4, pool, source)


# -- what there is -----------------------------------------------------------------------------------------------------


def known(name: str, data: Path | None) -> Hierarchy | None:
    """WordNet's tree over a list of :mod:`barrow.studies.data.hierarchies` or over "fashion"; None without the data."""
    try:
        path = wordnet.find(within(data, "wordnet"))
        if name == "fashion":
            return of_wordnet(fashion.WNIDS, path, fashion.CLASSES)
        return of_wordnet(hierarchies.find(name, within(data, "hierarchies")).wnids, path)
    except MissingData:
        return None


def small() -> tuple[list[Setting], list[str], Hierarchy]:
    """What needs no data: Gaussians about 64 leaves."""
    tree = balanced(3, 4)
    return [gaussians(tree, (3, 6), "Gaussians about the 64 leaves of a tree, made here", test=25)], [], tree


def everything(data: Path | None) -> tuple[list[Setting], list[str], Hierarchy]:
    """All settings that there are data for, a line for each thing that is lacking, and a tree over 1000 classes.

    Raises:
        BadData: ``data`` was given and lacks something, or something is damaged.
    """
    counts = (5, 10, 20, 50)
    names = known("cifar100", data), known("fashion", data), known("imagenet", data)
    lacking = []
    if names[0] is None or names[2] is None:
        lacking.append(
            "trees of 64 and 1000 leaves stand in for WordNet's over CIFAR-100 and ImageNet: "
            "barrow data wordnet hierarchies"
        )
    worlds = [
        gaussians(balanced(3, 4), counts, "Gaussians about the 64 leaves of a tree, made here")
        if names[0] is None
        else gaussians(names[0], counts, "Gaussians about CIFAR-100's classes in the tree of WordNet 3.0, made here")
    ]
    try:
        if names[1] is None:
            raise wordnet.DATASET.missing()
        worlds.append(clothes(names[1], counts, within(data, "fashion")))
    except MissingData:
        lacking.append("Fashion-MNIST, or WordNet for it, is not here and was left out: barrow data fashion wordnet")
    try:
        worlds.append(pictures((4, 8), within(data, emoji.DATASETS["google"].name)))
    except MissingData:
        lacking.append("emoji are not here and were left out: barrow data emoji")
    return worlds, lacking, names[2] or balanced(3, 10)
