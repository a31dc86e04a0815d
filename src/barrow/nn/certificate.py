"""What a critic proves about the samples that it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from barrow.check import real_tensor, same_kind, shape
from barrow.cost import Points
from barrow.nn.activations import Abs, Householder, LipschitzPReLU, MaxMin
from barrow.nn.centering import BatchCentering, LayerCentering
from barrow.nn.export import Scale, to_plain
from barrow.nn.lipschitz import layer_bound, lipschitz_bound
from barrow.nn.mcshane import McShaneCritic
from barrow.nn.pooling import (
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveL2NormPool2d,
    ScaledAvgPool2d,
    ScaledL2NormPool2d,
)
from barrow.nn.reshape import InvertibleDownSampling, InvertibleUpSampling
from barrow.nn.residual import LipschitzResidual
from barrow.nn.sll import PlainSll
from barrow.nn.sort import FullSort, GroupSort
from barrow.ops.summation import pairwise_sum
from barrow.problem import Problem
from barrow.screen import complaint, screen
from barrow.solution import BadInput, Bounds
from barrow.solve import solve

__all__ = ["certify_critic", "register_rounding"]

_Rule = Callable[[Any, Tensor, Tensor], Tensor]
_R = TypeVar("_R", bound=_Rule)
_rules: dict[type[nn.Module], _Rule] = {}

_U = 2.0**-53
# Numbers of the inputs that are sent through the critic together.
_CHUNK = 1 << 20


def certify_critic(
    critic: nn.Module, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, exact: bool = False
) -> Bounds:
    """Bracket W_1 between two given sets of samples with a critic's values on them:

        |sum_i a_i f(x_i) - sum_j b_j f(y_j)| / L  <=  W_1(x, y),     L = lipschitz_bound(f)

    Whatever the critic has learned, the lower bound is true of these points, with no assumption about where they come
    from: f is evaluated in float64 on the host with its stored weights in eval mode, and what rounding may have done
    there, layer by layer, is subtracted. Choose it to judge a critic, or where the samples are too many for exact
    transport. For the laws behind the samples, with an error bar, there is :func:`barrow.estimate`; for potentials that
    are mere numbers :func:`barrow.certify`, which repairs them.

    Args:
        critic: a network with one output a sample and a Lipschitz bound. It is not changed.
        x: (n, ...), the points of the first measure, as the critic takes them.
        y: (m, ...), those of the second, of the same trailing shape.
        a: weights (n,), uniform unless given.
        b: weights (m,), of the same mass.
        exact: solve the transport problem of these points for the upper bound, which otherwise is infinite.

    Returns:
        Bounds of one problem, float64; the distance is Euclidean and lower is at least 0. By symmetry the sign of the
        critic does not matter.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, NaN, infinity, negative weights or different masses; the
            critic has no Lipschitz bound, not one finite output a sample, or a layer whose rounding is not known (see
            :func:`register_rounding`).

    >>> from barrow.nn import McShaneCritic
    >>> x, y = torch.zeros(4, 2), torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    >>> distance_to_x = McShaneCritic.through(x[:1], torch.zeros(1))
    >>> lower, upper = certify_critic(distance_to_x, x, y, exact=True)
    >>> bool(lower <= 7.5 <= upper), bool(upper - lower < 1e-12)
    (True, True)

    Source: Villani, "Optimal Transport, Old and New", 2009, equation (5.11); Higham, "Accuracy and Stability of
    Numerical Algorithms", 2002, section 3.1, for the rounding of sums and products.
    """
    if not isinstance(critic, nn.Module):
        raise ValueError(f"critic is a {type(critic).__name__}, but certify_critic needs a torch.nn.Module")
    x, y = real_tensor("x", x, what="samples"), real_tensor("y", y, what="samples")
    same_kind("x", x, "y", y)
    for name, t in (("x", x), ("y", y)):
        if t.ndim == 0 or t.numel() == 0:
            raise ValueError(f"{name} has shape {shape(t)}, but samples have shape (n, ...) with n >= 1")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x has shape {shape(x)} but y has shape {shape(y)}: all dimensions but the first must agree")
    with torch.no_grad():
        x, y = (t.detach().to("cpu", torch.float64) for t in (x, y))
        a, b = _weights("a", a), _weights("b", b)
        problem = Problem(Points(x.reshape(len(x), -1), y.reshape(len(y), -1), p=1), a, b)
        flat, codes, defect = screen(problem)
        if bool(codes.any()):
            raise BadInput(complaint(problem, codes))
        plain = to_plain(critic).to("cpu", torch.float64).eval()
        L = lipschitz_bound(plain)
        lower = _lower(_values(plain, x), _values(plain, y), flat.a[0], flat.b[0], L) * (1 - float(defect))
    upper = solve(problem).bounds.upper if exact else torch.tensor(math.inf, dtype=torch.float64)
    return Bounds(torch.tensor(lower, dtype=torch.float64), upper)


def register_rounding(*types: type[nn.Module]) -> Callable[[_R], _R]:
    """Teach :func:`certify_critic` about module types: decorate a function (module, x, y) -> (B,).

    x and y are what the module was given and what it returned in float64, for B samples. The result must be at least
    the Euclidean distance, sample by sample, between y and the module's exact value at this x. The rule serves the
    types themselves and their subclasses that keep `forward`; a Lipschitz bound must be registered too.

    >>> class Halve(nn.Module):
    ...     def forward(self, x):
    ...         return x / 2
    >>> @register_rounding(Halve)
    ... def halve(module, x, y):
    ...     return y.flatten(1).norm(dim=1) * 2.0**-53
    """

    def keep(rule: _R) -> _R:
        for kind in types:
            _rules[kind] = rule
        return rule

    return keep


def _weights(name: str, w: Tensor | None) -> Tensor | None:
    return None if w is None else real_tensor(name, w, what="weights").detach().to("cpu", torch.float64)


def _lower(f_x: tuple[Tensor, Tensor], f_y: tuple[Tensor, Tensor], a: Tensor, b: Tensor, L: float) -> float:
    """The bound from values and their errors."""
    everything = torch.cat((f_x[0], f_y[0]))
    # Both sides have one mass, so a constant changes nothing but the rounding.
    centre = (everything.max() + everything.min()) / 2
    total, error = 0.0, 0.0
    largest = (everything - centre).abs().max().item()
    for sign, (f, e), w in ((1, f_x, a), (-1, f_y, b)):
        g = f - centre
        total += sign * pairwise_sum(w * g).item()
        error += pairwise_sum(w * e).item() + (math.log2(len(w)) + 4) * _U * pairwise_sum(w * g.abs()).item()
    # The masses agree to the rounding of two sums and a quotient.
    error += 4 * (len(a) + len(b) + 4) * _U * a.sum().item() * largest + 4 * _U * abs(total)
    kept = abs(total) - error * (1 + 1e-6)
    return kept / L * (1 - 4 * _U) if kept > 0 and 0 < L < math.inf else 0.0


def _values(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's values (n,) in float64 arithmetic and bounds (n,) of their distance from the exact ones."""
    rows = max(1, _CHUNK // max(1, x[0].numel()))
    parts = [_run(critic, part, torch.zeros(len(part), dtype=x.dtype), "") for part in x.split(rows)]
    f, e = (torch.cat(several) for several in zip(*parts, strict=True))
    if f.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(f"the critic maps {shape(x)} to {shape(f)}, but one output a sample is needed, ({len(x)},)")
    f = f.reshape(-1)
    if not (f.isfinite().all() and e.isfinite().all()):
        raise ValueError("the critic's values are not finite: its weights or the data are too large for float64")
    return f, e


def _run(module: nn.Module, x: Tensor, e: Tensor, path: str) -> tuple[Tensor, Tensor]:
    """The module's output, and a bound (B,) of its error from that of its input."""
    kind = type(module)
    if isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward:
        for name, child in module._modules.items():
            if child is not None:
                x, e = _run(child, x, e, f"{path}.{name}" if path else name)
        return x, e
    if kind is LipschitzResidual:
        assert isinstance(module, LipschitzResidual)
        g, e_g = _run(module.module, x, e, f"{path}.module" if path else "module")
        s = torch.sigmoid(module.a)
        mixed = s * x + torch.sigmoid(-module.a) * g
        return mixed, (s * e + (1 - s) * e_g) * (1 + 16 * _U) + 16 * _U * (_norm(x) + _norm(g))
    rule = next((_rules[k] for k in kind.__mro__ if k in _rules and kind.forward is k.forward), None)
    place = f"layer {path!r} ({kind.__name__})" if path else f"the critic ({kind.__name__})"
    if rule is None:
        raise ValueError(
            f"{place} rounds in a way that is not known: use layers of barrow or torch's linear ones and "
            "convolutions, or teach it with barrow.nn.certificate.register_rounding"
        )
    try:
        y: Tensor = module(x)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{place} does not take an input of shape {shape(x)}: {error}") from error
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"{place} maps {shape(x)} to {shape(y)}, but dimension 0 are the samples and must stay")
    return y, (layer_bound(module, path) * e + rule(module, x, y)) * (1 + 8 * _U)


def _norm(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return norms


def _gamma(n: int) -> float:
    """The relative error of a sum of n products in any order, twice, which covers what computing a bound rounds."""
    return 2 * n * _U / (1 - n * _U)


@register_rounding(
    nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d,
    nn.ZeroPad2d, nn.ZeroPad3d, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    FullSort, GroupSort, MaxMin, Abs, InvertibleDownSampling, InvertibleUpSampling,
)  # fmt: skip
def _exact(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Selection moves numbers and changes none."""
    return torch.zeros(len(x), dtype=x.dtype)


@register_rounding(nn.Linear)
def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    bias = None if module.bias is None else module.bias.abs()
    return _gamma(module.in_features + 2) * _norm(nn.functional.linear(x.abs(), module.weight.abs(), bias))


@register_rounding(nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
def _convolution(module: Any, x: Tensor, y: Tensor) -> Tensor:
    """Sums of products whatever the padding; one output sees at most all channels at all taps."""
    absolute = {name: p.abs() for name, p in module.named_parameters()}
    sums: Tensor = torch.func.functional_call(module, absolute, x.abs())
    return _gamma(module.in_channels * math.prod(module.kernel_size) + 2) * _norm(sums)


@register_rounding(
    nn.Tanh, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Sigmoid, nn.Hardsigmoid, nn.SELU, nn.SiLU,
    nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, LipschitzPReLU, Householder, Scale,
)  # fmt: skip
def _elementwise(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A few operations with an argument that is off by a few roundings."""
    return 32 * _U * (_norm(x) + _norm(y) + math.sqrt(x[0].numel()))


@register_rounding(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
                   nn.AdaptiveAvgPool3d, ScaledAvgPool2d, ScaledAdaptiveAvgPool2d, ScaledL2NormPool2d,
                   ScaledAdaptiveL2NormPool2d)  # fmt: skip
def _pooling(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Sums of at most all pixels, and a few operations after them."""
    # A negative divisor_override flips signs only.
    return _gamma(x[0].numel() + 16) * _norm(module(x.abs()))


@register_rounding(LayerCentering, BatchCentering)
def _centering(module: LayerCentering | BatchCentering, x: Tensor, y: Tensor) -> Tensor:
    """One difference, after a mean that is a sum: what is summed in absolute value is at most the norm."""
    size = x[0].numel()
    constants = [module.bias] if isinstance(module, LayerCentering) else [module.bias, module.running_mean]
    known = sum(t.abs().sum().item() for t in constants if t is not None)
    return _gamma(size + 4) * (2 * _norm(x) + known * math.sqrt(size))


@register_rounding(PlainSll)
def _sll(module: PlainSll, x: Tensor, y: Tensor) -> Tensor:
    """Two layers of sums of products and a difference, in absolute values: |x| + 2 |V|' (|V| |x| + |b|)."""
    absolute = {name: p.abs() for name, p in module.named_parameters()}
    sums = 2 * x.abs() - torch.func.functional_call(module, absolute, x.abs())
    hidden, features = module.weight.shape[:2]
    return _gamma((hidden + features) * module.weight[0, 0].numel() + 8) * _norm(sums)


@register_rounding(McShaneCritic)
def _mcshane(module: McShaneCritic, x: Tensor, y: Tensor) -> Tensor:
    """A distance and a sum; the cone that looks lowest is within twice their errors of the lowest."""
    height = module.offsets.abs().max()
    return _gamma(4 * (module.in_features + 8)) * (y.abs() + 2 * height)
