"""The torchlip names of the light layers: torchlip's arguments and meanings, with coefficients that count."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from barrow import nn as bnn
from barrow.compat import torchlip
from barrow.nn import lipschitz_bound

K = 2.5
SCALED: list[tuple[nn.Module, nn.Module]] = [
    (torchlip.GroupSort2(k_coef_lip=K), bnn.GroupSort(2, 1)),
    (torchlip.HouseHolder(4, k_coef_lip=K), bnn.Householder(4, 1)),
    (torchlip.InvertibleDownSampling(2, k_coef_lip=K), bnn.InvertibleDownSampling(2)),
    (torchlip.InvertibleUpSampling((2, 2), k_coef_lip=K), bnn.InvertibleUpSampling(2)),
    (torchlip.ScaledAvgPool2d(2, k_coef_lip=K), bnn.ScaledAvgPool2d(2)),
    (torchlip.ScaledAdaptiveAvgPool2d((1, 1), k_coef_lip=K), bnn.ScaledAdaptiveAvgPool2d()),
    (torchlip.ScaledL2NormPool2d((2, 2), stride=2, k_coef_lip=K), bnn.ScaledL2NormPool2d(2)),
    (torchlip.ScaledAdaptativeL2NormPool2d(k_coef_lip=K), bnn.ScaledAdaptiveL2NormPool2d()),
]


def largest(layer: nn.Module) -> float:
    x = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    J = torch.func.jacrev(lambda z: layer(z[None])[0])(x)
    return torch.linalg.svdvals(J.reshape(-1, 16))[0].item()


@pytest.mark.parametrize(("layer", "native"), SCALED, ids=lambda layer: type(layer).__name__)
def test_the_coefficient_multiplies_and_is_certified(layer: nn.Module, native: nn.Module) -> None:
    x = torch.randn(2, 4, 2, 2)
    assert torch.allclose(layer(x), K * native(x))
    assert "k_coef_lip=2.5" in repr(layer)
    assert math.isclose(largest(copy.deepcopy(layer).double()), K, rel_tol=1e-6)
    assert lipschitz_bound(nn.Sequential(layer)) == K


def test_maxmin_doubles_the_width() -> None:
    x = torch.randn(2, 4, 2, 2)
    assert torch.equal(torchlip.MaxMin()(x), torch.cat((x.relu(), (-x).relu()), 1))
    assert torch.equal(torchlip.MaxMin(-1, K)(x), torch.cat((x.relu(), (-x).relu()), -1) * K)
    layer = torchlip.MaxMin(k_coef_lip=K)
    assert math.isclose(largest(layer), K, rel_tol=1e-12)
    assert lipschitz_bound(layer) == K
    assert repr(layer) == "MaxMin(dim=None, k_coef_lip=2.5)"
    with pytest.raises(ValueError, match="dim = 1 does not exist"):
        torchlip.MaxMin()(torch.zeros(3))


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("slope", [-9.0, -0.7, 0.25, 0.9, 9.0])
def test_lprelu_honours_its_coefficient(k: float, slope: float) -> None:
    layer = torchlip.LPReLU(init=slope, k_coef_lip=k).double()
    negative = max(min(layer.weight.item(), k), -k)
    x = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    assert torch.allclose(layer(x), torch.tensor([-2.0 * negative, 2.0 * min(1, k)], dtype=torch.float64))
    assert math.isclose(lipschitz_bound(layer), max(abs(negative), min(1, k)), rel_tol=1e-12)
    assert lipschitz_bound(layer) <= max(k, 1)
    assert largest(torchlip.LPReLU(4, slope, k).double()) <= lipschitz_bound(layer) * (1 + 1e-6)


def test_lprelu_errors() -> None:
    with pytest.raises(ValueError, match="num_parameters must be a positive integer"):
        torchlip.LPReLU(0)
    with pytest.raises(ValueError, match="3 slopes need 3 features"):
        torchlip.LPReLU(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="its slope is not finite"):
        lipschitz_bound(torchlip.LPReLU(init=math.nan))
    assert repr(torchlip.LPReLU()) == "LPReLU(num_parameters=1, k_coef_lip=1.0)"


def test_householder_initialisers() -> None:
    assert torchlip.HouseHolder(4).theta.tolist() == pytest.approx([math.pi / 2] * 2)
    assert torchlip.HouseHolder(4, theta_initializer=0.5).theta.tolist() == [0.5, 0.5]
    assert torchlip.HouseHolder(4, theta_initializer="ones").theta.tolist() == [1, 1]
    assert torchlip.HouseHolder(4, theta_initializer="zeros").theta.tolist() == [0, 0]
    assert torchlip.HouseHolder(400, theta_initializer="normal").theta.std() > 0.5
    with pytest.raises(ValueError, match="theta_initializer must be None, a number or one of zeros, ones, normal"):
        torchlip.HouseHolder(4, theta_initializer="x")
    layer = torchlip.HouseHolder(4, theta_initializer=math.nan)
    with pytest.raises(ValueError, match="its theta is not finite"):
        lipschitz_bound(layer)


def test_residual_takes_two_tensors_and_has_no_bound_alone() -> None:
    layer = torchlip.LipResidual()
    with torch.no_grad():
        layer.alpha.fill_(math.log(3))
    assert torch.allclose(layer(torch.tensor([4.0]), torch.tensor([8.0])), torch.tensor([5.0]))
    with pytest.raises(ValueError, match=r"x has shape \(2,\) but y has shape \(1,\)"):
        layer(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"layer '0' \(LipResidual\) has no Lipschitz bound"):
        lipschitz_bound(nn.Sequential(layer))
    with pytest.raises(ValueError, match=r"the model \(LipResidual\) .* barrow\.nn\.LipschitzResidual"):
        lipschitz_bound(layer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 1}, "stride = 1 differs from kernel_size = 2: windows that overlap"),
        ({"stride": (2, 1)}, "differs from kernel_size"),
        ({"ceil_mode": True}, "ceil_mode=True"),
        ({"padding": 1}, "padding must be 0, got 1"),
        ({"divisor_override": 1}, "divisor_override = 1 would break"),
        ({"k_coef_lip": -1.0}, "k_coef_lip must be positive and finite, got -1.0"),
    ],
)
def test_poolings_refuse_what_breaks_the_bound(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torchlip.ScaledAvgPool2d(2, **arguments)
    if "padding" not in arguments and "divisor_override" not in arguments:
        with pytest.raises(ValueError, match=message):
            torchlip.ScaledL2NormPool2d(2, **arguments)


def test_poolings_accept_what_keeps_it() -> None:
    assert lipschitz_bound(torchlip.ScaledAvgPool2d(2, (2, 2), (0, 0), False, False, 4)) == 1
    for kind in (torchlip.ScaledAdaptiveAvgPool2d, torchlip.ScaledAdaptativeL2NormPool2d):
        with pytest.raises(ValueError, match=r"output_size must be \(1, 1\), got \(2, 2\)"):
            kind((2, 2))


def test_centering() -> None:
    x = torch.randn(4, 3, 2, 2)
    assert torch.allclose(torchlip.LayerCentering(3, [-2, -1])(x), bnn.LayerCentering(3)(x))
    layer = torchlip.BatchCentering(3)
    layer(x)
    layer(x + 2)
    expected = x.mean((0, 2, 3)) + 1
    assert torch.allclose(layer.running_mean, expected, atol=1e-6)
    layer.eval()
    layer(x + 50)
    layer.train()
    assert torch.allclose(layer.running_mean, expected, atol=1e-6)
    layer(x + 7)
    assert torch.allclose(layer.running_mean, x.mean((0, 2, 3)) + 7, atol=1e-6)
    assert lipschitz_bound(nn.Sequential(layer, torchlip.LayerCentering())) == 1


def test_every_name_is_exported_once() -> None:
    assert set(torchlip.layers.__all__) <= set(torchlip.__all__)
    assert len(set(torchlip.__all__)) == len(torchlip.__all__)
    assert all(hasattr(torchlip, name) for name in torchlip.__all__)
