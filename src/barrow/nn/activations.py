"""1-Lipschitz activations beside the sorts: they keep the width, and most keep the norm of the gradient."""

from __future__ import annotations

import math
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register
from barrow.nn.sort import feature_dim
from barrow.ops.pair_sort import pair_sort

__all__ = ["Abs", "Householder", "LipschitzPReLU", "MaxMin"]


class MaxMin(nn.Module):
    """Sort neighbouring pairs of features: :class:`barrow.nn.GroupSort` of 2 under the name that papers give it.

        (x_1, x_2, x_3, x_4, ...) -> (min(x_1, x_2), max(x_1, x_2), min(x_3, x_4), max(x_3, x_4), ...)

    A permutation of its input, hence 1-Lipschitz and norm preserving; the width is kept. Choose it for deep networks
    and images, where it is the cheapest sort. Not for an odd number of features. Another activation of the same
    name, (relu(x), relu(-x)), doubles the width: that one is in `barrow.compat.torchlip`.

    Args:
        dim: the dimension of the features, as in :class:`barrow.nn.GroupSort`.

    Raises:
        ValueError: the number of features is odd, or dim does not exist.

    >>> MaxMin()(torch.tensor([3.0, 1.0, 2.0, 4.0]))
    tensor([1., 3., 2., 4.])

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.1.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Sort; the output has the shape of the input."""
        dim = feature_dim(x, self.dim)
        if x.shape[dim] % 2:
            raise ValueError(
                f"MaxMin needs an even number of features, got {x.shape[dim]} (dimension {dim} of {shape(x)}): "
                "change the width, or use Abs()"
            )
        first, second = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
        return pair_sort(first, second, dim + 1).flatten(dim, dim + 1)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return "" if self.dim is None else f"dim={self.dim}"


class Householder(nn.Module):
    """Reflect pairs of features at learned lines, on one side of each line.

        z = (x_i, x_(i + channels / 2)),   v = (sin(theta_i / 2), -cos(theta_i / 2)),   z -> z - 2 max(<v, z>, 0) v

    A reflection or the identity, equal on the line itself: continuous, 1-Lipschitz and norm preserving. It contains
    the sort of a pair (theta = pi / 2, the start) and the absolute value (theta = 0 or pi). Choose it where a sort
    should learn its direction, at the price of one parameter a pair. Not for an odd number of channels.

    Args:
        channels: the number of features; a pair is one of the first half and its partner in the second half.
        dim: the dimension of the features, as in :class:`barrow.nn.GroupSort`: channels of images.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        theta: (channels / 2,), the angles in radians.

    Raises:
        ValueError: channels is odd or not positive, the input has another number of features, or dim does not exist.

    >>> Householder(4)(torch.tensor([3.0, 1.0, 2.0, 4.0])).detach().round(decimals=4)
    tensor([2., 1., 3., 4.])

    Source: Singla, Singla, Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022
    (preprint 2021), section 5.
    """

    def __init__(
        self,
        channels: SupportsIndex,
        dim: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = positive_integer("channels", channels)
        if self.channels % 2:
            raise ValueError(f"channels must be even, got {self.channels}: features are reflected in pairs")
        self.dim = dim
        self.theta = nn.Parameter(torch.full((self.channels // 2,), math.pi / 2, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Reflect; the output has the shape of the input."""
        dim = feature_dim(x, self.dim)
        if x.shape[dim] != self.channels:
            raise ValueError(
                f"Householder({self.channels}) got {x.shape[dim]} features (dimension {dim} of {shape(x)}): "
                f"build it with channels={x.shape[dim]} or give dim"
            )
        half = (self.theta / 2).reshape(-1, *[1] * (x.ndim - 1 - dim))
        sin, cos = half.sin(), half.cos()
        first, second = x.chunk(2, dim)
        # The clamped distance from the line instead of a choice of two formulas: continuous in rounded arithmetic too.
        twice = 2 * torch.relu(first * sin - second * cos)
        return torch.cat((first - twice * sin, second + twice * cos), dim)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.channels}" + ("" if self.dim is None else f", dim={self.dim}")


class LipschitzPReLU(nn.Module):
    """A leaky ReLU with a learned slope that never leaves [-1, 1].

        x -> max(x, 0) + w min(x, 0),    w = min(max(raw_weight, -1), 1)

    1-Lipschitz, and norm preserving only at w = 1 and w = -1. Choose it for elementwise control from ReLU (0) over
    the identity (1) to the absolute value (-1); for expressive 1-Lipschitz networks choose a sort.
    The gradient of the clamp is 1 for raw slopes in [-1, 1], the ends included, and 0 beyond them: an optimiser can
    step over an end, and the slope then stays there until weight decay or another assignment brings it back.

    Args:
        num_parameters: one slope for all features, or one a feature (dimension 1 of the input).
        init: the first slope, in [-1, 1].
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        weight: (num_parameters,), the slopes themselves.
        raw_weight: the parameter that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: num_parameters is not a positive integer or does not fit the input, or init is outside [-1, 1].

    >>> LipschitzPReLU()(torch.tensor([-4.0, 4.0])).tolist()
    [-1.0, 4.0]

    Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, with the slope clamped.
    """

    def __init__(
        self,
        num_parameters: SupportsIndex = 1,
        init: float = 0.25,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_parameters = positive_integer("num_parameters", num_parameters)
        if not -1 <= init <= 1:
            raise ValueError(f"init must be a slope in [-1, 1], got {init}")
        self.raw_weight = nn.Parameter(torch.full((self.num_parameters,), float(init), device=device, dtype=dtype))

    @property
    def weight(self) -> Tensor:
        """The slopes (num_parameters,), clamped."""
        return self.raw_weight.clamp(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply; the output has the shape of the input."""
        return nn.functional.prelu(x, slopes_for(x, self.weight))

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"num_parameters={self.num_parameters}"


def slopes_for(x: Tensor, weight: Tensor) -> Tensor:
    """The slopes of a PReLU as they are, after a check that there is one for each feature of x or one for all."""
    count = weight.shape[0]
    if count != 1 and (x.ndim < 2 or x.shape[1] != count):
        raise ValueError(f"{count} slopes need {count} features in dimension 1, but the input has shape {shape(x)}")
    return weight


class Abs(nn.Module):
    """The absolute value, x -> |x|, elementwise.

    1-Lipschitz and norm preserving with derivative -1 or 1; at 0 the derivative is 0. Choose it as the cheapest norm
    preserving activation, for any width. Not as the only nonlinearity before an output that should be monotone in
    its features: it forgets signs, where a sort forgets only the order.

    >>> Abs()(torch.tensor([-2.0, 3.0]))
    tensor([2., 3.])

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Take absolute values; the output has the shape of the input."""
        return x.abs()


@register(MaxMin, Abs)
def _isometry(module: nn.Module, path: str) -> float:
    return 1.0


def finite(name: str, parameter: Tensor, path: str) -> None:
    """Refuse a diverged parameter: a bound of the layer that holds it would be meaningless."""
    if not parameter.detach().isfinite().all():
        place = f"layer {path!r}" if path else "the model"
        raise ValueError(
            f"{place} has no Lipschitz bound: its {name} is not finite; it has diverged, reload or reinitialise it"
        )


@register(Householder)
def householder(module: Householder, path: str) -> float:
    """One, whatever the angles: each piece is an isometry and the pieces meet continuously."""
    finite("theta", module.theta, path)
    return 1.0


@register(LipschitzPReLU)
def _prelu(module: LipschitzPReLU, path: str) -> float:
    finite("slope", module.raw_weight, path)
    # Positive inputs have slope one, so no smaller slope elsewhere lowers the bound.
    return 1.0
