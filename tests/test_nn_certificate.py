"""A critic's proof about samples: true in exact arithmetic, close to the best, refused where nothing can be said."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import barrow
from barrow import nn as bnn
from barrow.compat import torchlip
from barrow.nn import Critic, FullSort, McShaneCritic, OrthogonalLinear, UnitLinear, lipschitz_bound
from barrow.nn.certificate import _values, certify_critic, register_rounding
from barrow.nn.export import to_plain
from barrow.nn.lipschitz import register

F64 = torch.float64


def clouds(n: int = 40, m: int = 30, d: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g), torch.randn(m, d, generator=g) + 1


def rationals(t: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in t.detach().double().flatten().tolist()]


def in_rationals(critic: Critic, sample: Tensor) -> Fraction:
    """The critic's value with its stored weights, without any rounding."""
    values = rationals(sample)
    for layer in critic.layers:
        if isinstance(layer, FullSort):
            values = sorted(values)
            continue
        W, b = layer.weight, rationals(layer.bias)
        values = [
            sum((w * v for w, v in zip(rationals(row), values, strict=True)), c) for row, c in zip(W, b, strict=True)
        ]
    return values[0]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_lower_bound_and_errors_against_exact_arithmetic(offset: float) -> None:
    torch.manual_seed(0)
    critic = Critic(3, (6, 5))
    x, y = (t[:8] + offset for t in clouds())
    f = [[in_rationals(critic, s) for s in t] for t in (x, y)]
    for known, t in zip(f, (x, y), strict=True):
        values, errors = _values(to_plain(critic).double(), t.double())
        for exact, value, error in zip(known, values.tolist(), errors.tolist(), strict=True):
            assert abs(exact - Fraction(value)) <= Fraction(error)
            assert error < 1e-13 * (1 + offset)
    truth = abs(sum(f[0]) / len(x) - sum(f[1]) / len(y)) / Fraction(lipschitz_bound(critic))
    lower = certify_critic(critic, x, y).lower
    assert Fraction(lower.item()) <= truth
    assert truth - Fraction(lower.item()) < 1e-12 * (1 + offset)


def test_bracket_of_an_untrained_and_of_the_best_critic() -> None:
    torch.manual_seed(0)
    x, y = clouds()
    truth = barrow.wasserstein(x.double(), y.double(), p=1)
    bounds = certify_critic(Critic(3, (8,)), x, y, exact=True)
    assert 0 <= bounds.lower < truth <= bounds.upper
    assert bounds.upper - truth < 1e-9
    assert bounds.lower.dtype == bounds.upper.dtype == F64
    # The potentials of an exact solution, extended to a function, are a critic that loses nothing.
    g = barrow.solve(barrow.Problem(barrow.Points(x.double(), y.double(), p=1))).g
    best = McShaneCritic.through(y.double(), -g)
    lower, upper = certify_critic(best, x, y, exact=True)
    assert upper - lower < 1e-12
    lower, upper = certify_critic(best, x, y)
    assert upper == math.inf
    assert truth - lower < 1e-12


def test_sign_and_scale_of_the_critic_do_not_matter() -> None:
    torch.manual_seed(0)
    x, y = clouds()
    critic = Critic(3, (8, 8))
    lower = certify_critic(critic, x, y).lower
    assert torch.allclose(certify_critic(critic, y, x).lower, lower, rtol=1e-12)
    scaled = torchlip.Sequential(critic, k_coef_lip=7.0)
    assert torch.allclose(certify_critic(scaled, x, y).lower, lower, rtol=1e-10)
    assert lower > 0.01


def test_weights() -> None:
    torch.manual_seed(0)
    x, y = clouds(4, 3)
    critic = Critic(3, (8,)).double()
    a, b = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.5, 0.5, 0.0])
    with torch.no_grad():
        value = ((a * critic(x.double())).sum() - (b * critic(y.double())).sum()).abs() / lipschitz_bound(critic)
    bounds = certify_critic(critic, x, y, a, b, exact=True)
    # Single-precision weights do not sum to the same: the difference is mended and paid for.
    assert value - 1e-6 < bounds.lower <= value * (1 + 1e-7)
    assert bounds.lower <= barrow.wasserstein(x.double(), y.double(), a.double(), b.double() * a.double().sum(), p=1)
    assert bounds.upper.isfinite()
    with pytest.raises(ValueError, match=r"a sums to 1\.00000002 but b sums to 2"):
        certify_critic(critic, x, y, a, 2 * b)
    with pytest.raises(ValueError, match=r"b\[0\] is -0.5"):
        certify_critic(critic, x, y, a, -b)
    with pytest.raises(ValueError, match=r"expected shape \(\.\.\., 4\)"):
        certify_critic(critic, x, y, b)


def test_two_single_points_by_hand() -> None:
    critic = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 4.0]]))
    lower, upper = certify_critic(critic, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), exact=True)
    assert 5 - 1e-9 < lower <= 5 <= upper < 5 + 1e-9
    # Masses that differ by rounding: the bracket holds for both of them.
    a, b = torch.tensor([1 + 3e-6], dtype=F64), torch.ones(1, dtype=F64)
    lower, upper = certify_critic(critic, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), a, b, exact=True)
    assert 5 - 1e-4 < lower <= 5 < 5 * (1 + 3e-6) <= upper < 5 + 1e-4


def test_a_constant_critic_and_equal_samples_prove_nothing() -> None:
    x, y = clouds()
    flat = nn.Linear(3, 1)
    with torch.no_grad():
        flat.weight.zero_()
    assert certify_critic(flat, x, y).lower == 0
    assert certify_critic(Critic(3, (8,)), x, x).lower == 0


def test_half_precision_images_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(9, 1, 6, 6).half(), torch.randn(5, 1, 6, 6).half() + 1
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), bnn.LayerCentering(3), bnn.Abs(),
        bnn.ScaledAvgPool2d(2), bnn.InvertibleDownSampling(3), nn.Flatten(),
        bnn.LipschitzResidual(nn.Sequential(OrthogonalLinear(27, 27), nn.Tanh())), UnitLinear(27, 1),
    )  # fmt: skip
    bounds = certify_critic(model, x, y, exact=True)
    with torch.no_grad():
        f = [to_plain(model).double()(t.double()).mean() for t in (x, y)]
    assert 0 < bounds.lower <= bounds.upper
    assert torch.allclose(bounds.lower, (f[0] - f[1]).abs() / lipschitz_bound(model), rtol=1e-9)
    monkeypatch.setattr("barrow.nn.certificate._CHUNK", 40)
    assert torch.allclose(certify_critic(model, x, y).lower, bounds.lower, rtol=1e-12)


LAYERS = [
    nn.Linear(8, 5), nn.Linear(8, 5, bias=False), nn.Tanh(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ELU(2.0),
    nn.SELU(), nn.Sigmoid(), nn.LogSigmoid(), nn.Tanhshrink(), nn.PReLU(init=-3.0), nn.Hardswish(),
    nn.Softshrink(1 / 3), bnn.Householder(8), bnn.SllLinear(8, 5), torchlip.LPReLU(k_coef_lip=0.3),
    torchlip.GroupSort(4, 0.3), torchlip.MaxMin(k_coef_lip=0.3), torchlip.HouseHolder(8, 0.3),
    torchlip.ScaleBiasLayer(0.3, 8), torchlip.BatchLipNorm(8), torchlip.BatchCentering(8),
    bnn.LayerCentering(8, dim=-1), bnn.BatchCentering(8),
    nn.CELU(0.3), nn.Softsign(),
]  # fmt: skip


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_rounding_is_above_what_is_seen_in_single_precision(
    layer: nn.Module, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The analysis knows nothing of the precision but its unit: with that of float32 it must cover float32.
    from barrow.nn import certificate

    monkeypatch.setattr(certificate, "_U", 2.0**-24)
    torch.manual_seed(0)
    layer = layer.float().eval()
    if isinstance(layer, bnn.BatchCentering | torchlip.BatchLipNorm):
        layer.running_mean.fill_(1 / 3)
    x = torch.randn(200, 8) * scale
    y, error = certificate._run(to_plain(layer), x, torch.zeros(200), "")
    true = to_plain(layer).double()(x.double())
    away = (y.double() - true).flatten(1).norm(dim=1)
    assert (away <= error).all()
    assert away.max() > 0 or scale != 1
    assert error.max() < 1e-4 * (1 + x.norm(dim=1).max())


IMAGE_LAYERS = [
    nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 2, 3, stride=2, groups=2, padding=2, padding_mode="reflect"),
    nn.ConvTranspose2d(4, 3, 3, stride=2), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1),
    bnn.ScaledL2NormPool2d(2), bnn.SllConv2d(4, 3, 3), torchlip.ScaledAvgPool2d(2, k_coef_lip=0.3),
    torchlip.InvertibleDownSampling(2, 0.3), torchlip.SpectralConv2d(4, 3, 3, padding=1, padding_mode="symmetric"),
    bnn.ScaledAvgPool2d(3), bnn.LayerCentering(4), bnn.ScaledAdaptiveAvgPool2d(),
]  # fmt: skip


@pytest.mark.parametrize("layer", IMAGE_LAYERS, ids=repr)
def test_rounding_of_images_likewise(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    from barrow.nn import certificate

    monkeypatch.setattr(certificate, "_U", 2.0**-24)
    torch.manual_seed(0)
    layer = layer.float()
    x = torch.randn(50, 4, 6, 6) + 3
    y, error = certificate._run(to_plain(layer), x, torch.zeros(50), "")
    away = (y.double() - to_plain(layer).double()(x.double())).flatten(1).norm(dim=1)
    assert away.max() > 0
    assert (away <= error).all()
    assert error.max() < 1e-2


def test_rounding_of_cones_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    from barrow.nn import certificate

    monkeypatch.setattr(certificate, "_U", 2.0**-24)
    torch.manual_seed(0)
    critic = McShaneCritic(5, 7)
    x = torch.randn(100, 5)
    y, error = certificate._run(critic, x, torch.zeros(100), "")
    away = (y.double() - to_plain(critic).double()(x.double())).abs()
    assert away.max() > 0
    assert (away <= error).all()


def test_errors_pass_through_later_layers() -> None:
    from barrow.nn import certificate

    double = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        double.weight.copy_(2 * torch.eye(3))
    _, e = certificate._run(
        nn.Sequential(double, nn.ReLU(), double), torch.zeros(1, 3, dtype=F64), torch.ones(1, dtype=F64), ""
    )
    assert math.isclose(e.item(), 4, rel_tol=1e-9)


def test_training_mode_is_left_as_it_is_and_not_used() -> None:
    x, y = clouds()
    model = nn.Sequential(bnn.BatchCentering(3), nn.Dropout(0.5), OrthogonalLinear(3, 1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bounds = certify_critic(model, x, y)
    assert bounds.lower > 0
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(certify_critic(model.eval(), x, y).lower, bounds.lower)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / 100


def test_rules_of_the_user() -> None:
    class Known(Unknown):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    register(Known)(lambda module, path: 1.0)
    with pytest.raises(ValueError, match=r"layer '1' \(Known\) rounds in a way that is not known.*register_rounding"):
        certify_critic(nn.Sequential(nn.Identity(), Known()), *clouds())
    register_rounding(Known)(lambda module, x, y: y.abs() * 1e-3)
    x, y = clouds()
    lower = certify_critic(Known(), x, y).lower
    assert 0.005 < lower < (Known()(x).mean() - Known()(y).mean()).abs()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"critic": "f"}, "critic is a str, but certify_critic needs a torch.nn.Module"),
        ({"critic": nn.BatchNorm1d(3)}, r"the model \(BatchNorm1d\) has no Lipschitz bound"),
        ({"critic": nn.Linear(3, 2)}, r"maps \(40, 3\) to \(40, 2\), but one output a sample"),
        ({"critic": nn.Linear(4, 1)}, r"\(Linear\) does not take an input of shape \(40, 3\)"),
        ({"critic": nn.Flatten(0)}, r"maps \(40, 3\) to \(120,\), but dimension 0 are the samples"),
        ({"x": torch.zeros(3, 4)}, "all dimensions but the first must agree"),
        ({"x": torch.zeros(0, 3)}, "samples have shape"),
        ({"x": torch.zeros(3, 3).long()}, "x has dtype torch.int64"),
        ({"y": torch.full((2, 3), math.nan)}, r"y\[0, 0\] is nan"),
        ({"y": torch.full((2, 3), math.inf)}, r"y\[0, 0\] is inf"),
        ({"y": torch.zeros(2, 3, dtype=F64)}, "x has dtype torch.float32 but y has dtype torch.float64"),
    ],
)
def test_refusals(change: dict, words: str) -> None:
    x, y = clouds()
    with pytest.raises(ValueError, match=words):
        certify_critic(**({"critic": Critic(3, (4,)), "x": x, "y": y} | change))


def test_diverged_critics_are_refused() -> None:
    critic, huge = Critic(3, (4,)), nn.Linear(3, 1).double()
    with torch.no_grad():
        critic.layers[0].bias.fill_(math.nan)
        huge.weight.fill_(1.7e308)
    for model in (critic, huge):
        with pytest.raises(ValueError, match="the critic's values are not finite"):
            certify_critic(model, *clouds())
