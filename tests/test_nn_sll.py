"""Residual layers: 1-Lipschitz for every raw weight and q, proved from the weights themselves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import SllConv2d, SllLinear, lipschitz_bound
from barrow.nn.contraction import absolute_gram
from barrow.nn.export import to_plain
from barrow.nn.sll import PlainSll

F64 = torch.float64
LAYERS = [
    lambda **o: SllLinear(4, 6, **o),
    lambda **o: SllConv2d(2, 3, 3, **o),
    lambda **o: SllConv2d(2, 3, (2, 1), **o),
]


def drawn(layer: nn.Module, seed: int) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        if seed % 2:
            layer.raw_weight.abs_()
        layer.log_q *= seed % 4
    return layer


def input_of(layer: nn.Module, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    shape = (3, 4) if isinstance(layer, SllLinear) else (3, 2, 4, 5)
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def jacobian_norm(layer: nn.Module, x: Tensor) -> float:
    J = torch.autograd.functional.jacobian(lambda z: layer(z[None])[0], x)
    return torch.linalg.matrix_norm(J.reshape(x.numel(), -1), 2).item()


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("seed", range(8))
def test_jacobians_are_contractions_and_the_bound_is_one(make, seed: int) -> None:
    layer = drawn(make(dtype=F64), seed)
    for x in input_of(layer, seed=seed):
        assert jacobian_norm(layer, x) <= 1 + 1e-14
    assert lipschitz_bound(layer) == 1


def test_linear_is_the_published_layer() -> None:
    layer = drawn(SllLinear(4, 6, dtype=F64), 3)
    W, q, x = layer.raw_weight.detach().T, layer.log_q.detach().exp(), torch.randn(5, 4, dtype=F64)
    T = ((W.T @ W).abs() * q / q[:, None]).sum(1)
    c = T.sqrt() * layer.bias.detach()
    known = x - 2 * (torch.relu(x @ W + c) / T) @ W.T
    assert torch.allclose(layer(x), known, rtol=1e-6)


def test_convolution_is_a_linear_layer_on_images() -> None:
    layer = drawn(SllConv2d(2, 3, 3, bias=False, dtype=F64), 3)
    n = 2 * 4 * 5
    A = nn.functional.conv2d(torch.eye(n, dtype=F64).reshape(n, 2, 4, 5), layer.weight.detach(), padding=1).flatten(1)
    x = torch.randn(1, 2, 4, 5, dtype=F64)
    known = x.flatten() - 2 * A @ torch.relu(x.flatten() @ A)
    assert torch.allclose(layer(x).flatten(), known)
    assert torch.linalg.matrix_norm(A, 2) <= 1
    T = (absolute_gram(layer.raw_weight.detach()) * layer.log_q.exp() / layer.log_q.exp()[:, None]).sum(1)
    assert torch.allclose(layer.weight, layer.raw_weight / T.sqrt()[:, None, None, None], rtol=1e-8)
    assert torch.allclose(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("make", LAYERS[:2])
def test_it_starts_as_a_reflection(make) -> None:
    layer = (SllLinear(4, 4) if make is LAYERS[0] else SllConv2d(2, 2, 3)).double()
    layer.bias.data.zero_()
    x = input_of(layer)
    assert torch.allclose(layer(x).norm(), x.norm(), rtol=1e-5)


class Longer(SllLinear):
    """A layer whose weight is no contraction, as an epsilon in the wrong place makes it."""

    factor = 1.0

    def derive(self) -> Tensor:
        return super().derive() * self.factor


@pytest.mark.parametrize("factor", [1.0, 1.000001, 1.01, 1.5, 3.0])
def test_an_excess_is_certified_and_attained(factor: float) -> None:
    layer = Longer(3, 3, bias=False, dtype=F64)
    layer.factor = factor
    s = torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
    bound = lipschitz_bound(layer)
    # Where all hidden units are active the Jacobian is I - 2 V' V, with norm 2 s^2 - 1.
    truth = max(1, 2 * s**2 - 1)
    assert truth <= bound <= truth * (1 + 1e-8)
    x = torch.linalg.solve(layer.weight.detach(), torch.ones(3, dtype=F64))
    assert math.isclose(jacobian_norm(layer, x), truth, rel_tol=1e-6)
    if factor == 1.0:
        assert bound == 1


def test_a_longer_convolution_is_certified() -> None:
    class LongerConv(SllConv2d):
        def derive(self) -> Tensor:
            return super().derive() * 1.5

    layer = drawn(LongerConv(2, 3, 3, dtype=F64), 1)
    bound = lipschitz_bound(layer)
    assert bound > 1
    assert max(jacobian_norm(layer, 9 * x) for x in input_of(layer).abs()) <= bound


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_rounded_weight_is_a_contraction(make, dtype: torch.dtype) -> None:
    for seed in range(6):
        layer = drawn(make(dtype=dtype), seed)
        assert layer.weight.dtype == dtype
        assert lipschitz_bound(layer) == 1
        W = layer.weight.detach().double()
        W = W[..., None, None] if W.ndim == 2 else W
        S = torch.fft.fft2(W, s=(32, 32)).permute(2, 3, 0, 1)
        assert torch.linalg.matrix_norm(S, 2).max() <= 1


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("raw", [0.0, math.nan, math.inf, 3e38, 1e-45])
@pytest.mark.parametrize("name", ["raw_weight", "log_q"])
def test_any_parameter_is_survived(make, raw: float, name: str) -> None:
    layer = make()
    with torch.no_grad():
        getattr(layer, name).fill_(raw)
        layer.log_q[0] = -math.inf if raw == math.inf else layer.log_q[0]
    y = layer(input_of(layer, torch.float32))
    assert y.isfinite().all()
    y.sum().backward()
    for p in layer.parameters():
        assert p.grad.isfinite().all()
    if math.isfinite(raw):
        assert lipschitz_bound(layer) == 1
    else:
        with pytest.raises(ValueError, match=r"^layer '0' \(Sll.*\) has no .*not finite"):
            lipschitz_bound(nn.Sequential(layer))


def test_a_row_of_zeros_needs_no_epsilon() -> None:
    layer = SllLinear(3, 3, dtype=F64)
    with torch.no_grad():
        layer.raw_weight[1] = 0
    assert layer.weight[1].abs().max() == 0
    assert lipschitz_bound(layer) == 1
    layer(torch.randn(4, 3, dtype=F64)).square().sum().backward()
    assert layer.raw_weight.grad.isfinite().all()


@pytest.mark.parametrize("make", LAYERS)
def test_gradients(make) -> None:
    layer = drawn(make(dtype=F64), 3)
    names = [name for name, _ in layer.named_parameters()]

    def f(x: Tensor, *tensors: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    tensors = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(f, (input_of(layer)[:1].requires_grad_(), *tensors))


@pytest.mark.parametrize("make", LAYERS)
def test_training_copies_and_repr(make) -> None:
    torch.manual_seed(0)
    layer = make()
    x = input_of(layer, torch.float32)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.3)
    for _ in range(5):
        optimiser.zero_grad()
        (layer(x) - x.flip(0)).square().sum().backward()
        optimiser.step()
        assert lipschitz_bound(layer) == 1
    assert layer.log_q.abs().max() > 0
    other = make()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert set(layer.state_dict()) == {"raw_weight", "log_q", "bias"}
    assert make(device="meta")(x.to("meta")).shape == x.shape
    assert "bias=False" in repr(make(bias=False))


@pytest.mark.parametrize("make", LAYERS)
def test_plain_copies_are_bit_equal_and_certified_by_their_own_weight(make) -> None:
    for layer in (drawn(make(dtype=F64), 1), make(bias=False).double()):
        plain = to_plain(layer)
        x = input_of(layer)
        assert type(plain) is PlainSll
        assert torch.equal(plain(x), layer(x))
        assert plain.weight.requires_grad
        s = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        assert lipschitz_bound(plain) <= max(1, 2 * plain.weight[0, 0].numel() * s**2 - 1) * (1 + 1e-6)
        plain.weight.data *= 2
        assert lipschitz_bound(plain) > 1
        plain.weight.data[0] = math.nan
        with pytest.raises(ValueError, match="not finite"):
            lipschitz_bound(plain)


@pytest.mark.parametrize("make", LAYERS)
def test_compiles(make) -> None:
    layer = make()
    x = input_of(layer, torch.float32)
    torch.compiler.reset()
    assert torch.allclose(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x), atol=1e-6)


def test_deep_networks_stay_at_one() -> None:
    model = nn.Sequential(*[drawn(SllLinear(4, 9, dtype=F64), seed) for seed in range(30)])
    assert lipschitz_bound(model) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SllLinear(0, 2), "features must be a positive integer, got 0"),
        (lambda: SllLinear(2, 1.5), "hidden must be a positive integer, got 1.5"),
        (lambda: SllConv2d(-1, 2, 3), "channels must be a positive integer, got -1"),
        (lambda: SllConv2d(2, 2, 0), "kernel_size must be an integer of at least 1 or 2 of them, got 0"),
        (lambda: SllConv2d(2, 2, 3)(torch.zeros(2, 2)), r"images \(N, channels, H, W\) are needed, got shape \(2, 2\)"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
