"""Optimal-transport distances and losses for PyTorch, each with a proof of how far it can be from the truth."""

from barrow import nn
from barrow.certify import certify
from barrow.check import Incompatible
from barrow.cost import Cost, Dense, Grid, Points, Tree
from barrow.estimate import Estimate, Images, estimate
from barrow.functional import (
    ConvergenceWarning,
    barycenter,
    debiased_barycenter,
    emd_1d,
    free_barycenter,
    label_wasserstein,
    sinkhorn_ball,
    sinkhorn_cost,
    sinkhorn_divergence,
    sinkhorn_transport,
    sliced_wasserstein,
    tangent,
    transport_cost,
    tree_emd,
    wasserstein,
    wasserstein_1d,
)
from barrow.plan import DensePlan, GibbsPlan, Plan, SparsePlan
from barrow.problem import Problem
from barrow.solution import BadInput, Bounds, Solution, SolveError, Status, Witness
from barrow.solve import solve
from barrow.solvers import Assignment, Auto, ColumnGeneration, Progress, Simplex, Sinkhorn, Solver, Sort, TreeFlow

__version__ = "0.1.0"

__all__ = [
    "Cost", "Points", "Dense", "Tree", "Grid",
    "Problem", "solve", "certify",
    "Solver", "Progress", "Auto", "Assignment", "ColumnGeneration", "Simplex", "Sinkhorn", "Sort", "TreeFlow",
    "Solution", "Bounds", "Witness", "Status", "Plan", "SparsePlan", "DensePlan", "GibbsPlan",
    "wasserstein", "transport_cost", "sinkhorn_cost", "sinkhorn_divergence", "sliced_wasserstein", "wasserstein_1d",
    "emd_1d", "tree_emd", "tangent", "label_wasserstein", "sinkhorn_transport", "sinkhorn_ball",
    "barycenter", "debiased_barycenter", "free_barycenter",
    "estimate", "Estimate", "Images", "nn",
    "SolveError", "BadInput", "Incompatible", "ConvergenceWarning",
]  # fmt: skip
