"""Transposed convolutions that are orthogonal operators: the adjoints of the orthogonal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from barrow.nn.convolution_bound import transposed_convolution
from barrow.nn.derived_convolution import Size, one_each
from barrow.nn.export import register_export
from barrow.nn.lipschitz import register
from barrow.nn.orthogonal_convolution import Device, OrthogonalKernel, require_finite

__all__ = ["OrthogonalConvTranspose1d", "OrthogonalConvTranspose2d"]


class _Transposed(OrthogonalKernel):
    _transposed = True

    padding: tuple[int, ...]
    output_padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: SupportsIndex,
        out_channels: SupportsIndex,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: SupportsIndex = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode of a transposed convolution must be zeros, got {padding_mode!r}")
        self.padding_mode = padding_mode
        self.padding = one_each("padding", padding, self._axes, least=0)
        self.output_padding = one_each("output_padding", output_padding, self._axes, least=0)
        self._build(in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype)
        for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more >= max(s, d):
                raise ValueError(f"output_padding must be smaller than stride or dilation, got {output_padding!r}")

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Apply the adjoint of the convolution; `output_size` overrides `output_padding`, as in torch's layer."""
        self._check(x)
        more = self.output_padding if output_size is None else self._more(x, output_size)
        return type(self)._apply_kernel(
            x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )

    def _more(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives this size."""
        axes = self._axes
        arguments = (x.shape[-axes:], self.kernel_size, self.stride, self.padding, self.dilation)
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, k, s, p, d in zip(*arguments, strict=True)
        ]  # fmt: skip
        wanted = [int(n) for n in output_size][-axes:]
        room = [max(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        if len(wanted) != axes or any(not 0 <= w - n < r for w, n, r in zip(wanted, least, room, strict=True)):
            most = [n + r - 1 for n, r in zip(least, room, strict=True)]
            raise ValueError(f"output_size is {tuple(output_size)}, but sizes from {least} to {most} are possible here")
        return tuple(w - n for w, n in zip(wanted, least, strict=True))


class OrthogonalConvTranspose1d(_Transposed):
    """The adjoint of :class:`OrthogonalConv1d` from out_channels to in_channels: see there and
    :class:`OrthogonalConvTranspose2d`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps.
        stride: as in :class:`torch.nn.ConvTranspose1d`, like all that follow.
        padding: pixels cropped from both ends of the output.
        output_padding: pixels shown in addition at one end.
        groups: a divisor of both numbers of channels.
        bias: add a learned number to each channel.
        dilation: distance of the taps.
        padding_mode: zeros, torch's only one.
        device: where the parameters live.
        dtype: of the parameters; half precision is orthogonalised in float32.

    Shapes:
        (N, C_in, L) or (C_in, L), as :class:`torch.nn.ConvTranspose1d`.

    Raises:
        ValueError: an argument does not fit.

    >>> layer = OrthogonalConvTranspose1d(4, 2, 4, stride=2, bias=False)
    >>> x = torch.randn(2, 4, 10)
    >>> torch.allclose(layer(x).norm(), x.norm())
    True

    Source: Boissin et al., arXiv 2501.07930, section 3.
    """

    _plain, _axes, _apply_kernel = nn.ConvTranspose1d, 1, nn.functional.conv_transpose1d

    def to_conv(self) -> nn.ConvTranspose1d:
        """A plain :class:`torch.nn.ConvTranspose1d` with a copy of the kernel, for inference without barrow."""
        plain = self._exported()
        assert isinstance(plain, nn.ConvTranspose1d)
        return plain


class OrthogonalConvTranspose2d(_Transposed):
    """The adjoint of :class:`OrthogonalConv2d` from out_channels to in_channels: an orthogonal way to larger images.

        <A x, y> = <x, A' y>,   A = OrthogonalConv2d with the same weight, A' = this layer

    A state_dict (but for the bias) fits both. Where that one is a co-isometry, here in_channels <= out_channels s1 s2
    with kernels no smaller than strides, this layer without padding preserves norms exactly, on inputs of every size.
    Padding crops its output: a contraction. Choose it in decoders and generators, upsampling. Not where the output has
    fewer entries than the input: that loses something, as :class:`OrthogonalConv2d` does.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width).
        stride: as in :class:`torch.nn.ConvTranspose2d`, like all that follow.
        padding: pixels cropped from all sides of the output.
        output_padding: pixels shown in addition at one side.
        groups: a divisor of both numbers of channels.
        bias: add a learned number to each channel.
        dilation: distance of the taps.
        padding_mode: zeros, torch's only one.
        device: where the parameters live.
        dtype: of the parameters; half precision is orthogonalised in float32.

    Attributes:
        weight: (in_channels, out_channels / groups, height, width), the orthogonal kernel itself.
        raw_matrix, raw_projectors: as in :class:`OrthogonalConv2d`.

    Shapes:
        (N, C_in, H, W) or (C_in, H, W), as :class:`torch.nn.ConvTranspose2d`.

    Raises:
        ValueError: an argument does not fit.

    >>> layer = OrthogonalConvTranspose2d(8, 2, 3, stride=2, bias=False)
    >>> x = torch.randn(1, 8, 5, 5)
    >>> torch.allclose(layer(x).norm(), x.norm())
    True

    Source: Boissin, Mamalet, Fel, Picard, Massena, Serrurier, "An adaptive orthogonal convolution scheme",
    arXiv 2501.07930, section 3.
    """

    _plain, _axes, _apply_kernel = nn.ConvTranspose2d, 2, nn.functional.conv_transpose2d

    def to_conv(self) -> nn.ConvTranspose2d:
        """A plain :class:`torch.nn.ConvTranspose2d` with a copy of the kernel, for inference without barrow."""
        plain = self._exported()
        assert isinstance(plain, nn.ConvTranspose2d)
        return plain


@register(_Transposed)
def _orthogonal(layer: _Transposed, path: str) -> float:
    """The proven norm of the present kernel, whatever its construction promises."""
    require_finite(layer, path)
    return transposed_convolution(layer, path)


register_export(OrthogonalConvTranspose1d)(OrthogonalConvTranspose1d.to_conv)
register_export(OrthogonalConvTranspose2d)(OrthogonalConvTranspose2d.to_conv)
