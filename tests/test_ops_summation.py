"""Pairwise sums keep their promise."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from barrow.ops.summation import pairwise_sum

numbers = st.floats(-1e30, 1e30, allow_nan=False, allow_subnormal=False)


@given(st.lists(numbers, min_size=1, max_size=70))
def test_error_is_at_most_log_n_roundings_of_the_absolute_sum(values):
    total = pairwise_sum(torch.tensor(values, dtype=torch.float64))
    exact = sum((Fraction(v) for v in values), Fraction(0))
    size = sum((abs(Fraction(v)) for v in values), Fraction(0))
    depth = math.ceil(math.log2(len(values)))
    unit = Fraction(1, 2**53)
    # (1 + u)^depth - 1, and what falls below the smallest float.
    bound = ((1 + unit) ** depth - 1) * size + len(values) * Fraction(5e-324)
    assert abs(Fraction(float(total)) - exact) <= bound


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 1000])
def test_batches_and_sizes(n):
    t = torch.randint(-9, 9, (2, 3, n)).double()
    assert torch.equal(pairwise_sum(t), t.sum(-1))


def test_nothing_sums_to_zero():
    assert torch.equal(pairwise_sum(torch.empty(2, 0)), torch.zeros(2))


def test_a_plain_loop_breaks_the_promise_that_is_kept_here():
    t = torch.full((4096,), 0.1, dtype=torch.float32)
    exact = 4096 * float(t[0])
    bound = 12 * 2**-24 * exact
    loop = t.new_zeros(())
    for v in t:
        loop = loop + v
    assert abs(float(pairwise_sum(t)) - exact) <= bound < abs(float(loop) - exact)
