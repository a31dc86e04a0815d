"""Scaling the rows of matrices and kernels until the linear map is a contraction, with its roundings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["absolute_gram", "contraction", "dominance_bound", "exact", "rounding"]

# Rows shorter than this share of the largest entry are not lifted to norm one: the derivative would be its inverse.
FLOOR = 1e-6


def exact(x: Tensor) -> Tensor:
    """In float64, which nobody's TF32 setting or autocast reaches; Apple's devices have none and get float32."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def rounding(dtype: torch.dtype, rank: int) -> float:
    """What rounding to dtype can add to the norm of a contraction W: |dW|_2 <= |dW|_F <= u |W|_F <= u sqrt(rank).

    Twice that, for values that are rounded twice, and a little for the computation in float64 and for the proof of a
    bound to come out below 1.
    """
    return torch.finfo(dtype).eps * math.sqrt(rank) + 2.0**-30


def absolute_gram(K: Tensor) -> Tensor:
    """A_ij = sum over lags m of |sum_t <K_i(t), K_j(t + m)>|, rounded upwards: (..., n, c, k1, k2) -> (..., n, n).

    It majorises, entry by entry and at each frequency, the Gram matrix T T* of the kernel's symbol T (n, c). A matrix
    is a kernel with one tap.
    """
    _, c, k1, k2 = K.shape[-4:]
    total = K.new_zeros(())
    for m1 in range(k1):
        for m2 in range(-(k2 - 1) if m1 else 0, k2):
            here = K[..., : k1 - m1, max(0, -m2) : k2 - max(0, m2)].flatten(-3)
            there = K[..., m1:, max(0, m2) : k2 + min(0, m2)].flatten(-3)
            R = (here @ there.mT).abs()
            total = total + (R + R.mT if m1 or m2 else R)
    with torch.no_grad():
        # The rounding of the products is at most gamma |K_i||K_j| summed over pairs of taps; twice, for the sums.
        gamma = 2 * (c * k1 * k2 + 2 * k1 * k2 + 8) * torch.finfo(K.dtype).eps
        size = K.norm(dim=-3).sum((-2, -1))
        slack = gamma * size.unsqueeze(-1) * size.unsqueeze(-2)
    gram: Tensor = total + slack
    return gram


def contraction(K: Tensor, q: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale the rows of a kernel so that it is a contraction, K_i / sqrt(T_i), T_i = sum_j A_ij q_j / q_i.

    A is the :func:`absolute_gram` of K and q > 0. For each frequency diag(T) - T T* has, after a scaling by q, a
    diagonal that dominates its rows; hence it is positive semidefinite and |diag(T)^(-1/2) T|_2 <= 1. Infinite and NaN
    entries must be gone and the largest entry must be about 1: the scaled kernel does not depend on the scale.

    Args:
        K: (..., n, c, k1, k2).
        q: (n,), within factors of 1e26 of one another; without it ones.

    Returns:
        The scaled kernel (..., n, c, k1, k2), and T (..., n).
    """
    A = absolute_gram(K)
    T = A.sum(-1) if q is None else (A @ q) / q
    T = T.clamp(min=FLOOR**2)
    return K * T.rsqrt()[..., None, None, None], T


def normal(raw: Tensor) -> Tensor:
    """The raw kernel in float64, divided by its largest entry; NaN counts as 0, infinities as the largest number."""
    raw = raw.nan_to_num()
    # Not below the square root of the smallest number: gradients are multiplied by the inverse.
    peak = raw.detach().abs().amax() if raw.numel() else raw.new_ones(())
    return exact(raw) / exact(peak).clamp(min=math.sqrt(torch.finfo(raw.dtype).tiny))


def dominance_bound(K: Tensor, q: Tensor) -> float:
    """sqrt(max_i sum_j A_ij q_j / q_i) >= the norm of the kernel for every q > 0, (..., n), rounded upwards.

    Source: Collatz, "Einschliessungssatz fuer die charakteristischen Zahlen von Matrizen", Math. Z. 48 (1942).
    """
    ratio = (absolute_gram(K) @ q.unsqueeze(-1)).squeeze(-1) / q
    n = K.shape[-4]
    return math.sqrt(ratio.max().item()) * (1 + (n + 8) * torch.finfo(K.dtype).eps)
