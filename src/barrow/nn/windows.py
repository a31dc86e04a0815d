"""Bounds of convolutions by counting how many windows see a pixel, for five kinds of padding."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from barrow.nn.convolution_bound import _norm, _root, convolution, paddings, transposed_convolution
from barrow.nn.lipschitz import _refuse, spectral_norm_bound, times

__all__ = ["axes_of", "padded_norm", "settled_size", "transposed_norm", "window_count", "window_counts"]


@functools.lru_cache(maxsize=1024)
def window_count(mode: str, kernel: int, stride: int, dilation: int, before: int, after: int, least: int = 1) -> int:
    """In how many windows one pixel of an axis stands at most, its copies in the padding counted:

        max over inputs of every size n >= least, max over pixels i, of #{(o, t): source(o stride + t dilation) = i}

    With K the kernel unfolded to (c_out, c_in k) and c this count, the layer's norm is at most sqrt(c) |K|_2, since
    |y|^2 = sum over windows of |K window|^2. The count is attained, so that no smaller one holds for all these inputs.
    With padding by zeros it is ceil(k gcd(s, d) / s): k for stride 1, ceil(k / s) without dilation. "reflect" exceeds
    that from k = 3 on, "replicate" from k = 5, and all modes but zeros on inputs of few pixels.

    Args:
        mode: "zeros", "circular", "reflect", "replicate" or "symmetric".
        kernel: taps.
        stride: distance of windows.
        dilation: distance of taps.
        before: pixels padded on the left.
        after: pixels padded on the right.
        least: the smallest input.

    Raises:
        ValueError: the mode is not known.

    >>> [window_count(mode, 3, 1, 1, 1, 1) for mode in ("zeros", "symmetric", "reflect")]
    [3, 3, 5]
    >>> window_count("reflect", 3, 1, 1, 1, 1, least=4)
    4

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes, del Barrio, "Achieving robustness in classification
    using optimal transport with hinge regularization", CVPR 2021, for the argument with padding by zeros.
    """
    counts = _counts(mode, kernel, stride, dilation, before, after)
    first = min(least, max(counts) - stride + 1)
    return max(count for n, count in counts.items() if n >= first)


@functools.lru_cache(maxsize=1024)
def settled_size(mode: str, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """The smallest input from which on :func:`window_count` is that of large inputs.

    >>> [settled_size(mode, 3, 1, 1, 1, 1) for mode in ("zeros", "symmetric", "reflect")]
    [1, 1, 4]
    """
    counts = _counts(mode, kernel, stride, dilation, before, after)
    settled = max(list(counts.values())[-stride:])
    return max((n + 1 for n, count in counts.items() if count > settled), default=1)


@functools.lru_cache(maxsize=1024)
def _counts(mode: str, kernel: int, stride: int, dilation: int, before: int, after: int) -> dict[int, int]:
    """The count for each size that the layer takes; the last `stride` of them stand for all larger sizes."""
    if mode not in ("zeros", "circular", "reflect", "replicate", "symmetric"):
        raise ValueError(f"padding_mode {mode!r} is not known; use zeros, circular, reflect, replicate or symmetric")
    inner = -(-kernel * math.gcd(stride, dilation) // stride)
    # From `stable` on no pixel has copies on both sides or windows cut at both ends: counts depend on n modulo stride.
    reach = dilation * (kernel - 1)
    stable = 2 * (before + after + reach + stride)
    if mode == "zeros" or before == after == 0:
        return dict.fromkeys(range(stable, stable + stride), inner)
    side = max(before, after)
    least = {"replicate": 1, "reflect": side + 1}.get(mode, side)
    counts = {}
    for n in range(max(least, 1, reach + 1 - before - after), stable + stride):
        seen = np.bincount(_sources(mode, n, before, after), _windows(n + before + after, reach, stride, dilation))
        counts[n] = round(seen.max())
    return counts


def _sources(mode: str, n: int, before: int, after: int) -> npt.NDArray[np.int64]:
    """The pixel that stands at each place of the padded axis."""
    place = np.arange(-before, n + after)
    if mode == "circular":
        return place % n
    if mode == "replicate":
        return place.clip(0, n - 1)
    if mode == "symmetric":
        place = place % (2 * n)
        return np.minimum(place, 2 * n - 1 - place)
    place = place % max(2 * n - 2, 1)
    return np.minimum(place, 2 * n - 2 - place)


def _windows(size: int, reach: int, stride: int, dilation: int) -> npt.NDArray[np.int64]:
    """How many windows, with their taps, meet each of `size` places."""
    starts = np.zeros(-(-size // dilation) * dilation, np.int64)
    starts[: size - reach : stride] = 1
    # Sums over taps are differences of sums along a residue class.
    sums = starts.reshape(-1, dilation).cumsum(0).reshape(-1)
    sums[reach + dilation :] -= sums[: -reach - dilation].copy()
    return sums[:size]


def axes_of(layer: Any) -> list[tuple[str, int, int, int, int, int]]:
    """What :func:`window_count` wants to know of each axis of a convolution layer."""
    axes = zip(layer.kernel_size, layer.stride, layer.dilation, paddings(layer), strict=True)
    return [(layer.padding_mode, k, s, d, *pad) for k, s, d, pad in axes]


def window_counts(layer: Any) -> int:
    """The product over the axes of a convolution layer of :func:`window_count`, for the sizes that it takes."""
    axes = axes_of(layer)
    least = getattr(layer, "least", (1,) * len(axes))
    return math.prod(window_count(*axis, n) for axis, n in zip(axes, least, strict=True))


def _unfolded(weight: Tensor, groups: int, count: int) -> float:
    norms = (spectral_norm_bound(K.flatten(1)) for K in weight.detach().chunk(groups))
    return times(max(norms), _root(count))


def padded_norm(layer: Any, path: str) -> float:
    """A bound for a layer with the attributes of torch's convolutions and five padding modes: the least of several.

    Counting windows, sqrt(count) |K|_2; and the norm on the infinite grid times the factor of the padding. Symmetric
    padding copies a pixel at most once to each side; and its periodic extension, of period 2 n, has twice the input's
    square, while the layer shows each output of that period at most once unless the padding exceeds the kernel's reach.
    """
    try:
        bound = _unfolded(layer.weight, layer.groups, window_counts(layer))
    except ValueError as error:
        raise _refuse(layer, path, str(error)) from None
    if layer.padding_mode != "symmetric":
        return min(bound, convolution(layer, path))
    copies = periods = 1
    for (before, after), k, d in zip(paddings(layer), layer.kernel_size, layer.dilation, strict=True):
        both = 1 + (before > 0) + (after > 0)
        copies *= both
        periods *= min(both, 2) if before + after - d * (k - 1) <= max(before, after) else both
    bound = min(bound, times(_norm(layer, path, layer.stride), _root(copies)))
    if periods < copies and set(layer.stride) != {1}:
        # The outputs of a strided layer are among those of stride 1.
        return min(bound, times(_norm(layer, path, (1,) * len(layer.stride)), _root(periods)))
    return min(bound, times(_norm(layer, path, layer.stride), _root(periods)))


def transposed_norm(layer: Any, path: str) -> float:
    """A bound for transposed convolutions: that of the convolution whose adjoint they are."""
    axes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    count = math.prod(window_count("zeros", k, s, d, 0, 0) for k, s, d in axes)
    try:
        bound = _unfolded(layer.weight, layer.groups, count)
    except ValueError as error:
        raise _refuse(layer, path, str(error)) from None
    return min(bound, transposed_convolution(layer, path))
