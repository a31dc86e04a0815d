"""Residual layers that are 1-Lipschitz by a semidefinite inequality."""

from __future__ import annotations

import math
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.almost_orthogonal import contraction_bound, diverged
from barrow.nn.contraction import contraction, exact, normal, rounding
from barrow.nn.convolution_bound import convolution_norm
from barrow.nn.derived import DerivedWeight
from barrow.nn.derived_convolution import Size, one_each
from barrow.nn.export import register_export
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register, spectral_norm_bound

__all__ = ["PlainSll", "SllConv2d", "SllLinear"]

# The logarithms of q are kept in this range, so that ratios of two of them are far from overflow.
_RANGE = 30.0


def reflected(x: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
    """The function x - 2 V' relu(V x + bias) of a matrix (hidden, features) or a kernel (hidden, channels, k1, k2)."""
    if V.ndim == 2:
        return x - 2 * (torch.relu(nn.functional.linear(x, V, bias)) @ V)
    if x.ndim not in (3, 4):
        raise ValueError(f"images (N, channels, H, W) are needed, got shape {shape(x)}")
    padding = (V.shape[-2] // 2, V.shape[-1] // 2)
    h = torch.relu(nn.functional.conv2d(x, V, bias, padding=padding))
    return x - 2 * nn.functional.conv_transpose2d(h, V, padding=padding)


class PlainSll(nn.Module):
    """What :func:`barrow.nn.to_plain` makes of SllLinear and SllConv2d: V and b are parameters, and nothing holds them.

        y = x - 2 V' relu(V x + b)

    Choose it to deploy. Not to train: V does not stay a contraction; :func:`lipschitz_bound` says what it then is.

    Args:
        weight: V, (hidden, features) or (hidden, channels, k1, k2).
        bias: b, (hidden,), or None.

    >>> PlainSll(torch.eye(2), None)(torch.tensor([3.0, -1.0])).tolist()
    [-3.0, -1.0]

    Source: as for :class:`SllLinear`.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        """The output has the shape of the input."""
        return reflected(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"weight={shape(self.weight)}, bias={self.bias is not None}"


class _Sll(DerivedWeight):
    """The kernel V (hidden, features, ...) of both layers, and its scaling."""

    raw_weight: nn.Parameter
    log_q: nn.Parameter
    bias: nn.Parameter | None

    def _build(self, shape: tuple[int, ...], bias: bool, device: torch.device | str | None,
               dtype: torch.dtype | None) -> None:  # fmt: skip
        self.raw_weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.log_q = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix (on the middle tap, zeros elsewhere), q = 1, and a bias as torch draws it."""
        if self.raw_weight.is_meta:
            return
        with torch.no_grad():
            raw = self.raw_weight.zero_().reshape(*self.raw_weight.shape[:2], -1)
            # Drawn in float32 or better: the QR behind it does not exist for half precision.
            start = torch.empty(raw.shape[:2], dtype=torch.float32, device=raw.device)
            k = self.raw_weight.shape[2:]
            middle = (k[0] // 2) * k[1] + k[1] // 2 if k else 0
            raw[..., middle] = nn.init.orthogonal_(start).to(raw.dtype)
            self.log_q.zero_()
            if self.bias is not None:
                bound = 1 / math.sqrt(self.raw_weight[0].numel())
                nn.init.uniform_(self.bias, -bound, bound)

    def scaled(self, raw: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel (hidden, features, k1, k2), scaled but not rounded, and weights that show it a contraction."""
        K = normal(raw).reshape(*raw.shape[:2], *(raw.shape[2:] or (1, 1)))
        q = exact(log_q.nan_to_num()).clamp(-_RANGE, _RANGE).exp()
        V, T = contraction(K, q)
        rank = K.shape[-2] * K.shape[-1] * min(K.shape[:2])
        return V / (1 + rounding(raw.dtype, rank)), T.sqrt() * q

    def derive(self) -> Tensor:
        """The contraction V from the present raw weight and q."""
        raw = self.raw_weight
        return self.scaled(raw, self.log_q)[0].reshape(raw.shape).to(raw.dtype)


class SllLinear(_Sll):
    """A residual layer with one hidden layer that is 1-Lipschitz by construction.

        y = x - 2 V' relu(V x + b),    V_i = R_i / sqrt(T_i),    T_i = sum_j |R R'|_ij q_j / q_i,    q > 0

    With R = W' this is the published x - 2 W T^(-1) relu(W' x + c), whose bias is c = T^(1/2) b: relu lets positive
    factors through. V is a contraction by diagonal dominance. The layer's Jacobian is J = I - 2 V' L V with slopes L
    in [0, 1], so that J'J = I - 4 V' L V + 4 V' L V V' L V <= I - 4 V' (L - L^2) V <= I.

    Choose it to make deep 1-Lipschitz networks without other activations: with orthogonal R it reflects, and keeps
    the norm. Not to change the number of features, for which there are :class:`OrthogonalLinear` and
    :class:`AolLinear`. Nothing is added to T that would spoil the bound, which holds for the rounded V in every dtype.

    Args:
        features: size of the last dimension of the input and the output.
        hidden: rows of V.
        bias: learn b.
        device: where the parameters live.
        dtype: of the parameters; the scaling is computed in float64.

    Attributes:
        weight: V itself (hidden, features); rows of zeros stay zeros.
        raw_weight: the unconstrained parameter R that an optimiser moves and a state_dict holds.
        log_q: (hidden,), the logarithm of q; beyond -30 and 30 it counts as these.

    Raises:
        ValueError: a size is not a positive integer.

    >>> layer = SllLinear(1, 1, bias=False)
    >>> layer(torch.tensor([[3.0], [-3.0]])).abs().round(decimals=4).tolist()
    [[3.0], [3.0]]

    Source: Araujo, Havens, Delattre, Allauzen, Hu, "A unified algebraic perspective on Lipschitz neural networks",
    ICLR 2023, theorem 2 and equation 8.
    """

    def __init__(
        self,
        features: SupportsIndex,
        hidden: SupportsIndex,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features = positive_integer("features", features)
        self.hidden = positive_integer("hidden", hidden)
        self._build((self.hidden, self.features), bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., features) to (..., features)."""
        return reflected(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"features={self.features}, hidden={self.hidden}, bias={self.bias is not None}"


class SllConv2d(_Sll):
    """A residual layer of images with one hidden image that is 1-Lipschitz by construction.

        y = x - 2 V' * relu(V * x + b),    V_i = R_i / sqrt(T_i)
        T_i = sum_j sum_m |sum_t <R_i(t), R_j(t + m)>| q_j / q_i,    q > 0

    As :class:`SllLinear`, with a convolution V padded by zeros, k // 2 pixels on each side, and its adjoint, the
    transposed convolution. The bound holds for images of all sizes.

    Args:
        channels: channels of the input and the output.
        hidden: channels of the hidden image.
        kernel_size: taps, one integer or (height, width).
        bias: learn b, one number a hidden channel.
        device: where the parameters live.
        dtype: of the parameters; the scaling is computed in float64.

    Attributes:
        weight: the kernel V itself (hidden, channels, k1, k2).
        raw_weight: the unconstrained parameter R that an optimiser moves and a state_dict holds.
        log_q: (hidden,), the logarithm of q; beyond -30 and 30 it counts as these.

    Raises:
        ValueError: a size is not a positive integer, or the input is not an image.

    >>> SllConv2d(3, 8, 3)(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 3, 5, 5])

    Source: Araujo, Havens, Delattre, Allauzen, Hu, "A unified algebraic perspective on Lipschitz neural networks",
    ICLR 2023, theorem 2 and equation 8; the sum over lags is that of Prach and Lampert, ECCV 2022, theorem 2.
    """

    def __init__(
        self,
        channels: SupportsIndex,
        hidden: SupportsIndex,
        kernel_size: Size,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = positive_integer("channels", channels)
        self.hidden = positive_integer("hidden", hidden)
        self.kernel_size = one_each("kernel_size", kernel_size, 2)
        self._build((self.hidden, self.channels, *self.kernel_size), bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W), or one such image without N, to the same shape."""
        return reflected(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.channels}, {self.hidden}, kernel_size={self.kernel_size}, bias={self.bias is not None}"


def residual_bound(s: float) -> float:
    """max(1, 2 s^2 - 1) for |V| <= s, rounded upwards.

    J'J = I - 4 V' L V + 4 V' L V V' L V <= I + 4 (s^2 - 1) V' L^2 V, and |V' L^2 V| <= s^2 gives (2 s^2 - 1)^2 where
    s > 1; it is attained where all hidden units are active.
    """
    return max(1.0, (2 * s * s - 1) * (1 + 1e-15)) if s > 1 else 1.0


@register(SllLinear, SllConv2d)
def _sll(layer: _Sll, path: str) -> float:
    """1 where V is proved a contraction by the theorem, and otherwise what its norm allows."""
    raw, log_q, W = layer.raw_weight.detach().cpu(), layer.log_q.detach().cpu(), layer.weight.detach()
    if not (raw.isfinite().all() and log_q.isfinite().all()):
        raise diverged(layer, path)
    V, q = layer.scaled(raw, log_q)
    s = contraction_bound(V, q, W.reshape(V.shape), V.shape[-2] * V.shape[-1])
    return residual_bound(s if s <= 1 else min(s, _norm(W)))


@register(PlainSll)
def _plain_sll(layer: PlainSll, path: str) -> float:
    W = layer.weight.detach()
    if not W.isfinite().all():
        raise diverged(layer, path)
    return residual_bound(_norm(W))


def _norm(W: Tensor) -> float:
    return spectral_norm_bound(W) if W.ndim == 2 else convolution_norm(W)


@register_export(SllLinear, SllConv2d)
def _exported(layer: _Sll) -> PlainSll:
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return PlainSll(layer.weight.detach().clone(), bias)
