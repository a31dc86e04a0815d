"""Path lengths between the leaves of a tree."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Hashable, Iterable, Sequence
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.cost import trees, wordnet
from barrow.cost.base import Cost, blockwise_soft_c_transform, gibbs_pass_in_two, reshape_batch
from barrow.ops import tree


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tree(Cost):
    """The path length between two leaves of a rooted tree; histograms live on the leaves.

    Args:
        parent: (N,) integers; ``parent[i]`` is the parent of node i and -1 at the root.
        length: (N,) or (..., N); ``length[i] >= 0`` is the length of the edge from node i to its parent (the root's
            entry is never used).

    Leaves are the nodes without children, in index order. Trees are also made of names (:meth:`from_parents`), points
    (:meth:`from_points`), bins on a line (:meth:`chain`) and words (:meth:`from_wordnet`): there node k is leaf k.

    Raises:
        ValueError: no root or several, a cycle, a parent out of range, a wrong number of lengths, a negative length.

    >>> elephant = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.ones(6))  # leaves 1, 2 | 4, 5; one edge between
    >>> elephant.dense()
    tensor([[0., 2., 3., 3.],
            [2., 0., 3., 3.],
            [3., 3., 0., 2.],
            [3., 3., 2., 0.]])
    """

    parent: Tensor
    length: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.parent, Tensor):
            raise ValueError(f"parent is a {type(self.parent).__name__}, but it must be a torch.Tensor of integers")
        length = check.real_tensor("length", self.length, what="edge lengths")
        if length.dim() == 0 or length.shape[-1:] != self.parent.shape:
            raise ValueError(
                f"length has shape {check.shape(length)} but parent has shape {check.shape(self.parent)}: "
                "there must be one length a node (the root's is not used)"
            )
        edges = length.detach()[..., self.parent.to(length.device) >= 0]
        if not bool((edges >= 0).all()):
            raise ValueError(f"length contains {edges.min().item():g}, but edge lengths must be numbers of at least 0")
        self.topology  # noqa: B018  (read now, so that a cycle is complained about here)

    # -- builders --------------------------------------------------------------------------------------------------

    @staticmethod
    def from_parents(
        parents: trees.Rows, length: trees.Lengths = None, *, leaves: Iterable[Hashable] | None = None
    ) -> Tree:
        """The tree of named nodes, of which each names its parent.

        Only what the paths between leaves need is kept: branches without leaves are cut, and a node with one branch is
        merged into the edge through it, whose length is the sum. No distance and no :func:`barrow.tree_emd`, of
        whatever exponent, changes by that.

        Args:
            parents: a mapping child -> parent or child -> (parent, length), or rows (child, parent) or (child, parent,
                length). The root may be left out or have the parent None. In a mapping whose children are tuples, a
                tuple is a name: give their lengths as ``length``.
            length: of the edge above each child: one number for all (1 unless given), a mapping child -> length, or
                one an entry of ``parents``, (K,) or (..., K). A tensor keeps its dtype and receives gradients, other
                numbers are in torch's default dtype.
            leaves: the names of the bins, in order; one with others below it gets a leaf of its own at no distance.
                Unless given, all names without children, in the order in which ``parents`` lists them.

        Raises:
            ValueError: several roots above the leaves, a cycle, a child with two parents, a leaf that is unknown or
                listed twice, no leaf, a length that is missing, negative or not finite.

        >>> zoo = {"cat": "mammal", "mammal": "animal", "eagle": "bird", "penguin": "bird", "bird": "animal"}
        >>> Tree.from_parents(zoo, leaves=["eagle", "penguin", "cat", "bird"]).dense()
        tensor([[0., 2., 4., 1.],
                [2., 0., 4., 1.],
                [4., 4., 0., 3.],
                [1., 1., 3., 0.]])
        """
        return Tree(*trees.from_parents(parents, length, leaves))

    @staticmethod
    def chain(n: int, spacing: float | Tensor = 1.0) -> Tree:
        """Bins on a line: D_ij = |z_i - z_j| for z_1 = 0, z_(i + 1) = z_i + spacing_i.

        :func:`barrow.tree_emd` on it is :func:`barrow.emd_1d` for every exponent, gradient included: the root is at
        the last bin. Take the latter where it does, it is faster; take this for what needs a :class:`barrow.Tree`.

        Args:
            n: the number of bins.
            spacing: between neighbours: a number, or (n - 1,) or (..., n - 1), which receives gradients.

        Raises:
            ValueError: n < 1, a wrong number of spacings, a negative or infinite one.

        >>> Tree.chain(3).dense()
        tensor([[0., 1., 2.],
                [1., 0., 1.],
                [2., 1., 0.]])
        """
        return Tree(*trees.chain(n, spacing))

    @staticmethod
    def from_points(x: Tensor, *, linkage: str = "complete", norm: float = 2) -> Tree:
        """A tree whose leaves are points; its metric D is above or below |x_i - x_j|, and so is its W_1 beside theirs.

            linkage     D_ij                                                     W_1 on the tree
            complete    largest distance between the two clusters that meet      at least the W_1
            spanning    length of the path in the minimum spanning tree          at least the W_1
            single      longest step on that path                                at most the W_1
            average     mean distance between the two clusters that meet         near it, no bound

        Clusters are merged two by two, the nearest first, and meet halfway: all their points are then equally far from
        where they meet. Choose ``complete`` for a hierarchy and an upper bound; ``spanning`` on data near a curve (on a
        line it is exact) or where n^2 numbers are too many; ``single`` for the lower bound, the largest ultrametric
        below the distances; ``average`` as an approximation.
        Time O(n^2 d), memory O(n^2) for ``complete`` and ``average``, else O(n d), in float64 on the CPU. Equal
        distances are resolved by the order of the points.

        Args:
            x: points (n, d), which need not be distinct; they receive no gradient.
            linkage: see above.
            norm: ground norm, 1, 2 or inf.

        Returns:
            A tree with the dtype and the device of x; bounds hold up to the rounding to that dtype.

        Raises:
            ValueError: another shape, NaN or infinity, an unknown linkage or norm.

        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> Tree.from_points(x, linkage="complete").dense()
        tensor([[0., 1., 3.],
                [1., 0., 3.],
                [3., 3., 0.]])

        Source: Gower and Ross 1969 (single linkage and spanning trees); Murtagh 1983 (chains of nearest neighbours).
        """
        return Tree(*trees.from_points(x, linkage, norm))

    @staticmethod
    def from_wordnet(ids: Iterable[str], data: str | os.PathLike[str] | None = None) -> Tree:
        """The hypernym tree over noun synsets of WordNet, such as the classes of ImageNet: every edge has length 1.

        A synset may have several hypernyms; one is chosen: synsets with a single path to the root come first, then
        again and again the path that adds the fewest synsets to the tree (of several the shortest, then that of the
        smallest offsets), so the metric does not depend on the order of ``ids``. As in :meth:`from_parents`, what no
        path needs is cut, edges in a row are merged into one with the sum of their lengths, and an id above others
        gets a leaf of its own at no distance. ``barrow.cost.wordnet`` tells which synset each node is (``nodes``), the
        tree before merging (``parents``) and what synsets are called (``words``).

        Args:
            ids: the bins, in order: n and the eight digits of the offset, such as n02084071. ImageNet's are those of
                WordNet 3.0. NLTK's synsets have them as ``f"n{synset.offset():08d}"``.
            data: the file data.noun or its folder. Unless given, the first of: the folders of WordNet (WNSEARCHDIR,
                WNHOME/dict), Debian (/usr/share/wordnet), NLTK (corpora/wordnet), the cache of ``barrow data``.

        Raises:
            FileNotFoundError: there is no data.noun; ``barrow data wordnet`` fetches it.
            ValueError: an id of another form, listed twice or not in the file, no id, another file than a data.noun.

        >>> import pathlib, tempfile
        >>> synset = "{} 03 n 01 {} 0 {} | glossary".format
        >>> lines = [
        ...     synset("00000001", "animal", "000"),
        ...     synset("00000002", "dog", "001 @ 00000001 n 0000"),
        ...     synset("00000003", "cat", "001 @ 00000001 n 0000"),
        ...     synset("00000004", "puppy", "001 @ 00000002 n 0000"),
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "data.noun").write_text("\\n".join(lines))
        ...     Tree.from_wordnet(["n00000003", "n00000004", "n00000002"], folder).dense()
        tensor([[0., 3., 2.],
                [3., 0., 1.],
                [2., 1., 0.]])

        Source: Redmon and Farhadi 2017 (YOLO9000), section 4, for the choice of paths.
        """
        return Tree(*wordnet.from_wordnet(ids, data))

    # -- the cost --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def topology(self) -> tree.Topology:
        """The tree without its lengths, read once."""
        return tree.Topology.of(self.parent).to(self.length.device)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.length,)

    def replace(self, *tensors: Tensor) -> Tree:
        # The topology is not read again: only lengths change.
        other = object.__new__(Tree)
        object.__setattr__(other, "parent", self.parent)
        object.__setattr__(other, "length", *tensors)
        object.__setattr__(other, "topology", self.topology)
        return other

    @property
    def leaves(self) -> Tensor:
        """(L,) the nodes that histograms live on, in index order."""
        return self.topology.leaves

    @property
    def edge_length(self) -> Tensor:
        """(..., N) the lengths, with 0 at the root."""
        return torch.where(self.topology.parent >= 0, self.length, 0)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    def to(self, dtype: torch.dtype) -> Tree:
        return self.replace(*(t.to(dtype) for t in self.tensors))

    @property
    def shape(self) -> tuple[int, int]:
        return self.leaves.numel(), self.leaves.numel()

    @property
    def batch_shape(self) -> torch.Size:
        return self.length.shape[:-1]

    @property
    def T(self) -> Tree:
        return self

    def block(self, start: int, stop: int) -> Tensor:
        leaf = torch.arange(self.shape[0], device=self.device)
        rows, cols = torch.broadcast_tensors(leaf[start:stop, None], leaf)
        depth = self._depth()
        row, col, meet = (depth[..., node] for node in self._nodes(rows, cols))
        return row + col - 2 * meet

    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        depth = self._depth()
        if depth.dim() == 1:
            row, col, meet = (depth[node] for node in self._nodes(rows, cols))
        else:
            batch = torch.broadcast_shapes(depth.shape[:-1], rows.shape[:-1])
            depth = depth.expand(*batch, -1)
            nodes = self._nodes(rows.expand(*batch, -1), cols.expand(*batch, -1))
            row, col, meet = (depth.gather(-1, node) for node in nodes)
        return row + col - 2 * meet

    def _depth(self) -> Tensor:
        return tree.ancestor_sum(self.topology, self.edge_length)

    def _nodes(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two leaves, as nodes, and the node where their paths to the root meet."""
        t = self.topology
        return t.leaves[rows], t.leaves[cols], tree.lowest_common_ancestors(t, rows, cols)

    def c_transform(self, h: Tensor, where: Tensor | None = None) -> Tensor:
        return tree.leaf_min_plus(self.topology, self.edge_length, h)

    def soft_c_transform(self, h: Tensor, epsilon: Tensor | float) -> Tensor:
        return blockwise_soft_c_transform(self, h, epsilon)

    def gibbs_pass(
        self, h: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        return gibbs_pass_in_two(self, h, epsilon, a, u, power)

    def limits(self) -> tuple[Tensor, Tensor]:
        depth = self._depth()
        return torch.zeros_like(depth[..., 0]), 2 * depth.amax(-1)

    def spread(self, u: Tensor, v: Tensor, *, tight: bool = False) -> Tensor:
        # By way of the root.
        depth = self._depth()[..., self.leaves]
        return (u * depth).sum(-1) * v.sum(-1) + u.sum(-1) * (v * depth).sum(-1)

    @property
    def roundings(self) -> float:
        # Sums along paths, by differences of prefix sums: relative to the longest path, not to the entry.
        return 4.0 * self.parent.numel()

    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Tree:
        return self.replace(reshape_batch(self.length, 1, batch_shape, to))

    def select(self, index: Tensor) -> Tree:
        return self.replace(self.length[index]) if self.batch_shape else self
