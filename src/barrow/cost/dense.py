"""A matrix of costs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.cost.base import (
    Cost,
    blockwise_c_transform,
    blockwise_soft_c_transform,
    gibbs_pass_in_two,
    reshape_batch,
)
from barrow.cost.kernel import Kernel
from barrow.ops import gibbs, pairs

MANY = 8  # problems with one cost from which on a product of matrices is faster than their passes


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dense(Cost):
    """A cost matrix C (..., n, m). Any numbers: negative ones are legal, no metric is needed, and +inf forbids an arc.

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
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    def to(self, dtype: torch.dtype) -> Dense:
        return self.replace(*(t.to(dtype) for t in self.tensors))

    @property
    def shape(self) -> tuple[int, int]:
        return self.C.shape[-2], self.C.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return self.C.shape[:-2]

    @property
    def T(self) -> Dense:
        flipped = Dense(self.C.mT)
        epsilon, kernel = self.__dict__.get("_kernel", (0.0, None))
        if kernel is not None:
            object.__setattr__(flipped, "_kernel", (epsilon, kernel.T))
        return flipped

    def block(self, start: int, stop: int) -> Tensor:
        return self.C[..., start:stop, :]

    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        if self.C.dim() == 2:
            return self.C[rows, cols]
        flat = self.C.flatten(-2)
        index = rows * self.C.shape[-1] + cols
        batch = torch.broadcast_shapes(flat.shape[:-1], index.shape[:-1])
        return flat.expand(*batch, flat.shape[-1]).gather(-1, index.expand(*batch, index.shape[-1]))

    def c_transform(self, h: Tensor, where: Tensor | None = None) -> Tensor:
        return pairs.matrix_c_transform(self.C, h) if self.swept(h) else blockwise_c_transform(self, h)

    def soft_c_transform(self, h: Tensor, epsilon: Tensor | float) -> Tensor:
        if (kernel := self.kernel(h.shape[:-1].numel(), epsilon)) is not None:
            return kernel.soft_c_transform(h)
        if not self.swept(h, *(t for t in (epsilon,) if isinstance(t, Tensor))):
            return blockwise_soft_c_transform(self, h, epsilon)
        if not gibbs.in_range(epsilon):
            return blockwise_soft_c_transform(self, h, epsilon)
        return gibbs.matrix_soft_c_transform(self.C, h, epsilon)

    def gibbs_pass(
        self, h: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        if (kernel := self.kernel(h.shape[:-1].numel(), epsilon)) is not None:
            return kernel.gibbs_pass(h, a, u, power)
        if not self.swept(h, *(t for t in (a, u) if t is not None)) or not gibbs.in_range(epsilon):
            return gibbs_pass_in_two(self, h, epsilon, a, u, power)
        return gibbs.matrix_gibbs_pass(self.C, h, epsilon, a, u, power)

    def kernel(self, batch: int, epsilon: Tensor | float) -> Kernel | None:
        """exp(-C / epsilon), made once, where a batch shares it and all is in range: its passes are products."""
        known: tuple[float, Kernel | None] = self.__dict__.get("_kernel", (0.0, None))
        if self.C.dim() != 2 or (batch < MANY and known[1] is None) or self.dtype != torch.float64 or self.forbids:
            return None
        if isinstance(epsilon, Tensor):
            if epsilon.numel() == 0 or not bool((epsilon == epsilon.flatten()[0]).all()):
                return None
            epsilon = float(epsilon.flatten()[0])
        if known[0] != epsilon:
            known = (epsilon, Kernel.of(self.C, epsilon))
            object.__setattr__(self, "_kernel", known)
        return known[1]

    def swept(self, *others: Tensor) -> bool:
        """Whether the core does it: it computes in float64."""
        return self.dtype == torch.float64 and pairs.swept(self.C, *others)

    @functools.cached_property
    def forbids(self) -> bool:
        """Whether an arc is forbidden."""
        return bool((self.C.amax((-2, -1)) == torch.inf).any())

    def limits(self) -> tuple[Tensor, Tensor]:
        """Of the allowed arcs; 0 and 0 where there is none."""
        return self._limits

    @functools.cached_property
    def _limits(self) -> tuple[Tensor, Tensor]:
        low, high = self.C.amin((-2, -1)), self.C.amax((-2, -1))
        if bool((high == torch.inf).any()):
            blocks = (self.block(i, j) for i, j in self.chunks(math.prod(self.batch_shape)))
            rows = torch.cat([torch.where(t == torch.inf, -torch.inf, t).amax(-1) for t in blocks], -1)
            high = torch.where(low == torch.inf, 0, rows.amax(-1))
            low = torch.where(low == torch.inf, 0, low)
        return low, high

    def spread(self, u: Tensor, v: Tensor, *, tight: bool = False) -> Tensor:
        if tight and not self.forbids:
            to_row = v @ self.C.mT if self.C.dim() == 2 else (self.C @ v[..., None])[..., 0]
            return (to_row * u).sum(-1)
        return self.limits()[1] * u.sum(-1) * v.sum(-1)

    @property
    def roundings(self) -> float:
        return 0

    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Dense:
        return Dense(reshape_batch(self.C, 2, batch_shape, to))

    def select(self, index: Tensor) -> Dense:
        return Dense(self.C[index]) if self.batch_shape else self
