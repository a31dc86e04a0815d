"""Kernels between histograms from transport distances."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, check_memory, validate_data

from barrow import check
from barrow.sklearn.distances import sinkhorn_distances, strength, transport_distances
from barrow.sklearn.histograms import FLOATS, Floats, Listener, ground_cost, ranks, to_sum_one
from barrow.sklearn.repair import repair

Matrix = NDArray[np.float64]


class HistogramKernel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, abc.ABC):
    """What the kernels share: k = exp(-d / t) to the training histograms, made positive semidefinite."""

    bandwidth: float | str
    psd: str | None

    @abc.abstractmethod
    def _measure(self, X: Floats, Y: Floats | None) -> Matrix:
        """Distances (n, m) from X to Y, or (n, n) of X where Y is None."""

    @abc.abstractmethod
    def _ready(self, d: int) -> None:
        """Read the parameters for d bins, before anything is computed."""

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Remember the training histograms; find the bandwidth and the repair of their kernel matrix.

        Args:
            X: histograms (n, d), rows of any positive mass.
            y: not used.

        Raises:
            ValueError: no histograms, or a parameter that is not what it must be.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: ArrayLike, y: object = None) -> Matrix:
        """:meth:`fit`, and the repaired kernel matrix (n, n), at no further cost."""
        return self._fit(X)

    def transform(self, X: ArrayLike) -> Matrix:
        """The kernel between histograms X (n, d) and the training ones: (n, n_train), repaired likewise."""
        check_is_fitted(self)
        rows = to_sum_one(validate_data(self, X, reset=False, dtype=FLOATS, ensure_non_negative=True))
        return self._repaired(np.exp(self._measure(rows, self.histograms_) / -self.bandwidth_), rows)

    def _fit(self, X: ArrayLike) -> Matrix:
        rows = to_sum_one(validate_data(self, X, dtype=FLOATS, ensure_non_negative=True))
        level = _level(self.bandwidth)
        repair(np.eye(1), self.psd)  # a word that is not known is better told before the distances are computed
        self._ready(rows.shape[1])
        D = self._measure(rows, None)
        self.bandwidth_ = float(self.bandwidth) if level is None else _quantile(D, level, self.bandwidth, rows)
        K = np.exp(D / -self.bandwidth_)
        self.histograms_ = rows
        self.least_eigenvalue_, self.shift_, self.projection_ = repair(K, self.psd)
        self._n_features_out = len(rows)
        return self._repaired(K, rows)

    def _repaired(self, K: Matrix, rows: Floats) -> Matrix:
        if self.projection_ is not None:
            # Of the training matrix itself the product is symmetric but for its rounding.
            product: Matrix = K @ self.projection_
            return (product + product.T) / 2 if rows is self.histograms_ else product
        if self.shift_ > 0:
            rank = ranks(np.concatenate([rows, self.histograms_]))
            K = K + self.shift_ * (rank[: len(rows), None] == rank[len(rows) :])
        return K

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


@final
class SinkhornKernel(HistogramKernel):
    """The kernel exp(-d / t) of Cuturi's Sinkhorn distances, for ``SVC(kernel="precomputed")``.

        k(x, y) = exp(-d(x, y) / t),   d(r, c) = <P, M>,   P = argmin over couplings of  <P, M> - epsilon H(P)

    ``fit`` remembers the training histograms, ``transform`` gives a column for each of them. Rows are normalised to
    sum one. The distances are those of :func:`sinkhorn_distances`: products of matrices, of which float32 rows take
    half the time. In a search over the bandwidth, set ``memory``: the distances are then computed once a fold.

    Args:
        cost: the cost between bins: None, |i - j|; the sides of a grid such as (20, 20), for Euclidean distances
            between its pixels; a matrix (d, d); or a :class:`barrow.Tree`.
        epsilon: entropy, in units of the cost.
        lam: instead, Cuturi's lambda in units of one over the median of the cost; he finds 9 best for digits. Exactly
            one of both must be given.
        n_steps: steps of Algorithm 1; None goes on until the gap is certified.
        tol: certified relative duality gap where n_steps is None.
        bandwidth: t, a number in units of the cost, or a quantile of the distances between training histograms:
            "median", "q10", "q20".
        psd: "shift" adds -least eigenvalue to k(x, x), as Cuturi does: the kernel is k(x, y) + shift [x = y], so rows
            of new histograms stay as they are. "clip" and "flip" set negative eigenvalues of the training matrix to 0
            or change their sign: every row, of new histograms too, is multiplied by Q diag(s) Q', where Q are the
            eigenvectors, s = [eigenvalue > 0] or its sign. None leaves the kernel as it is.
        memory: where distances are kept, a folder or a ``joblib.Memory``; None keeps nothing.
        progress: called with a :class:`barrow.Progress`, pairs done of all pairs.

    Attributes:
        histograms_: the training histograms (n, d).
        cost_: the cost between bins (d, d).
        epsilon_: the entropy, in units of the cost.
        bandwidth_: t.
        least_eigenvalue_: of the training matrix, before the repair.
        shift_: what is added to k(x, x).
        projection_: what rows are multiplied by (n, n), or None.

    >>> X = np.array([[4.0, 1.0, 0.0], [3.0, 2.0, 0.0], [0.0, 1.0, 4.0], [0.0, 2.0, 3.0]])
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import SVC
    >>> model = make_pipeline(SinkhornKernel(lam=9), SVC(kernel="precomputed")).fit(X, [0, 0, 1, 1])
    >>> model.predict([[5.0, 3.0, 1.0]])
    array([0])

    Source: Cuturi 2013, section 5.1.
    """

    def __init__(
        self,
        cost: Any = None,
        *,
        epsilon: float | None = None,
        lam: float | None = None,
        n_steps: int | None = 20,
        tol: float = 1e-3,
        bandwidth: float | str = "median",
        psd: str | None = "shift",
        memory: Any = None,
        progress: Listener = None,
    ) -> None:
        self.cost = cost
        self.epsilon = epsilon
        self.lam = lam
        self.n_steps = n_steps
        self.tol = tol
        self.bandwidth = bandwidth
        self.psd = psd
        self.memory = memory
        self.progress = progress

    def _ready(self, d: int) -> None:
        self.cost_ = ground_cost(self.cost, d)
        self.epsilon_ = strength(self.cost_, self.epsilon, self.lam)

    def _measure(self, X: Floats, Y: Floats | None) -> Matrix:
        found: Matrix = _kept(self.memory, sinkhorn_distances)(
            X,
            Y,
            cost=self.cost_,
            epsilon=self.epsilon_,
            n_steps=self.n_steps,
            tol=self.tol,
            progress=self.progress,
        )
        return found


@final
class TransportKernel(HistogramKernel):
    """The kernel exp(-d / t) of exact transport distances, for ``SVC(kernel="precomputed")``.

        k(x, y) = exp(-d(x, y) / t),   d(r, c) = min <P, M> over couplings P of r and c

    As :class:`SinkhornKernel`, with the distances of :func:`transport_distances`. On a line and on a tree they are
    l1 distances and the kernel is positive definite; :class:`TreeEmbedding` then serves linear models without any
    kernel. Other costs take a linear program a pair: for images prefer SinkhornKernel.

    Args:
        cost: the cost between bins: None, |i - j|; the sides of a grid such as (20, 20), for Euclidean distances
            between its pixels; a matrix (d, d); or a :class:`barrow.Tree`.
        bandwidth: t, a number in units of the cost, or a quantile of the distances between training histograms:
            "median", "q10", "q20".
        psd: "shift", "clip", "flip" or None, as of :class:`SinkhornKernel`.
        memory: where distances are kept, a folder or a ``joblib.Memory``; None keeps nothing.
        progress: called with a :class:`barrow.Progress`, pairs done of all pairs.

    Attributes:
        histograms_: the training histograms (n, d).
        bandwidth_: t.
        least_eigenvalue_: of the training matrix, before the repair.
        shift_: what is added to k(x, x).
        projection_: what rows are multiplied by (n, n), or None.

    >>> TransportKernel(bandwidth=1).fit_transform([[1, 0, 0], [0, 0, 1]]).round(4)
    array([[1.    , 0.1353],
           [0.1353, 1.    ]])

    Source: Cuturi 2013, section 5.1.
    """

    def __init__(
        self,
        cost: Any = None,
        *,
        bandwidth: float | str = "median",
        psd: str | None = "shift",
        memory: Any = None,
        progress: Listener = None,
    ) -> None:
        self.cost = cost
        self.bandwidth = bandwidth
        self.psd = psd
        self.memory = memory
        self.progress = progress

    def _ready(self, d: int) -> None:
        ground_cost(self.cost, d)

    def _measure(self, X: Floats, Y: Floats | None) -> Matrix:
        found: Matrix = _kept(self.memory, transport_distances)(X, Y, cost=self.cost, progress=self.progress)
        return found


@final
class DistanceKernel(HistogramKernel):
    """The kernel exp(-d / t) of any distance between histograms, for ``SVC(kernel="precomputed")``.

    The same bandwidths and repairs for what transport competes with: :func:`hellinger`, :func:`chi_squared`,
    :func:`total_variation`, :func:`squared_euclidean`, and :func:`independence` with
    ``functools.partial(independence, cost=(20, 20), power=0.1)``.

    Args:
        distance: a function of two matrices of normalised histograms, (n, d) and (m, d), that returns their distances
            (n, m); symmetric.
        bandwidth: t, a number in units of the distance, or a quantile of the distances between training histograms:
            "median", "q10", "q20".
        psd: "shift", "clip", "flip" or None, as of :class:`SinkhornKernel`.

    Attributes:
        histograms_: the training histograms (n, d).
        bandwidth_: t.
        least_eigenvalue_: of the training matrix, before the repair.
        shift_: what is added to k(x, x).
        projection_: what rows are multiplied by (n, n), or None.

    >>> from barrow.sklearn import hellinger
    >>> DistanceKernel(hellinger, bandwidth=2).fit_transform([[1, 0], [0, 1]]).round(4)
    array([[1.    , 0.3679],
           [0.3679, 1.    ]])

    Source: Cuturi 2013, section 5.1.
    """

    def __init__(
        self,
        distance: Callable[[Floats, Floats], Matrix],
        *,
        bandwidth: float | str = "median",
        psd: str | None = "shift",
    ) -> None:
        self.distance = distance
        self.bandwidth = bandwidth
        self.psd = psd

    def _ready(self, d: int) -> None:
        if not callable(self.distance):
            raise ValueError(f"distance is {self.distance!r}, but it must be a function of two matrices of histograms")

    def _measure(self, X: Floats, Y: Floats | None) -> Matrix:
        other = X if Y is None else Y
        D = np.asarray(self.distance(X, other), dtype=np.float64)
        if D.shape != (len(X), len(other)):
            raise ValueError(f"distance returned shape {D.shape} for {len(X)} and {len(other)} histograms: one a pair")
        if not np.isfinite(D).all():
            raise ValueError("distance returned NaN or infinity, but a kernel needs finite distances")
        if Y is None:
            if not np.allclose(D, D.T, rtol=1e-5, atol=1e-8 * np.abs(D).max()):
                raise ValueError("distance is not symmetric, so no kernel follows from it")
            D = (D + D.T) / 2
        return D


def _kept(memory: Any, function: Callable[..., Matrix]) -> Callable[..., Matrix]:
    """The function, looked up where this was computed before."""
    if memory is None:
        return function
    found: Callable[..., Matrix] = check_memory(memory).cache(function, ignore=["progress"])
    return found


def _level(bandwidth: float | str) -> float | None:
    """The level of a quantile that is named, or None for a number."""
    if not isinstance(bandwidth, str):
        check.positive("bandwidth", bandwidth)
        return None
    name = "q50" if bandwidth == "median" else bandwidth
    try:
        level = float(name[1:]) if name[:1] == "q" else np.nan
    except ValueError:
        level = np.nan
    if not 0 < level < 100:
        raise ValueError(
            f"bandwidth is {bandwidth!r}, but it must be a positive number, 'median', or a quantile such as 'q10'"
        )
    return level


def _quantile(D: Matrix, level: float, name: object, rows: Floats) -> float:
    """The quantile of the distances between different rows."""
    n, d = rows.shape
    off = D[np.triu_indices(n, 1)]
    found = float(np.percentile(off, level)) if len(off) else 0.0
    if found <= 0:
        raise ValueError(
            f"bandwidth is {name!r}, but that quantile of the distances between training histograms (n_samples = {n}, "
            f"n_features = {d}) is not positive: give a number"
        )
    return found
