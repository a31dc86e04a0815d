"""Linear-time operations on rooted trees, vectorised over histograms on their leaves.

In depth-first order the leaves below a node are consecutive, so a sum over each subtree is a difference of two prefix
sums, and its transpose (a sum over the ancestors of each leaf) is a prefix sum of differences: one pass, no recursion.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """The shape of a rooted tree, without its edge lengths. N nodes, L leaves."""

    parent: Tensor  # (N,) the root's is -1
    leaves: Tensor  # (L,) node of each leaf, ascending: the order of the histograms
    leaf_order: Tensor  # (L,) leaves (as histogram indices) in depth-first order
    leaf_rank: Tensor  # (L,) the inverse permutation
    leaf_start: Tensor  # (N,) the leaves below a node are leaf_order[start:stop]
    leaf_stop: Tensor  # (N,)
    preorder: Tensor  # (N,) rank of each node in depth-first order
    preorder_stop: Tensor  # (N,) the nodes of the subtree have ranks [preorder, preorder_stop)
    levels: tuple[Tensor, ...]  # nodes by depth, the root alone first

    @functools.cached_property
    def meeting_points(self) -> Tensor:
        """Sparse table: entry (k, i) is the meeting point of leaves i .. i + 2^k in depth-first order.

        Of several nodes on the path between two leaves the shallowest is an ancestor of the others: the least preorder.
        """
        if self.leaves.numel() == 1:
            return self.leaves[None]
        # Leaves i and i + 1 meet at the parent of the one subtree that begins at i + 1 while its parent's began before.
        child = (self.parent >= 0).nonzero()[:, 0]
        up = self.parent[child]
        later = self.leaf_start[child] > self.leaf_start[up]
        gaps = torch.empty_like(self.leaves[1:])
        gaps[self.leaf_start[child[later]] - 1] = up[later]
        rows = [gaps]
        while 2 ** len(rows) <= gaps.numel():
            half = 2 ** (len(rows) - 1)
            low = rows[-1]
            high = torch.cat((low[half:], low[-1:].expand(half)))
            rows.append(torch.where(self.preorder[low] < self.preorder[high], low, high))
        return torch.stack(rows)

    @staticmethod
    def of(parent: Tensor) -> Topology:
        """Read a list of parents, or say in one sentence why it is not a tree."""
        if parent.dim() != 1 or parent.is_floating_point() or parent.dtype == torch.bool:
            raise ValueError(
                f"parent has shape {tuple(parent.shape)} and dtype {parent.dtype}, "
                "but it must be a vector of integers, one per node"
            )
        up = parent.tolist()
        N = len(up)
        roots = [v for v, u in enumerate(up) if u == -1]
        if len(roots) != 1:
            raise ValueError(f"parent names {len(roots)} roots, but a tree has exactly one: parent[root] = -1")
        children: list[list[int]] = [[] for _ in range(N)]
        for v, u in enumerate(up):
            if not -1 <= u < N:
                raise ValueError(f"parent[{v}] is {u}, but the nodes are numbered 0 to {N - 1}")
            if u >= 0:
                children[u].append(v)

        preorder, stop, depth = [-1] * N, [0] * N, [0] * N
        start_leaf, stop_leaf = [0] * N, [0] * N
        order: list[int] = []
        seen, stack = 0, [roots[0]]
        while stack:
            v = stack.pop()
            if v < 0:  # leaving node ~v: all its descendants are numbered
                stop[~v], stop_leaf[~v] = seen, len(order)
                continue
            preorder[v], start_leaf[v] = seen, len(order)
            seen += 1
            if not children[v]:
                order.append(v)
            stack.append(~v)
            for c in reversed(children[v]):
                depth[c] = depth[v] + 1
                stack.append(c)
        if seen < N:
            lost = preorder.index(-1)
            raise ValueError(f"parent has a cycle: following it from node {lost} never reaches the root {roots[0]}")

        leaves = sorted(order)
        index = {v: k for k, v in enumerate(leaves)}
        levels: list[list[int]] = [[] for _ in range(max(depth) + 1)]
        for v in range(N):
            levels[depth[v]].append(v)
        leaf_order = torch.tensor([index[v] for v in order])
        return Topology(
            parent=parent.detach().long().cpu(),
            leaves=torch.tensor(leaves),
            leaf_order=leaf_order,
            leaf_rank=leaf_order.argsort(),
            leaf_start=torch.tensor(start_leaf),
            leaf_stop=torch.tensor(stop_leaf),
            preorder=torch.tensor(preorder),
            preorder_stop=torch.tensor(stop),
            levels=tuple(torch.tensor(level) for level in levels),
        )

    def to(self, device: torch.device) -> Topology:
        """The same tree on another device."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "levels"]
        moved = {name: getattr(self, name).to(device) for name in names}
        return Topology(**moved, levels=tuple(level.to(device) for level in self.levels))


def subtree_sum(tree: Topology, values: Tensor) -> Tensor:
    """Sum of ``values`` (..., L) over the leaves below each node: (..., N).

    The prefix sums are kept in float64, so that a small subtree is not lost beside a large prefix.
    """
    ordered = values.double()[..., tree.leaf_order]
    prefix = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
    return (prefix[..., tree.leaf_stop] - prefix[..., tree.leaf_start]).to(values.dtype)


def ancestor_sum(tree: Topology, values: Tensor) -> Tensor:
    """Sum of ``values`` (..., N) over each node and its ancestors: (..., N)."""
    N = tree.parent.numel()
    change = values.new_zeros((*values.shape[:-1], N + 1), dtype=torch.float64)
    change = change.index_add(-1, tree.preorder, values.double())
    change = change.index_add(-1, tree.preorder_stop, -values.double())
    return change.cumsum(-1)[..., tree.preorder].to(values.dtype)


def lowest_common_ancestors(tree: Topology, rows: Tensor, cols: Tensor) -> Tensor:
    """The node where the paths from leaves ``rows`` and ``cols`` (histogram indices) to the root meet.

    Between two leaves in depth-first order the shallowest meeting point of neighbours is theirs: a range minimum.
    """
    first, last = tree.leaf_rank[rows], tree.leaf_rank[cols]
    first, last = torch.minimum(first, last), torch.maximum(first, last)
    table = tree.meeting_points
    span = (last - first).clamp_min(1)
    k = (span.double().log2().floor()).long()
    k = torch.where((1 << k) > span, k - 1, k)
    left = table[k, first.clamp_max(table.shape[1] - 1)]
    right = table[k, (last - (1 << k)).clamp(0, table.shape[1] - 1)]
    meet = torch.where(tree.preorder[left] < tree.preorder[right], left, right)
    return torch.where(first == last, tree.leaves[rows], meet)


def leaf_min_plus(tree: Topology, length: Tensor, h: Tensor) -> Tensor:
    """min_j D_ij - h_j over leaves j, D the tree metric: two sweeps, up and down. h (..., L) -> (..., L)."""
    N = tree.parent.numel()
    shape = torch.broadcast_shapes(h.shape[:-1], length.shape[:-1])
    best = h.new_full((*shape, N), torch.inf)
    best[..., tree.leaves] = -h.expand(*shape, h.shape[-1])
    length = length.expand(*shape, N)
    for level in reversed(tree.levels[1:]):
        up = tree.parent[level].expand(*shape, -1)
        best = best.scatter_reduce(-1, up, best[..., level] + length[..., level], "amin")
    for level in tree.levels[1:]:
        best[..., level] = torch.minimum(best[..., level], best[..., tree.parent[level]] + length[..., level])
    return best[..., tree.leaves]
