"""Barycenters on fixed and on free places against closed forms."""

import itertools
import math

import pytest
import torch

import barrow
from barrow import ConvergenceWarning, Dense, Grid, Problem, barycenter, debiased_barycenter, free_barycenter
from problems import F64, cloud, dirichlet, permutation, uniform

both = pytest.mark.parametrize("mean", [barycenter, debiased_barycenter])
x = torch.arange(60, dtype=F64)


def bump(at, variance=9.0):
    w = torch.exp(-(x - at).square() / (2 * variance))
    return w / w.sum()


def moments(b):
    mean = (b * x).sum(-1)
    return mean, (b * (x - mean[..., None]).square()).sum(-1)


def assert_close(b, expected, off):
    assert b.isfinite().all()
    assert (b >= 0).all()
    assert ((b - expected).abs().sum(-1) <= off).all(), f"off by {(b - expected).abs().sum(-1).max()}"


# -- on fixed places ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [8.0, 2.0, 0.5])
def test_the_mean_of_translates_is_the_bump_in_the_middle(epsilon):
    a = torch.stack([bump(20), bump(44)])
    w = torch.tensor([0.25, 0.75], dtype=F64)
    assert_close(debiased_barycenter(a, Grid((60,), 2), w, epsilon=epsilon, tol=1e-8), bump(38), 1e-5)
    # Of Gaussians of variance v the entropic barycenter has v + epsilon / 2: Janati et al. 2020, theorem 3.
    assert_close(barycenter(a, Grid((60,), 2), w, epsilon=epsilon, tol=1e-8), bump(38, 9 + epsilon / 2), 3e-3)


def test_gaussians_of_different_width():
    epsilon, v, u = 1.0, 4.0, 16.0
    a = torch.stack([bump(30, v), bump(30, u)])
    # The standard deviation of the exact barycenter is the mean of theirs; the divergence keeps near it.
    _, variance = moments(debiased_barycenter(a, Grid((60,), 2), epsilon=epsilon, tol=1e-8))
    assert float(variance) == pytest.approx(9.0, rel=0.01)
    # Janati et al. 2020, theorem 2: s solves sum_k w_k sqrt(epsilon^2 / 16 + s v_k) = s + epsilon / 4 up to convention.
    _, blurred = moments(barycenter(a, Grid((60,), 2), epsilon=epsilon, tol=1e-8))
    assert variance < blurred < variance + epsilon


@both
def test_two_diracs(mean):
    a = torch.zeros(2, 60, dtype=F64)
    a[0, 10] = a[1, 40] = 1
    b = mean(a, Grid((60,), 2), epsilon=2.0, tol=1e-4)
    at, variance = moments(b)
    assert float(at) == pytest.approx(25, abs=1e-6)
    if mean is barycenter:
        assert_close(b, bump(25, 1.0), 1e-6)  # epsilon / 2
    else:
        assert variance < 0.02


@both
def test_one_weight_takes_one_histogram(mean):
    a = torch.stack([bump(20), bump(40, 4.0), bump(30, 20.0)])
    one = torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    b = mean(a, Grid((60,), 2), one, epsilon=1.0, tol=1e-8)
    alone = mean(a[1:2], Grid((60,), 2), epsilon=1.0, tol=1e-8)
    assert_close(b, alone, 1e-6)
    if mean is debiased_barycenter:
        assert_close(b, a[1], 1e-5)


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_the_debiased_mean_of_equal_histograms_is_that_histogram(p):
    a = dirichlet(12, seed=0)
    assert_close(debiased_barycenter(a.expand(3, 12), Grid((12,), p), epsilon=0.5, tol=1e-9), a, 1e-6)


@both
def test_order_is_nothing(mean):
    a, w = dirichlet(4, 10, seed=0), dirichlet(4, seed=1)
    order, places = permutation(4, 2), permutation(10, 3)
    C = Grid((10,), 2).to(F64).dense()
    b = mean(a, C, w, epsilon=1.0, tol=1e-8)
    assert_close(mean(a[order], C, w[order], epsilon=1.0, tol=1e-8), b, 1e-9)
    assert_close(mean(a[:, places], C[places][:, places], w, epsilon=1.0, tol=1e-8), b[places], 1e-9)


@both
def test_batches_are_loops_and_a_grid_is_its_matrix(mean):
    a, w = dirichlet(3, 1, 4, 12, seed=0), dirichlet(2, 4, seed=1)
    grid = Grid((3, 4), 2)
    together = mean(a, grid, w, epsilon=0.7, tol=1e-7)
    assert together.shape == (3, 2, 12)
    for i, j in itertools.product(range(3), range(2)):
        alone = mean(a[i, 0], grid.to(F64).dense(), w[j], epsilon=0.7, tol=1e-7)
        assert_close(together[i, j], alone, 1e-9)


def test_places_of_the_mean_may_be_others():
    z, y = uniform(15, 1, seed=0), torch.linspace(0, 1, 7, dtype=F64)[:, None]
    C = (y - z.T).square()
    b = barycenter(dirichlet(3, 15, seed=1), C, epsilon=0.05)
    assert b.shape == (7,)
    assert torch.allclose(b.sum(), torch.ones((), dtype=F64))


def value(b, a, C, w, epsilon):
    """sum_k w_k min <P, C> + epsilon sum P log P."""
    ones = [torch.ones(k, dtype=F64) for k in C.shape]
    problem = Problem(Dense(C), b.expand_as(a[..., : len(b)]), a, epsilon=epsilon, reference=tuple(ones))
    return float((w * barrow.solve(problem, barrow.Sinkhorn(tol=1e-10)).value).sum())


def test_what_is_certified_is_so():
    a, w, epsilon = dirichlet(3, 8, seed=0), dirichlet(3, seed=1), 0.3
    C = Grid((8,), 2).to(F64).dense() / 10
    best = barycenter(a, C, w, epsilon=epsilon, tol=1e-12)
    least = value(best, a, C, w, epsilon)
    for k in range(5):  # no other histogram is better
        other = 0.95 * best + 0.05 * dirichlet(8, seed=10 + k)
        assert value(other, a, C, w, epsilon) > least
    for tol in (1e-1, 1e-2, 1e-4, 1e-6):
        seen = []
        b = barycenter(a, C, w, epsilon=epsilon, tol=tol, progress=seen.append)
        assert seen[-1].gap <= tol
        assert (value(b, a, C, w, epsilon) - least) / epsilon <= seen[-1].gap + 1e-8
        assert float((b - best).abs().sum()) <= math.sqrt(2 * tol)


def test_the_debiased_mean_minimises_the_divergence():
    a, w, epsilon = dirichlet(3, 8, seed=0) + 0.05, dirichlet(3, seed=1), 0.3
    a = a / a.sum(-1, keepdim=True)
    z = torch.arange(8, dtype=F64)[:, None] / 3

    def divergence(b):
        options = {"epsilon": epsilon, "tol": 1e-11}
        return float((w * barrow.sinkhorn_divergence(z, z, b.expand(3, 8), a, **options)).sum())

    best = debiased_barycenter(a, Grid((8,), 2, spacing=1 / 3), w, epsilon=epsilon, tol=1e-10)
    least = divergence(best)
    for k in range(5):
        assert divergence(0.98 * best + 0.02 * dirichlet(8, seed=10 + k)) > least


@both
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4])
def test_small_epsilon_is_never_nan(mean, epsilon):
    a = torch.stack([bump(20), bump(40)])
    a[0, :5] = 0
    a = a / a.sum(-1, keepdim=True)
    b = None
    with pytest.warns(ConvergenceWarning, match="reached only .* raise max_steps"):
        b = mean(a, Grid((60,), 2), epsilon=epsilon, max_steps=60, tol=1e-12)
    assert b.isfinite().all()
    assert float(b.sum()) == pytest.approx(1)
    assert float(moments(b)[0]) == pytest.approx(30, abs=0.5)


@both
def test_mass_precision_and_zeros(mean):
    a = dirichlet(2, 10, seed=0, zeros=3)
    b = mean(a, Grid((10,), 2), epsilon=1.0)
    assert torch.allclose(mean(5 * a, Grid((10,), 2), epsilon=1.0), 5 * b)
    single = mean(a.float(), Grid((10,), 2), epsilon=1.0)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), b, atol=1e-6)
    assert mean(a[None][:0], Grid((10,), 2), epsilon=1.0).shape == (0, 10)


def assert_refuses(words, call, *args, **options):
    with pytest.raises(ValueError, match=words) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)


@both
def test_complaints(mean):
    a, C = dirichlet(3, 6, seed=0), Grid((6,), 2).to(F64).dense()
    assert_refuses("^histograms has shape", mean, a[0], C, epsilon=1)
    assert_refuses("^histograms has shape .* 6 places", mean, a[:, :5], C, epsilon=1)
    assert_refuses("^weights has shape", mean, a, C, dirichlet(2, seed=0), epsilon=1)
    assert_refuses("^histograms contains -", mean, a - 0.5, C, epsilon=1)
    assert_refuses("^weights contains -", mean, a, C, -dirichlet(3, seed=0), epsilon=1)
    assert_refuses("no mass", mean, 0 * a, C, epsilon=1)
    assert_refuses("no mass", mean, a, C, torch.zeros(3, dtype=F64), epsilon=1)
    assert_refuses("sum to 1 and 3: .*different masses", mean, a * torch.tensor([[1], [3], [1]]), C, epsilon=1)
    assert_refuses("not finite", mean, a / 0, C, epsilon=1)
    assert_refuses("not finite", mean, a, C / 0, epsilon=1)
    assert_refuses("^C has shape .* shared by all", mean, a, C.expand(2, 6, 6), epsilon=1)
    assert_refuses("dtype", mean, a, C.float(), epsilon=1)
    assert_refuses("^epsilon is 0", mean, a, C, epsilon=0)
    assert_refuses("^tol is 0", mean, a, C, epsilon=1, tol=0)
    assert_refuses("^max_steps is 0", mean, a, C, epsilon=1, max_steps=0)
    assert_refuses(r"histograms requires grad, .*detach\(\)", mean, a.clone().requires_grad_(), C, epsilon=1)
    with torch.no_grad():
        mean(a.clone().requires_grad_(), C, epsilon=1)


def test_a_cost_that_compares_nothing_with_itself():
    a = dirichlet(3, 6, seed=0)
    assert_refuses("^C is not symmetric", debiased_barycenter, a, uniform(6, 6, seed=0), epsilon=1)


# -- on free places ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_translates_of_one_cloud(epsilon, dtype):
    z, shift, w = cloud(40, 3, seed=0), 10 * cloud(4, 3, seed=1), dirichlet(4, seed=2)
    x = z + shift[:, None]
    y = free_barycenter(x.to(dtype), w.to(dtype), n=40, epsilon=epsilon)
    middle = (w[:, None] * shift).sum(0)
    assert y.dtype == dtype
    if epsilon == 0:
        order = barrow.solve(Problem(barrow.Points(y.double(), z + middle, p=1))).value
        assert order < 1e-4 if dtype == torch.float32 else order < 1e-12
    else:
        assert torch.allclose(y.double().mean(0), (z + middle).mean(0), atol=0.02)


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_one_weight_takes_one_cloud(p):
    x = cloud(3, 20, 2, seed=0)
    y = free_barycenter(x, torch.tensor([0.0, 1.0, 0.0], dtype=F64), n=20, p=p)
    assert barrow.wasserstein(y, x[1], p=1) < 1e-9


def test_two_clouds_have_their_mean_on_the_geodesic():
    x, t = cloud(2, 30, 3, seed=0), 0.3
    y = free_barycenter(x, torch.tensor([1 - t, t], dtype=F64), n=30)
    whole = barrow.wasserstein(x[0], x[1])
    assert torch.allclose(barrow.wasserstein(x[0], y), t * whole)
    assert torch.allclose(barrow.wasserstein(y, x[1]), (1 - t) * whole)


def test_gaussians():
    z = cloud(2, 1500, 2, seed=0)
    x = z * torch.tensor([[2.0, 0.5], [0.5, 2.0]], dtype=F64)[:, None]
    y = free_barycenter(x, n=1500, tol=1e-4)
    assert torch.allclose(torch.cov(y.T), 1.5625 * torch.eye(2, dtype=F64), atol=0.15)


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_every_step_lowers_the_cost(p):
    x, w = cloud(3, 15, 2, seed=0), dirichlet(3, seed=1)
    seen = []
    free_barycenter(x, w, n=10, p=p, tol=1e-6, progress=seen.append)
    falls = [word.gap for word in seen]
    assert len(falls) > 2
    assert falls[0] == math.inf
    assert min(falls) >= -1e-9
    assert falls[-1] <= 1e-6
    with pytest.warns(ConvergenceWarning, match="still fell by more than tol = 1e-10") as caught:
        free_barycenter(x, w, n=10, p=p, tol=1e-10, max_steps=2)
    assert caught[0].filename == __file__


def test_the_median_of_points():
    # Three Diracs, two of them equal: the median stays there, the mean does not.
    x = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[3.0, 3.0]]], dtype=F64)
    assert torch.allclose(free_barycenter(x, n=1), torch.ones(1, 2, dtype=F64))
    median = free_barycenter(x, n=1, p=1, start=torch.ones(1, 2, dtype=F64), tol=1e-12)
    assert median.abs().max() < 1e-3


def test_masses_and_padding():
    x, a = cloud(2, 8, 2, seed=0), dirichlet(2, 8, seed=1)
    y = free_barycenter(x, masses=a, n=5)
    wide = torch.cat((x, 1e3 * torch.ones(2, 3, 2, dtype=F64)), 1)
    padded = free_barycenter(wide, masses=torch.nn.functional.pad(7 * a, (0, 3)), n=5)
    assert torch.allclose(padded, y)


def test_batches_of_clouds_are_loops():
    x, w = cloud(3, 1, 4, 6, 2, seed=0), dirichlet(2, 4, seed=1)
    together = free_barycenter(x, w, n=5)
    assert together.shape == (3, 2, 5, 2)
    for i, j in itertools.product(range(3), range(2)):
        assert torch.allclose(together[i, j], free_barycenter(x[i, 0], w[j], n=5), atol=1e-9)


def test_the_order_of_clouds_is_nothing():
    x, w = cloud(4, 6, 2, seed=0), dirichlet(4, seed=1)
    order = permutation(4, 0)
    assert torch.allclose(free_barycenter(x, w, n=5), free_barycenter(x[order], w[order], n=5))


def test_complaints_about_clouds():
    x = cloud(3, 5, 2, seed=0)
    assert_refuses("^clouds has shape", free_barycenter, x[0], n=3)
    assert_refuses("^n is 0", free_barycenter, x, n=0)
    assert_refuses("^p is 3", free_barycenter, x, n=3, p=3)
    assert_refuses("^p is 0.5", free_barycenter, x, n=3, p=0.5)
    assert_refuses("^weights has shape", free_barycenter, x, dirichlet(2, seed=0), n=3)
    assert_refuses("^masses has shape", free_barycenter, x, masses=dirichlet(3, 4, seed=0), n=3)
    assert_refuses("^masses has shape", free_barycenter, x, masses=dirichlet(2, 5, seed=0), n=3)
    assert_refuses("not finite", free_barycenter, x / 0, n=3)
    assert_refuses("negative", free_barycenter, x, -dirichlet(3, seed=0), n=3)
    assert_refuses("no mass", free_barycenter, x, masses=torch.zeros(3, 5, dtype=F64), n=3)
    assert_refuses("^start has shape", free_barycenter, x, n=3, start=x[0])
    assert_refuses(r"^clouds requires grad, .*detach\(\)", free_barycenter, x.clone().requires_grad_(), n=3)
    assert_refuses("^epsilon is -1", free_barycenter, x, n=3, epsilon=-1)
