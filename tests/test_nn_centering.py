"""Centering: projections in training, translations in eval mode, and buffers that only training moves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, distributed, nn

from barrow.nn import (
    Abs,
    BatchCentering,
    Householder,
    InvertibleDownSampling,
    InvertibleUpSampling,
    LayerCentering,
    LipschitzPReLU,
    LipschitzResidual,
    MaxMin,
    ScaledAdaptiveL2NormPool2d,
    ScaledAvgPool2d,
    lipschitz_bound,
)


def images(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def set_bias(layer: LayerCentering | BatchCentering) -> None:
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.copy_(torch.arange(1.0, 1.0 + layer.num_features))


def test_layer_centering_by_hand() -> None:
    x = images(2, 3, 4, 5)
    layer = LayerCentering(3, dtype=torch.float64)
    set_bias(layer)
    expected = x - x.flatten(2).mean(2)[..., None, None] + torch.tensor([1.0, 2, 3])[:, None, None]
    assert torch.allclose(layer(x), expected)
    single = LayerCentering(dim=1, dtype=torch.float64)
    set_bias(single)
    assert torch.allclose(single(x), x - x.mean(1, keepdim=True) + 1)
    assert torch.allclose(LayerCentering(dim=(1, -1), bias=False)(x), x - x.mean((1, 3), keepdim=True))


def test_batch_centering_by_hand() -> None:
    x = images(4, 3, 2, 5)
    layer = BatchCentering(3, dtype=torch.float64)
    set_bias(layer)
    bias = torch.tensor([1.0, 2, 3], dtype=torch.float64)[:, None, None]
    mean = x.movedim(1, 0).flatten(1).mean(1)[:, None, None]
    assert torch.allclose(layer(x), x - mean + bias)
    assert torch.allclose(layer.eval()(2 * x), 2 * x - mean + bias)


def test_running_mean_is_plain_at_first_and_exponential_later() -> None:
    layer, plain = BatchCentering(1, momentum=0.5), BatchCentering(1, momentum=None)
    for value in (1.0, 3.0, 6.0):
        layer(torch.full((2, 1), value))
        plain(torch.full((2, 1), value))
    assert layer.running_mean.item() == 4.0
    assert math.isclose(plain.running_mean.item(), 10 / 3, rel_tol=1e-6)
    plain.reset_running_mean()
    assert math.isclose(plain.running_mean.item(), 10 / 3, rel_tol=1e-6)
    plain(torch.full((2, 1), 5.0))
    assert plain.running_mean.item() == 5.0


def test_eval_moves_no_buffer_and_state_dict_holds_them() -> None:
    layer = BatchCentering(3)
    layer(torch.randn(8, 3))
    before = copy.deepcopy(layer.state_dict())
    assert set(before) == {"bias", "running_mean", "num_batches_tracked"}
    assert before["num_batches_tracked"] == 1
    layer.eval()
    x = torch.randn(8, 3)
    expected = layer(x)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    other = BatchCentering(3).eval()
    other.load_state_dict(before)
    assert torch.equal(other(x), expected)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    untrained = BatchCentering(3).eval()
    assert torch.equal(untrained(x), x)


def test_dims_and_numbers_of_means() -> None:
    x = images(4, 3, 2, 5)
    whole = BatchCentering(1, dim=(0, 1, 2, -1), bias=False, dtype=torch.float64)
    assert torch.allclose(whole(x), x - x.mean())
    each = BatchCentering(30, dim=0, dtype=torch.float64)
    assert torch.allclose(each(x), x - x.mean(0))
    assert torch.allclose(each.eval()(x), x - x.mean(0))


@pytest.mark.parametrize(
    "layer",
    [
        LayerCentering(3, dtype=torch.float64),
        LayerCentering(dim=(1, 3), dtype=torch.float64),
        BatchCentering(3, dtype=torch.float64),
        BatchCentering(3, dtype=torch.float64).eval(),
    ],
    ids=["pixels", "channels", "training", "eval"],
)
def test_norm_bound_gradient_and_layout(layer: nn.Module) -> None:
    x = images(2, 3, 2, 2)
    J = torch.autograd.functional.jacobian(layer, x).reshape(24, 24)
    truth = torch.linalg.svdvals(J)[0].item()
    assert math.isclose(truth, lipschitz_bound(nn.Sequential(layer)), rel_tol=1e-12)
    assert torch.allclose(J @ J, J)
    y = images(4, 3, 2, 2)[2:]
    assert (layer(x) - layer(y)).norm() <= (x - y).norm() * (1 + 1e-14)
    assert torch.allclose(layer(x.mT.contiguous().mT), layer(x))
    assert torch.autograd.gradcheck(lambda z, *p: layer(z), (x.requires_grad_(), *layer.parameters()))


def test_the_mean_and_its_gradient_are_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, others = images(4, 3), images(10, 3)[4:] + 5
    sums: list[Tensor] = []

    def all_reduce(t: Tensor) -> None:
        sums.append(t.clone())
        if len(sums) == 1:
            t += torch.cat((others.sum(0), torch.tensor([6.0]).double()))

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    layer = BatchCentering(3, dtype=torch.float64)
    x.requires_grad_()
    mean = torch.cat((x, others)).mean(0)
    y = layer(x)
    assert torch.allclose(y, x - mean)
    assert torch.allclose(layer.running_mean, mean)
    weight = images(4, 3)
    (grad,) = torch.autograd.grad((y * weight).sum(), x, retain_graph=True)
    assert torch.allclose(grad, weight - weight.sum(0) / 10)
    assert len(sums) == 2, "the gradient is summed over processes too"


def test_dtypes_stay() -> None:
    layer = BatchCentering(2, bias=False)
    assert layer(torch.zeros(4, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.eval()(torch.zeros(4, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"would average over dimension 0, the samples"):
        LayerCentering()(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"dim = 3 of LayerCentering does not exist in an input of shape \(4, 3\)"):
        LayerCentering(dim=3)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"num_features=2, but dimension 1 of \(4, 3\) has size 3"):
        LayerCentering(2, dim=-1)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="dim is empty"):
        LayerCentering(dim=())
    with pytest.raises(ValueError, match="num_features must be a positive integer"):
        BatchCentering(0)
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\] or None, got 0"):
        BatchCentering(2, momentum=0)
    with pytest.raises(ValueError, match=r"shape \(3,\), but BatchCentering needs \(samples, features"):
        BatchCentering(3)(torch.zeros(3))
    with pytest.raises(ValueError, match="dim = 2 of BatchCentering does not exist"):
        BatchCentering(3, dim=(0, 2))(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="leaves out dimension 0"):
        BatchCentering(3, dim=1)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"num_features=2, but an input of shape \(4, 3\) has 3 means .* \(0,\)"):
        BatchCentering(2)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="an empty batch has no mean"):
        BatchCentering(3)(torch.zeros(0, 3))


def test_printing() -> None:
    assert repr(LayerCentering(dim=-1)) == "LayerCentering(1, dim=(-1,), bias=True)"
    assert repr(BatchCentering(2, bias=False)) == "BatchCentering(2, dim=None, bias=False, momentum=0.1)"


def test_one_net_of_all_layers_compiles_into_one_graph() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        InvertibleDownSampling(2), Householder(4), LayerCentering(4), LipschitzResidual(MaxMin()), BatchCentering(4),
        LipschitzPReLU(4), InvertibleUpSampling(2), ScaledAvgPool2d(2), Abs(), ScaledAdaptiveL2NormPool2d(),
    )  # fmt: skip
    other, x = copy.deepcopy(net), torch.randn(3, 1, 8, 8)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), net(x))
    assert torch.equal(other[4].running_mean, net[4].running_mean)
    assert torch.allclose(torch.compile(other.eval(), fullgraph=True, backend="eager")(x), net.eval()(x))
    assert lipschitz_bound(net, (1, 8, 8)) == 1


def test_transforms_of_training_mode_see_a_function() -> None:
    layer = BatchCentering(3, dtype=torch.float64)
    layer(images(4, 3))
    before = copy.deepcopy(layer.state_dict())
    x = images(5, 3)
    J = torch.func.jacrev(layer)(x).reshape(15, 15)
    centred = torch.eye(5, dtype=torch.float64) - 0.2
    assert torch.allclose(J, torch.kron(centred, torch.eye(3, dtype=torch.float64)))
    several = images(2, 5, 3)
    assert torch.allclose(torch.func.vmap(layer)(several), several - several.mean(1, keepdim=True))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
