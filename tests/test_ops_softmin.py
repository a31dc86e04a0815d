"""The soft minimum of a matrix row."""

import math

import pytest
import torch

from barrow.ops.softmin import hardmin, softmin


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 100.0])
def test_definition(epsilon):
    C, h = torch.randn(4, 5).double(), torch.randn(5).double()
    soft = softmin(C, h, epsilon)
    by_hand = -epsilon * ((h - C) / epsilon).exp().sum(-1).log()
    if by_hand.isfinite().all():
        assert torch.allclose(soft, by_hand, rtol=1e-12)
    hard = hardmin(C, h)
    assert (soft <= hard).all()
    assert (soft >= hard - epsilon * math.log(5) - 1e-12).all()


def test_it_does_not_overflow_and_tends_to_the_minimum():
    C, h = 1e6 * torch.randn(4, 5).double(), torch.randn(5).double()
    assert torch.allclose(softmin(C, h, 1e-3), hardmin(C, h), rtol=1e-12)


def test_one_epsilon_a_problem():
    C, h, epsilon = torch.randn(3, 4, 5), torch.randn(3, 5), torch.tensor([0.1, 1.0, 10.0])
    together = softmin(C, h, epsilon)
    for k in range(3):
        assert torch.allclose(together[k], softmin(C[k], h[k], float(epsilon[k])))
    assert torch.allclose(softmin(C[0], h, epsilon)[1], softmin(C[0], h[1], 1.0))


def test_atoms_without_mass_are_not_seen():
    C, h = torch.randn(4, 5), torch.randn(5)
    for absent in ([2], [0, 4]):
        less = h.clone()
        less[absent] = -torch.inf
        keep = [j for j in range(5) if j not in absent]
        assert torch.allclose(softmin(C, less, 0.3), softmin(C[:, keep], h[keep], 0.3))
        assert torch.equal(hardmin(C, less), hardmin(C[:, keep], h[keep]))
    nothing = torch.full((5,), -torch.inf)
    assert (softmin(C, nothing, 0.3) == torch.inf).all()
    assert (hardmin(C, nothing) == torch.inf).all()
