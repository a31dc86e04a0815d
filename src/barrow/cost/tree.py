"""Path lengths between the leaves of a tree."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from barrow import check
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

    Leaves are the nodes without children, in index order.

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
