"""Rows that are histograms, the cost between their bins, and all pairs of them."""

import numpy as np
import pytest
import torch

from barrow import Tree
from barrow.sklearn import ground_cost
from barrow.sklearn.histograms import every_pair, normalised, ranks


def test_costs_of_every_kind():
    place = np.array([(i, j, k) for i in range(2) for j in range(3) for k in range(4)], dtype=float)
    euclidean = np.sqrt(((place[:, None] - place) ** 2).sum(-1))
    assert np.allclose(ground_cost((2, 3, 4), 24), euclidean, rtol=1e-15)
    assert np.array_equal(ground_cost(None, 5), np.abs(np.subtract.outer(range(5), range(5))))
    assert np.array_equal(ground_cost((5,), 5), ground_cost(None, 5))
    tree = Tree(torch.tensor([-1, 0, 0]), torch.tensor([0.0, 1.0, 2.0]))
    for same in (tree, [[0, 3], [3, 0]], torch.tensor([[0, 3], [3, 0]])):
        assert np.array_equal(ground_cost(same, 2), [[0.0, 3.0], [3.0, 0.0]])


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ((2, 2), r"cost is a grid of shape \(2, 2\), 4 bins, but the histograms have 3"),
        (np.zeros((2, 2)), r"cost has shape \(2, 2\), but the histograms have 3 bins"),
        (5.0, r"cost has shape \(\), but the histograms have 3 bins"),
        (np.full((3, 3), -1.0), "an entry that is negative or not finite"),
        (np.full((3, 3), np.inf), "an entry that is negative or not finite"),
        (np.triu(np.ones((3, 3)), 1), "cost is not symmetric"),
        (np.ones((3, 3)), "cost is not zero on its diagonal"),
        (Tree(torch.tensor([-1, 0, 0]), torch.ones(3)), "a tree of 2 leaves, but the histograms have 3 bins"),
        ((1.5, 2), r"shape\[0\] is 1.5, but it must be a whole number"),
    ],
)
def test_a_cost_that_is_none_is_refused(cost, said):
    with pytest.raises(ValueError, match=said):
        ground_cost(cost, 3)


def test_rows_of_sum_one():
    X = np.array([[1, 3], [5, 0]])
    assert np.array_equal(normalised(X), [[0.25, 0.75], [1, 0]])
    assert normalised(X.astype(np.float32)).dtype == np.float32
    assert normalised(X.astype(np.float32), dtypes=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match=r"row 1 of Y sums to 0 \(n_samples = 2, n_features = 2\)"):
        normalised([[1, 2], [0, 0]], "Y")


def test_ranks_are_of_the_rows_themselves():
    Z = np.array([[0.2, 0.8, 0], [1, 0, 0], [0, 0.8, 0.2], [0.2, 0.8, 0], [0.3, 0.3, 0.4]])
    assert ranks(Z).tolist() == [2, 0, 1, 2, 3]
    assert ranks(Z[::-1]).tolist() == [3, 2, 1, 0, 2]
    assert ranks(Z[:1]).tolist() == [0]


def test_every_pair_is_measured_once_in_its_order():
    seen = []

    def measure(R, C):
        seen.extend(zip(R[:, 0].tolist(), C[:, 0].tolist(), strict=True))
        return (10 * R + C)[:, 0][None]

    X, Y = np.array([[3.0], [1.0], [2.0]]), np.array([[2.0], [1.5]])
    assert every_pair(X, None, measure, None)[0].tolist() == [[0, 13, 23], [13, 0, 12], [23, 12, 0]]
    assert sorted(seen) == [(1, 2), (1, 3), (2, 3)]
    seen.clear()
    assert every_pair(X, Y, measure, None)[0].tolist() == [[23, 18], [12, 11.5], [0, 17]]
    assert sorted(seen) == [(1, 1.5), (1, 2), (1.5, 2), (1.5, 3), (2, 3)]
    assert every_pair(X[:1], X[:1], measure, None).tolist() == [[[0]]]
