"""The torchlip names of convolutions: torchlip's arguments, and the bounds that torchlip's lack."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import random

import pytest
import torch
from torch import Tensor, nn

from barrow.compat import torchlip
from barrow.compat.torchlip import (
    FrobeniusConv2d,
    PadConv1d,
    PadConv2d,
    SpectralConv1d,
    SpectralConv2d,
    SpectralConvTranspose2d,
)
from barrow.nn import lipschitz_bound

F64 = torch.float64
MODES = ["zeros", "circular", "reflect", "replicate", "symmetric"]
SPECTRAL = [SpectralConv1d, SpectralConv2d, FrobeniusConv2d]
NAMES = ["FrobeniusConv2d", "PadConv1d", "PadConv2d", "SpectralConv1d", "SpectralConv2d", "SpectralConvTranspose2d"]


def true_norm(layer: nn.Module, channels: int, size: tuple[int, ...]) -> float:
    """The norm of the layer's matrix on inputs of one size, found by applying it to the identity."""
    assert getattr(layer, "bias", None) is None
    n = channels * math.prod(size)
    with torch.no_grad():
        matrix = layer(torch.eye(n, dtype=F64).reshape(n, channels, *size)).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


def axes_of(kind: type[nn.Module]) -> int:
    return 1 if kind.__name__.endswith("1d") else 2


def drawn(layer: nn.Module, seed: int) -> nn.Module:
    raw = layer.raw_weight if hasattr(layer, "raw_weight") else layer.weight
    g = torch.Generator().manual_seed(seed)
    raw.data.copy_(torch.randn(raw.shape, generator=g) if seed % 2 else torch.rand(raw.shape, generator=g))
    return layer


# -- signatures --------------------------------------------------------------------------------------------------------

COMMON = "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1 bias=True padding_mode=zeros"
SIGNATURES = {
    "SpectralConv1d": COMMON + " k_coef_lip=1.0 eps_spectral=0.001 eps_bjorck=0.001",
    "SpectralConv2d": COMMON + " k_coef_lip=1.0 eps_spectral=0.001 eps_bjorck=0.001",
    "FrobeniusConv2d": COMMON + " k_coef_lip=1.0",
    "PadConv1d": COMMON,
    "PadConv2d": COMMON,
    "SpectralConvTranspose2d": "in_channels out_channels kernel_size stride=1 padding=0 output_padding=0 groups=1 "
    "bias=True dilation=1 padding_mode=zeros device=None dtype=None k_coef_lip=1.0 eps_spectral=0.001 eps_bjorck=0.001",
}


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name: str) -> None:
    parameters = inspect.signature(getattr(torchlip, name)).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters]
    assert " ".join(shown) == SIGNATURES[name]
    assert name in torchlip.__all__


def test_everything_in_all_exists() -> None:
    names: dict[str, object] = {}
    exec("from barrow.compat.torchlip import *", names)
    assert set(NAMES) <= names.keys()


# -- what the kernel is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("c_in", "c_out"), [(2, 3), (1, 20), (6, 2)])
@pytest.mark.parametrize(("stride", "windows"), [(1, 9), (2, 4), ((1, 3), 3), (4, 1)])
def test_unfolded_kernels_are_orthogonal_times_the_coefficient(c_in: int, c_out: int, stride, windows: int) -> None:
    layer = drawn(SpectralConv2d(c_in, c_out, 3, stride, 1, k_coef_lip=1.5), 1)
    s = torch.linalg.svdvals(layer.weight.detach().double().flatten(1))
    assert torch.allclose(s, torch.full_like(s, 1.5 / math.sqrt(windows)), rtol=1e-5)
    transposed = drawn(SpectralConvTranspose2d(c_out, c_in, 3, stride, k_coef_lip=1.5), 1)
    s = torch.linalg.svdvals(transposed.weight.detach().double().flatten(1))
    assert torch.allclose(s, torch.full_like(s, 1.5 / math.sqrt(windows)), rtol=1e-5)


def test_groups_are_orthogonalised_apart() -> None:
    depthwise = drawn(SpectralConv2d(12, 12, 3, padding=1, groups=12), 1)
    assert torch.allclose(depthwise.weight.flatten(1).norm(dim=1), torch.full((12,), 1 / 3), rtol=1e-5)
    assert lipschitz_bound(depthwise) <= 1
    layer = drawn(SpectralConvTranspose2d(6, 4, 3, groups=2), 1)
    for part in layer.weight.detach().chunk(2):
        assert torch.allclose(torch.linalg.svdvals(part.flatten(1)), torch.full((3,), 1 / 3), rtol=1e-5)


def test_in_one_dimension_there_is_a_root() -> None:
    # Torchlip divides by ceil(k / s), so that its layer has norm at most 1 / sqrt(3) here.
    layer = SpectralConv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    layer.raw_weight.data.fill_(1)
    assert math.isclose(true_norm(layer, 1, (9,)), 1, rel_tol=1e-6)
    assert math.isclose(layer.weight.norm().item(), 3**-0.5, rel_tol=1e-6)


def test_frobenius() -> None:
    layer = FrobeniusConv2d(2, 3, 3, padding=1, k_coef_lip=2.0).double()
    assert torch.allclose(layer.weight, layer.raw_weight / layer.raw_weight.norm() * 2 / 3, rtol=1e-7)
    assert math.isclose(FrobeniusConv2d(1, 1, 4, 2).weight.norm().item(), 0.5, rel_tol=1e-5)


@pytest.mark.parametrize("kind", [*SPECTRAL, SpectralConvTranspose2d])
def test_biases_start_at_zero_and_count(kind) -> None:
    layer = kind(2, 3, 3)
    assert torch.equal(layer.bias, torch.zeros(3))
    x = torch.randn(1, 2, *[6] * axes_of(kind))
    before = layer(x)
    layer.bias.data.fill_(2)
    assert torch.allclose(layer(x), before + 2, atol=1e-6)
    assert kind(2, 3, 3, bias=False).bias is None


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", SPECTRAL)
def test_the_coefficient_is_certified_for_every_padding_mode(kind, mode: str) -> None:
    rng = random.Random(7)
    axes, tried, largest = axes_of(kind), 0, 0.0
    for seed in range(60):
        groups = rng.choice([1, 1, 2])
        k, s, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (5, 3, 2))
        padding = tuple(rng.randint(0, 3) for _ in range(axes))
        size = tuple(rng.randint(2, 8 if axes == 1 else 5) for _ in range(axes))
        k_coef_lip = rng.choice([0.3, 1.0, 4.0])
        layer = kind(2 * groups, 2 * groups, k, s, padding, d, groups, False, mode, k_coef_lip)
        layer = drawn(layer.double(), seed)
        if rng.random() < 0.8:
            size = tuple(max(n, least) for n, least in zip(size, layer.least, strict=True))
        if math.prod(size) > 150:
            continue
        bound = lipschitz_bound(layer)
        assert bound <= k_coef_lip
        try:
            truth = true_norm(layer, 2 * groups, size)
        except (RuntimeError, ValueError):
            continue  # this size is smaller than the kernel or than the padding
        tried += 1
        largest = max(largest, truth / bound)
        assert truth <= bound, (layer, size)
    assert tried > 10
    assert largest > 0.8


@pytest.mark.parametrize(
    ("mode", "k", "stride", "dilation", "padding", "n"),
    [
        ("reflect", 3, 1, 1, 1, 5), ("reflect", 5, 1, 1, 2, 9), ("replicate", 5, 1, 1, 2, 6),
        ("replicate", 7, 1, 1, 3, 8), ("zeros", 3, 2, 2, 2, 9),
    ],
)  # fmt: skip
def test_where_torchlips_coefficient_breaks_the_bound(
    mode: str, k: int, stride: int, dilation: int, padding: int, n: int
) -> None:
    # A kernel that cuts out windows: its norm squared is the number of windows that see one pixel.
    layer = SpectralConv1d(1, k, k, stride, padding, dilation, bias=False, padding_mode=mode).double()
    layer.raw_weight.data = torch.eye(k, dtype=F64)[:, None]
    truth = true_norm(layer, 1, (n,))
    theirs = truth / layer.weight[0].norm().item() / math.sqrt(math.ceil(k / stride))
    assert theirs > 1.05
    assert truth <= lipschitz_bound(layer) <= 1


def test_images_too_small_for_the_coefficient_are_refused() -> None:
    # Three pixels a b c, reflected: b stands in five windows of three taps, on larger images in four at most.
    layer = SpectralConv1d(1, 3, 3, 1, 1, bias=False, padding_mode="reflect").double()
    layer.raw_weight.data = torch.eye(3, dtype=F64)[:, None]
    assert layer.least == (4,)
    with pytest.raises(
        ValueError, match=r"reflect' got an input of shape \(1, 1, 3\), but its last .* at least \(4,\)"
    ):
        layer(torch.zeros(1, 1, 3, dtype=F64))
    assert true_norm(layer.vanilla_export(), 1, (3,)) > 1.1
    assert true_norm(layer.vanilla_export(), 1, (3,)) <= lipschitz_bound(layer.vanilla_export())
    assert math.isclose(true_norm(layer, 1, (4,)), 1, rel_tol=1e-8)
    # The usual sizes and strides lose nothing to symmetric and circular padding.
    for mode, stride in itertools.product(("symmetric", "circular"), (1, 2)):
        padded = SpectralConv2d(2, 3, 3, stride, 1, padding_mode=mode)
        assert padded.damping == SpectralConv2d(2, 3, 3, stride, 1).damping
        assert padded.least == (stride, stride)


def test_the_factors_of_large_images() -> None:
    def excess(mode: str, k: int) -> float:
        cut = PadConv1d(1, k, k, padding=k // 2, padding_mode=mode, bias=False).double()
        cut.weight.data = torch.eye(k, dtype=F64)[:, None] / math.sqrt(k)
        return true_norm(cut, 1, (20,))

    known = {("reflect", 3): 1.155, ("reflect", 5): 1.095, ("replicate", 5): 1.095, ("replicate", 7): 1.195}
    for (mode, k), factor in known.items():
        assert math.isclose(excess(mode, k), factor, abs_tol=1e-3)
    for mode, k in itertools.product(("circular", "symmetric"), (3, 5, 7)):
        assert math.isclose(excess(mode, k), 1, abs_tol=1e-12)


def test_transposed_convolutions_are_certified() -> None:
    rng = random.Random(0)
    for seed in range(60):
        groups = rng.choice([1, 1, 2])
        k, s, d = (tuple(rng.randint(1, top) for _ in range(2)) for top in (4, 3, 2))
        p = tuple(rng.randint(0, b * (a - 1) // 2) for a, b in zip(k, d, strict=True))
        extra = tuple(rng.randint(0, max(a, b) - 1) for a, b in zip(s, d, strict=True))
        layer = SpectralConvTranspose2d(
            2 * groups, 3 * groups, k, s, p, extra, groups, False, d, dtype=F64, k_coef_lip=1.5
        )
        drawn(layer, seed)
        truth = true_norm(layer, 2 * groups, (3, 4))
        assert truth <= lipschitz_bound(layer) <= 1.5
    assert SpectralConvTranspose2d(2, 2, 2, output_padding=None).output_padding == (0, 0)


def test_transposed_kernels_with_few_inputs_are_orthogonal() -> None:
    # Torchlip first normalises the other unfolding, whose norm is far below that of this one.
    layer = drawn(SpectralConvTranspose2d(1, 64, 2, 2, bias=False), 0)
    s = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    assert torch.allclose(s, torch.ones(1), atol=1e-5)
    assert lipschitz_bound(layer) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [PadConv1d, PadConv2d])
def test_unconstrained_convolutions_have_a_bound(kind, mode: str) -> None:
    rng = random.Random(3)
    axes, tried = axes_of(kind), 0
    for seed in range(90):
        k, s, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (5, 3, 2))
        padding = tuple(rng.randint(0, 4) for _ in range(axes))
        size = tuple(rng.randint(1, 8 if axes == 1 else 5) for _ in range(axes))
        layer = drawn(kind(2, 2, k, s, padding, d, bias=False, padding_mode=mode).double(), seed)
        try:
            truth = true_norm(layer, 2, size)
        except (RuntimeError, ValueError):
            continue
        tried += 1
        assert truth <= lipschitz_bound(layer) * (1 + 1e-13), (layer, size)
    assert tried > 10


def test_symmetric_bounds_are_tight() -> None:
    blur = PadConv2d(1, 1, 3, padding=1, padding_mode="symmetric", bias=False).double()
    blur.weight.data.fill_(1 / 9)
    assert math.isclose(true_norm(blur, 1, (5, 5)), 1, rel_tol=1e-12)
    assert 1 <= lipschitz_bound(blur) <= 1 + 1e-6
    shift = PadConv1d(1, 1, 3, padding=1, padding_mode="symmetric", bias=False).double()
    shift.weight.data = torch.tensor([[[0.0, 0, 1]]], dtype=F64)
    assert math.isclose(true_norm(shift, 1, (5,)), math.sqrt(2), rel_tol=1e-12)
    assert math.sqrt(2) <= lipschitz_bound(shift) <= math.sqrt(2) * (1 + 1e-9)


# -- behaviour ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [0, 1, 2, "same"])
@pytest.mark.parametrize("kind", [*SPECTRAL, PadConv1d, PadConv2d])
def test_export_is_bit_equal(kind, padding: int | str, mode: str) -> None:
    state = torch.random.get_rng_state()
    layer = drawn(kind(4, 6, 3, 1, padding, 2, 2, padding_mode=mode), 1)
    torch.random.set_rng_state(state)
    plain = layer.vanilla_export()
    assert torch.equal(torch.random.get_rng_state(), state)
    axes = axes_of(kind)
    torch_kind = nn.Conv1d if axes == 1 else nn.Conv2d
    pad_kind = PadConv1d if axes == 1 else PadConv2d
    assert type(plain) is (pad_kind if mode == "symmetric" and padding in (2, "same") else torch_kind)
    x = torch.randn(2, 4, *[9] * axes)
    assert torch.equal(plain(x), layer(x))
    with torch.no_grad():
        plain.weight.zero_()
    assert layer.weight.abs().max() > 0


def test_transposed_export_is_bit_equal() -> None:
    layer = drawn(SpectralConvTranspose2d(4, 6, 3, 2, 1, 1, 2), 1)
    plain = layer.vanilla_export()
    x = torch.randn(2, 4, 5, 5)
    assert type(plain) is nn.ConvTranspose2d
    assert torch.equal(plain(x), layer(x))


@pytest.mark.parametrize("kind", [PadConv1d, PadConv2d])
def test_pad_convolutions_are_torchs(kind) -> None:
    axes = axes_of(kind)
    x = torch.randn(2, 4, *[7] * axes)
    torch_kind = nn.Conv1d if axes == 1 else nn.Conv2d
    for mode in MODES[:4]:
        layer = kind(4, 2, 3, 2, 1, padding_mode=mode)
        plain = torch_kind(4, 2, 3, 2, 1, padding_mode=mode)
        plain.load_state_dict(layer.state_dict())
        assert torch.equal(layer(x), plain(x))
    layer = kind(4, 2, 5, padding=2, padding_mode="symmetric")
    index = torch.tensor([1, 0, 0, 1, 2, 3, 4, 5, 6, 6, 5])
    padded = x[..., index] if axes == 1 else x[..., index, :][..., index]
    functional = nn.functional.conv1d if axes == 1 else nn.functional.conv2d
    assert torch.equal(layer(x), functional(padded, layer.weight, layer.bias))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert "padding_mode=symmetric" in repr(layer)


@pytest.mark.parametrize("kind", [*SPECTRAL, SpectralConvTranspose2d])
def test_gradients_are_exact(kind) -> None:
    # Torchlip's detached iterations multiply the gradient by 1.5 a step.
    layer = drawn(kind(2, 3, 2, 2).double(), 1)

    def f(raw: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"raw_weight": raw}, (x,))

    x = torch.randn(1, 2, *[3] * axes_of(kind), dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(f, (layer.raw_weight.detach().clone().requires_grad_(), x))


@pytest.mark.parametrize("kind", [*SPECTRAL, SpectralConvTranspose2d])
def test_evaluation_sees_the_present_weight(kind) -> None:
    # Torchlip's evaluation mode uses the weight of the last training step, and before the first one a raw one.
    layer = drawn(kind(2, 3, 3), 1).eval()
    x = torch.randn(1, 2, *[6] * axes_of(kind))
    assert lipschitz_bound(layer) <= 1
    before = layer(x)
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.5).step()
    fresh = kind(2, 3, 3)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.train()(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert not torch.equal(layer(x), before)
    assert set(layer.state_dict()) == {"raw_weight", "bias"}


@pytest.mark.parametrize("kind", [*SPECTRAL, SpectralConvTranspose2d])
@pytest.mark.parametrize("raw", [0.0, math.nan, 3e38])
def test_any_raw_weight_is_survived(kind, raw: float) -> None:
    layer = kind(2, 3, 3)
    with torch.no_grad():
        layer.raw_weight.fill_(raw)
    layer(torch.ones(1, 2, *[6] * axes_of(kind))).sum().backward()
    assert layer.weight.isfinite().all()
    assert layer.raw_weight.grad.isfinite().all()
    if math.isnan(raw):
        with pytest.raises(ValueError, match=rf"^layer '0' \({kind.__name__}\) has no .*raw weight is not finite"):
            lipschitz_bound(nn.Sequential(layer))
    else:
        assert lipschitz_bound(layer) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_below_the_coefficient(dtype: torch.dtype) -> None:
    for kind in [*SPECTRAL, SpectralConvTranspose2d]:
        layer = drawn(kind(8, 8, 3), 1).to(dtype)
        assert layer.weight.dtype == dtype
        assert lipschitz_bound(layer) <= 1


def test_a_network() -> None:
    model = torchlip.Sequential(
        SpectralConv2d(1, 4, 3, padding=1, padding_mode="reflect"), torchlip.GroupSort2(),
        SpectralConv2d(4, 8, 4, 2, 1, padding_mode="symmetric"), torchlip.MaxMin(),
        FrobeniusConv2d(16, 1, 3), nn.Flatten(), torchlip.SpectralLinear(4, 1), k_coef_lip=2.0,
    )  # fmt: skip
    assert lipschitz_bound(model, (1, 8, 8)) <= 2 * (1 + 1e-6)
    assert "k_coef_lip=3.0" in repr(SpectralConv2d(1, 1, 3, k_coef_lip=3.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SpectralConv2d(2, 2, 3, eps_bjorck=None), "eps_bjorck=None"),
        (lambda: SpectralConv1d(2, 2, 3, eps_spectral=1e-9), "eps_spectral = 1e-09 cannot be met"),
        (lambda: SpectralConvTranspose2d(2, 2, 3, eps_bjorck=0.0), r"eps_bjorck = 0.0 cannot be met"),
        (lambda: SpectralConv2d(2, 2, 3, k_coef_lip=0), "k_coef_lip must be positive"),
        (
            lambda: FrobeniusConv2d(2, 2, 3, padding_mode="mirror"),
            "padding_mode 'mirror' is not one of zeros, circular",
        ),
        (lambda: PadConv2d(2, 2, 3, padding_mode="mirror"), "padding_mode 'mirror' is not one of zeros, circular"),
        (lambda: SpectralConvTranspose2d(2, 2, 3, padding_mode="reflect"), "knows only 'zeros'"),
        (lambda: SpectralConvTranspose2d(3, 2, 3, groups=2), "groups = 2 does not divide in_channels = 3"),
        (lambda: PadConv1d(1, 1, 5, padding=4, padding_mode="symmetric")(torch.zeros(1, 1, 3)), "pad by 0 to 3 pixels"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("kind", [*SPECTRAL, SpectralConvTranspose2d])
def test_compiles(kind) -> None:
    layer = kind(2, 3, 3)
    x = torch.randn(1, 2, *[6] * axes_of(kind))
    torch.compiler.reset()
    assert torch.allclose(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x), atol=1e-6)


def test_vanilla_model_converts_them_all() -> None:
    model = nn.Sequential(
        SpectralConv2d(1, 4, 3, padding=2, padding_mode="symmetric"), SpectralConv2d(4, 4, 3), FrobeniusConv2d(4, 2, 3),
        SpectralConvTranspose2d(2, 2, 2, 2), PadConv2d(2, 1, 3, padding=1, padding_mode="symmetric"),
    )  # fmt: skip
    x = torch.randn(2, 1, 8, 8)
    plain = torchlip.vanilla_model(model, in_place=False)
    assert [type(layer) for layer in plain] == [PadConv2d, nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d, nn.Conv2d]
    assert torch.equal(plain(x), model(x))
