"""Named quantities: the losses, as pure functions of tensors.

Every function is batched over leading dimensions and returns the batch shape: there is no ``reduction``.
``wasserstein*`` is rooted, ``*_cost`` is not, ``*_divergence`` is debiased.
"""

from barrow.functional.barycenters import barycenter, debiased_barycenter
from barrow.functional.clouds import sinkhorn_cost, sinkhorn_divergence, transport_cost, wasserstein
from barrow.functional.common import ConvergenceWarning
from barrow.functional.free_barycenter import free_barycenter
from barrow.functional.histograms import emd_1d, label_wasserstein, tangent, tree_emd
from barrow.functional.line import sliced_wasserstein, wasserstein_1d
from barrow.functional.sinkhorn import sinkhorn_ball, sinkhorn_transport

__all__ = [
    "transport_cost",
    "wasserstein",
    "sinkhorn_cost",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "wasserstein_1d",
    "emd_1d",
    "tree_emd",
    "tangent",
    "label_wasserstein",
    "sinkhorn_transport",
    "sinkhorn_ball",
    "barycenter",
    "debiased_barycenter",
    "free_barycenter",
    "ConvergenceWarning",
]
