"""The soft minimum of a matrix row: what a Sinkhorn half-step is made of."""

from __future__ import annotations

import torch
from torch import Tensor


def softmin(C: Tensor, h: Tensor, epsilon: Tensor | float) -> Tensor:
    """-epsilon log sum_j exp((h_j - C_ij) / epsilon), one number a row.

    C (..., n, m), h (..., m) with -inf where an atom has no mass, epsilon > 0 a number or (...): (..., n).
    """
    if isinstance(epsilon, Tensor):
        epsilon = epsilon[..., None]
        return -epsilon * torch.logsumexp((h[..., None, :] - C) / epsilon[..., None], -1)
    return -epsilon * torch.logsumexp((h[..., None, :] - C) / epsilon, -1)


def hardmin(C: Tensor, h: Tensor) -> Tensor:
    """min_j C_ij - h_j, the limit of :func:`softmin` as epsilon goes to zero: (..., n)."""
    return (C - h[..., None, :]).amin(-1)
