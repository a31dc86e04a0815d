"""The parameter-light layers of deel-torchlip under its names and with its arguments, on barrow's layers.

Every `k_coef_lip` multiplies the layer's output, and `lipschitz_bound` sees it. What torchlip refuses with
RuntimeError (poolings over windows that overlap) is a ValueError here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.compat.torchlip.export import WithCoefficient, coefficient
from barrow.compat.torchlip.normalization import ScaleBiasLayer
from barrow.nn import activations, centering, pooling, reshape
from barrow.nn.activations import finite, householder, slopes_for
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register, times
from barrow.nn.residual import mix
from barrow.nn.sort import GroupSort

__all__ = [
    "BatchCentering",
    "GroupSort2",
    "HouseHolder",
    "InvertibleDownSampling",
    "InvertibleUpSampling",
    "LPReLU",
    "LayerCentering",
    "LipResidual",
    "MaxMin",
    "ScaledAdaptativeL2NormPool2d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledAvgPool2d",
    "ScaledL2NormPool2d",
]


class _Times(nn.Module, WithCoefficient):
    """The layer that stands behind it in the order of inheritance, times k_coef_lip."""

    k_coef_lip: float

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, then the coefficient."""
        y: Tensor = super().forward(x)
        return y if self.k_coef_lip == 1 else y * self.k_coef_lip

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        shown = super().extra_repr()
        if self.k_coef_lip == 1:
            return shown
        return f"{shown}, k_coef_lip={self.k_coef_lip}" if shown else f"k_coef_lip={self.k_coef_lip}"


class MaxMin(nn.Module, WithCoefficient):
    """Positive and negative parts side by side, times k_coef_lip: twice the width, as in torchlip.

        y = k_coef_lip cat(relu(x), relu(-x))

    Not the MaxMin of Anil et al., which sorts pairs and keeps the width: that is :class:`barrow.nn.MaxMin`.

    Args:
        dim: the dimension that doubles; None is dimension 1.
        k_coef_lip: the Lipschitz constant.

    Raises:
        ValueError: dim does not exist or k_coef_lip is not positive.

    >>> MaxMin()(torch.tensor([[2.0, -3.0]])).tolist()
    [[2.0, 0.0, 0.0, 3.0]]
    """

    def __init__(self, dim: int | None = None, k_coef_lip: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.k_coef_lip = coefficient(k_coef_lip)

    def forward(self, x: Tensor) -> Tensor:
        """Split by sign; dimension `dim` of the output is twice that of the input."""
        dim = 1 if self.dim is None else self.dim
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dim = {dim} does not exist in an input of shape {shape(x)}")
        y = torch.cat((torch.relu(x), torch.relu(-x)), dim)
        return y if self.k_coef_lip == 1 else y * self.k_coef_lip

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"dim={self.dim}, k_coef_lip={self.k_coef_lip}"


class GroupSort2(_Times, GroupSort):
    """Sort neighbouring pairs along dimension 1, times k_coef_lip.

    >>> GroupSort2(k_coef_lip=2.0)(torch.tensor([[3.0, 1.0]])).tolist()
    [[2.0, 6.0]]
    """

    def __init__(self, k_coef_lip: float = 1.0) -> None:
        super().__init__(2, 1)
        self.k_coef_lip = coefficient(k_coef_lip)


class LPReLU(nn.Module, WithCoefficient):
    """A leaky ReLU with a learned slope clamped to [-k_coef_lip, k_coef_lip].

        y = min(1, k) max(x, 0) + min(max(weight, -k), k) min(x, 0)

    For k >= 1 that is torchlip's function. Below, torchlip keeps slope 1 for positive inputs and so exceeds the
    coefficient; here it is honoured.

    Args:
        num_parameters: one slope for all features, or one a feature (dimension 1 of the input).
        init: the first slope.
        k_coef_lip: the Lipschitz constant.

    Raises:
        ValueError: an argument is not positive, or num_parameters does not fit the input.

    >>> LPReLU(init=3.0, k_coef_lip=2.0)(torch.tensor([-1.0, 1.0])).tolist()
    [-2.0, 1.0]
    """

    def __init__(self, num_parameters: SupportsIndex = 1, init: float = 0.25, k_coef_lip: float = 1.0) -> None:
        super().__init__()
        self.k_coef_lip = coefficient(k_coef_lip)
        count = positive_integer("num_parameters", num_parameters)
        self.weight = nn.Parameter(torch.full((count,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply; the output has the shape of the input."""
        k = self.k_coef_lip
        if k >= 1:
            return nn.functional.prelu(x, slopes_for(x, self.weight.clamp(-k, k)))
        return nn.functional.prelu(x, slopes_for(x, (self.weight / k).clamp(-1, 1))) * k

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"num_parameters={self.weight.shape[0]}, k_coef_lip={self.k_coef_lip}"


_INITIALISERS = {"zeros": nn.init.zeros_, "ones": nn.init.ones_, "normal": nn.init.normal_}


class HouseHolder(_Times, activations.Householder):
    """Learned reflections of pairs of channels (dimension 1), times k_coef_lip: :class:`barrow.nn.Householder`.

    Args:
        channels: the size of dimension 1, even.
        k_coef_lip: the Lipschitz constant, which torchlip ignores here.
        theta_initializer: None (pi / 2), a number, or "zeros", "ones" or "normal".

    Raises:
        ValueError: channels is odd, k_coef_lip is not positive or the initialiser is unknown.

    >>> HouseHolder(2)(torch.tensor([[3.0, 1.0]])).detach().round(decimals=4).tolist()
    [[1.0, 3.0]]
    """

    def __init__(
        self, channels: SupportsIndex, k_coef_lip: float = 1.0, theta_initializer: float | str | None = None
    ) -> None:
        super().__init__(channels, 1)
        self.k_coef_lip = coefficient(k_coef_lip)
        if isinstance(theta_initializer, str) and theta_initializer in _INITIALISERS:
            _INITIALISERS[theta_initializer](self.theta)
        elif isinstance(theta_initializer, int | float):
            nn.init.constant_(self.theta, theta_initializer)
        elif theta_initializer is not None:
            raise ValueError(
                f"theta_initializer must be None, a number or one of {', '.join(_INITIALISERS)}, got "
                f"{theta_initializer!r}"
            )


class LipResidual(nn.Module):
    """The learned mean of two tensors, y = sigmoid(alpha) x + (1 - sigmoid(alpha)) g, with g computed by the caller.

    `lipschitz_bound` refuses it: it cannot see how g comes from x. :class:`barrow.nn.LipschitzResidual` holds the
    module and has a bound.

    Raises:
        ValueError: the shapes differ.

    >>> LipResidual()(torch.tensor([2.0]), torch.tensor([4.0])).tolist()
    [3.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mix two tensors of one shape."""
        if x.shape != y.shape:
            raise ValueError(f"x has shape {shape(x)} but y has shape {shape(y)}: they must agree")
        return mix(self.alpha, x, y)


class InvertibleDownSampling(_Times, reshape.InvertibleDownSampling):
    """Pixels to channels, times k_coef_lip; channels in the order of :class:`torch.nn.PixelUnshuffle`.

    >>> InvertibleDownSampling(2, k_coef_lip=2.0)(torch.ones(1, 3, 4, 4)).shape
    torch.Size([1, 12, 2, 2])
    """

    def __init__(self, kernel_size: reshape.Size, k_coef_lip: float = 1.0) -> None:
        super().__init__(kernel_size)
        self.k_coef_lip = coefficient(k_coef_lip)


class InvertibleUpSampling(_Times, reshape.InvertibleUpSampling):
    """Channels to pixels, times k_coef_lip; channels in the order of :class:`torch.nn.PixelShuffle`.

    >>> InvertibleUpSampling(2)(torch.ones(1, 12, 2, 2)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, kernel_size: reshape.Size, k_coef_lip: float = 1.0) -> None:
        super().__init__(kernel_size)
        self.k_coef_lip = coefficient(k_coef_lip)


def _disjoint(kernel_size: reshape.Size, stride: reshape.Size | None, ceil_mode: bool) -> None:
    kernel = reshape.positive_pair("kernel_size", kernel_size)
    if stride is not None and reshape.positive_pair("stride", stride) != kernel:
        raise ValueError(
            f"stride = {stride} differs from kernel_size = {kernel_size}: windows that overlap break the Lipschitz "
            "bound; leave stride out"
        )
    if ceil_mode:
        raise ValueError("ceil_mode=True would scale incomplete windows wrongly: pad with ZeroPad2d and leave it out")


def _one_pixel(output_size: Any) -> None:
    if output_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"output_size must be (1, 1), got {output_size}: other windows can overlap")


class ScaledAvgPool2d(_Times, pooling.ScaledAvgPool2d):
    """:class:`barrow.nn.ScaledAvgPool2d` times k_coef_lip.

    Args:
        kernel_size: the window, one integer or (height, width).
        stride: None or kernel_size.
        padding: 0.
        ceil_mode: False.
        count_include_pad: without effect, as there is no padding.
        divisor_override: None or the size of the window.
        k_coef_lip: the Lipschitz constant.

    Raises:
        ValueError: an argument that would break the bound.

    >>> ScaledAvgPool2d(2, k_coef_lip=3.0)(torch.ones(1, 1, 2, 2)).item()
    6.0
    """

    def __init__(
        self,
        kernel_size: reshape.Size,
        stride: reshape.Size | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        k_coef_lip: float = 1.0,
    ) -> None:
        _disjoint(kernel_size, stride, ceil_mode)
        if padding not in (0, (0, 0)):
            raise ValueError(f"padding must be 0, got {padding}: pad with ZeroPad2d, which has a bound")
        super().__init__(kernel_size)
        if divisor_override not in (None, math.prod(self.kernel_size)):
            raise ValueError(f"divisor_override = {divisor_override} would break the Lipschitz bound: leave it out")
        self.k_coef_lip = coefficient(k_coef_lip)


class ScaledAdaptiveAvgPool2d(_Times, pooling.ScaledAdaptiveAvgPool2d):
    """:class:`barrow.nn.ScaledAdaptiveAvgPool2d` times k_coef_lip; output_size is (1, 1).

    >>> ScaledAdaptiveAvgPool2d((1, 1))(torch.ones(1, 1, 4, 4)).item()
    4.0
    """

    def __init__(self, output_size: Any = (1, 1), k_coef_lip: float = 1.0) -> None:
        _one_pixel(output_size)
        super().__init__()
        self.k_coef_lip = coefficient(k_coef_lip)


class ScaledL2NormPool2d(_Times, pooling.ScaledL2NormPool2d):
    """:class:`barrow.nn.ScaledL2NormPool2d` times k_coef_lip; stride is None or kernel_size, ceil_mode False.

    >>> ScaledL2NormPool2d((1, 2))(torch.tensor([[[3.0, 4.0]]])).item()
    5.0
    """

    def __init__(
        self,
        kernel_size: reshape.Size,
        stride: reshape.Size | None = None,
        ceil_mode: bool = False,
        k_coef_lip: float = 1.0,
    ) -> None:
        _disjoint(kernel_size, stride, ceil_mode)
        super().__init__(kernel_size)
        self.k_coef_lip = coefficient(k_coef_lip)


class ScaledAdaptativeL2NormPool2d(_Times, pooling.ScaledAdaptiveL2NormPool2d):
    """:class:`barrow.nn.ScaledAdaptiveL2NormPool2d` times k_coef_lip; output_size is (1, 1).

    >>> ScaledAdaptativeL2NormPool2d()(torch.ones(1, 1, 4, 4)).item()
    4.0
    """

    def __init__(self, output_size: Any = (1, 1), k_coef_lip: float = 1.0) -> None:
        _one_pixel(output_size)
        super().__init__()
        self.k_coef_lip = coefficient(k_coef_lip)


class LayerCentering(centering.LayerCentering):
    """:class:`barrow.nn.LayerCentering`.

    >>> LayerCentering()(torch.ones(1, 1, 2, 2)).sum().item()
    0.0
    """

    def __init__(self, num_features: SupportsIndex = 1, dim: int | Iterable[int] = (-2, -1), bias: bool = True) -> None:
        super().__init__(num_features, dim, bias)


class BatchCentering(centering.BatchCentering):
    """:class:`barrow.nn.BatchCentering` whose running mean is that of an epoch's batch means, as in torchlip.

    An epoch begins with the change from eval to training mode; until its first batch the old mean stays in force.

    >>> layer = BatchCentering(1)
    >>> _ = layer(torch.tensor([[1.0]])), layer(torch.tensor([[3.0]]))
    >>> layer.eval().running_mean.item()
    2.0
    """

    def __init__(
        self, num_features: SupportsIndex = 1, dim: int | Iterable[int] | None = None, bias: bool = True
    ) -> None:
        super().__init__(num_features, dim, bias, momentum=None)

    def train(self, mode: bool = True) -> BatchCentering:
        """Change the mode; from eval to training a new epoch begins."""
        if mode and not self.training:
            self.reset_running_mean()
        super().train(mode)
        return self

    def vanilla_export(self) -> ScaleBiasLayer:
        """What the layer does in eval mode, as one addition."""
        layer = ScaleBiasLayer(1.0, self.num_features)
        bias = -self.running_mean if self.bias is None else self.bias.detach() - self.running_mean
        layer.bias = nn.Parameter(bias)
        return layer.train(self.training)


@register(
    MaxMin, GroupSort2, InvertibleDownSampling, InvertibleUpSampling, ScaledAvgPool2d, ScaledAdaptiveAvgPool2d,
    ScaledL2NormPool2d, ScaledAdaptativeL2NormPool2d,
)  # fmt: skip
def _coefficient_alone(module: Any, path: str) -> float:
    k: float = module.k_coef_lip
    return k


@register(HouseHolder)
def _householder(module: HouseHolder, path: str) -> float:
    return times(householder(module, path), module.k_coef_lip)


@register(LPReLU)
def _lprelu(module: LPReLU, path: str) -> float:
    finite("slope", module.weight, path)
    k = module.k_coef_lip
    return max(min(1.0, k), min(module.weight.detach().abs().max().item(), k))


@register(LipResidual)
def _lip_residual(module: LipResidual, path: str) -> float:
    place = f"layer {path!r} (LipResidual)" if path else "the model (LipResidual)"
    raise ValueError(
        f"{place} has no Lipschitz bound: how its second input comes from the first cannot be seen; use "
        "barrow.nn.LipschitzResidual(module)"
    )
