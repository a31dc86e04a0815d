"""Unit filters: each output alone is 1-Lipschitz, for every padding mode and stride, on images of every size."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import UnitConv1d, UnitConv2d, lipschitz_bound
from barrow.nn.convolution_bound import convolution_norm
from barrow.nn.export import to_plain

MODES = ["zeros", "circular", "reflect", "replicate"]


def matrix(layer: nn.Module, channels: int, size: tuple[int, ...]) -> Tensor:
    """The layer's matrix (outputs, pixels, inputs) on inputs of one size, found by applying it to the identity."""
    n = channels * math.prod(size)
    with torch.no_grad():
        columns = layer(torch.eye(n, dtype=torch.float64).reshape(n, channels, *size))
    return columns.flatten(2).permute(1, 2, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [1, 2])
def test_each_output_alone_is_a_contraction(axes: int, mode: str) -> None:
    rng = random.Random(axes)
    tried, largest = 0, 0.0
    for seed in range(80):
        torch.manual_seed(seed)
        groups = rng.choice([1, 1, 2])
        k, s, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (4, 3, 2))
        padding = tuple(rng.randint(0, 3) for _ in range(axes))
        size = tuple(rng.randint(1, 7 if axes == 1 else 5) for _ in range(axes))
        kind = UnitConv1d if axes == 1 else UnitConv2d
        layer = kind(2 * groups, 3 * groups, k, s, padding, d, groups, False, mode, dtype=torch.float64)
        if seed % 2:
            layer.raw_weight.data.abs_()
        size = tuple(max(n, least) for n, least in zip(size, layer.least, strict=True))
        if math.prod(size) > 150:
            continue
        try:
            M = matrix(layer, 2 * groups, size)
        except (RuntimeError, ValueError):
            continue  # this size is smaller than the kernel or than the padding
        tried += 1
        each = torch.linalg.matrix_norm(M, 2).max().item()
        largest = max(largest, each)
        assert each <= 1, (layer, size)
        assert torch.linalg.matrix_norm(M.flatten(0, 1), 2).item() <= lipschitz_bound(layer)
    assert tried > 15
    assert largest > 0.98


def test_what_the_filters_are() -> None:
    layer = UnitConv2d(2, 3, 3, padding=1, dtype=torch.float64)
    expected = layer.raw_weight / layer.raw_weight.flatten(1).norm(dim=1)[:, None, None, None] / 3
    assert torch.allclose(layer.weight, expected, rtol=1e-7)
    one = UnitConv2d(2, 1, 3, padding=1)
    assert lipschitz_bound(one) <= 1
    assert lipschitz_bound(UnitConv1d(2, 5, 3)) <= math.sqrt(5)
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    assert layer.bias is not None
    assert torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
    assert layer(x[0]).shape == (3, 7, 7)


def test_the_bound_is_tight() -> None:
    # One output of constant sign: all windows agree on the constant image.
    layer = UnitConv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    layer.raw_weight.data.fill_(0.3)
    truth = torch.linalg.matrix_norm(matrix(layer, 1, (6, 6))[0], 2).item()
    assert truth <= lipschitz_bound(layer) <= truth * (1 + 1e-8)
    # Several: the norm on the infinite grid is below sqrt(c_out).
    several = UnitConv2d(2, 6, 3, padding=1)
    assert lipschitz_bound(several) == convolution_norm(several.weight) < math.sqrt(6)


@pytest.mark.parametrize("raw", [0.0, math.nan, math.inf, 3e38, 1e-45])
def test_any_raw_weight_is_survived(raw: float) -> None:
    layer = UnitConv1d(2, 3, 3)
    with torch.no_grad():
        layer.raw_weight.fill_(raw)
    norms = layer.weight.detach().flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.full((3,), 3**-0.5), rtol=1e-5)
    layer(torch.ones(1, 2, 5)).sum().backward()
    assert layer.raw_weight.grad is not None
    assert layer.raw_weight.grad.isfinite().all()
    if not math.isfinite(raw):
        with pytest.raises(ValueError, match=r"^layer '0' \(UnitConv1d\) has no .*raw weight is not finite"):
            lipschitz_bound(nn.Sequential(layer))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    layer = UnitConv2d(3, 1, 3, padding=1, dtype=dtype)
    assert layer.weight.dtype == dtype
    assert lipschitz_bound(layer) <= 1


def test_gradient() -> None:
    layer = UnitConv2d(2, 3, 2, stride=2).double()

    def f(raw: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"raw_weight": raw}, (x,))

    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, (layer.raw_weight.detach().requires_grad_(), x))


@pytest.mark.parametrize("mode", MODES)
def test_export_is_bit_equal(mode: str) -> None:
    for layer in (
        UnitConv2d(4, 6, 3, (2, 1), (1, 2), 2, 2, padding_mode=mode),
        UnitConv2d(4, 6, 3, padding="same", bias=False, padding_mode=mode),
    ):
        plain = layer.to_conv()
        x = torch.randn(2, 4, 9, 9)
        assert type(plain) is nn.Conv2d
        assert torch.equal(plain(x), layer(x))
        assert torch.equal(to_plain(layer)(x), layer(x))
        assert lipschitz_bound(plain) >= lipschitz_bound(layer)
    assert type(UnitConv1d(1, 1, 3).to_conv()) is nn.Conv1d


def test_nothing_is_stale_and_copies_are_free() -> None:
    layer = UnitConv1d(2, 3, 3).eval()
    x = torch.randn(1, 2, 8)
    before = layer(x)
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.5).step()
    fresh = UnitConv1d(2, 3, 3)
    fresh.load_state_dict(layer.state_dict())
    other = copy.deepcopy(layer)
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(other(x), layer(x))
    assert not torch.equal(before, layer(x))
    assert set(layer.state_dict()) == {"raw_weight", "bias"}
    assert "2, 3, kernel_size=(3,), stride=(1,)" in repr(layer)
    assert UnitConv2d(2, 2, 2, device="meta")(torch.zeros(1, 2, 3, 3, device="meta")).shape == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 2, 3), "in_channels must be a positive integer, got 0"),
        ((2, 2.5, 3), "out_channels must be a positive integer, got 2.5"),
        ((2, 2, 0), "kernel_size must be an integer of at least 1 or 2 of them, got 0"),
        ((2, 2, (3, 3, 3)), "kernel_size must be an integer of at least 1 or 2 of them"),
        ((2, 2, "3"), "kernel_size must be"),
        ((2, 2, 3, 0), "stride must be"),
        ((2, 2, 3, 1, -1), "padding must be an integer of at least 0"),
        ((2, 2, 3, 1, "full"), "padding must be 'same', 'valid' or integers, got 'full'"),
        ((2, 2, 3, 2, "same"), "padding='same' needs stride 1"),
        ((2, 2, 3, 1, 0, 0), "dilation must be"),
        ((3, 2, 3, 1, 0, 1, 2), "groups = 2 does not divide in_channels = 3"),
        ((2, 3, 3, 1, 0, 1, 2), "groups = 2 does not divide out_channels = 3"),
        ((2, 2, 3, 1, 0, 1, 1, True, "symmetric"), "padding_mode 'symmetric' is not one of zeros, circular"),
    ],
)
def test_refusals(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UnitConv2d(*arguments)  # type: ignore[arg-type]


def test_inputs_of_the_wrong_number_of_axes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"UnitConv2d needs an input of 3 or 4 axes .*got shape \(2, 8\)"):
        UnitConv2d(2, 2, 3)(torch.zeros(2, 8))


def test_compiles() -> None:
    layer = UnitConv2d(2, 3, 3, padding=1, padding_mode="reflect")
    x = torch.randn(1, 2, 6, 6)
    torch.compiler.reset()
    assert torch.allclose(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x), atol=1e-6)
