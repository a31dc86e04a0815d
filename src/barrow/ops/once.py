"""Gradients that may not be differentiated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_TRANSPORT = (
    "the gradient of an optimal-transport value was differentiated again, which barrow does not offer: the "
    "envelope theorem gives first derivatives only. Detach the gradient, or leave create_graph=False"
)


def once(gates: Sequence[Tensor], values: Sequence[Tensor | None], complaint: str = _TRANSPORT) -> list[Tensor | None]:
    """The same tensors, tied to all that they depend on by a graph that refuses to be differentiated.

    >>> x = torch.ones(2, requires_grad=True)
    >>> (slope,) = once([x], [2 * x.detach()])
    >>> slope.sum().backward()
    Traceback (most recent call last):
    RuntimeError: the gradient of an optimal-transport value was differentiated again, which barrow does not offer: ...
    """
    passed = iter(_Refuse.apply(complaint, len(gates), *gates, *(t for t in values if t is not None)))
    return [None if t is None else next(passed) for t in values]


class _Refuse(torch.autograd.Function):
    """Lets a gradient through once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(complaint: str, gates: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[gates:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.complaint = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(ctx.complaint)
