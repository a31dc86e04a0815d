"""Orthogonal convolutions against the dense matrices of the operators that they are."""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import lipschitz_bound
from barrow.nn.convolution_bound import convolution_norm
from barrow.nn.orthogonal_convolution import OrthogonalConv1d, OrthogonalConv2d
from barrow.nn.orthogonal_transposed import OrthogonalConvTranspose1d, OrthogonalConvTranspose2d

F64 = torch.float64
FORWARD = {1: OrthogonalConv1d, 2: OrthogonalConv2d}
PLAIN: dict[type[nn.Module], Any] = {
    OrthogonalConv1d: nn.Conv1d,
    OrthogonalConv2d: nn.Conv2d,
    OrthogonalConvTranspose1d: nn.ConvTranspose1d,
    OrthogonalConvTranspose2d: nn.ConvTranspose2d,
}
KINDS: list[Any] = list(PLAIN)


def matrix(function: Callable[[Tensor], Tensor], channels: int, size: tuple[int, ...]) -> Tensor:
    """The matrix (inputs, outputs) of a linear function of images."""
    n = channels * math.prod(size)
    with torch.no_grad():
        return function(torch.eye(n, dtype=F64).reshape(n, channels, *size)).flatten(1)


def circular(
    weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int, size: tuple[int, ...]
) -> Tensor:
    """The matrix of the periodic convolution on inputs of one size, a multiple of the stride."""
    axes = weight.ndim - 2
    convolve = nn.functional.conv1d if axes == 1 else nn.functional.conv2d

    def function(x: Tensor) -> Tensor:
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        for axis, r in enumerate(reach):
            # By index, because torch pads by no more than one period.
            x = x.index_select(2 + axis, torch.arange(size[axis] + r) % size[axis])
        return convolve(x, weight.detach().double(), None, stride, 0, dilation, groups)

    return matrix(function, weight.shape[1] * groups, size)


def check_spectrum(M: Tensor, ones: int, tol: float) -> None:
    """As many singular values as asked for are 1, none is larger, the rest are 0."""
    s = torch.linalg.svdvals(M)
    assert s[0] <= 1 + min(tol, 1e-12)
    assert (s[:ones] - 1).abs().max() < tol
    assert s[ones:].numel() == 0 or s[ones:].max() < 1e-12


def drawn(axes: int, seed: int, top: int = 4) -> tuple[Any, ...]:
    rng = random.Random(100 * axes + seed)
    groups = rng.choice([1, 1, 2, 3])
    a, b = rng.randint(1, top), rng.randint(1, 2 * top)
    k, s, d = (tuple(rng.randint(1, most) for _ in range(axes)) for most in (5, 3, 3))
    return groups * a, groups * b, k, s, d, groups


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("axes", [1, 2])
def test_singular_values_of_the_periodic_operator(axes: int, dtype: torch.dtype) -> None:
    kinds = set()
    for seed in range(60):
        torch.manual_seed(seed)
        c_in, c_out, k, s, d, groups = drawn(axes, seed, 4 if axes == 1 else 2)
        layer = FORWARD[axes](c_in, c_out, k, s, 0, d, groups, bias=False, dtype=dtype)
        assert layer.weight.shape == (c_out, c_in // groups, *k)
        assert layer.weight.dtype == dtype
        size = tuple(n * (6 if axes == 1 else 2) for n in s)
        seen = math.prod(min(n, b // math.gcd(b, e)) for n, b, e in zip(k, s, d, strict=True))
        outputs = math.prod(n // b for n, b in zip(size, s, strict=True))
        ones = outputs * groups * min(c_out // groups, c_in // groups * seen)
        check_spectrum(circular(layer.weight, s, d, groups, size), ones, 1e-5 if dtype == torch.float32 else 1e-11)
        wide = c_out // groups <= c_in // groups * seen
        kinds.add((wide, seen == math.prod(s)))
    assert len(kinds) == 4


def test_the_check_can_fail() -> None:
    plain = nn.Conv2d(3, 3, 3, bias=False)
    nn.init.orthogonal_(plain.weight)
    with pytest.raises(AssertionError):
        check_spectrum(circular(plain.weight, (1, 1), (1, 1), 1, (4, 4)), 48, 1e-5)
    scaled = OrthogonalConv2d(3, 3, 3).weight * (1 + 1e-5)
    with pytest.raises(AssertionError):
        check_spectrum(circular(scaled, (1, 1), (1, 1), 1, (4, 4)), 48, 1e-4)


@pytest.mark.parametrize("axes", [1, 2])
def test_forward_is_torch_s(axes: int) -> None:
    torch.manual_seed(0)
    shape = (2, 4, *(9, 11)[:axes])
    for extra in (
        {"padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": "valid", "padding_mode": "circular"},
        {"stride": (3, 1)[:axes], "padding": 2, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "replicate", "groups": 2},
        {"padding": (2, 1)[:axes], "padding_mode": "reflect", "bias": False, "kernel_size": (2, 5)[:axes]},
    ):
        arguments: dict[str, Any] = {"kernel_size": 3} | extra
        layer = FORWARD[axes](4, 6, **arguments)
        plain = layer.to_conv()
        assert type(plain) is PLAIN[type(layer)]
        x = torch.randn(shape)
        assert torch.equal(layer(x), plain(x))
        assert torch.equal(layer(x[0]), plain(x[0]))
        fresh = type(plain)(4, 6, **arguments)
        assert repr(layer) == "Orthogonal" + repr(fresh)
        assert fresh.load_state_dict(plain.state_dict())
        assert torch.equal(layer(x), fresh(x))


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_same_padding_with_an_even_kernel_preserves_norms_on_the_circle() -> None:
    layer = OrthogonalConv2d(3, 3, 4, padding="same", padding_mode="circular", bias=False, dtype=F64)
    check_spectrum(matrix(layer, 3, (6, 5)), 90, 1e-11)


@pytest.mark.parametrize("axes", [1, 2])
def test_bound_of_circular_padding(axes: int) -> None:
    ones = 0
    for seed in range(60):
        torch.manual_seed(seed)
        c_in, c_out, k, s, d, groups = drawn(axes, seed, 2)
        rng = random.Random(seed)
        padding = tuple(rng.randint(0, 4) for _ in range(axes))
        layer = FORWARD[axes](c_in, c_out, k, s, padding, d, groups, bias=False, padding_mode="circular", dtype=F64)
        bound = lipschitz_bound(layer)
        matching = all(2 * p <= e * (n - 1) for n, e, p in zip(k, d, padding, strict=True))
        assert not matching or bound <= 1 + 1e-8
        ones += matching and any(padding) and max(s) > 1
        for n in (1, 2, 3) if axes == 1 else (1, 2):
            size = tuple(n * b for b in s)
            try:
                truth = torch.linalg.matrix_norm(matrix(layer, c_in, size), 2).item()
            except RuntimeError:
                continue  # torch refuses this size: smaller than the kernel or than the padding
            assert truth <= bound * (1 + 1e-13)
    assert ones > 3


def test_circles_that_the_stride_does_not_divide_are_refused() -> None:
    layer = OrthogonalConv2d(2, 2, 3, (1, 2), 1, padding_mode="circular", bias=False, dtype=F64)
    layer(torch.ones(1, 2, 5, 6, dtype=F64))
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 6, 5\), but stride 2 does not divide 5"):
        layer(torch.ones(1, 2, 6, 5, dtype=F64))
    # With reason: the windows that meet are not orthogonal.
    assert torch.linalg.matrix_norm(matrix(layer.to_conv(), 2, (4, 5)), 2) > 1.01
    OrthogonalConv2d(2, 2, 3, 2, (0, 1), padding_mode="circular", bias=False)(torch.ones(1, 2, 5, 6))


@pytest.mark.parametrize("axes", [1, 2])
def test_padding_by_zeros_is_a_contraction(axes: int) -> None:
    for seed in range(25):
        torch.manual_seed(seed)
        c_in, c_out, k, s, d, groups = drawn(axes, seed, 2)
        padding = tuple(e * (n - 1) // 2 for n, e in zip(k, d, strict=True))
        layer = FORWARD[axes](c_in, c_out, k, s, padding, d, groups, bias=False)
        bound = lipschitz_bound(layer)
        assert 1 - 2e-6 < bound <= 1
        size = tuple(e * (n - 1) + 2 for n, e in zip(k, d, strict=True)) if axes == 1 else (6, 5)
        try:
            norm = torch.linalg.matrix_norm(matrix(copy.deepcopy(layer).double(), c_in, size), 2).item()
        except RuntimeError:
            continue  # torch refuses this size
        assert norm <= 1 + 1e-12
        # The kernel rounded to float32 is one too.
        plain = layer.to_conv().double()
        assert torch.linalg.matrix_norm(matrix(plain, c_in, size), 2) <= bound * (1 + 1e-13)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(("c", "k", "s"), [(3, 3, 1), (16, 5, 1), (64, 3, 1), (48, 3, 2), (8, 2, 2), (7, 4, 3)])
def test_bound_is_at_most_one(mode: str, c: int, k: int, s: int) -> None:
    torch.manual_seed(c)
    layer = OrthogonalConv2d(c, c, k, s, padding=(k - 1) // 2, padding_mode=mode)
    assert 1 - 2e-6 < lipschitz_bound(layer) <= 1
    double = OrthogonalConv2d(c, c, k, s, padding=(k - 1) // 2, padding_mode=mode, dtype=F64)
    assert abs(lipschitz_bound(double) - 1) < 1e-8


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_bound_counts_repeated_pixels(mode: str) -> None:
    layer = OrthogonalConv1d(2, 2, 3, padding=1, padding_mode=mode, bias=False, dtype=F64)
    truth = max(torch.linalg.matrix_norm(matrix(layer, 2, (n,)), 2).item() for n in (2, 3, 5))
    assert truth > 1
    assert truth <= lipschitz_bound(layer) <= 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    layer = OrthogonalConv2d(8, 8, 3, padding=1, dtype=dtype)
    assert layer.weight.dtype == dtype
    bound = lipschitz_bound(layer)
    assert abs(bound - 1) < 3e-2
    s = torch.linalg.svdvals(circular(layer.weight, (1, 1), (1, 1), 1, (4, 4)))
    assert s[0] <= bound
    assert (s - 1).abs().max() < 1e-2
    layer(torch.randn(1, 8, 5, 5, dtype=dtype)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


SMALL: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (OrthogonalConv1d, (2, 3, 3), {"padding": 1}),
    (OrthogonalConv1d, (3, 4, 4), {"stride": 2}),
    (OrthogonalConv2d, (3, 2, 2), {"padding": "same"}),
    (OrthogonalConv2d, (4, 6, 3), {"stride": 2, "groups": 2}),
    (OrthogonalConv2d, (2, 9, (2, 3)), {"stride": 2, "padding": (0, 1), "padding_mode": "circular"}),
    (OrthogonalConvTranspose1d, (3, 2, 3), {"stride": 2}),
    (OrthogonalConvTranspose2d, (4, 4, 3), {"stride": 2, "groups": 2}),
]


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize(("kind", "sizes", "extra"), SMALL)
def test_gradients(kind: Any, sizes: tuple[Any, ...], extra: dict[str, Any]) -> None:
    torch.manual_seed(3)
    layer = kind(*sizes, dtype=F64, **extra)
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["raw_matrix", "raw_projectors", "bias"]
    x = torch.randn(1, sizes[0], *(5, 4)[: layer.weight.ndim - 2], dtype=F64, requires_grad=True)

    def apply(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(apply, (x, *layer.parameters()))
    layer(x).pow(3).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(0, -3) if parameter.ndim > 2 else parameter.grad[None]
        assert (rows.flatten(1).norm(dim=1) > 1e-6).all(), name


@pytest.mark.parametrize("lr", [1.0, 1e3, 1e6, 1e30])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_any_learning_rate_leaves_it_orthogonal(lr: float, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    layer = OrthogonalConv2d(4, 6, 3, 2, 1)
    opt = optimizer(layer.parameters(), lr=lr)
    for _ in range(4):
        opt.zero_grad()
        nn.functional.conv2d(torch.randn(3, 4, 6, 6), layer.weight, None, 2, 1).pow(4).sum().backward()
        opt.step()
        check_spectrum(circular(layer.weight, (2, 2), (1, 1), 1, (6, 6)), 6 * 9, 1e-5)


def test_it_learns_an_orthogonal_convolution() -> None:
    torch.manual_seed(0)
    layer = OrthogonalConv1d(4, 4, 3, padding=1, padding_mode="circular", bias=False)
    goal = copy.deepcopy(layer)  # the same connected component
    with torch.no_grad():
        for raw in goal.parameters():
            raw.add_(0.3 * torch.randn(raw.shape))
    x = torch.randn(32, 4, 12)
    y = goal(x).detach()
    opt = torch.optim.Adam(layer.parameters(), lr=0.03)
    losses = []
    for _ in range(200):
        opt.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert lipschitz_bound(layer) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_state(kind: Any) -> None:
    layer = kind(4, 6, 3, stride=2)
    state = layer.state_dict()
    assert list(state) == ["raw_matrix", "raw_projectors", "bias"]
    x = torch.randn(1, 4, *(9, 8)[: layer.weight.ndim - 2])
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.raw_matrix.neg_()
    assert not torch.equal(twin(x), layer(x))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), layer(x))
    fresh = kind(4, 6, 3, stride=2)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x), layer(x))
    before = layer.weight.detach().clone()
    torch.manual_seed(1)
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)
    torch.manual_seed(1)
    fresh.reset_parameters()
    assert torch.equal(layer.weight, fresh.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_meta(kind: Any) -> None:
    layer = kind(4, 6, 3, stride=2, device="meta", dtype=torch.bfloat16)
    assert layer.weight.is_meta
    assert layer.weight.shape == PLAIN[kind](4, 6, 3).weight.shape
    assert layer.weight.dtype == torch.bfloat16
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert abs(lipschitz_bound(layer) - 1) < 3e-2


@pytest.mark.parametrize("kind", KINDS)
def test_start(kind: Any) -> None:
    torch.manual_seed(0)
    layer = kind(8, 32, 3)
    for raw in (layer.raw_matrix, layer.raw_projectors):
        assert (torch.linalg.svdvals(raw) - 1).abs().max() < 1e-5
        # No preferred sign: the mean of m n entries of size 1 / sqrt(m) has standard deviation 1 / (m sqrt(n)).
        assert abs(raw[0].mean()) < 5 / (raw.shape[-2] * raw.shape[-1] ** 0.5)
    bound = 1 / math.sqrt(math.prod(layer.to_conv().weight.shape[1:]))
    assert bound / 2 < layer.bias.abs().max() <= bound
    # The energy of the kernel is centred.
    energy = layer.weight.square().sum((0, 1))
    assert energy.flatten()[energy.numel() // 2] == energy.max()
    state = torch.get_rng_state()
    layer.to_conv()
    assert torch.equal(state, torch.get_rng_state())


def test_no_projectors_where_there_is_nothing_to_project() -> None:
    for layer in (OrthogonalConv2d(4, 4, 1), OrthogonalConv2d(4, 4, 2, 2), OrthogonalConv2d(4, 4, 3, groups=4)):
        assert list(layer.state_dict()) == ["raw_matrix", "bias"]
        assert lipschitz_bound(layer) <= 1
    depthwise = OrthogonalConv2d(4, 4, 3, padding=1, groups=4, bias=False)
    x = torch.randn(2, 4, 5, 5)
    assert torch.allclose(depthwise(x).abs(), x.abs(), atol=1e-5)


def test_bound_refuses_a_diverged_layer() -> None:
    layer = OrthogonalConv2d(2, 2, 3)
    assert layer.raw_projectors is not None
    with torch.no_grad():
        layer.raw_projectors[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"layer '0' \(OrthogonalConv2d\) .*not finite; it has diverged"):
        lipschitz_bound(nn.Sequential(layer))


def test_residual_of_a_wide_kernel_needs_no_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barrow.nn.convolution_bound._raise_above", None)
    layer = OrthogonalConv2d(6, 9, 5, 2)
    assert lipschitz_bound(layer) <= 1
    assert math.isclose(convolution_norm(3 * layer.weight, 2), 3, rel_tol=1e-5)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
    ({"out_channels": 2.0}, "out_channels must be a positive integer, got 2.0"),
    ({"groups": 3}, "groups = 3 does not divide in_channels = 4"),
    ({"groups": 4}, "groups = 4 does not divide out_channels = 6"),
    ({"kernel_size": 0}, "kernel_size must be .*at least 1.*, got 0"),
    ({"kernel_size": (3, 3, 3)}, r"kernel_size must be .*got \(3, 3, 3\)"),
    ({"stride": "2"}, "stride must be .*got '2'"),
    ({"dilation": 1.5}, "dilation must be .*got 1.5"),
    ({"padding": -1}, "padding must be .*at least 0.*, got -1"),
    ({"padding_mode": "mirror"}, "padding_mode .*got 'mirror'"),
]


@pytest.mark.parametrize(("bad", "sentence"), BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments(kind: Any, bad: dict[str, Any], sentence: str) -> None:
    good = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    kind(**good)
    with pytest.raises(ValueError, match=sentence):
        kind(**(good | bad))


def test_more_bad_arguments() -> None:
    with pytest.raises(ValueError, match="'same' or 'valid', got 'full'"):
        OrthogonalConv1d(2, 2, 3, padding="full")
    with pytest.raises(ValueError, match="padding='same' needs stride 1, got stride 2"):
        OrthogonalConv2d(2, 2, 3, 2, "same")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [(), (4,), (2, 3, 9, 9), (1, 2, 4, 9, 9)])
def test_bad_input(kind: Any, given: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x has shape .* but \(batch, 4, "):
        kind(4, 6, 3)(torch.ones(given))
