"""Minima and soft minima over a regular grid for squared distances, one axis after the other.

A squared distance is a sum over axes, so min_j C_ij - h_j is a minimum along one axis of minima along the others: n
pixels cost O(n * sum of sides) instead of O(n^2). Log-sum-exp separates in the same way.
Source: Felzenszwalb and Huttenlocher 2012 (minima); Solomon et al. 2015 (the heat kernel).

Rounding: squares of whole numbers are exact, a weight adds two roundings to its axis, and each axis subtracts once. A
subtraction rounds relatively to a partial minimum, which lies between -max h and the result, so d axes are away from
the truth by at most (d + 2) units of the largest number that goes in or comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from barrow.ops.chunks import row_ranges
from barrow.ops.softmin import hardmin, softmin

RANGE = 600.0  # exp(-600) is a normal float64, and so is whatever counts beside it
SHORT = 4  # pixels: pieces of an axis that are no longer than this are not worth a matrix product


def grid_min(h: Tensor, sides: Sequence[int], weights: Sequence[float]) -> Tensor:
    """min_j sum_k weights_k (i_k - j_k)^2 - h_j on a grid in row-major order, h (..., n), -inf allowed: (..., n)."""
    flat = h.reshape(-1, *sides) if h.numel() else h.reshape(0, *sides)
    return _axis_by_axis(flat, weights, _min_along).reshape(h.shape)


def grid_softmin(h: Tensor, sides: Sequence[int], weights: Sequence[float], epsilon: Tensor | float) -> Tensor:
    """The soft minimum -epsilon log sum_j exp((h_j - C_ij) / epsilon) in the place of :func:`grid_min`'s minimum.

    epsilon > 0 is a number or one a problem (...).
    """
    if not isinstance(epsilon, Tensor):
        joint, count = h.shape[:-1], 1
        epsilon = torch.full((1,), epsilon, dtype=h.dtype, device=h.device)
    else:
        joint = torch.broadcast_shapes(h.shape[:-1], epsilon.shape)
        epsilon, count = epsilon.expand(joint).reshape(-1), math.prod(joint)
    h = h.expand(*joint, h.shape[-1])
    if h.numel() == 0:
        return h.clone()
    strengths = epsilon
    least = float(epsilon.min())  # the one number that is read: it chooses how long the pieces of an axis are

    def along(t: Tensor, weight: float) -> Tensor:
        rows = t.reshape(count, -1, t.shape[-1])
        length = _piece(t.shape[-1], weight, least) if t.dtype == torch.float64 else 0
        found = _sum_along(rows, weight, strengths, length) if length > SHORT else _log_along(rows, weight, strengths)
        return found.reshape(t.shape)

    return _axis_by_axis(h.reshape(-1, *sides), weights, along).reshape(h.shape)


def _axis_by_axis(t: Tensor, weights: Sequence[float], along: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Apply ``along``, which works on the last dimension, to each axis of t (B, *sides)."""
    for axis, weight in enumerate(weights, start=1):
        side = t.shape[axis]
        if side > 1:
            lines = t.movedim(axis, -1).contiguous()  # sums over strides are many times slower
            t = -along(lines.reshape(-1, side), weight).reshape(lines.shape).movedim(-1, axis)
    return -t


def _squares(start: int, stop: int, side: int, weight: float, like: Tensor) -> Tensor:
    """Rows start to stop of weight (i - j)^2: (stop - start, side)."""
    place = torch.arange(side, dtype=like.dtype, device=like.device)
    return weight * (place[start:stop, None] - place).square()


def _min_along(h: Tensor, weight: float) -> Tensor:
    """min_j weight (i - j)^2 - h_j for every row of h (R, N): (R, N)."""
    R, N = h.shape
    ranges = row_ranges(N, 4 * R * N)  # nothing but memory traffic: smaller blocks are faster
    return torch.cat([hardmin(_squares(i, j, N, weight, h), h) for i, j in ranges], -1)


def _log_along(h: Tensor, weight: float, epsilon: Tensor) -> Tensor:
    """The soft minimum along the last dimension of h (B, R, N) for epsilon (B,), whatever epsilon is."""
    B, R, N = h.shape
    ranges = row_ranges(N, B * R * N)
    return torch.cat([softmin(_squares(i, j, N, weight, h), h, epsilon[:, None]) for i, j in ranges], -1)


def _piece(side: int, weight: float, epsilon: float) -> int:
    """How many neighbours on an axis a pixel sees at costs that differ by at most RANGE epsilon, wherever it is."""
    reach = RANGE * epsilon / weight
    return side if (side - 1) ** 2 <= reach else min(side, 1 + int(reach / (2 * side)))


def _sum_along(h: Tensor, weight: float, epsilon: Tensor, length: int) -> Tensor:
    """The same as :func:`_log_along` as matrix products, an exponential a pixel instead of one a pair.

    An axis is cut in pieces over which the cost varies by at most RANGE epsilon, so that the kernel relative to its
    largest entry in a piece does not underflow: the largest h of a piece then counts fully, and what underflows is
    nothing beside it. All terms are positive, so no digits cancel.
    """
    B, R, N = h.shape
    count = -(-N // length)
    h = torch.nn.functional.pad(h, (0, count * length - N), value=-torch.inf)
    h = h.reshape(B, R, count, length).movedim(2, 1)  # (B, count, R, length)
    top = h.amax(-1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    scale = epsilon[:, None, None, None]
    masses = ((h - top) / scale).exp()
    place = torch.arange(count * length, dtype=h.dtype, device=h.device).reshape(count, length, 1)
    parts = []
    for i, j in row_ranges(N, B * count * (R + length)):
        here = torch.arange(i, j, dtype=h.dtype, device=h.device)
        C = weight * (place - here).square()  # (count, length, j - i)
        least = C.amin(1, keepdim=True)
        sums = masses @ ((least - C) / scale).exp()  # (B, count, R, j - i)
        logs = sums.log() + (top - least) / scale
        parts.append(logs[:, 0] if count == 1 else logs.logsumexp(1))
    return -epsilon[:, None, None] * torch.cat(parts, -1)
