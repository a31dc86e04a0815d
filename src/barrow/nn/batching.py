"""Layers of one shape that derive their weights in one batched product."""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

from torch import nn

from barrow.nn.derived import cacheable
from barrow.nn.linear import OrthogonalLinear

__all__ = ["batch_weights"]

_M = TypeVar("_M", bound=nn.Module)


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


class WeightGroup:
    """Layers that know each other; copies of a group begin empty, and copies of its layers join as they are used."""

    def __init__(self) -> None:
        self._members: list[weakref.ref[OrthogonalLinear]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightGroup:
        memo[id(self)] = copied = WeightGroup()
        return copied

    def __reduce__(self) -> tuple[type[WeightGroup], tuple[()]]:
        return WeightGroup, ()

    def join(self, layer: OrthogonalLinear) -> None:
        """Make a layer a member."""
        layer._group = self
        self._members.append(weakref.ref(layer))

    def stale(self, layer: OrthogonalLinear) -> list[OrthogonalLinear]:
        """The layer, which is stale, and all others like it that are too."""
        living = [member for ref in self._members if (member := ref()) is not None and member._group is self]
        if not any(member is layer for member in living):
            self.join(layer)
            living.append(layer)
        raw = layer.raw_weight
        return [member for member in living if member is layer or (_alike(member.raw_weight, raw) and _stale(member))]


def _alike(one: nn.Parameter, other: nn.Parameter) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _stale(layer: OrthogonalLinear) -> bool:
    raws = (layer.raw_weight,)
    return cacheable(raws) and not layer._derived.describes(raws)
