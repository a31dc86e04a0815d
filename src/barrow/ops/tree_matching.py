"""Transport plans along a tree, optimal for its metric whatever the lengths of the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from barrow import _core


def tree_matching(parent: Tensor, leaves: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A plan between histograms a and b (B, L) on the leaves of a tree: rows, cols and mass, each (B, 2 L - 1).

    min(a_i, b_i) stays where it is. Surpluses and deficits are matched from the bottom up, inside the smallest subtree
    that contains both: then every edge carries the difference of the masses below it, the least it can. One linked list
    of unmatched leaves a node makes it O(N + L). Padded with row = col = 0 and mass = 0.

    Args:
        parent: (N,) int64, -1 at the root, nodes in any order.
        leaves: (L,) int64, the node where entry i of a histogram lives.
        a: histograms (B, L) >= 0, float64, on the CPU.
        b: histograms (B, L) >= 0 with the same sums as a.

    Raises:
        ValueError: parent is not a tree, or names a node that does not exist.

    >>> parent = torch.tensor([-1, 0, 0])
    >>> leaves = torch.tensor([1, 2])
    >>> a, b = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]], dtype=torch.float64)
    >>> rows, cols, mass = tree_matching(parent, leaves, a, b)
    >>> [(i, j, m) for i, j, m in zip(rows[0].tolist(), cols[0].tolist(), mass[0].tolist())]
    [(0, 0, 0.5), (1, 1, 0.25), (0, 1, 0.25)]
    """
    rows, cols, mass = _tree_matching(parent, leaves, a.detach(), b.detach())
    return rows, cols, mass


def tree_matching_reference(parent: Tensor, leaves: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`tree_matching` computes, in plain Python: the oracle of its tests."""
    above, nodes = parent.tolist(), leaves.tolist()
    B = a.shape[0]
    rows, cols, mass = (t.zero_() for t in _room(a))

    def depth(x: int) -> int:
        return 0 if above[x] < 0 else 1 + depth(above[x])

    for k in range(B):
        plan: list[tuple[int, int, float]] = []
        unmatched: list[list[list[float]]] = [[] for _ in above]  # per node: [leaf, surplus or minus the deficit]
        for i, (x, y) in enumerate(zip(a[k].tolist(), b[k].tolist(), strict=True)):
            if min(x, y) > 0:
                plan.append((i, i, min(x, y)))
            unmatched[nodes[i]].append([i, x - y])
        for x in sorted(range(len(above)), key=depth, reverse=True):
            gives = [entry for entry in unmatched[x] if entry[1] > 0]
            takes = [entry for entry in unmatched[x] if entry[1] < 0]
            while gives and takes:
                moved = min(gives[0][1], -takes[0][1])
                plan.append((int(gives[0][0]), int(takes[0][0]), moved))
                gives[0][1] -= moved
                takes[0][1] += moved
                gives = gives[gives[0][1] <= 0 :]
                takes = takes[takes[0][1] >= 0 :]
            if above[x] >= 0:
                unmatched[above[x]] += gives + takes
        for slot, (i, j, moved) in enumerate(plan):
            rows[k, slot], cols[k, slot], mass[k, slot] = i, j, moved
    return rows, cols, mass


def match_now(parent: Tensor, leaves: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`tree_matching` past torch's dispatcher, for callers that neither compile nor vmap."""
    rows, cols, mass = _room(a)
    threads = torch.get_num_threads()
    _core.tree_matching(
        parent.contiguous(), leaves.contiguous(), a.contiguous(), b.contiguous(), threads, rows, cols, mass
    )
    return rows, cols, mass


_tree_matching = torch.library.custom_op("barrow::tree_matching", match_now, mutates_args=(), device_types="cpu")


@_tree_matching.register_fake
def _(parent: Tensor, leaves: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _room(a)


def _room(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised tensors for the result."""
    size = (a.shape[0], max(0, 2 * a.shape[1] - 1))
    return (
        a.new_empty(size, dtype=torch.int64),
        a.new_empty(size, dtype=torch.int64),
        a.new_empty(size, dtype=torch.float64),
    )
