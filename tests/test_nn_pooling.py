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
