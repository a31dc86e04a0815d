"""Invertible re-sampling: permutations that undo each other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from barrow.nn import InvertibleDownSampling, InvertibleUpSampling, lipschitz_bound


@pytest.mark.parametrize("k", [1, 2, 3])
def test_square_windows_are_the_pixel_shuffles_of_torch(k: int) -> None:
    x = torch.randn(2, 3, 6, 12)
    y = InvertibleDownSampling(k)(x)
    assert torch.equal(y, nn.functional.pixel_unshuffle(x, k))
    assert torch.equal(InvertibleUpSampling(k)(y), nn.functional.pixel_shuffle(y, k))


def test_oblong_windows_by_hand() -> None:
    x = torch.arange(12.0).reshape(1, 2, 6)
    y = InvertibleDownSampling((1, 3))(x)
    assert y.tolist() == [[[0, 3], [6, 9]], [[1, 4], [7, 10]], [[2, 5], [8, 11]]]
    assert InvertibleDownSampling((2, 1))(x)[:, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("k", [2, (2, 3), (3, 1)])
def test_inverses_isometries_and_layouts(k: int | tuple[int, int]) -> None:
    down, up = InvertibleDownSampling(k), InvertibleUpSampling(k)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(up(down(x)), x)
    assert torch.equal(down(x).flatten().sort().values, x.flatten().sort().values)
    assert torch.equal(down(x.mT.contiguous().mT), down(x))
    assert torch.equal(copy.deepcopy(down).eval()(x), down(x))
    assert torch.autograd.gradcheck(nn.Sequential(down, up), x[:1, :1].requires_grad_())
    assert down.state_dict() == {}


@pytest.mark.parametrize("layer", [InvertibleDownSampling((2, 1)), InvertibleUpSampling((1, 2))], ids=repr)
def test_bound_is_the_norm_of_the_jacobian(layer: nn.Module) -> None:
    J = torch.func.jacrev(layer)(torch.randn(2, 2, 2, dtype=torch.float64)).reshape(8, 8)
    assert torch.equal(J @ J.T, torch.eye(8, dtype=torch.float64))
    assert lipschitz_bound(nn.Sequential(layer)) == 1


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 5, 4\), but windows of 2 x 2 .* divisible by 2"):
        InvertibleDownSampling(2)(torch.zeros(1, 3, 5, 4))
    with pytest.raises(ValueError, match="windows of 2 x 2"):
        InvertibleDownSampling(2)(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"windows of 2 x 3 need .* channels divisible by 6"):
        InvertibleUpSampling((2, 3))(torch.zeros(1, 4, 5, 4))
    for wrong in (0, (2, 0)):
        with pytest.raises(ValueError, match="kernel_size must be a positive integer, got 0"):
            InvertibleDownSampling(wrong)
    for bad in ((1, 2, 3), 1.5):
        with pytest.raises(ValueError, match=r"kernel_size must be one positive integer or two \(height, width\)"):
            InvertibleUpSampling(bad)  # type: ignore[arg-type]


def test_printing() -> None:
    assert repr(InvertibleDownSampling(2)) == "InvertibleDownSampling(kernel_size=(2, 2))"
    assert repr(InvertibleUpSampling((1, 2))) == "InvertibleUpSampling(kernel_size=(1, 2))"
