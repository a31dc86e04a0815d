"""Composed kernels: their symbols are unitary at every frequency, or as close to it as the shape allows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from barrow.ops.block_convolution import compose_blocks, orthogonal_kernel
from barrow.ops.polar import polar

F64 = torch.float64


def symbols(kernel: Tensor, window: tuple[int, int] = (1, 1), count: int = 20) -> Tensor:
    """T at random frequencies, (count, g, b, c v1 v2): the pixels of a window are channels."""
    W = kernel.detach().to(torch.complex128)
    (v1, v2), (k1, k2) = window, W.shape[3:]
    theta = torch.rand(count, 2, dtype=F64, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    T = torch.zeros(count, *W.shape[:3], v1, v2, dtype=torch.complex128)
    for j1 in range(k1):
        for j2 in range(k2):
            phase = torch.exp(1j * (theta[:, 0] * (j1 // v1) + theta[:, 1] * (j2 // v2)))
            T[..., j1 % v1, j2 % v2] += phase[:, None, None, None] * W[..., j1, j2]
    return T.flatten(3)


def off_one(T: Tensor) -> float:
    return (torch.linalg.svdvals(T) - 1).abs().max().item()


def drawn(
    b: int, c: int, axes: tuple[int, ...], window: tuple[int, int] = (1, 1), g: int = 1, dtype: torch.dtype = F64
) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(b + 7 * c + 31 * len(axes))
    area = math.prod(window)
    width = max(b, c) if area == 1 else c
    matrix = torch.randn(g, b, c * area, generator=gen, dtype=F64)
    halves = torch.randn(len(axes), g, width, width // 2, generator=gen, dtype=F64)
    return matrix.to(dtype), halves.to(dtype)


@pytest.mark.parametrize("axes", [(), (0,), (1, 1), (0, 1, 0, 1), (1, 0, 1, 1, 1)])
@pytest.mark.parametrize("window", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize(("b", "c"), [(4, 4), (5, 5), (2, 6), (3, 2), (1, 1), (7, 1), (20, 3)])
def test_singular_values_are_one(b: int, c: int, window: tuple[int, int], axes: tuple[int, ...]) -> None:
    kernel = orthogonal_kernel(*drawn(b, c, axes, window, g=2), axes, window)
    assert kernel.shape == (2, b, c, window[0] + axes.count(0), window[1] + axes.count(1))
    T = symbols(kernel, window)
    assert off_one(T) < 1e-12
    assert torch.linalg.svdvals(T).max() <= 1 + 1e-15 * (20 + b * c)


def test_the_check_can_fail() -> None:
    assert off_one(symbols(torch.randn(1, 4, 4, 2, 2))) > 0.1
    # An orthogonal matrix, reshaped: not an orthogonal convolution.
    reshaped = polar(torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))).reshape(1, 4, 4, 2, 2)
    assert off_one(symbols(reshaped)) > 0.1
    assert off_one(symbols(reshaped, (2, 2))) < 1e-5


def test_against_the_product_of_symbols() -> None:
    axes = (0, 1, 0)
    matrix, halves = drawn(3, 5, axes)
    T = symbols(orthogonal_kernel(matrix, halves, axes, (1, 1)), count=6)
    theta = torch.rand(6, 2, dtype=F64, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    U, eye = polar(halves[:, 0]), torch.eye(5, dtype=F64)
    for t, (a, b) in zip(T[:, 0], torch.exp(1j * theta), strict=True):
        P = [u @ u.mT for u in U]
        # The second block along the first axis is flipped.
        blocks = (P[0] + (eye - P[0]) * a, P[1] + (eye - P[1]) * b, (eye - P[2]) + P[2] * a)
        expected = polar(matrix[0]).to(t.dtype) @ blocks[0] @ blocks[1] @ blocks[2]
        assert torch.allclose(t, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision(dtype: torch.dtype) -> None:
    axes = (0, 1) * 2
    raw = drawn(16, 16, axes, dtype=dtype)
    kernel = orthogonal_kernel(*raw, axes, (1, 1))
    assert kernel.dtype == dtype
    error = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert off_one(symbols(kernel)) < error
    if dtype == torch.float32:
        assert torch.linalg.svdvals(symbols(kernel)).max() <= 1
        exact = orthogonal_kernel(*(r.double() for r in raw), axes, (1, 1))
        assert torch.allclose(kernel.double(), exact, atol=2e-6)


def test_autocast_does_not_touch_it() -> None:
    axes = (0, 1)
    raw = drawn(8, 8, axes, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = orthogonal_kernel(*raw, axes, (1, 1))
    assert torch.equal(inside, orthogonal_kernel(*raw, axes, (1, 1)))


@pytest.mark.parametrize("fill", [0.0, math.nan, math.inf, 3e38, 1e-45])
def test_any_input_gives_an_orthogonal_kernel(fill: float) -> None:
    axes = (0, 1)
    matrix, halves = (torch.full_like(r, fill, requires_grad=True) for r in drawn(4, 6, axes, dtype=torch.float32))
    kernel = orthogonal_kernel(matrix, halves, axes, (1, 1))
    assert off_one(symbols(kernel)) < 5e-6
    kernel.sum().backward()
    for raw in (matrix, halves):
        assert raw.grad is not None
        assert raw.grad.isfinite().all()


def test_one_channel_is_a_centred_sign() -> None:
    matrix = torch.tensor([[[-3.0]], [[0.1]]])
    kernel = orthogonal_kernel(matrix, torch.empty(4, 2, 1, 0), (0, 1, 0, 1), (1, 1))
    expected = torch.zeros(2, 1, 1, 3, 3)
    expected[0, 0, 0, 1, 1], expected[1, 0, 0, 1, 1] = -1, 1
    assert torch.allclose(kernel, expected, atol=1e-5)


@pytest.mark.parametrize("c", [3, 4, 5])
def test_delays_balance_on_average(c: int) -> None:
    # det T is a monomial; its power over c is the mean delay of the channels: the centre for an odd kernel.
    axes = (0, 0)
    kernel = orthogonal_kernel(*drawn(c, c, axes), axes, (1, 1))[0, :, :, :, 0]
    z = torch.exp(1j * torch.tensor([0.0, 0.01], dtype=F64))
    det = torch.linalg.det(sum(kernel[None, ..., j] * z[:, None, None] ** j for j in range(3)))
    assert math.isclose((det[1] / det[0]).angle().item() / 0.01, c, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("b", "c", "window"), [(3, 4, (1, 1)), (4, 3, (1, 1)), (3, 3, (1, 1)), (5, 2, (2, 1)), (3, 2, (2, 2))]
)
def test_gradients(b: int, c: int, window: tuple[int, int]) -> None:
    axes = (0, 1, 1)
    raw = tuple(r.requires_grad_() for r in drawn(b, c, axes, window))
    assert torch.autograd.gradcheck(lambda m, h: orthogonal_kernel(m, h, axes, window), raw)
    single = tuple(r.detach().float().requires_grad_() for r in raw)
    for grads in zip(
        torch.autograd.grad(orthogonal_kernel(*raw, axes, window).pow(3).sum(), raw),
        torch.autograd.grad(orthogonal_kernel(*single, axes, window).pow(3).sum(), single),
        strict=True,
    ):
        assert grads[1].dtype == torch.float32
        assert torch.allclose(grads[0].float(), grads[1], atol=1e-4)


def test_compose_blocks_keeps_a_given_kernel_first() -> None:
    K = torch.randn(2, 3, 1, 4, 6, dtype=F64)
    U = polar(torch.randn(1, 2, 6, 3, dtype=F64))
    new = compose_blocks(K, U, (1,))
    P = (U @ U.mT)[0, :, None, None]
    assert torch.allclose(new, torch.cat([K @ P, K - K @ P], 2))


def test_compiles_and_maps() -> None:
    axes = (0, 1)
    matrix, halves = drawn(3, 4, axes)
    stacked = torch.stack([matrix, 2 * matrix + 1]), torch.stack([halves, halves + 1])
    mapped = torch.vmap(lambda m, h: orthogonal_kernel(m, h, axes, (1, 1)))(*stacked)
    for i in range(2):
        assert torch.allclose(mapped[i], orthogonal_kernel(stacked[0][i], stacked[1][i], axes, (1, 1)))
    compiled = torch.compile(lambda m, h: orthogonal_kernel(m, h, axes, (1, 1)), fullgraph=True, backend="eager")
    assert torch.allclose(compiled(matrix, halves), orthogonal_kernel(matrix, halves, axes, (1, 1)))
