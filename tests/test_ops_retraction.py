"""Retraction against the polar factor in float64: accuracy, contraction, idempotence, and where it gives up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from barrow.ops import retraction
from barrow.ops.polar import polar
from barrow.ops.retraction import retract, tangent

SHAPES = [(1, 1), (8, 8), (40, 24), (24, 40), (200, 130), (130, 200), (3, 12, 9), (2, 9, 12)]


def near(shape: tuple[int, ...], size: float, scale: float, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A multiple of an orthogonal matrix after a step of spectral norm ``size``."""
    g = torch.Generator().manual_seed(seed)
    W = polar(torch.randn(shape, generator=g, dtype=torch.float64))
    step = torch.randn(shape, generator=g, dtype=torch.float64)
    step = step / torch.linalg.matrix_norm(step, 2, keepdim=True) * size
    return (scale * (W + step)).to(dtype)


def assert_is_the_factor(W: Tensor, X: Tensor, tol: float) -> None:
    s = torch.linalg.svdvals(W.double())
    assert s.max() <= 1, s.max()
    assert s.min() > 1 - tol, s.min()
    truth = polar(X.double())
    assert torch.linalg.matrix_norm(W.double() - truth, 2).max() < 100 * tol


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 0.05, 0.2, 0.6, 3.0])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 4e-6), (torch.float64, 1e-12)])
def test_is_the_polar_factor_and_a_contraction(
    shape: tuple[int, ...], size: float, dtype: torch.dtype, tol: float
) -> None:
    for scale in (1.0, 3e-4, 700.0):
        X = near(shape, size, scale, dtype)
        W, moved, c = retract(X)
        assert_is_the_factor(W, X, tol)
        assert torch.allclose(moved, c * W, rtol=1e-4, atol=0)
        mean = torch.linalg.svdvals(X.double()).mean(-1)
        assert torch.allclose(c.flatten().double(), mean.flatten(), rtol=1e-4)


@pytest.mark.parametrize("wrong", [lambda W: 1.0001 * W, lambda W: W.flip(-1), lambda W: 0.999 * W])
def test_the_check_can_fail(wrong: object) -> None:
    X = near((8, 8), 0.05, 1.0, torch.float64)
    with pytest.raises(AssertionError):
        assert_is_the_factor(wrong(retract(X)[0]), X, 1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_it_moved_to_gives_the_same_bits_again(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for seed, scale in enumerate((1.0, 3.1, 0.07, 1e-6)):
        W, moved, _ = retract(near(shape, 0.05, scale, dtype, seed))
        again, stayed, _ = retract(moved.clone())
        assert torch.equal(again, W)
        assert torch.equal(stayed, moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_matrices_by_blocks(dtype: torch.dtype) -> None:
    X = near((530, 521), 0.05, 1.3, dtype)
    assert torch.allclose(retraction._gram(X), X.mT @ X, atol=1e-5)
    W, moved, _ = retract(X)
    assert_is_the_factor(W, X, 4e-6)
    assert torch.equal(retract(moved)[0], W)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), 1e38, 1e-42])
def test_what_has_vanished_or_diverged_stays_where_it_is(bad: float) -> None:
    X = torch.full((6, 4), bad)
    W, moved, c = retract(X)
    assert (torch.linalg.svdvals(W.double()) - 1).abs().max() < 1e-5
    assert torch.equal(moved.nan_to_num(nan=7.0), X.nan_to_num(nan=7.0))
    assert c.item() == 0


def test_one_diverged_matrix_of_a_batch_leaves_the_others_alone() -> None:
    X = near((3, 12, 9), 0.05, 2.0, torch.float32)
    alone = retract(X[0])[0]
    X[1, 0, 0] = float("nan")
    W, moved, c = retract(X)
    assert (W[0] - alone).abs().max() < 1e-5
    assert torch.equal(moved[1].isnan(), X[1].isnan())
    assert c[1].item() == 0
    assert (c[[0, 2]] > 1.9).all()


@pytest.mark.parametrize("rough", [True, False])
def test_rough_products_are_within_the_margin(rough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraction, "has_rough_products", lambda device: rough)
    for size in (1e-3, 0.03, 0.1, 0.3):
        X = near((256, 160), size, 1.0, torch.float32)
        assert_is_the_factor(retract(X)[0], X, 4e-6)


def test_rough_products_that_are_too_rough_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraction, "has_rough_products", lambda device: True)
    monkeypatch.setattr(retraction, "_BFLOAT16", 0.0)
    X = near((256, 160), 0.05, 1.0, torch.float32)
    monkeypatch.setattr(retraction, "_times", lambda X, Y, rough: (X @ Y) * 1.05)
    with pytest.raises(AssertionError):
        assert_is_the_factor(retract(X)[0], X, 4e-6)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (3, 12, 9)])
def test_without_looking_at_numbers(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraction, "_on_host", retraction._on_device)
    X = near(shape, 0.05, 2.0, torch.float32)
    W, moved, _ = retract(X)
    assert_is_the_factor(W, X, 4e-6)
    assert torch.equal(retract(moved)[0], W)


def test_half_precision_and_empty() -> None:
    X = near((10, 4), 0.05, 1.0, torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(retract(X.to(dtype))[0], retract(X.to(dtype).float())[0].to(dtype))
    assert retract(torch.zeros(0, 3))[0].shape == (0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(retract(X)[0], retract(X.clone())[0])


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (3, 6, 2)])
def test_tangent_is_the_derivative_of_the_polar_factor(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(1)
    W = polar(torch.randn(shape, generator=g, dtype=torch.float64))
    G = torch.randn(shape, generator=g, dtype=torch.float64)
    X = W.clone().requires_grad_()
    (found,) = torch.autograd.grad(polar(X), X, G)
    assert torch.allclose(tangent(W, G), found, atol=1e-10)
    assert not torch.allclose(G, found, atol=1e-3)
