"""Layers whose weight is scaled, column by column, until it is a contraction."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from barrow.nn.contraction import contraction, dominance_bound, normal, rounding
from barrow.nn.convolution_bound import _periods, convolution, paddings
from barrow.nn.derived_convolution import DerivedConvolution
from barrow.nn.export import register_export
from barrow.nn.linear import DerivedLinear
from barrow.nn.lipschitz import _refuse, register, spectral_norm_bound

__all__ = ["AolConv1d", "AolConv2d", "AolLinear"]


class AolLinear(DerivedLinear):
    """A linear layer y = W x + b whose weight is scaled to a contraction, column by column.

        W = R D,   D_j = (sum_k |R' R|_jk)^(-1/2),   R = raw_weight;   |W x - W y| <= |x - y|

    Almost-orthogonal: where the columns of R are orthogonal the scaling makes them orthonormal, and gradients drive
    them there. Choose it where one product of R with itself is all that a weight may cost. Where the weight is to be
    orthogonal, not merely at most 1 in norm, choose :class:`OrthogonalLinear`: with more inputs than outputs columns
    cannot be orthogonal, and the norm of W can be far below 1. The bound holds for the rounded weight in every dtype.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: add a learned vector.
        device: where the parameters live.
        dtype: of the parameters; the scaling is computed in float64.

    Attributes:
        weight: (out_features, in_features), the contraction itself; columns of zeros stay zeros.
        raw_weight: the unconstrained parameter R that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: a size is not a positive integer.

    >>> layer = AolLinear(2, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.raw_weight.copy_(torch.tensor([[3.0, 3.0], [0.0, 4.0]]))
    >>> layer.weight.detach().round(decimals=4)  # D = (18, 34)^(-1/2)
    tensor([[0.7071, 0.5145],
            [0.0000, 0.6860]])

    Source: Prach, Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks", ECCV 2022,
    theorem 1.
    """

    def scaled(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The columns as rows of a kernel (in_features, out_features, 1, 1), scaled but not rounded, and their T."""
        V, T = contraction(normal(raw).mT[..., None, None])
        return V / (1 + rounding(raw.dtype, min(raw.shape))), T

    def derive(self) -> Tensor:
        """The contraction (out_features, in_features) from the present raw weight."""
        return self.scaled(self.raw_weight)[0][..., 0, 0].mT.to(self.raw_weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)


class _AolConvolution(DerivedConvolution):
    modes: ClassVar[tuple[str, ...]] = ("zeros", "circular")

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix on as many taps as the stride, zeros elsewhere, and a bias as torch draws it.

        The layer then looks at each pixel once and starts as an isometry if there are enough output channels.
        """
        if self.raw_weight.is_meta:
            return
        with torch.no_grad():
            self.raw_weight.zero_()
            middle: Tensor = self.raw_weight
            for axis, (k, step) in enumerate(zip(self.kernel_size, self._steps(), strict=True), 2):
                middle = middle.narrow(axis, (k - min(k, step)) // 2, min(k, step))
            for part in middle.chunk(self.groups):
                part.copy_(nn.init.orthogonal_(torch.empty(part.shape, dtype=torch.float32, device=part.device)))
            self._draw_bias()

    def _steps(self) -> tuple[int, ...]:
        """The stride on taps, where rows of the layer are rows of the strided convolution on the infinite grid."""
        # Wrapped rows lie on another lattice where the stride does not divide the input's size.
        wrapped = [self.padding_mode != "zeros" and any(pad) for pad in paddings(self)]
        axes = zip(self.stride, self.dilation, wrapped, strict=True)
        return tuple(1 if w else s // math.gcd(s, d) for s, d, w in axes)

    def copies(self) -> int:
        """How often an output of the infinite grid is shown at most: more than once if padding exceeds the reach."""
        if self.padding_mode == "zeros":
            return 1
        axes = zip(paddings(self), self.kernel_size, self.dilation, strict=True)
        return math.prod(_periods("circular", *pad, d * (k - 1), 1) for pad, k, d in axes)

    def scaled(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The columns as rows of a kernel (groups, c_in s1 s2, c_out, taps1, taps2), scaled, not rounded; their T."""
        V, T = contraction(self.unshuffled(normal(raw)))
        return V / ((1 + rounding(raw.dtype, self.rank(V))) * math.sqrt(self.copies())), T

    @staticmethod
    def rank(V: Tensor) -> int:
        """A number r with |dV(theta)|_2 <= u sqrt(r) where each entry of the contraction V is changed by u of itself.

        |dV(theta)|_2 <= sum over taps of |dV_t|_F <= u sqrt(taps) |V|_F, and |V|_F^2 is a mean of |V(theta)|_F^2.
        """
        return V.shape[-2] * V.shape[-1] * min(V.shape[1:3])

    def unshuffled(self, W: Tensor) -> Tensor:
        """The kernel of the equal convolution of stride 1 on unshuffled pixels, with input channels first."""
        W = W.reshape(*W.shape[:3], -1)
        s1, s2 = (*self._steps(), 1)[:2]
        W = nn.functional.pad(W, (0, -W.shape[3] % s2, 0, -W.shape[2] % s1))
        W = W.reshape(self.groups, -1, W.shape[1], W.shape[2] // s1, s1, W.shape[3] // s2, s2)
        return W.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)

    def shuffled(self, V: Tensor) -> Tensor:
        """The kernel in torch's order from :meth:`unshuffled`'s."""
        s1, s2 = (*self._steps(), 1)[:2]
        V = V.reshape(self.groups, -1, s1, s2, *V.shape[2:]).permute(0, 4, 1, 5, 2, 6, 3)
        V = V.reshape(self.out_channels, V.shape[2], V.shape[3] * s1, V.shape[5] * s2)
        k1, k2 = (*self.kernel_size, 1)[:2]
        return V[..., :k1, :k2].reshape(self.raw_weight.shape)

    def derive(self) -> Tensor:
        """The kernel in torch's order from the present raw weight."""
        return self.shuffled(self.scaled(self.raw_weight)[0]).to(self.raw_weight.dtype)


class AolConv1d(_AolConvolution):
    """A convolution of signals whose kernel is scaled to a contraction, input channel by input channel.

        W_j = R_j D_j,   D_j = (sum_k sum_m |sum_t <R_j(t), R_k(t + m)>|)^(-1/2),   R_j(t) = raw_weight[:, j, t]

    The Gram matrix of the linear layer is replaced by the autocorrelation of the kernel, which bounds it at every
    frequency. The bound holds for inputs of all sizes and for the rounded kernel in every dtype.

    Stride: a strided convolution is one of stride 1 on unshuffled pixels, each residue of the input's places a channel,
    and is scaled as that: D depends on the residue of the tap too, and kernels no longer than the stride are scaled
    as matrices. Circular padding is the exception, since it takes inputs whose size the stride does not divide: there
    the kernel is scaled as for stride 1, whose outputs contain the layer's. Dilation only renames frequencies. Groups
    are scaled apart. Reflecting and replicating paddings, whose norm exceeds 1, are refused.

    Choose it between layers where an orthogonal convolution is too slow. Not for few output channels: with fewer of
    them than input channels times the stride the norm can be far below 1.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps.
        stride: distance of windows.
        padding: pixels added to both ends, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel.
        padding_mode: "zeros" or "circular".
        device: where the parameters live.
        dtype: of the parameters; the scaling is computed in float64.

    Attributes:
        weight: the scaled kernel itself (c_out, c_in / groups, k); channels of zeros stay zeros.
        raw_weight: the unconstrained parameter R that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: a size is not a positive integer, groups does not divide the channels, padding is unknown, or the
            input has the wrong number of axes.

    >>> layer = AolConv1d(1, 1, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.raw_weight.copy_(torch.tensor([[[1.0, 1.0]]]))
    >>> layer.weight.detach().round(decimals=4)  # (1 + 2 + 1)^(-1/2)
    tensor([[[0.5000, 0.5000]]])

    Source: Prach, Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks", ECCV 2022,
    theorem 2.
    """

    axes: ClassVar[int] = 1


class AolConv2d(_AolConvolution):
    """A convolution of images whose kernel is scaled to a contraction, input channel by input channel.

        W_j = R_j D_j,   D_j = (sum_k sum_m |sum_t <R_j(t), R_k(t + m)>|)^(-1/2),   R_j(t) = raw_weight[:, j, t]

    As :class:`AolConv1d`, with taps t and lags m in the plane.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, one integer or (height, width), as all sizes below.
        stride: distance of windows.
        padding: pixels added to both ends of an axis, or "same" or "valid".
        dilation: distance of taps.
        groups: groups of channels that do not see each other.
        bias: add a learned number to each channel.
        padding_mode: "zeros" or "circular".
        device: where the parameters live.
        dtype: of the parameters; the scaling is computed in float64.

    Attributes:
        weight: the scaled kernel itself (c_out, c_in / groups, k1, k2); channels of zeros stay zeros.
        raw_weight: the unconstrained parameter R that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: as for :class:`AolConv1d`.

    >>> layer = AolConv2d(4, 8, 3, padding=1)
    >>> layer(torch.zeros(2, 4, 16, 16)).shape
    torch.Size([2, 8, 16, 16])

    Source: Prach, Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks", ECCV 2022,
    theorem 2.
    """

    axes: ClassVar[int] = 2


def diverged(layer: nn.Module, path: str) -> ValueError:
    """The complaint about raw parameters that are not finite."""
    return _refuse(layer, path, "its raw weight is not finite; it has diverged, reload or reinitialise it")


def contraction_bound(V: Tensor, q: Tensor, W: Tensor, taps: int) -> float:
    """|W| <= |V| + |W - V|: V by the theorem, with weights q that show it, the rounded weight W by its difference."""
    moved: float = (W.detach().cpu().to(V.dtype) - V).flatten(-4).norm(dim=-1).max().item()
    return dominance_bound(V, q) + moved * math.sqrt(taps) * (1 + 1e-12)


@register(AolLinear)
def _linear(layer: AolLinear, path: str) -> float:
    """The norm of the weight, or 1 by the theorem."""
    raw = layer.raw_weight.detach().cpu()
    if not raw.isfinite().all():
        raise diverged(layer, path)
    V, T = layer.scaled(raw)
    by_theorem = contraction_bound(V, T.sqrt(), layer.weight.mT[..., None, None], 1)
    return min(by_theorem, spectral_norm_bound(layer.weight))


@register(AolConv1d, AolConv2d)
def _aol_convolution(layer: _AolConvolution, path: str) -> float:
    """The norm on the infinite grid, or 1 by the theorem."""
    raw = layer.raw_weight.detach().cpu()
    if not raw.isfinite().all():
        raise diverged(layer, path)
    V, T = layer.scaled(raw)
    W = layer.unshuffled(layer.weight.detach().cpu())
    by_theorem = contraction_bound(V, T.sqrt(), W, V.shape[-2] * V.shape[-1]) * math.sqrt(layer.copies())
    return min(by_theorem * (1 + 1e-15), convolution(layer, path))


register_export(AolLinear)(AolLinear.to_linear)
register_export(AolConv1d, AolConv2d)(DerivedConvolution.to_conv)
