"""Powers of distances between points, for all pairs or for listed ones.

Differences are taken directly, coordinate by coordinate, and never through x.x - 2 x.y + y.y: each difference of two
floats carries one rounding, so translating both clouds changes nothing and a computed distance has a small *relative*
error (that is what the certificates rest on, see :func:`roundings`).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from barrow.ops import pairs


def roundings(d: int, p: float) -> float:
    """How many units of roundoff, at most, a computed |x - y|^p is away from the truth, relatively.

    d squares or absolute values each with a rounded difference (2 + 1), d - 1 additions, a root; raising to the p-th
    power multiplies the relative error by p and adds the error of pow.
    """
    return p * (d + 6) + 4


def all_pairs(x: Tensor, y: Tensor, p: float, norm: float) -> Tensor:
    """|x_i - y_j|_norm^p for x (..., n, d) and y (..., m, d): (..., n, m)."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return all_pairs(x.float(), y.float(), p, norm).to(x.dtype)
    if x.dtype == torch.float64 and pairs.swept(x, y):
        return pairs.distances(x, y, p, norm)
    if math.isinf(norm):
        # The gradient of cdist is no subgradient where several coordinates share the maximum.
        sides = ((x[..., :, None, k] - y[..., None, :, k]).abs() for k in range(x.shape[-1]))
        distance = functools.reduce(torch.maximum, sides)
    else:
        distance = torch.cdist(x, y, p=norm, compute_mode="donot_use_mm_for_euclid_dist")
    return distance if p == 1 else distance.square() if p == 2 else distance.pow(p)


def paired(x: Tensor, y: Tensor, p: float, norm: float) -> Tensor:
    """|x_k - y_k|_norm^p for x, y (..., k, d): (..., k), with gradient zero where x_k = y_k and p = 1."""
    difference = x - y
    if difference.shape[-1] == 1:
        distance = difference[..., 0].abs()
    elif norm == 1:
        distance = difference.abs().sum(-1)
    elif math.isinf(norm):
        distance = difference.abs().amax(-1)
    else:
        square = difference.square().sum(-1)
        if p == 2:
            return square
        # The double where keeps the root's infinite slope at zero out of the backward pass.
        apart = square > 0
        distance = torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
    return distance if p == 1 else distance.square() if p == 2 else distance.pow(p)
