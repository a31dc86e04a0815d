"""Transport for scikit-learn: kernels and embeddings that are estimators."""

import importlib.util

if importlib.util.find_spec("sklearn") is None:
    raise ImportError("barrow.sklearn needs scikit-learn, which is not installed: pip install 'barrow[sklearn]'")

from barrow.sklearn.distances import (
    chi_squared,
    hellinger,
    independence,
    sinkhorn_bounds,
    sinkhorn_distances,
    squared_euclidean,
    total_variation,
    transport_distances,
)
from barrow.sklearn.embedding import TreeEmbedding
from barrow.sklearn.histograms import ground_cost
from barrow.sklearn.kernels import DistanceKernel, SinkhornKernel, TransportKernel

__all__ = [
    "SinkhornKernel", "TransportKernel", "DistanceKernel", "TreeEmbedding",
    "sinkhorn_distances", "sinkhorn_bounds", "transport_distances",
    "hellinger", "chi_squared", "total_variation", "squared_euclidean", "independence",
    "ground_cost",
]  # fmt: skip
