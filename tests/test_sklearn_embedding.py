"""Tree-Wasserstein as an exact embedding into L1."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import barrow
from barrow import Points, Problem, Tree
from barrow.sklearn import TransportKernel, TreeEmbedding
from problems import dirichlet, random_parents, uniform

ELEPHANT = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0, 1.0]))


def failing(_):
    return {"check_estimators_dtypes": "it rounds its data, and a row of zeros is no histogram"}


@parametrize_with_checks([TreeEmbedding()], expected_failed_checks=failing)
@pytest.mark.filterwarnings("ignore:.*array_api:sklearn.exceptions.SkipTestWarning")
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def l1(E, F):
    return np.abs(E[:, None] - F[None]).sum(-1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l1_distances_are_tree_distances(seed, dtype):
    parent = random_parents(20 + 10 * seed, seed=seed)
    length = uniform(len(parent), seed=seed).to(dtype)
    length[::5] = 0
    tree = Tree(parent, length)
    L = tree.shape[0]
    h, t = dirichlet(6, L, seed=seed, zeros=1), dirichlet(4, L, seed=9)
    e = TreeEmbedding(tree).fit(h.numpy())
    expected = barrow.tree_emd(h[:, None], t[None], tree.to(torch.float64)).numpy()
    found = l1(e.transform(5 * h.numpy()), e.transform(t.numpy()))
    assert np.abs(found - expected).max() < 1e-12
    assert found.min() > 0


def test_the_elephant():
    e = TreeEmbedding(ELEPHANT).fit_transform([[0.2, 0.4, 0.2, 0.2], [0, 0.5, 0.5, 0]])
    assert np.allclose(e[0], [0.2, 0.4, 0.4, 0.2, 0.2], atol=1e-15)
    assert l1(e, e)[0, 1] == pytest.approx(0.9, abs=1e-14)


def test_bins_on_a_line_are_sums():
    X = dirichlet(5, 7, seed=0).numpy()
    e = TreeEmbedding()
    E = e.fit_transform(X)
    assert np.allclose(E, X.cumsum(1)[:, :-1], atol=1e-15)
    h = torch.from_numpy(X)
    assert np.abs(l1(E, E) - barrow.emd_1d(h[:, None], h[None]).numpy()).max() < 1e-12


def test_points_make_a_tree_above_them():
    z, h = uniform(9, 2, seed=0), dirichlet(6, 9, seed=1)
    e = TreeEmbedding(points=z.numpy())
    E = e.fit_transform(h.numpy())
    exact = barrow.solve(Problem(Points(z, z, p=1), h[:1], h[1:])).value.numpy()
    assert (l1(E[:1], E[1:])[0] >= exact - 1e-12).all()
    assert np.abs(l1(E[:1], E[1:])[0] - barrow.tree_emd(h[:1], h[1:], Tree.from_points(z)).numpy()).max() < 1e-12


@pytest.mark.parametrize("tree", [None, ELEPHANT, ([-1, 0, 0, 0, 3, 3], [0, 1, 2, 3.5, 4, 5]), Tree.chain(4)])
def test_and_back(tree):
    X = dirichlet(5, 4, seed=0).numpy()
    e = TreeEmbedding(tree).fit(X)
    assert np.abs(e.inverse_transform(e.transform(X)) - X).max() < 1e-12


def test_bins_at_one_place_cannot_be_told_apart():
    e = TreeEmbedding(([-1, 0, 0, 0], [0.0, 0.0, 0.0, 1.0])).fit([[1, 1, 1]])
    with pytest.raises(ValueError, match="some bins are at distance 0 of each other"):
        e.inverse_transform([[0.5]])


def test_names():
    e = TreeEmbedding(ELEPHANT).fit([[1, 1, 1, 1]])
    assert e.get_feature_names_out().tolist() == ["x0", "x1", "node3", "x2", "x3"]
    assert e.get_feature_names_out(["a", "b", "c", "d"]).tolist() == ["a", "b", "node3", "c", "d"]
    assert e.nodes_.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"input_features should have length equal to number of features \(4\), got 2"):
        e.get_feature_names_out(["a", "b"])


def test_the_kernel_of_the_embedding_is_the_kernel_of_the_tree():
    X, Y = dirichlet(6, 4, seed=0).numpy(), dirichlet(3, 4, seed=1).numpy()
    e = TreeEmbedding(ELEPHANT).fit(X)
    kernel = TransportKernel(ELEPHANT, bandwidth=0.5).fit(X)
    assert np.allclose(kernel.transform(Y), np.exp(-l1(e.transform(Y), e.transform(X)) / 0.5), rtol=1e-12)
    assert kernel.shift_ == 0


def test_neighbours_of_digits():
    X, y = load_digits(return_X_y=True)
    place = np.stack(np.meshgrid(range(8), range(8), indexing="ij"), -1).reshape(64, 2)
    model = make_pipeline(TreeEmbedding(points=place), KNeighborsClassifier(3, metric="manhattan"))
    assert model.fit(X[:600], y[:600]).score(X[600:900], y[600:900]) > 0.8


def test_clones_and_pickles():
    X = dirichlet(6, 4, seed=0).numpy()
    fitted = TreeEmbedding(ELEPHANT).fit(X)
    assert np.array_equal(clone(fitted).fit_transform(X), fitted.transform(X))
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), fitted.transform(X))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tree": ELEPHANT, "points": np.ones((3, 2))}, "tree and points are both given"),
        ({"tree": ELEPHANT}, "tree has 4 leaves, but X has 3 features: one a leaf"),
        ({"points": np.ones((2, 2))}, "tree has 2 leaves, but X has 3 features"),
        ({"tree": 5}, "tree is a int, but it must be a barrow.Tree, a pair"),
        ({"tree": ([0, 1], [1.0, 1.0])}, "parent names 0 roots"),
        ({"tree": ([-1, 0], [1.0])}, r"length has shape \(1,\) but parent has shape \(2,\)"),
        ({"tree": (1, 2, 3)}, "tree is a tuple, but it must be a barrow.Tree, a pair"),
        ({"tree": Tree(torch.tensor([-1, 0, 0, 0]), torch.ones(2, 4))}, r"tree has a batch of lengths \(2,\)"),
    ],
)
def test_a_bad_tree_gets_a_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        TreeEmbedding(**options).fit(np.ones((2, 3)))


def test_bad_rows_get_a_sentence():
    e = TreeEmbedding(ELEPHANT).fit(np.ones((2, 4)))
    with pytest.raises(ValueError, match="row 0 of X sums to 0"):
        e.transform(np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"X has shape \(1, 4\), but the embedding has 5 coordinates"):
        e.inverse_transform(np.ones((1, 4)))
