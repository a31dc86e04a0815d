"""Values that bring their gradients along."""

import pytest
import torch

from barrow.ops.known import known

F64 = torch.float64


def square(x: torch.Tensor) -> torch.Tensor:
    """The sum of squares over the last dimension, by hand."""
    return known(x.detach().square().sum(-1), [x], [2 * x.detach()])


def test_the_gradient_is_the_slope_times_what_comes_in():
    x = torch.randn(3, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(square, (x,))
    assert torch.autograd.gradcheck(lambda x: square(x).sin().sum(), (x,))


def test_leading_dimensions_broadcast_and_none_is_skipped():
    x, y = torch.randn(3, 1, 4, dtype=F64, requires_grad=True), torch.randn(5, 2, dtype=F64, requires_grad=True)

    def value(x, y):
        s, t = x.detach().expand(3, 5, 4), y.detach().expand(3, 5, 2)
        return known(s.square().sum(-1) + t.sum(-1), [x, None, y, y], [2 * s, s, torch.ones_like(t), None])

    assert torch.autograd.gradcheck(value, (x, y))


def test_gradients_have_the_dtype_of_the_source():
    x = torch.randn(4, dtype=torch.bfloat16, requires_grad=True)
    known(torch.ones((), dtype=F64), [x], [torch.ones(4)]).backward()
    assert x.grad.dtype == torch.bfloat16


def test_nothing_is_kept_where_nothing_is_asked():
    x = torch.randn(4, dtype=F64, requires_grad=True)
    value = torch.zeros((), dtype=F64)
    assert known(value, [x, None], [None, x]) is value
    with torch.no_grad():
        assert not square(x).requires_grad


def test_the_second_derivative_is_refused():
    x = torch.randn(4, dtype=F64, requires_grad=True)
    for wrap in (lambda v: v, lambda v: v.square()):
        (gradient,) = torch.autograd.grad(wrap(square(x)), x, create_graph=True)
        assert torch.allclose(gradient, torch.autograd.grad(wrap(x.square().sum()), x)[0])
        with pytest.raises(RuntimeError, match="differentiated again"):
            gradient.sum().backward()


def test_a_source_that_was_changed_in_place_is_noticed():
    x = torch.randn(4, dtype=F64, requires_grad=True)
    y = x * 1
    value = square(y)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
