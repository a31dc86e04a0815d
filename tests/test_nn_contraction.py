"""Scaling by diagonal dominance: what majorises what, in every dtype."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from barrow.nn.contraction import absolute_gram, contraction, dominance_bound, normal, rounding

F64 = torch.float64


def symbols(K: Tensor, points: int = 24) -> Tensor:
    """T(theta), (points^2, n, c)."""
    return torch.fft.fft2(K, s=(points, points)).permute(2, 3, 0, 1).flatten(0, 1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("shape", [(3, 4, 1, 1), (4, 2, 3, 1), (3, 3, 2, 3), (2, 5, 3, 3)])
def test_the_gram_majorises_every_symbol(shape: tuple[int, ...]) -> None:
    K = drawn(*shape)
    T = symbols(K)
    A = absolute_gram(K)
    assert ((T @ T.mH).abs().amax(0) <= A).all()
    # By hand: all lags, one after the other.
    known = torch.zeros_like(A)
    wide = torch.nn.functional.pad(K, (shape[3] - 1,) * 2 + (shape[2] - 1,) * 2)
    for m1 in range(2 * shape[2] - 1):
        for m2 in range(2 * shape[3] - 1):
            known += (K.flatten(1) @ wide[:, :, m1 : m1 + shape[2], m2 : m2 + shape[3]].flatten(1).T).abs()
    assert torch.allclose(A, known, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_scaled_kernels_are_contractions_and_the_bound_says_so(seed: int) -> None:
    K = drawn(4, 3, 3, 2, seed=seed) * drawn(4, 1, 1, 1, seed=9 + seed).exp()
    q = drawn(4, seed=20 + seed).exp()
    V, T = contraction(K, q)
    truth = torch.linalg.matrix_norm(symbols(V), 2).max().item()
    assert truth <= 1
    assert truth <= dominance_bound(V, T.sqrt() * q) <= 1 + 1e-12
    assert dominance_bound(V, torch.ones(4, dtype=F64)) >= truth
    plain, T = contraction(K)
    assert torch.equal(plain, contraction(K, torch.ones(4, dtype=F64))[0])
    assert torch.allclose(T, absolute_gram(K).sum(1))


def test_orthonormal_rows_lose_nothing() -> None:
    Q = torch.linalg.qr(drawn(6, 3))[0].T[..., None, None]
    assert torch.allclose(contraction(Q)[0], Q, atol=1e-10)


def test_zero_rows_are_finite_and_can_leave_zero() -> None:
    K = drawn(3, 2, 1, 1)
    K[1] = 0
    K.requires_grad_()
    V = contraction(K)[0]
    assert torch.equal(V[1], torch.zeros_like(V[1]))
    V.sum().backward()
    assert K.grad is not None
    assert K.grad.isfinite().all()
    assert K.grad[1].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_is_paid_for(dtype: torch.dtype) -> None:
    for seed in range(20):
        Q = torch.linalg.qr(drawn(16, 16, seed=seed))[0]
        rounded = (Q / (1 + rounding(dtype, 16))).to(dtype).double()
        assert torch.linalg.matrix_norm(rounded, 2) <= 1
    assert torch.linalg.matrix_norm(Q.to(torch.bfloat16).double(), 2) > 1


@pytest.mark.parametrize("raw", [0.0, 1e-45, 1e-18, 3e38, math.inf, math.nan])
def test_any_raw_kernel_is_brought_to_size(raw: float) -> None:
    K = normal(torch.full((2, 2, 1, 1), raw))
    assert K.isfinite().all()
    assert K.abs().max() <= 1
    if raw >= 1e-18:
        assert torch.allclose(K, torch.ones(2, 2, 1, 1, dtype=F64))
