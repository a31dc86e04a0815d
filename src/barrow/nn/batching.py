"""Layers that know each other, to derive their weights in one batched product."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from torch import nn

from barrow.nn.derived import Derived, cacheable

__all__ = ["WeightGroup"]


class Member(Protocol):
    """A layer whose weight is derived from one raw parameter."""

    raw_weight: nn.Parameter
    derived: Derived
    group: WeightGroup | None


class WeightGroup:
    """Copies of a group begin empty, and copies of its layers join as they are used; members may disappear."""

    def __init__(self) -> None:
        self._members: list[weakref.ref[Member]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightGroup:
        memo[id(self)] = copied = WeightGroup()
        return copied

    def __reduce__(self) -> tuple[type[WeightGroup], tuple[()]]:
        return WeightGroup, ()

    def join(self, layer: Member) -> None:
        """Make a layer a member."""
        layer.group = self
        self._members.append(weakref.ref(layer))

    def stale(self, layer: Member) -> list[Member]:
        """The layer, which is stale, and all others like it that are too."""
        living = [member for ref in self._members if (member := ref()) is not None and member.group is self]
        if not any(member is layer for member in living):
            self.join(layer)
            living.append(layer)
        raw = layer.raw_weight
        return [member for member in living if member is layer or (_alike(member.raw_weight, raw) and _stale(member))]


def _alike(one: nn.Parameter, other: nn.Parameter) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _stale(layer: Member) -> bool:
    raws = (layer.raw_weight,)
    return cacheable(raws) and not layer.derived.describes(raws)
