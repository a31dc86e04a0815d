"""The residual connection and its bound."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from barrow.nn import LipschitzResidual, OrthogonalLinear, lipschitz_bound


def residual(norm: float, a: float) -> LipschitzResidual:
    """A scaled identity, for which the bound is attained."""
    linear = nn.Linear(3, 3, dtype=torch.float64)
    layer = LipschitzResidual(linear, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3, dtype=torch.float64) * norm)
        layer.a.fill_(a)
    return layer


def test_value_by_hand() -> None:
    layer = residual(3.0, math.log(3))
    with torch.no_grad():
        layer.module.bias.zero_()
    x = torch.tensor([[1.0, 2.0, -4.0]], dtype=torch.float64)
    assert torch.allclose(layer(x), 0.75 * x + 0.25 * 3 * x, rtol=1e-14)
    assert LipschitzResidual(nn.Identity()).a.item() == 0


@pytest.mark.parametrize("norm", [0.0, 0.5, 3.0, 1e6])
@pytest.mark.parametrize("a", [-1000.0, -20.0, -0.3, 0.0, 1.7, 40.0, 1000.0])
def test_bound_follows_a_and_is_attained(norm: float, a: float) -> None:
    layer = residual(norm, a)
    J = torch.func.jacrev(layer)(torch.zeros(3, dtype=torch.float64))
    truth, bound = torch.linalg.svdvals(J)[0].item(), lipschitz_bound(nn.Sequential(layer))
    assert truth * (1 - 1e-15) <= bound <= truth * (1 + 1e-9) + 1e-300


def test_one_stays_one() -> None:
    assert lipschitz_bound(LipschitzResidual(nn.ReLU())) == 1
    assert lipschitz_bound(LipschitzResidual(OrthogonalLinear(4, 4))) <= 1


def test_infinite_inner_bound() -> None:
    assert lipschitz_bound(residual(1.7e308, 0.0)) >= 0.8e308


def test_contraction_gradient_copies_and_layouts() -> None:
    torch.manual_seed(0)
    layer = LipschitzResidual(nn.Sequential(OrthogonalLinear(4, 4), nn.ReLU())).double()
    x, y = torch.randn(2, 100, 4, dtype=torch.float64)
    assert ((layer(x) - layer(y)).norm(dim=1) <= (x - y).norm(dim=1)).all()
    assert torch.autograd.gradcheck(lambda z, a: layer(z), (x[:3].requires_grad_(), layer.a))
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.a.fill_(5.0)
    assert not torch.allclose(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer(x))
    assert torch.allclose(layer(x.T.contiguous().T), layer(x), rtol=1e-14)


def test_errors_name_the_place() -> None:
    with pytest.raises(ValueError, match=r"maps shape \(2, 4\) to \(2, 1\), but a residual connection needs equal"):
        LipschitzResidual(nn.Linear(4, 1))(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"layer '0\.module' \(BatchNorm1d\) has no Lipschitz bound"):
        lipschitz_bound(nn.Sequential(LipschitzResidual(nn.BatchNorm1d(4))))
    with pytest.raises(ValueError, match=r"module must be a torch\.nn\.Module, got int"):
        LipschitzResidual(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="its a is not finite"):
        lipschitz_bound(residual(2.0, math.nan))
