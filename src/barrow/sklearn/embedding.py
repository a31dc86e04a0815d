"""Tree-Wasserstein as an exact embedding into L1."""

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from barrow.cost import Tree
from barrow.sklearn.distances import tree_sums
from barrow.sklearn.histograms import to_sum_one

Matrix = NDArray[np.float64]


@final
class TreeEmbedding(TransformerMixin, BaseEstimator):
    """Histograms on the leaves of a tree as vectors whose l1 distances are the transport distances.

        e(h)_i = length_i * sum of h_j over leaves j under i,      |e(h) - e(t)|_1 = W_1(h, t) = tree_emd(h, t, tree)

    One coordinate for every edge of positive length: exact, linear in the number of nodes, and any model of vectors
    can follow, nearest neighbours with ``metric="manhattan"`` or a linear one. Rows are normalised to sum one.

    Args:
        tree: a :class:`barrow.Tree`, or a pair (parent, length) of its arrays; histograms live on its leaves, in index
            order.
        points: instead, the places of the bins (d, k): the tree is :meth:`barrow.Tree.from_points` of them, on which
            W_1 is at least that of Euclidean distances. With neither, bins are on a line, one apart: the coordinates
            are the sums of the first bins.

    Attributes:
        tree_: the tree, in float64.
        nodes_: the node at the lower end of the edge of each coordinate.

    Raises:
        ValueError: no histograms, a tree with another number of leaves, or no tree at all.

    >>> elephant = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.ones(6))
    >>> e = TreeEmbedding(elephant).fit_transform([[0.2, 0.4, 0.2, 0.2], [0.0, 0.5, 0.5, 0.0]])
    >>> round(float(np.abs(e[0] - e[1]).sum()), 12)
    0.9

    Source: Evans and Matsen 2012 (the closed form); Le, Yamada, Fukumizu and Cuturi 2019, section 3.
    """

    def __init__(self, tree: Any = None, *, points: ArrayLike | None = None) -> None:
        self.tree = tree
        self.points = points

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Read the tree; of X (n, d) only the number of bins counts. y is not used."""
        rows = self._rows(X, reset=True)
        d = rows.shape[1]
        if self.tree is not None and self.points is not None:
            raise ValueError("tree and points are both given, but the points are there to make a tree: give one")
        if self.points is not None:
            tree = Tree.from_points(torch.as_tensor(np.asarray(self.points, dtype=np.float64)))
        else:
            tree = Tree.chain(d, torch.ones((), dtype=torch.float64)) if self.tree is None else _tree(self.tree)
        if tree.shape[0] != d:
            raise ValueError(f"tree has {tree.shape[0]} leaves, but X has {d} features: one a leaf")
        self.tree_ = tree
        self.nodes_ = (tree.edge_length > 0).nonzero()[:, 0].numpy()
        return self

    def transform(self, X: ArrayLike) -> Matrix:
        """The coordinates (n, edges) of histograms X (n, d), float64."""
        check_is_fitted(self)
        return tree_sums(self._rows(X, reset=False), self.tree_)

    def inverse_transform(self, X: ArrayLike) -> Matrix:
        """The histograms (n, d) of sum one with these coordinates; by least squares where there are none.

        Raises:
            ValueError: another number of coordinates, or bins that the tree does not tell apart.
        """
        check_is_fitted(self)
        E = np.asarray(X, dtype=np.float64)
        d, length = self.n_features_in_, self.tree_.edge_length[self.nodes_].numpy()
        if E.ndim != 2 or E.shape[1] != len(length):
            raise ValueError(f"X has shape {E.shape}, but the embedding has {len(length)} coordinates: expected (n, .)")
        # One sum more is known: that of all bins.
        sums = np.concatenate([tree_sums(np.eye(d), self.tree_) / length, np.ones((d, 1))], 1)
        given = np.concatenate([E / length, np.ones((len(E), 1))], 1)
        found, _, rank, _ = np.linalg.lstsq(sums.T, given.T)
        if rank < d:
            raise ValueError("some bins are at distance 0 of each other, so their masses cannot be told apart")
        histograms: Matrix = found.T
        return histograms

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """The name of its bin for the coordinate of a leaf, "node7" for that of an inner node 7."""
        check_is_fitted(self)
        own = getattr(self, "feature_names_in_", None)
        default = [f"x{k}" for k in range(self.n_features_in_)] if own is None else own
        names = np.asarray(default if input_features is None else input_features, dtype=object)
        if own is not None and not np.array_equal(own, names):
            raise ValueError("input_features is not equal to feature_names_in_")
        if len(names) != self.n_features_in_:
            raise ValueError(
                f"input_features should have length equal to number of features ({self.n_features_in_}), got "
                f"{len(names)}"
            )
        leaf = dict(zip(self.tree_.leaves.tolist(), names, strict=True))
        return np.asarray([leaf.get(i, f"node{i}") for i in self.nodes_.tolist()], dtype=object)

    def _rows(self, X: ArrayLike, *, reset: bool) -> Matrix:
        rows = validate_data(self, X, reset=reset, dtype=np.float64, ensure_non_negative=True)
        return to_sum_one(rows).astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


def _tree(given: Any) -> Tree:
    """The tree in float64 on the CPU."""
    if not isinstance(given, Tree):
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(
                f"tree is a {type(given).__name__}, but it must be a barrow.Tree, a pair (parent, length), or None for "
                "bins on a line"
            )
        given = Tree(torch.as_tensor(given[0]), torch.as_tensor(given[1], dtype=torch.float64))
    if given.batch_shape:
        raise ValueError(f"tree has a batch of lengths {tuple(given.batch_shape)}, but an embedding has one tree")
    return Tree(given.parent.cpu(), given.length.detach().double().cpu())
