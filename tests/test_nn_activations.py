"""Activations: values by hand, isometry where claimed, and the certificate."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import Abs, GroupSort, Householder, LipschitzPReLU, MaxMin, lipschitz_bound


def random_householder(channels: int = 6) -> Householder:
    layer = Householder(channels, dtype=torch.float64)
    with torch.no_grad():
        layer.theta.copy_(torch.linspace(-4, 5, channels // 2))
    return layer


def layers() -> list[nn.Module]:
    return [MaxMin(), random_householder(), LipschitzPReLU(6, -0.5, dtype=torch.float64), Abs()]


def pair() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 300, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, y


def test_values_by_hand() -> None:
    x = torch.tensor([[3.0, 1.0, -2.0, -4.0]])
    assert MaxMin()(x).tolist() == [[1.0, 3.0, -4.0, -2.0]]
    assert Abs()(x).tolist() == [[3.0, 1.0, 2.0, 4.0]]
    assert LipschitzPReLU(init=-0.5)(x).tolist() == [[3.0, 1.0, 1.0, 2.0]]
    assert torch.allclose(Householder(4)(x), torch.tensor([[-2.0, -4.0, 3.0, 1.0]]))


@pytest.mark.parametrize("theta", [0.0, 0.7, math.pi / 2, math.pi, -2.0, 10.0])
def test_householder_is_a_reflection_on_one_side_of_its_line(theta: float) -> None:
    layer = Householder(2, dtype=torch.float64)
    with torch.no_grad():
        layer.theta.fill_(theta)
    z = pair()[0][:, :2]
    mirror = torch.tensor([[math.cos(theta), math.sin(theta)], [math.sin(theta), -math.cos(theta)]]).double()
    outside = z[:, 0] * math.sin(theta / 2) > z[:, 1] * math.cos(theta / 2)
    assert outside.any()
    assert torch.allclose(layer(z), torch.where(outside[:, None], z @ mirror, z), atol=1e-6)
    line = torch.tensor([[math.cos(theta / 2), math.sin(theta / 2)]], dtype=torch.float64)
    assert torch.allclose(layer(line), line)


@pytest.mark.parametrize("layer", layers(), ids=repr)
def test_contraction_norm_and_bound(layer: nn.Module) -> None:
    x, y = pair()
    assert ((layer(x) - layer(y)).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-14)).all()
    if not isinstance(layer, LipschitzPReLU):
        assert torch.allclose(layer(x).norm(dim=1), x.norm(dim=1), rtol=1e-12)
    J = torch.func.jacrev(lambda z: layer(z[None])[0])(x[0])
    assert math.isclose(torch.linalg.svdvals(J)[0].item(), lipschitz_bound(layer), rel_tol=1e-12)


@pytest.mark.parametrize("layer", layers(), ids=repr)
def test_gradient(layer: nn.Module) -> None:
    x = pair()[0][:3].requires_grad_()
    assert torch.autograd.gradcheck(lambda z, *p: layer(z), (x, *layer.parameters()))


@pytest.mark.parametrize("layer", layers(), ids=repr)
def test_copies_modes_and_layouts(layer: nn.Module) -> None:
    x = pair()[0]
    expected = layer(x)
    other = copy.deepcopy(layer)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), expected)
    assert torch.equal(layer(x.T.contiguous().T), expected)


@pytest.mark.parametrize("layer", [MaxMin(), random_householder(), LipschitzPReLU(6, -0.5, dtype=torch.float64)])
def test_features_of_images_are_channels(layer: nn.Module) -> None:
    x = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    by_hand = layer(x.movedim(1, -1).reshape(-1, 6)).reshape(2, 4, 3, 6).movedim(-1, 1)
    assert torch.allclose(layer(x), by_hand, rtol=1e-14)


def test_dim_overrides_and_maxmin_is_group_sort() -> None:
    x = torch.randn(2, 6, 4, 8)
    assert torch.equal(MaxMin(dim=-1)(x), GroupSort(2, dim=-1)(x))
    assert torch.equal(Householder(8, dim=-1)(x), Householder(8)(x.reshape(-1, 8)).reshape(x.shape))


def test_slopes_are_clamped_and_their_gradient_stops_there() -> None:
    layer = LipschitzPReLU(4)
    with torch.no_grad():
        layer.raw_weight.copy_(torch.tensor([3.0, 1.0, -1.0, -2.0]))
    y = layer(-torch.ones(1, 4))
    assert y.tolist() == [[-1.0, -1.0, 1.0, 1.0]]
    assert layer.weight.tolist() == [1.0, 1.0, -1.0, -1.0]
    y.sum().backward()
    assert layer.raw_weight.grad is not None
    assert layer.raw_weight.grad.tolist() == [0.0, -1.0, -1.0, 0.0]
    assert lipschitz_bound(layer) == 1


@pytest.mark.parametrize("layer", [Householder(4), LipschitzPReLU()])
def test_diverged_parameters_are_refused(layer: nn.Module) -> None:
    with torch.no_grad():
        next(layer.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"layer '0' has no Lipschitz bound: its (theta|slope) is not finite"):
        lipschitz_bound(nn.Sequential(layer))
    with pytest.raises(ValueError, match=r"the model has no Lipschitz bound"):
        lipschitz_bound(layer)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"MaxMin needs an even number of features, got 5 \(dimension 1 of \(2, 5\)\)"):
        MaxMin()(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="dim = 2 does not exist"):
        MaxMin(dim=2)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="scalar"):
        Householder(2)(torch.tensor(1.0))
    with pytest.raises(ValueError, match="channels must be even, got 3"):
        Householder(3)
    with pytest.raises(ValueError, match="channels must be a positive integer"):
        Householder(0)
    with pytest.raises(ValueError, match=r"Householder\(4\) got 6 features"):
        Householder(4)(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"init must be a slope in \[-1, 1\], got 1.5"):
        LipschitzPReLU(init=1.5)
    with pytest.raises(ValueError, match="num_parameters must be a positive integer"):
        LipschitzPReLU(0)
    with pytest.raises(ValueError, match="3 slopes need 3 features in dimension 1"):
        LipschitzPReLU(3)(torch.zeros(2, 4))


def test_printing() -> None:
    assert repr(MaxMin()) == "MaxMin()"
    assert repr(MaxMin(1)) == "MaxMin(dim=1)"
    assert repr(Householder(4, dim=1)) == "Householder(4, dim=1)"
    assert repr(LipschitzPReLU()) == "LipschitzPReLU(num_parameters=1)"
