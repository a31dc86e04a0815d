"""The critic is 1-Lipschitz, certified, and takes any trailing shape."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from barrow.nn import Critic, KantorovichRubinstein, lipschitz_bound


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2), (12, 1)])
@pytest.mark.parametrize("widths", [(), (5,), (16, 8), (128, 64, 32)])
def test_shapes_and_certificate(shape: tuple[int, ...], widths: tuple[int, ...]) -> None:
    critic = Critic(12, widths)
    assert critic(torch.randn(7, *shape)).shape == (7,)
    assert critic(torch.zeros(0, *shape)).shape == (0,)
    assert 1 - 1e-5 < lipschitz_bound(critic, shape) <= 1


def test_numbers_on_a_line() -> None:
    assert Critic(1, (4,))(torch.randn(5)).shape == (5,)


def test_contraction_on_pairs() -> None:
    torch.manual_seed(0)
    critic = Critic(6, (16, 8)).double()
    with torch.no_grad():
        for p in critic.parameters():
            p.mul_(37).add_(torch.randn_like(p))
    x, y = torch.randn(2, 1000, 6, dtype=torch.float64)
    near = x + 1e-3 * y
    for other in (y, near):
        assert ((critic(x) - critic(other)).abs() <= (x - other).norm(dim=1) * (1 + 1e-12)).all()


def test_gradients_have_norm_one() -> None:
    # An isometry layer by layer where widths do not shrink: nothing vanishes with depth.
    torch.manual_seed(0)
    critic = Critic(6, (6,) * 20)
    x = torch.randn(10, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    assert torch.allclose(gradient.norm(dim=1), torch.ones(10), atol=1e-4)


def test_training_reaches_a_translation() -> None:
    torch.manual_seed(0)
    critic, loss = Critic(2, (16, 8)), KantorovichRubinstein()
    x = torch.randn(256, 2)
    y = x + torch.tensor([3.0, -4.0])
    opt = torch.optim.Adam(critic.parameters(), 0.02)
    for _ in range(150):
        opt.zero_grad()
        (-loss(critic(x), critic(y))).backward()
        opt.step()
    assert 4.98 < loss(critic(x), critic(y)).item() <= 5.0001
    assert lipschitz_bound(critic) <= 1


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(7, 11\), but this critic takes .* 12 numbers a sample"):
        Critic(12)(torch.zeros(7, 11))
    with pytest.raises(ValueError, match=r"x has shape \(\)"):
        Critic(12)(torch.tensor(1.0))
    with pytest.raises(ValueError, match="each of widths must be a positive integer, got 0"):
        Critic(12, (3, 0))


def test_copies_and_numpy_sizes() -> None:
    critic = Critic(np.prod((3, 4)), (np.int64(5),))
    x = torch.randn(4, 3, 4)
    other = Critic(12, (5,))
    other.load_state_dict(critic.state_dict())
    for twin in (copy.deepcopy(critic), pickle.loads(pickle.dumps(critic)), other.eval()):
        assert torch.equal(twin(x), critic(x))
