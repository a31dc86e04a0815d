"""Padding by reflection in the edges of the border pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from barrow.check import shape

__all__ = ["symmetric_pad"]


def symmetric_pad(x: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """Continue the last axes by their mirror images, border pixels included:

        1 2 3  ->  2 1 | 1 2 3 | 3 2        for pads = [(2, 2)]

    numpy's mode "symmetric", which torch lacks; "reflect" leaves the border pixel out. Choose it for convolutions
    without dark borders: unlike "reflect", a convolution sees no pixel more often than under zero padding as long as
    the padding keeps the size. Not for more pixels than the image has.

    Args:
        x: (..., n_1, ..., n_k), of any dtype.
        pads: (before, after) for each of the last k axes, in their order, each at most the axis's size.

    Returns:
        (..., n_1 + before + after, ...); differentiable.

    Raises:
        ValueError: x has fewer axes than pads, or a pad is negative or larger than its axis.

    >>> symmetric_pad(torch.tensor([1, 2, 3]), [(1, 2)]).tolist()
    [1, 1, 2, 3, 3, 2]

    Source: Strang, "The discrete cosine transform", SIAM Review 41 (1999): the even extension about half samples.
    """
    if x.ndim < len(pads):
        raise ValueError(f"pads are given for the last {len(pads)} axes, but the input has shape {shape(x)}")
    for axis, (before, after) in enumerate(pads, x.ndim - len(pads)):
        size = x.shape[axis]
        if not (0 <= before <= size and 0 <= after <= size):
            raise ValueError(
                f"symmetric padding by {(before, after)} does not fit axis {axis} of an input of shape {shape(x)}: "
                f"pad by 0 to {size} pixels"
            )
        if before or after:
            parts = x.narrow(axis, 0, before).flip(axis), x, x.narrow(axis, size - after, after).flip(axis)
            x = torch.cat(parts, axis)
    return x
