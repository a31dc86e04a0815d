"""Distances between all pairs of histograms, against plain loops and linear programs."""

import numpy as np
import pytest
import torch

import barrow
from barrow import Dense, Problem, Tree
from barrow.sklearn import (
    chi_squared,
    distances,
    ground_cost,
    hellinger,
    independence,
    sinkhorn_bounds,
    sinkhorn_distances,
    squared_euclidean,
    total_variation,
    transport_distances,
)
from problems import dirichlet, lp_value, random_parents, uniform

GRID = (2, 4)
ELEPHANT = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 3.0]))


def rows(n, d=8, seed=0):
    """Histograms of which every other has empty bins, of any mass."""
    h = dirichlet(n, d, seed=seed).numpy() * (1 + np.arange(n))[:, None]
    h[::2, 1 : d // 2] = 0
    h[2::3, -1] = 0
    return h


def plain(r, c, M, epsilon, n_steps):
    """Algorithm 1 as it is printed, r the histogram with fewer bins in use."""
    if ((r > 0).sum(), tuple(r)) > ((c > 0).sum(), tuple(c)):
        r, c = c, r
    used = r > 0
    r, m = r[used], M[used]
    K = np.exp(-m / epsilon)
    u = np.ones(len(r)) / len(r)
    for _ in range(n_steps):
        u = 1 / ((K / r[:, None]) @ (c / (K.T @ u)))
    v = c / (K.T @ u)
    return (u * ((K * m) @ v)).sum()


def in_pairs(function, X, Y):
    X, Y = (Z / Z.sum(1, keepdims=True) for Z in (X, Y))
    return np.array([[function(x, y) for y in Y] for x in X])


def programs(X, Y, M):
    X, Y = (torch.from_numpy(Z / Z.sum(1, keepdims=True)) for Z in (X, Y))
    return lp_value(Problem(Dense(torch.from_numpy(M)), X[:, None], Y[None])).numpy()


# -- Sinkhorn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [1, 3, 20])
@pytest.mark.parametrize("reach", [distances.DOUBLE, 0], ids=["products", "logarithms"])
def test_so_many_steps_of_algorithm_1(n_steps, reach, monkeypatch):
    monkeypatch.setattr(distances, "DOUBLE", reach)
    X, Y, M = rows(5), rows(4, seed=1), ground_cost(GRID, 8)
    expected = in_pairs(lambda x, y: plain(x, y, M, 0.2, n_steps), X, Y)
    assert np.allclose(sinkhorn_distances(X, Y, cost=GRID, epsilon=0.2, n_steps=n_steps), expected, rtol=1e-11)


def test_lam_counts_in_units_of_one_over_the_median():
    X, M = rows(5), ground_cost(GRID, 8)
    by_hand = sinkhorn_distances(X, cost=GRID, epsilon=np.median(M) / 9)
    assert np.array_equal(sinkhorn_distances(X, cost=GRID, lam=9), by_hand)
    assert np.allclose(sinkhorn_distances(X, cost=5 * M, lam=9), 5 * by_hand, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"n_steps": 2}, {"n_steps": None}])
def test_one_set_is_two_and_any_order(options):
    X = rows(9)
    X[7] = X[2]
    D = sinkhorn_distances(X, cost=GRID, epsilon=0.3, **options)
    assert np.array_equal(D, D.T)
    assert D[7, 2] == 0
    assert (np.diagonal(D) == 0).all()
    assert (D + np.eye(9) > 0).sum() == 79
    loose = {"rtol": 1e-3} if options == {"n_steps": None} else {"rtol": 1e-11}
    assert np.allclose(sinkhorn_distances(X, X.copy(), cost=GRID, epsilon=0.3, **options), D, **loose)
    assert np.allclose(sinkhorn_distances(X[5:], X[:5], cost=GRID, epsilon=0.3, **options), D[5:, :5], **loose)
    assert np.allclose(sinkhorn_distances(X[:1], X[1:2], cost=GRID, epsilon=0.3, **options), D[:1, 1:2], **loose)


def test_many_batches_are_one(monkeypatch):
    X = rows(12)
    D = sinkhorn_distances(X, cost=GRID, lam=5)
    monkeypatch.setattr("barrow.sklearn.histograms.FEW", 3)
    monkeypatch.setattr("barrow.sklearn.histograms.MANY", 4)
    assert np.allclose(sinkhorn_distances(X, cost=GRID, lam=5), D, rtol=1e-12)
    assert np.allclose(sinkhorn_distances(X[:7], X[7:], cost=GRID, lam=5), D[:7, 7:], rtol=1e-12)


def test_until_the_gap_is_certified():
    X, Y, M = rows(4), rows(3, seed=1), ground_cost(GRID, 8)
    expected = in_pairs(lambda x, y: plain(x, y, M, 0.1, 3000), X, Y)
    assert np.allclose(sinkhorn_distances(X, Y, cost=GRID, epsilon=0.1, n_steps=None, tol=1e-9), expected, rtol=1e-5)
    assert np.allclose(sinkhorn_distances(X, Y, cost=GRID, epsilon=0.1, n_steps=None), expected, rtol=0.1)


def test_single_precision_is_near_and_double_where_it_must_be():
    X = np.concatenate([rows(6), np.eye(8)])
    D = sinkhorn_distances(X, cost=GRID, epsilon=0.2)
    assert np.allclose(sinkhorn_distances(X.astype(np.float32), cost=GRID, epsilon=0.2), D, rtol=1e-5)
    wide = sinkhorn_distances(X, cost=GRID, epsilon=0.03)  # exp(-M / epsilon) down to exp(-105)
    assert np.allclose(sinkhorn_distances(X.astype(np.float32), cost=GRID, epsilon=0.03), wide, rtol=1e-5)


def test_an_epsilon_beyond_the_range_of_numbers():
    X = rows(6)
    D = sinkhorn_distances(X, cost=GRID, epsilon=1e-4, n_steps=None)
    assert np.allclose(D, transport_distances(X, cost=GRID), rtol=1e-3)
    assert np.isfinite(sinkhorn_distances(X, cost=GRID, epsilon=1e-4)).all()


def test_above_transport_and_falling_with_lam():
    X = rows(6)
    values = [sinkhorn_distances(X, cost=GRID, epsilon=e, n_steps=2000) for e in (1.0, 0.3, 0.1)]
    assert (np.diff([*values, transport_distances(X, cost=GRID)], axis=0) <= 1e-9).all()


@pytest.mark.parametrize("n_steps", [1, 3, 50, None])
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.001])
def test_the_truth_is_between_the_bounds(n_steps, epsilon):
    X, Y, M = rows(5), rows(4, seed=1), ground_cost(GRID, 8)
    lower, upper = sinkhorn_bounds(X, Y, cost=GRID, epsilon=epsilon, n_steps=n_steps)
    truth = programs(X, Y, M)
    assert (lower <= truth + 1e-12).all()
    assert (truth <= upper + 1e-12).all()
    assert (lower >= 0).all()
    if n_steps is None:
        assert (upper - lower <= 10 * epsilon + 0.02).all()


def test_bounds_of_equal_rows_are_zero():
    lower, upper = sinkhorn_bounds([[1, 1], [2, 2]], epsilon=1.0)
    assert np.array_equal(lower, np.zeros((2, 2)))
    assert np.array_equal(upper, np.zeros((2, 2)))


def test_one_bin_is_no_distance():
    for found in (
        sinkhorn_distances([[1.0], [3.0]], lam=9),
        transport_distances([[1.0], [3.0]]),
        transport_distances([[1.0], [3.0]], cost=np.zeros((1, 1))),
    ):
        assert np.array_equal(found, np.zeros((2, 2)))


# -- transport ---------------------------------------------------------------------------------------------------------


def random_cost(d=8):
    z = uniform(d, 3, seed=5)
    return torch.cdist(z, z).numpy()


def random_tree():
    parent = random_parents(15, seed=3)
    return Tree(parent, uniform(15, seed=4))


@pytest.mark.parametrize("cost", [None, GRID, list(GRID), random_cost(), random_tree()], ids=lambda c: type(c).__name__)
def test_transport_is_the_linear_program(cost):
    d = cost.shape[0] if isinstance(cost, Tree) else 8
    X, Y = rows(6, d), rows(4, d, seed=1)
    M = ground_cost(cost, d)
    assert np.allclose(transport_distances(X, Y, cost=cost), programs(X, Y, M), rtol=1e-9, atol=1e-12)
    assert np.allclose(transport_distances(X, cost=cost), programs(X, X, M), rtol=1e-9, atol=1e-12)
    single = transport_distances(X.astype(np.float32), cost=cost)
    assert np.allclose(single, programs(X.astype(np.float32).astype(np.float64), X, M), atol=1e-6)


def test_transport_is_what_solve_says():
    X, M = rows(5), torch.from_numpy(random_cost())
    h = torch.from_numpy(X / X.sum(1, keepdims=True))
    loop = [[float(barrow.solve(Problem(Dense(M), x, y)).value) for y in h] for x in h]
    assert np.allclose(transport_distances(X, cost=M), loop, rtol=1e-9, atol=1e-12)


# -- what it competes with ---------------------------------------------------------------------------------------------


def chi(x, y):
    return sum((p - q) ** 2 / (p + q) for p, q in zip(x, y, strict=True) if p + q)


OTHERS = {
    hellinger: lambda x, y: ((np.sqrt(x) - np.sqrt(y)) ** 2).sum(),
    chi_squared: chi,
    total_variation: lambda x, y: np.abs(x - y).sum() / 2,
    squared_euclidean: lambda x, y: ((x - y) ** 2).sum(),
    independence: lambda x, y: x @ ground_cost(None, 8) @ y,
}


@pytest.mark.parametrize("distance", OTHERS, ids=lambda f: f.__name__)
def test_others_are_their_formulas(distance):
    X, Y = rows(5), rows(3, seed=1)
    assert np.allclose(distance(X, Y), in_pairs(OTHERS[distance], X, Y), rtol=1e-12, atol=1e-14)
    assert np.allclose(distance(X), in_pairs(OTHERS[distance], X, X), rtol=1e-12, atol=1e-14)
    assert distance(X.astype(np.float32)).dtype == np.float64


def test_independence_is_sinkhorn_without_information():
    X, Y = rows(4), rows(3, seed=1)
    assert np.allclose(independence(X, Y, cost=GRID), sinkhorn_distances(X, Y, cost=GRID, epsilon=1e6), rtol=1e-5)
    M = ground_cost(GRID, 8)
    assert np.allclose(independence(X, Y, cost=GRID, power=0.1), independence(X, Y, cost=M**0.1), rtol=1e-12)


# -- asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [lambda *a, **k: sinkhorn_distances(*a, lam=9, **k), transport_distances], ids=["sinkhorn", "transport"]
)
def test_progress_counts_the_pairs_that_differ(call, monkeypatch):
    monkeypatch.setattr("barrow.solvers.base.PAUSE", 0)
    monkeypatch.setattr("barrow.sklearn.histograms.FEW", 1)
    X, told = rows(6), []
    X[3] = X[1]
    call(X, cost=GRID, progress=told.append)
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("pairs", 14, 14)
    assert len(told) == 4
    told.clear()
    call(X[:2], X[1:], cost=GRID, progress=told.append)
    assert (told[-1].done, told[-1].total) == (8, 8)


X = np.ones((3, 4)) + np.eye(3, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sinkhorn_distances(X), "epsilon is None and lam is None, but exactly one must be given"),
        (lambda: sinkhorn_distances(X, epsilon=1, lam=9), "epsilon is 1 and lam is 9, but exactly one must be given"),
        (lambda: sinkhorn_distances(X, epsilon=0), "epsilon is 0.0, but it must be positive"),
        (lambda: sinkhorn_distances(X, lam=-1), "lam is -1.0, but it must be positive"),
        (lambda: sinkhorn_distances(X, lam=1, n_steps=0), "n_steps is 0, but it must be a whole number of at least 1"),
        (lambda: sinkhorn_distances(X, lam=1, tol=0), "tol is 0.0, but it must be positive"),
        (lambda: sinkhorn_distances(X, X[:, :3], lam=1), "the number of bins must agree"),
        (lambda: transport_distances(-X), "Negative values"),
        (lambda: transport_distances(X * np.nan), "Input X contains NaN"),
        (lambda: transport_distances(X, X * np.inf), "Input Y contains infinity"),
        (lambda: transport_distances(X[0]), "Expected 2D array"),
        (lambda: independence(X, power=0), "power is 0.0, but it must be positive"),
    ],
)
def test_bad_input_gets_a_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_an_unproved_gap_is_warned_of(monkeypatch):
    monkeypatch.setattr(distances, "Sinkhorn", lambda tol: barrow.Sinkhorn(tol, max_steps=1))
    with pytest.warns(barrow.ConvergenceWarning, match="certified only"):
        sinkhorn_distances(rows(4), cost=GRID, epsilon=0.01, n_steps=None, tol=1e-9)


def test_masses_of_any_size():
    D = transport_distances([[1.0, 3.0], [2.0, 2.0]])
    for size in (1e300, 1.7e308 / 3, 1e-300):
        assert np.allclose(transport_distances(np.array([[1.0, 3.0], [2.0, 2.0]]) * size), D, rtol=1e-12)
    assert D[0, 1] == 0.25
