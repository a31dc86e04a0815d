"""Plain copies: equal to the last bit, of torch's layers, and nothing forgotten on the way."""

from __future__ import annotations

import copy
import io
import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from barrow import nn as bnn
from barrow.compat import torchlip
from barrow.nn import Critic, GroupSort, OrthogonalLinear, UnitLinear, lipschitz_bound
from barrow.nn.export import Scale, register_export, to_plain


class Tree(nn.Module):
    """A module of the user's, with a branch, a list and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = OrthogonalLinear(6, 6)
        self.parts = nn.ModuleList([nn.Sequential(OrthogonalLinear(6, 6), GroupSort(2)), self.shared])
        self.none = None
        self.also = [self.shared]
        self.norm = nn.BatchNorm1d(6)
        self.head = UnitLinear(6, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.also[0](self.parts[1](self.parts[0](x)))))


MODELS = {
    "layer": (lambda: OrthogonalLinear(6, 3), (5, 6)),
    "critic": (lambda: Critic(12, (8, 8)), (5, 3, 4)),
    "linear critic": (lambda: Critic(6, ()), (5, 6)),
    "tree": (Tree, (5, 6)),
    "images": (
        lambda: nn.Sequential(
            bnn.InvertibleDownSampling(2), bnn.InvertibleUpSampling(2), bnn.InvertibleDownSampling((1, 2)),
            bnn.ScaledAvgPool2d(2), bnn.BatchCentering(6), bnn.LayerCentering(6), bnn.LipschitzPReLU(6, 0.3),
            nn.Flatten(), bnn.LipschitzResidual(OrthogonalLinear(24, 24)), bnn.Householder(24),
            bnn.MaxMin(), UnitLinear(24, 1),
        ),
        (5, 3, 8, 4),
    ),
    "torchlip": (
        lambda: torchlip.Sequential(
            OrderedDict(
                first=torchlip.SpectralLinear(6, 8, k_coef_lip=3.0),
                inner=torchlip.Sequential(torchlip.FullSort(), torchlip.GroupSort2(2.0), k_coef_lip=0.1),
                last=torchlip.FrobeniusLinear(8, 2, disjoint_neurons=False),
            ),
            k_coef_lip=7.0,
        ),
        (5, 6),
    ),
    "parametrized": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
            torchlip.utils.bjorck_norm(nn.Linear(6, 6)),
        ).eval(),
        (5, 6),
    ),
    "cones": (lambda: bnn.McShaneCritic(6, 4), (5, 6)),
}  # fmt: skip
every = pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS.keys())


def build(make) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if "mean" in name:
                b.add_(0.3)
    return model


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_equal_to_the_last_bit(make, shape, dtype: torch.dtype, training: bool) -> None:
    model = build(make).to(dtype).train(training and make is not MODELS["parametrized"][0])
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    plain = to_plain(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = torch.randn(shape, dtype=dtype)
    assert torch.equal(plain(x), model(x))
    assert [m.training for m in plain.modules()].count(not model.training) == 0
    if not training:
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@every
def test_nothing_derives_a_weight_and_nothing_is_shared_with_the_original(make, shape) -> None:
    model = build(make)
    plain = to_plain(model)
    for module in plain.modules():
        assert not hasattr(module, "raw_weight")
        assert not nn.utils.parametrize.is_parametrized(module)
        assert not isinstance(module, bnn.derived.DerivedWeight)
    theirs = {p.data_ptr() for p in model.parameters() if p.numel()}
    assert not theirs & {p.data_ptr() for p in plain.parameters() if p.numel()}
    modules = set(map(id, model.modules()))
    assert not modules & set(map(id, plain.modules()))


@every
def test_state_dicts_and_bounds(make, shape) -> None:
    model = build(make).eval()
    plain = to_plain(model)
    other = to_plain(build(make).eval())
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    buffer = io.BytesIO()
    torch.save(plain.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(shape)
    assert torch.equal(other(x), model(x))
    assert not [key for key in plain.state_dict() if "raw" in key]
    if make is not Tree:
        assert math.isclose(lipschitz_bound(plain), lipschitz_bound(model), rel_tol=1e-9)


def test_what_the_layers_become() -> None:
    plain = to_plain(Critic(12, (8,)))
    assert list(plain._modules) == ["flatten", "layers", "squeeze"]
    assert list(plain.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert [type(m) for m in plain.layers] == [nn.Linear, bnn.FullSort, nn.Linear]
    images = to_plain(build(MODELS["images"][0]))
    assert [type(m) for m in images[:3]] == [nn.PixelUnshuffle, nn.PixelShuffle, bnn.InvertibleDownSampling]
    assert isinstance(images[6], nn.PReLU)
    assert type(images[8].module) is nn.Linear
    lip = to_plain(build(MODELS["torchlip"][0]))
    assert type(lip) is type(lip.inner) is nn.Sequential
    assert list(lip._modules) == ["first", "inner", "last", "3"]
    assert isinstance(lip[3], Scale)
    assert lip[3].factor == 7


def test_shared_layers_stay_shared_wherever_they_are_kept() -> None:
    plain = to_plain(build(Tree))
    assert plain.shared is plain.parts[1] is plain.also[0]
    assert type(plain.shared) is nn.Linear
    layer = OrthogonalLinear(3, 3)
    twice = to_plain(nn.Sequential(layer, nn.ReLU(), layer))
    assert twice[0] is twice[2]


def test_flags_are_those_of_the_original() -> None:
    model = nn.Sequential(OrthogonalLinear(4, 4), OrthogonalLinear(4, 4), Critic(4, (4,)), bnn.LipschitzPReLU())
    model[0].raw_weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model[1].eval()
    model[2].layers[0].requires_grad_(False)
    model[3].requires_grad_(False)
    plain = to_plain(model)
    assert [plain[0].weight.requires_grad, plain[0].bias.requires_grad] == [False, True]
    assert [plain[1].weight.requires_grad, plain[1].bias.requires_grad] == [True, False]
    assert [p.requires_grad for p in plain[2].parameters()] == [False, False, True, True]
    assert not plain[3].weight.requires_grad
    assert [m.training for m in plain] == [True, False, True, True]
    assert all(p.is_leaf for p in plain.parameters())


def test_a_copy_trains_on_without_constraint() -> None:
    model = Critic(4, (4,))
    plain = to_plain(model)
    plain(torch.randn(8, 4)).sum().backward()
    assert all(p.grad is not None for p in plain.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_exporters_take_the_copy() -> None:
    torch.manual_seed(0)
    model = Critic(12, (8, 8)).eval()
    plain, x = to_plain(model).eval(), torch.randn(5, 3, 4)
    traced = torch.jit.trace(plain, x)
    assert torch.equal(traced(x), model(x))
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(plain, (x,), dynamic_shapes=({0: batch},)).module()
    for y in (x, torch.randn(9, 3, 4)):
        assert torch.allclose(exported(y), model(y), atol=1e-6)


def test_refusals() -> None:
    class Overridden(OrthogonalLinear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"layer '1\.0' \(Overridden\) has no plain form: .*register_export"):
        to_plain(nn.Sequential(nn.ReLU(), nn.Sequential(Overridden(3, 3))))
    with pytest.raises(ValueError, match=r"the model \(Overridden\) has no plain form"):
        to_plain(Overridden(3, 3))
    with pytest.raises(ValueError, match=r"needs a torch\.nn\.Module, got str"):
        to_plain("model")  # type: ignore[arg-type]
    layer = OrthogonalLinear(3, 3)
    handle = layer.register_forward_hook(lambda module, args, output: output)
    with pytest.raises(ValueError, match=r"layer '0' \(OrthogonalLinear\) has a forward hook"):
        to_plain(nn.Sequential(layer))
    handle.remove()
    layer.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="had its forward replaced on the instance"):
        to_plain(nn.Sequential(layer))
    with pytest.raises(ValueError, match="factor must be finite, got inf"):
        Scale(math.inf)


def test_rules_may_hand_on_children() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = OrthogonalLinear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    @register_export(Twice)
    def _(module: Twice) -> nn.Module:
        return nn.Sequential(module.inner, nn.Sequential(module.inner, nn.Identity()))

    model = nn.Sequential(Twice()).eval()
    plain, x = to_plain(model), torch.randn(4, 3)
    assert torch.equal(plain(x), model(x))
    assert plain[0][0] is plain[0][1][0]
    assert not any(m.training for m in plain.modules())
    assert not any(m.training for m in model.modules())


def test_scale() -> None:
    assert lipschitz_bound(nn.Sequential(Scale(-3.0))) == 3
    assert repr(Scale(2)) == "Scale(2.0)"


@pytest.mark.parametrize(
    "layer",
    [
        bnn.OrthogonalConv1d(4, 4, 3, padding=1),
        bnn.OrthogonalConv2d(4, 6, 3, 2, 1, groups=2),
        bnn.OrthogonalConvTranspose1d(4, 2, 3, 2),
        bnn.OrthogonalConvTranspose2d(8, 2, 3, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_orthogonal_convolutions_become_plain_ones(layer: nn.Module) -> None:
    plain = to_plain(nn.Sequential(layer))[0]
    assert type(plain).__name__ == type(layer).__name__.removeprefix("Orthogonal")
    x = torch.randn(2, layer.in_channels, *(6, 6)[: layer.weight.ndim - 2])
    assert torch.equal(plain(x), layer(x))
    assert lipschitz_bound(plain) <= 1
