"""A container of 1-Lipschitz layers: what it takes, what it refuses, and that it is a Sequential otherwise."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from barrow.nn import GroupSort, LipschitzSequential, OrthogonalLinear, UnitLinear, lipschitz_bound, to_plain


def model() -> LipschitzSequential:
    return LipschitzSequential(OrthogonalLinear(4, 8), GroupSort(2), nn.Dropout(0.5).eval(), UnitLinear(8, 1))


def test_is_a_sequential_with_a_bound() -> None:
    net = model()
    x = torch.randn(5, 4)
    assert torch.equal(net(x), nn.Sequential(*net)(x))
    assert lipschitz_bound(net) <= 1
    named = LipschitzSequential(OrderedDict(first=OrthogonalLinear(4, 4), sort=GroupSort(2)))
    assert list(dict(named.named_children())) == ["first", "sort"]
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    assert torch.equal(to_plain(net)(x), net(x))
    net[0] = OrthogonalLinear(4, 8)
    net.append(OrthogonalLinear(1, 2))
    assert net(x).shape == (5, 2)
    assert len(LipschitzSequential()) == 0


BAD: list[tuple[nn.Module, str]] = [
    (nn.BatchNorm1d(8), "BatchNorm1d.*has no Lipschitz bound.*use BatchCentering"),
    (nn.LayerNorm(8), "LayerNorm.*has no Lipschitz bound.*use LayerCentering"),
    (nn.MultiheadAttention(8, 2), "MultiheadAttention.*has no Lipschitz bound.*use orthogonal"),
    (nn.Dropout(0.5), "Dropout.*call model.eval"),
    (nn.Hardswish(), "bound 1.5, but at most 1.*OrthogonalLinear"),
    (nn.Sequential(nn.Hardswish(), nn.Identity()), "bound 1.5"),
]


@pytest.mark.parametrize(("layer", "words"), BAD)
@pytest.mark.parametrize(
    "put",
    [
        lambda layer: LipschitzSequential(nn.Identity(), layer),
        lambda layer: LipschitzSequential(OrderedDict(a=layer)),
        lambda layer: model().append(layer),
        lambda layer: model().insert(1, layer),
        lambda layer: model().extend([layer]),
        lambda layer: model().__setitem__(1, layer),
    ],
)
def test_refuses_by_name(put: Callable[[nn.Module], object], layer: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        put(layer)


def test_refuses_what_is_no_module() -> None:
    with pytest.raises(ValueError, match="'1' is a str, but layers are torch"):
        LipschitzSequential(nn.Identity(), "text")  # type: ignore[arg-type]
