"""A 1-Lipschitz scalar network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.linear import OrthogonalLinear, UnitLinear, batch_weights, positive_integer
from barrow.nn.lipschitz import layer_bound, register
from barrow.nn.sort import FullSort

__all__ = ["Critic"]


class Critic(nn.Module):
    """A scalar network that is 1-Lipschitz by construction: a potential for the Kantorovich-Rubinstein dual.

        f = u o sort o W_k o ... o sort o W_1 o flatten,    W_i orthogonal, |u| = 1,    |f(x) - f(y)| <= |x - y|

    Choose it for W_1 between laws that are only known through samples; the whole estimate, with error bars, is
    `barrow.estimate`. Not for exponents other than one. `lipschitz_bound(critic)` certifies the constant of the
    present weights.

    Args:
        in_features: numbers in one input, whatever its shape.
        widths: outputs of the hidden layers, first to last; empty gives a linear functional.

    Raises:
        ValueError: a size is not a positive integer; an input does not hold in_features numbers a sample.

    >>> import torch
    >>> critic = Critic(12, widths=(8, 8))
    >>> critic(torch.zeros(5, 3, 4)).shape
    torch.Size([5])

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019.
    """

    def __init__(self, in_features: SupportsIndex, widths: Iterable[SupportsIndex] = (128, 64, 32)) -> None:
        super().__init__()
        self.in_features = positive_integer("in_features", in_features)
        self.widths = tuple(positive_integer("each of widths", width) for width in widths)
        layers: list[nn.Module] = []
        size = self.in_features
        for width in self.widths:
            layers += [OrthogonalLinear(size, width), FullSort()]
            size = width
        self.layers = batch_weights(nn.Sequential(*layers, UnitLinear(size, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to (batch,)."""
        if x.ndim == 0 or x.numel() != x.shape[0] * self.in_features:
            raise ValueError(
                f"x has shape {shape(x)}, but this critic takes (batch, ...) with {self.in_features} numbers a sample"
            )
        values: Tensor = self.layers(x.reshape(x.shape[0], self.in_features))
        return values.squeeze(-1)


@register(Critic)
def _critic(module: Critic, path: str) -> float:
    return layer_bound(module.layers, f"{path}.layers" if path else "layers")
