"""The convolutions of deel-torchlip under its names and with its arguments, certified for every padding mode.

Differences worth knowing: the coefficient that turns a norm of the unfolded kernel into a bound for the layer is
counted for the padding mode at hand (torchlip's, made for zeros, is too large for "reflect", for "replicate" from k = 5
on, and for strides with dilation; in one dimension it is too small by a square root), and inputs so small that their
pixels are shown more often than those of large ones are refused; groups are orthogonalised apart; strides, dilation and
output padding that torchlip refuses are served. Biases start at zero, as in torchlip.
"""

from __future__ import annotations

import math
from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from barrow.compat.torchlip.export import WithCoefficient, check_tolerances, coefficient
from barrow.compat.torchlip.padded_convolutions import MODES, plain_convolution
from barrow.nn.derived import DerivedWeight
from barrow.nn.derived_convolution import Size, one_each
from barrow.nn.export import register_export
from barrow.nn.linear import fill, positive_integer
from barrow.nn.lipschitz import _refuse, register
from barrow.nn.unit_convolution import CountedConvolution, padded, scaled_polar
from barrow.nn.windows import transposed_norm, window_count

__all__ = [
    "FrobeniusConv2d",
    "SpectralConv1d",
    "SpectralConv2d",
    "SpectralConvTranspose2d",
]


class _Scaled(CountedConvolution, WithCoefficient):
    """A convolution whose unfolded kernel is normalised and divided by the square root of the windows a pixel is in."""

    modes: ClassVar[tuple[str, ...]] = MODES

    def _start(self, k_coef_lip: float) -> None:
        self.k_coef_lip = coefficient(k_coef_lip)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return super().extra_repr() + ("" if self.k_coef_lip == 1 else f", k_coef_lip={self.k_coef_lip}")


class _Spectral(_Scaled):
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
        k_coef_lip: float = 1.0,
        eps_spectral: float = 1e-3,
        eps_bjorck: float | None = 1e-3,
    ) -> None:
        check_tolerances(eps_spectral, eps_bjorck)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self._start(k_coef_lip)

    def derive(self) -> Tensor:
        """The kernel: orthogonal when unfolded, group by group, times the factor; differentiable once."""
        K = self.raw_weight.reshape(self.groups, self.out_channels // self.groups, -1)
        return scaled_polar(K, self.k_coef_lip * self.damping, self.raw_weight)


class SpectralConv1d(_Spectral):
    """A convolution of signals whose unfolded kernel is orthogonal, scaled to have norm at most k_coef_lip.

        W = k_coef_lip polar(raw_weight as (c_out, c_in k)) / sqrt(c)

    c is the number of windows that one pixel is in at most (:func:`barrow.nn.windows.window_count`): ceil(k / stride)
    for zeros. Torchlip divides by c itself. The layer is not orthogonal: use :class:`barrow.nn.OrthogonalConv1d` in
    new code.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps.
        stride: distance of windows.
        padding: pixels added to both ends, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel, initially 0.
        padding_mode: "zeros", "reflect", "replicate", "circular" or "symmetric".
        k_coef_lip: the Lipschitz constant that the layer does not exceed.
        eps_spectral: largest tolerated error of the norm; always met, so any value from 1e-5 up is the same.
        eps_bjorck: largest tolerated error of orthogonality, likewise. None, which in torchlip leaves out the
            orthogonalisation, is refused.

    Raises:
        ValueError: a size or coefficient is not positive, a tolerance is below 1e-5 or None, padding is unknown, or an
            input has fewer pixels than `least` says (1 for zeros, 4 for k = 3 and "reflect").

    >>> from barrow.nn import lipschitz_bound
    >>> lipschitz_bound(SpectralConv1d(2, 4, 3, padding=1, padding_mode="reflect", k_coef_lip=2.0)) <= 2
    True
    """

    axes: ClassVar[int] = 1


class SpectralConv2d(_Spectral):
    """A convolution of images whose unfolded kernel is orthogonal, scaled to have norm at most k_coef_lip.

        W = k_coef_lip polar(raw_weight as (c_out, c_in k1 k2)) / sqrt(c1 c2)

    c1 and c2 are the numbers of windows that one pixel is in at most, along each axis
    (:func:`barrow.nn.windows.window_count`): ceil(k / stride) for zeros, as in torchlip. The layer is not orthogonal:
    use :class:`barrow.nn.OrthogonalConv2d` in new code.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width), as all sizes below.
        stride: distance of windows.
        padding: pixels added to both ends of an axis, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel, initially 0.
        padding_mode: "zeros", "reflect", "replicate", "circular" or "symmetric".
        k_coef_lip: the Lipschitz constant that the layer does not exceed.
        eps_spectral: largest tolerated error of the norm; always met, so any value from 1e-5 up is the same.
        eps_bjorck: largest tolerated error of orthogonality, likewise. None, which in torchlip leaves out the
            orthogonalisation, is refused.

    Raises:
        ValueError: as for :class:`SpectralConv1d`.

    >>> W = SpectralConv2d(2, 4, 3).weight.detach().flatten(1)
    >>> torch.linalg.svdvals(W).round(decimals=4)
    tensor([0.3333, 0.3333, 0.3333, 0.3333])
    """

    axes: ClassVar[int] = 2


class FrobeniusConv2d(_Scaled):
    """A convolution of images whose kernel is divided by its Frobenius norm, scaled to norm at most k_coef_lip.

        W = k_coef_lip raw_weight / (|raw_weight|_F sqrt(c1 c2))

    The same as :class:`SpectralConv2d` for one output channel; for several the norm is smaller than it could be.
    Strides, which torchlip refuses, count as there.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width), as all sizes below.
        stride: distance of windows.
        padding: pixels added to both ends of an axis, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel, initially 0.
        padding_mode: "zeros", "reflect", "replicate", "circular" or "symmetric".
        k_coef_lip: the Lipschitz constant that the layer does not exceed.

    Raises:
        ValueError: a size or the coefficient is not positive, padding is unknown, or an input has fewer pixels than
            `least` says.

    >>> FrobeniusConv2d(2, 4, 3).weight.detach().norm().round(decimals=4)
    tensor(0.3333)
    """

    axes: ClassVar[int] = 2

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
        k_coef_lip: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self._start(k_coef_lip)

    def derive(self) -> Tensor:
        """The kernel of Frobenius norm one, times the factor; differentiable once."""
        return scaled_polar(self.raw_weight.reshape(1, 1, -1), self.k_coef_lip * self.damping, self.raw_weight)


class SpectralConvTranspose2d(DerivedWeight, WithCoefficient):
    """A transposed convolution whose unfolded kernel is orthogonal, scaled to have norm at most k_coef_lip.

        W = k_coef_lip polar(raw_weight as (c_in, c_out k1 k2)) / sqrt(ceil(k1 / s1) ceil(k2 / s2))

    It is the adjoint of the convolution with that kernel, which maps c_out channels to c_in and is unfolded as such
    (torchlip first normalises another unfolding, so that its iteration can diverge for c_in far below c_out). With
    dilation d, ceil(k gcd(s, d) / s) windows count.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width), as all sizes below.
        stride: distance of windows.
        padding: pixels cropped from both ends of an axis of the output.
        output_padding: pixels added to one end of an axis of the output; None is 0.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel, initially 0.
        dilation: distance of taps.
        padding_mode: "zeros".
        device: where the parameters live.
        dtype: of the parameters.
        k_coef_lip: the Lipschitz constant that the layer does not exceed.
        eps_spectral: as for :class:`SpectralConv2d`.
        eps_bjorck: as for :class:`SpectralConv2d`.

    Raises:
        ValueError: a size or coefficient is not positive, a tolerance is below 1e-5 or None, or padding_mode is not
            "zeros".

    >>> SpectralConvTranspose2d(4, 2, 2, stride=2)(torch.zeros(1, 4, 3, 3)).shape
    torch.Size([1, 2, 6, 6])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: SupportsIndex,
        out_channels: SupportsIndex,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size | None = 0,
        groups: SupportsIndex = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        k_coef_lip: float = 1.0,
        eps_spectral: float = 1e-3,
        eps_bjorck: float | None = 1e-3,
    ) -> None:
        check_tolerances(eps_spectral, eps_bjorck)
        super().__init__()
        self.k_coef_lip = coefficient(k_coef_lip)
        self.in_channels = positive_integer("in_channels", in_channels)
        self.out_channels = positive_integer("out_channels", out_channels)
        self.groups = positive_integer("groups", groups)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups = {self.groups} does not divide {name} = {channels}: change one of them")
        self.kernel_size = one_each("kernel_size", kernel_size, 2)
        self.stride = one_each("stride", stride, 2)
        self.padding = one_each("padding", padding, 2, least=0)
        self.output_padding = one_each("output_padding", 0 if output_padding is None else output_padding, 2, least=0)
        self.dilation = one_each("dilation", dilation, 2)
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode is {padding_mode!r}, but a transposed convolution knows only 'zeros'")
        self.padding_mode = padding_mode
        axes = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        self.damping = 1 / math.sqrt(math.prod(window_count("zeros", k, s, d, 0, 0) for k, s, d in axes))
        kernel = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        self.raw_weight = nn.Parameter(torch.empty(kernel, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a kernel that is orthogonal when unfolded, group by group; the bias is 0."""
        if self.raw_weight.is_meta:
            return
        with torch.no_grad():
            for part in self.raw_weight.chunk(self.groups):
                # Drawn in float32 or better: the QR behind it does not exist for half precision.
                part.copy_(nn.init.orthogonal_(torch.empty_like(part, dtype=torch.float32)))
            if self.bias is not None:
                self.bias.zero_()

    def derive(self) -> Tensor:
        """The kernel (c_in, c_out / groups, k1, k2); differentiable once."""
        K = self.raw_weight.reshape(self.groups, self.in_channels // self.groups, -1)
        return scaled_polar(K, self.k_coef_lip * self.damping, self.raw_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), or one such image without N, as :class:`torch.nn.ConvTranspose2d` does."""
        return nn.functional.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}"
        ) + ("" if self.k_coef_lip == 1 else f", k_coef_lip={self.k_coef_lip}")


register(SpectralConv1d, SpectralConv2d, FrobeniusConv2d)(padded)
register_export(SpectralConv1d, SpectralConv2d, FrobeniusConv2d)(plain_convolution)


@register(SpectralConvTranspose2d)
def _transposed(layer: SpectralConvTranspose2d, path: str) -> float:
    if not layer.raw_weight.detach().isfinite().all():
        raise _refuse(layer, path, "its raw weight is not finite; it has diverged, reload or reinitialise it")
    return transposed_norm(layer, path)


@register_export(SpectralConvTranspose2d)
def _plain_transposed(layer: SpectralConvTranspose2d) -> nn.ConvTranspose2d:
    plain = nn.ConvTranspose2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.output_padding,  # type: ignore[arg-type]
        layer.groups, layer.bias is not None, layer.dilation, device="meta",  # type: ignore[arg-type]
    )  # fmt: skip
    fill(plain, layer.weight, layer.bias)
    return plain
