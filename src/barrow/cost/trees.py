"""Trees from lists of parents, from points, and on a line: parents and edge lengths for :class:`barrow.Tree`.

Everywhere the first L nodes are the leaves, in the order of the histogram.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from barrow import check
from barrow.ops import distance

LINKAGES = "complete", "average", "single", "spanning"

Rows = Mapping[Any, Any] | Iterable[Sequence[Any]]
Lengths = float | Tensor | Sequence[float] | Mapping[Any, float] | None
Merges = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


# -- from a list of parents --------------------------------------------------------------------------------------------


def from_parents(parents: Rows, length: Lengths, leaves: Iterable[Hashable] | None) -> tuple[Tensor, Tensor]:
    """What :meth:`barrow.Tree.from_parents` documents."""
    children, above, lengths = _columns(parents, pairs=length is None)
    if lengths is not None and length is not None:
        raise ValueError("lengths are given twice, in parents and as length: give them once")
    names = list(children)
    number = {name: k for k, name in enumerate(names)}
    for name in above:
        if name is not None and number.setdefault(name, len(names)) == len(names):
            names.append(name)
    up = [-1 if name is None else number[name] for name in above] + [-1] * (len(names) - len(above))
    _refuse_cycles(up, names)
    edges = _edge_lengths(children, up, names, length if lengths is None else lengths)
    if leaves is None:
        inner = set(up)
        wanted = [k for k in range(len(names)) if k not in inner]
    else:
        wanted = [number[name] for name in distinct("leaves", leaves, number.__contains__, "is no name in parents")]
    parent, _, source, target = reduced(up, wanted, lambda k: repr(names[k]))
    return parent, gathered(edges, source, target, parent.numel())


def _columns(parents: Rows, *, pairs: bool) -> tuple[list[Hashable], list[Hashable], list[float] | None]:
    """The children, their parents and, if they are there, the lengths between."""
    rows: list[Sequence[Any]]
    if isinstance(parents, Mapping):
        # A tuple may be a name, but not where no child is one; a list never is.
        kinds = (list,) if any(isinstance(child, tuple) for child in parents) else (list, tuple)
        values = [v for v in parents.values() if v is not None]
        numbered = [isinstance(v, kinds) and len(v) == 2 and isinstance(v[1], (int, float)) for v in values]
        if pairs and values and all(numbered):
            rows = [(c, None, 0.0) if v is None else (c, *v) for c, v in parents.items()]
        else:
            rows = list(parents.items())
    else:
        rows = [row if isinstance(row, (tuple, list)) else (row,) for row in _listed("parents", parents)]
    if not rows:
        raise ValueError("parents is empty, but a tree has at least one node")
    for k, row in enumerate(rows):
        if len(row) not in (2, 3) or len(row) != len(rows[0]):
            raise ValueError(
                f"row {k} of parents is {row!r}, but rows are all (child, parent) or all (child, parent, length); for "
                "parents by number use Tree(parent, length)"
            )
        if not isinstance(row[1], Hashable):
            raise ValueError(f"the parent of {row[0]!r} is {row[1]!r}, but names must be hashable")
    children = [row[0] for row in rows]
    distinct("parents", children, lambda name: name is not None, "is no name of a child", "is a child twice")
    return children, [row[1] for row in rows], [row[2] for row in rows] if len(rows[0]) == 3 else None


def _edge_lengths(children: list[Hashable], up: list[int], names: list[Hashable], length: object) -> Tensor:
    """(..., names): the length of the edge above each name, 0 at roots."""
    K = count = len(children)
    rooted = [u < 0 for u in up[:K]]
    if isinstance(length, Tensor):
        edges = check.real_tensor("length", length, what="edge lengths")
        edges = edges.expand(K) if edges.dim() == 0 else edges
        count = edges.shape[-1]
    elif isinstance(length, Mapping):
        known = set(names)
        for name in length:
            if name not in known:
                raise ValueError(f"length has an entry for {name!r}, which is no name in parents")
        for name, root in zip(children, rooted, strict=True):
            if not root and name not in length:
                raise ValueError(f"length has no entry for {name!r}: give the length of the edge above every child")
        length = [length.get(name) for name in children]
    elif isinstance(length, Sequence) and not isinstance(length, str):
        count = len(length)
    else:
        length = [1.0 if length is None else check.number("length", length)] * K
    if count != K:
        raise ValueError(f"length has {count} numbers for {K} children: give one an entry of parents, in that order")
    if not isinstance(length, Tensor):
        above = zip(children, rooted, length, strict=True)
        said = "the length of the edge above {!r}".format
        edges = torch.tensor([0.0 if root else check.number(said(child), one) for child, root, one in above])
    free = torch.tensor(rooted, device=edges.device)
    bad = ~(free | ((edges.detach() >= 0) & (edges.detach() < math.inf)))
    if bool(bad.any()):
        place, value = int(bad.nonzero()[0, -1]), float(edges.detach()[bad][0])
        raise ValueError(f"the edge above {children[place]!r} has length {value:g}, but lengths are finite, at least 0")
    return torch.nn.functional.pad(torch.where(free, 0, edges), (0, len(names) - K))


def _refuse_cycles(up: Sequence[int], names: Sequence[Hashable]) -> None:
    state = [0] * len(up)  # 0 unseen, 1 on the present way up, 2 known to reach a root
    for start in range(len(up)):
        way, v = [], start
        while v >= 0 and not state[v]:
            state[v] = 1
            way.append(v)
            v = up[v]
        if v >= 0 and state[v] == 1:
            raise ValueError(f"parents has a cycle: {names[v]!r} is its own ancestor; the root's parent is None")
        for v in way:
            state[v] = 2


def _listed(name: str, given: object) -> list[Any]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {given!r}, but it must list names")
    return list(given)


def distinct(
    name: str, given: object, known: Callable[[Any], bool], unknown: str, twice: str = "is listed twice"
) -> list[Any]:
    """Refuse anything but a list of known names, each once."""
    listed = _listed(name, given)
    if not listed:
        raise ValueError(f"{name} is empty, but a tree has at least one leaf")
    seen: set[Hashable] = set()
    for one in listed:
        if not isinstance(one, Hashable) or not known(one):
            raise ValueError(f"{name}: {one!r} {unknown}")
        if one in seen:
            raise ValueError(f"{name}: {one!r} {twice}, but names must be distinct")
        seen.add(one)
    return listed


def reduced(
    up: Sequence[int], wanted: Sequence[int], say: Callable[[int], str]
) -> tuple[Tensor, list[int], list[int], list[int]]:
    """The smallest tree with given leaves and the same path lengths between them.

    Branches without wanted leaves are cut, nodes with one branch are merged into the edge through them, and a wanted
    node with wanted ones below gets a leaf of its own at no distance.

    Returns:
        The parents (N,), leaf k standing for ``wanted[k]``; the old nodes that the others stand for, in order; and the
        old edges ``source`` that the new edges ``target`` consist of, edges named by their lower ends.

    Raises:
        ValueError: the wanted nodes are under several roots.
    """
    branches: dict[int, list[int]] = {}
    tops: dict[int, int] = {}
    for w in wanted:
        v = w
        while v not in branches:
            branches[v] = []
            if up[v] < 0:
                tops[v] = w
                break
            v = up[v]
    for v in branches:
        if up[v] >= 0:
            branches[up[v]].append(v)
    if len(tops) > 1:
        (one, first), (two, second), *_ = tops.items()
        raise ValueError(
            f"{say(first)} is under the root {say(one)} but {say(second)} is under the root {say(two)}: give "
            f"all {len(tops)} roots one parent, or ask for leaves under one of them"
        )

    place = {w: k for k, w in enumerate(wanted)}
    fork = [v for v, below in branches.items() if len(below) + (v in place) > 1]
    node = {v: len(wanted) + k for k, v in enumerate(fork)}
    parent, source, target = [-1] * (len(wanted) + len(fork)), [], []
    for v, below in branches.items():
        if v in place and below:
            parent[place[v]] = node[v]
        if v in node or not below:
            new = node[v] if below else place[v]
            way: list[int] = []
            while v >= 0 and (not way or v not in node):
                way.append(v)
                v = up[v]
            if v >= 0:
                parent[new] = node[v]
                source += way
                target += [new] * len(way)
    return torch.tensor(parent), fork, source, target


def gathered(edges: Tensor, source: list[int], target: list[int], N: int) -> Tensor:
    """Sums (..., N) of the old edges that each new edge consists of, differentiable."""
    total = edges.new_zeros((*edges.shape[:-1], N))
    return total.index_add(-1, torch.tensor(target, dtype=torch.long, device=edges.device), edges[..., source])


# -- on a line ---------------------------------------------------------------------------------------------------------


def chain(n: int, spacing: float | Tensor) -> tuple[Tensor, Tensor]:
    """What :meth:`barrow.Tree.chain` documents."""
    n = check.whole("n", n)
    if isinstance(spacing, Tensor) and spacing.dim() > 0:
        steps = check.real_tensor("spacing", spacing, what="distances between bins")
        if steps.shape[-1] != n - 1:
            raise ValueError(
                f"spacing has shape {check.shape(steps)}, but {n} bins have {n - 1} gaps: expected shape (..., {n - 1})"
            )
        if not bool(((steps.detach() >= 0) & (steps.detach() < math.inf)).all()):
            raise ValueError(
                "spacing has a number that is negative or not finite, but distances between bins are neither"
            )
    else:
        dtype = spacing.dtype if isinstance(spacing, Tensor) else None
        steps = torch.full((n - 1,), check.positive("spacing", spacing), dtype=dtype)
    # Bin i > 0 hangs on node n + i - 1 of the path at no distance, and the last of these is the root.
    bins = torch.arange(n - 1, 2 * n - 1)
    parent = torch.cat((bins.clamp_min(n), torch.arange(n + 1, 2 * n - 1), torch.tensor([-1]))) if n > 1 else -bins - 1
    nothing = steps.new_zeros((*steps.shape[:-1], n - 1))
    return parent, torch.cat((steps[..., :1], nothing, steps[..., 1:], steps.new_zeros((*steps.shape[:-1], 1))), -1)


# -- from points -------------------------------------------------------------------------------------------------------


def from_points(x: Tensor, linkage: str, norm: float) -> tuple[Tensor, Tensor]:
    """What :meth:`barrow.Tree.from_points` documents."""
    x = check.cloud("x", x)
    norm = check.ground_norm("norm", norm)
    if linkage not in LINKAGES:
        raise ValueError(f"linkage is {linkage!r}, but the linkages are {', '.join(LINKAGES)}")
    if x.dim() != 2:
        raise ValueError(f"x has shape {check.shape(x)}, but a tree is built on one cloud: expected shape (n, d)")
    z = x.detach().double().cpu()
    if not bool(z.isfinite().all()):
        raise ValueError("x contains NaN or infinity: a tree is built on finite points")
    # A power of two takes the size out without a rounding, so that no square overflows.
    size = math.ldexp(1.0, math.frexp(float(z.abs().max()))[1] - 1)
    z = z / size
    n = len(z)
    if linkage == "spanning":
        up, edge = spanning_tree(z, norm)
        parent, _, source, target = reduced(up.tolist(), range(n), str)
        length = gathered(torch.from_numpy(edge), source, target, parent.numel())
    else:
        merges = single(z, norm) if linkage == "single" else agglomerated(z, norm, linkage)
        parent, length = dendrogram(n, *merges)
    length = (length * size).to(x)
    if not bool(length.isfinite().all()):
        raise ValueError(f"x has distances that {x.dtype} cannot hold: choose other units or call x.double() first")
    return parent, length


def spanning_tree(z: Tensor, norm: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Prim's minimum spanning tree, rooted at point 0: each point's parent and the distance to it. Memory O(n)."""
    n = len(z)
    up, nearest = np.full(n, -1), np.full(n, np.inf)
    outside = np.ones(n, dtype=bool)
    v = 0
    for _ in range(n - 1):
        outside[v] = False
        away = distance.paired(z, z[v], 1, norm).numpy()
        closer = outside & (away < nearest)
        nearest[closer], up[closer] = away[closer], v
        v = int(np.where(outside, nearest, np.inf).argmin())
    nearest[0] = 0
    return up, nearest


def single(z: Tensor, norm: float) -> Merges:
    """Single linkage merges along the edges of the minimum spanning tree (Gower and Ross 1969)."""
    up, edge = spanning_tree(z, norm)
    return np.arange(1, len(z)), up[1:], edge[1:]


def agglomerated(z: Tensor, norm: float, linkage: str) -> Merges:
    """Complete or average linkage by chains of nearest neighbours: O(n^2) time and memory.

    A chain steps from a cluster to its nearest one until two are each other's nearest, and these are merged: neither
    linkage brings a merged cluster nearer to others than its parts were, so the order does not matter.
    """
    n = len(z)
    D = distance.all_pairs(z, z, 1, norm).numpy().copy()
    np.fill_diagonal(D, np.inf)
    size = np.ones(n)
    one, two, height = np.zeros(n - 1, dtype=np.int64), np.zeros(n - 1, dtype=np.int64), np.zeros(n - 1)
    way: list[int] = []
    for k in range(n - 1):
        if not way:
            way = [int(size.argmax())]
        while True:
            v = way[-1]
            w = int(D[v].argmin())
            if len(way) > 1 and D[v, way[-2]] <= D[v, w]:  # a tie ends the chain, or it might run in circles
                w = way[-2]
                break
            way.append(w)
        del way[-2:]
        one[k], two[k], height[k] = v, w, D[v, w]
        if linkage == "complete":
            merged = np.maximum(D[v], D[w])
        else:
            merged = (size[v] * D[v] + size[w] * D[w]) / (size[v] + size[w])
        D[w], D[:, w], D[w, w] = merged, merged, np.inf
        D[v], D[:, v] = np.inf, np.inf
        size[w], size[v] = size[v] + size[w], 0
    return one, two, height


def dendrogram(
    n: int, one: NDArray[np.int64], two: NDArray[np.int64], height: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """The tree of merges, each of two clusters named by a point in them: leaves are as far apart as they merge high."""
    cluster = list(range(n))

    def node(v: int) -> int:
        while cluster[v] != v:
            cluster[v] = cluster[cluster[v]]
            v = cluster[v]
        return v

    named, at = list(range(n)), [0.0] * n
    parent, length = [-1] * (2 * n - 1), [0.0] * (2 * n - 1)
    for new, k in enumerate(np.argsort(height, kind="stable"), n):
        v, w = node(int(one[k])), node(int(two[k]))
        for below in (named[v], named[w]):
            parent[below] = new
            length[below] = (float(height[k]) - at[below]) / 2
        at.append(float(height[k]))
        cluster[v], named[w] = w, new
    return torch.tensor(parent), torch.tensor(length, dtype=torch.float64)
