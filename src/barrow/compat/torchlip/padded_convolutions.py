"""Unconstrained convolutions with torchlip's padding modes, which are torch's and "symmetric"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from barrow.nn.convolution_bound import paddings
from barrow.nn.derived_convolution import DerivedConvolution, pad_for
from barrow.nn.export import register_export, to_plain
from barrow.nn.linear import fill
from barrow.nn.lipschitz import register
from barrow.nn.windows import padded_norm

__all__ = ["MODES", "PadConv1d", "PadConv2d"]

MODES = ("zeros", "circular", "reflect", "replicate", "symmetric")


def plain_convolution(layer: DerivedConvolution | PadConv1d | PadConv2d) -> nn.Conv1d | nn.Conv2d:
    """Torch's layer with a copy of the present weight; a PadConv where torch lacks the padding."""
    axes, mode = len(layer.kernel_size), layer.padding_mode
    kind: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if axes == 1 else nn.Conv2d
    if mode == "symmetric":
        if max(max(pad) for pad in paddings(layer)) <= 1:
            mode = "replicate"
        else:
            kind = PadConv1d if axes == 1 else PadConv2d
    with torch.device("meta"):  # where nothing is drawn, so that exporting does not move the global generator
        plain = kind(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
            layer.groups, layer.bias is not None, mode,  # type: ignore[arg-type]
        )  # fmt: skip
    fill(plain, layer.weight, layer.bias)
    return plain


def _mode(padding_mode: str) -> str:
    """Torch's constructors know all modes but one."""
    if padding_mode not in MODES:
        raise ValueError(f"padding_mode {padding_mode!r} is not one of {', '.join(MODES)}: use one of these")
    return "zeros" if padding_mode == "symmetric" else padding_mode


class PadConv1d(nn.Conv1d):
    """:class:`torch.nn.Conv1d`, unconstrained, with padding_mode "symmetric" besides torch's.

    Raises:
        ValueError: padding_mode is not known, or the input is shorter than the symmetric padding.

    >>> layer = PadConv1d(1, 1, 5, padding=2, padding_mode="symmetric")
    >>> layer(torch.zeros(1, 1, 8)).shape
    torch.Size([1, 1, 8])
    """

    padding_mode: str  # type: ignore[assignment]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        mode = _mode(padding_mode)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, mode)  # type: ignore[arg-type]
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve (N, in_channels, L)."""
        if self.padding_mode != "symmetric":
            return super().forward(input)
        return nn.functional.conv1d(
            pad_for(self, input), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )

    def vanilla_export(self) -> nn.Module:
        """A plain copy: :func:`barrow.nn.to_plain`, of this class where torch lacks the padding."""
        return to_plain(self)


class PadConv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d`, unconstrained, with padding_mode "symmetric" besides torch's.

    Raises:
        ValueError: padding_mode is not known, or the input is smaller than the symmetric padding.

    >>> layer = PadConv2d(1, 1, 5, padding=2, padding_mode="symmetric")
    >>> layer(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    padding_mode: str  # type: ignore[assignment]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        mode = _mode(padding_mode)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, mode)  # type: ignore[arg-type]
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve (N, in_channels, H, W)."""
        if self.padding_mode != "symmetric":
            return super().forward(input)
        return nn.functional.conv2d(
            pad_for(self, input), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )

    def vanilla_export(self) -> nn.Module:
        """A plain copy: :func:`barrow.nn.to_plain`, of this class where torch lacks the padding."""
        return to_plain(self)


register(PadConv1d, PadConv2d)(padded_norm)
register_export(PadConv1d, PadConv2d)(plain_convolution)
