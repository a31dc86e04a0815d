"""Convolutions that are orthogonal operators by construction, not merely kernels that are orthogonal matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.convolution_bound import convolution, paddings
from barrow.nn.derived import DerivedWeight
from barrow.nn.derived_convolution import Size, one_each
from barrow.nn.export import register_export
from barrow.nn.linear import fill, positive_integer
from barrow.nn.lipschitz import _refuse, register
from barrow.ops.block_convolution import orthogonal_kernel
from barrow.ops.polar import polar

__all__ = ["OrthogonalConv1d", "OrthogonalConv2d", "OrthogonalKernel"]

Device = torch.device | str | None
_MODES = ("zeros", "circular", "reflect", "replicate")


class OrthogonalKernel(DerivedWeight):
    """What these convolutions and their adjoints share: raw parameters and the kernel derived from them.

    A subclass sets padding, padding_mode and output_padding, then calls :meth:`_build`.
    """

    #: torch's layer with the same arguments.
    _plain: ClassVar[type[nn.Module]]
    #: torch's function that applies a kernel.
    _apply_kernel: ClassVar[Callable[..., Tensor]]
    #: Axes of the input that are not channels.
    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False

    padding_mode: str
    padding: tuple[int, ...] | str
    bias: nn.Parameter | None
    raw_projectors: nn.Parameter | None

    def _build(
        self,
        in_channels: SupportsIndex,
        out_channels: SupportsIndex,
        kernel_size: Size,
        stride: Size,
        dilation: Size,
        groups: SupportsIndex,
        bias: bool,
        device: Device,
        dtype: torch.dtype | None,
    ) -> None:
        self.in_channels = positive_integer("in_channels", in_channels)
        self.out_channels = positive_integer("out_channels", out_channels)
        self.groups = positive_integer("groups", groups)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups = {self.groups} does not divide {name} = {channels}: change one of them")
        axes = self._axes
        self.kernel_size = one_each("kernel_size", kernel_size, axes)
        self.stride = one_each("stride", stride, axes)
        self.dilation = one_each("dilation", dilation, axes)
        # Everything below is about the convolution whose adjoint a transposed one is.
        c_in, c_out = self.in_channels // self.groups, self.out_channels // self.groups
        if self._transposed:
            c_in, c_out = c_out, c_in
        # Dilated taps meet stride / gcd residues of pixels; of these a short kernel sees its own number.
        steps = [s // math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        window = [min(k, s) for k, s in zip(self.kernel_size, steps, strict=True)] + [1] * (2 - axes)
        blocks = [k - v for k, v in zip(self.kernel_size, window, strict=False)] + [0] * (2 - axes)
        self._window = (window[0], window[1])
        self._order = tuple(axis for i in range(max(blocks)) for axis in (0, 1) if i < blocks[axis])
        self._columns = c_in
        area = math.prod(window)
        # The chain acts on c_in channels, on more where the matrix would otherwise stay an isometry with room left.
        between = max(c_in, c_out // area) if self._order and area > 1 else c_in
        width = max(c_in, c_out) if area == 1 else between
        half = width // 2

        def empty(*sizes: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(sizes, device=device, dtype=dtype))

        self.raw_matrix = empty(self.groups, c_out, between * area)
        n = len(self._order)
        self.register_parameter("raw_projectors", empty(n, self.groups, width, half) if n and half else None)
        self.register_parameter("bias", empty(self.out_channels) if bias else None)
        self._halves = (n, self.groups, width, half)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the matrix and the projectors (Haar measure), and a bias as torch's convolutions draw it."""
        if self.raw_matrix.is_meta:
            return
        with torch.no_grad():
            for raw in (self.raw_matrix, self.raw_projectors):
                if raw is not None:
                    # The polar factor of a Gaussian matrix is uniform, and one call draws them all.
                    dtype = torch.promote_types(raw.dtype, torch.float32)
                    raw.copy_(polar(torch.randn(raw.shape, device=raw.device, dtype=dtype)))
            if self.bias is not None:
                inputs = self.out_channels if self._transposed else self.in_channels
                bound = 1 / math.sqrt(inputs // self.groups * math.prod(self.kernel_size))
                nn.init.uniform_(self.bias, -bound, bound)

    def derive(self) -> Tensor:
        """The kernel, in the layout of torch's layer, from the raw parameters; differentiable once."""
        halves = self.raw_matrix.new_empty(self._halves) if self.raw_projectors is None else self.raw_projectors
        kernel = orthogonal_kernel(self.raw_matrix, halves, self._order, self._window)
        # A part of the columns of an isometry is one.
        kernel = kernel[:, :, : self._columns].flatten(0, 1)
        return (kernel if self._axes == 2 else kernel.squeeze(-1)).contiguous()

    def _plain_arguments(self) -> dict[str, object]:
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
        if self._transposed:
            names += " output_padding"
        return {name: getattr(self, name) for name in names.split()} | {"bias": self.bias is not None}

    def _check(self, x: Tensor) -> None:
        axes = self._axes
        if x.ndim not in (axes + 1, axes + 2) or x.shape[-axes - 1] != self.in_channels:
            pixels = "length" if axes == 1 else "height, width"
            raise ValueError(
                f"x has shape {shape(x)}, but (batch, {self.in_channels}, {pixels}) or one of the batch is expected"
            )

    def _exported(self) -> nn.Module:
        # On the meta device nothing is drawn, so that exporting does not move the global generator.
        plain = self._plain(**self._plain_arguments(), device="meta")
        fill(plain, self.weight, self.bias)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer: torch's words."""
        return str(self._plain(**self._plain_arguments(), device="meta").extra_repr())


class _Convolution(OrthogonalKernel):
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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}")
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding must be integers, 'same' or 'valid', got {padding!r}")
            self.padding = padding
        else:
            self.padding = one_each("padding", padding, self._axes, least=0)
        if padding == "same" and any(s != 1 for s in one_each("stride", stride, self._axes)):
            raise ValueError(f"padding='same' needs stride 1, got stride {stride!r}: give the padding in pixels")
        self._build(in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve as torch's layer does."""
        self._check(x)
        convolve = type(self)._apply_kernel
        if self.padding_mode == "zeros":
            return convolve(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        each = paddings(self)
        if self.padding_mode == "circular":
            for size, s, pad in zip(x.shape[-self._axes :], self.stride, each, strict=False):
                if any(pad) and size % s:
                    raise ValueError(
                        f"x has shape {shape(x)}, but stride {s} does not divide {size}: where the circle closes, "
                        "windows would overlap and the layer exceed norm 1; resize x, or pad by zeros"
                    )
        pads = [p for pair in reversed(each) for p in pair]
        x = nn.functional.pad(x, pads, self.padding_mode)
        return convolve(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class OrthogonalConv1d(_Convolution):
    """A convolution of signals that is an orthogonal operator: :class:`OrthogonalConv2d` along one axis.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps.
        stride: as in :class:`torch.nn.Conv1d`, like all that follow.
        padding: an integer, "same" or "valid".
        dilation: distance of the taps.
        groups: a divisor of both numbers of channels.
        bias: add a learned number to each channel.
        padding_mode: zeros, circular, reflect or replicate.
        device: where the parameters live.
        dtype: of the parameters; half precision is orthogonalised in float32.

    Shapes:
        (N, C_in, L) or (C_in, L), as :class:`torch.nn.Conv1d`.

    Raises:
        ValueError: an argument does not fit.

    >>> layer = OrthogonalConv1d(4, 4, 3, padding=1, bias=False, padding_mode="circular")
    >>> x = torch.randn(2, 4, 10)
    >>> torch.allclose(layer(x).norm(), x.norm())
    True

    Source: Li et al., NeurIPS 2019, section 4; Boissin et al., arXiv 2501.07930, section 3.
    """

    _plain, _axes, _apply_kernel = nn.Conv1d, 1, nn.functional.conv1d

    def to_conv(self) -> nn.Conv1d:
        """A plain :class:`torch.nn.Conv1d` with a copy of the present kernel, for inference without barrow."""
        plain = self._exported()
        assert isinstance(plain, nn.Conv1d)
        return plain


class OrthogonalConv2d(_Convolution):
    """A convolution of images that is an orthogonal operator: all singular values of its symbol are 1 to within 1e-5.

        T(theta) = sum_j W_j exp(i <j, theta>),   T* T = I or T T* = I at all frequencies

    taken after strides have become channels. A linear layer's counterpart: neither the norm of signals nor that of
    gradients shrinks with depth. Choose it for the hidden layers of a convolutional 1-Lipschitz network. Reshaping the
    kernel to a matrix and making that one orthogonal gives a norm of up to sqrt(number of taps) instead.

    With c_in, c_out the channels of one group, s the strides divided by their common divisors with the dilations, and
    v = min(kernel_size, s) an axis, the kernel is an orthogonal matrix (c_out, c_in v1 v2) behind a chain of
    kernel_size - v blocks of two taps an axis, and the layer without padding on the infinite grid is

    * c_out <= c_in v1 v2: a co-isometry: its adjoint preserves norms, and it keeps as much as c_out channels can
    * c_out >= c_in v1 v2: an isometry of the pixels that it sees. It sees all where v equals the stride; where windows
      leave pixels out (kernel_size below the stride, or common divisors) no convolution is an isometry of all
    * both: an orthogonal operator.

    One channel in and out of a group (depthwise) leaves a sign and the middle tap: orthogonal filters of one channel
    are shifts. The construction does not reach every orthogonal convolution: projectors have half rank, the largest
    family of its sort, and each start belongs to one connected component, which training does not leave.

    Padding by zeros crops the operator: still a contraction, no longer orthogonal at the border. Circular padding
    of dilation * (kernel_size - 1) in all keeps all singular values at 1; sizes that the stride does not divide are
    refused then, since windows would overlap where the circle closes. Reflect and replicate repeat pixels and can
    exceed norm 1, which :func:`lipschitz_bound` counts. In float32 the stored kernel is itself a contraction, in
    float64 up to the rounding of sums; rounded to half precision its norm can exceed 1 by 1e-2, which is counted too.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width).
        stride: as in :class:`torch.nn.Conv2d`, like all that follow.
        padding: one integer, (height, width), "same" or "valid".
        dilation: distance of the taps.
        groups: a divisor of both numbers of channels.
        bias: add a learned number to each channel.
        padding_mode: zeros, circular, reflect or replicate.
        device: where the parameters live.
        dtype: of the parameters; half precision is orthogonalised in float32.

    Attributes:
        weight: (out_channels, in_channels / groups, height, width), the orthogonal kernel itself.
        raw_matrix: (groups, c_out, c v1 v2) with c = c_in mostly, the unconstrained matrix.
        raw_projectors: (blocks, groups, c, c // 2), the unconstrained bases of the projectors; None without blocks.

    Shapes:
        (N, C_in, H, W) or (C_in, H, W), as :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: an argument does not fit, or the input's channels, or its size and the stride on circles.

    >>> from barrow.nn import lipschitz_bound
    >>> layer = OrthogonalConv2d(4, 16, 3, stride=2, padding=1, bias=False)
    >>> lipschitz_bound(layer) <= 1
    True

    Source: Li, Haque, Anil, Lucas, Grosse, Jacobsen, "Preventing gradient attenuation in Lipschitz constrained
    convolutional networks", NeurIPS 2019, section 4; Boissin, Mamalet, Fel, Picard, Massena, Serrurier, "An adaptive
    orthogonal convolution scheme", arXiv 2501.07930, section 3.
    """

    _plain, _axes, _apply_kernel = nn.Conv2d, 2, nn.functional.conv2d

    def to_conv(self) -> nn.Conv2d:
        """A plain :class:`torch.nn.Conv2d` with a copy of the present kernel, for inference without barrow."""
        plain = self._exported()
        assert isinstance(plain, nn.Conv2d)
        return plain


@register(_Convolution)
def _orthogonal(layer: _Convolution, path: str) -> float:
    """The proven norm of the present kernel, whatever its construction promises, times the factor of the padding."""
    require_finite(layer, path)
    return convolution(layer, path, divisible=True)


def require_finite(layer: OrthogonalKernel, path: str) -> None:
    """Refuse a diverged layer: the kernel of raw parameters that are not finite is orthogonal, but nobody's choice."""
    if not all(raw.detach().isfinite().all() for raw in layer.raws()):
        raise _refuse(layer, path, "its raw weights are not finite; it has diverged, reload or reinitialise it")


register_export(OrthogonalConv1d)(OrthogonalConv1d.to_conv)
register_export(OrthogonalConv2d)(OrthogonalConv2d.to_conv)
