"""What moving mass costs: our linear operator, never necessarily a matrix.

Solvers see ``softmin``, ``vjp``, ``dense`` and ``shape``; structure (points on a line, a tree) is visible on the type.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, final

import torch
from torch import Tensor

from barrow import check
from barrow.ops import distance, monotone_min, tree
from barrow.ops.softmin import hardmin, softmin

CHUNK = 1 << 21  # entries of a cost matrix that are looked at together: a few megabytes


class InPieces(Protocol):
    """Whatever can be multiplied entry by entry with a cost: a plan."""

    def pieces(self) -> Iterator[tuple[Callable[[Cost], Tensor], Tensor]]:
        """A function that picks some entries of a cost, and the mass there, until all are seen."""
        ...


class Cost(abc.ABC):
    """What it costs to move mass from each of n places to each of m places."""

    # -- what each cost says ---------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The data that gradients flow to."""

    @abc.abstractmethod
    def replace(self, *tensors: Tensor) -> Self:
        """The same cost on other data of the same kind."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, m), without batch dimensions."""

    @property
    @abc.abstractmethod
    def batch_shape(self) -> torch.Size:
        """Leading batch dimensions."""

    @property
    @abc.abstractmethod
    def T(self) -> Cost:
        """The cost of moving mass back."""

    @abc.abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Rows start to stop of the cost matrix, differentiable: (..., stop - start, m)."""

    @abc.abstractmethod
    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        """The costs of listed pairs, differentiable: rows, cols (..., k) -> (..., k)."""

    @abc.abstractmethod
    def c_transform(self, h: Tensor) -> Tensor:
        """min_j C_ij - h_j: h (..., m) -> (..., n)."""

    @abc.abstractmethod
    def limits(self) -> tuple[Tensor, Tensor]:
        """Numbers that no entry of the matrix is below and above, one a problem: (...), (...)."""

    @abc.abstractmethod
    def spread(self, u: Tensor, v: Tensor) -> Tensor:
        """A cheap upper bound (...) on u' C v, for nonnegative u (..., n) and v (..., m)."""

    @property
    @abc.abstractmethod
    def roundings(self) -> float:
        """How many units of roundoff a computed entry may be away from the truth, relatively."""

    @abc.abstractmethod
    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Self:
        """Broadcast the batch dimensions to ``batch_shape`` and reshape them to ``to``; a shared cost stays shared."""

    @abc.abstractmethod
    def select(self, index: Tensor) -> Self:
        """Some problems of a batch with one batch dimension; a shared cost stays shared."""

    # -- what follows ----------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the data."""
        return self.tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the data."""
        return self.tensors[0].device

    def to(self, dtype: torch.dtype) -> Self:
        """The same cost in another precision."""
        return self.replace(*(t.to(dtype) for t in self.tensors))

    def detach(self) -> Self:
        """The same cost, off the autograd graph."""
        return self.replace(*(t.detach() for t in self.tensors))

    def dense(self) -> Tensor:
        """The cost matrix (..., n, m), differentiable."""
        return self.block(0, self.shape[0])

    def chunks(self, batch: int = 1) -> Iterator[tuple[int, int]]:
        """Ranges of rows that keep a working set of ``batch`` problems at a few megabytes."""
        n, m = self.shape
        step = max(1, CHUNK // max(1, batch * m))
        return ((start, min(start + step, n)) for start in range(0, n, step))

    def softmin(self, h: Tensor, epsilon: Tensor | float, axis: int) -> Tensor:
        """-epsilon log sum exp((h - C) / epsilon) along one axis, in memory O(n + m).

        ``axis=-1`` sums over columns, h (..., m) -> (..., n); ``axis=-2`` over rows, h (..., n) -> (..., m). h may hold
        -inf (no mass). epsilon is a number or one a problem (...); the number 0 gives the minimum, which is the
        c-transform.
        """
        cost = self if axis == -1 else self.T
        if not isinstance(epsilon, Tensor) and epsilon == 0:
            return cost.c_transform(h)
        batch = math.prod(torch.broadcast_shapes(h.shape[:-1], self.batch_shape))
        return torch.cat([softmin(cost.block(i, j), h, epsilon) for i, j in cost.chunks(batch)], -1)

    def vjp(self, plan: InPieces, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of <plan, C> times ``cotangent`` (...) to each of :attr:`tensors` that requires grad."""
        needed = [t.requires_grad for t in self.tensors]
        grads = [torch.zeros_like(t) if need else None for t, need in zip(self.tensors, needed, strict=True)]
        for pick, mass in plan.pieces():
            weight = mass * cotangent.reshape(cotangent.shape + (1,) * (mass.dim() - cotangent.dim()))
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_(need) for t, need in zip(self.tensors, needed, strict=True)]
                entries = pick(self.replace(*leaves))
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            pulled = iter(torch.autograd.grad(entries, wanted, weight.sum_to_size(entries.shape).to(entries.dtype)))
            for k, need in enumerate(needed):
                if need:
                    grads[k] = grads[k] + next(pulled)  # type: ignore[operator]
        return tuple(grads)

    def __repr__(self) -> str:
        batch = f", batch {tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}{batch})"


def _blockwise_c_transform(cost: Cost, h: Tensor) -> Tensor:
    batch = math.prod(torch.broadcast_shapes(h.shape[:-1], cost.batch_shape))
    return torch.cat([hardmin(cost.block(i, j), h) for i, j in cost.chunks(batch)], -1)


def _reshape_batch(t: Tensor, keep: int, batch_shape: Sequence[int], to: Sequence[int]) -> Tensor:
    """Broadcast and reshape all but the last ``keep`` dimensions; an unbatched tensor stays unbatched (shared)."""
    if t.dim() == keep:
        return t
    tail = t.shape[t.dim() - keep :]
    return t.expand(*batch_shape, *tail).reshape(*to, *tail)


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Points(Cost):
    """C_ij = |x_i - y_j|_norm^p between two clouds of points, never stored as a matrix.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        p: the exponent, a real number of at least 1.
        norm: the ground norm: 1, 2 or inf.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, p < 1, an unknown norm.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> Points(x, x, p=1).dense()
    tensor([[0., 5.],
            [5., 0.]])
    """

    x: Tensor
    y: Tensor
    p: float = 2
    norm: float = 2

    def __post_init__(self) -> None:
        check.clouds(self.x, self.y)
        object.__setattr__(self, "p", check.exponent("p", self.p))
        object.__setattr__(self, "norm", check.number("norm", self.norm))
        if self.norm not in (1, 2, math.inf):
            raise ValueError(f"norm is {self.norm}, but the ground norms are 1, 2 and inf")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.x, self.y

    def replace(self, *tensors: Tensor) -> Points:
        x, y = tensors
        return Points(x, y, self.p, self.norm)

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[-2], self.y.shape[-2]

    @property
    def d(self) -> int:
        """The dimension of the space."""
        return self.x.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return check.batch(x=self.x.shape[:-2], y=self.y.shape[:-2])

    @property
    def T(self) -> Points:
        return Points(self.y, self.x, self.p, self.norm)

    def block(self, start: int, stop: int) -> Tensor:
        return distance.all_pairs(self.x[..., start:stop, :], self.y, self.p, self.norm)

    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        x = _take(self.x, rows)
        y = _take(self.y, cols)
        return distance.paired(x, y, self.p, self.norm)

    def c_transform(self, h: Tensor) -> Tensor:
        if self.d > 1:
            return _blockwise_c_transform(self, h)
        batch = torch.broadcast_shapes(h.shape[:-1], self.batch_shape)
        x, y, h = (t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (self.x[..., 0], self.y[..., 0], h))
        return monotone_min.monotone_min(x, y, h, self.p).reshape(*batch, -1)

    def limits(self) -> tuple[Tensor, Tensor]:
        low = torch.minimum(self.x.amin(-2), self.y.amin(-2))
        side = torch.maximum(self.x.amax(-2), self.y.amax(-2)) - low  # of the box around both clouds: (..., d)
        diameter = torch.linalg.vector_norm(side, ord=self.norm, dim=-1)
        return torch.zeros_like(diameter), diameter.pow(self.p)

    def spread(self, u: Tensor, v: Tensor) -> Tensor:
        # |x - y|^p <= 2^(p - 1) (|x - c|^p + |y - c|^p): by way of the middle.
        centre = (self.x.mean(-2, keepdim=True) + self.y.mean(-2, keepdim=True)) / 2
        to_x, to_y = (distance.paired(t, centre, self.p, self.norm) for t in (self.x, self.y))
        return 2 ** (self.p - 1) * ((u * to_x).sum(-1) * v.sum(-1) + u.sum(-1) * (v * to_y).sum(-1))

    @property
    def roundings(self) -> float:
        entry = distance.roundings(self.d, self.p)
        # On a line the c-transform halves intervals, and each level may miss the minimum by two more roundings.
        return entry * (1 + 2 * math.log2(sum(self.shape))) if self.d == 1 else entry

    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Points:
        if not self.batch_shape:
            return self
        # One batched cloud makes both batched: they are paired problem by problem.
        x, y = (t.expand(*self.batch_shape, *t.shape[-2:]) for t in (self.x, self.y))
        return self.replace(_reshape_batch(x, 2, batch_shape, to), _reshape_batch(y, 2, batch_shape, to))

    def select(self, index: Tensor) -> Points:
        return self.replace(self.x[index], self.y[index]) if self.batch_shape else self


def _take(points: Tensor, index: Tensor) -> Tensor:
    """The points (..., n, d) at an index (..., k): (..., k, d)."""
    if points.dim() == 2:
        return points[index]
    batch = torch.broadcast_shapes(points.shape[:-2], index.shape[:-1])
    points, index = points.expand(*batch, *points.shape[-2:]), index.expand(*batch, index.shape[-1])
    return torch.take_along_dim(points, index[..., None], -2)


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dense(Cost):
    """A cost matrix C (..., n, m). Any numbers: negative ones are legal, and no metric is needed.

    Raises:
        ValueError: not a floating-point tensor with at least two dimensions, none empty.

    >>> Dense(torch.eye(2)).softmin(torch.zeros(2), 0, axis=-1)
    tensor([0., 0.])
    """

    C: Tensor

    def __post_init__(self) -> None:
        C = check.real_tensor("C", self.C, what="a cost matrix")
        if C.dim() < 2 or C.shape[-1] == 0 or C.shape[-2] == 0:
            raise ValueError(f"C has shape {check.shape(C)}, but a cost matrix has shape (..., n, m) with n, m >= 1")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.C,)

    def replace(self, *tensors: Tensor) -> Dense:
        return Dense(*tensors)

    @property
    def shape(self) -> tuple[int, int]:
        return self.C.shape[-2], self.C.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return self.C.shape[:-2]

    @property
    def T(self) -> Dense:
        return Dense(self.C.mT)

    def block(self, start: int, stop: int) -> Tensor:
        return self.C[..., start:stop, :]

    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        if self.C.dim() == 2:
            return self.C[rows, cols]
        flat = self.C.flatten(-2)
        index = rows * self.C.shape[-1] + cols
        batch = torch.broadcast_shapes(flat.shape[:-1], index.shape[:-1])
        return flat.expand(*batch, flat.shape[-1]).gather(-1, index.expand(*batch, index.shape[-1]))

    def c_transform(self, h: Tensor) -> Tensor:
        return _blockwise_c_transform(self, h)

    def limits(self) -> tuple[Tensor, Tensor]:
        return self.C.amin((-2, -1)), self.C.amax((-2, -1))

    def spread(self, u: Tensor, v: Tensor) -> Tensor:
        return self.C.amax((-2, -1)) * u.sum(-1) * v.sum(-1)

    @property
    def roundings(self) -> float:
        return 0

    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Dense:
        return Dense(_reshape_batch(self.C, 2, batch_shape, to))

    def select(self, index: Tensor) -> Dense:
        return Dense(self.C[index]) if self.batch_shape else self


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

    def c_transform(self, h: Tensor) -> Tensor:
        return tree.leaf_min_plus(self.topology, self.edge_length, h)

    def limits(self) -> tuple[Tensor, Tensor]:
        depth = self._depth()
        return torch.zeros_like(depth[..., 0]), 2 * depth.amax(-1)

    def spread(self, u: Tensor, v: Tensor) -> Tensor:
        # By way of the root.
        depth = self._depth()[..., self.leaves]
        return (u * depth).sum(-1) * v.sum(-1) + u.sum(-1) * (v * depth).sum(-1)

    @property
    def roundings(self) -> float:
        # Sums along paths, by differences of prefix sums: relative to the longest path, not to the entry.
        return 4.0 * self.parent.numel()

    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Tree:
        return self.replace(_reshape_batch(self.length, 1, batch_shape, to))

    def select(self, index: Tensor) -> Tree:
        return self.replace(self.length[index]) if self.batch_shape else self
