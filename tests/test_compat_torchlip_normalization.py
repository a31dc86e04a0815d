"""Batch normalization with one divisor: by hand, against pooled statistics, and exported."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from barrow.compat import torchlip
from barrow.nn import lipschitz_bound
from barrow.nn.export import to_plain


def trained(**options) -> tuple[torchlip.BatchLipNorm, torch.Tensor]:
    """A layer that has seen uneven batches of images, and all of them together."""
    g = torch.Generator().manual_seed(0)
    layer = torchlip.BatchLipNorm(3, **options).double()
    spread = torch.tensor([1.0, 3.0, 0.1]).double().reshape(3, 1, 1)
    batches = [torch.randn(n, 3, 2, 2, generator=g, dtype=torch.float64) * spread + 100 for n in (5, 2, 1)]
    for batch in batches:
        layer(batch)
    return layer, torch.cat(batches)


def test_training_by_hand() -> None:
    layer = torchlip.BatchLipNorm(2)
    x = torch.tensor([[0.0, 1.0], [0.0, 5.0], [3.0, 3.0]])
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
    # Variances 3 and 4, the larger divides both.
    assert torch.allclose(layer(x), torch.tensor([[9.5, 19.0], [9.5, 21.0], [11.0, 20.0]]))
    assert torch.allclose(layer.get_scaling(training=True), torch.tensor(0.5))


@pytest.mark.parametrize("centering", [True, False])
def test_eval_mode_uses_all_samples_of_the_epoch(centering: bool) -> None:
    layer, x = trained(centering=centering)
    layer.eval()
    rows = x.transpose(0, 1).reshape(3, -1)
    n = rows.shape[1]
    mean = rows.mean(1) if centering else torch.zeros(3, dtype=torch.float64)
    variance = (rows - mean[:, None]).square().sum(1) / (n - 1)
    scale = variance.max().rsqrt()
    assert torch.allclose(layer.running_mean, mean, rtol=1e-12)
    assert torch.allclose(layer.get_scaling(), scale, rtol=1e-12)
    assert torch.allclose(layer(x), (x - mean.reshape(3, 1, 1)) * scale, rtol=1e-9, atol=1e-9)
    before = copy.deepcopy(layer.state_dict())
    layer(x + 7)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_an_epoch_begins_with_training_mode() -> None:
    layer, x = trained()
    old = layer.eval().running_variance.clone()
    assert torch.equal(layer.train().running_variance, old)
    layer(2 * x)
    assert torch.allclose(layer.running_variance, (2 * x).transpose(0, 1).reshape(3, -1).var(1))


def test_constant_and_early() -> None:
    layer = torchlip.BatchLipNorm(2)
    x = torch.tensor([[1.0, 0.0], [1.0, 0.2]])
    # A feature that does not vary is no reason to divide by less than the other asks for.
    assert torch.allclose(layer(x), torch.tensor([[0.0, -(0.5**0.5)], [0.0, 0.5**0.5]]))
    assert torch.equal(layer(torch.ones(3, 2)), torch.zeros(3, 2))
    fresh = torchlip.BatchLipNorm(2).eval()
    assert torch.equal(fresh(x), x)
    with pytest.raises(ValueError, match="has seen no training batch yet"):
        fresh.get_scaling(training=True)
    assert torchlip.BatchLipNorm(2, normalize=False)(torch.ones(1, 2)).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="a variance needs at least two numbers a feature"):
        layer(torch.ones(1, 2))


def test_gradients() -> None:
    layer = torchlip.BatchLipNorm(3).double()
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    layer.eval()
    assert torch.autograd.gradcheck(layer, x)


def test_bound_and_factory() -> None:
    factory = torchlip.SharedLipFactory()
    model = nn.Sequential(torchlip.BatchLipNorm(3, factory=factory), torchlip.BatchLipNorm(3, factory=factory))
    x = (torch.randn(20, 3) * 5).requires_grad_()
    y = model(x)
    product = factory.get_current_product_value(training=True)
    assert torch.autograd.grad(product, x, retain_graph=True)[0].abs().sum() > 0
    x = x.detach()
    assert torch.allclose(product, model[0].get_scaling(True) * model[1].get_scaling(True))
    with pytest.raises(ValueError, match=r"layer '0' \(BatchLipNorm\) .* call model.eval\(\) first"):
        lipschitz_bound(model)
    model.eval()
    bound = lipschitz_bound(model)
    assert math.isclose(bound, factory.get_current_product_value(training=False).item(), rel_tol=1e-6)
    ratio = (model(x) - model(x + 1)).norm(dim=1) / 3**0.5
    assert torch.allclose(ratio, torch.full_like(ratio, bound), rtol=1e-4)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    assert twin[0].factory.modules == [twin[0], twin[1]]
    assert y.shape == x.shape
    centred = torchlip.BatchLipNorm(3, normalize=False)
    assert lipschitz_bound(nn.Sequential(centred)) == 1
    with pytest.raises(ValueError, match="a factory multiplies coefficients"):
        torchlip.BatchLipNorm(3, normalize=False, factory=factory)


@pytest.mark.parametrize("bias", [True, False])
def test_exports_are_equal_to_the_last_bit(bias: bool) -> None:
    layer, x = trained(bias=bias)
    if bias:
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]) / 7)
    layer.eval()
    plain = layer.vanilla_export()
    assert isinstance(plain, torchlip.ScaleBiasLayer)
    assert torch.equal(plain(x), layer(x))
    assert torch.equal(to_plain(nn.Sequential(layer))(x), layer(x))
    assert lipschitz_bound(plain) == lipschitz_bound(layer)
    centering = torchlip.BatchCentering(3, bias=bias).double()
    centering(x)
    assert torch.allclose(centering.eval().vanilla_export()(x), centering(x), rtol=1e-12)


def test_scale_bias_layer() -> None:
    layer = torchlip.ScaleBiasLayer(-3.0, 2)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0]))
    assert layer(torch.ones(1, 2, 1)).flatten().tolist() == [-2, -1]
    assert torchlip.ScaleBiasLayer(2.0, bias=False)(torch.ones(2)).tolist() == [2, 2]
    assert lipschitz_bound(nn.Sequential(layer)) == 3
    other = torchlip.ScaleBiasLayer(1.0, 2)
    other.load_state_dict(layer.state_dict())
    assert other.scalar == -3
    assert repr(other) == "ScaleBiasLayer(scalar=-3, num_features=2, bias=True)"
    with pytest.raises(ValueError, match=r"x has shape \(1, 3\), but ScaleBiasLayer has num_features=2"):
        layer(torch.ones(1, 3))
    with pytest.raises(ValueError, match="scalar must be finite"):
        torchlip.ScaleBiasLayer(math.inf)
    layer.scalar.fill_(math.nan)
    with pytest.raises(ValueError, match="coefficient is not finite"):
        lipschitz_bound(layer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torchlip.BatchLipNorm(3)(torch.ones(2, 4)), "num_features=3, but an input of shape"),
        (lambda: torchlip.BatchLipNorm(3, dim=1)(torch.ones(2, 3)), "leaves out dimension 0"),
        (lambda: torchlip.BatchLipNorm(3, dim=(0, 5))(torch.ones(2, 3)), "dim = 5 of BatchLipNorm does not exist"),
        (lambda: torchlip.BatchLipNorm(3, eps=-1.0), "eps must be at least 0"),
        (lambda: torchlip.BatchLipNorm(0), "num_features must be a positive integer"),
        (lambda: torchlip.BatchLipNorm(2, dim=(0, 1)).vanilla_export(), "averages over dimension 1"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
