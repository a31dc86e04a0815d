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
from barrow.cost.base import (
    Cost,
    blockwise_c_transform,
    blockwise_soft_c_transform,
    gibbs_pass_in_two,
    reshape_batch,
)
from barrow.ops import distance, gibbs, monotone_min, pairs, triton
from barrow.ops.point_softmin import point_softmin

MEMORY = 8  # dimensions beyond which a stored matrix in float64 is read faster than computed


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Points(Cost):
    """C_ij = |x_i - y_j|_norm^p between two clouds of points, never stored as a matrix.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        p: the exponent, a real number of at least 1.
        norm: the ground norm: 1, 2 or inf.
        precision: the dtype of the entries; that of the points unless given. Points of float32 whose costs are float64
            are never stored again.

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
    precision: torch.dtype | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check.clouds(self.x, self.y)
        object.__setattr__(self, "p", check.exponent("p", self.p))
        object.__setattr__(self, "norm", check.ground_norm("norm", self.norm))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.x, self.y

    def replace(self, *tensors: Tensor) -> Points:
        x, y = tensors
        return Points(x, y, self.p, self.norm, precision=self.precision)

    @property
    def dtype(self) -> torch.dtype:
        return self.precision or self.x.dtype

    def to(self, dtype: torch.dtype) -> Points:
        if dtype == torch.float64 and self.x.dtype == torch.float32:
            return Points(self.x, self.y, self.p, self.norm, precision=dtype)
        return Points(self.x.to(dtype), self.y.to(dtype), self.p, self.norm)

    @functools.cached_property
    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Both clouds in the precision of the entries."""
        x = self.x.to(self.dtype)
        return x, x if self.x is self.y else self.y.to(self.dtype)

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
        return Points(self.y, self.x, self.p, self.norm, precision=self.precision)

    def block(self, start: int, stop: int) -> Tensor:
        if self.swept():
            return pairs.distances(self.x[..., start:stop, :], self.y, self.p, self.norm)
        x, y = self.coordinates
        return distance.all_pairs(x[..., start:stop, :], y, self.p, self.norm)

    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        if self.swept():
            return pairs.listed(self.x, self.y, rows, cols, self.p, self.norm)
        x, y = self.coordinates
        return distance.paired(_take(x, rows), _take(y, cols), self.p, self.norm)

    def c_transform(self, h: Tensor, where: Tensor | None = None) -> Tensor:
        if self.d > 1:
            if self.dtype == torch.float64 and "matrix" in self.__dict__ and pairs.swept(self.matrix, h):
                return pairs.matrix_c_transform(self.matrix, h)
            if self.swept(h) and self.p <= 32:  # more is too much for single precision
                return pairs.c_transform(self.x, self.y, h, self.p, self.norm, where)
            if self.single(h) and self.p <= 32:
                return pairs.c_transform(self.x, self.y, h.double(), self.p, self.norm, where).to(self.dtype)
            return blockwise_c_transform(self, h)
        batch = torch.broadcast_shapes(h.shape[:-1], self.batch_shape)
        u, v = (t[..., 0] for t in self.coordinates)
        x, y, h = (t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (u, v, h))
        return monotone_min.monotone_min(x, y, h, self.p).reshape(*batch, self.shape[0])

    def soft_c_transform(self, h: Tensor, epsilon: Tensor | float) -> Tensor:
        if self.launched(h) and (isinstance(epsilon, Tensor) or gibbs.in_range(epsilon)):
            return point_softmin(self.x, self.y, h, epsilon, self.p, self.norm)
        others = h, *(t for t in (epsilon,) if isinstance(t, Tensor))
        if self.single(*others) and gibbs.in_range(epsilon):
            precision = torch.float32 if self.p in (1, 2) else torch.float64  # other powers are coarse in single
            soft = gibbs.soft_c_transform(self.x, self.y, h.double(), epsilon, self.p, self.norm, precision)
            return soft.to(self.dtype)
        if not self.swept(*others) or not gibbs.in_range(epsilon):
            return blockwise_soft_c_transform(self, h, epsilon)
        if "matrix" in self.__dict__ and self.d > MEMORY:
            return gibbs.matrix_soft_c_transform(self.matrix, h, epsilon)
        return gibbs.soft_c_transform(self.x, self.y, h, epsilon, self.p, self.norm)

    def gibbs_pass(
        self, h: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Two soft minima of a device store no matrix either.
        if self.launched(h) or not self.swept(h, *(t for t in (a, u) if t is not None)) or not gibbs.in_range(epsilon):
            return gibbs_pass_in_two(self, h, epsilon, a, u, power)
        return gibbs.gibbs_pass(self.x, self.y, h, epsilon, self.p, self.norm, a, u, power)

    def limits(self) -> tuple[Tensor, Tensor]:
        largest, _, _ = self._extent
        return torch.zeros_like(largest), largest

    def spread(self, u: Tensor, v: Tensor, *, tight: bool = False) -> Tensor:
        if tight and self.norm == 2 and self.p <= 2:
            # The mean of squared distances is a formula, and that of lower powers is no larger (Jensen).
            x, y = self.coordinates
            x, y = x - self._middle, y - self._middle
            mass, far = u.sum(-1) * v.sum(-1), (u * x.square().sum(-1)).sum(-1) * v.sum(-1)
            far = far + u.sum(-1) * (v * y.square().sum(-1)).sum(-1)
            square = far - 2 * ((u[..., None] * x).sum(-2) * (v[..., None] * y).sum(-2)).sum(-1)
            square = square.clamp_min(0) + 64 * torch.finfo(far.dtype).eps * sum(self.shape) * far
            return torch.where(mass > 0, mass * (square / torch.where(mass > 0, mass, 1)).pow(self.p / 2), 0)
        # |x - y|^p <= 2^(p - 1) (|x - c|^p + |y - c|^p): by way of the middle.
        _, to_x, to_y = self._extent
        return 2 ** (self.p - 1) * ((u * to_x).sum(-1) * v.sum(-1) + u.sum(-1) * (v * to_y).sum(-1))

    @functools.cached_property
    def _middle(self) -> Tensor:
        """A point (..., 1, d) in the middle of both clouds."""
        x, y = self.coordinates
        return (x.mean(-2, keepdim=True) + y.mean(-2, keepdim=True)) / 2

    @functools.cached_property
    def _extent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The cost across the box around both clouds, and between its middle and each point."""
        if self.swept():
            return pairs.extent(self.x, self.y, self.p, self.norm)
        x, y = self.coordinates
        low = torch.minimum(x.amin(-2), y.amin(-2))
        side = torch.maximum(x.amax(-2), y.amax(-2)) - low
        middle = (low + side / 2)[..., None, :]
        to_x, to_y = (distance.paired(t, middle, self.p, self.norm) for t in (x, y))
        return torch.linalg.vector_norm(side, ord=self.norm, dim=-1).pow(self.p), to_x, to_y

    @functools.cached_property
    def matrix(self) -> Tensor:
        """The cost matrix, made once: whoever asks for it may have it kept."""
        return self.dense()

    def clouds(self) -> tuple[Tensor, Tensor] | None:
        """The clouds of a batch (B or 1, n, d) as they are stored, where the core makes their matrices one by one."""
        if len(self.batch_shape) != 1 or not self.swept():
            return None
        return self.x if self.x.dim() == 3 else self.x[None], self.y if self.y.dim() == 3 else self.y[None]

    def swept(self, *others: Tensor) -> bool:
        """Whether the core does it: it computes in float64."""
        return self.dtype == torch.float64 and pairs.swept(self.x, self.y) and (not others or pairs.swept(*others))

    def single(self, *others: Tensor) -> bool:
        """Whether the core does it for entries in single precision: the answer is rounded, the core computes better."""
        return self.dtype == torch.float32 and pairs.swept(self.x, self.y, *others)

    def launched(self, *others: Tensor) -> bool:
        """Whether the kernels of a device do it, in the precision of the entries; ``others`` are in that precision."""
        return triton.takes(self.x, self.y, *others) and all(t.dtype == self.dtype for t in others)

    @property
    def roundings(self) -> float:
        entry = distance.roundings(self.d, self.p)
        if self.p not in (1, 2) and triton.reaches(self.x):
            entry += 1024  # the kernels find powers through logarithms, which are as large as that
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


def _take(points: Tensor, index: Tensor) -> Tensor:
    """The points (..., n, d) at an index (..., k): (..., k, d)."""
    if points.dim() == 2:
        return points[index]
    batch = torch.broadcast_shapes(points.shape[:-2], index.shape[:-1])
    points, index = points.expand(*batch, *points.shape[-2:]), index.expand(*batch, index.shape[-1])
    return torch.take_along_dim(points, index[..., None], -2)
