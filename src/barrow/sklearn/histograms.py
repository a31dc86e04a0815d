"""Rows that are histograms, the cost between their bins, and all pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array
from torch import Tensor

from barrow.cost import Grid, Tree
from barrow.solvers.base import Progress, Watch

Floats = NDArray[np.float64] | NDArray[np.float32]
Listener = Callable[[Progress], object] | None

FLOATS = (np.float64, np.float32)
FEW, MANY = 128, 512  # pairs of a batch: products of fewer rows are slow, more leave the cache


def ground_cost(cost: Any, d: int) -> NDArray[np.float64]:
    """The cost between d bins as a matrix.

    Args:
        cost: None, bins on a line, |i - j|; the sides of a grid such as (20, 20), Euclidean distances between its
            pixels in row-major order; a :class:`barrow.Tree`, path lengths between its leaves; or the matrix (d, d).
        d: the number of bins.

    Raises:
        ValueError: another number of bins, not symmetric, negative, not finite, or not 0 from a bin to itself.

    >>> ground_cost((1, 3), 3)
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    """
    if cost is None:
        line = np.arange(float(d))
        return np.abs(line[:, None] - line)
    if isinstance(cost, Tree):
        if cost.batch_shape or cost.shape[0] != d:
            raise ValueError(f"cost is a tree of {cost.shape[0]} leaves, but the histograms have {d} bins: one a leaf")
        return _matrix(cost.to(torch.float64).dense())
    if np.ndim(cost) == 1:
        grid = Grid(tuple(np.asarray(cost).tolist()), p=1)
        if grid.shape[0] != d:
            raise ValueError(f"cost is a grid of shape {grid.sides}, {grid.shape[0]} bins, but the histograms have {d}")
        return _matrix(grid.to(torch.float64).dense())
    C = _matrix(cost) if isinstance(cost, Tensor) else np.asarray(cost, dtype=np.float64)
    if C.shape != (d, d):
        raise ValueError(
            f"cost has shape {C.shape}, but the histograms have {d} bins: give a matrix ({d}, {d}), the sides of a "
            "grid, or None for bins on a line"
        )
    if not (np.isfinite(C).all() and (C >= 0).all()):
        raise ValueError("cost has an entry that is negative or not finite, but costs between bins are finite numbers")
    if np.abs(C - C.T).max() > 1e-12 * C.max():
        raise ValueError("cost is not symmetric, so no kernel follows from it: use (cost + cost.T) / 2")
    if np.diagonal(C).any():
        raise ValueError("cost is not zero on its diagonal, but from a bin to itself nothing is moved")
    return (C + C.T) / 2


def _matrix(C: Tensor) -> NDArray[np.float64]:
    return C.detach().cpu().numpy().astype(np.float64)


def normalised(X: ArrayLike, name: str = "X", dtypes: Any = FLOATS) -> Floats:
    """Rows of sum one, in float32 if X is and that is among ``dtypes``, in float64 otherwise.

    Raises:
        ValueError: no matrix (n, d), NaN or infinity, a negative number, a row of zeros.

    >>> normalised([[1, 3], [2, 0]])
    array([[0.25, 0.75],
           [1.  , 0.  ]])
    """
    return to_sum_one(check_array(X, dtype=dtypes, ensure_non_negative=True, input_name=name), name)


def to_sum_one(X: Floats, name: str = "X") -> Floats:
    """:func:`normalised` for what has been validated."""
    top = X.max(1, keepdims=True)
    if not top.all():
        n, d = X.shape
        raise ValueError(
            f"row {int(top.argmin())} of {name} sums to 0 (n_samples = {n}, n_features = {d}), but a histogram has "
            "mass: leave such rows out"
        )
    scaled = X / top  # the sum of what is given may be beyond its range
    result: Floats = scaled / scaled.sum(1, keepdims=True)
    return result


def ranks(Z: Floats) -> NDArray[np.intp]:
    """A number for each row, equal for equal rows, that does not decrease with the number of bins in use.

    >>> ranks(np.array([[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]))
    array([1, 0, 1])
    """
    order = np.lexsort((*Z.T[::-1], (Z > 0).sum(1)))
    new = (Z[order[1:]] != Z[order[:-1]]).any(1)
    place = np.empty(len(Z), dtype=np.intp)
    place[order] = np.concatenate([[0], np.cumsum(new)])
    return place


def every_pair(
    X: Floats, Y: Floats | None, measure: Callable[[Tensor, Tensor], Tensor], progress: Listener
) -> NDArray[np.float64]:
    """``measure`` of all pairs of rows, (k, n, m), or (k, n, n) of one set where Y is None; 0 for equal rows.

    ``measure`` takes two batches (B, d) and returns (k, B). Of a pair the row with fewer bins in use comes first, then
    the smaller one in lexicographic order: what is measured is symmetric even where the measure is not, and
    little of what follows from the first rows is computed twice.
    """
    n, Z = len(X), X if Y is None else np.concatenate([X, Y])
    rank, split = ranks(Z), None if Y is None else n
    watch = Watch(progress)
    rows = torch.from_numpy(np.ascontiguousarray(Z))
    total, done = _count(rank, split), 0
    out = np.zeros((0, n, len(Z) if Y is None else len(Z) - n))
    for i, j in _batches(rank, split):
        values = measure(rows[i], rows[j]).double().numpy()
        if not len(out):
            out = np.zeros((len(values), *out.shape[1:]))
        if split is None:
            out[:, i, j] = out[:, j, i] = values
        else:
            out[:, np.minimum(i, j), np.maximum(i, j) - split] = values
        done += len(i)
        watch.tell("pairs", done, total, now=done == total)
    return out if len(out) else np.zeros((1, *out.shape[1:]))


def _count(rank: NDArray[np.intp], split: int | None) -> int:
    """How many pairs have different ranks."""
    if split is None:
        return (len(rank) ** 2 - int((np.bincount(rank) ** 2).sum())) // 2
    left, right = (np.bincount(part, minlength=rank.max() + 1) for part in (rank[:split], rank[split:]))
    return split * (len(rank) - split) - int((left * right).sum())


def _batches(rank: NDArray[np.intp], split: int | None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """All pairs (i, j) with rank_i < rank_j, from different sides of the split if there is one, mostly of one i."""
    held: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    count = 0
    place = np.arange(len(rank))
    for i in np.argsort(rank, kind="stable"):
        others = place if split is None else place[split:] if i < split else place[:split]
        later = others[rank[others] > rank[i]]
        for start in range(0, len(later), MANY):
            j = later[start : start + MANY]
            held.append((np.full_like(j, i), j))
            count += len(j)
            if count >= FEW:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = zip(*held, strict=True)
    return np.concatenate(first), np.concatenate(second)
