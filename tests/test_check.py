"""Every complaint says what was given, what is expected and what to do."""

import math
import re

import numpy as np
import pytest
import torch

from barrow import check


def complains(words: str):
    return pytest.raises(ValueError, match=f"^{re.escape(words)}$")


def test_shape_is_written_as_a_user_would_type_it():
    assert check.shape(torch.empty(8, 256, 3)) == "(8, 256, 3)"
    assert check.shape(torch.empty(4)) == "(4,)"


def test_real_tensor():
    t = torch.ones(2)
    assert check.real_tensor("x", t, what="it") is t
    with complains("x is a list, but a cost must be a torch.Tensor: use torch.as_tensor"):
        check.real_tensor("x", [1.0], what="a cost")
    with complains("x has dtype torch.int64, but a cost must be floating point: call x.float() first"):
        check.real_tensor("x", torch.arange(2), what="a cost")
    with pytest.raises(ValueError, match="must be floating point"):
        check.real_tensor("x", torch.ones(2, dtype=torch.bool), what="it")


def test_same_kind():
    x = torch.ones(2)
    check.same_kind("x", x, "a", x)
    with complains(
        "x has dtype torch.float32 but a has dtype torch.float64: convert one with a.to(x.dtype)",
    ):
        check.same_kind("x", x, "a", x.double())
    with complains("x is on cpu but a is on meta: move one with a.to(x.device)"):
        check.same_kind("x", x, "a", torch.ones(2, device="meta"))


def test_clouds():
    x, y = torch.ones(8, 256, 3), torch.ones(8, 300, 3)
    assert check.clouds(x, y) == (x, y)
    with complains("x has shape (8, 256, 3) but y has shape (8, 300, 2): the last dimension must agree"):
        check.clouds(x, y[..., :2])
    with complains(
        "y has shape (5,), but a cloud of points must have shape (..., n, d): "
        "for n points on a line use y.unsqueeze(-1)"
    ):
        check.clouds(torch.ones(5, 1), torch.ones(5))
    with complains("the batch dimensions do not broadcast: x (8,), y (3,)"):
        check.clouds(x, y[:3])
    for empty in (torch.ones(0, 3), torch.ones(4, 0)):
        with pytest.raises(ValueError, match="a cloud needs at least one point and one coordinate"):
            check.clouds(empty, empty)
    with pytest.raises(ValueError, match=r"^z has shape"):
        check.clouds(torch.ones(5), x, names=("z", "prior"))


def test_batch():
    assert check.batch(x=(2, 1), y=(3,)) == (2, 3)
    assert check.batch() == ()
    with complains("the batch dimensions do not broadcast: of the cost (2,), of a (3,)"):
        check.batch(**{"of the cost": (2,), "of a": (3,)})


def test_weights():
    a = torch.ones(2, 5)
    assert check.weights("a", a, 5, a, "x") is a
    with complains("a has shape (2, 5), but there are 4 atoms on that side: expected shape (..., 4)"):
        check.weights("a", a, 4, a, "x")
    with pytest.raises(ValueError, match=r"a has shape \(\)"):
        check.weights("a", torch.tensor(1.0), 1, a, "x")
    with pytest.raises(ValueError, match=r"x has dtype torch.float64 but a has dtype torch.float32"):
        check.weights("a", a, 5, a.double(), "x")


@pytest.mark.parametrize("value", [1, 1.5, np.float32(2), np.array(3), torch.tensor(4.0), torch.tensor(5), -math.inf])
def test_number_takes_one_real_number(value):
    assert check.number("p", value) == float(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "p is None, but it must be a number"),
        (True, "p is True, but it must be a number"),
        ("2", "p is '2', but it must be a number"),
        (1j, "p is 1j, but it must be a number"),
        (math.nan, "p is NaN, but it must be a number"),
        (np.array([1.0, 2.0]), "p is array([1., 2.]), but it must be a single number"),
        (torch.ones(1), "p has shape (1,), but it must be a single number"),
        (torch.tensor(1.0, requires_grad=True), "p requires grad, but no gradient is given to p: pass float(p)"),
    ],
)
def test_number_refuses_everything_else(value, words):
    with complains(words):
        check.number("p", value)


def test_exponent():
    assert check.exponent("p", 1) == 1
    for p in (0.99, 0, -1, math.inf):
        with complains(f"p is {float(p)}, but it must be a finite real number of at least 1"):
            check.exponent("p", p)


def test_positive():
    assert check.positive("rho", math.inf, infinite=True) == math.inf
    with complains("rho is 0.0, but it must be positive"):
        check.positive("rho", 0, infinite=True)
    for value in (0.0, -1.0, math.inf, -math.inf):
        with complains(f"epsilon is {value}, but it must be positive and finite"):
            check.positive("epsilon", value)


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_whole_takes_integers(value):
    three = check.whole("k", value)
    assert three == 3
    assert type(three) is int


@pytest.mark.parametrize("value", [3.0, "3", None, torch.tensor(3.0), torch.tensor([3, 4])])
def test_whole_refuses_the_rest(value):
    with complains(f"k is {value!r}, but it must be a whole number"):
        check.whole("k", value)


def test_whole_has_a_least():
    assert check.whole("k", 0, least=0) == 0
    for value in (0, True):
        with complains(f"k is {value}, but it must be a whole number of at least 1"):
            check.whole("k", value)


def test_compute_dtype():
    for half in (torch.float16, torch.bfloat16):
        assert check.compute_dtype(half) == torch.float32
    for full in (torch.float32, torch.float64):
        assert check.compute_dtype(full) == full
