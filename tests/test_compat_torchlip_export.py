"""torchlip's names for exporting, for coefficients and for sorts."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from barrow.compat import torchlip
from barrow.nn import Critic, lipschitz_bound


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        torchlip.Sequential(torchlip.SpectralLinear(6, 8), torchlip.FullSort(), k_coef_lip=2.0),
        nn.Sequential(torchlip.GroupSort(4), torchlip.FrobeniusLinear(8, 4)),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        Critic(4, (4,)),
    )


def test_everything_can_be_imported_by_a_star() -> None:
    names: dict[str, object] = {}
    exec("from barrow.compat.torchlip import *", names)
    assert {"LipschitzPReLU", "ScaledL2NormPooling2D", "Sequential", "vanilla_model"} <= set(names)
    assert torchlip.LipschitzPReLU is torchlip.LPReLU
    assert torchlip.ScaledL2NormPooling2D is torchlip.ScaledL2NormPool2d


@pytest.mark.parametrize("in_place", [True, False])
def test_vanilla_model(in_place: bool) -> None:
    model, x = network(), torch.randn(5, 6)
    known = model(x)
    relu = model.append(nn.ReLU())[-1]
    plain = torchlip.vanilla_model(model, in_place)
    assert torch.equal(plain(x), known.relu())
    assert (plain is model) == in_place
    assert (plain[-1] is relu) == in_place
    assert plain.training == in_place
    assert model.training
    kinds = {type(m).__module__.split(".")[0] for m in plain.modules() if list(m.parameters(recurse=False))}
    assert kinds == {"torch"}
    assert not nn.utils.parametrize.is_parametrized(plain[2])


def test_vanilla_model_keeps_shared_layers_and_refuses_what_it_cannot_do() -> None:
    layer = torchlip.SpectralLinear(3, 3)
    model = torchlip.vanilla_model(nn.Sequential(layer, nn.Sequential(layer)))
    assert model[0] is model[1][0]
    with pytest.raises(ValueError, match="SpectralLinear cannot become another layer in place: use in_place=False"):
        torchlip.vanilla_model(layer)
    assert type(torchlip.vanilla_model(layer, in_place=False)) is nn.Linear
    with pytest.raises(ValueError, match="new_module belongs to torchlip's own recursion"):
        torchlip.vanilla_model(model, True, model)


def test_vanilla_export_of_each_layer() -> None:
    x = torch.randn(2, 4, 4, 4)
    for layer in (
        torchlip.MaxMin(), torchlip.GroupSort(2, 3.0), torchlip.GroupSort2(), torchlip.FullSort(2.0),
        torchlip.HouseHolder(4), torchlip.LPReLU(k_coef_lip=2.0), torchlip.InvertibleDownSampling(2),
        torchlip.ScaledAvgPool2d(2), torchlip.ScaledL2NormPool2d(2), torchlip.SpectralLinear(4, 4, k_coef_lip=0.3),
        torchlip.FrobeniusLinear(4, 2, k_coef_lip=0.3),
    ):  # fmt: skip
        plain = layer.vanilla_export()
        assert isinstance(layer, torchlip.LipschitzModule)
        assert plain is not layer
        assert torch.equal(plain(x), layer(x))
        assert layer.get_scaling() == layer.k_coef_lip
        assert layer.get_scaling_factor(training=True) == layer.k_coef_lip
    whole = torchlip.Sequential(torchlip.SpectralLinear(4, 4), torchlip.FullSort(), k_coef_lip=3.0).vanilla_export()
    assert [type(m).__name__ for m in whole] == ["Linear", "FullSort", "Scale"]


def test_weights_loaded_after_training_are_those_exported() -> None:
    # Elsewhere the weight of the last training forward is exported, and eval mode uses it too.
    model, x = torchlip.Sequential(torchlip.SpectralLinear(4, 4)).eval(), torch.randn(3, 4)
    other = torchlip.Sequential(torchlip.SpectralLinear(4, 4))
    model(x)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.vanilla_export()(x), other(x))
    with torch.no_grad():
        model[0].raw_weight.add_(1.0)
    after = model.vanilla_export()[0].weight
    assert torch.allclose(after @ after.T, torch.eye(4), atol=1e-5)
    assert torch.equal(model(x), model.vanilla_export()(x))


@pytest.mark.parametrize("k", [0.2, 5.0])
def test_a_sequential_honours_its_coefficient_through_linear_layers(k: float) -> None:
    # Elsewhere the coefficient never reaches linear layers and convolutions.
    model = torchlip.Sequential(torchlip.SpectralLinear(4, 4), torchlip.SpectralLinear(4, 4), k_coef_lip=k).double()
    x, y = torch.randn(2, 8, 4, dtype=torch.float64)
    ratio = (model(x) - model(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert torch.allclose(ratio, torch.full((8,), k, dtype=torch.float64), rtol=1e-4)
    assert math.isclose(lipschitz_bound(model), k, rel_tol=1e-4)
    assert math.isclose(lipschitz_bound(model.vanilla_export()), k, rel_tol=1e-4)


class Mine(nn.Linear, torchlip.LipschitzModule):
    """A layer as torchlip's documentation tells users to write one."""

    def __init__(self, size: int, k: float, factory: torchlip.SharedLipFactory | None = None) -> None:
        nn.Linear.__init__(self, size, size)
        torchlip.LipschitzModule.__init__(self, k, factory)
        torchlip.utils.bjorck_norm(self)
        self.apply_lipschitz_factor()

    def vanilla_export(self) -> nn.Module:
        return torchlip.vanilla_model(nn.Sequential(self), in_place=False)[0]


def test_layers_of_users() -> None:
    factory = torchlip.SharedLipFactory()
    assert factory.get_current_product_value(True) == 1
    layer, one = Mine(4, 3.0, factory), Mine(4, 1.0, factory)
    assert torch.allclose(torch.linalg.svdvals(layer.weight), torch.full((4,), 3.0))
    assert torch.allclose(torch.linalg.svdvals(one.weight), torch.ones(4))
    assert factory.get_current_product_value(True) == 3
    assert layer.get_scaling_factor() == 3
    assert Mine(4, 1.0).get_scaling_factor() == 1
    plain, x = layer.vanilla_export(), torch.randn(2, 4)
    assert torch.equal(plain(x), layer(x))
    assert not nn.utils.parametrize.is_parametrized(plain)
    assert nn.utils.parametrize.is_parametrized(layer)
    assert math.isclose(lipschitz_bound(layer.eval()), 3, rel_tol=1e-4)
    with pytest.raises(ValueError, match="k_coef_lip must be positive"):
        Mine(4, 0.0)
    with pytest.raises(TypeError, match="abstract"):
        torchlip.ScaledLipschitzModule()  # type: ignore[abstract]


@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 5), (3, 6, 5, 4)])
def test_sorts_work_along_dimension_one(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.equal(torchlip.FullSort()(x), x.sort(1).values)
    assert torch.equal(torchlip.GroupSort(None, 2.0)(x), 2 * x.sort(1).values)
    assert torch.equal(torchlip.GroupSort(9)(x), x.sort(1).values)
    thirds = torch.stack([part.sort(1).values for part in x.chunk(2, 1)]).transpose(0, 1).reshape(shape)
    assert torch.equal(torchlip.GroupSort(3)(x), thirds)
    # Elsewhere pairs of a transposed input cannot be viewed.
    assert torch.equal(torchlip.GroupSort(2)(x.mT.contiguous().mT), torchlip.GroupSort2()(x))
    assert lipschitz_bound(nn.Sequential(torchlip.FullSort(3.0), torchlip.GroupSort(2, 0.5))) == pytest.approx(1.5)


def test_sorts_refuse() -> None:
    with pytest.raises(ValueError, match="cannot split 5 features"):
        torchlip.GroupSort(2)(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="dim = 1 does not exist"):
        torchlip.FullSort()(torch.zeros(4))
    with pytest.raises(ValueError, match="group_size must be a positive integer"):
        torchlip.GroupSort(0)
    with pytest.raises(ValueError, match="k_coef_lip must be positive"):
        torchlip.FullSort(-1.0)
    assert repr(torchlip.GroupSort(2)) == "GroupSort(group_size=2, k_coef_lip=1.0)"
    assert torch.equal(copy.deepcopy(torchlip.GroupSort(2))(torch.ones(1, 2)), torch.ones(1, 2))


def test_a_reply_is_a_tensor() -> None:
    assert isinstance(torchlip.FullSort()(torch.zeros(1, 2)), Tensor)
