"""Sorting activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from barrow.nn import FullSort, GroupSort


@pytest.mark.parametrize("group", [1, 2, 3, 6, 12])
def test_groups_are_sorted(group: int) -> None:
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(group))
    expected = x.reshape(5, 12 // group, group).sort(-1).values.reshape(5, 12)
    assert torch.equal(GroupSort(group)(x), expected)
    if group == 12:
        assert torch.equal(FullSort()(x), expected)


@pytest.mark.parametrize("layer", [GroupSort(2), GroupSort(3), FullSort()])
def test_features_of_images_are_channels(layer: torch.nn.Module) -> None:
    x = torch.randn(2, 6, 4, 3)
    by_hand = layer(x.movedim(1, -1).reshape(-1, 6)).reshape(2, 4, 3, 6).movedim(-1, 1)
    assert torch.equal(layer(x), by_hand)
    volume = torch.randn(2, 6, 2, 4, 3)
    assert torch.equal(layer(volume)[:, :, 1], layer(volume[:, :, 1]))
    sequence = torch.randn(2, 4, 6)
    assert torch.equal(layer(sequence)[:, 1], layer(sequence[:, 1]))


def test_dim_overrides() -> None:
    x = torch.randn(2, 6, 4, 8)
    assert torch.equal(GroupSort(8, dim=-1)(x), x.sort(-1).values)
    assert torch.equal(FullSort(dim=2)(x), x.sort(2).values)


@pytest.mark.parametrize("layer", [GroupSort(2), GroupSort(4), FullSort()])
def test_contraction_norm_and_gradient(layer: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 8, generator=g, dtype=torch.float64)
    assert ((layer(x) - layer(y)).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-15)).all()
    assert torch.allclose(layer(x).norm(dim=1), x.norm(dim=1))
    assert torch.autograd.gradcheck(layer, x[:3].requires_grad_())


def test_non_contiguous_input() -> None:
    x = torch.randn(8, 5).T
    assert torch.equal(GroupSort(2)(x), GroupSort(2)(x.contiguous()))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"GroupSort\(4\) cannot split 6 features .* divides 6"):
        GroupSort(4)(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="group_size must be a positive integer"):
        GroupSort(0)
    with pytest.raises(ValueError, match="scalar"):
        FullSort()(torch.tensor(1.0))
    with pytest.raises(ValueError, match="dim = 3 does not exist"):
        GroupSort(2, dim=3)(torch.zeros(2, 6))


def test_printing_and_numpy_sizes() -> None:
    assert repr(GroupSort(np.int64(2))) == "GroupSort(2)"
    assert repr(GroupSort(2, dim=1)) == "GroupSort(2, dim=1)"
    assert repr(FullSort()) == "FullSort()"
    assert repr(FullSort(dim=1)) == "FullSort(dim=1)"
