"""torchlip's parametrizations of a layer's weight, and what takes them away.

Each is exact at every moment, in eval mode too. They are what torchlip's layers are built from; here layers derive
their weight themselves, and these serve code that normalises a layer of torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from barrow.check import positive, real_tensor
from barrow.compat.torchlip.evaluation import evaluate_lip_const
from barrow.compat.torchlip.normalizers import DEFAULT_EPS_BJORCK
from barrow.nn.windows import window_counts
from barrow.ops.polar import polar

__all__ = [
    "bjorck_norm",
    "evaluate_lip_const",
    "frobenius_norm",
    "lconv_norm",
    "remove_bjorck_norm",
    "remove_frobenius_norm",
    "remove_lconv_norm",
    "sqrt_with_gradeps",
]


def bjorck_norm(module: nn.Module, name: str = "weight", eps: float = DEFAULT_EPS_BJORCK) -> nn.Module:
    """Replace a parameter (rows, ...) by its orthogonal factor, whatever its norm.

    Args:
        module: the layer, which is changed.
        name: of the parameter.
        eps: largest tolerated error of orthogonality, always met from 1e-6 up.

    Returns:
        The layer.

    Raises:
        ValueError: there is no such parameter of two dimensions or more, or eps is not positive.

    >>> layer = bjorck_norm(nn.Linear(3, 2))
    >>> (layer.weight @ layer.weight.T).round(decimals=5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if positive("eps", eps) < 1e-6:
        raise ValueError(f"eps = {eps} cannot be met: weights are accurate to 1e-6; leave it out")
    return _parametrize(module, name, _Bjorck())


def remove_bjorck_norm(module: nn.Module, name: str = "weight") -> nn.Module:
    """Take :func:`bjorck_norm` away; see :func:`remove_frobenius_norm`."""
    return _remove(module, name, _Bjorck, "bjorck_norm")


def frobenius_norm(module: nn.Module, name: str = "weight", disjoint_neurons: bool = True) -> nn.Module:
    """Divide a parameter (rows, ...) by its Frobenius norm, row by row or as a whole; zeros become some unit vector.

    Args:
        module: the layer, which is changed.
        name: of the parameter.
        disjoint_neurons: True gives each row norm 1, False the whole.

    Returns:
        The layer.

    Raises:
        ValueError: there is no such parameter of two dimensions or more.

    >>> frobenius_norm(nn.Linear(3, 2)).weight.norm(dim=1).round(decimals=5).tolist()
    [1.0, 1.0]
    """
    return _parametrize(module, name, _Frobenius(bool(disjoint_neurons)))


def remove_frobenius_norm(module: nn.Module, name: str = "weight") -> nn.Module:
    """Take :func:`frobenius_norm` away; the weight keeps its present value where it was the only parametrization.

    Beside others it is taken out of their row, so that the weight becomes what they make of the raw parameter.

    Args:
        module: the layer, which is changed.
        name: of the parameter.

    Returns:
        The layer.

    Raises:
        ValueError: the parameter has no such parametrization.

    >>> remove_frobenius_norm(frobenius_norm(nn.Linear(3, 2))).weight.norm(dim=1).round(decimals=5).tolist()
    [1.0, 1.0]
    """
    return _remove(module, name, _Frobenius, "frobenius_norm")


def lconv_norm(module: nn.Conv1d | nn.Conv2d, name: str = "weight") -> nn.Module:
    """Divide a kernel by the square root of the number of windows that see one pixel.

    Then the layer's constant is at most the norm of the kernel unfolded to a matrix (c_out, c_in k1 k2).
    torchlip leaves out the root for Conv1d, which makes that layer too small, and counts no dilation and no copies of
    pixels by padding modes `reflect` and `replicate`, where the bound does not hold; here they are counted.

    Args:
        module: the convolution, which is changed.
        name: of the kernel.

    Returns:
        The layer.

    Raises:
        ValueError: module is not a Conv1d or Conv2d, or its padding mode is not known.

    >>> layer = nn.Conv2d(3, 4, 5, stride=2)
    >>> before = layer.weight.norm()
    >>> bool(torch.isclose(lconv_norm(layer).weight.norm(), before / 3))
    True

    Source: Serrurier et al., "Achieving robustness in classification using optimal transport with hinge
    regularization", CVPR 2021, appendix.
    """
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        raise ValueError(f"lconv_norm needs a Conv1d or Conv2d, got {type(module).__name__}")
    return _parametrize(module, name, _Lconv(1 / math.sqrt(window_counts(module))))


def remove_lconv_norm(module: nn.Module, name: str = "weight") -> nn.Module:
    """Take :func:`lconv_norm` away; see :func:`remove_frobenius_norm`."""
    return _remove(module, name, _Lconv, "lconv_norm")


def sqrt_with_gradeps(input: Tensor, eps: float = 1e-6) -> Tensor:
    """The square root with a finite gradient at zero: that of sqrt(x) is taken to be 1 / (2 (sqrt(x) + eps)).

    Choose it to run torchlip code. Not to be differentiated twice, which raises.

    Args:
        input: nonnegative numbers.
        eps: positive.

    Returns:
        The shape of input.

    Raises:
        ValueError: input is not floating point or eps is not positive.

    >>> x = torch.zeros(1, requires_grad=True)
    >>> sqrt_with_gradeps(x, 0.25).backward()
    >>> x.grad.tolist()
    [2.0]
    """
    root: Tensor = _Root.apply(real_tensor("input", input, what="numbers under a root"), positive("eps", eps))
    return root


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        root = x.sqrt()
        ctx.save_for_backward(root)
        ctx.eps = eps
        return root

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        return grad / (2 * (root + ctx.eps)), None


class _Bjorck(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return polar(weight.reshape(len(weight), -1)).reshape(weight.shape)


class _Frobenius(nn.Module):
    def __init__(self, rows: bool) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, weight: Tensor) -> Tensor:
        # A unit vector is the orthogonal factor of a matrix with one row.
        return polar(weight.reshape(len(weight) if self.rows else 1, 1, -1)).reshape(weight.shape)


class _Lconv(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


def _parametrize(module: nn.Module, name: str, parametrization: nn.Module) -> nn.Module:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        raise ValueError(f"{type(module).__name__} has no parameter {name!r} of two dimensions or more")
    parametrize.register_parametrization(module, name, parametrization)
    return module


def _remove(module: nn.Module, name: str, kind: type[nn.Module], called: str) -> nn.Module:
    row: list[nn.Module] = []
    if parametrize.is_parametrized(module, name):
        row = list(module.parametrizations[name])  # type: ignore[index]
    others = [p for p in row if not isinstance(p, kind)]
    if len(others) == len(row):
        raise ValueError(f"the parameter {name!r} of this {type(module).__name__} has no {called}")
    parametrize.remove_parametrizations(module, name, leave_parametrized=not others)
    for other in others:
        parametrize.register_parametrization(module, name, other)
    return module
