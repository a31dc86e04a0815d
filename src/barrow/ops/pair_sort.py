"""Neighbours in ascending order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["pair_sort"]


def pair_sort(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """The smaller of two tensors and the larger, side by side in a new dimension:

        stack((min(first, second), max(first, second)), dim)

    The gradient follows each number to where it came from, by one mask of a byte an element; autograd through minimum
    and maximum shares ties and reads its inputs four times. At a tie it goes straight on. NaN spreads to both, and a
    gradient can be differentiated again.

    >>> pair_sort(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0]), 1)
    tensor([[2., 3.],
            [1., 5.]])
    """
    if torch.compiler.is_compiling():  # a compiler fuses these by itself, and cannot trace a function with a jvp
        return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), dim)
    found: Tensor = _PairSort.apply(first, second, dim)[0]
    return found


class _PairSort(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), dim), first > second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.dim = inputs[2]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (swapped,) = ctx.saved_tensors
        low, high = grads[0].unbind(ctx.dim)
        return torch.where(swapped, high, low), torch.where(swapped, low, high), None

    @staticmethod
    def jvp(ctx: Any, first: Tensor, second: Tensor, dim: None) -> tuple[Tensor, None]:
        (swapped,) = ctx.saved_tensors
        low, high = torch.where(swapped, second, first), torch.where(swapped, first, second)
        return torch.stack((low, high), ctx.dim), None
