"""Distances between all pairs of histograms: of transport, and what they compete with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics.pairwise import additive_chi2_kernel, euclidean_distances, manhattan_distances
from torch import Tensor

from barrow import check
from barrow.cost import Dense, Tree
from barrow.functional.common import solved
from barrow.ops.gibbs import matrix_soft_c_transform
from barrow.problem import Problem
from barrow.sklearn.histograms import FLOATS, Floats, Listener, every_pair, ground_cost, normalised
from barrow.solve import solve
from barrow.solvers.simplex import Simplex
from barrow.solvers.sinkhorn import Sinkhorn

Matrix = NDArray[np.float64]

# Widest range of costs, in epsilon, whose kernel and scalings are numbers: those are its inverse, and their products.
SINGLE, DOUBLE = 40, 300


def sinkhorn_distances(
    X: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    cost: Any = None,
    epsilon: float | None = None,
    lam: float | None = None,
    n_steps: int | None = 20,
    tol: float = 1e-3,
    progress: Listener = None,
) -> Matrix:
    """Cuturi's dual-Sinkhorn divergences between all pairs of rows.

        d(r, c) = <P, M>  with  P = argmin over couplings of r and c of  <P, M> - epsilon H(P),   and  d(r, r) = 0

    Algorithm 1 for all pairs: u = r / (K v), v = c / (K' u) with K = exp(-M / epsilon) are products of matrices, over
    the bins in use only, in single precision if X is float32 and K allows it. Where exp(-M / epsilon) is beyond
    double precision, the same steps are made on logarithms. Of a pair, r is the histogram with fewer bins in use, so
    that d is symmetric after any number of steps.

    Args:
        X: histograms (n, d), rows of any mass, which are normalised.
        Y: histograms (m, d); X itself unless given, then of each pair one order is computed.
        cost: the cost between bins, as :func:`ground_cost` takes it.
        epsilon: entropy, in units of the cost.
        lam: instead of epsilon, Cuturi's lambda in units of one over the median of the cost matrix: epsilon =
            median / lam. He takes 5 to 11 for digits. There is no default for both: it changes the answer.
        n_steps: steps of Algorithm 1, exactly so many; None goes on until the gap is certified.
        tol: certified relative duality gap of the entropic problems where n_steps is None.
        progress: called with a :class:`barrow.Progress`, pairs done of all pairs.

    Returns:
        (n, m), float64.

    Raises:
        ValueError: no histograms, a cost that does not fit them, not exactly one of epsilon and lam.

    Warns:
        ConvergenceWarning: a gap is above tol, n_steps being None.

    >>> sinkhorn_distances([[1, 0, 0], [0, 0, 1]], lam=9)
    array([[0., 2.],
           [2., 0.]])

    Source: Cuturi 2013, equation (2), Algorithm 1 and section 5.1; theorem 1 for d(r, r) = 0.
    """
    return _sinkhorn(X, Y, cost, epsilon, lam, n_steps, tol, progress).cost


def sinkhorn_bounds(
    X: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    cost: Any = None,
    epsilon: float | None = None,
    lam: float | None = None,
    n_steps: int | None = 20,
    tol: float = 1e-3,
    progress: Listener = None,
) -> tuple[Matrix, Matrix]:
    """A lower and an upper bound of the exact transport distance of all pairs, from the scalings of Algorithm 1.

        epsilon (r' log u + c' log v)  <=  EMD(r, c)  <=  <P, M> + max M |P 1 - r|_1 / 2,    P = diag(u) K diag(v)

    No entry of P is above 1, since its columns sum to c: so epsilon log u and epsilon log v are feasible for the dual
    of exact transport, after any number of steps; and what is on the wrong rows is moved at the largest cost.

    Arguments and errors are those of :func:`sinkhorn_distances`. Give X in float64: the rounding of float32, some 1e-6
    of the largest cost, is not in the bounds.

    >>> lower, upper = sinkhorn_bounds([[1, 0, 0], [0, 1, 1]], epsilon=0.1)
    >>> bool(lower[0, 1] <= 1.5 <= upper[0, 1])
    True

    Source: Cuturi 2013, Algorithm 1, and the lower bound of his program; Altschuler, Weed and Rigollet 2017, lemma 7.
    """
    found = _sinkhorn(X, Y, cost, epsilon, lam, n_steps, tol, progress)
    return found.lower, found.upper


def transport_distances(
    X: ArrayLike, Y: ArrayLike | None = None, *, cost: Any = None, progress: Listener = None
) -> Matrix:
    """Exact transport distances between all pairs of rows.

        d(r, c) = min <P, M>  over couplings P of r and c

    In closed form for bins on a line or on the leaves of a tree: l1 distances between sums. By the network simplex for
    other costs, some milliseconds a pair of images; batches share the threads of ``torch.get_num_threads()``.

    Args:
        X: histograms (n, d), rows of any mass, which are normalised.
        Y: histograms (m, d); X itself unless given.
        cost: the cost between bins, as :func:`ground_cost` takes it.
        progress: called with a :class:`barrow.Progress`, pairs done of all pairs; closed forms are done at once.

    Returns:
        (n, m), float64, certified to a relative gap of 1e-9.

    Raises:
        ValueError: no histograms, or a cost that does not fit them.

    >>> transport_distances([[1, 0, 0], [0, 0, 1], [0, 1, 1]])
    array([[0. , 2. , 1.5],
           [2. , 0. , 0.5],
           [1.5, 0.5, 0. ]])

    Source: Peyre and Cuturi, Computational Optimal Transport, sections 3.5 and, on a line, 2.6.
    """
    X, Y = _two(X, Y, np.float64)
    if cost is None:
        return l1(X.cumsum(1)[:, :-1], None if Y is None else Y.cumsum(1)[:, :-1])
    M = torch.from_numpy(ground_cost(cost, X.shape[1]))
    if isinstance(cost, Tree):
        return l1(tree_sums(X, cost), None if Y is None else tree_sums(Y, cost))

    def measure(R: Tensor, C: Tensor) -> Tensor:
        R, C, m = _used(R, C, M)
        return solve(Problem(Dense(m), R, C), Simplex()).value.detach()[None]

    result: Matrix = every_pair(X, Y, measure, progress)[0]
    return result


def hellinger(X: ArrayLike, Y: ArrayLike | None = None) -> Matrix:
    """sum_i (sqrt(r_i) - sqrt(c_i))^2 between all pairs of normalised rows: (n, m).

    >>> hellinger([[1, 0], [0, 1]])
    array([[0., 2.],
           [2., 0.]])
    """
    X, Y = _two(X, Y)
    return squares(np.sqrt(X), None if Y is None else np.sqrt(Y))


def chi_squared(X: ArrayLike, Y: ArrayLike | None = None) -> Matrix:
    """sum_i (r_i - c_i)^2 / (r_i + c_i) between all pairs of normalised rows, 0 / 0 being 0: (n, m).

    >>> chi_squared([[1, 0], [0, 1]])
    array([[0., 2.],
           [2., 0.]])
    """
    result: Matrix = -additive_chi2_kernel(*_two(X, Y)).astype(np.float64)
    return np.abs(result)


def total_variation(X: ArrayLike, Y: ArrayLike | None = None) -> Matrix:
    """sum_i |r_i - c_i| / 2 between all pairs of normalised rows: (n, m), transport where every move costs 1.

    >>> total_variation([[1, 0], [1, 1]])
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    return l1(*_two(X, Y)) / 2


def squared_euclidean(X: ArrayLike, Y: ArrayLike | None = None) -> Matrix:
    """sum_i (r_i - c_i)^2 between all pairs of normalised rows, whose kernel is the Gaussian one: (n, m).

    >>> squared_euclidean([[1, 0], [1, 1]])
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    return squares(*_two(X, Y))


def independence(X: ArrayLike, Y: ArrayLike | None = None, *, cost: Any = None, power: float = 1.0) -> Matrix:
    """sum_ij r_i c_j M_ij^power between all pairs of normalised rows: the cost of the independent coupling, (n, m).

    The Sinkhorn distance of an infinite epsilon. With M^power of negative type, as powers up to 2 of Euclidean
    distances are, exp(-d / t) is a positive definite kernel; d(r, r) is not 0.

    Args:
        X: histograms (n, d), rows of any mass, which are normalised.
        Y: histograms (m, d); X itself unless given.
        cost: the cost between bins, as :func:`ground_cost` takes it.
        power: of each entry of the cost, positive.

    >>> independence([[1, 0], [1, 1]])
    array([[0. , 0.5],
           [0.5, 0.5]])

    Source: Cuturi 2013, section 3.1 and, for the powers, section 5.1.
    """
    X, Y = _two(X, Y)
    M = ground_cost(cost, X.shape[1]) ** check.positive("power", power)
    result: Matrix = X @ M @ (X if Y is None else Y).T
    return result


# -- parts -------------------------------------------------------------------------------------------------------------


def l1(X: Floats, Y: Floats | None) -> Matrix:
    """l1 distances between all pairs of rows."""
    if X.shape[1] == 0:
        return np.zeros((len(X), len(X if Y is None else Y)))
    result: Matrix = manhattan_distances(X, Y).astype(np.float64)
    return result


def squares(X: Floats, Y: Floats | None) -> Matrix:
    """Squared Euclidean distances between all pairs of rows."""
    result: Matrix = euclidean_distances(X, Y, squared=True).astype(np.float64)
    return result


def tree_sums(X: Floats, tree: Tree) -> Matrix:
    """length_i times the mass under node i, for every edge of positive length: (n, edges), in float64."""
    edge = tree.edge_length.detach().double().cpu()
    kept = edge > 0
    ordered = torch.from_numpy(X).double()[:, tree.topology.leaf_order.cpu()]
    prefix = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
    mass = prefix[:, tree.topology.leaf_stop[kept]] - prefix[:, tree.topology.leaf_start[kept]]
    result: Matrix = (edge[kept] * mass).numpy()
    return result


def strength(M: Matrix, epsilon: float | None, lam: float | None) -> float:
    """epsilon, given as such or by Cuturi's lambda in units of one over the median of M."""
    if (epsilon is None) == (lam is None):
        raise ValueError(
            f"epsilon is {epsilon} and lam is {lam}, but exactly one must be given: epsilon in units of the cost, or "
            "lam = median of the cost / epsilon, such as 9"
        )
    if epsilon is not None:
        return check.positive("epsilon", epsilon)
    lam = check.positive("lam", lam)
    median = float(np.median(M))
    if median == 0 and M.any():
        raise ValueError("the median of the cost is 0, so lam has no unit: give epsilon instead")
    return (median or 1.0) / lam


def _two(X: ArrayLike, Y: ArrayLike | None, dtypes: Any = FLOATS) -> tuple[Floats, Floats | None]:
    left, right = normalised(X, dtypes=dtypes), None if Y is None else normalised(Y, "Y", dtypes)
    if right is not None and left.shape[1] != right.shape[1]:
        raise ValueError(f"X has shape {left.shape} but Y has shape {right.shape}: the number of bins must agree")
    return left, right


def _used(R: Tensor, C: Tensor, M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is in use by any of a batch: rows of the first, columns of the second."""
    rows, cols = (R > 0).any(0), (C > 0).any(0)
    return R[:, rows], C[:, cols], M[rows][:, cols]


# -- Sinkhorn ----------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """The cost of the plan and the bounds of exact transport, of all pairs."""

    cost: Matrix
    lower: Matrix
    upper: Matrix


def _sinkhorn(
    X: ArrayLike,
    Y: ArrayLike | None,
    cost: Any,
    epsilon: float | None,
    lam: float | None,
    n_steps: int | None,
    tol: float,
    progress: Listener,
) -> _Found:
    X, Y = _two(X, Y)
    matrix = ground_cost(cost, X.shape[1])
    epsilon = strength(matrix, epsilon, lam)
    if n_steps is not None:
        n_steps = check.whole("n_steps", n_steps)
    solver = Sinkhorn(tol)
    M = torch.from_numpy(matrix)
    reach = float(M.max()) / epsilon
    measure: Callable[[Tensor, Tensor], Tensor]
    if n_steps is None or reach > DOUBLE:
        X, Y = X.astype(np.float64), None if Y is None else Y.astype(np.float64)

        def measure(R: Tensor, C: Tensor) -> Tensor:
            R, C, m = _used(R / R.sum(-1, keepdim=True), C / C.sum(-1, keepdim=True), M)
            return _logarithmic(R, C, m, epsilon, n_steps, solver)
    else:
        dtype = torch.float32 if X.dtype == np.float32 and reach <= SINGLE else torch.float64
        m, K = M.to(dtype), torch.exp(M / -epsilon).to(dtype)

        def measure(R: Tensor, C: Tensor) -> Tensor:
            rows, cols = (R > 0).any(0), (C > 0).any(0)
            R, C = R[:, rows].to(dtype), C[:, cols].to(dtype)
            return _scaled(R, C, m[rows][:, cols], K[rows][:, cols], epsilon, n_steps)

    values = every_pair(X, Y, measure, progress)
    if len(values) == 1:  # no pair was different
        values = np.repeat(values, 3, 0)
    cost_, lower, wrong = values
    return _Found(cost_, np.maximum(lower, 0), cost_ + matrix.max() / 2 * wrong)


def _scaled(R: Tensor, C: Tensor, M: Tensor, K: Tensor, epsilon: float, n_steps: int) -> Tensor:
    """Algorithm 1 for pairs (B, n), (B, m): the cost of the plan, the lower bound, the mass of rows that is wrong."""
    Kt = K.mT.contiguous()
    u = (R > 0).to(R.dtype)  # bins that others of the batch use are none of its own
    y, v = torch.empty_like(R), torch.empty_like(C)
    for _ in range(n_steps):
        torch.div(C, torch.mm(u, K, out=v), out=v)
        torch.div(R, torch.mm(v, Kt, out=y), out=u)
    torch.div(C, torch.mm(u, K, out=v), out=v)
    moved = (u * (v @ (K * M).mT)).sum(-1)
    wrong = (u * (v @ Kt) - R).abs().sum(-1)
    lower = epsilon * (torch.xlogy(R, u).sum(-1) + torch.xlogy(C, v).sum(-1))
    return torch.stack([moved, lower, wrong])


def _logarithmic(R: Tensor, C: Tensor, M: Tensor, epsilon: float, n_steps: int | None, solver: Sinkhorn) -> Tensor:
    """:func:`_scaled` on p = epsilon log u and q = epsilon log v, or at the potentials of the certified solution."""
    r, c = epsilon * R.log(), epsilon * C.log()
    if n_steps is None:
        p = r + solved(Problem(Dense(M), R, C, epsilon=epsilon), solver, stacklevel=6).f
    else:
        p = torch.where(R > 0, 0.0, -torch.inf).to(R)
        for _ in range(n_steps):
            q = c + matrix_soft_c_transform(M.mT, p, epsilon)
            p = r + matrix_soft_c_transform(M, q, epsilon)
    q = c + matrix_soft_c_transform(M.mT, p, epsilon)
    # sum_j M_ij exp((q_j - M_ij) / epsilon) is a soft minimum as well, of M - epsilon log M.
    weighted = matrix_soft_c_transform(M - epsilon * M.log(), q, epsilon)
    moved = torch.where(R > 0, ((p - weighted) / epsilon).exp(), 0).sum(-1)
    mass = torch.where(R > 0, ((p - matrix_soft_c_transform(M, q, epsilon)) / epsilon).exp(), 0)
    lower = torch.where(R > 0, R * p, 0).sum(-1) + torch.where(C > 0, C * q, 0).sum(-1)
    return torch.stack([moved, lower, (mass - R).abs().sum(-1)])
