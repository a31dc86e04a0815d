"""The certificate: never below the truth, close to it, and refused where nothing can be said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import Critic, FullSort, GroupSort, OrthogonalLinear, UnitLinear, lipschitz_bound
from barrow.nn.lipschitz import register, spectral_norm_bound


def largest(W: Tensor) -> float:
    return torch.linalg.svdvals(W.detach().double())[0].item()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 40), (200, 16), (16, 200)])
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e150])
def test_matrix_norm(shape: tuple[int, int], scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    for W in (
        torch.randn(shape, generator=g, dtype=torch.float64),
        torch.ones(shape, dtype=torch.float64),
        torch.eye(*shape, dtype=torch.float64),
        torch.nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64), generator=g),
    ):
        truth, bound = largest(W), spectral_norm_bound(W * scale) / scale
        assert truth * (1 - 1e-14) <= bound <= truth * (1 + 1e-9)


def test_matrix_norm_is_proved_against_exact_arithmetic() -> None:
    # 2 x 2 integers whose norm is known in closed form, sigma^2 = (t + sqrt(t^2 - 4 d^2)) / 2.
    for a, b, c, d in [(1, 2, 3, 4), (1, 1, 1, 1), (3, 0, 0, 2), (5, -7, 11, 13)]:
        t, det = a * a + b * b + c * c + d * d, a * d - b * c
        square = (t + math.sqrt(t * t - 4 * det * det)) / 2
        assert spectral_norm_bound(torch.tensor([[a, b], [c, d]]).double()) >= math.sqrt(square) * (1 - 1e-16)


def test_matrix_norm_of_nothing_and_of_zero() -> None:
    assert spectral_norm_bound(torch.zeros(3, 0)) == 0
    assert spectral_norm_bound(torch.zeros(3, 4)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.Linear, OrthogonalLinear, UnitLinear])
def test_layer_of_any_dtype(dtype: torch.dtype, kind: type[OrthogonalLinear]) -> None:
    torch.manual_seed(0)
    layer = kind(40, 24).to(dtype)
    truth = largest(layer.weight)
    assert truth * (1 - 1e-15) <= lipschitz_bound(layer) <= truth * (1 + 1e-10)


def test_orthogonal_networks_are_certified_contractions() -> None:
    torch.manual_seed(0)
    for _ in range(5):
        critic = Critic(50, (40, 30, 60))
        with torch.no_grad():
            for p in critic.parameters():
                p.add_(torch.randn_like(p) * 10)
        assert 1 - 1e-5 < lipschitz_bound(critic) <= 1


def test_unit_rows_count_together() -> None:
    layer = UnitLinear(8, 4)
    with torch.no_grad():
        layer.raw_weight.copy_(torch.ones(4, 8))
    assert math.isclose(lipschitz_bound(layer), 2, rel_tol=1e-6)
    assert lipschitz_bound(UnitLinear(8, 1)) <= 1


def test_bound_is_above_every_jacobian_and_close_for_a_linear_net() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 9), nn.LeakyReLU(2.0), nn.Sequential(nn.Linear(9, 9), nn.GELU()), nn.Linear(9, 4)
    )
    bound = lipschitz_bound(model)
    for _ in range(20):
        J = torch.autograd.functional.jacobian(model, torch.randn(6))
        assert largest(J) <= bound
    single = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Identity())
    J = torch.autograd.functional.jacobian(lambda x: single(x[None])[0], torch.randn(6))
    assert largest(J) <= lipschitz_bound(single) * (1 + 1e-6) <= largest(J) * (1 + 1e-5)


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-3, 3), nn.Tanh(), nn.Softsign(), nn.LogSigmoid(), nn.Softshrink(),
    nn.Tanhshrink(), nn.Sigmoid(), nn.Hardsigmoid(), nn.SELU(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.GELU(),
    nn.GELU("tanh"), nn.LeakyReLU(0.1), nn.LeakyReLU(-3.0), nn.PReLU(init=-1.5), nn.PReLU(init=0.2), nn.RReLU(0.1,
    0.4).eval(), nn.ELU(), nn.ELU(2.5), nn.ELU(0.3), nn.CELU(0.5), nn.Softplus(), nn.Softplus(beta=3.0),
    nn.Dropout(0.5).eval(), nn.Dropout(0.0),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activation_constants_are_the_largest_slopes(activation: nn.Module) -> None:
    activation = activation.double()
    x = torch.linspace(-12, 12, 480_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(x).sum(), x)
    truth = slope.abs().max().item()
    assert truth * (1 - 1e-15) <= lipschitz_bound(activation) <= truth * 1.002


def test_softmax_constant() -> None:
    layer = nn.Softmax(-1)
    J = torch.autograd.functional.jacobian(layer, torch.tensor([0.0, 0.0, -30.0], dtype=torch.float64))
    assert math.isclose(largest(J), lipschitz_bound(layer), rel_tol=1e-9)


def test_reshapes_and_nesting_cost_nothing() -> None:
    model = nn.Sequential(
        nn.Unflatten(1, (4, 4)),
        nn.Sequential(nn.PixelShuffle(2), nn.ZeroPad2d(1)),
        nn.Flatten(),
        GroupSort(2),
        nn.Identity(),
    )
    assert lipschitz_bound(model) == 1
    assert lipschitz_bound(nn.Sequential()) == 1


def test_a_layer_used_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    assert math.isclose(lipschitz_bound(nn.Sequential(layer, layer)), lipschitz_bound(layer) ** 2, rel_tol=1e-12)


def test_zero_times_anything_is_zero() -> None:
    zero, huge = nn.Linear(2, 2), nn.Linear(2, 2).double()
    with torch.no_grad():
        zero.weight.zero_()
        huge.weight.fill_(1.7e308)
    assert lipschitz_bound(huge) == math.inf
    assert lipschitz_bound(nn.Sequential(zero, huge)) == 0


def test_bias_does_not_matter() -> None:
    layer = nn.Linear(3, 3)
    before = lipschitz_bound(layer)
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias.fill_(1e30)
    assert lipschitz_bound(layer) == before


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Overridden(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Inherited(nn.Linear):
    pass


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4), nn.LayerNorm(4), nn.MultiheadAttention(4, 1), Unknown(), Overridden(4, 4), nn.Dropout(0.5),
        nn.Softplus(beta=-1.0), nn.Softplus(threshold=1.0), nn.CELU(-1.0), nn.Hardshrink(), nn.GLU(), nn.RReLU(),
        nn.ModuleList([nn.Identity()]), nn.LazyLinear(4),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refusal_names_the_layer_and_its_place(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4), layer))
    with pytest.raises(ValueError, match=rf"^layer '1\.1' \({type(layer).__name__}\) has no Lipschitz bound: .+"):
        lipschitz_bound(model)


def test_refusal_of_the_model_itself() -> None:
    with pytest.raises(ValueError, match=r"^the model \(BatchNorm2d\) has no Lipschitz bound"):
        lipschitz_bound(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match=r"needs a torch\.nn\.Module, got str"):
        lipschitz_bound("model")  # type: ignore[arg-type]


def test_refusal_inside_a_critic_names_the_place() -> None:
    critic = Critic(4, (4,))
    critic.layers[1].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(ValueError, match=r"'layers\.1' \(FullSort\) .* hook"):
        lipschitz_bound(critic)


def test_hooks_and_replaced_forwards_are_refused() -> None:
    layer = nn.Linear(3, 3)
    handle = layer.register_forward_pre_hook(lambda module, args: None)
    with pytest.raises(ValueError, match="hook"):
        lipschitz_bound(layer)
    handle.remove()
    lipschitz_bound(layer)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    with pytest.raises(ValueError, match="global"):
        lipschitz_bound(layer)
    handle.remove()
    layer.forward = lambda x: 2 * x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="forward was replaced"):
        lipschitz_bound(layer)


def test_subclasses_that_keep_forward_keep_the_bound() -> None:
    layer = Inherited(5, 5)
    assert math.isclose(lipschitz_bound(layer), largest(layer.weight), rel_tol=1e-9)


def test_parametrized_weights() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5))
    with pytest.raises(ValueError, match=r"eval\(\)"):
        lipschitz_bound(layer)
    layer.eval()
    assert math.isclose(lipschitz_bound(layer), largest(layer.weight), rel_tol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [nn.Linear, OrthogonalLinear, UnitLinear, nn.PReLU])
def test_diverged_weights_are_refused(bad: float, kind: type[nn.Module]) -> None:
    layer = kind(3) if kind is nn.PReLU else kind(3, 3)
    with torch.no_grad():
        next(layer.parameters()).fill_(bad)
    with pytest.raises(ValueError, match=r"not finite; it has diverged"):
        lipschitz_bound(nn.Sequential(layer))


def test_input_shape_is_tried() -> None:
    model = nn.Sequential(nn.Flatten(), OrthogonalLinear(12, 4), FullSort())
    assert lipschitz_bound(model, (3, 4)) <= 1
    with pytest.raises(ValueError, match=r"does not accept inputs of shape \(1, 3, 5\)"):
        lipschitz_bound(model, (3, 5))


def test_registered_types() -> None:
    class Triple(Unknown):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    @register(Triple)
    def _(module: Triple, path: str) -> float:
        return float("nan") if module.training else 3.0

    assert math.isclose(lipschitz_bound(nn.Sequential(Triple(), Triple()).eval()), 9)
    with pytest.raises(ValueError, match="its rule returned nan"):
        lipschitz_bound(Triple())


def test_the_bound_follows_the_weights() -> None:
    layer = nn.Linear(4, 4).eval()
    before = lipschitz_bound(layer)
    with torch.no_grad():
        layer.weight.mul_(3)
    assert math.isclose(lipschitz_bound(layer), 3 * before, rel_tol=1e-6)
