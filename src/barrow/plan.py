"""Transport plans: how much mass goes from each place to each other, rarely a matrix.

A plan answers ``plan @ v``, ``plan.T``, ``dense()`` and ``marginals()``, and hands out its entries in pieces, which is
all that costs, gradients and certificates need.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Cost, Dense, Grid, Points
from barrow.ops import device_gibbs, gibbs
from barrow.ops.chunks import row_ranges

Pick = Callable[[Cost], Tensor]


class Plan(abc.ABC):
    """A nonnegative matrix P (..., n, m)."""

    @property
    @abc.abstractmethod
    def shape(self) -> torch.Size:
        """(..., n, m)."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the entries."""

    @property
    @abc.abstractmethod
    def T(self) -> Plan:
        """The plan read backwards."""

    @abc.abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Rows start to stop as a matrix: (..., stop - start, m)."""

    @abc.abstractmethod
    def pieces(self) -> Iterator[tuple[Pick, Tensor]]:
        """The entries in pieces: a function that picks the same entries of a cost, and their mass."""

    @abc.abstractmethod
    def __matmul__(self, v: Tensor) -> Tensor:
        """P v for v (m,), (m, k) or (..., m, k)."""

    @abc.abstractmethod
    def marginals(self) -> tuple[Tensor, Tensor]:
        """(P 1, P' 1): (..., n), (..., m)."""

    @abc.abstractmethod
    def terms(self) -> Tensor | float:
        """How many entries, at most, a marginal sums: one number, or one a problem (...)."""

    @abc.abstractmethod
    def scale(self, r: Tensor, c: Tensor) -> Plan:
        """diag(r) P diag(c) for r (..., n) and c (..., m), both nonnegative."""

    @abc.abstractmethod
    def to(self, dtype: torch.dtype) -> Plan:
        """The same plan in another precision."""

    @abc.abstractmethod
    def reshape_batch(self, batch_shape: Sequence[int]) -> Plan:
        """The same plans with their batch dimensions reshaped."""

    def dense(self) -> Tensor:
        """The plan as a matrix (..., n, m)."""
        return self.block(0, self.shape[-2])

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows that keep a working set small."""
        *batch, n, m = self.shape
        return row_ranges(n, math.prod(batch) * m)

    def __repr__(self) -> str:
        *batch, n, m = self.shape
        return f"{type(self).__name__}({n} x {m}{f', batch {tuple(batch)}' if batch else ''})"


def _columns(v: object, plan: Plan) -> tuple[Tensor, bool]:
    """``v`` as (..., m, k), and whether it was a vector."""
    m = plan.shape[-1]
    v = check.real_tensor("v", v, what="what a plan is applied to").to(plan.dtype)
    rows = v.shape[-1] if v.dim() == 1 else v.shape[-2] if v.dim() else 0
    if rows != m:
        raise ValueError(f"v has shape {check.shape(v)}, but a plan of {m} columns takes ({m},) or (..., {m}, k)")
    return (v[:, None], True) if v.dim() == 1 else (v, False)


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SparsePlan(Plan):
    """A list of arcs: ``mass`` (..., k) from ``rows`` (..., k) to ``cols`` (..., k).

    Repeated pairs add up; padding is mass 0 at any pair. ``size`` is (n, m).

    Raises:
        ValueError: rows, cols and mass of different shapes, or indices that are not integers.
    """

    rows: Tensor
    cols: Tensor
    mass: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        shapes = [check.shape(t) for t in (self.rows, self.cols, self.mass)]
        if len(set(shapes)) > 1:
            raise ValueError(f"rows, cols and mass have shapes {', '.join(shapes)}, but they list the same arcs")
        if self.rows.dtype != torch.long or self.cols.dtype != torch.long:
            raise ValueError(
                f"rows and cols have dtypes {self.rows.dtype} and {self.cols.dtype}, but indices are int64"
            )

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.mass.shape[:-1], *self.size))

    @property
    def dtype(self) -> torch.dtype:
        return self.mass.dtype

    @property
    def T(self) -> SparsePlan:
        return SparsePlan(self.cols, self.rows, self.mass, (self.size[1], self.size[0]))

    def block(self, start: int, stop: int) -> Tensor:
        n, m = stop - start, self.size[1]
        inside = (self.rows >= start) & (self.rows < stop)
        index = torch.where(inside, (self.rows - start) * m + self.cols, 0)
        mass = torch.where(inside, self.mass, 0)
        flat = mass.new_zeros((*mass.shape[:-1], n * m)).scatter_add(-1, index, mass)
        return flat.reshape(*mass.shape[:-1], n, m)

    def pieces(self) -> Iterator[tuple[Pick, Tensor]]:
        yield lambda cost: cost.pairs(self.rows, self.cols), self.mass

    def __matmul__(self, v: Tensor) -> Tensor:
        v, is_vector = _columns(v, self)
        batch = torch.broadcast_shapes(v.shape[:-2], self.mass.shape[:-1])
        k = v.shape[-1]
        v = v.expand(*batch, *v.shape[-2:])
        rows, cols = (t.expand(*batch, -1)[..., None].expand(*batch, -1, k) for t in (self.rows, self.cols))
        moved = self.mass[..., None] * v.gather(-2, cols)
        out = v.new_zeros((*batch, self.size[0], k)).scatter_add(-2, rows, moved)
        return out[..., 0] if is_vector else out

    def marginals(self) -> tuple[Tensor, Tensor]:
        zero = self.mass.new_zeros
        batch = self.mass.shape[:-1]
        return (
            zero((*batch, self.size[0])).scatter_add(-1, self.rows, self.mass),
            zero((*batch, self.size[1])).scatter_add(-1, self.cols, self.mass),
        )

    def terms(self) -> Tensor:
        used = (self.mass > 0).to(self.mass.dtype)
        rows, cols = SparsePlan(self.rows, self.cols, used, self.size).marginals()
        return torch.maximum(rows.amax(-1), cols.amax(-1))

    def scale(self, r: Tensor, c: Tensor) -> SparsePlan:
        mass = self.mass * r.gather(-1, self.rows) * c.gather(-1, self.cols)
        return SparsePlan(self.rows, self.cols, mass, self.size)

    def to(self, dtype: torch.dtype) -> SparsePlan:
        return SparsePlan(self.rows, self.cols, self.mass.to(dtype), self.size)

    def reshape_batch(self, batch_shape: Sequence[int]) -> SparsePlan:
        rows, cols, mass = (t.reshape(*batch_shape, t.shape[-1]) for t in (self.rows, self.cols, self.mass))
        return SparsePlan(rows, cols, mass, self.size)


class _Blockwise(Plan):
    """What all plans that are known by blocks of rows share."""

    def pieces(self) -> Iterator[tuple[Pick, Tensor]]:
        for start, stop in self.chunks():
            yield lambda cost, i=start, j=stop: cost.block(i, j), self.block(start, stop)  # type: ignore[misc]

    @abc.abstractmethod
    def _times(self, v: Tensor) -> Tensor:
        """P v for v (..., m, k)."""

    def __matmul__(self, v: Tensor) -> Tensor:
        v, is_vector = _columns(v, self)
        out = self._times(v)
        return out[..., 0] if is_vector else out

    def terms(self) -> float:
        return float(max(self.shape[-2:]))


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DensePlan(_Blockwise):
    """A plan given as a matrix (..., n, m)."""

    P: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.P.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.P.dtype

    @property
    def T(self) -> DensePlan:
        return DensePlan(self.P.mT)

    def block(self, start: int, stop: int) -> Tensor:
        return self.P[..., start:stop, :]

    def _times(self, v: Tensor) -> Tensor:
        return self.P @ v

    def marginals(self) -> tuple[Tensor, Tensor]:
        return self.P.sum(-1), self.P.sum(-2)

    def scale(self, r: Tensor, c: Tensor) -> DensePlan:
        return DensePlan(r[..., None] * self.P * c[..., None, :])

    def to(self, dtype: torch.dtype) -> DensePlan:
        return DensePlan(self.P.to(dtype))

    def reshape_batch(self, batch_shape: Sequence[int]) -> DensePlan:
        return DensePlan(self.P.reshape(*batch_shape, *self.P.shape[-2:]))


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GibbsPlan(_Blockwise):
    """P_ij = exp((u_i + v_j - C_ij) / epsilon), computed where it is looked at.

    u = f + epsilon log r and v = g + epsilon log s carry the reference measure; -inf is no mass.
    """

    cost: Cost
    u: Tensor
    v: Tensor
    epsilon: float

    @property
    def shape(self) -> torch.Size:
        batch = torch.broadcast_shapes(self.u.shape[:-1], self.v.shape[:-1])
        return torch.Size((*batch, self.u.shape[-1], self.v.shape[-1]))

    @property
    def dtype(self) -> torch.dtype:
        return self.u.dtype

    @property
    def T(self) -> GibbsPlan:
        return GibbsPlan(self.cost.T, self.v, self.u, self.epsilon)

    def block(self, start: int, stop: int) -> Tensor:
        C = self.cost.block(start, stop)
        return ((self.u[..., start:stop, None] + self.v[..., None, :] - C) / self.epsilon).exp()

    @property
    def _by_axis(self) -> bool:
        """Whether sums over rows and columns are soft minima that cost less than the entries of the plan."""
        return isinstance(self.cost, Grid) and self.cost.separable

    def _times(self, v: Tensor) -> Tensor:
        swept = self._swept(v)
        if swept is not None:
            return swept
        if not self._by_axis:
            return torch.cat([self.block(i, j) @ v for i, j in self.chunks()], -2)
        positive = self._row_sums(v.clamp_min(0).log())
        return positive - self._row_sums((-v).clamp_min(0).log()) if bool((v < 0).any()) else positive

    def _swept(self, v: Tensor) -> Tensor | None:
        """P v for v (..., m, k) where the core or a device computes it, without a block of the plan."""
        cost = self.cost
        if isinstance(cost, Points) and cost.launched(self.u, self.v, v):
            return device_gibbs.gibbs_times(cost.x, cost.y, self.u, self.v, self.epsilon, cost.p, cost.norm, v)
        if isinstance(cost, Points) and (cost.swept(self.u, self.v, v) or cost.single(self.u, self.v, v)):
            u, w, V = (t.double() for t in (self.u, self.v, v))
            return gibbs.gibbs_times(cost.x, cost.y, u, w, self.epsilon, cost.p, cost.norm, V).to(v.dtype)
        if isinstance(cost, Dense) and cost.swept(self.u, self.v, v):
            return gibbs.matrix_gibbs_times(cost.C, self.u, self.v, self.epsilon, v)
        return None

    def gradient(self, cotangent: Tensor) -> tuple[Tensor, ...] | None:
        """That of <P, C> times ``cotangent`` (...) in the cost's data at fixed P, where a pass gives it."""
        cost = self.cost
        if not isinstance(cost, Points):
            return None
        if cost.launched(self.u, self.v):
            both = device_gibbs.gibbs_vjp(cost.x, cost.y, self.u, self.v, self.epsilon, cost.p, cost.norm)
        elif cost.swept(self.u, self.v, cotangent):
            both = gibbs.gibbs_vjp(cost.x, cost.y, self.u, self.v, self.epsilon, cost.p, cost.norm)
        else:
            return None
        return tuple(
            (cotangent[..., None, None] * t).sum_to_size(z.shape) for t, z in zip(both, cost.tensors, strict=True)
        )

    def _row_sums(self, log_v: Tensor) -> Tensor:
        """P v from log v (..., m, k), through soft minima."""
        h = self.v[..., None, :] + self.epsilon * log_v.mT  # (..., k, m)
        return ((self.u[..., None, :] - self.cost.softmin(h, self.epsilon, -1)) / self.epsilon).exp().mT

    def marginals(self) -> tuple[Tensor, Tensor]:
        if self._by_axis:
            rows, cols = (P._row_sums(torch.zeros_like(P.v)[..., None])[..., 0] for P in (self, self.T))
            return rows, cols
        if isinstance(self.cost, Points) and self.cost.launched(self.u, self.v):
            x, y = self.cost.tensors
            return device_gibbs.gibbs_marginals(x, y, self.u, self.v, self.epsilon, self.cost.p, self.cost.norm)
        row, col = (P._swept(torch.ones_like(P.v)[..., None]) for P in (self, self.T))
        if row is not None and col is not None:
            return row[..., 0], col[..., 0]
        row_sums, col_sum = [], torch.zeros((), dtype=self.dtype)
        for i, j in self.chunks():
            P = self.block(i, j)
            row_sums.append(P.sum(-1))
            col_sum = P.sum(-2) + col_sum.to(P.device)
        return torch.cat(row_sums, -1), col_sum

    def scale(self, r: Tensor, c: Tensor) -> GibbsPlan:
        return GibbsPlan(self.cost, self.u + self.epsilon * r.log(), self.v + self.epsilon * c.log(), self.epsilon)

    def to(self, dtype: torch.dtype) -> GibbsPlan:
        return GibbsPlan(self.cost.to(dtype), self.u.to(dtype), self.v.to(dtype), self.epsilon)

    def reshape_batch(self, batch_shape: Sequence[int]) -> GibbsPlan:
        now = self.shape[:-2]
        cost = self.cost.reshape_batch(now, batch_shape)
        u, v = (t.expand(*now, t.shape[-1]).reshape(*batch_shape, t.shape[-1]) for t in (self.u, self.v))
        return GibbsPlan(cost, u, v, self.epsilon)
