"""What holds a critic back, against calculations by hand."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from barrow.generative import (
    clip_parameters_,
    consistency_penalty,
    gradient_penalty,
    interpolates,
    pairwise_penalty,
    wgan_critic_loss,
)

F64 = torch.float64


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def linear(*weight: float) -> nn.Linear:
    """f(x) = <w, x>, whose slope is |w| everywhere."""
    critic = nn.Linear(len(weight), 1, dtype=F64)
    critic.weight.data.copy_(torch.tensor([weight], dtype=F64))
    return critic


def smooth(seed: int = 0) -> nn.Sequential:
    """A critic with curvature, small enough for finite differences."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()


# -- interpolates ------------------------------------------------------------------------------------------------------


def test_points_lie_on_their_segments() -> None:
    x, y = draw(50, 3, 2, seed=1), draw(50, 3, 2, seed=2)
    points = interpolates(x, y, torch.Generator().manual_seed(0))
    t = ((points - y) / (x - y)).flatten(1)
    assert torch.allclose(t, t[:, :1].expand_as(t))
    assert ((t >= 0) & (t <= 1)).all()
    expected = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.allclose(t[:, 0], expected)
    assert len(t[:, 0].unique()) == 50


def test_interpolates_are_determined_by_the_generator() -> None:
    x, y = draw(9, 2), draw(9, 2, seed=1)
    one, other, third = (interpolates(x, y, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    interpolates(x, y, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    interpolates(x, y)
    assert not torch.equal(torch.get_rng_state(), state)


def test_interpolates_keep_the_dtype() -> None:
    x = torch.ones(4, 2, dtype=torch.bfloat16)
    assert interpolates(x, x).dtype == torch.bfloat16
    assert interpolates(x, x).float().sub(1).abs().max() < 0.01


# -- gradient penalty --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "target", "one_sided", "expected"),
    [
        ((3, 4), 1.0, False, 16.0),
        ((3, 4), 1.0, True, 16.0),
        ((0.3, 0.4), 1.0, False, 0.25),
        ((0.3, 0.4), 1.0, True, 0.0),
        ((3, 4), 2.0, False, 9.0),
        ((3, 4), 0.0, True, 25.0),
        ((0, 0), 1.0, False, 1.0),
        ((0, 0), 1.0, True, 0.0),
    ],
)
def test_slope_of_a_linear_critic(weight: tuple[float, ...], target: float, one_sided: bool, expected: float) -> None:
    penalty = gradient_penalty(linear(*weight), draw(7, 2), target=target, one_sided=one_sided)
    assert penalty.item() == pytest.approx(expected, abs=1e-12)
    assert penalty.shape == ()


def test_slopes_differ_from_sample_to_sample() -> None:
    # f(p) = |p|^2 / 2 has slope |p|: 5, 0 and 1.
    points = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]], dtype=F64)
    assert gradient_penalty(lambda p: p.square().sum(1) / 2, points).item() == pytest.approx((16 + 1 + 0) / 3)
    one = gradient_penalty(lambda p: p.square().sum(1) / 2, points, one_sided=True)
    assert one.item() == pytest.approx(16 / 3)


def test_the_norm_is_over_all_numbers_of_a_sample() -> None:
    images = draw(5, 3, 2, 2)
    assert gradient_penalty(lambda p: 2 * p.flatten(1).sum(1), images).item() == pytest.approx((2 * 12**0.5 - 1) ** 2)
    column = gradient_penalty(lambda p: 2 * p.flatten(1).sum(1, keepdim=True), images)
    assert column.item() == pytest.approx((2 * 12**0.5 - 1) ** 2)


def test_gradient_by_hand() -> None:
    critic = linear(3, 4)
    gradient_penalty(critic, draw(5, 2)).backward()
    # d (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    assert critic.weight.grad is not None
    assert critic.weight.grad.flatten().tolist() == pytest.approx([8 * 0.6, 8 * 0.8])
    assert critic.bias.grad is None or critic.bias.grad.item() == 0


@pytest.mark.parametrize("one_sided", [False, True])
def test_gradient_in_the_weights_against_differences(one_sided: bool) -> None:
    critic, points = smooth(), 2 * draw(5, 2, 3)
    weights = {name: 2 * w.detach() for name, w in critic.named_parameters()}

    def penalty(*values: Tensor) -> Tensor:
        called = dict(zip(weights, values, strict=True))
        target = 0.5
        return gradient_penalty(
            lambda p: torch.func.functional_call(critic, called, p), points, target=target, one_sided=one_sided
        )

    inputs = [w.clone().requires_grad_() for w in weights.values()]
    assert penalty(*inputs).item() > 0.01
    assert torch.autograd.gradcheck(penalty, inputs)
    assert torch.autograd.gradgradcheck(penalty, inputs)


@pytest.mark.parametrize("one_sided", [False, True])
def test_gradient_is_finite_where_the_slope_is_zero(one_sided: bool) -> None:
    critic = linear(0, 0)
    gradient_penalty(critic, draw(5, 2), one_sided=one_sided).backward()
    assert critic.weight.grad is not None
    assert critic.weight.grad.tolist() == [[0.0, 0.0]]


def test_a_constant_critic_has_slope_zero() -> None:
    level = torch.zeros((), dtype=F64, requires_grad=True)
    assert gradient_penalty(lambda p: level.expand(len(p)), draw(5, 2)).item() == 1


def test_points_are_constants_and_weights_are_left_alone() -> None:
    critic, points = smooth(), draw(5, 2, 3).requires_grad_()
    penalty = gradient_penalty(critic, points)
    assert all(p.grad is None for p in critic.parameters())
    penalty.backward()
    assert points.grad is None
    first = critic[1].weight.grad
    assert first is not None
    assert first.abs().max() > 0


def test_without_gradients_there_is_still_a_value() -> None:
    critic, points = smooth(), draw(5, 2, 3)
    with torch.no_grad():
        value = gradient_penalty(critic, points)
    assert not value.requires_grad
    assert torch.equal(value, gradient_penalty(critic, points).detach())


def test_autocast() -> None:
    critic, points = smooth().float(), draw(5, 2, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = gradient_penalty(critic, points)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.allclose(value, gradient_penalty(critic, points), atol=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


def test_bfloat16_points() -> None:
    critic, points = smooth(), draw(5, 2, 3)
    low = gradient_penalty(copy.deepcopy(critic).bfloat16(), points.bfloat16())
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), gradient_penalty(critic, points), atol=0.05)


def live_tensors(steps: int, penalty: Callable[[nn.Module, Tensor], Tensor]) -> int:
    """Tensors that so many steps of training leave behind, no cycle being collected."""
    torch.manual_seed(0)
    critic, x, y = smooth(), draw(8, 2, 3), draw(8, 2, 3, seed=1)
    optimiser = torch.optim.SGD(critic.parameters(), lr=0.01)

    def alive() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())  # isinstance wakes lazy modules

    gc.collect()
    gc.disable()
    before = alive()  # what other tests have left is not ours
    try:
        for _ in range(steps):
            optimiser.zero_grad()
            (wgan_critic_loss(critic(x), critic(y)) + penalty(critic, interpolates(x, y))).backward()
            optimiser.step()
        return alive() - before
    finally:
        gc.enable()


def test_memory_does_not_grow() -> None:
    assert live_tensors(200, gradient_penalty) <= live_tensors(10, gradient_penalty)


def test_growing_memory_is_seen() -> None:
    kept: list[Tensor] = []

    def leaking(critic: nn.Module, points: Tensor) -> Tensor:
        kept.append(gradient_penalty(critic, points))
        return kept[-1]

    few = live_tensors(10, leaking)
    assert live_tensors(200, leaking) >= few + 190


def test_training_with_the_penalty_brings_the_slope_to_one() -> None:
    critic = linear(3, 4)
    x, y = draw(64, 2), draw(64, 2, seed=1) - torch.tensor([5.0, 0.0], dtype=F64)
    optimiser = torch.optim.SGD(critic.parameters(), lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        points = interpolates(x, y, torch.Generator().manual_seed(0))
        (wgan_critic_loss(critic(x), critic(y)) + 10 * gradient_penalty(critic, points)).backward()
        optimiser.step()
    # The penalty holds the slope where 20 (|w| - 1) = |mean x - mean y|, in that direction.
    gap = x.mean(0) - y.mean(0)
    assert critic.weight.norm().item() == pytest.approx(1 + gap.norm().item() / 20, rel=1e-6)
    assert torch.allclose(critic.weight[0] / critic.weight.norm(), gap / gap.norm(), atol=1e-6)


# -- batch normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.LazyBatchNorm1d()])
def test_refuses_batch_norm(layer: nn.Module) -> None:
    critic = nn.Sequential(nn.Linear(2, 4), nn.Sequential(layer, nn.ReLU()), nn.Linear(4, 1)).double()
    kind = type(layer).__name__
    words = rf"layer '1\.0' of the critic is a {kind}, which mixes the samples .* use torch.nn.LayerNorm"
    for callable_critic in (critic, critic.forward, nn.Sequential(nn.Identity(), critic)[1]):
        with pytest.raises(ValueError, match=words):
            gradient_penalty(callable_critic, draw(5, 2))


def test_refuses_batch_norm_itself_and_without_running_statistics() -> None:
    with pytest.raises(ValueError, match="the critic is a BatchNorm1d"):
        gradient_penalty(nn.BatchNorm1d(1, dtype=F64), draw(5, 1))
    critic = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1)).double().eval()
    with pytest.raises(ValueError, match="layer '0' of the critic is a BatchNorm1d"):
        gradient_penalty(critic, draw(5, 2))


def test_other_normalisations_are_taken() -> None:
    for layer in (nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4).eval()):
        critic = nn.Sequential(nn.Linear(2, 4), layer, nn.Linear(4, 1)).double()
        layer.train(not isinstance(layer, nn.BatchNorm1d))
        points = draw(5, 2)
        one_by_one = torch.stack([gradient_penalty(critic, points[k : k + 1]) for k in range(5)]).mean()
        assert torch.allclose(gradient_penalty(critic, points), one_by_one)


# -- consistency -------------------------------------------------------------------------------------------------------


def test_consistency_by_hand() -> None:
    f1, f2 = torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, 2.0], dtype=F64)
    h1 = torch.tensor([[0.0, 0.0], [1.0, 5.0]], dtype=F64)
    h2 = torch.tensor([[1.0, 3.0], [1.0, 3.0]], dtype=F64)
    # 2 (4 + 0.1 (1 + 9) / 2) = 9 and 2 (0 + 0.1 4 / 2) = 0.4
    assert consistency_penalty(f1, f2, h1, h2).item() == pytest.approx(4.7)
    assert consistency_penalty(f1, f2, h1, h2, margin=0.5).item() == pytest.approx(8.5 / 2)
    assert consistency_penalty(f1, f2, h1, h2, margin=10.0).item() == 0
    assert consistency_penalty(f1, f2, h1, h2, weight=1.0, feature_weight=1.0).item() == pytest.approx((9 + 2) / 2)
    assert consistency_penalty(f2, f1, h2, h1).item() == pytest.approx(4.7)
    assert consistency_penalty(f1[:, None], f2[:, None], h1[:, :, None], h2[:, :, None]).item() == pytest.approx(4.7)


def test_consistency_of_a_critic_without_noise_is_zero() -> None:
    f, h = draw(4), draw(4, 3)
    assert consistency_penalty(f, f, h, h).item() == 0


def test_consistency_gradient() -> None:
    inputs = [z.requires_grad_() for z in (draw(4), draw(4, seed=1), draw(4, 2, 3), draw(4, 2, 3, seed=1))]
    assert torch.autograd.gradcheck(lambda *z: consistency_penalty(*z, margin=0.1), inputs)


def test_consistency_of_bfloat16_is_taken_in_float32() -> None:
    f, h = draw(4).bfloat16(), draw(4, 3).bfloat16()
    low = consistency_penalty(f, f + 1, h, h + 1)
    high = consistency_penalty(f.double(), (f + 1).double(), h.double(), (h + 1).double())
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(high.item(), rel=1e-6)


# -- pairs and clipping ------------------------------------------------------------------------------------------------


def test_pairwise_by_hand() -> None:
    x, y = torch.tensor([[0.0], [3.0]], dtype=F64), torch.tensor([[1.0], [5.0], [3.0]], dtype=F64)
    f, h = torch.tensor([4.0, 1.0], dtype=F64), torch.tensor([0.0, -2.0, 0.0], dtype=F64)
    # f(x) - f(y) - |x - y|: [[4 - 1, 6 - 5, 4 - 3], [1 - 2, 3 - 2, 1 - 0]]
    assert pairwise_penalty(f, h, x, y).item() == pytest.approx((9 + 1 + 1 + 0 + 1 + 1) / 6)
    assert pairwise_penalty(f[:, None], h[:, None], x, y).item() == pytest.approx(13 / 6)


def test_pairwise_is_zero_exactly_for_slopes_below_one() -> None:
    x, y = draw(6, 2, seed=1), draw(5, 2, seed=2)
    for slope, zero in ((1.0, True), (-1.0, True), (3.0, False)):
        assert (pairwise_penalty(slope * x[:, 0], slope * y[:, 0], x, y).item() == 0) == zero


def test_pairwise_gradient() -> None:
    inputs = [z.requires_grad_() for z in (3 * draw(4), 3 * draw(3, seed=1), draw(4, 2), draw(3, 2, seed=1))]
    assert pairwise_penalty(*inputs).item() > 0
    assert torch.autograd.gradcheck(pairwise_penalty, inputs)


def test_clipping() -> None:
    critic = linear(3, -4, 0.005, 0)
    critic.bias.data.fill_(-1)
    version = critic.weight
    clip_parameters_(critic, 0.01)
    assert critic.weight is version
    assert critic.weight.tolist() == [[0.01, -0.01, 0.005, 0]]
    assert critic.bias.tolist() == [-0.01]
    assert critic.weight.requires_grad
    assert critic.weight.grad_fn is None
    clip_parameters_(critic, torch.tensor(0.001))
    assert critic.weight.abs().max().item() == pytest.approx(0.001)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0, -0.01, math.inf, math.nan, "small", True])
def test_clipping_refuses(c: float) -> None:
    with pytest.raises(ValueError, match="c is "):
        clip_parameters_(linear(1, 2), c)


def test_clipping_refuses_what_has_no_parameters() -> None:
    with pytest.raises(ValueError, match=r"module is a list, but clipping needs a torch.nn.Module"):
        clip_parameters_([torch.zeros(1)], 0.01)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"module \(ReLU\) has no parameters to clip"):
        clip_parameters_(nn.ReLU(), 0.01)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 2), r"need as many x as y, cut the larger batch"),
        (torch.zeros(3, 2), torch.zeros(3, 4), r"x has shape \(3, 2\) but y has shape \(3, 4\)"),
        (torch.zeros(3, 2, 2), torch.zeros(3, 4), r"all dimensions but the first must agree"),
        (torch.zeros(3), torch.zeros(3), r"for numbers on a line use x.unsqueeze\(-1\)"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "skip empty batches"),
        (torch.full((3, 2), math.nan), torch.zeros(3, 2), "x holds NaN or infinity in 3 of its 3 samples"),
        (torch.zeros(3, 2), torch.full((3, 2), math.inf), "y holds NaN or infinity in 3 of its 3 samples"),
        (torch.zeros(3, 2), torch.zeros(3, 2).double(), "convert one with"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(3, 2), "call x.float.. first"),
    ],
)
def test_interpolates_refuses(x: Tensor, y: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        interpolates(x, y)


@pytest.mark.parametrize(
    ("critic", "points", "words"),
    [
        (nn.Linear(2, 3), torch.zeros(4, 2), r"critic\(points\) has shape \(4, 3\), but a critic gives one number"),
        (lambda p: p.sum(), torch.zeros(4, 2), r"critic\(points\) has shape \(\)"),
        (lambda p: p[:2].sum(1), torch.zeros(4, 2), r"critic\(points\) has shape \(2,\), but there are 4 samples"),
        (lambda p: p.detach().sum(1), torch.zeros(4, 2), "carries no graph"),
        (torch.no_grad()(nn.Linear(2, 1)), torch.zeros(4, 2), "carries no graph"),
        (lambda p: 1.0, torch.zeros(4, 2), r"critic\(points\) is a float"),
        (torch.zeros(4), torch.zeros(4, 2), "critic is a Tensor, .* pass the critic itself, not its values"),
        (nn.Linear(2, 1), torch.zeros(0, 2), "skip empty batches"),
        (nn.Linear(2, 1), torch.full((4, 2), math.nan), "points holds NaN or infinity in 4 of its 4 samples"),
        (nn.Linear(2, 1), torch.zeros(4), r"use points.unsqueeze\(-1\)"),
        (nn.Linear(2, 1), torch.zeros(4, 2).int(), "points has dtype torch.int32"),
    ],
)
def test_gradient_penalty_refuses(critic: Callable[[Tensor], Tensor], points: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gradient_penalty(critic, points)


@pytest.mark.parametrize("target", [-1.0, math.inf, math.nan])
def test_gradient_penalty_refuses_a_target(target: float) -> None:
    with pytest.raises(ValueError, match="target is "):
        gradient_penalty(nn.Linear(2, 1), torch.zeros(4, 2), target=target)


@pytest.mark.parametrize(
    ("f1", "f2", "h1", "h2", "words"),
    [
        (torch.zeros(4), torch.zeros(3), torch.zeros(4, 2), torch.zeros(4, 2), "run the critic twice on it"),
        (torch.zeros(4, 2), torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 2), r"values1 has shape \(4, 2\)"),
        (torch.zeros(4), torch.zeros(0), torch.zeros(4, 2), torch.zeros(4, 2), "values2 .* skip empty batches"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 3), r"both must be \(4, ...\)"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(3, 2), torch.zeros(3, 2), r"both must be \(4, ...\)"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(4), torch.zeros(4), r"both must be \(4, ...\)"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(4, 0), torch.zeros(4, 0), "at least one feature"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(4, 2).int(), torch.zeros(4, 2), "features1 has dtype"),
        (torch.zeros(4), torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 2).double(), "features2 has dtype"),
        (torch.zeros(4), torch.zeros(4).double(), torch.zeros(4, 2), torch.zeros(4, 2), "values2 has dtype"),
    ],
)
def test_consistency_refuses(f1: Tensor, f2: Tensor, h1: Tensor, h2: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        consistency_penalty(f1, f2, h1, h2)


@pytest.mark.parametrize("name", ["weight", "feature_weight", "margin"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, None])
def test_consistency_refuses_numbers(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} is "):
        consistency_penalty(draw(4), draw(4), draw(4, 2), draw(4, 2), **{name: value})


@pytest.mark.parametrize(
    ("f", "h", "x", "y", "words"),
    [
        (
            torch.zeros(3),
            torch.zeros(2),
            torch.zeros(2, 1),
            torch.zeros(2, 1),
            r"f_x has shape \(3,\), but there are 2",
        ),
        (
            torch.zeros(2),
            torch.zeros(3),
            torch.zeros(2, 1),
            torch.zeros(2, 1),
            r"f_y has shape \(3,\), but there are 2",
        ),
        (torch.zeros(2), torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, 3), r"x has shape \(2, 1\) but y"),
        (torch.zeros(2), torch.zeros(2), torch.zeros(2, 1) / 0, torch.zeros(2, 1), "x holds NaN"),
        (torch.zeros(0), torch.zeros(2), torch.zeros(0, 1), torch.zeros(2, 1), "x has .* skip empty batches"),
    ],
)
def test_pairwise_refuses(f: Tensor, h: Tensor, x: Tensor, y: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pairwise_penalty(f, h, x, y)
