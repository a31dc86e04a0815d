"""Poolings scaled to norm 1, over windows that do not overlap, so that no pixel is counted twice; bounds of torch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.lipschitz import _refuse, register
from barrow.nn.reshape import Size, positive_pair

__all__ = ["ScaledAdaptiveAvgPool2d", "ScaledAdaptiveL2NormPool2d", "ScaledAvgPool2d", "ScaledL2NormPool2d"]


def _windows(x: Tensor, k: int, l: int) -> Tensor:
    """Cut (..., H, W) into (..., H // k, k, W // l, l); what does not fill a window is left out."""
    if x.ndim < 3 or x.shape[-2] < k or x.shape[-1] < l:
        raise ValueError(
            f"x has shape {shape(x)}, but pooling needs (..., channels, height, width) of at least {k} x {l} pixels"
        )
    rows, columns = x.shape[-2] // k, x.shape[-1] // l
    full = x[..., : rows * k, : columns * l]
    windows: Tensor = full.unflatten(-1, (columns, l)).unflatten(-3, (rows, k))
    return windows


def _norm(windows: Tensor) -> Tensor:
    # Divided by the largest entry first, so that squares neither overflow nor vanish. The factor cancels, so it needs
    # no gradient. At zero torch's norm has gradient zero.
    peak = windows.detach().abs().amax((-3, -1), keepdim=True)
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    scaled: Tensor = torch.linalg.vector_norm(windows / peak, dim=(-3, -1))
    return scaled * peak.squeeze(-1).squeeze(-2)


class ScaledAvgPool2d(nn.Module):
    """Average over windows, times the square root of their size.

        y = (1 / sqrt(k l)) sum of the k l pixels of a window

    A linear map of norm exactly 1: its rows are orthonormal as windows do not overlap. Choose it to shrink images of a
    1-Lipschitz network when the mean is what counts. Not where nothing may be lost
    (:class:`barrow.nn.InvertibleDownSampling`), and not with overlapping windows, whose norm exceeds 1: there is no
    stride and no padding. Pixels that do not fill a window at the right and lower border are left out.

    Args:
        kernel_size: the window, one integer or (height, width).

    Shapes:
        (..., C, H, W) to (..., C, H // k, W // l).

    Raises:
        ValueError: kernel_size is not positive, or the image is smaller.

    >>> ScaledAvgPool2d(2)(torch.ones(1, 1, 2, 2)).item()
    2.0

    Source: Boureau, Ponce, LeCun, "A theoretical analysis of feature pooling in visual recognition", ICML 2010, for
    average pooling; the factor is the inverse norm of the mean.
    """

    def __init__(self, kernel_size: Size) -> None:
        super().__init__()
        self.kernel_size = positive_pair("kernel_size", kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool each channel of each image."""
        k, l = self.kernel_size
        return _windows(x, k, l).mean((-3, -1)) * math.sqrt(k * l)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"kernel_size={self.kernel_size}"


class ScaledAdaptiveAvgPool2d(nn.Module):
    """Average over all pixels of each channel, times the square root of their number.

        y = (1 / sqrt(H W)) sum of all pixels

    A linear map of norm exactly 1 for every image size. Choose it before the last linear layer of a network that sees
    images of several sizes. Not where places matter. The output is one pixel: other sizes would need windows that
    overlap when they do not divide the image.

    Shapes:
        (..., C, H, W) to (..., C, 1, 1).

    Raises:
        ValueError: the input is not an image, or has no pixel.

    >>> ScaledAdaptiveAvgPool2d()(torch.ones(1, 3, 4, 4)).flatten().tolist()
    [4.0, 4.0, 4.0]

    Source: Lin, Chen, Yan, "Network in network", ICLR 2014, for global average pooling; the factor is the inverse norm
    of the mean.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool each channel of each image."""
        _windows(x, 1, 1)
        return x.mean((-2, -1), keepdim=True) * math.sqrt(x.shape[-2] * x.shape[-1])


class ScaledL2NormPool2d(nn.Module):
    """The Euclidean norm of each window.

        y = sqrt(sum of the k l squared pixels of a window)

    1-Lipschitz, and norm preserving where the window divides the image: the norm of the output is that of the input.
    Choose it where the energy of a window counts and its sign does not. Not with overlapping windows, which would
    count energy twice: there is no stride and no padding. Pixels that do not fill a window at the right and lower
    border are left out. The gradient of a window that is entirely zero is the subgradient 0, never NaN.

    Args:
        kernel_size: the window, one integer or (height, width).

    Shapes:
        (..., C, H, W) to (..., C, H // k, W // l).

    Raises:
        ValueError: kernel_size is not positive, or the image is smaller.

    >>> ScaledL2NormPool2d((1, 2))(torch.tensor([[[3.0, 4.0]]])).item()
    5.0

    Source: Boureau, Ponce, LeCun, "A theoretical analysis of feature pooling in visual recognition", ICML 2010.
    """

    def __init__(self, kernel_size: Size) -> None:
        super().__init__()
        self.kernel_size = positive_pair("kernel_size", kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool each channel of each image."""
        return _norm(_windows(x, *self.kernel_size))

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"kernel_size={self.kernel_size}"


class ScaledAdaptiveL2NormPool2d(nn.Module):
    """The Euclidean norm of each channel.

        y = sqrt(sum of all squared pixels)

    1-Lipschitz and norm preserving for every image size. Choose it as :class:`ScaledAdaptiveAvgPool2d`, where the
    energy of a channel counts and its sign does not. Not where places matter. The gradient of a channel that is
    entirely zero is the subgradient 0, never NaN.

    Shapes:
        (..., C, H, W) to (..., C, 1, 1).

    Raises:
        ValueError: the input is not an image, or has no pixel.

    >>> ScaledAdaptiveL2NormPool2d()(torch.ones(1, 1, 4, 4)).item()
    4.0

    Source: Boureau, Ponce, LeCun, "A theoretical analysis of feature pooling in visual recognition", ICML 2010.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool each channel of each image."""
        _windows(x, 1, 1)
        return _norm(_windows(x, x.shape[-2], x.shape[-1]))


@register(ScaledAvgPool2d, ScaledAdaptiveAvgPool2d, ScaledL2NormPool2d, ScaledAdaptiveL2NormPool2d)
def _one(module: nn.Module, path: str) -> float:
    return 1.0


# -- torch's poolings --------------------------------------------------------------------------------------------------
#
# All bounds hold for inputs of every size. An axis has windows of k pixels every s pixels, and the bounds of the axes
# multiply: for averages since the map is a Kronecker product, for the others since the windows are counted axis by
# axis.

# Covers the roundings of a product of a few square roots.
_UP = 1 + 2.0**-48


def _root(square: float) -> float:
    return 1.0 if square == 1 else math.sqrt(square) * _UP


def _axes(value: int | Sequence[int], axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else [int(v) for v in value]


def _windows_a_pixel(k: int, s: int, dilation: int = 1) -> int:
    """How many windows hold one pixel at most: those in which its place is one of every s / gcd(s, dilation) taps."""
    return -(-k // (s // math.gcd(s, dilation)))


def _average_square(k: int, s: int) -> float:
    """The squared norm of sums over windows of k pixels every s, divided by k, on the infinite line.

    Its symbol is a row with one entry for each residue of a pixel modulo s, the sum of exp(i m theta) over the taps of
    that residue, over k: largest in every entry at theta = 0, where k mod s residues have one tap more than the others.
    """
    few, more = divmod(k, s)
    return (more * (few + 1) ** 2 + (s - more) * few**2) / k**2


def _heaviest_pixel(k: int, s: int, pad: int, ceil_mode: bool, count_pad: bool) -> float:
    """The largest sum over the windows of a pixel of 1 / (what the window's sum is divided by), over all sizes.

    Beyond 2 (k + s) pixels no window sees both borders, so that more sizes than one period s show nothing new.
    """
    heaviest = _windows_a_pixel(k, s) / k
    if not ceil_mode and (count_pad or not pad):
        return heaviest
    for size in range(1, 2 * (k + s) + s + 1):
        over = size + 2 * pad - k
        count = (-(-over // s) if ceil_mode else over // s) + 1
        start = torch.arange(max(count, 0)) * s - pad
        # torch leaves out a last window that begins in the padding.
        start = start[start < size + pad] if ceil_mode else start
        end = (start + k).clamp(max=size + pad)
        low, high = start.clamp(min=0), end.clamp(max=size)
        divisor = (end - start if count_pad else high - low).to(torch.float64)
        real = high > low
        jumps = torch.zeros(size + 1, dtype=torch.float64)
        jumps.index_add_(0, low[real], 1 / divisor[real])
        jumps.index_add_(0, high[real], -1 / divisor[real])
        heaviest = max(heaviest, jumps.cumsum(0)[:size].max().item() * (1 + 2.0**-40))
    return heaviest


def _dimensions(module: nn.Module) -> int:
    """The number of pooled axes, which torch writes at the end of the type's name."""
    kind = next(k for k in type(module).__mro__ if k.__module__ == nn.MaxPool2d.__module__)
    return int(kind.__name__[-2])


def _tensor_alone(module: Any, path: str) -> None:
    if module.return_indices:
        raise _refuse(module, path, "return_indices=True returns a pair; leave it out")


@register(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _max_pool(module: Any, path: str) -> float:
    """A maximum moves by at most the largest move in its window, and a pixel is in so many windows."""
    _tensor_alone(module, path)
    axes = _dimensions(module)
    sizes = (_axes(v, axes) for v in (module.kernel_size, module.stride, module.dilation))
    return _root(math.prod(_windows_a_pixel(k, s, d) for k, s, d in zip(*sizes, strict=True)))


@register(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def _average(module: Any, path: str) -> float:
    """The norm on the infinite grid; where windows at borders divide by less, Schur's test, as no row exceeds one."""
    divisor = getattr(module, "divisor_override", None)
    square, axes = 1.0, _dimensions(module)
    kernel = _axes(module.kernel_size, axes)
    for k, s, pad in zip(kernel, _axes(module.stride, axes), _axes(module.padding, axes), strict=True):
        if divisor is not None or not (module.ceil_mode or (pad and not module.count_include_pad)):
            square *= _average_square(k, s)
        else:
            square *= _heaviest_pixel(k, s, pad, module.ceil_mode, module.count_include_pad)
    return _root(square) if divisor is None else _root(square) * math.prod(kernel) / abs(divisor) * _UP


@register(nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)
def _lp_pool(module: Any, path: str) -> float:
    """A norm of exponent p >= 2 is 1-Lipschitz, and a pixel is in so many windows; for p = 1 torch sums with signs.

    A window of n < k pixels, which ceil_mode allows, counts each of them k / n times.
    """
    p, axes = module.norm_type, _dimensions(module)
    kernel = _axes(module.kernel_size, axes)
    stride = kernel if module.stride is None else _axes(module.stride, axes)
    pairs = list(zip(kernel, stride, strict=True))
    if abs(p) == math.inf:
        return _root(math.prod(_windows_a_pixel(k, s) for k, s in pairs))
    if p != 1 and (p < 2 or p % 2):
        raise _refuse(module, path, f"norm_type = {p} is no norm of inputs of both signs; use 1, an even number or inf")
    square = 1.0
    for k, s in pairs:
        heaviest = _heaviest_pixel(k, s, 0, ceil_mode=module.ceil_mode, count_pad=True)
        if p == 1:
            square *= k**2 * (heaviest if module.ceil_mode else _average_square(k, s))
        else:
            square *= k * heaviest if module.ceil_mode else _windows_a_pixel(k, s)
    return _root(square)


@register(
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
def _adaptive(module: Any, path: str) -> float:
    """No pixel is in more windows than there are, and an image of one pixel is in all of them."""
    if not isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
        _tensor_alone(module, path)
    size = module.output_size
    sizes = [size] * _dimensions(module) if size is None or isinstance(size, int) else list(size)
    # None keeps an axis as it is.
    return _root(math.prod(1 if n is None else int(n) for n in sizes))
