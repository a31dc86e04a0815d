"""Powers of distances between the pixels of one regular grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.cost.base import Cost, blockwise_c_transform, blockwise_soft_c_transform, gibbs_pass_in_two
from barrow.ops import distance, monotone_min, separable


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grid(Cost):
    """C_ij = |z_i - z_j|_2^p between the pixels of one grid, z their coordinates: images, volumes, histograms.

    Pixels are in row-major order, so that the weights are ``image.flatten()``. A grid has no data of its own: a Problem
    computes in the precision and on the device of its weights. Prefer it to ``Points`` on pixel coordinates: at p = 2
    the c-transforms, and with them the sweeps of Sinkhorn, take O(n * sum of sides) instead of O(n^2).

    Args:
        shape: the number of pixels along each axis, such as (64, 64); n = m = their product.
        p: the exponent, a real number of at least 1.
        spacing: the distance of neighbours, a number or one an axis. No gradient is given to it.

    Raises:
        ValueError: no axis, a side that is no whole number of at least 1, p < 1, spacing <= 0, costs beyond float64.

    >>> Grid((2, 2), p=2).dense()
    tensor([[0., 1., 1., 2.],
            [1., 0., 2., 1.],
            [1., 2., 0., 1.],
            [2., 1., 1., 0.]])
    >>> dot = torch.zeros(64, 64)
    >>> dot[3, 4] = 1
    >>> barrow.solve(barrow.Problem(Grid((64, 64), p=1), dot.flatten(), dot.roll((3, 4), (0, 1)).flatten())).value
    tensor(5.)

    Source: Felzenszwalb and Huttenlocher 2012 (c-transforms axis by axis); Solomon et al. 2015 (entropic ones).
    """

    sides: tuple[int, ...]
    p: float
    spacing: tuple[float, ...]
    like: Tensor  # empty: the dtype and the device of the entries

    def __init__(self, shape: Sequence[int], p: float, *, spacing: float | Sequence[float] = 1.0) -> None:
        sides = check.sides("shape", shape)
        p = check.exponent("p", p)
        steps = check.one_an_axis("spacing", spacing, len(sides))
        diameter = math.hypot(*(s * (N - 1) for s, N in zip(steps, sides, strict=True)))
        # Squares are taken first, and the p-th power of them.
        logs = [max(p, 2) * math.log(length) for length in (diameter or 1, *steps)]
        if max(map(abs, logs)) > 700:
            raise ValueError(
                f"spacing {steps} and p = {p:g} on a grid of shape {sides} make costs that float64 cannot hold: "
                "choose other units"
            )
        for name, value in (("sides", sides), ("p", p), ("spacing", steps), ("like", torch.empty(0))):
            object.__setattr__(self, name, value)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.like,)

    def replace(self, *tensors: Tensor) -> Grid:
        other = object.__new__(Grid)
        for name, value in (("sides", self.sides), ("p", self.p), ("spacing", self.spacing), ("like", tensors[0])):
            object.__setattr__(other, name, value)
        return other

    def beside(self, t: Tensor) -> Grid:
        """The same cost in the precision and on the device of ``t``."""
        return self.replace(t.new_empty(0))

    @property
    def separable(self) -> bool:
        """Whether the cost is a sum over axes."""
        return self.p == 2

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    def to(self, dtype: torch.dtype) -> Grid:
        return self.replace(*(t.to(dtype) for t in self.tensors))

    @property
    def shape(self) -> tuple[int, int]:
        n = math.prod(self.sides)
        return n, n

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    @property
    def T(self) -> Grid:
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The squares of the spacings: what a difference of one pixel costs at p = 2, one an axis."""
        return tuple(s * s for s in self.spacing)

    def pixels(self) -> Tensor:
        """The coordinates of all pixels (n, axes)."""
        places = self._places(torch.arange(self.shape[0], device=self.device))
        return torch.stack([step * place for step, place in zip(self.spacing, places, strict=True)], -1)

    def _places(self, index: Tensor) -> list[Tensor]:
        """The coordinates of pixels by their number, in pixels, one tensor an axis; whole numbers, so exact."""
        places = []
        for side in reversed(self.sides):
            places.append((index % side).to(check.compute_dtype(self.dtype)))
            index = index // side
        return places[::-1]

    def _axis(self, k: int) -> Tensor:
        return torch.arange(self.sides[k], dtype=check.compute_dtype(self.dtype), device=self.device)

    def _power(self, square: Tensor) -> Tensor:
        """|z|^p from |z|^2, in the dtype of the cost."""
        root = square if self.p == 2 else square.sqrt() if self.p == 1 else square.pow(self.p / 2)
        return root.to(self.dtype)

    def block(self, start: int, stop: int) -> Tensor:
        rows = self._places(torch.arange(start, min(stop, self.shape[0]), device=self.device))
        return self._power(self._from(rows))

    def _from(self, places: list[Tensor]) -> Tensor:
        """|z - z_j|^2 for every pixel j, z given by its coordinates (k,), one tensor an axis: (k, n)."""
        total = torch.zeros((len(places[0]), 1), dtype=places[0].dtype, device=self.device)
        for k, (weight, place) in enumerate(zip(self.weights, places, strict=True)):
            square = weight * (place[:, None] - self._axis(k)).square()
            total = (total[:, :, None] + square[:, None, :]).flatten(1)
        return total

    def pairs(self, rows: Tensor, cols: Tensor) -> Tensor:
        sides = zip(self.weights, self._places(rows), self._places(cols), strict=True)
        total: Tensor | float = 0.0
        for weight, x, y in sides:
            total = total + weight * (x - y).square()
        assert isinstance(total, Tensor)
        return self._power(total)

    def c_transform(self, h: Tensor, where: Tensor | None = None) -> Tensor:
        exact = h.to(check.compute_dtype(h.dtype))
        if len(self.sides) == 1:
            unit = math.pow(self.spacing[0], self.p)
            place = self.beside(exact)._axis(0).expand(math.prod(h.shape[:-1]), -1)
            found = unit * monotone_min.monotone_min(place, place, exact.reshape(place.shape) / unit, self.p)
        elif self.separable:
            found = separable.grid_min(exact, self.sides, self.weights)
        else:
            found = blockwise_c_transform(self.beside(exact), exact)
        return found.reshape(h.shape).to(h.dtype)

    def soft_c_transform(self, h: Tensor, epsilon: Tensor | float) -> Tensor:
        exact = h.to(check.compute_dtype(h.dtype))
        if self.separable:
            found = separable.grid_softmin(exact, self.sides, self.weights, epsilon)
        else:
            found = blockwise_soft_c_transform(self.beside(exact), exact, epsilon)
        return found.to(h.dtype)

    def gibbs_pass(
        self, h: Tensor, epsilon: float, a: Tensor | None, u: Tensor | None, power: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        return gibbs_pass_in_two(self, h, epsilon, a, u, power)

    def limits(self) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([0, self.shape[0] - 1], device=self.device)
        low, high = self.pairs(ends[:1].expand(2), ends)  # a pixel to itself, and corner to corner
        # Powers are computed in two ways, by vector or one by one, that may differ in the last place.
        return low, high if self.p in (1, 2) else high * (1 + 4 * torch.finfo(high.dtype).eps)

    def spread(self, u: Tensor, v: Tensor, *, tight: bool = False) -> Tensor:
        # |x - y|^p <= 2^(p - 1) (|x - c|^p + |y - c|^p): by way of the middle.
        middle = [(self._axis(k)[-1:] / 2) for k in range(len(self.sides))]
        away = self._power(self._from(middle))[0]
        return 2 ** (self.p - 1) * ((u * away).sum(-1) * v.sum(-1) + u.sum(-1) * (v * away).sum(-1))

    @property
    def roundings(self) -> float:
        # The d + 2 of the separable transform are among these.
        entry = distance.roundings(len(self.sides), self.p)
        # On one axis the c-transform halves intervals, and each level may miss the minimum by two more roundings; the
        # spacing is taken out before, at four.
        return (entry + 4) * (1 + 2 * math.log2(sum(self.shape))) if len(self.sides) == 1 else entry

    def reshape_batch(self, batch_shape: Sequence[int], to: Sequence[int]) -> Grid:
        return self

    def select(self, index: Tensor) -> Grid:
        return self
