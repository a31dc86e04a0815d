"""What every cost is.

Solvers see ``softmin``, ``vjp``, ``dense`` and ``shape``; structure (points on a line, a tree) is visible on the type.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from barrow.ops.chunks import row_ranges
from barrow.ops.softmin import hardmin, softmin


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
        """The data. The first says the dtype and the device; gradients flow to those that require one."""

    @abc.abstractmethod
    def replace(self, *tensors: Tensor) -> Self:
        """The same cost on other data of the same kind."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision of the entries."""

    @abc.abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """The same cost in another precision."""

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
    def c_transform(self, h: Tensor, where: Tensor | None = None) -> Tensor:
        """min_j C_ij - h_j: h (..., m) -> (..., n); numbers elsewhere than ``where`` (..., n) is true may be any."""

    @abc.abstractmethod
    def soft_c_transform(self, h: Tensor, epsilon: Tensor | float) -> Tensor:
        """-epsilon log sum_j exp((h_j - C_ij) / epsilon), epsilon > 0 a number or (...): h (..., m) -> (..., n)."""

    @abc.abstractmethod
    def gibbs_pass(
        self, h: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What one pass over the Gibbs kernel tells.

        f_i = -epsilon log sum_j exp((h_j - C_ij) / epsilon) normalises the rows of K_ij = exp((f_i + h_j - C_ij) /
        epsilon). Rows get the masses w_i, the smaller of a_i and exp((u_i - power f_i) / epsilon) where both are given,
        and then columns have the masses q = K' w.

        Returns:
            (f (..., n), w (..., n), q (..., m)).
        """

    @abc.abstractmethod
    def limits(self) -> tuple[Tensor, Tensor]:
        """Numbers that no entry of the matrix is below and above, one a problem: (...), (...)."""

    @abc.abstractmethod
    def spread(self, u: Tensor, v: Tensor, *, tight: bool = False) -> Tensor:
        """A cheap upper bound (...) on u' C v, for nonnegative u (..., n) and v (..., m); a better one if ``tight``."""

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
    def device(self) -> torch.device:
        """The device of the data."""
        return self.tensors[0].device

    def detach(self) -> Self:
        """The same cost, off the autograd graph."""
        return self.replace(*(t.detach() for t in self.tensors))

    def dense(self) -> Tensor:
        """The cost matrix (..., n, m), differentiable."""
        return self.block(0, self.shape[0])

    def chunks(self, batch: int = 1) -> Iterator[tuple[int, int]]:
        """Ranges of rows that keep a working set of ``batch`` problems small."""
        n, m = self.shape
        return row_ranges(n, batch * m)

    def softmin(self, h: Tensor, epsilon: Tensor | float, axis: int, where: Tensor | None = None) -> Tensor:
        """-epsilon log sum exp((h - C) / epsilon) along one axis, in memory O(n + m).

        ``axis=-1`` sums over columns, h (..., m) -> (..., n); ``axis=-2`` over rows, h (..., n) -> (..., m). h may hold
        -inf (no mass). epsilon is a number or one a problem (...); the number 0 gives the minimum, which is the
        c-transform; then results elsewhere than ``where`` is true may be any numbers.
        """
        cost = self if axis == -1 else self.T
        if not isinstance(epsilon, Tensor) and epsilon == 0:
            return cost.c_transform(h, where)
        return cost.soft_c_transform(h, epsilon)

    def vjp(self, plan: InPieces, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of <plan, C> times ``cotangent`` (...) to each of :attr:`tensors` that requires grad."""
        needed = [t.requires_grad for t in self.tensors]
        grads = [torch.zeros_like(t) if need else None for t, need in zip(self.tensors, needed, strict=True)]
        if not any(needed):
            return tuple(grads)
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


def row_masses(f: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float) -> Tensor:
    """The smaller of a and exp((u - power f) / epsilon), of those that are given."""
    given = [] if a is None else [a]
    if u is not None:
        given.append(torch.where(u > -torch.inf, ((u - power * f) / epsilon).exp(), 0))
    w = given[0] if len(given) == 1 else torch.minimum(*given)
    return torch.where(f < torch.inf, w, 0)


def blockwise_c_transform(cost: Cost, h: Tensor) -> Tensor:
    """The c-transform of a cost without structure, block by block."""
    batch = math.prod(torch.broadcast_shapes(h.shape[:-1], cost.batch_shape))
    return torch.cat([hardmin(cost.block(i, j), h) for i, j in cost.chunks(batch)], -1)


def blockwise_soft_c_transform(cost: Cost, h: Tensor, epsilon: Tensor | float) -> Tensor:
    """The soft c-transform of a cost without structure, block by block."""
    batch = math.prod(torch.broadcast_shapes(h.shape[:-1], cost.batch_shape))
    return torch.cat([softmin(cost.block(i, j), h, epsilon) for i, j in cost.chunks(batch)], -1)


def gibbs_pass_in_two(
    cost: Cost, h: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The pass over the Gibbs kernel by two soft minima."""
    f = cost.soft_c_transform(h, epsilon)
    w = row_masses(f, epsilon, a, u, power)
    back = cost.T.soft_c_transform(f + epsilon * w.log(), epsilon)
    return f, w, torch.where(h > -torch.inf, ((h - back) / epsilon).exp(), 0)


def reshape_batch(t: Tensor, keep: int, batch_shape: Sequence[int], to: Sequence[int]) -> Tensor:
    """Broadcast and reshape all but the last ``keep`` dimensions; an unbatched tensor stays unbatched (shared)."""
    if t.dim() == keep:
        return t
    tail = t.shape[t.dim() - keep :]
    return t.expand(*batch_shape, *tail).reshape(*to, *tail)
