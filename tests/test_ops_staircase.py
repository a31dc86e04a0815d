"""The north-west corner rule."""

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from barrow.ops.staircase import in_units, staircase, staircase_potentials


def corner_rule(a, b):
    """The plan by the textbook's loop, in exact arithmetic."""
    a, b = [Fraction(v) for v in a], [Fraction(v) for v in b]
    plan = torch.zeros(len(a), len(b), dtype=torch.float64)
    i = j = 0
    while i < len(a) and j < len(b):
        moved = min(a[i], b[j])
        plan[i, j] += float(moved)
        a[i], b[j] = a[i] - moved, b[j] - moved
        if a[i] == 0:
            i += 1
        else:
            j += 1
    return plan


def dense(path, n, m):
    flat = torch.zeros(n * m, dtype=path.mass.dtype)
    return flat.scatter_add(0, path.rows * m + path.cols, path.mass).view(n, m)


# Whole grains: ties between the two cumulative sums and atoms without mass are common.
grains = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@given(grains, grains)
def test_the_corner_rule(a, b):
    short = sum(a) - sum(b)
    (a if short < 0 else b)[-1] += abs(short)
    n, m = len(a), len(b)
    path = staircase(torch.tensor(a).double(), torch.tensor(b).double())
    assert path.rows.shape == path.cols.shape == path.mass.shape == (n + m - 1,)
    assert (int(path.rows[0]), int(path.cols[0])) == (0, 0)
    assert (int(path.rows[-1]), int(path.cols[-1])) == (n - 1, m - 1)
    right, down = torch.diff(path.cols), torch.diff(path.rows)
    assert (right + down == 1).all()
    assert ((right == 0) | (down == 0)).all()
    assert torch.equal(dense(path, n, m), corner_rule(a, b))


@given(grains, grains)
def test_integers_stay_integers(a, b):
    short = sum(a) - sum(b)
    (a if short < 0 else b)[-1] += abs(short)
    path = staircase(torch.tensor(a), torch.tensor(b))
    P = dense(path, len(a), len(b))
    assert P.sum(1).tolist() == a
    assert P.sum(0).tolist() == b


def test_units_have_exactly_equal_sums_and_lose_nothing():
    a, b = torch.rand(4, 1000).double(), torch.rand(4, 777).double()
    b = b * (a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True))
    A, B, unit = in_units(a, b)
    assert torch.equal(A.sum(-1), B.sum(-1))
    for whole, w in ((A, a), (B, b)):
        assert ((whole * unit - w).abs() <= 1e-15 * w.sum(-1, keepdim=True)).all()
        assert (whole >= 0).all()


def test_batches_are_loops():
    a, b = torch.rand(2, 3, 5).double(), torch.rand(2, 3, 4).double()
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    together = staircase(a, b)
    for k in range(2):
        for j in range(3):
            alone = staircase(a[k, j], b[k, j])
            assert all(torch.equal(one[k, j], other) for one, other in zip(together, alone, strict=True))


def test_mass_is_differentiable_in_the_weights():
    a = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)

    def value(a):
        # In a direction that keeps the mass.
        a = a - (a.sum() - 1) / 3
        path = staircase(a, b)
        return (path.mass * (path.rows - 2.0 * path.cols).square()).sum()

    assert torch.autograd.gradcheck(value, (a,))


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 1.5, 2, 3]))
def test_potentials_are_tight_on_the_path_and_feasible_off_it(n, m, p):
    x, y = torch.randn(n).double().sort().values, torch.randn(m).double().sort().values
    a, b = torch.rand(n).double(), torch.rand(m).double()
    path = staircase(a / a.sum(), b / b.sum())
    C = (x[:, None] - y).abs() ** p
    here = C[path.rows, path.cols]
    right = C[path.rows[:-1], path.cols[1:].clamp_max(m - 1)] - here[:-1]
    down = C[path.rows[1:].clamp_max(n - 1), path.cols[:-1]] - here[:-1]
    f, g = staircase_potentials(path, right, down, n, m)
    assert f[0] == 0
    g = g + here[0]
    slack = C - f[:, None] - g
    assert torch.allclose(slack[path.rows, path.cols], torch.zeros(n + m - 1).double(), atol=1e-12)
    assert (slack >= -1e-12).all()


def test_one_atom_on_each_side():
    path = staircase(torch.ones(2, 1), torch.ones(2, 1))
    assert torch.equal(path.mass, torch.ones(2, 1))
    f, g = staircase_potentials(path, torch.ones(2, 0), torch.ones(2, 0), 1, 1)
    assert torch.equal(f, torch.zeros(2, 1))
    assert torch.equal(g, torch.zeros(2, 1))
