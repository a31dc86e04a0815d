"""Bounds of convolutions: never below the unrolled matrix's norm, close to it on large inputs, refused by name."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from barrow.nn import lipschitz_bound
from barrow.nn.convolution_bound import convolution_norm

MODES = ["zeros", "circular", "reflect", "replicate"]


def true_norm(layer: nn.Module, channels: int, size: tuple[int, ...]) -> float:
    """The norm of the layer's matrix on inputs of one size, found by applying it to the identity."""
    assert getattr(layer, "bias", None) is None
    n = channels * math.prod(size)
    with torch.no_grad():
        matrix = layer(torch.eye(n, dtype=torch.float64).reshape(n, channels, *size)).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


def above(bound: float, truth: float) -> bool:
    # The truth is rounded too.
    return bound >= truth * (1 - 1e-13)


def drawn(layer: nn.Module, seed: int) -> nn.Module:
    """Weights without signs (low frequencies), random, or of alternating signs (high frequencies)."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in layer.parameters():
            if seed % 3 == 1:
                w.copy_(torch.randn(w.shape, generator=g))
            else:
                w.copy_(torch.rand(w.shape, generator=g))
                if seed % 3 == 2:
                    w[..., ::2] *= -1
    return layer


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [1, 2])
def test_bound_is_above_the_norm_of_the_unrolled_matrix(axes: int, mode: str) -> None:
    rng = random.Random(axes)
    tried = 0
    for seed in range(240):
        groups = rng.choice([1, 1, 2, 3])
        c_in, c_out = groups * rng.randint(1, 2), groups * rng.randint(1, 3)
        k, s, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (5, 3, 2))
        padding: tuple[int, ...] | str = tuple(rng.randint(0, 4) for _ in range(axes))
        if rng.random() < 0.2:
            padding, s = "same", (1,) * axes
        size = tuple(rng.randint(1, 9 if axes == 1 else 6) for _ in range(axes))
        kind = nn.Conv1d if axes == 1 else nn.Conv2d
        layer = kind(c_in, c_out, k, s, padding, d, groups, bias=False, padding_mode=mode).double()  # type: ignore[arg-type]
        drawn(layer, seed)
        try:
            truth = true_norm(layer, c_in, size)
        except RuntimeError:
            continue  # torch refuses this size: smaller than the kernel or than the padding
        tried += 1
        assert above(lipschitz_bound(layer), truth), (layer, size)
    assert tried > 60


@pytest.mark.parametrize("axes", [1, 2])
def test_bound_is_above_the_norm_of_transposed_convolutions(axes: int) -> None:
    rng = random.Random(axes)
    for seed in range(120):
        groups = rng.choice([1, 1, 2])
        c_in, c_out = groups * rng.randint(1, 3), groups * rng.randint(1, 2)
        k, s, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (5, 3, 2))
        p = tuple(rng.randint(0, b * (a - 1) // 2) for a, b in zip(k, d, strict=True))
        extra = tuple(rng.randint(0, max(a, b) - 1) for a, b in zip(s, d, strict=True))
        kind = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
        layer = kind(c_in, c_out, k, s, p, extra, groups, bias=False, dilation=d).double()  # type: ignore[arg-type]
        drawn(layer, seed)
        size = tuple(rng.randint(1, 5) for _ in range(axes))
        assert above(lipschitz_bound(layer), true_norm(layer, c_in, size)), (layer, size)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stride", [1, 2])
def test_bound_is_within_one_percent_on_large_circular_inputs(stride: int, seed: int) -> None:
    torch.manual_seed(seed)
    k = 2 + seed % 4
    layer = drawn(nn.Conv1d(3, 4, k, stride, bias=False).double(), seed)
    assert isinstance(layer, nn.Conv1d)
    W, n = layer.weight.detach(), 240
    x = nn.functional.pad(torch.eye(3 * n, dtype=torch.float64).reshape(3 * n, 3, n), (0, k - 1), mode="circular")
    truth = torch.linalg.matrix_norm(nn.functional.conv1d(x, W, stride=stride).flatten(1), 2).item()
    assert above(lipschitz_bound(layer), truth)
    assert lipschitz_bound(layer) <= truth * 1.01


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (4, 12, 5, 5), (16, 4, 1, 7), (6, 6, 2, 4)])
def test_bound_is_within_one_percent_of_the_symbols_on_a_fine_grid(shape: tuple[int, ...]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    symbols = torch.fft.fft2(W, s=(128, 128)).permute(2, 3, 0, 1)
    truth = torch.linalg.matrix_norm(symbols, 2).max().item()
    bound = convolution_norm(W)
    assert above(bound, truth)
    assert bound <= truth * 1.01
    # Singla and Feizi's bound by an unfolded kernel, and the sum over taps.
    assert bound <= torch.linalg.matrix_norm(W.flatten(1), 2).item() * math.sqrt(shape[2] * shape[3]) * (1 + 1e-12)
    assert bound <= torch.linalg.matrix_norm(W.permute(2, 3, 0, 1), 2).sum().item() * 1.001


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4, 1e-2, 1.0])
def test_bound_without_a_grid(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if every kernel were nearly orthogonal: a bound all the same, and tight for those that are.
    monkeypatch.setattr("barrow.nn.convolution_bound._CLOSE", math.inf)
    g = torch.Generator().manual_seed(3)
    for groups, rows, n, k1, k2 in [
        (1, 5, 3, 3, 2),
        (2, 3, 5, 2, 4),
        (3, 2, 2, 4, 4),
        (1, 1, 1, 3, 3),
        (1, 8, 8, 1, 3),
    ]:
        W = noise * torch.randn(groups * rows, n, k1, k2, generator=g, dtype=torch.float64)
        for part in W.chunk(groups):  # a shift that differs by group, of different norms
            tap = torch.randint(k1 * k2, (1,), generator=g).item()
            part.flatten(2)[:, :, tap] += 3 * torch.eye(rows, n, dtype=torch.float64)
        W[: rows if groups > 1 else 0] *= 0.5
        symbols = torch.fft.fft2(W, s=(96, 96)).reshape(groups, rows, n, -1).permute(0, 3, 1, 2)
        truth = torch.linalg.matrix_norm(symbols, 2).max().item()
        assert above(convolution_norm(W, groups=groups), truth)
        if noise < 1e-8:
            assert convolution_norm(W, groups=groups) <= truth * (1 + 1e-6)


def test_pixels_that_a_stride_leaves_out_cost_nothing() -> None:
    W = nn.init.orthogonal_(torch.empty(4, 6, dtype=torch.float64)).reshape(4, 3, 2)
    assert math.isclose(convolution_norm(W, stride=5), 1, rel_tol=1e-9)
    W = torch.randn(2, 1, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.linalg.matrix_norm(W.flatten(1), 2).item()
    assert math.isclose(convolution_norm(W, stride=(4, 7)), truth, rel_tol=1e-9)


def test_coarse_grids_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # The maximum lies between the points of the coarsest grid: cos of a phase that no sample meets.
    monkeypatch.setattr("barrow.nn.convolution_bound._BUDGET", 0.0)
    for k in (3, 4, 5):
        for phase in torch.linspace(0, math.pi, 23, dtype=torch.float64):
            w = torch.cos(phase * torch.arange(k, dtype=torch.float64))
            truth = torch.fft.fft(w, n=20_000).abs().max().item()
            rotation = torch.stack([phase.mul(torch.arange(k)).cos(), phase.mul(torch.arange(k)).sin()])[:, None]
            assert above(convolution_norm(w[None, None]), truth)
            # The symbol of (cos, sin) has norm about sqrt(k^2 + small) / sqrt(2) at the phase itself.
            symbols = torch.fft.fft(rotation, n=20_000).permute(2, 0, 1)
            truth = torch.linalg.matrix_norm(symbols, 2).max().item()
            assert above(convolution_norm(rotation), truth)
            assert convolution_norm(rotation) <= truth * 1.06


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_orthogonal_kernels_of_one_tap(dtype: torch.dtype) -> None:
    layer = nn.Conv2d(12, 12, 1, bias=False)
    nn.init.orthogonal_(layer.weight)
    layer = layer.to(dtype)
    truth = torch.linalg.matrix_norm(layer.weight.detach().double()[..., 0, 0], 2).item()
    assert truth <= lipschitz_bound(layer) * (1 + 1e-14)
    assert lipschitz_bound(layer) <= truth * (1 + 1e-6)


def test_permutations_of_pixels_are_isometries() -> None:
    shift = torch.zeros(2, 2, 3, 3)
    shift[0, 1, 0, 2] = shift[1, 0, 2, 1] = 1
    assert convolution_norm(shift) * (1 + 1e-14) >= 1
    assert convolution_norm(shift) <= 1 + 1e-12
    # Taps no further apart than the stride: exactly the matrix's norm.
    W = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.linalg.matrix_norm(W.flatten(1), 2).item()
    assert math.isclose(convolution_norm(W, stride=2), truth, rel_tol=1e-9)
    assert convolution_norm(W, stride=2, dilation=2) > truth  # only even pixels are seen: stride 1 on those


def test_zero_padding_on_a_tiny_input_exceeds_the_circular_norm_of_that_size() -> None:
    # Four pixels, five taps: taps 0 and 4 cancel on the circle but not on the line.
    layer = nn.Conv1d(1, 1, 5, padding=4, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 1, 1, 1, -1]]]))
    circle = torch.fft.fft(torch.tensor([0.0, 1, 1, 1])).abs().max().item()
    truth = true_norm(layer, 1, (4,))
    assert truth > circle
    assert above(lipschitz_bound(layer), truth)


def test_reflection_exceeds_the_circular_bound() -> None:
    layer = nn.Conv1d(1, 3, 3, padding=1, bias=False, padding_mode="reflect").double()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3)[:, None])
    truth = true_norm(layer, 1, (3,))
    assert truth > convolution_norm(layer.weight) * 1.1
    assert above(lipschitz_bound(layer), truth)
    assert lipschitz_bound(layer) <= convolution_norm(layer.weight) * math.sqrt(2) * (1 + 1e-14)


def test_padding_beyond_the_kernel_repeats_outputs() -> None:
    for mode, size, factor in [("circular", 2, 3), ("reflect", 3, 5 / 3), ("replicate", 1, 5)]:
        layer = nn.Conv1d(1, 1, 1, padding=2, bias=False, padding_mode=mode).double()
        with torch.no_grad():
            layer.weight.fill_(1)
        truth = true_norm(layer, 1, (size,))
        assert truth**2 >= factor * (1 - 1e-12)
        assert above(lipschitz_bound(layer), truth)
    circular = nn.Conv2d(2, 2, 3, padding=1, bias=False, padding_mode="circular")
    assert lipschitz_bound(circular) == convolution_norm(circular.weight)


def test_groups_take_the_largest_and_unpadded_modes_cost_nothing() -> None:
    W = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    parts = [convolution_norm(part) for part in W.chunk(3)]
    assert math.isclose(convolution_norm(W, groups=3), max(parts), rel_tol=1e-4)
    for mode in MODES:
        layer = nn.Conv1d(2, 6, 3, padding_mode=mode)
        assert lipschitz_bound(layer) == convolution_norm(layer.weight)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_scale_does_not_matter(scale: float) -> None:
    W = torch.randn(3, 2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert math.isclose(convolution_norm(W * scale), convolution_norm(W) * scale, rel_tol=1e-4)


def test_nothing_and_zero() -> None:
    assert convolution_norm(torch.zeros(3, 2, 3)) == 0
    assert convolution_norm(torch.zeros(0, 2, 3, 3)) == 0
    mixed = torch.zeros(2, 1, 3)
    mixed[1] = 1
    assert 3 <= convolution_norm(mixed, groups=2) <= 3 * (1 + 1e-9)


def test_whole_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 2)
    ).double()
    bound = lipschitz_bound(model, (2, 8, 8))
    for _ in range(5):
        J = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], torch.randn(2, 8, 8).double())
        assert torch.linalg.matrix_norm(J.flatten(1), 2).item() <= bound
    assert math.isclose(bound, math.prod(lipschitz_bound(layer) for layer in model), rel_tol=1e-12)


def test_a_kernel_too_large_for_a_grid_has_a_bound_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barrow.nn.convolution_bound._BUDGET", 0.0)
    monkeypatch.setattr("barrow.nn.convolution_bound._LIMIT", 0.0)
    W = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.linalg.matrix_norm(torch.fft.fft2(W, s=(64, 64)).permute(2, 3, 0, 1), 2).max().item()
    assert truth <= convolution_norm(W) <= 3 * torch.linalg.matrix_norm(W.flatten(1), 2).item() * (1 + 1e-9)


def odd_padding() -> nn.Module:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    layer.padding_mode = "mirror"
    return layer


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_refusals_name_the_layer_and_the_cure() -> None:
    for layer, cure in [
        (odd_padding(), "use zeros, circular, reflect or replicate"),
        (nn.Conv3d(2, 2, 3), "use Conv2d"),
        (nn.ConvTranspose3d(2, 2, 3), "use Conv2d"),
        (nn.LazyConv2d(2, 3), "hook"),
        (nn.Conv1d(2, 2, 3, dtype=torch.complex64), "real and imaginary"),
    ]:
        with pytest.raises(ValueError, match=rf"^layer '1' \({type(layer).__name__}\) has no .*{cure}"):
            lipschitz_bound(nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ValueError, match="3 or 4 axes"):
        convolution_norm(torch.ones(2, 2))
    with pytest.raises(ValueError, match="does not divide"):
        convolution_norm(torch.ones(3, 2, 2), groups=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_diverged_weights_are_refused(kind: type[nn.Conv2d], bad: float) -> None:
    layer = kind(2, 2, 3)
    with torch.no_grad():
        layer.weight.view(-1)[3] = bad
    with pytest.raises(ValueError, match="not finite; it has diverged"):
        lipschitz_bound(layer)
