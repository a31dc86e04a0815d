"""The 1-Lipschitz function through given values: a critic made of cones."""

from __future__ import annotations

import math
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register

__all__ = ["McShaneCritic"]

NUMBERS = 1 << 22  # differences that are kept at a time


class McShaneCritic(nn.Module):
    """A scalar function that is the least of cones, 1-Lipschitz by construction whatever its parameters:

        f(x) = min_k |x - c_k| + b_k,     |f(x) - f(y)| <= |x - y|

    Every 1-Lipschitz function is the least of such cones, one at each point with its value for an offset, and the
    potentials of W_1 have few of them where mass moves towards few places. Its gradient is a unit vector almost
    everywhere, which no training can lose. Choose it where one law is concentrated, or as a start from values that a
    solver found (:meth:`through`); for images choose :class:`Critic`, as distances between pixels say little. A step of
    training moves only the cones that are lowest somewhere in the batch.

    Args:
        in_features: numbers in one input, whatever its shape.
        cones: how many.
        low, high: centres are drawn uniformly between them; offsets start at zero.

    Attributes:
        centers: (cones, in_features).
        offsets: (cones,).

    Raises:
        ValueError: a size is not a positive integer, low > high or not finite, or an input does not hold in_features
            numbers a sample.

    >>> critic = McShaneCritic.through(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([0.0, 1.0]))
    >>> critic(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])).tolist()
    [0.0, 1.0, 4.0]

    Source: McShane, "Extension of range of functions", Bulletin of the AMS 40, 1934.
    """

    def __init__(
        self, in_features: SupportsIndex, cones: SupportsIndex, *, low: float = -1.0, high: float = 1.0
    ) -> None:
        super().__init__()
        self.in_features = positive_integer("in_features", in_features)
        self.cones = positive_integer("cones", cones)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"low = {low} and high = {high} must be finite numbers with low <= high")
        self.centers = nn.Parameter(torch.empty(self.cones, self.in_features).uniform_(low, high))
        self.offsets = nn.Parameter(torch.zeros(self.cones))

    @classmethod
    def through(cls, points: Tensor, values: Tensor) -> McShaneCritic:
        """The largest 1-Lipschitz function that is at most ``values`` (k,) at ``points`` (k, ...).

        It equals them wherever that is possible. Through ``-g`` of an exact solution, on its ``y``, it is the best
        critic of these samples.
        """
        if points.ndim < 2 or values.shape != points.shape[:1] or len(values) == 0:
            raise ValueError(
                f"points has shape {shape(points)} and values {shape(values)}: one number a point, (k, ...) and (k,), "
                "k >= 1"
            )
        critic = cls(points[0].numel(), len(values)).to(points.device, points.dtype)
        with torch.no_grad():
            critic.centers.copy_(points.reshape(len(values), -1))
            critic.offsets.copy_(values)
        return critic

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to (batch,)."""
        if x.ndim == 0 or x.numel() != x.shape[0] * self.in_features:
            raise ValueError(
                f"x has shape {shape(x)}, but this critic takes (batch, ...) with {self.in_features} numbers a sample"
            )
        x = x.reshape(x.shape[0], self.in_features)
        rows = max(1, NUMBERS // (self.cones * self.in_features))
        with torch.no_grad():
            lowest = torch.cat([self._lowest(part) for part in x.split(rows)]) if len(x) else x.new_zeros(0).long()
        # Only the lowest cone has a gradient: distances to all would keep (batch, cones) numbers and as many roots.
        away = x - self.centers[lowest]
        square = away.square().sum(-1)
        apart = torch.where(square > 0, square, 1).sqrt()  # at its tip a cone's gradient is taken to be zero
        return torch.where(square > 0, apart, 0) + self.offsets[lowest]

    def _lowest(self, x: Tensor) -> Tensor:
        # By differences: squares expanded in single precision would forget small distances far from the origin.
        distance = torch.cdist(x, self.centers, compute_mode="donot_use_mm_for_euclid_dist")
        return (distance + self.offsets).argmin(-1)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"in_features={self.in_features}, cones={self.cones}"


@register(McShaneCritic)
def _mcshane(module: McShaneCritic, path: str) -> float:
    return 1.0
