"""A residual connection that keeps the Lipschitz constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.activations import finite
from barrow.nn.lipschitz import layer_bound, register, times

__all__ = ["LipschitzResidual"]


class LipschitzResidual(nn.Module):
    """A learned mean of a module and the identity.

        y = s x + (1 - s) g(x),    s = 1 / (1 + exp(-a)),    Lipschitz constant at most s + (1 - s) L(g)

    1-Lipschitz whenever g is. Choose it to let a deep network skip blocks. Not where norms must be preserved: the
    mean of x and g(x) is shorter than both unless they agree. Plain x + g(x) would have constant up to 1 + L(g).

    Args:
        module: g, whose output has the shape of its input.
        device: where `a` lives.
        dtype: of `a`.

    Attributes:
        a: the learned scalar, initially 0, that is s = 1/2.

    Raises:
        ValueError: g changes the shape of its input.

    >>> LipschitzResidual(nn.Flatten(0))(torch.tensor([2.0, 4.0])).tolist()
    [2.0, 4.0]

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, with a convex combination
    in place of the sum.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ValueError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        self.module = module
        self.a = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Mix; the output has the shape of the input."""
        g: Tensor = self.module(x)
        # Broadcasting would add one number to many and break the bound.
        if g.shape != x.shape:
            raise ValueError(
                f"the module maps shape {shape(x)} to {shape(g)}, but a residual connection needs equal shapes"
            )
        return mix(self.a, x, g)


def mix(a: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """The mean s x + (1 - s) g with s = sigmoid(a)."""
    # 1 - s as the sigmoid of -a keeps its digits where s is near one.
    return torch.sigmoid(a) * x + torch.sigmoid(-a) * g


def _logistic(t: float) -> float:
    """The sigmoid without overflow, to a few roundings."""
    return 1 / (1 + math.exp(-t)) if t >= 0 else math.exp(t) / (1 + math.exp(t))


@register(LipschitzResidual)
def _residual(module: LipschitzResidual, path: str) -> float:
    inner = layer_bound(module.module, f"{path}.module" if path else "module")
    finite("a", module.a, path)
    if inner == 1:
        return 1.0
    a = module.a.detach().double().item()
    # Eight units in the last place cover the roundings of both weights and of the sum; the smallest positive number
    # covers those that underflow.
    bound = (_logistic(a) + times(_logistic(-a) or math.ulp(0.0), inner)) * (1 + 2.0**-49)
    return min(bound, max(1.0, inner))
