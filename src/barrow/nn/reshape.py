"""Isometries that trade resolution of an image for channels, and back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex

from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register

__all__ = ["InvertibleDownSampling", "InvertibleUpSampling"]

Size = SupportsIndex | Sequence[SupportsIndex]


def positive_pair(name: str, value: Size) -> tuple[int, int]:
    """One positive integer for both axes of an image, or two of them."""
    if isinstance(value, Sequence):
        if len(value) != 2:
            raise ValueError(f"{name} must be one positive integer or two (height, width), got {value!r}")
        return positive_integer(name, value[0]), positive_integer(name, value[1])
    try:
        operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be one positive integer or two (height, width), got {value!r}") from None
    both = positive_integer(name, value)
    return both, both


class InvertibleDownSampling(nn.Module):
    """Cut an image into windows and make the pixels of a window channels (pixel unshuffle).

        y[c k l + i l + j, h, w] = x[c, h k + i, w l + j],    kernel_size = (k, l)

    A permutation of its input: it loses nothing, preserves the norm exactly and is undone by
    :class:`InvertibleUpSampling`. Choose it instead of strides and pooling in 1-Lipschitz networks. Not where channels
    must stay few: their number is multiplied by the window's size.

    Args:
        kernel_size: the window, one integer or (height, width).

    Shapes:
        (..., C, H, W) to (..., C k l, H / k, W / l).

    Raises:
        ValueError: kernel_size is not positive, or does not divide the image.

    >>> import torch
    >>> InvertibleDownSampling(2)(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]

    Source: Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel convolutional
    neural network", CVPR 2016, whose shuffle it inverts; Jacobsen, Smeulders, Oyallon, "i-RevNet", ICLR 2018.
    """

    def __init__(self, kernel_size: Size) -> None:
        super().__init__()
        self.kernel_size = positive_pair("kernel_size", kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Move pixels to channels."""
        k, l = self.kernel_size
        if x.ndim < 3 or x.shape[-2] % k or x.shape[-1] % l:
            raise ValueError(
                f"x has shape {shape(x)}, but windows of {k} x {l} need (..., channels, height, width) with height "
                f"divisible by {k} and width by {l}: pad with ZeroPad2d or choose another kernel_size"
            )
        windows: Tensor = x.unflatten(-1, (x.shape[-1] // l, l)).unflatten(-3, (x.shape[-2] // k, k))
        # (..., C, H/k, k, W/l, l) -> (..., C, k, l, H/k, W/l)
        return windows.movedim((-3, -1), (-4, -3)).flatten(-5, -3)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"kernel_size={self.kernel_size}"


class InvertibleUpSampling(nn.Module):
    """Spread channels over windows of pixels (pixel shuffle): the inverse of :class:`InvertibleDownSampling`.

        y[c, h k + i, w l + j] = x[c k l + i l + j, h, w],    kernel_size = (k, l)

    A permutation of its input, which preserves the norm exactly. Choose it in decoders and generators instead of
    interpolation, which has no norm 1. Not where neighbouring pixels should agree by construction.

    Args:
        kernel_size: the window, one integer or (height, width).

    Shapes:
        (..., C, H, W) to (..., C / (k l), H k, W l).

    Raises:
        ValueError: kernel_size is not positive, or the window's size does not divide the channels.

    >>> import torch
    >>> InvertibleUpSampling(2)(torch.arange(4.0).reshape(1, 4, 1, 1)).squeeze().tolist()
    [[0.0, 1.0], [2.0, 3.0]]

    Source: Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel convolutional
    neural network", CVPR 2016.
    """

    def __init__(self, kernel_size: Size) -> None:
        super().__init__()
        self.kernel_size = positive_pair("kernel_size", kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Move channels to pixels."""
        k, l = self.kernel_size
        if x.ndim < 3 or x.shape[-3] % (k * l):
            raise ValueError(
                f"x has shape {shape(x)}, but windows of {k} x {l} need (..., channels, height, width) with channels "
                f"divisible by {k * l}"
            )
        windows: Tensor = x.unflatten(-3, (x.shape[-3] // (k * l), k, l))
        # (..., C, k, l, H, W) -> (..., C, H, k, W, l)
        return windows.movedim((-4, -3), (-3, -1)).flatten(-4, -3).flatten(-2, -1)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"kernel_size={self.kernel_size}"


@register(InvertibleDownSampling, InvertibleUpSampling)
def _permutation(module: nn.Module, path: str) -> float:
    return 1.0
