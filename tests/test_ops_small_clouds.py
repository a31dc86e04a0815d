"""Batches of small clouds against the same problems one matrix at a time."""

import math

import pytest
import torch

import barrow
from barrow import Assignment, Points, Problem, Simplex
from barrow.ops import pairs, small_clouds
from barrow.ops.assignment import assign_now
from barrow.ops.network_simplex import solve_now
from barrow.solvers import base
from problems import F64, cloud, dirichlet, lp


def weights(B: int, n: int, *, seed: int) -> torch.Tensor:
    """Every problem with another number of atoms, and one of all."""
    w = dirichlet(B, n, seed=seed)
    for k in range(1, B):
        w[k, torch.randperm(n, generator=torch.Generator().manual_seed(100 * seed + k))[: k % n]] = 0
    return w / w.sum(-1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_the_matrix_of_the_atoms_that_have_mass_is_enough(p, norm, dtype):
    B, n, m = 6, 9, 13
    x, y = cloud(B, n, 3, seed=0).to(dtype), cloud(B, m, 3, seed=1).to(dtype)
    a, b = weights(B, n, seed=2), weights(B, m, seed=3)
    C = pairs.distances(x.double(), y.double(), p, norm)
    found = small_clouds.simplex_clouds(x, y, p, norm, a, b)
    for k in range(B):
        plan = torch.zeros(n, m, dtype=F64).index_put((found.rows[k], found.cols[k]), found.mass[k], accumulate=True)
        assert torch.allclose(plan.sum(-1), a[k], rtol=0, atol=1e-15)
        assert torch.allclose(plan.sum(-2), b[k], rtol=0, atol=1e-15)
        truth, _ = lp(C[k], a[k], b[k])
        assert (plan * C[k]).sum() == pytest.approx(truth, rel=1e-12)
        assert found.f[k] @ a[k] + found.g[k] @ b[k] == pytest.approx(truth, rel=1e-12)
        held = C[k] - found.f[k][:, None] - found.g[k]
        assert (held[a[k] > 0][:, b[k] > 0] >= -1e-12).all()
        assert (found.f[k][a[k] == 0] == 0).all()
    assert (found.code == 0).all()
    assert found.steps.sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("n", "d"), [(1, 2), (7, 3), (40, 50), (65, 2)])
def test_assignments_are_those_of_the_matrix(n, d, dtype):
    x, y = cloud(3, n, d, seed=0).to(dtype), cloud(3, n, d, seed=1).to(dtype)
    C = pairs.distances(x.double(), y.double(), 2, 2)
    one, two = small_clouds.assignment_clouds(x, y, 2, 2, 3), assign_now(C)
    assert torch.equal(one.cols, two.cols)
    assert torch.equal(one.f, two.f)
    assert torch.equal(one.g, two.g)


def test_one_cloud_for_all():
    x, y, a = cloud(1, 8, 2, seed=0), cloud(4, 8, 2, seed=1), weights(4, 8, seed=2)
    uniform = torch.full((4, 8), 1 / 8, dtype=F64)
    C = pairs.distances(x, y, 2, 2)
    found, expected = small_clouds.simplex_clouds(x, y, 2, 2, a, uniform), solve_now(a, uniform, C)
    values = [(C.flatten(1).gather(1, s.rows * 8 + s.cols) * s.mass).sum(-1) for s in (found, expected)]
    assert torch.allclose(*values, rtol=1e-13)
    assert torch.equal(small_clouds.assignment_clouds(x, y, 2, 2, 4).cols, assign_now(C).cols)


def test_its_own_result_leaves_nothing_to_do():
    x, y, a, b = cloud(5, 30, 3, seed=0), cloud(5, 20, 3, seed=1), weights(5, 30, seed=2), weights(5, 20, seed=3)
    cold = small_clouds.simplex_clouds(x, y, 2, 2, a, b)
    warm = small_clouds.simplex_clouds(x, y, 2, 2, a, b, g=cold.g, arcs=(cold.rows, cold.cols, cold.mass))
    assert (cold.steps > 0).all()
    assert (warm.steps == 0).all()
    nonsense = torch.randint(-9, 99, cold.rows.shape)
    lost = small_clouds.simplex_clouds(
        x, y, 2, 2, a, b, g=torch.full_like(b, math.nan), arcs=(nonsense, nonsense, cold.mass)
    )
    assert torch.allclose((lost.f * a).sum(-1), (cold.f * a).sum(-1) + (cold.g * b - lost.g * b).sum(-1), rtol=1e-12)


def test_limits_and_progress():
    x, y = cloud(6, 40, 3, seed=0), cloud(6, 40, 3, seed=1)
    a, b = weights(6, 40, seed=2), weights(6, 40, seed=3)
    assert (small_clouds.simplex_clouds(x, y, 2, 2, a, b, max_steps=1).code == 1).all()
    assert (small_clouds.assignment_clouds(x, y, 2, 2, 6, max_steps=0).code == 1).all()
    assert (small_clouds.simplex_clouds(x, y, 2, 2, a, b, seconds=0.0).code == 9).all()
    seen = []
    small_clouds.simplex_clouds(x, y, 2, 2, a, b, listener=lambda *word: seen.append(word))
    assert seen[-1] == ("problems", 6, 6)
    with pytest.raises(KeyError):
        small_clouds.simplex_clouds(x, y, 2, 2, a, b, listener=lambda *_: {}["none"])


def test_nothing_has_mass():
    a, b = torch.zeros(1, 3, dtype=F64), torch.zeros(1, 2, dtype=F64)
    found = small_clouds.simplex_clouds(cloud(1, 3, 2, seed=0), cloud(1, 2, 2, seed=1), 2, 2, a, b)
    assert (found.mass == 0).all()
    assert (found.f == 0).all()
    assert (found.g == 0).all()


def test_shapes_that_do_not_fit():
    x, w = cloud(2, 4, 3, seed=0), torch.full((2, 4), 0.25, dtype=F64)
    with pytest.raises(ValueError, match="one weight for every point"):
        small_clouds.simplex_clouds(x, x[:, :3], 2, 2, w, w)
    with pytest.raises(ValueError, match="do not fit the batch"):
        small_clouds.simplex_clouds(cloud(3, 4, 3, seed=0), x, 2, 2, w, w)
    with pytest.raises(ValueError, match="start needs the shape"):
        small_clouds.assignment_clouds(x, x, 2, 2, 2, g=w[:1])


# -- through the solvers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", [Simplex(), Assignment()])
def test_it_is_no_matter_whether_matrices_are_kept(solver, dtype, monkeypatch):
    x, y = cloud(5, 12, 10, seed=0).to(dtype), cloud(5, 12, 10, seed=1).to(dtype)
    kept = barrow.solve(Problem(Points(x, y)), solver)
    monkeypatch.setattr(base, "KEPT", 0)
    apart = barrow.solve(Problem(Points(x, y)), solver)
    assert torch.allclose(kept.value, apart.value, rtol=1e-6 if dtype == torch.float32 else 1e-14)
    assert torch.equal(kept.plan.dense(), apart.plan.dense())
    again = barrow.solve(Problem(Points(x, y)), solver, start=apart)
    assert torch.allclose(again.value, apart.value, rtol=1e-6 if dtype == torch.float32 else 1e-14)


def test_padding_costs_nothing_and_changes_nothing(monkeypatch):
    x, y = cloud(4, 20, 5, seed=0), cloud(4, 16, 5, seed=1)
    a, b = weights(4, 20, seed=2), weights(4, 16, seed=3)
    handed = []
    right = small_clouds.simplex_clouds
    monkeypatch.setattr(
        barrow.solvers.simplex, "simplex_clouds", lambda *t, **o: handed.append(len(t[0])) or right(*t, **o)
    )
    batch = barrow.solve(Problem(Points(x, y, p=1), a, b), Simplex())
    assert handed == [4]
    for k in range(4):
        i, j = a[k] > 0, b[k] > 0
        alone = barrow.solve(Problem(Points(x[k][i], y[k][j], p=1), a[k][i], b[k][j]), Simplex())
        assert batch.value[k] == pytest.approx(float(alone.value), rel=1e-14)
    assert handed == [4]
    # Potentials of atoms without mass are those of the c-transform: what a little mass there would cost.
    C = Points(x, y, p=1).dense()
    least = torch.where(b[:, None, :] > 0, C - batch.g[:, None, :], math.inf).amin(-1)
    assert torch.allclose(batch.f, least, rtol=0, atol=1e-12)
