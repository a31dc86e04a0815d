"""Orthogonal and unit-row layers: what the weight is, and that nothing about it can be stale."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from barrow.nn import OrthogonalLinear, UnitLinear, lipschitz_bound

LAYERS = [OrthogonalLinear, UnitLinear]


def is_right(layer: nn.Module) -> bool:
    W = layer.weight.detach().double()
    if isinstance(layer, OrthogonalLinear):
        return bool((torch.linalg.svdvals(W) - 1).abs().max() < 1e-5)
    return bool((W.norm(dim=1) - 1).abs().max() < 1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("n", "m"), [(8, 3), (3, 8), (5, 5), (4, 1), (1, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer(kind: Callable[..., OrthogonalLinear], n: int, m: int, bias: bool) -> None:
    layer = kind(n, m, bias=bias)
    assert is_right(layer)
    assert layer.weight.shape == (m, n)
    x = torch.randn(2, 7, n)
    expected = x @ layer.weight.T + (layer.bias if layer.bias is not None else 0)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert (layer.bias is not None) == bias
    assert f"in_features={n}, out_features={m}, bias={bias}" in repr(layer)


def test_the_check_can_fail() -> None:
    assert not is_right(nn.Linear(8, 3))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("lr", [1e-2, 1.0, 1e3, 1e6, 1e30])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_any_learning_rate_leaves_a_right_weight(
    kind: Callable[..., OrthogonalLinear], lr: float, optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    layer = kind(6, 4)
    opt = optimizer(layer.parameters(), lr=lr)
    for _ in range(5):
        opt.zero_grad()
        layer(torch.randn(3, 6)).square().sum().backward()
        opt.step()
        assert is_right(layer)


@pytest.mark.parametrize("kind", LAYERS)
def test_weight_decay_changes_no_weight(kind: Callable[..., OrthogonalLinear]) -> None:
    layer = kind(6, 4)
    start = layer.weight.detach().clone()
    opt = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(200):
        opt.zero_grad()
        (layer(torch.ones(1, 6)) * 0).sum().backward()
        opt.step()
    assert is_right(layer)
    assert torch.allclose(layer.weight, start, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("raw", [0.0, float("nan"), float("inf"), 3e38, 1e-45])
def test_any_raw_weight_is_survived(kind: Callable[..., OrthogonalLinear], raw: float) -> None:
    layer = kind(6, 4)
    with torch.no_grad():
        layer.raw_weight.fill_(raw)
    assert is_right(layer)
    layer(torch.ones(2, 6)).sum().backward()
    assert layer.raw_weight.grad is not None
    assert layer.raw_weight.grad.isfinite().all()


def test_a_zero_row_can_leave_zero() -> None:
    layer = UnitLinear(3, 2)
    with torch.no_grad():
        layer.raw_weight[0] = 0
    layer(torch.ones(1, 3))[0, 0].backward()
    assert layer.raw_weight.grad is not None
    assert layer.raw_weight.grad[0].abs().max() > 0


@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_is_stale(kind: Callable[..., OrthogonalLinear]) -> None:
    torch.manual_seed(1)
    layer = kind(6, 4)
    x = torch.randn(3, 6)

    def agrees() -> bool:
        fresh = kind(6, 4)
        fresh.load_state_dict(layer.state_dict())
        return torch.equal(layer(x), fresh(x))

    layer.eval()
    before = layer(x)
    opt = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(x).square().sum().backward()
    opt.step()
    assert agrees()
    assert not torch.equal(layer(x), before)
    with torch.no_grad():
        before = layer(x)
        layer.raw_weight.data.add_(torch.randn(4, 6))
        assert agrees()
        assert not torch.equal(layer(x), before)
        layer.raw_weight.data = torch.randn(4, 6)
        assert agrees()


@pytest.mark.parametrize("kind", LAYERS)
def test_copies(kind: Callable[..., OrthogonalLinear]) -> None:
    layer = kind(6, 4)
    x = torch.randn(3, 6)
    layer(x).sum().backward()
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    loaded = kind(6, 4)
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    assert set(layer.state_dict()) == {"raw_weight", "bias"}
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(other(x), layer(x))
        with torch.no_grad():
            other.raw_weight[0, 0] += 1
        assert not torch.equal(other(x), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_export_is_bit_equal(kind: Callable[..., OrthogonalLinear]) -> None:
    for bias in (True, False):
        layer = kind(6, 4, bias=bias)
        plain = layer.to_linear()
        x = torch.randn(5, 6)
        assert type(plain) is nn.Linear
        assert torch.equal(plain(x), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(kind: Callable[..., OrthogonalLinear], dtype: torch.dtype) -> None:
    layer = kind(6, 4, dtype=dtype)
    assert layer.weight.dtype == dtype
    assert layer(torch.zeros(1, 6, dtype=dtype)).dtype == dtype
    moved = kind(6, 4).to(dtype)
    deviation = (torch.linalg.svdvals(moved.weight.detach().double()) - 1).abs().max()
    if dtype == torch.float64 and kind is OrthogonalLinear:
        assert deviation < 1e-12
    assert lipschitz_bound(moved) >= torch.linalg.matrix_norm(moved.weight.detach().double(), 2)


def test_meta_device() -> None:
    layer = OrthogonalLinear(6, 4, device="meta")
    assert layer(torch.zeros(2, 6, device="meta")).shape == (2, 4)


def test_gradient_of_a_layer() -> None:
    layer = OrthogonalLinear(5, 3).double()

    def f(raw: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"raw_weight": raw}, (x,))

    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, (layer.raw_weight.detach().requires_grad_(), x))


def test_gradient_penalty_needs_only_one_derivative() -> None:
    layer = OrthogonalLinear(5, 3)
    x = torch.randn(2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert layer.raw_weight.grad is not None
    assert layer.raw_weight.grad.isfinite().all()


def test_sizes() -> None:
    assert OrthogonalLinear(np.prod((2, 3)), np.int64(4)).weight.shape == (4, 6)
    for bad in (0, -1, 2.5, "3", None):
        with pytest.raises(ValueError, match="in_features must be a positive integer"):
            OrthogonalLinear(bad, 3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="out_features must be a positive integer"):
            UnitLinear(3, bad)  # type: ignore[arg-type]


def test_weight_cannot_be_overwritten() -> None:
    layer = OrthogonalLinear(3, 3)
    with pytest.raises((AttributeError, KeyError)):
        layer.weight = nn.Parameter(torch.eye(3))  # type: ignore[misc]


def test_start_is_reproducible_and_is_its_own_polar_factor() -> None:
    torch.manual_seed(3)
    a = OrthogonalLinear(6, 4)
    torch.manual_seed(3)
    b = OrthogonalLinear(6, 4)
    assert torch.equal(a.weight, b.weight)
    assert torch.allclose(a.weight, a.raw_weight, atol=1e-6)
    assert math.isclose(a.weight.norm().item(), 2, rel_tol=1e-6)
