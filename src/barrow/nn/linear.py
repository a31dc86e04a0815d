"""Linear layers whose weight is orthogonal, or has rows of unit norm, by construction."""

from __future__ import annotations

import abc
import math
import operator
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from barrow.ops.polar import polar

__all__ = ["OrthogonalLinear", "UnitLinear"]


def positive_integer(name: str, value: SupportsIndex) -> int:
    """Accept every kind of integer (numpy's too) and refuse the rest by name."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a positive integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number}")
    return number


class _Normalised(nn.Module, abc.ABC):
    """A linear layer that stores `raw_weight` and multiplies by a function of it.

    Nothing is cached: the weight is recomputed from `raw_weight` at each access, so it cannot be stale after a step,
    `load_state_dict` or a write through `.data`.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: SupportsIndex,
        out_features: SupportsIndex,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = positive_integer("in_features", in_features)
        self.out_features = positive_integer("out_features", out_features)
        self.raw_weight = nn.Parameter(torch.empty(self.out_features, self.in_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw an orthogonal weight (Haar measure) and a bias as :class:`torch.nn.Linear` draws it."""
        if self.raw_weight.is_meta:
            return
        with torch.no_grad():
            # Drawn in float32 or better: the QR behind it does not exist for half precision.
            start = self.raw_weight.new_empty(self.raw_weight.shape, dtype=torch.float32)
            self.raw_weight.copy_(nn.init.orthogonal_(start))
            if self.bias is not None:
                bound = 1 / math.sqrt(self.in_features)
                nn.init.uniform_(self.bias, -bound, bound)

    @property
    @abc.abstractmethod
    def weight(self) -> Tensor:
        """The matrix (out_features, in_features) that inputs are multiplied by; differentiable."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def to_linear(self) -> nn.Linear:
        """A plain :class:`torch.nn.Linear` with a copy of the present weight, for inference without barrow."""
        # On the meta device nothing is drawn, so that exporting does not move the global generator.
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        # clone keeps the strides too, which makes the products equal to the last bit.
        plain.weight = nn.Parameter(self.weight.detach().clone())
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain


class OrthogonalLinear(_Normalised):
    """A linear layer y = W x + b whose weight is orthogonal: all singular values of W are 1 to within 1e-5.

        W = polar(raw_weight),   W' W = I or W W' = I,   |W x - W y| <= |x - y|

    The layer of a 1-Lipschitz network: composed with sorting activations it can approximate every 1-Lipschitz
    function, and gradients neither vanish nor explode with depth. Choose it for hidden layers; for a last layer with
    independent outputs choose :class:`UnitLinear`. Not for a convolution (a reshaped kernel is not orthogonal).
    In float32 and float64 the stored weight is itself a contraction; rounded to half precision its norm can exceed 1
    by 1e-2, which :func:`lipschitz_bound` reports.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: add a learned vector.
        device: where the parameters live.
        dtype: of the parameters; half precision is orthogonalised in float32.

    Attributes:
        weight: (out_features, in_features), the orthogonal matrix itself, computed from `raw_weight` at each access:
            keep it in a variable where it is needed twice.
        raw_weight: the unconstrained parameter that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: a size is not a positive integer.

    >>> layer = OrthogonalLinear(8, 3)
    >>> torch.dist(layer.weight @ layer.weight.T, torch.eye(3)) < 1e-5
    tensor(True)

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.2.
    """

    @property
    def weight(self) -> Tensor:
        """The orthogonal matrix (out_features, in_features); differentiable once."""
        return polar(self.raw_weight)


class UnitLinear(_Normalised):
    """A linear layer y = W x + b whose weight has rows of norm 1: each output alone is 1-Lipschitz.

        W_i = raw_weight_i / |raw_weight_i|

    Choose it as the last layer of a critic (one output: the layer is 1-Lipschitz) or of a classifier whose outputs are
    judged one by one. Not between layers: with k outputs the norm of W can reach sqrt(k), use
    :class:`OrthogonalLinear` there.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: add a learned vector.
        device: where the parameters live.
        dtype: of the parameters; half precision is normalised in float32.

    Attributes:
        weight: (out_features, in_features), the normalised matrix itself; a zero row of `raw_weight` gives some unit
            vector, never NaN.
        raw_weight: the unconstrained parameter that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: a size is not a positive integer.

    >>> UnitLinear(8, 3).weight.norm(dim=1).round(decimals=5).tolist()
    [1.0, 1.0, 1.0]

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.1.
    """

    @property
    def weight(self) -> Tensor:
        """The matrix (out_features, in_features) of unit rows; differentiable once."""
        # A unit vector is the polar factor of a matrix with one row.
        return polar(self.raw_weight.unsqueeze(-2)).squeeze(-2)
