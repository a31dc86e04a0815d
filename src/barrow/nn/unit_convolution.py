"""Convolutions each of whose outputs alone is 1-Lipschitz."""

from __future__ import annotations

import math
from typing import Any, ClassVar, SupportsIndex

import torch
from torch import Tensor

from barrow.nn.contraction import exact, rounding
from barrow.nn.derived_convolution import DerivedConvolution, Size
from barrow.nn.export import register_export
from barrow.nn.lipschitz import _refuse, register
from barrow.nn.windows import axes_of, padded_norm, settled_size, window_counts
from barrow.ops.polar import polar

__all__ = ["UnitConv1d", "UnitConv2d"]


class CountedConvolution(DerivedConvolution):
    """A convolution whose unfolded kernel is divided by the square root of the windows that a pixel is in.

    The count is that of large inputs; the few small ones that exceed it are refused.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.least = tuple(settled_size(*axis) for axis in axes_of(self))
        # Counted here once, and again by the rule of lipschitz_bound, which believes nothing.
        self.damping = 1 / math.sqrt(window_counts(self))


class _UnitConvolution(CountedConvolution):
    def __init__(
        self,
        in_channels: SupportsIndex,
        out_channels: SupportsIndex,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: SupportsIndex = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device=device, dtype=dtype,
        )  # fmt: skip

    def derive(self) -> Tensor:
        """The kernel (c_out, c_in / groups, ...) of scaled unit filters; differentiable once."""
        # A unit vector is the polar factor of a matrix with one row.
        return scaled_polar(self.raw_weight.flatten(1).unsqueeze(-2), self.damping, self.raw_weight)


def scaled_polar(matrices: Tensor, factor: float, raw: Tensor) -> Tensor:
    """The polar factors of matrices (..., m, n) that hold a raw kernel, times factor, in the kernel's shape and dtype.

    Smaller by what rounding the entries can add to the norm of a contraction.
    """
    half = raw.dtype not in (torch.float32, torch.float64)
    W = exact(polar(matrices.float() if half else matrices))
    W = W * (factor / (1 + rounding(raw.dtype, min(matrices.shape[-2:]))))
    return W.reshape(raw.shape).to(raw.dtype)


class UnitConv1d(_UnitConvolution):
    """A convolution of signals whose filters have a fixed norm: each output channel alone is 1-Lipschitz.

        W_i = raw_weight_i / (|raw_weight_i| sqrt(c)),    |y_i|^2 <= (1 / c) sum over windows of |window|^2 <= |x|^2

    c is the number of windows that one pixel is in at most, ceil(k / stride) for padding by zeros, and
    :func:`barrow.nn.windows.window_count` of large inputs in general. Modes other than zeros show the pixels of very
    small inputs more often: these (up to 3 pixels for k = 3 and "reflect") are refused, for all others the bound holds.
    Choose it as the last convolution of a critic with one output, or where channels are judged one by one. Not between
    layers: with several outputs the norm can reach sqrt(c_out), which :func:`lipschitz_bound` reports; use
    :class:`OrthogonalConv1d` or :class:`AolConv1d` there.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps.
        stride: distance of windows.
        padding: pixels added to both ends, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        device: where the parameters live.
        dtype: of the parameters; half precision is normalised in float32.

    Attributes:
        weight: the kernel itself (c_out, c_in / groups, k); a zero filter of `raw_weight` gives some filter, never NaN.
        raw_weight: the unconstrained parameter that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: a size is not a positive integer, groups does not divide the channels, padding is unknown, or the
            input has the wrong number of axes or too few pixels.

    >>> UnitConv1d(2, 3, 4).weight.flatten(1).norm(dim=1).detach().round(decimals=4)
    tensor([0.5000, 0.5000, 0.5000])

    Source: Serrurier et al., "Achieving robustness in classification using optimal transport with hinge
    regularization", CVPR 2021, for the count; Anil, Lucas, Grosse, ICML 2019, section 4.1, for unit rows.
    """

    axes: ClassVar[int] = 1


class UnitConv2d(_UnitConvolution):
    """A convolution of images whose filters have a fixed norm: each output channel alone is 1-Lipschitz.

        W_i = raw_weight_i / (|raw_weight_i| sqrt(c)),    |y_i|^2 <= (1 / c) sum over windows of |window|^2 <= |x|^2

    As :class:`UnitConv1d`, with c the product of the counts of both axes: 9 for a 3 x 3 kernel padded by zeros.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width), as all sizes below.
        stride: distance of windows.
        padding: pixels added to both ends of an axis, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        device: where the parameters live.
        dtype: of the parameters; half precision is normalised in float32.

    Attributes:
        weight: the kernel itself (c_out, c_in / groups, k1, k2); a zero filter of `raw_weight` gives some filter,
            never NaN.
        raw_weight: the unconstrained parameter that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: as for :class:`UnitConv1d`.

    >>> UnitConv2d(2, 3, 2, stride=2).weight.flatten(1).norm(dim=1).detach().round(decimals=4)
    tensor([1., 1., 1.])

    Source: Serrurier et al., "Achieving robustness in classification using optimal transport with hinge
    regularization", CVPR 2021, for the count; Anil, Lucas, Grosse, ICML 2019, section 4.1, for unit rows.
    """

    axes: ClassVar[int] = 2


@register(UnitConv1d, UnitConv2d)
def padded(layer: DerivedConvolution, path: str) -> float:
    """The least of the bounds by windows and on the infinite grid."""
    if not layer.raw_weight.detach().isfinite().all():
        raise _refuse(layer, path, "its raw weight is not finite; it has diverged, reload or reinitialise it")
    return padded_norm(layer, path)


register_export(UnitConv1d, UnitConv2d)(DerivedConvolution.to_conv)
