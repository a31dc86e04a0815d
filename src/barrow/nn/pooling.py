"""Poolings scaled to norm 1: over windows that do not overlap, so that no pixel is counted twice."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.lipschitz import register
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
