"""Convolutions whose kernel is a function of a raw parameter."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.convolution_bound import paddings
from barrow.nn.derived import DerivedWeight
from barrow.nn.linear import fill, positive_integer
from barrow.ops.symmetric_pad import symmetric_pad

__all__ = ["DerivedConvolution", "Size", "one_each", "pad_for"]

Size = SupportsIndex | Sequence[SupportsIndex]


def one_each(name: str, value: Size, axes: int, *, least: int = 1) -> tuple[int, ...]:
    """One integer for all axes, or one an axis."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    try:
        numbers = tuple(operator.index(v) for v in values)
    except TypeError:
        numbers = ()
    if len(numbers) != axes or min(numbers) < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}" + (f" or {axes} of them" if axes > 1 else "")
            + f", got {value!r}"
        )  # fmt: skip
    return numbers


def pad_for(layer: DerivedConvolution | nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """The input as a layer with a padding mode other than zeros sees it."""
    pads = paddings(layer)
    if layer.padding_mode == "symmetric":
        return symmetric_pad(x, pads)
    # torch lists the last axis first.
    return nn.functional.pad(x, [p for pad in reversed(pads) for p in pad], layer.padding_mode)


class DerivedConvolution(DerivedWeight):
    """A convolution that stores `raw_weight`, shaped like torch's weight, and slides a function of it over the input.

    The arguments and attributes are those of :class:`torch.nn.Conv1d` and :class:`torch.nn.Conv2d`.
    """

    #: Axes of the input that are not channels.
    axes: ClassVar[int]
    #: Padding modes that the subclass has a theorem for.
    modes: ClassVar[tuple[str, ...]] = ("zeros", "circular", "reflect", "replicate")
    #: The smallest input, an axis, that the theorem holds for.
    least: tuple[int, ...]
    bias: nn.Parameter | None

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
        super().__init__()
        self.in_channels = positive_integer("in_channels", in_channels)
        self.out_channels = positive_integer("out_channels", out_channels)
        self.groups = positive_integer("groups", groups)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups = {self.groups} does not divide {name} = {channels}: change one of them")
        self.kernel_size = one_each("kernel_size", kernel_size, self.axes)
        self.stride = one_each("stride", stride, self.axes)
        self.dilation = one_each("dilation", dilation, self.axes)
        self.padding: str | tuple[int, ...]
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding must be 'same', 'valid' or integers, got {padding!r}")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError(f"padding='same' needs stride 1, got stride {self.stride}: give padding as integers")
            self.padding = padding
        else:
            self.padding = one_each("padding", padding, self.axes, least=0)
        if padding_mode not in self.modes:
            raise ValueError(f"padding_mode {padding_mode!r} is not one of {', '.join(self.modes)}: use one of these")
        self.padding_mode = padding_mode
        self.least = (1,) * self.axes
        kernel = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.raw_weight = nn.Parameter(torch.empty(kernel, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a kernel that is orthogonal when unfolded, and a bias as :class:`torch.nn.Conv2d` draws it."""
        if self.raw_weight.is_meta:
            return
        with torch.no_grad():
            for raw in self.raw_weight.chunk(self.groups):
                # Drawn in float32 or better: the QR behind it does not exist for half precision.
                start = nn.init.orthogonal_(torch.empty_like(raw, dtype=torch.float32))
                raw.copy_(start)
            self._draw_bias()

    def _draw_bias(self) -> None:
        if self.bias is not None:
            bound = 1 / math.sqrt(self.raw_weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, in_channels, L) or (N, in_channels, H, W), or one such signal without N."""
        if x.ndim not in (self.axes + 1, self.axes + 2):
            raise ValueError(
                f"{type(self).__name__} needs an input of {self.axes + 1} or {self.axes + 2} axes (channels and "
                f"{self.axes} more, and samples before them), got shape {shape(x)}"
            )
        convolve = nn.functional.conv1d if self.axes == 1 else nn.functional.conv2d
        padding = self.padding
        if any(n < least for n, least in zip(x.shape[-self.axes :], self.least, strict=True)):
            raise ValueError(
                f"{type(self).__name__} with padding_mode={self.padding_mode!r} got an input of shape {shape(x)}, but "
                f"its last sizes must be at least {self.least}: smaller ones are shown too often by the padding; use "
                "padding_mode='zeros'"
            )
        if self.padding_mode != "zeros":
            x, padding = pad_for(self, x), (0,) * self.axes
        return convolve(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        for name, usual in (("padding", 0), ("dilation", 1), ("groups", 1), ("padding_mode", "zeros")):
            value = getattr(self, name)
            if value not in (usual, (usual,) * self.axes):
                parts.append(f"{name}={value}")
        return ", ".join(parts) + ("" if self.bias is not None else ", bias=False")

    def to_conv(self) -> nn.Conv1d | nn.Conv2d:
        """A plain :class:`torch.nn.Conv1d` or :class:`torch.nn.Conv2d` with a copy of the present weight.

        It computes the same to the last bit. Raises ValueError for padding by symmetry, which torch does not have,
        unless it is by one pixel at most, where replicating does the same.
        """
        mode = self.padding_mode
        if mode == "symmetric":
            if max(max(pad) for pad in paddings(self)) > 1:
                raise ValueError("torch has no symmetric padding by more than one pixel: keep the layer, or change it")
            mode = "replicate"
        kind = nn.Conv1d if self.axes == 1 else nn.Conv2d
        # On the meta device nothing is drawn, so that exporting does not move the global generator.
        plain = kind(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation,  # type: ignore[arg-type]
            self.groups, self.bias is not None, mode, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        fill(plain, self.weight, self.bias)
        return plain
