"""Linear layers whose weight is orthogonal, or has rows of unit norm, by construction."""

from __future__ import annotations

import abc
import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypeVar

import torch
from torch import Tensor, nn

from barrow.nn.batching import Member, WeightGroup
from barrow.nn.derived import DerivedWeight, cacheable
from barrow.nn.manifold import OnManifold, OrthogonalFactor
from barrow.ops.polar import Factors, factorised, polar
from barrow.ops.retraction import retract

__all__ = ["OrthogonalLinear", "UnitLinear", "batch_weights"]

_M = TypeVar("_M", bound=nn.Module)

# Weights with more entries gain nothing from a common product on the CPU.
_ALONE = 1 << 16
# From this many singular values on the exact derivative at any raw weight costs more than the rest of a step.
_MOVED_FROM = 256


def positive_integer(name: str, value: SupportsIndex) -> int:
    """Accept every kind of integer (numpy's too) and refuse the rest by name."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a positive integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number}")
    return number


def fill(plain: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer of torch, built without numbers, copies of a weight and a bias."""
    # clone keeps the strides too, which makes the products equal to the last bit.
    plain.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone())


class DerivedLinear(DerivedWeight, abc.ABC):
    """A linear layer that stores `raw_weight`, shaped like torch's weight, and multiplies by a function of it."""

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

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def to_linear(self) -> nn.Linear:
        """A plain :class:`torch.nn.Linear` with a copy of the present weight, for inference without barrow."""
        # On the meta device nothing is drawn, so that exporting does not move the global generator.
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        fill(plain, self.weight, self.bias)
        return plain


class OrthogonalLinear(DerivedLinear):
    """A linear layer y = W x + b whose weight is orthogonal: all singular values of W are 1 to within 1e-5.

        W = polar(raw_weight),   W' W = I or W W' = I,   |W x - W y| <= |x - y|

    The layer of a 1-Lipschitz network: composed with sorting activations it can approximate every 1-Lipschitz
    function, and gradients neither vanish nor explode with depth. Choose it for hidden layers; for a last layer with
    independent outputs choose :class:`UnitLinear`. Not for images (:class:`OrthogonalConv2d`).
    In float32 and float64 the stored weight is itself a contraction; rounded to half precision its norm can exceed 1
    by 1e-2, which :func:`lipschitz_bound` reports.

    A layer of at least 256 inputs and outputs, in training with gradients, moves `raw_weight` onto its orthogonal
    factor times the mean singular value, which changes no output: the gradient then is tangent to the manifold, the
    next step of any optimiser starts there, and derivative and way back take a few products of matrices. The scale is
    kept because it grows under Adam, which lowers the effective learning rate as training goes on. In a smaller layer,
    where the exact derivative is cheap, the raw weight is left alone, so that each singular value lowers its own rate.
    Weight decay and huge learning rates cannot break either. Layers of one shape can derive their weights in one
    batched product: :func:`barrow.nn.batch_weights`.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: add a learned vector.
        device: where the parameters live.
        dtype: of the parameters; half precision is orthogonalised in float32.

    Attributes:
        weight: (out_features, in_features), the orthogonal matrix itself, computed when `raw_weight` has changed.
        raw_weight: the parameter that an optimiser moves and a state_dict holds.

    Raises:
        ValueError: a size is not a positive integer.

    >>> layer = OrthogonalLinear(8, 3)
    >>> torch.dist(layer.weight @ layer.weight.T, torch.eye(3)) < 1e-5
    tensor(True)

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.2; the moves:
    Absil, Mahony, Sepulchre, "Optimization algorithms on matrix manifolds", 2008, example 4.1.3.
    """

    gain = 1.0  # what the orthogonal matrix is multiplied by
    group: WeightGroup | None = None  # with whom the weight is derived

    def derive(self) -> Tensor:
        """The orthogonal factor of the raw weight, where nothing may be kept or moved."""
        return self._times_gain(polar(self.raw_weight))

    def _current(self, raws: tuple[Tensor, ...]) -> Tensor:
        cache, raw = self.derived, self.raw_weight
        traced = torch.is_grad_enabled() and raw.requires_grad
        if not cache.describes(raws):
            _derive_together([self] if self.group is None else self.group.stale(self))
        if traced and self.training and cache.moved_to is not None:
            self._move()
        if not traced:
            return self._times_gain(cache.value)
        if cache.node is None:
            cache.node = OrthogonalFactor.apply(raw, cache.value, cache.scale if cache.moved else None, cache.factors)
        return self._times_gain(cache.node)

    def _move(self) -> None:
        """Put the raw weight onto the multiples of orthogonal matrices, where its derivative is a projection."""
        cache, raw = self.derived, self.raw_weight.detach()
        assert cache.moved_to is not None
        if raw.device.type == "cpu" and not float(cache.scale) > 0:  # what has diverged must stay visible
            return
        raw.data.copy_(cache.moved_to)
        # Elsewhere nothing waits to see whether it has: then a weight that stays where it is has the slope of scale 1.
        scale = torch.where(cache.scale > 0, cache.scale, 1)
        cache.keep((self.raw_weight,), cache.value, scale, moved=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        W = self.weight
        if self._through_factors(x):
            y: Tensor = OnManifold.apply(x, self.derived.node, self.bias, self.raw_weight, self.derived.scale)
            return y
        return nn.functional.linear(x, W, self.bias)

    def _through_factors(self, x: Tensor) -> bool:
        """Whether the gradient is cheaper from its factors, a batch of less rank than the weight, than as a matrix."""
        if not cacheable((self.raw_weight,)) or not (torch.is_grad_enabled() and self.raw_weight.requires_grad):
            return False
        return (
            self.derived.moved
            and self.gain == 1
            and x.dtype == self.raw_weight.dtype
            and not torch.is_autocast_enabled(x.device.type)
            and x.ndim >= 1
            and x.shape[-1] == self.in_features
            and x.numel() <= self.in_features * min(self.in_features, self.out_features)
        )

    def _times_gain(self, t: Tensor) -> Tensor:
        return t if self.gain == 1 else t * self.gain


def _derive_together(layers: Sequence[Member]) -> None:
    """Bring the weights of layers of one shape up to date."""
    raws = [layer.raw_weight.detach() for layer in layers]
    first = raws[0]
    moves = min(first.shape) >= _MOVED_FROM and first.dtype in (torch.float32, torch.float64)
    with torch.no_grad(), torch.inference_mode(False):
        if len(raws) == 1 or (first.device.type == "cpu" and first.numel() > _ALONE):
            for layer, raw in zip(layers, raws, strict=True):
                if moves:
                    _keep_retracted(layer, *retract(raw))
                else:
                    _keep_factorised(layer, *factorised(raw))
        elif moves:
            for layer, *parts in zip(layers, *retract(torch.stack(raws)), strict=True):
                _keep_retracted(layer, *parts)
        else:
            W, several = factorised(torch.stack(raws))
            for layer, weight, *factors in zip(layers, W, *several, strict=True):
                _keep_factorised(layer, weight, (factors[0], factors[1], factors[2]))


def _keep_retracted(layer: Member, W: Tensor, moved: Tensor, scale: Tensor) -> None:
    layer.derived.keep((layer.raw_weight,), W, scale, moved_to=moved)


def _keep_factorised(layer: Member, W: Tensor, factors: Factors) -> None:
    layer.derived.keep((layer.raw_weight,), W, factors=factors)


class UnitLinear(DerivedLinear):
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

    def derive(self) -> Tensor:
        """The matrix (out_features, in_features) of unit rows; differentiable once."""
        # A unit vector is the polar factor of a matrix with one row.
        return polar(self.raw_weight.unsqueeze(-2)).squeeze(-2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)


def batch_weights(model: _M) -> _M:
    """Let all :class:`OrthogonalLinear` of a model derive their weights together, those of one shape in one product.

    Choose it for deep networks of narrow layers, where starting a product costs more than the product. It changes no
    weight beyond rounding. :class:`barrow.nn.Critic` does it by itself.

    Args:
        model: any module; layers added later stay outside.

    Returns:
        The same model. Copies of it are batched among themselves.

    >>> model = batch_weights(nn.Sequential(*(OrthogonalLinear(4, 4) for _ in range(3))))
    >>> model(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """
    group = WeightGroup()
    for module in model.modules():
        if isinstance(module, OrthogonalLinear):
            group.join(module)
    return model
