"""The polar factor against a float64 SVD, its gradient against finite differences, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from barrow.ops import polar as module
from barrow.ops.polar import polar


def truth(X: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(X.double(), full_matrices=False)
    return U @ Vh


def assert_orthogonal(W: Tensor, tol: float = 1e-5) -> None:
    assert W.isfinite().all()
    s = torch.linalg.svdvals(W.double())
    assert s.min() > 1 - tol, s.min()
    assert s.max() <= 1 + 1e-9, s.max()


def with_singular_values(s: Tensor, m: int) -> Tensor:
    n = len(s)
    g = torch.Generator().manual_seed(n + m)
    U = torch.linalg.qr(torch.randn(m, n, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    return U * s.double() @ V


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (64, 64), (1, 9), (9, 1), (1, 1), (2, 3, 5, 4), (2, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_polar_factor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    X = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    W = polar(X)
    assert W.shape == X.shape
    assert W.dtype == dtype
    assert_orthogonal(W)
    assert (W - truth(X)).abs().max() < (2e-6 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6, 1e-9, 1e-14, 0.0])
@pytest.mark.parametrize("m", [24, 40])
def test_lifts_every_singular_value(smallest: float, m: int) -> None:
    X = with_singular_values(torch.linspace(1, smallest, 24), m)
    assert_orthogonal(polar(X), 1e-9)
    assert_orthogonal(polar(X.float()))
    assert_orthogonal(polar(X.float().mT))


@pytest.mark.parametrize(
    "X",
    [
        torch.zeros(5, 3),
        torch.ones(5, 3),
        torch.full((4, 4), float("inf")),
        torch.full((3, 4), float("nan")),
        torch.tensor([[float("nan"), 1.0], [2.0, float("-inf")]]),
        torch.tensor([[1e30, 1e-30], [1e-30, 1e-30]]),
        torch.full((6, 4), torch.finfo(torch.float32).max),
        torch.full((6, 4), 1e-45),
        torch.eye(4) * 1e-44,
        torch.eye(4) * 3e38,
        torch.full((3, 3), 1e308, dtype=torch.float64),
        torch.stack((torch.zeros(3, 3), torch.eye(3))),
    ],
)
def test_any_input_gives_an_orthogonal_matrix_and_a_finite_gradient(X: Tensor) -> None:
    X = X.clone().requires_grad_()
    W = polar(X)
    assert_orthogonal(W)
    W[..., 0, :].sum().backward()
    assert X.grad is not None
    assert X.grad.isfinite().all()


def test_large_and_small_scales_change_nothing() -> None:
    X = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(polar(X * scale), polar(X))


def test_is_a_contraction_on_pairs() -> None:
    g = torch.Generator().manual_seed(2)
    W = polar(torch.randn(16, 40, generator=g))
    x, y = torch.randn(2, 500, 40, generator=g)
    W, x, y = W.double(), x.double(), y.double()
    assert (((x - y) @ W.mT).norm(dim=1) <= (x - y).norm(dim=1)).all()


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4), (2, 5, 2), (5, 1), (1, 5)])
def test_gradient(shape: tuple[int, ...]) -> None:
    X = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(polar, X)


def test_gradient_is_tangent_and_scales_inversely() -> None:
    g = torch.Generator().manual_seed(4)
    X, G = torch.randn(2, 9, 4, generator=g)

    def gradient(scale: float) -> Tensor:
        Z = (X * scale).requires_grad_()
        W = polar(Z)
        W.backward(G)
        assert Z.grad is not None
        # Along X itself the factor does not move.
        assert abs((Z.grad * X).sum()) < 1e-5 * Z.grad.norm()
        return Z.grad

    assert torch.allclose(gradient(4.0) * 4, gradient(1.0), rtol=1e-6, atol=1e-7)


def test_gradient_in_float32_agrees_with_float64() -> None:
    g = torch.Generator().manual_seed(5)
    X, G = torch.randn(2, 40, 12, generator=g)
    grads = []
    for dtype in (torch.float32, torch.float64):
        Z = X.to(dtype, copy=True).requires_grad_()
        polar(Z).backward(G.to(dtype))
        assert Z.grad is not None
        grads.append(Z.grad.double())
    assert (grads[0] - grads[1]).norm() < 1e-5 * grads[1].norm()


def test_a_broken_gradient_stays_visible() -> None:
    X = torch.randn(4, 3, requires_grad=True)
    for bad in (float("nan"), float("inf")):
        X.grad = None
        polar(X).backward(torch.eye(4, 3) * bad)
        assert X.grad is not None
        assert not X.grad.isfinite().all()
    X.grad = None
    polar(X).backward(torch.eye(4, 3) * 3e38)
    assert X.grad.isfinite().all()


def test_second_derivative_is_refused() -> None:
    X = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(polar(X)[0, 0], X, create_graph=True)
    with pytest.raises(RuntimeError, match="polar is differentiable once"):
        gradient.sum().backward()


def test_half_precision_is_computed_in_float32() -> None:
    X = torch.randn(10, 4, generator=torch.Generator().manual_seed(6))
    for dtype in (torch.float16, torch.bfloat16):
        Z = X.to(dtype).requires_grad_()
        W = polar(Z)
        assert W.dtype == dtype
        assert torch.equal(W, polar(X.to(dtype).float()).to(dtype))
        W[0, 0].backward()
        assert Z.grad is not None
        assert Z.grad.dtype == dtype


def test_autocast_does_not_reach_it() -> None:
    X = torch.randn(10, 4, generator=torch.Generator().manual_seed(7))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(polar(X), polar(X.clone()))
        assert_orthogonal(polar(X))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 3, 2), (2, 0, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    X = torch.zeros(shape, requires_grad=True)
    W = polar(X)
    assert W.shape == shape
    W.sum().backward()


@pytest.mark.parametrize(
    ("X", "words"), [(torch.eye(3).int(), "floating"), (torch.eye(3).cfloat(), "floating"), (torch.ones(3), r"\(3,\)")]
)
def test_refuses(X: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        polar(X)


def test_is_an_op() -> None:
    for X in (torch.randn(6, 4, requires_grad=True), torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)):
        torch.library.opcheck(module._polar, (X,))
    X = torch.randn(3, 5, 2)
    assert torch.equal(torch.vmap(polar)(X), polar(X))
    compiled = torch.compile(polar, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), polar(X))


@pytest.mark.parametrize("shape", [(128, 16), (48, 48), (3, 20, 8)])
def test_fixed_number_of_steps_for_other_devices(shape: tuple[int, ...]) -> None:
    X = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    W, S, _, _ = module._by_polynomials(X)
    assert_orthogonal(W)
    assert (W - truth(X)).abs().max() < 1e-4
    G = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    K = W.mT @ G - G.mT @ W
    Y, inverse = module._sylvester(S, K)
    assert (S @ Y + Y @ S - K).norm() < 1e-3 * K.norm()
    assert (S @ inverse - torch.eye(shape[-1])).norm() < 1e-2


@pytest.mark.parametrize("s", [torch.zeros(8), torch.logspace(0, -20, 8), torch.ones(8), torch.rand(8) * 2])
def test_fixed_number_of_steps_is_always_a_contraction(s: Tensor) -> None:
    W = module._by_polynomials(with_singular_values(s, 20).float())[0]
    assert torch.linalg.svdvals(W.double()).max() <= 1


def test_the_last_steps_make_a_contraction_of_a_sloppy_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    # Five quintics leave singular values in [0.87, 1.13]; only the cubic steps may promise what the test asks.
    monkeypatch.setattr(module, "_POLAR_EXPRESS", module._POLAR_EXPRESS[:5])
    s = torch.logspace(-3, 0, 30)
    W = module._by_polynomials(with_singular_values(s, 60).float())[0]
    assert torch.linalg.svdvals(W.double()).min() > 0.99
    assert torch.linalg.svdvals(W.double()).max() <= 1
