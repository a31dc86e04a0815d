"""Powers of distances: relative accuracy, translation, subgradients at the kinks."""

import math

import pytest
import torch

from barrow.ops.distance import all_pairs, paired, roundings

NORMS = [1, 2, math.inf]
POWERS = [1, 1.3, 2, 3]


def by_definition(x, y, p, norm):
    return torch.linalg.vector_norm(x[..., :, None, :] - y[..., None, :, :], ord=norm, dim=-1) ** p


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("d", [1, 2, 7])
def test_both_forms_are_the_definition(norm, p, d):
    x, y = torch.randn(3, 1, 4, d).double(), torch.randn(2, 5, d).double()
    expected = by_definition(x, y, p, norm)
    assert torch.allclose(all_pairs(x, y, p, norm), expected, rtol=1e-13, atol=0)
    rows, cols = torch.randint(4, (9,)), torch.randint(5, (9,))
    listed = paired(x[..., rows, :], y[..., cols, :], p, norm)
    assert torch.allclose(listed, expected[..., rows, cols], rtol=1e-13, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("d", [1, 3, 50])
def test_float32_keeps_the_promised_relative_error(norm, p, d):
    x, y = torch.randn(20, d), torch.randn(30, d)
    exact = by_definition(x.double(), y.double(), p, norm)
    bound = roundings(d, p) * torch.finfo(torch.float32).eps / 2
    assert ((all_pairs(x, y, p, norm).double() - exact).abs() <= bound * exact).all()
    assert ((paired(x, y[:20], p, norm).double() - exact.diagonal()).abs() <= bound * exact.diagonal()).all()


@pytest.mark.parametrize("norm", NORMS)
def test_translation_changes_nothing(norm):
    x, y = torch.randint(-64, 64, (2, 30, 5)) / 64
    assert torch.equal(all_pairs(x + 1000, y + 1000, 2, norm), all_pairs(x, y, 2, norm))


def test_large_clouds_do_not_switch_to_a_matrix_product():
    x = torch.randn(60, 3) + 1000
    assert (all_pairs(x, x, 1, 2).diagonal() == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("p", POWERS)
def test_gradients(norm, p):
    x, y = torch.randn(4, 3).double().requires_grad_(), torch.randn(4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: all_pairs(x, y, p, norm), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: paired(x, y, p, norm), (x, y))


@pytest.mark.parametrize("form", [all_pairs, paired])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("p", POWERS)
def test_gradient_is_zero_where_points_meet(form, norm, p):
    x = torch.zeros(1, 3, requires_grad=True)
    form(x, torch.zeros(1, 3), p, norm).sum().backward()
    assert torch.equal(x.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("form", [all_pairs, paired])
def test_the_maximum_norm_has_a_subgradient_where_coordinates_tie(form):
    x = torch.tensor([[2.0, -2.0, 1.0]], requires_grad=True)
    form(x, torch.zeros(1, 3), 1, math.inf).sum().backward()
    # Of the dual norm 1, or the linear model would overtake the function.
    assert x.grad.abs().sum() == 1
    assert (x.grad * x.detach()).sum() == 2
