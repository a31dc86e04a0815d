"""Powers of distances between points."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.cost.base import Cost, blockwise_c_transform, blockwise_soft_c_transform, reshape_batch
from barrow.ops import distance, monotone_min, pairs


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
        object.__setattr__(self, "norm", check.ground_norm("norm", self.norm))

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
        if pairs.swept(self.x, self.y):
            return pairs.listed(self.x, self.y, rows, cols, self.p, self.norm)
        x = _take(self.x, rows)
        y = _take(self.y, cols)
        return distance.paired(x, y, self.p, self.norm)

    def c_transform(self, h: Tensor) -> Tensor:
        if self.d > 1:
            if pairs.swept(self.x, self.y, h) and self.p <= 32:  # more is too much for single precision
                return pairs.c_transform(self.x, self.y, h, self.p, self.norm)
            return blockwise_c_transform(self, h)
        batch = torch.broadcast_shapes(h.shape[:-1], self.batch_shape)
        x, y, h = (t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (self.x[..., 0], self.y[..., 0], h))
        return monotone_min.monotone_min(x, y, h, self.p).reshape(*batch, self.shape[0])

    def soft_c_transform(self, h: Tensor, epsilon: Tensor | float) -> Tensor:
        return blockwise_soft_c_transform(self, h, epsilon)

    def limits(self) -> tuple[Tensor, Tensor]:
        low = torch.minimum(self.x.amin(-2), self.y.amin(-2))
        side = torch.maximum(self.x.amax(-2), self.y.amax(-2)) - low  # of the box around both clouds: (..., d)
        diameter = torch.linalg.vector_norm(side, ord=self.norm, dim=-1)
        return torch.zeros_like(diameter), diameter.pow(self.p)

    def spread(self, u: Tensor, v: Tensor) -> Tensor:
        # |x - y|^p <= 2^(p - 1) (|x - c|^p + |y - c|^p): by way of the middle.
        to_x, to_y = self._to_centre
        return 2 ** (self.p - 1) * ((u * to_x).sum(-1) * v.sum(-1) + u.sum(-1) * (v * to_y).sum(-1))

    @functools.cached_property
    def _to_centre(self) -> tuple[Tensor, Tensor]:
        """The costs between each point and the middle of both clouds."""
        centre = (self.x.mean(-2, keepdim=True) + self.y.mean(-2, keepdim=True)) / 2
        to_x, to_y = (_to_one(t, centre, self.p, self.norm) for t in (self.x, self.y))
        return to_x, to_y

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
        return self.replace(reshape_batch(x, 2, batch_shape, to), reshape_batch(y, 2, batch_shape, to))

    def select(self, index: Tensor) -> Points:
        return self.replace(self.x[index], self.y[index]) if self.batch_shape else self


def _to_one(points: Tensor, place: Tensor, p: float, norm: float) -> Tensor:
    """The costs between points (..., n, d) and one place (..., 1, d): (..., n)."""
    if not pairs.swept(points, place):
        return distance.paired(points, place, p, norm)
    each = torch.arange(points.shape[-2])
    return pairs.listed(points, place, each, torch.zeros_like(each), p, norm)


def _take(points: Tensor, index: Tensor) -> Tensor:
    """The points (..., n, d) at an index (..., k): (..., k, d)."""
    if points.dim() == 2:
        return points[index]
    batch = torch.broadcast_shapes(points.shape[:-2], index.shape[:-1])
    points, index = points.expand(*batch, *points.shape[-2:]), index.expand(*batch, index.shape[-1])
    return torch.take_along_dim(points, index[..., None], -2)
