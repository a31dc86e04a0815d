"""An upper bound, never an estimate from below, of a network's Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import is_parametrized

from barrow.check import shape
from barrow.nn.linear import OrthogonalLinear, UnitLinear
from barrow.nn.sort import FullSort, GroupSort

__all__ = ["lipschitz_bound", "register"]

_Rule = Callable[[Any, str], float]
_R = TypeVar("_R", bound=_Rule)
_rules: dict[type[nn.Module], _Rule] = {}

_U = 2.0**-53


def lipschitz_bound(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> float:
    """A number L that the Lipschitz constant of the model, for Euclidean norms, provably does not exceed:

        |model(x) - model(y)| <= L |x - y| for all x, y

    It is the product of the layers' bounds, each from the layer's present weights, computed in float64 with the
    rounding of that computation added. It is an upper bound: power iteration, sampled Jacobians and attacks are lower
    bounds and certify nothing. Choose it to certify a critic or a robust classifier. Not a tight constant for
    networks of plain linear layers, where the product can be far above the truth.

    The bound speaks of the function in exact arithmetic with the stored weights, whatever their dtype. The rounding
    of the forward pass itself (worse under autocast or TF32) is a separate matter and is not in it. Biases do not
    matter. The norm is that of all entries of the input, so it holds sample by sample where samples do not mix.

    Args:
        model: a network of layers with a known bound: barrow's, :class:`torch.nn.Linear`, convolutions and transposed
            convolutions in one and two dimensions (any stride, dilation, groups and padding, for inputs of every size;
            see :func:`barrow.nn.convolution_bound.convolution_norm`), the elementwise activations that have a
            constant, Flatten, Unflatten, Identity, padding by zeros, pixel shuffles, Dropout in eval mode, and
            Sequential of these. :func:`register` teaches it others.
        input_shape: shape of one input without the batch dimension; when given, a batch of one zero input is sent
            through the model first, so that a network that does not fit it is refused.

    Returns:
        The bound, at least 0, possibly infinite by overflow.

    Raises:
        ValueError: a layer has no bound (BatchNorm, attention, unknown types, hooks, training Dropout), a weight is
            not finite, or input_shape does not fit; it names the layer and says what to do.

    >>> from torch.nn import Linear, ReLU, Sequential
    >>> model = Sequential(OrthogonalLinear(4, 8), FullSort(), UnitLinear(8, 1))
    >>> lipschitz_bound(model) <= 1
    True

    Source: Rump, "Verification of positive definiteness", BIT 46 (2006), for the proof of each matrix norm.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"lipschitz_bound needs a torch.nn.Module, got {type(model).__name__}")
    for kind in ("forward_hooks", "forward_pre_hooks"):
        if getattr(torch_module, f"_global_{kind}"):
            raise ValueError("a global module forward hook is registered, so no layer can be bounded: remove the hook")
    bound = layer_bound(model, "")
    if input_shape is not None:
        _try(model, input_shape)
    return bound


def register(*types: type[nn.Module]) -> Callable[[_R], _R]:
    """Teach :func:`lipschitz_bound` about module types: decorate a function (module, path) -> upper bound.

    The rule must return a number that the Lipschitz constant of the module's `forward` never exceeds, or raise
    ValueError. It serves the types themselves and their subclasses that keep `forward`. `path` names the module in
    error messages.

    >>> class Halve(nn.Module):
    ...     def forward(self, x):
    ...         return x / 2
    >>> @register(Halve)
    ... def halve(module, path):
    ...     return 0.5
    >>> lipschitz_bound(nn.Sequential(Halve(), Halve())) <= 0.25 * (1 + 1e-15)
    True
    """

    def keep(rule: _R) -> _R:
        for kind in types:
            _rules[kind] = rule
        return rule

    return keep


def times(a: float, b: float) -> float:
    """The product of two bounds rounded upwards; zero stays zero, also against infinity."""
    product = a * b if a and b else 0.0
    return math.nextafter(product, math.inf) if product and a != 1 and b != 1 else product


def _name(module: nn.Module, path: str) -> str:
    return f"layer {path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"


def _refuse(module: nn.Module, path: str, reason: str) -> ValueError:
    return ValueError(f"{_name(module, path)} has no Lipschitz bound: {reason}")


def layer_bound(module: nn.Module, path: str) -> float:
    """The bound of one module of a network, looked up and checked; `path` names it in errors."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise _refuse(module, path, "a forward hook may change what it computes; remove the hook")
    if "forward" in vars(module):
        raise _refuse(module, path, "its forward was replaced on the instance; make it a class and register its bound")
    if is_parametrized(module) and module.training:
        raise _refuse(module, path, "a parametrization may change its weight at each call; call model.eval() first")
    kind = type(module)
    # A subclass keeps its parent's bound only as long as it computes the same thing.
    rule = next((_rules[k] for k in kind.__mro__ if k in _rules and kind.forward is k.forward), None)
    if rule is None:
        raise _refuse(
            module,
            path,
            "its type is not known to have one; replace it (OrthogonalLinear, GroupSort, ...) or teach it with "
            "barrow.nn.lipschitz.register",
        )
    bound = float(rule(module, path))
    if not bound >= 0:
        raise _refuse(module, path, f"its rule returned {bound}")
    return bound


def _try(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    zero = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad():
            model(zero)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the model does not accept inputs of shape {shape(zero)}, that is input_shape={tuple(input_shape)} with "
            f"a batch of one: {error}"
        ) from error


def spectral_norm_bound(W: Tensor) -> float:
    """An upper bound of the largest singular value of a matrix, proved in float64.

    With t slightly above the largest eigenvalue of the Gram matrix A, a Cholesky factorisation of t I - A that runs to
    its end proves that A's eigenvalues are below t plus a rounding term (Rump 2006); typically within 1e-10 of the
    truth. The Frobenius norm serves where it is smaller or no t is found.
    """
    if W.ndim != 2:
        raise ValueError(f"a matrix is needed, got shape {shape(W)}")
    if W.numel() == 0:
        return 0.0
    W = W.detach().to(device="cpu").to(torch.float64)
    peak = W.abs().max().item()
    if not math.isfinite(peak):
        raise ValueError("its weight is not finite; it has diverged, reload or reinitialise it")
    if peak == 0:
        return 0.0
    # A power of two, so that nothing is rounded, except far below where the margins count it.
    scale = 2.0 ** min(max(math.frexp(peak)[1], -1021), 1023)
    W = W / scale
    k, n = min(W.shape), max(W.shape)
    A = W @ W.mT if W.shape[0] < W.shape[1] else W.mT @ W
    # |fl(A) - A| <= gamma_n |W|'|W| entrywise, and the norm of |W|'|W| is at most |W|_F^2.
    gamma = (n + 2) * _U / (1 - (n + 2) * _U)
    square = A.diagonal().sum().item() * (1 + 2 * gamma + k * _U)
    best = square
    if k > 1:
        top = torch.linalg.eigvalsh(A)[-1].item()
        for exponent in range(-14, 0):
            t = top * (1 + 10.0**exponent)
            _, failed = torch.linalg.cholesky_ex(torch.eye(k, dtype=torch.float64) * t - A)
            if not failed:
                cholesky = (k + 1) * _U / (1 - 2 * (k + 1) * _U) * k * t
                best = min(best, t + cholesky + 2 * _U * (t + top) + gamma * square)
                break
    return math.sqrt(best) * (1 + 4 * _U) * scale


@register(nn.Sequential)
def sequential(module: nn.Sequential, path: str) -> float:
    """The product of the layers' bounds."""
    product = 1.0
    # Not named_children(): it lists a layer that is used twice only once.
    for name, child in module._modules.items():
        if child is not None:
            product = times(product, layer_bound(child, f"{path}.{name}" if path else name))
    return product


@register(nn.Linear, OrthogonalLinear, UnitLinear)
def linear(module: nn.Linear | OrthogonalLinear | UnitLinear, path: str) -> float:
    """The norm of a layer's weight."""
    raw = getattr(module, "raw_weight", None)
    if isinstance(getattr(module, "weight", None), nn.UninitializedParameter):
        raise _refuse(module, path, "it has no weight yet; run the model once")
    try:
        if raw is not None and not raw.detach().isfinite().all():
            raise ValueError("its raw weight is not finite; it has diverged, reload or reinitialise it")
        return spectral_norm_bound(module.weight)
    except ValueError as error:
        raise _refuse(module, path, str(error)) from None


@register(
    nn.Identity, nn.Flatten, nn.Unflatten, FullSort, GroupSort, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Softsign, nn.LogSigmoid,
    nn.Softshrink, nn.Tanhshrink,
)  # fmt: skip
def _one(module: nn.Module, path: str) -> float:
    return 1.0


# The largest absolute derivative, rounded up where it is not a short decimal (torch has 1/6 in float32).
_CONSTANTS: dict[type[nn.Module], float] = {
    nn.Sigmoid: 0.25,
    nn.Hardsigmoid: 0.1666667,
    nn.Softmax: 0.5,
    nn.SELU: 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717 * (1 + 2**-50),
    nn.SiLU: 1.0999,
    nn.Mish: 1.0886,
    nn.Hardswish: 1.5,
}


@register(*_CONSTANTS)
def _constant(module: nn.Module, path: str) -> float:
    return next(_CONSTANTS[kind] for kind in type(module).__mro__ if kind in _CONSTANTS)


@register(nn.GELU)
def _gelu(module: nn.GELU, path: str) -> float:
    return 1.129 if module.approximate == "none" else 1.13


@register(nn.LeakyReLU)
def _leaky_relu(module: nn.LeakyReLU, path: str) -> float:
    return max(1.0, abs(module.negative_slope))


@register(nn.PReLU)
def _prelu(module: nn.PReLU, path: str) -> float:
    slope = module.weight.detach().abs().max().item()
    if not math.isfinite(slope):
        raise _refuse(module, path, "its slope is not finite; it has diverged, reload or reinitialise it")
    return max(1.0, slope)


@register(nn.RReLU)
def _rrelu(module: nn.RReLU, path: str) -> float:
    if module.training:
        raise _refuse(module, path, "in training mode it draws new slopes at each call; call model.eval() first")
    return max(1.0, abs(module.lower), abs(module.upper))


@register(nn.ELU)
def _elu(module: nn.ELU, path: str) -> float:
    return max(1.0, abs(module.alpha))


@register(nn.CELU)
def _celu(module: nn.CELU, path: str) -> float:
    if not module.alpha > 0:
        raise _refuse(module, path, f"its slope is unbounded for alpha = {module.alpha}; use a positive alpha")
    return 1.0


@register(nn.Softplus)
def _softplus(module: nn.Softplus, path: str) -> float:
    # Above the threshold torch returns x itself, a jump of exp(-threshold) / beta that only a large threshold hides.
    if not module.beta > 0 or module.threshold < 20:
        raise _refuse(module, path, "it is continuous only for beta > 0 and a threshold of at least 20; change them")
    return 1.0


@register(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
def _dropout(module: nn.Module, path: str) -> float:
    if module.training and getattr(module, "p", 1.0) != 0:
        raise _refuse(
            module, path, "in training mode it is a new random function at each call; call model.eval() first"
        )
    return 1.0


# Layers that people put into such networks by habit, and what serves in their place.
_INSTEAD: dict[type[nn.Module], str] = {
    kind: words
    for kinds, words in (
        (
            (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
            "it divides by a deviation that may be tiny; use BatchCentering, which subtracts the mean only",
        ),
        (
            (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm),
            "it divides by a deviation that may be tiny; use LayerCentering, which subtracts the mean only",
        ),
        (
            (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer),
            "products of queries and keys have unbounded slopes; use orthogonal linear or convolutional layers",
        ),
    )
    for kind in kinds
}


@register(*_INSTEAD)
def _habit(module: nn.Module, path: str) -> float:
    raise _refuse(module, path, next(_INSTEAD[kind] for kind in type(module).__mro__ if kind in _INSTEAD))
