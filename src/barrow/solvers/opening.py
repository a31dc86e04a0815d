"""Where the search for entropic potentials begins."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from barrow.cost import Cost, Dense, Points
from barrow.ops.column_generation import column_generation
from barrow.problem import Problem
from barrow.solvers.base import Start, Watch

SHARP = 1000  # epsilon: mean costs from which on exact transport is the simpler problem,
FEW = 1e9  # if there are no more pairs
FLAT = 160  # dimensions, at most, in which a covariance is worth its decomposition
SAMPLE = 64  # rows whose costs stand for all


class Opening(NamedTuple):
    """Column potentials (B, m), the epsilon (B,) that they are made for, and the mean cost (B,) of a unit of mass.

    ``decay`` (B,) is what a step at that epsilon is likely to leave of their error: 1 if that is not known.
    """

    g: Tensor
    epsilon: Tensor
    mean_cost: Tensor
    decay: Tensor


def opening(problem: Problem, start: Start | None, *, annealed: bool, watch: Watch, limit: float | None) -> Opening:
    """Where to begin: at a start or, if the search is ``annealed``, at the potentials of a simpler problem.

    A small epsilon: those of exact transport. Annealing would have to follow every change of the plan on the way there.
    Squared distances: the entropic potentials of Gaussians with the means and covariances of the measures; what is not
    Gaussian is small, so annealing may begin at a sixteenth of the spread of the doubly centred cost. Other costs: the
    mean cost of each column, which is the potential as epsilon grows without bound; annealing begins at half of the
    spread.

    Source: Janati, Muzellec, Peyre and Cuturi 2020, theorem 1 (entropic transport of Gaussians).
    """
    cost = problem.cost
    mean = cost.spread(problem.a, problem.b, tight=True) / (problem.a.sum(-1) * problem.b.sum(-1))
    if start is not None or problem.symmetric or not annealed:
        g = torch.zeros_like(problem.b) if start is None else start.g
        return Opening(g, torch.zeros_like(mean), mean, torch.ones_like(mean))
    if _sharp(problem, mean):
        g = _exact(problem, watch, limit).nan_to_num(0, 0, 0)
        return Opening(g, torch.zeros_like(mean), mean, torch.ones_like(mean))
    if isinstance(cost, Points) and cost.p == 2 and cost.norm == 2 and cost.d <= FLAT:
        g, epsilon, decay = _gaussian(problem, cost)
    else:
        g, epsilon = _means(problem)
        decay = torch.ones_like(mean)
    return Opening(
        g.nan_to_num(0, 0, 0), epsilon.nan_to_num(0, 0, 0).clamp_min(problem.epsilon), mean, decay.nan_to_num(1, 1, 1)
    )


def _sharp(problem: Problem, mean: Tensor) -> bool:
    cost, (n, m) = problem.cost, problem.shape
    known = isinstance(cost, Points) or (isinstance(cost, Dense) and not cost.forbids)
    within = cost.device.type == "cpu" and n * m <= FEW
    return problem.balanced and known and within and bool((mean > SHARP * problem.epsilon).any())


def _exact(problem: Problem, watch: Watch, limit: float | None) -> Tensor:
    cost = problem.cost
    tensors = cost.coordinates if isinstance(cost, Points) else cost.tensors
    data = [t if t.dim() == 3 else t[None] for t in tensors]
    p, norm = (cost.p, cost.norm) if isinstance(cost, Points) else (2, 2)
    C = (data[0], data[1]) if isinstance(cost, Points) else data[0]
    seconds = watch.left(limit) / 2  # whatever it has by then is a start
    return column_generation(problem.a, problem.b, C, p, norm, seconds=seconds, listener=watch.listener).g


def _moments(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (B, 1, d), centred points (B, n, d) and covariance (B, d, d)."""
    w = (w / w.sum(-1, keepdim=True))[..., None]
    mean = (w * z).sum(-2, keepdim=True)
    z = z - mean
    return mean, z, z.mT @ (w * z)


def _spectrum(S: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, d) and eigenvectors of positive semidefinite matrices."""
    values, vectors = torch.linalg.eigh(S)
    return values.clamp_min(0), vectors


def _composed(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values[..., None, :]) @ vectors.mT


def _gaussian(problem: Problem, cost: Points) -> tuple[Tensor, Tensor, Tensor]:
    x, y = cost.coordinates
    mx, _, Sx = _moments(x, problem.a)
    my, z, Sy = _moments(y, problem.b)
    epsilon = (2 * (Sx * Sy).sum((-2, -1)).clamp_min(0).sqrt() / 16).clamp_min(problem.epsilon)
    values, vectors = _spectrum(Sy)
    least = 1e-10 * values.amax(-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    root = _composed(vectors, values.sqrt())
    inverse = _composed(vectors, torch.where(values > least, values.clamp_min(least).rsqrt(), 0))
    variances, axes = _spectrum(root @ Sx @ root)
    blur = epsilon[..., None] / 4
    stretch = (variances + blur.square()).sqrt() - blur
    # At y the mean of the plan's x is mx + A z: the gradient of a convex function, and at epsilon = 0 the map itself.
    A = inverse @ _composed(axes, stretch) @ inverse
    # |y|^2 - 2 phi(y) with phi(y) = <mx, y> + <z, A z> / 2, all measured from the mean of y.
    g = z.square().sum(-1) - 2 * (z * (mx - my)).sum(-1) - (z * (z @ A)).sum(-1)
    # Errors of potentials decay by the squares of the correlations of x and y under the plan.
    decay = (stretch.square() / variances.clamp_min(torch.finfo(z.dtype).tiny)).amax(-1)
    B = len(problem.b)
    return g.expand(B, -1), epsilon.expand(B), decay.expand(B)


def _means(problem: Problem) -> tuple[Tensor, Tensor]:
    k = min(SAMPLE, problem.shape[0])
    chosen = problem.a.topk(k, -1).indices
    C = _rows(problem.cost, chosen)
    w = problem.a.gather(-1, chosen)
    w, b = w / w.sum(-1, keepdim=True), problem.b / problem.b.sum(-1, keepdim=True)
    column = (w[..., None] * C).sum(-2)
    mean = (b * column).sum(-1, keepdim=True)
    row = (C * b[:, None]).sum(-1, keepdim=True)
    centred = C - row - column[:, None] + mean[..., None]
    variance = (w * (b[:, None] * centred.square()).sum(-1)).sum(-1) * k / max(k - 1, 1)
    return column - mean, variance.sqrt() / 2


def _rows(cost: Cost, chosen: Tensor) -> Tensor:
    """The costs (B, k, m) of some rows (B, k)."""
    (B, k), m = chosen.shape, cost.shape[1]
    if isinstance(cost, Points) and cost.launched():
        # All of some points against all others: a list of pairs would hold every point many times.
        x = cost.x[chosen] if cost.x.dim() == 2 else torch.take_along_dim(cost.x, chosen[..., None], -2)
        return cost.replace(x, cost.y).dense()
    rows = chosen[..., None].expand(B, k, m).reshape(B, k * m)
    cols = torch.arange(m, device=chosen.device).expand(B, k, m).reshape(B, k * m)
    return cost.pairs(rows, cols).reshape(B, k, m)


def target_error(tol: float) -> float:
    """The share of the mass that may be wrong, at most: it is that of a gradient too."""
    return min(3 * tol, 0.05) if not math.isinf(tol) else 0.05
