"""Transport between weighted clouds of points."""

from __future__ import annotations

import math

from torch import Tensor

from barrow import check
from barrow.cost import Points
from barrow.functional.common import root, value
from barrow.problem import Problem
from barrow.solvers.sinkhorn import Sinkhorn


def transport_cost(
    x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2, norm: float = 2
) -> Tensor:
    """Exact optimal-transport cost between weighted clouds: no root and no factor one half.

        min over couplings P of a and b of  sum_ij P_ij |x_i - y_j|_norm^p

    Choose it when the exact number matters: in seconds for ten thousand points, in minutes for a hundred thousand, in
    memory O(n + m) either way. For a smooth loss take :func:`sinkhorn_divergence`. Exact in float64 on the CPU,
    whatever the dtype of the data.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        a: weights (..., n), uniform unless given; zeros are legal.
        b: weights (..., m), of the same mass.
        p: exponent, at least 1.
        norm: ground norm, 1, 2 or inf.

    Returns:
        (...), differentiable once in x, y, a and b.

    Raises:
        ValueError: shapes that do not fit, NaN, negative weights, different masses.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> transport_cost(x, x + torch.tensor([3.0, 4.0]))
    tensor(25.)

    Source: Peyre and Cuturi, Computational Optimal Transport, equation (2.11).
    """
    return value(Problem(Points(x, y, p=p, norm=norm), a, b))


def wasserstein(
    x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2, norm: float = 2
) -> Tensor:
    """Exact Wasserstein distance W_p between weighted clouds: the p-th root of :func:`transport_cost`.

        W_p(x, y) = (min over couplings P of  sum_ij P_ij |x_i - y_j|_norm^p)^(1/p)

    A distance between probability measures. Arguments, errors and limits are those of :func:`transport_cost`. The
    gradient where the distance is 0 is taken to be 0.

    >>> wasserstein(torch.zeros(5, 2), torch.tensor([[3.0, 4.0]]), p=1)
    tensor(5.)

    Source: Peyre and Cuturi, Computational Optimal Transport, proposition 2.2.
    """
    return root(transport_cost(x, y, a, b, p=p, norm=norm), p)


def sinkhorn_cost(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float,
    p: float = 2,
    norm: float = 2,
    rho: float | tuple[float, float] = math.inf,
    tol: float = 1e-3,
    max_steps: int = 10_000,
) -> Tensor:
    """Entropic (and, with a finite rho, unbalanced) transport cost.

        min over P >= 0 of  sum P C + epsilon KL(P | a x b) + rho KL(P 1 | a) + rho KL(P' 1 | b),  C = |x - y|^p

    Choose it for smooth coupling costs and for measures of different mass. It is not 0 for equal measures: as a loss,
    :func:`sinkhorn_divergence` is nearly always what you want.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        a: weights (..., n), uniform unless given.
        b: weights (..., m).
        epsilon: entropy, in units of |x - y|^p. There is no default: it changes the answer.
        p: exponent, at least 1.
        norm: ground norm, 1, 2 or inf.
        rho: marginal penalty in the same units, or a pair (rho_a, rho_b); inf is the hard constraint.
        tol: certified relative gap.
        max_steps: iterations at most.

    Returns:
        (...), differentiable once in x, y, a and b.

    Raises:
        ValueError: shapes that do not fit, epsilon <= 0, rho <= 0, NaN, negative or (at rho = inf) different masses.

    Warns:
        ConvergenceWarning: max_steps was reached before tol; the value is then still a lower bound.

    >>> sinkhorn_cost(torch.zeros(1, 2), torch.ones(1, 2), epsilon=0.1)
    tensor(2.)

    Source: Cuturi 2013; Chizat, Peyre, Schmitzer and Vialard 2018.
    """
    epsilon = check.positive("epsilon", epsilon)
    return value(Problem(Points(x, y, p=p, norm=norm), a, b, epsilon=epsilon, rho=rho), Sinkhorn(tol, max_steps))


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float,
    p: float = 2,
    norm: float = 2,
    rho: float | tuple[float, float] = math.inf,
    tol: float = 1e-3,
    max_steps: int = 10_000,
) -> Tensor:
    """Debiased entropic transport: 0 for equal measures, positive otherwise, smooth in the points.

        S(x, y) = V(x, y) - V(x, x) / 2 - V(y, y) / 2 + epsilon / 2 (|a| - |b|)^2

    with V = :func:`sinkhorn_cost`. The first choice as a loss between clouds: it interpolates between transport
    (epsilon to 0) and a kernel distance (epsilon to infinity). Each V is certified to ``tol`` relative to itself, so a
    divergence much smaller than V(x, y) needs a smaller ``tol``. For p in [1, 2] it is convex in each measure.

    Arguments, errors and warnings are those of :func:`sinkhorn_cost`, except that rho must be one number.

    >>> x = torch.rand(10, 3)
    >>> bool(sinkhorn_divergence(x, x, epsilon=0.1).abs() < 1e-4)
    True

    Source: Feydy, Sejourne, Vialard, Amari, Trouve and Peyre 2019; Sejourne et al. 2019, equation (7) (unbalanced).
    """
    epsilon = check.positive("epsilon", epsilon)
    rho = check.positive("rho", rho, infinite=True)
    x, y = check.clouds(x, y)
    cross = Problem(Points(x, y, p=p, norm=norm), a, b, epsilon=epsilon, rho=rho)
    solver = Sinkhorn(tol, max_steps)

    def self_cost(z: Tensor, w: Tensor) -> Tensor:
        return value(Problem(Points(z, z, p=p, norm=norm), w, w, epsilon=epsilon, rho=rho), solver)

    divergence = value(cross, solver) - (self_cost(x, cross.a) + self_cost(y, cross.b)) / 2
    if rho == math.inf:
        return divergence
    return divergence + epsilon / 2 * (cross.a.sum(-1) - cross.b.sum(-1)).square()
