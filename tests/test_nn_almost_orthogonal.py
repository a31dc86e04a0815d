"""Almost-orthogonal layers: contractions for every raw weight, stride, dilation, group and dtype, and certified so."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import AolConv1d, AolConv2d, AolLinear, lipschitz_bound
from barrow.nn.convolution_bound import convolution_norm
from barrow.nn.export import to_plain

F64 = torch.float64
LAYERS = [lambda **o: AolLinear(6, 4, **o), lambda **o: AolConv1d(6, 4, 3, **o), lambda **o: AolConv2d(6, 4, 3, **o)]


def true_norm(layer: nn.Module, channels: int, size: tuple[int, ...]) -> float:
    """The norm of the layer's matrix on inputs of one size, found by applying it to the identity."""
    assert getattr(layer, "bias", None) is None
    n = channels * math.prod(size)
    with torch.no_grad():
        matrix = layer(torch.eye(n, dtype=F64).reshape(n, channels, *size)).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


def drawn(layer: nn.Module, seed: int) -> nn.Module:
    """Raw weights without signs (tight theorem), random, or of alternating signs, with columns of many sizes."""
    g = torch.Generator().manual_seed(seed)
    raw = layer.raw_weight.data
    raw.copy_(torch.rand(raw.shape, generator=g) if seed % 3 else torch.randn(raw.shape, generator=g))
    if seed % 3 == 2:
        raw[..., ::2] *= -1
    if seed % 2:
        raw *= torch.randn(raw.shape[:2] + (1,) * (raw.ndim - 2), generator=g).mul(4).exp()
    return layer


def input_of(layer: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = {AolLinear: (2, 6), AolConv1d: (2, 6, 5), AolConv2d: (2, 6, 5, 5)}[type(layer)]
    return torch.randn(shape, dtype=dtype)


def test_linear_by_hand() -> None:
    layer = drawn(AolLinear(5, 7, dtype=F64), 0)
    R = layer.raw_weight.detach()
    expected = R * (R.T @ R).abs().sum(1).rsqrt()
    assert torch.allclose(layer.weight, expected, rtol=1e-8)
    x = torch.randn(2, 3, 5, dtype=F64)
    assert torch.allclose(layer(x), x @ expected.T + layer.bias, rtol=1e-7)


@pytest.mark.parametrize(("n", "m"), [(8, 3), (3, 8), (5, 5), (4, 1), (1, 4)])
def test_linear_is_a_contraction_and_certified(n: int, m: int) -> None:
    for seed in range(12):
        layer = drawn(AolLinear(n, m, bias=False, dtype=F64), seed)
        truth = torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
        bound = lipschitz_bound(layer)
        assert truth <= bound <= 1
        assert bound <= truth * (1 + 1e-9)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions_are_contractions_and_certified(axes: int, mode: str) -> None:
    rng = random.Random(axes)
    tried, largest = 0, 0.0
    for seed in range(150):
        groups = rng.choice([1, 1, 2, 3])
        c_in, c_out = groups * rng.randint(1, 2), groups * rng.randint(1, 4)
        k, s, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (5, 3, 2))
        padding: tuple[int, ...] | str = tuple(rng.randint(0, 4) for _ in range(axes))
        if rng.random() < 0.2:
            padding, s = "same", (1,) * axes
        size = tuple(rng.randint(1, 9 if axes == 1 else 6) for _ in range(axes))
        kind = AolConv1d if axes == 1 else AolConv2d
        layer = drawn(kind(c_in, c_out, k, s, padding, d, groups, False, mode, dtype=F64), seed)
        try:
            truth = true_norm(layer, c_in, size)
        except RuntimeError:
            continue  # torch refuses this size: smaller than the kernel or than the padding
        tried += 1
        largest = max(largest, truth)
        assert truth <= lipschitz_bound(layer) <= 1, (layer, size)
    assert tried > 40
    assert largest > 0.9


def test_the_theorem_is_tight_for_kernels_without_signs() -> None:
    for stride in (1, 2, 3):
        layer = AolConv1d(2, 1, 6, stride, bias=False, dtype=F64)
        layer.raw_weight.data.fill_(0.4)
        assert true_norm(layer, 2, (90,)) > 0.99
    circular = AolConv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False, dtype=F64)
    circular.raw_weight.data.fill_(0.4)
    assert math.isclose(true_norm(circular, 2, (6, 6)), 1, rel_tol=1e-8)
    assert lipschitz_bound(circular) <= 1


def test_the_stride_is_that_of_unshuffled_pixels() -> None:
    # Windows that do not overlap are rows of a matrix: the linear layer on patches.
    layer = drawn(AolConv2d(2, 9, (2, 3), (2, 3), dtype=F64), 3)
    linear = AolLinear(12, 9, dtype=F64)
    linear.raw_weight.data = layer.raw_weight.data.flatten(1)
    assert torch.allclose(layer.weight.flatten(1), linear.weight, rtol=1e-8)
    # Circular padding takes sizes that the stride does not divide, and is scaled as for stride 1.
    wrapped = drawn(AolConv1d(2, 3, 4, 2, 1, padding_mode="circular", dtype=F64), 3)
    dense = drawn(AolConv1d(2, 3, 4, dtype=F64), 3)
    assert torch.equal(wrapped.weight, dense.weight)
    valid = drawn(AolConv1d(2, 3, 4, 2, padding_mode="circular", dtype=F64), 3)
    assert torch.equal(valid.weight, drawn(AolConv1d(2, 3, 4, 2, dtype=F64), 3).weight)
    # Three pixels around a circle, windows at a distance of two: scaled as for stride 2 they would exceed 1.
    strided = AolConv1d(1, 1, 3, 2, 1, bias=False, dtype=F64)
    strided.raw_weight.data.fill_(1)
    circle = nn.Conv1d(1, 1, 3, 2, 1, bias=False, padding_mode="circular", dtype=F64)
    circle.weight.data.copy_(strided.weight)
    assert true_norm(strided, 1, (3,)) <= 1 < true_norm(circle, 1, (3,))


def test_groups_are_scaled_apart() -> None:
    layer = drawn(AolConv1d(4, 6, 3, groups=2, dtype=F64), 3)
    for half, raw in zip(layer.weight.chunk(2), layer.raw_weight.chunk(2), strict=True):
        part = AolConv1d(2, 3, 3, dtype=F64)
        part.raw_weight.data = raw.detach().clone()
        torch.testing.assert_close(part.weight, half, rtol=1e-6, atol=0)


def test_it_starts_as_an_isometry_where_it_can() -> None:
    for layer, channels, size in (
        (AolConv2d(3, 4, 3, padding=1, bias=False, dtype=F64), 3, (4, 5)),
        (AolConv2d(2, 8, 4, 2, 1, bias=False, dtype=F64), 2, (6, 4)),
        (AolConv1d(4, 8, 5, 2, 2, groups=2, bias=False, dtype=F64), 4, (6,)),
    ):
        n = channels * math.prod(size)
        M = layer(torch.eye(n, dtype=F64).reshape(n, channels, *size)).detach().flatten(1)
        s = torch.linalg.svdvals(M)
        assert math.isclose(s[0], 1, rel_tol=1e-6)
        assert (s > 1 - 1e-6).double().mean() > 0.5
    whole = AolConv2d(3, 4, 3, padding=1, bias=False, dtype=F64)
    x = torch.randn(1, 3, 5, 5, dtype=F64)
    assert torch.allclose(whole(x).norm(), x.norm(), rtol=1e-6)


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_rounded_weight_is_a_contraction(make, dtype: torch.dtype) -> None:
    for seed in range(6):
        layer = drawn(make(dtype=dtype), seed)
        assert layer.weight.dtype == dtype
        W = layer.weight.detach().double()
        if W.ndim == 2:
            truth = torch.linalg.matrix_norm(W, 2).item()
        else:
            points = [64] * (W.ndim - 2)
            truth = torch.linalg.matrix_norm(torch.fft.fftn(W, s=points).flatten(2).permute(2, 0, 1), 2).max().item()
        assert truth <= lipschitz_bound(layer) <= 1


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("raw", [0.0, math.nan, math.inf, 3e38, 1e-45])
def test_any_raw_weight_is_survived(make, raw: float) -> None:
    layer = make()
    with torch.no_grad():
        layer.raw_weight.fill_(raw)
    assert layer.weight.isfinite().all()
    layer(input_of(layer)).sum().backward()
    assert layer.raw_weight.grad is not None
    assert layer.raw_weight.grad.isfinite().all()
    if math.isfinite(raw):
        assert lipschitz_bound(layer) <= 1
    else:
        with pytest.raises(ValueError, match=r"^layer '0' \(Aol.*\) has no .*raw weight is not finite"):
            lipschitz_bound(nn.Sequential(layer))


@pytest.mark.parametrize("make", LAYERS)
def test_zero_columns_stay_zero_and_can_leave(make) -> None:
    layer = make()
    with torch.no_grad():
        layer.raw_weight[:, 1] = 0
    assert torch.equal(layer.weight[:, 1], torch.zeros_like(layer.weight[:, 1]))
    layer(input_of(layer)).square().sum().backward()
    gradient = layer.raw_weight.grad[:, 1]
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("make", LAYERS)
def test_the_size_of_the_raw_weight_does_not_matter(make) -> None:
    layer = make(dtype=F64)
    known = layer.weight.detach().clone()
    for scale in (1e-100, 1e-5, 1e5, 1e300):
        other = make(dtype=F64)
        other.raw_weight.data = layer.raw_weight.data * scale
        assert torch.allclose(other.weight, known, rtol=1e-9)


@pytest.mark.parametrize("make", LAYERS)
def test_gradients(make) -> None:
    layer = drawn(make(dtype=F64), 0)

    def f(raw: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"raw_weight": raw}, (x,))

    x = input_of(layer, F64).requires_grad_()
    raw = layer.raw_weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(f, (raw, x), atol=1e-6)


def test_a_stale_weight_would_be_seen() -> None:
    # The certificate is that of the weight that is used, not of what the raw weight promises.
    class Doubled(AolLinear):
        def derive(self) -> Tensor:
            return 2 * super().derive()

    class DoubledConv(AolConv2d):
        def derive(self) -> Tensor:
            return 2 * super().derive()

    layer, conv = Doubled(4, 4), DoubledConv(2, 2, 3)
    assert math.isclose(lipschitz_bound(layer), 2, rel_tol=1e-5)
    assert 2 * (1 - 1e-5) <= lipschitz_bound(conv) <= convolution_norm(conv.weight)


@pytest.mark.parametrize("make", LAYERS)
def test_copies_training_and_export(make) -> None:
    layer = make()
    x = input_of(layer)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (layer(x) - 1).square().sum().backward()
        optimiser.step()
        assert lipschitz_bound(layer) <= 1
    other = make()
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer)):
        assert torch.equal(same(x), layer(x))
    plain = layer.to_linear() if isinstance(layer, AolLinear) else layer.to_conv()
    assert type(plain) in (nn.Linear, nn.Conv1d, nn.Conv2d)
    assert torch.equal(plain(x), layer(x))
    assert torch.equal(to_plain(layer)(x), layer(x))
    assert type(to_plain(layer)) is type(plain)
    assert set(layer.state_dict()) == {"raw_weight", "bias"}
    empty = make(device="meta")
    assert empty(input_of(empty).to("meta")).shape == layer(x).shape
    assert "bias=False" in repr(make(bias=False))


@pytest.mark.parametrize("make", LAYERS)
def test_compiles(make) -> None:
    layer = make()
    x = input_of(layer)
    torch.compiler.reset()
    assert torch.allclose(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x), atol=1e-6)


def test_autocast_does_not_reach_the_scaling() -> None:
    layer = AolConv2d(3, 4, 3)
    known = layer.weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.derive(), known)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AolLinear(0, 2), "in_features must be a positive integer, got 0"),
        (lambda: AolLinear(2, "3"), "out_features must be a positive integer, got '3'"),
        (
            lambda: AolConv2d(2, 2, 3, padding=1, padding_mode="reflect"),
            "padding_mode 'reflect' is not one of zeros, c",
        ),
        (lambda: AolConv1d(2, 3, 3, groups=2), "groups = 2 does not divide out_channels = 3"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
