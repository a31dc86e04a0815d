"""The c-transform on a line against the minimum over all pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from barrow.ops.monotone_min import monotone_min


def brute(x, y, h, p):
    return ((x[:, :, None] - y[:, None, :]).abs() ** p - h[:, None, :]).amin(-1)


def assert_agrees(x, y, h, p):
    got, expected = monotone_min(x, y, h, p), brute(x, y, h, p)
    absent = expected == torch.inf
    assert torch.equal(got == torch.inf, absent)
    size = 1 + (x.abs().max() + y.abs().max()) ** p + h[h.isfinite()].abs().sum()
    assert torch.allclose(got[~absent], expected[~absent], rtol=0, atol=1e-14 * float(size))


# Small integers make ties and duplicates; None is an atom without mass.
positions = st.lists(st.integers(-6, 6) | st.floats(-6, 6), min_size=1, max_size=17)
levels = st.integers(-20, 20) | st.floats(-20, 20) | st.none()


@given(st.data(), positions, positions, st.sampled_from([1, 1.3, 2, 3]))
def test_any_order_ties_and_absent_atoms(data, x, y, p):
    h = data.draw(st.lists(levels, min_size=len(y), max_size=len(y)))
    h = [-torch.inf if v is None else v for v in h]
    assert_agrees(*(torch.tensor([v], dtype=torch.float64) for v in (x, y, h)), p)


@pytest.mark.parametrize("p", [1, 1.3, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 50), (50, 1), (64, 63), (200, 333)])
def test_batches(n, m, p):
    x, y, h = torch.randn(3, n).double(), torch.randn(3, m).double(), torch.randn(3, m).double()
    assert_agrees(x, y, h, p)
    assert_agrees(x, y, h[:1], p)


def test_a_steep_potential_sends_every_query_to_one_atom():
    x, y = torch.linspace(0, 1, 40).double()[None], torch.linspace(0, 1, 40).double()[None]
    for winner in (0, 17, 39):
        h = torch.zeros(1, 40).double()
        h[0, winner] = 1e6
        assert_agrees(x, y, h, 2)


def test_all_absent():
    x = torch.zeros(2, 3)
    assert (monotone_min(x, x, torch.full((2, 3), -torch.inf), 1) == torch.inf).all()
