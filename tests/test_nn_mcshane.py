"""The critic of cones: its values, that nothing makes it steeper than one, and that it is exact where it should be."""

from __future__ import annotations

import copy

import pytest
import torch

import barrow
from barrow.nn import McShaneCritic, kantorovich_rubinstein, lipschitz_bound


def test_values_by_hand():
    critic = McShaneCritic.through(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([0.0, -1.0]))
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [3.0, 4.0], [1.0, 0.0]])
    assert critic(x).tolist() == [0.0, -1.0, 4.0, 3.0, 1.0]


def test_values_that_are_too_steep_are_lowered():
    critic = McShaneCritic.through(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 5.0]))
    assert critic(torch.tensor([[1.0]])).tolist() == [1.0]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_is_1_lipschitz_whatever_its_parameters(scale):
    torch.manual_seed(0)
    critic = McShaneCritic(3, 20).double()
    with torch.no_grad():
        for p in critic.parameters():
            p.copy_(scale * torch.randn_like(p))
    x, y = torch.randn(2, 2000, 3, dtype=torch.float64)
    for other in (y, x + 1e-4 * y):
        assert ((critic(x) - critic(other)).abs() <= (x - other).norm(dim=-1) * (1 + 1e-10)).all()
    assert lipschitz_bound(critic, (3,)) == 1


def test_gradients_are_unit_vectors_and_zero_at_a_tip():
    critic = McShaneCritic(2, 7).double()
    x = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    assert torch.allclose(gradient.norm(dim=-1), torch.ones(50, dtype=torch.float64))
    tip = critic.centers.detach()[:1].clone().requires_grad_()
    with torch.no_grad():
        critic.offsets[0] = -9
    (gradient,) = torch.autograd.grad(critic(tip).sum(), tip)
    assert gradient.tolist() == [[0.0, 0.0]]


def test_gradients_of_the_parameters_are_right():
    torch.manual_seed(1)
    critic = McShaneCritic(2, 4).double()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def values(x, c, b):
        return torch.func.functional_call(critic, {"centers": c, "offsets": b}, (x,))

    c, b = (p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(values, (x, c, b))


def test_far_from_the_origin_small_distances_are_seen():
    base = torch.tensor([[1000.0, -1000.0]])
    critic = McShaneCritic.through(base, torch.zeros(1))
    assert abs(critic(base + 0.125).item() - 0.125 * 2**0.5) < 1e-6


def test_exact_potentials_make_an_exact_critic():
    """W_1 between samples is what the critic through a solver's potentials says it is."""
    torch.manual_seed(2)
    x, y = torch.randn(40, 3).double(), torch.randn(50, 3).double() + 1
    s = barrow.solve(barrow.Problem(barrow.Points(x, y, p=1)))
    critic = McShaneCritic.through(y, -s.g)
    assert torch.allclose(kantorovich_rubinstein(critic(x), critic(y)), s.value, rtol=1e-9)


def test_batches_in_parts_give_the_same(monkeypatch):
    critic, x = McShaneCritic(5, 9), torch.randn(33, 5)
    whole = critic(x)
    monkeypatch.setattr("barrow.nn.mcshane.NUMBERS", 100)
    assert torch.equal(critic(x), whole)


def test_shapes_copies_and_state():
    critic = McShaneCritic(12, 4)
    assert critic(torch.zeros(5, 3, 4)).shape == (5,)
    assert critic(torch.zeros(0, 12)).shape == (0,)
    other = McShaneCritic(12, 4)
    other.load_state_dict(critic.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(other(x), critic(x))
    assert torch.equal(copy.deepcopy(critic)(x), critic(x))
    assert "in_features=12, cones=4" in repr(critic)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: McShaneCritic(0, 3), "in_features must be a positive integer, got 0"),
        (lambda: McShaneCritic(2, 1.5), "cones must be a positive integer"),
        (lambda: McShaneCritic(2, 3, low=1, high=0), "low = 1 and high = 0"),
        (lambda: McShaneCritic(2, 3)(torch.zeros(4, 3)), r"x has shape \(4, 3\), but this critic takes"),
        (lambda: McShaneCritic.through(torch.zeros(2, 3), torch.zeros(3)), "one number a point"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()
