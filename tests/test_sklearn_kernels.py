"""Kernels of distances between histograms, as scikit-learn and its support vector machines take them."""

import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from barrow.sklearn import (
    DistanceKernel,
    SinkhornKernel,
    TransportKernel,
    chi_squared,
    hellinger,
    independence,
    sinkhorn_distances,
    squared_euclidean,
    total_variation,
    transport_distances,
)
from problems import dirichlet

GRID = (2, 4)


def rows(n, d=8, seed=0):
    h = dirichlet(n, d, seed=seed).numpy()
    h[::2, 1 : d // 2] = 0
    return h


def far_from_definite(X, Y):
    """A distance whose kernel has large negative eigenvalues."""
    return transport_distances(X, Y) ** 6


KERNELS = [
    SinkhornKernel(GRID, lam=9),
    SinkhornKernel(GRID, epsilon=0.3, bandwidth=1, psd="clip"),
    TransportKernel(GRID, bandwidth="q10"),
    TransportKernel(bandwidth="q20", psd=None),
    DistanceKernel(far_from_definite, bandwidth=0.1),
    DistanceKernel(far_from_definite, bandwidth=0.1, psd="clip"),
    DistanceKernel(far_from_definite, bandwidth=0.1, psd="flip"),
    DistanceKernel(functools.partial(independence, cost=GRID, power=0.1)),
]
every = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{type(k).__name__}-{k.bandwidth}-{k.psd}")


# -- scikit-learn's own checks -----------------------------------------------------------------------------------------


class Hellinger:
    """The distance under a name that is the same in every process."""

    def __call__(self, X, Y):
        return hellinger(X, Y)

    def __repr__(self):
        return "hellinger"


def failing(_):
    return {"check_estimators_dtypes": "it rounds its data, and a row of zeros is no histogram"}


@parametrize_with_checks(
    [
        SinkhornKernel(lam=9),
        SinkhornKernel(epsilon=0.5, psd="clip", bandwidth=1),
        TransportKernel(),
        TransportKernel(psd="flip"),
        DistanceKernel(Hellinger()),
    ],
    expected_failed_checks=failing,
)
@pytest.mark.filterwarnings("ignore:.*array_api:sklearn.exceptions.SkipTestWarning")
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@every
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int32])
def test_the_check_above_without_its_rows_of_zeros(kernel, dtype):
    X = (20 * rows(9)).astype(dtype) + np.eye(9, 8, dtype=dtype)
    K = clone(kernel).fit(X).transform(X)
    assert K.dtype == np.float64
    assert np.allclose(K, clone(kernel).fit_transform(X), atol=1e-5)


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_a_kernel_is_the_exponential_of_its_distance():
    X, Y = rows(7), rows(4, seed=1)
    D = sinkhorn_distances(X, cost=GRID, lam=9)
    off = np.sort(D[np.triu_indices(7, 1)])
    for name, t in {"median": off[10], "q50": off[10], "q10": off[2], "q20": off[4], 0.7: 0.7}.items():
        kernel = SinkhornKernel(GRID, lam=9, bandwidth=name, psd=None)
        assert np.allclose(kernel.fit_transform(X), np.exp(-D / t), rtol=1e-12)
        assert kernel.bandwidth_ == pytest.approx(t, rel=1e-12)
        expected = np.exp(-sinkhorn_distances(Y, X, cost=GRID, lam=9) / t)
        assert np.allclose(kernel.transform(Y), expected, rtol=1e-12)
    expected = np.exp(-transport_distances(Y, X, cost=GRID) / 0.5)
    assert np.allclose(TransportKernel(GRID, bandwidth=0.5).fit(X).transform(Y), expected, rtol=1e-9)
    expected = np.exp(-hellinger(Y, X) / 0.5)
    assert np.allclose(DistanceKernel(hellinger, bandwidth=0.5).fit(X).transform(Y), expected, rtol=1e-9)


def test_steps_reach_the_distances():
    X = rows(7)
    for options in ({"n_steps": 1}, {"n_steps": None, "tol": 1e-2}, {"n_steps": None, "tol": 1e-9}):
        K = SinkhornKernel(GRID, epsilon=0.2, bandwidth=1.0, psd=None, **options).fit_transform(X)
        assert np.allclose(K, np.exp(-sinkhorn_distances(X, cost=GRID, epsilon=0.2, **options)), rtol=1e-12)


@every
def test_repaired_kernels_are_semidefinite_and_the_same_however_they_are_asked_for(kernel):
    X = rows(24)
    X[5] = X[3]  # twice the same histogram
    kernel = clone(kernel)
    K = kernel.fit_transform(X)
    assert np.allclose(K, K.T, atol=1e-14)
    assert np.allclose(K, kernel.transform(X), atol=1e-9)
    assert np.allclose(K, clone(kernel).fit(X).transform(X), atol=1e-9)
    assert kernel.psd is None or np.linalg.eigvalsh(K)[0] >= -1e-10
    if isinstance(kernel, DistanceKernel) and kernel.distance is far_from_definite:
        assert kernel.least_eigenvalue_ < -0.1


def test_what_a_repair_does_to_new_rows():
    X, Y = rows(24), rows(3, seed=1)
    kernel = DistanceKernel(far_from_definite, bandwidth=0.1)
    plain = clone(kernel).set_params(psd=None).fit(X)
    shifted = clone(kernel).fit(X)
    assert shifted.least_eigenvalue_ == plain.least_eigenvalue_ == -shifted.shift_
    assert np.array_equal(shifted.transform(Y), plain.transform(Y))
    both = np.concatenate([Y, X[4:5]])
    added = shifted.transform(both) - plain.transform(both)
    assert added[3, 4] == pytest.approx(shifted.shift_)
    assert np.count_nonzero(added) == 1
    for psd in ("clip", "flip"):
        repaired = clone(kernel).set_params(psd=psd).fit(X)
        assert np.allclose(repaired.transform(Y), plain.transform(Y) @ repaired.projection_, atol=1e-14)


@pytest.mark.parametrize("distance", [hellinger, chi_squared, total_variation, squared_euclidean])
def test_kernels_of_negative_type_need_no_repair(distance):
    assert DistanceKernel(distance).fit(rows(20)).shift_ == 0


def test_on_a_line_and_on_a_tree_the_exact_kernel_is_definite():
    assert TransportKernel().fit(rows(20)).least_eigenvalue_ > 0


# -- among scikit-learn's things ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order].astype(np.float32), y[order]
    return X[:200], y[:200], X[200:400], y[200:400]


def test_digits_are_told_apart(digits):
    X, y, X_new, y_new = digits
    scores = {
        kernel: make_pipeline(kernel, SVC(C=10, kernel="precomputed")).fit(X, y).score(X_new, y_new)
        for kernel in (SinkhornKernel((8, 8), lam=9, bandwidth="q20"), DistanceKernel(total_variation, bandwidth="q20"))
    }
    assert min(scores.values()) > 0.9


def test_a_search_over_the_bandwidth_measures_once_a_fold(digits, tmp_path):
    X, y, X_new, y_new = digits
    told = []
    kernel = SinkhornKernel((8, 8), lam=9, n_steps=5, memory=str(tmp_path), progress=told.append)
    pipeline = make_pipeline(kernel, SVC(C=10, kernel="precomputed"))
    grid = {"sinkhornkernel__bandwidth": [1e-4, "q10", "median"], "sinkhornkernel__psd": ["shift", "clip"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X[:100], y[:100])
    ends = [p for p in told if p.done == p.total]
    assert len(ends) == 2 * 2 + 1  # of two folds both parts, and of everything
    assert search.best_params_["sinkhornkernel__bandwidth"] != 1e-4
    assert search.score(X_new, y_new) > 0.8


def forget(kernel):
    """Parameters by name, callbacks and all."""
    return {name: str(value) for name, value in kernel.get_params().items()}


@every
def test_clones_and_pickles(kernel):
    X, Y = rows(8), rows(3, seed=1)
    fitted = clone(kernel).fit(X)
    assert forget(clone(fitted)) == forget(kernel)
    assert not hasattr(clone(fitted), "bandwidth_")
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(Y), fitted.transform(Y))
    assert fitted.get_feature_names_out().shape == (8,)


# -- asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (SinkhornKernel(), "exactly one must be given: epsilon in units of the cost, or lam"),
        (SinkhornKernel(lam=9, epsilon=1), "exactly one must be given"),
        (SinkhornKernel((3, 3), lam=9), r"cost is a grid of shape \(3, 3\), 9 bins, but the histograms have 8"),
        (TransportKernel(np.ones((8, 8))), "cost is not zero on its diagonal"),
        (TransportKernel(bandwidth=0), "bandwidth is 0.0, but it must be positive"),
        (TransportKernel(bandwidth="mean"), "bandwidth is 'mean', but it must be a positive number, 'median', or"),
        (TransportKernel(bandwidth="q0"), "bandwidth is 'q0', but it must be"),
        (TransportKernel(bandwidth="qx"), "bandwidth is 'qx', but it must be"),
        (TransportKernel(bandwidth=None), "bandwidth is None, but it must be a number"),
        (TransportKernel(psd="square"), "psd is 'square', but it must be 'shift'"),
        (DistanceKernel("hellinger"), "distance is 'hellinger', but it must be a function"),
        (DistanceKernel(lambda x, y: x), r"distance returned shape \(5, 8\) for 5 and 5 histograms"),
        (DistanceKernel(lambda x, y: x[:, :1] - 2 * y[:, 0]), "distance is not symmetric"),
        (DistanceKernel(lambda x, y: x @ y.T * np.nan), "distance returned NaN or infinity"),
    ],
)
def test_a_bad_parameter_gets_a_sentence(kernel, said):
    with pytest.raises(ValueError, match=said):
        kernel.fit(rows(5))


def test_bad_histograms_get_a_sentence():
    X = rows(5)
    with pytest.raises(ValueError, match=r"row 2 of X sums to 0 \(n_samples = 3, n_features = 2\), but a histogram"):
        TransportKernel().fit([[1, 0], [1, 1], [0, 0]])
    with pytest.raises(ValueError, match=r"bandwidth is 'median', but .* \(n_samples = 1, n_features = 8\) is not pos"):
        TransportKernel().fit(X[:1])
    assert TransportKernel(bandwidth=1.0).fit_transform(X[:1]) == 1
    with pytest.raises(ValueError, match="not positive: give a number"):
        TransportKernel().fit(np.ones((5, 3)))
    with pytest.raises(ValueError, match="Negative values"):
        TransportKernel().fit(-X)
    with pytest.raises(ValueError, match="X has 7 features, but TransportKernel is expecting 8"):
        TransportKernel().fit(X).transform(X[:, :7])


def test_without_scikit_learn_there_is_one_sentence():
    code = """
import sys
sys.modules["sklearn"] = None
import barrow
try:
    import barrow.sklearn
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    needs = "barrow.sklearn needs scikit-learn, which is not installed: pip install 'barrow[sklearn]'"
    assert done.stdout.strip() == needs
