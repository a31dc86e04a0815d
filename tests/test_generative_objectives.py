"""What critics and generators minimise, against calculations by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import barrow
from barrow import generative, nn
from barrow.generative import (
    c_transform,
    c_transform_critic_loss,
    cowgan_critic_loss,
    hinge_critic_loss,
    hinge_generator_loss,
    lsot_critic_loss,
    wgan_critic_loss,
    wgan_generator_loss,
)

F64 = torch.float64
# Distances [[1, 5], [2, 2]] between x = 0, 3 and y = 1, 5.
X, Y = torch.tensor([[0.0], [3.0]], dtype=F64), torch.tensor([[1.0], [5.0]], dtype=F64)
PAIRED: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "c-transform": lambda f, g, x, y: c_transform_critic_loss(f, x, y),
    "soft": lambda f, g, x, y: c_transform_critic_loss(f, x, y, epsilon=0.3),
    "cowgan": cowgan_critic_loss,
    "lsot": lambda f, g, x, y: lsot_critic_loss(f, g, x, y, epsilon=0.3),
}
paired = pytest.mark.parametrize("loss", PAIRED.values(), ids=PAIRED.keys())


def t(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def batches(n: int = 5, m: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and samples of two laws."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (n,), (m,), (n, 2, 3), (m, 2, 3)
    f, g, x, y = (torch.randn(size, generator=draw, dtype=F64) for size in sizes)
    return f, g, x, y


# -- values ------------------------------------------------------------------------------------------------------------


def test_wgan_by_hand() -> None:
    assert wgan_critic_loss(t(2, 4), t(1, 1, 4)).item() == 2 - 3
    assert wgan_generator_loss(t(1, 1, 4)).item() == -2
    assert torch.equal(-wgan_critic_loss(t(2, 4), t(1)), nn.kantorovich_rubinstein(t(2, 4), t(1)))


def test_hinge_by_hand() -> None:
    # relu(1 - f): 0, 1, 3; relu(1 + f): 0, 1.5
    assert hinge_critic_loss(t(2, 0, -2), t(-3, 0.5)).item() == pytest.approx(4 / 3 + 0.75)
    assert hinge_generator_loss(t(-3, 0.5)).item() == 1.25
    assert hinge_critic_loss(t(1, 5), t(-1, -9)).item() == 0


def test_c_transform_by_hand() -> None:
    # |x - y| - f: [[1, 5], [1, 1]] for f = (0, 1), and [[-3, 1], [2, 2]] for f = (4, 0)
    assert c_transform(t(0, 1), X, Y).tolist() == [1, 1]
    assert c_transform(t(4, 0), X, Y).tolist() == [-3, 1]
    assert c_transform_critic_loss(t(0, 1), X, Y).item() == -(0.5 + 1)
    assert c_transform_critic_loss(t(4, 0), X, Y).item() == -(2 - 1)


def test_soft_c_transform_by_hand() -> None:
    soft = c_transform(t(4, 0), X, Y, epsilon=0.5)
    expected = [-0.5 * math.log((math.exp(-a / 0.5) + math.exp(-b / 0.5)) / 2) for a, b in ((-3, 2), (1, 2))]
    assert soft.tolist() == pytest.approx(expected, rel=1e-12)
    assert (soft >= c_transform(t(4, 0), X, Y)).all()
    assert torch.allclose(c_transform(t(4, 0), X, Y, epsilon=1e-6), c_transform(t(4, 0), X, Y), atol=1e-5)


def test_c_transforms_are_those_of_points() -> None:
    f, _, x, y = batches(7, 6)
    points = barrow.Points(y.flatten(1), x.flatten(1), p=1)
    assert torch.allclose(c_transform(f, x, y), points.c_transform(f))
    log_mean = points.soft_c_transform(f, 0.3) + 0.3 * math.log(7)
    assert torch.allclose(c_transform(f, x, y, epsilon=0.3), log_mean)


def test_cowgan_takes_each_of_its_three_by_hand() -> None:
    # f = (4, 0), h = (0, 0): KR = 2; L2 = 2 + (-3 + 1) / 2 = 1; L3 = (1 + 2) / 2 - 0 = 1.5
    assert cowgan_critic_loss(t(4, 0), t(0, 0), X, Y).item() == -1
    # f = (1, 1), h = (1, 1): KR = 0; L2 = 1 + (0 + 1) / 2 = 1.5; L3 = (2 + 3) / 2 - 1 = 1.5
    assert cowgan_critic_loss(t(1, 1), t(1, 1), X, Y).item() == 0
    # f = (0, 0), h = (0, -8): KR = 4; L2 = (1 + 2) / 2 = 1.5; L3 = (-3 - 6) / 2 + 4 = -0.5
    assert cowgan_critic_loss(t(0, 0), t(0, -8), X, Y).item() == 0.5


def test_lsot_by_hand() -> None:
    # f + g - |x - y|: [[1, -1], [-1, 1]] + (g = (0, 2), f = (2, 1)) -> [[2-1, 4-5], [1-2, 3-2]]
    assert lsot_critic_loss(t(2, 1), t(0, 2), X, Y, epsilon=0.25).item() == -(1.5 + 1) + (1 + 1) / 4
    assert lsot_critic_loss(t(0, 0), t(0, 0), X, Y).item() == 0


@pytest.mark.parametrize("seed", range(5))
def test_transforms_never_pass_the_truth_and_reach_it(seed: int) -> None:
    f, g, x, y = batches(6, 6, seed)
    truth = barrow.wasserstein(x.flatten(1), y.flatten(1), p=1)
    for steep in (1, 10):
        assert -c_transform_critic_loss(steep * f, x, y) <= truth + 1e-9
        assert -cowgan_critic_loss(steep * f, steep * g, x, y) <= truth + 1e-9
    best = barrow.solve(barrow.Problem(barrow.Points(x.flatten(1), y.flatten(1), p=1)))
    assert torch.allclose(-c_transform_critic_loss(best.f, x, y), truth, atol=1e-6)
    assert torch.allclose(-cowgan_critic_loss(best.f, -best.g, x, y), truth, atol=1e-6)
    assert -lsot_critic_loss(best.f, best.g, x, y) >= truth - 1e-6


def test_the_sign_rises_with_a_good_critic() -> None:
    x, y = X + 10, Y
    assert -wgan_critic_loss(x[:, 0], y[:, 0]) > 0
    assert hinge_critic_loss(x, y - 9) < hinge_critic_loss(y - 9, x)
    assert -c_transform_critic_loss(x[:, 0], x, y) > 0
    assert -cowgan_critic_loss(x, y, x, y) > 0
    assert -lsot_critic_loss(x, -y, x, y) > 0


# -- gradients, shapes, precision --------------------------------------------------------------------------------------


@paired
def test_gradients(loss: Callable[..., Tensor]) -> None:
    inputs = [z.requires_grad_() for z in batches(seed=3)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_gradients_of_values_only() -> None:
    f, g = (z.requires_grad_() for z in batches()[:2])
    for loss in (wgan_critic_loss, hinge_critic_loss):
        assert torch.autograd.gradcheck(loss, (f, g))
    for loss in (wgan_generator_loss, hinge_generator_loss):
        assert torch.autograd.gradcheck(loss, (g,))


def test_gradient_of_a_minimum_by_hand() -> None:
    f, y = t(4, 0).requires_grad_(), Y.clone().requires_grad_()
    c_transform_critic_loss(f, X, y).backward()
    # Both minima are at x = 0: -(mean f + mean(|y| - f_0)) = -(f_0 / 2 + f_1 / 2 + mean |y| - f_0)
    assert f.grad is not None
    assert f.grad.tolist() == [0.5, -0.5]
    assert y.grad is not None
    assert y.grad.tolist() == [[-0.5], [-0.5]]


def test_gradient_is_finite_where_samples_coincide() -> None:
    f, g, x, _ = (z.requires_grad_() for z in batches(5, 5))
    for loss in PAIRED.values():
        grads = torch.autograd.grad(loss(f, g, x, x), (f, x))
        assert all(grad.isfinite().all() for grad in grads)


def test_a_column_is_a_row() -> None:
    f, g, x, y = batches()
    for loss in PAIRED.values():
        assert torch.equal(loss(f[:, None], g[:, None], x, y), loss(f, g, x, y))
    for two in (wgan_critic_loss, hinge_critic_loss):
        assert torch.equal(two(f[:, None], g[:, None]), two(f, g))
    assert wgan_generator_loss(g[:, None]).shape == ()


def test_means_of_bfloat16_are_not_bfloat16() -> None:
    f_x, f_y = torch.full((999,), 1.0, dtype=torch.bfloat16), torch.zeros(999, dtype=torch.bfloat16)
    f_x[0] = 2
    assert wgan_critic_loss(f_x, f_y).dtype == torch.float32
    assert wgan_critic_loss(f_x, f_y).item() == pytest.approx(-1000 / 999, rel=1e-6)


@paired
def test_autocast(loss: Callable[..., Tensor]) -> None:
    _, _, x, y = (z.float() for z in batches())
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        f, g = critic(x), critic(y)
        assert f.dtype == torch.bfloat16
        value = loss(f, g, x, y)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.allclose(value, loss(critic(x), critic(y), x, y), atol=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters())


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [wgan_critic_loss, hinge_critic_loss, lambda f, g: wgan_generator_loss(f)])
@pytest.mark.parametrize(
    ("f", "words"),
    [
        (torch.zeros(5, 2), r"has shape \(5, 2\), but a critic gives one number a sample, shape \(B,\) or \(B, 1\)"),
        (torch.zeros(5, 1, 4, 4), r"average over the rest with f_[xy].flatten\(1\).mean\(1\)"),
        (torch.tensor(1.0), r"has shape \(\), but a critic gives one number a sample"),
        (torch.zeros(0), "a mean needs at least one sample: skip empty batches"),
        (torch.zeros(0, 1), "a mean needs at least one sample: skip empty batches"),
        (torch.zeros(3).long(), "has dtype torch.int64, but the values of a critic must be floating point"),
        ([1.0], "is a list, but the values of a critic must be a torch.Tensor"),
    ],
)
def test_refuses_values(loss: Callable[..., Tensor], f: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loss(f, torch.zeros(3))


NAN = torch.tensor([[0.0], [math.nan]])


@paired
@pytest.mark.parametrize(
    ("x", "y", "f", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2), r"x has shape \(2, 3\) but y has shape \(2, 4\)"),
        (torch.zeros(2), torch.zeros(2), torch.zeros(2), r"for numbers on a line use x.unsqueeze\(-1\)"),
        (torch.zeros(0, 3), torch.zeros(2, 3), torch.zeros(2), r"x has shape \(0, 3\), but a batch needs at least one"),
        (torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2), "at least one sample of at least one number"),
        (NAN, torch.zeros(2, 1), torch.zeros(2), "x holds NaN or infinity in 1 of its 2 samples"),
        (torch.zeros(2, 1), -1 / torch.zeros(2, 1), torch.zeros(2), "y holds NaN or infinity in 2 of its 2 samples"),
        (torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(3), r"f_x has shape \(3,\), but there are 2 samples"),
        (torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 2), r"f_x has shape \(2, 2\), but a critic gives one"),
        (torch.zeros(2, 1), torch.zeros(2, 1).double(), torch.zeros(2), "convert one with y.to"),
        (torch.zeros(2, 1).long(), torch.zeros(2, 1), torch.zeros(2), "x has dtype torch.int64"),
        (torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, device="meta"), "f_x is on meta but its samples are on"),
    ],
)
def test_refuses_pairs(loss: Callable[..., Tensor], x: Tensor, y: Tensor, f: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loss(f, torch.zeros(2), x, y)


@pytest.mark.parametrize("loss", [cowgan_critic_loss, lsot_critic_loss])
def test_refuses_values_on_the_other_side(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"_y has shape \(3,\), but there are 2 samples: expected \(2,\) or \(2, 1\)"):
        loss(torch.zeros(2), torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, 1))


@pytest.mark.parametrize("epsilon", [-1.0, math.inf, math.nan, "soft"])
def test_refuses_epsilon(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon is"):
        c_transform(t(0, 0), X, Y, epsilon=epsilon)
    with pytest.raises(ValueError, match="epsilon is"):
        lsot_critic_loss(t(0, 0), t(0, 0), X, Y, epsilon=epsilon)


def test_lsot_refuses_no_regulariser() -> None:
    with pytest.raises(ValueError, match=r"epsilon is 0.0, but it must be positive and finite"):
        lsot_critic_loss(t(0, 0), t(0, 0), X, Y, epsilon=0.0)


def test_names() -> None:
    assert len(set(generative.__all__)) == len(generative.__all__)
    for name in generative.__all__:
        thing = getattr(generative, name)
        assert thing.__doc__
        if thing not in (generative.Round, generative.Diverged):  # what is handed to and fro is from no paper
            assert ">>> " in thing.__doc__
            assert "Source: " in thing.__doc__
