"""Poolings of norm 1."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from barrow.nn import (
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveL2NormPool2d,
    ScaledAvgPool2d,
    ScaledL2NormPool2d,
    lipschitz_bound,
)

LAYERS = [ScaledAvgPool2d((2, 3)), ScaledAdaptiveAvgPool2d(), ScaledL2NormPool2d((2, 3)), ScaledAdaptiveL2NormPool2d()]
NORMS = LAYERS[2:]


def test_values_by_hand() -> None:
    x = torch.tensor([[[3.0, 4.0, 0.0, 5.0], [0.0, 0.0, 0.0, 12.0]]])
    assert ScaledAvgPool2d(2)(x).tolist() == [[[3.5, 8.5]]]
    assert ScaledL2NormPool2d(2)(x).tolist() == [[[5.0, 13.0]]]
    assert torch.allclose(ScaledAdaptiveAvgPool2d()(x), torch.tensor(24 / math.sqrt(8)))
    assert torch.allclose(ScaledAdaptiveL2NormPool2d()(x), torch.tensor(math.sqrt(194)))


def test_against_torch_with_a_border_left_out() -> None:
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    assert torch.allclose(ScaledAvgPool2d((2, 3))(x), nn.functional.avg_pool2d(x, (2, 3)) * math.sqrt(6))
    assert torch.allclose(ScaledL2NormPool2d((2, 3))(x), nn.functional.lp_pool2d(x, 2, (2, 3)))
    assert ScaledAdaptiveAvgPool2d()(x).shape == ScaledAdaptiveL2NormPool2d()(x).shape == (2, 3, 1, 1)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_contraction_norm_and_bound(layer: nn.Module) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 1, 4, 6, generator=g, dtype=torch.float64)
    moved = (layer(x) - layer(y)).flatten(1).norm(dim=1)
    assert (moved <= (x - y).flatten(1).norm(dim=1) * (1 + 1e-14)).all()
    if layer in NORMS:
        assert torch.allclose(layer(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-12)
    J = torch.func.jacrev(layer)(x[0]).reshape(-1, 24)
    assert torch.allclose(torch.linalg.svdvals(J), torch.ones(len(J), dtype=torch.float64))
    assert lipschitz_bound(nn.Sequential(layer)) == 1


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_gradients_copies_and_layouts(layer: nn.Module) -> None:
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)
    assert torch.equal(copy.deepcopy(layer).eval()(x), layer(x))
    assert torch.allclose(layer(x.mT.contiguous().mT), layer(x), rtol=1e-14)
    assert layer.state_dict() == {}


@pytest.mark.parametrize("layer", NORMS, ids=repr)
def test_gradient_at_zero_is_zero(layer: nn.Module) -> None:
    x = torch.zeros(1, 1, 4, 6, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("layer", NORMS, ids=repr)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_vanish_nor_overflow(layer: nn.Module, scale: float) -> None:
    x = torch.randn(1, 1, 4, 6)
    assert torch.allclose(layer(x * scale) / scale, layer(x), rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_images_that_are_too_small(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 0, 3\), but pooling needs .* at least [12] x [13] pixels"):
        layer(torch.zeros(1, 1, 0, 3))
    with pytest.raises(ValueError, match="pooling needs"):
        layer(torch.zeros(4, 6))


def test_sizes_and_printing() -> None:
    for kind in (ScaledAvgPool2d, ScaledL2NormPool2d):
        with pytest.raises(ValueError, match="kernel_size must be a positive integer, got 0"):
            kind(0)
        assert repr(kind(2)) == f"{kind.__name__}(kernel_size=(2, 2))"


def test_overlap_cannot_be_asked_for() -> None:
    with pytest.raises(TypeError, match="stride"):
        ScaledAvgPool2d(3, stride=1)  # type: ignore[call-arg]


# -- torch's poolings --------------------------------------------------------------------------------------------------


def unit_spikes(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of a linear pooling of one channel."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    return module(eye).reshape(math.prod(shape), -1).T


def sizes(module: nn.Module) -> list[int]:
    """All small images that torch accepts, and one that is large."""
    accepted = []
    for size in [*range(1, 26), 60]:
        try:
            module(torch.zeros(1, 1, size))
        except RuntimeError:
            continue
        accepted.append(size)
    return accepted


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("s", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("count_pad", [True, False])
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_average_pooling_against_its_matrix(k: int, s: int, count_pad: bool, ceil_mode: bool) -> None:
    for pad in {0, k // 2}:
        module = nn.AvgPool1d(k, s, pad, ceil_mode, count_pad)
        bound = lipschitz_bound(module)
        norms = [torch.linalg.matrix_norm(unit_spikes(module, (n,)), 2).item() for n in sizes(module)]
        assert max(norms) <= bound * (1 + 1e-12)
        if ceil_mode or not count_pad:
            assert bound <= 1.6 * max(norms)
        else:
            # The norm on the infinite line, which finite ones approach.
            assert bound <= max(norms) * 1.05


def test_average_pooling_of_images_is_the_product_of_the_axes() -> None:
    for module in (
        nn.AvgPool2d((3, 2), (2, 1), (1, 0)),
        nn.AvgPool2d((3, 2), (2, 1), (1, 1), ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, divisor_override=2),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=-5),
    ):
        norms = [torch.linalg.matrix_norm(unit_spikes(module, s), 2).item() for s in [(3, 3), (5, 2), (12, 12)]]
        assert max(norms) <= lipschitz_bound(module) <= 1.5 * max(norms)
    # Two pixels of one, one pixel of the other half: sqrt(4 + 1) / 3 an axis.
    assert math.isclose(lipschitz_bound(nn.AvgPool2d(3, 2)), 5 / 9, rel_tol=1e-12)
    assert math.isclose(lipschitz_bound(nn.AvgPool3d(2)), 8**-0.5, rel_tol=1e-12)
    assert lipschitz_bound(nn.AvgPool2d(3, 1, 1)) == 1


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (nn.MaxPool1d(3), 1), (nn.MaxPool1d(3, 1), 3), (nn.MaxPool1d(3, 2, 1, ceil_mode=True), 2),
        (nn.MaxPool1d(3, 2, dilation=2), 3), (nn.MaxPool1d(4, 6, dilation=3), 2), (nn.MaxPool1d(2, 5), 1),
        (nn.MaxPool2d(3, (1, 2)), 6), (nn.MaxPool2d(2), 1), (nn.MaxPool3d(3, 2), 8),
    ],
    ids=repr,
)  # fmt: skip
def test_max_pooling_is_attained_by_a_spike(module: nn.Module, count: int) -> None:
    assert math.isclose(lipschitz_bound(module), math.sqrt(count), rel_tol=1e-12)
    axes = int(type(module).__name__[-2])
    x = torch.zeros(1, 1, *[18] * axes, dtype=torch.float64)
    attained = 0
    for place in range(18):
        spiked = x.clone()
        spiked[(0, 0, *[place] * axes)] = 1
        attained = max(attained, int(module(spiked).sum()))
    assert attained == count


def largest_slope(module: nn.Module, *shape: int) -> float:
    g = torch.Generator().manual_seed(0)
    slopes = []
    for _ in range(20):
        J = torch.func.jacrev(module)(torch.randn(1, 1, *shape, generator=g, dtype=torch.float64))
        slopes.append(torch.linalg.matrix_norm(J.reshape(-1, math.prod(shape)), 2).item())
    return max(slopes)


@pytest.mark.parametrize(
    ("module", "bound"),
    [
        (nn.LPPool1d(2, 3, 1), 3**0.5), (nn.LPPool2d(2, 2), 1), (nn.LPPool2d(4, 3, 2), 2), (nn.LPPool1d(1, 3), 3**0.5),
        (nn.LPPool1d(math.inf, 3, 2), 2**0.5), (nn.LPPool1d(-math.inf, 3, 2), 2**0.5), (nn.LPPool1d(1, 3, 1), 3),
        (nn.LPPool1d(2, 3, ceil_mode=True), 3**0.5), (nn.LPPool1d(1, 3, ceil_mode=True), 3),
        (nn.LPPool2d(2, 3, ceil_mode=True), 3), (nn.AdaptiveAvgPool2d(1), 1), (nn.AdaptiveAvgPool1d(3), 3**0.5),
        (nn.AdaptiveMaxPool2d((2, None)), 2**0.5), (nn.AdaptiveMaxPool1d(4), 2),
    ],
    ids=repr,
)  # fmt: skip
def test_other_poolings(module: nn.Module, bound: float) -> None:
    assert math.isclose(lipschitz_bound(module), bound, rel_tol=1e-12)
    axes = int(type(module).__name__[-2])
    known = [largest_slope(module, *[n] * axes) for n in ([1, 4, 7] if "Adaptive" in repr(module) else [4, 7])]
    assert max(known) <= bound * (1 + 1e-12)


def test_ones_and_single_pixels_attain_what_is_claimed_of_every_size() -> None:
    assert math.isclose(largest_slope(nn.AdaptiveAvgPool1d(3), 1), 3**0.5)
    assert math.isclose(largest_slope(nn.AdaptiveMaxPool1d(4), 1), 2)
    # One pixel left for the last window counts threefold under ceil_mode.
    assert math.isclose(largest_slope(nn.LPPool1d(2, 3, ceil_mode=True), 4), 3**0.5)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.MaxPool2d(2, return_indices=True), "return_indices=True returns a pair"),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), "return_indices=True returns a pair"),
        (nn.LPPool1d(3, 2), "norm_type = 3 is no norm"),
        (nn.LPPool1d(1.5, 2), "norm_type = 1.5 is no norm"),
    ],
    ids=repr,
)
def test_poolings_without_a_bound(module: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=rf"layer '0' \({type(module).__name__}\) has no Lipschitz bound: {words}"):
        lipschitz_bound(nn.Sequential(module))
