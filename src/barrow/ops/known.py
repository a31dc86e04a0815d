"""A value whose gradient was found along with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from barrow.ops.once import once


def known(value: Tensor, sources: Sequence[Tensor | None], slopes: Sequence[Tensor | None]) -> Tensor:
    """``value`` (...), differentiable once in each source by its slope, of shape (..., *the source's last dimensions).

    Leading dimensions of a source broadcast against those of the value. A source or a slope may be None.
    """
    pairs = [(t, s) for t, s in zip(sources, slopes, strict=True) if t is not None and s is not None]
    if not pairs or not torch.is_grad_enabled():
        return value
    result: Tensor = _Known.apply(value, [s for _, s in pairs], *(t for t, _ in pairs))
    return result


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: list[Tensor], *sources: Tensor) -> Tensor:
        ctx.slopes = slopes
        # Saved so that torch sees when one is changed in place, and a second derivative finds its way to the refusal.
        ctx.save_for_backward(*sources)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sources = ctx.saved_tensors
        with torch.no_grad():
            grads: list[Tensor | None] = [_pull(grad, slope, t) for slope, t in zip(ctx.slopes, sources, strict=True)]
        if torch.is_grad_enabled():
            grads = once([grad, *sources], grads)
        return (None, None, *grads)


def _pull(grad: Tensor, slope: Tensor, source: Tensor) -> Tensor:
    grad = grad.to(slope.dtype).reshape(grad.shape + (1,) * (slope.dim() - grad.dim()))
    return (grad * slope).sum_to_size(source.shape).to(source.dtype)
