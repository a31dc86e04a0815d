"""Named quantities: the losses, as pure functions of tensors.

Every function is batched over leading dimensions and returns the batch shape: there is no ``reduction``.
``wasserstein*`` is rooted, ``*_cost`` is not, ``*_divergence`` is debiased.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from barrow import check
from barrow.cost import CHUNK, Dense, Points, Tree
from barrow.ops.staircase import staircase
from barrow.ops.tree import subtree_sum
from barrow.problem import Problem
from barrow.screen import mass_tolerance
from barrow.solution import BadInput, Status
from barrow.solve import attempt, failure
from barrow.solvers.base import Solver
from barrow.solvers.sinkhorn import Sinkhorn


class ConvergenceWarning(UserWarning):
    """A loss could not be certified to its tolerance; its value is still a lower bound."""


# -- exact transport between clouds ----------------------------------------------------------------------------------


def transport_cost(
    x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2, norm: float = 2
) -> Tensor:
    """Exact optimal-transport cost between weighted clouds: no root and no factor one half.

        min over couplings P of a and b of  sum_ij P_ij |x_i - y_j|_norm^p

    Choose it when the exact number matters and clouds have at most a few thousand points; for larger ones, or for a
    smooth loss, take :func:`sinkhorn_divergence`. Exact in float64 on the CPU, whatever the dtype of the data.

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
    return _value(Problem(Points(x, y, p=p, norm=norm), a, b))


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
    return _root(transport_cost(x, y, a, b, p=p, norm=norm), p)


# -- entropic transport between clouds -------------------------------------------------------------------------------


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
    return _value(Problem(Points(x, y, p=p, norm=norm), a, b, epsilon=epsilon, rho=rho), Sinkhorn(tol, max_steps))


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
        return _value(Problem(Points(z, z, p=p, norm=norm), w, w, epsilon=epsilon, rho=rho), solver)

    value = _value(cross, solver) - (self_cost(x, cross.a) + self_cost(y, cross.b)) / 2
    if math.isinf(rho):
        return value
    return value + epsilon / 2 * (cross.a.sum(-1) - cross.b.sum(-1)).square()


def label_wasserstein(
    h: Tensor,
    t: Tensor,
    C: Tensor,
    *,
    epsilon: float,
    rho: float | tuple[float, float] = math.inf,
    tol: float = 1e-3,
    max_steps: int = 10_000,
) -> Tensor:
    """Entropic transport between predicted and true label histograms, with the entropy of Frogner et al.

        min over T >= 0 of  <T, C> - epsilon H(T) + rho KL(T 1 | h) + rho KL(T' 1 | t),   H(T) = -sum T log T

    that is epsilon = 1 / lambda, and their relaxed loss for a finite rho. Choose it for classification where classes
    have a metric (tags, ratings, hierarchies) and C is not a line or a tree; there, :func:`emd_1d` and
    :func:`tree_emd` are exact and much faster. The value may be negative: the entropy is subtracted.

    Args:
        h: predictions (..., K), for instance a softmax.
        t: targets (..., L); zeros (one-hot) are legal.
        C: costs between classes (K, L) or (..., K, L).
        epsilon: entropy, in units of C. There is no default: it changes the answer.
        rho: marginal penalty, inf (hard), a number or a pair (for h, for t).
        tol: certified relative gap.
        max_steps: iterations at most.

    Returns:
        (...), differentiable once in h, t and C.

    Raises:
        ValueError: shapes that do not fit, epsilon <= 0, rho <= 0, NaN, negative or (at rho = inf) different masses.

    >>> C = 1 - torch.eye(3)
    >>> h = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    >>> label_wasserstein(h, torch.tensor([0.0, 0.0, 1.0]), C, epsilon=0.1).backward()
    >>> h.grad.argmin()
    tensor(2)

    Source: Frogner, Zhang, Mobahi, Araya-Polo and Poggio 2015, Algorithm 1 and equation (9).
    """
    epsilon = check.positive("epsilon", epsilon)
    cost = Dense(C)
    h, t = (check.weights(name, w, size, C, "C") for name, w, size in zip(("h", "t"), (h, t), cost.shape, strict=True))
    # KL(T | e^-1 1 x 1) = -H(T) + e^-1 K L: this reference makes the generalised KL the plain entropy.
    r, s = (C.new_full((size,), math.exp(-0.5)) for size in cost.shape)
    problem = Problem(cost, h, t, epsilon=epsilon, rho=rho, reference=(r, s))
    constant = epsilon * math.exp(-1) * cost.shape[0] * cost.shape[1]
    return _value(problem, Sinkhorn(tol, max_steps), offset=constant)


# -- closed forms ----------------------------------------------------------------------------------------------------


def wasserstein_1d(u: Tensor, v: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2) -> Tensor:
    """Exact Wasserstein distance W_p between weighted positions on a line, for any p >= 1.

        W_p = (integral over q in [0, 1] of |F_u^-1(q) - F_v^-1(q)|^p)^(1/p)

    Sorting is all it takes. For bins of a histogram, take :func:`emd_1d`.

    Args:
        u: positions (..., n), in any order.
        v: positions (..., m).
        a: weights (..., n), uniform unless given; zeros are legal.
        b: weights (..., m), of the same mass.
        p: exponent, at least 1.

    Returns:
        (...), differentiable in positions and weights.

    Raises:
        ValueError: shapes that do not fit, NaN, negative weights, different masses.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([5.0, 6.0, 8.0]), p=1)
    tensor(5.)

    Source: Peyre and Cuturi, Computational Optimal Transport, proposition 2.17.
    """
    u, v = (check.real_tensor(name, t, what="positions") for name, t in (("u", u), ("v", v)))
    for name, t in (("u", u), ("v", v)):
        if t.dim() == 0 or t.shape[-1] == 0:
            raise ValueError(f"{name} has shape {check.shape(t)}, but positions must have shape (..., n) with n >= 1")
    check.same_kind("u", u, "v", v)
    p = check.exponent("p", p)
    a = None if a is None else check.weights("a", a, u.shape[-1], u, "u")
    b = None if b is None else check.weights("b", b, v.shape[-1], v, "v")
    return _root(_line_cost(u, v, a, b, p), p).to(u.dtype)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    p: float = 2,
    n_projections: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of one-dimensional transport costs over random directions, a lower bound of W_p.

        SW_p = (mean over directions w on the sphere of  W_p^p(<x, w>, <y, w>))^(1/p)

    Choose it for large clouds in high dimension when a cheap, smooth-enough loss will do: O(n log n) a direction. It
    is a random estimate: pass a generator to repeat it.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        a: weights (..., n), uniform unless given.
        b: weights (..., m), of the same mass.
        p: exponent, at least 1.
        n_projections: how many directions.
        generator: where the directions come from; torch's global generator unless given.

    Returns:
        (...), differentiable in points and weights.

    Raises:
        ValueError: shapes that do not fit, NaN, negative weights, different masses, no projections.

    >>> x, g = torch.rand(50, 3), torch.Generator().manual_seed(0)
    >>> bool(sliced_wasserstein(x, x + 1, generator=g) <= wasserstein(x, x + 1))
    True

    Source: Bonneel, Rabin, Peyre and Pfister 2015, definition 1.
    """
    x, y = check.clouds(x, y)
    p = check.exponent("p", p)
    L = check.whole("n_projections", n_projections)
    a = None if a is None else check.weights("a", a, x.shape[-2], x, "x")[..., None, :]
    b = None if b is None else check.weights("b", b, y.shape[-2], y, "y")[..., None, :]
    home = x.device if generator is None else generator.device
    dtype = check.compute_dtype(x.dtype)
    # Drawn in one precision, so that a generator gives the same directions in every other.
    w = torch.randn(x.shape[-1], L, dtype=torch.float32, device=home, generator=generator).to(x.device, dtype)
    w = w / torch.linalg.vector_norm(w, dim=0)
    size = math.prod(torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])) * (x.shape[-2] + y.shape[-2])
    block = max(1, CHUNK // max(1, size))
    total = x.new_zeros((), dtype=dtype)
    for directions in w.split(block, -1):
        u, v = ((t.to(dtype) @ directions).mT for t in (x, y))
        total = total + _line_cost(u, v, a, b, p).sum(-1)
    return _root(total / L, p).to(x.dtype)


def emd_1d(h: Tensor, t: Tensor, exponent: float = 1, spacing: float | Tensor = 1.0) -> Tensor:
    """Earth mover's distance between histograms on ordered bins, in closed form.

        sum_i w_i |phi_i|^exponent,   phi_i = sum_{j <= i} (h_j - t_j),   i = 1 ... N - 1

    For exponent 1 this is W_1 with bins ``spacing`` apart; for exponent 2 it is the Cramer distance (not the square of
    the former), whose gradient shrinks near the optimum: the better training loss. O(N), no iteration.

    The gradient is what autograd gives for an unconstrained h: dE/dh_k = sum_{i >= k} s_i with
    s_i = exponent w_i sign(phi_i) |phi_i|^(exponent - 1). Wrap h in :func:`tangent` for the one projected onto
    histograms of constant mass. After a softmax both give the same gradient to the logits.

    Args:
        h: predictions (..., N).
        t: targets (..., N), of the same mass.
        exponent: at least 1.
        spacing: distance between neighbouring bins: a number, or (N - 1,), or (..., N - 1).

    Returns:
        (...), differentiable in h, t and spacing, as often as you like.

    Raises:
        ValueError: shapes that do not fit, NaN, different masses, exponent < 1.

    >>> emd_1d(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    tensor(2.)

    Source: Martinez, Haurilet, Al-Halah, Tapaswi and Stiefelhagen 2016 (relaxed earth mover's distance), section 3.
    """
    h, t = _histograms(h, t)
    exponent = check.exponent("exponent", exponent)
    N, dtype = h.shape[-1], check.compute_dtype(h.dtype)
    if isinstance(spacing, Tensor) and spacing.dim() > 0:
        spacing = check.weights("spacing", spacing, N - 1, h, "h")
        if not bool((spacing.detach() >= 0).all()):
            raise BadInput(f"spacing contains {float(spacing.min()):g}, but distances between bins are at least 0")
        _refuse_nonfinite(spacing=spacing)
        spacing = spacing.to(dtype)
    else:
        spacing = check.positive("spacing", spacing)
    phi = (h.double() - t.double()).cumsum(-1)[..., : N - 1].to(dtype)
    return (spacing * _power(phi, exponent)).sum(-1).to(h.dtype)


def tree_emd(h: Tensor, t: Tensor, tree: Tree, exponent: float = 1) -> Tensor:
    """Earth mover's distance between histograms on the leaves of a tree, in closed form (HEMD).

        sum over nodes i but the root of  length_i |phi_i|^exponent,   phi_i = sum over leaves j under i of h_j - t_j

    For exponent 1 this is W_1 of the tree metric. Linear in the number of nodes: the loss for class hierarchies. The
    gradient is what autograd gives for an unconstrained h; wrap h in :func:`tangent` for the projected one, which
    does not depend on where the root is.

    Args:
        h: predictions (..., L) over the leaves of ``tree``, in the order of ``tree.leaves``.
        t: targets (..., L), of the same mass.
        tree: the hierarchy.
        exponent: at least 1.

    Returns:
        (...), differentiable in h, t and ``tree.length``, as often as you like.

    Raises:
        ValueError: shapes that do not fit, NaN, different masses, exponent < 1.

    >>> elephant = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.ones(6, dtype=torch.float64))
    >>> h = torch.tensor([0.2, 0.4, 0.2, 0.2], dtype=torch.float64, requires_grad=True)
    >>> t = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    >>> loss = tree_emd(tangent(h), t, elephant)
    >>> loss.backward()
    >>> loss.detach(), h.grad
    (tensor(0.9000, dtype=torch.float64), tensor([ 1.5000, -0.5000, -1.5000,  0.5000], dtype=torch.float64))

    Source: Martinez, Haurilet, Al-Halah, Tapaswi and Stiefelhagen 2016, section 4.
    """
    if not isinstance(tree, Tree):
        raise ValueError(f"tree is a {type(tree).__name__}, but it must be a barrow.Tree(parent, length)")
    h, t = _histograms(h, t)
    L = tree.shape[0]
    if h.shape[-1] != L:
        raise ValueError(f"h has shape {check.shape(h)}, but the tree has {L} leaves: expected (..., {L})")
    check.same_kind("h", h, "tree.length", tree.length)
    exponent = check.exponent("exponent", exponent)
    dtype = check.compute_dtype(h.dtype)
    phi = subtree_sum(tree.topology, h.to(dtype) - t.to(dtype))
    return (tree.edge_length.to(dtype) * _power(phi, exponent)).sum(-1).to(h.dtype)


class _Tangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad - grad.mean(-1, keepdim=True)


def tangent(h: Tensor) -> Tensor:
    """The histogram h itself, with gradients projected onto histograms of constant mass.

        grad_k - mean(grad)

    Use it as ``emd_1d(tangent(h), t)`` when h is optimised directly rather than through a softmax.

    >>> h = torch.tensor([0.5, 0.5], requires_grad=True)
    >>> (tangent(h) * torch.tensor([1.0, 3.0])).sum().backward()
    >>> h.grad
    tensor([-1.,  1.])

    Source: Martinez et al. 2016; the projection onto the tangent space of the simplex.
    """
    projected: Tensor = _Tangent.apply(h)
    return projected


# -- what they share -------------------------------------------------------------------------------------------------


def _value(problem: Problem, solver: Solver | None = None, *, offset: float = 0.0) -> Tensor:
    solution = attempt(problem, solver)
    if not solution.converged:
        warnings.warn(failure(solution), ConvergenceWarning, stacklevel=3)
    return solution.value - offset


def _root(value: Tensor, p: float) -> Tensor:
    """value^(1/p), with slope 0 rather than infinity at 0."""
    if p == 1:
        return value
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1).pow(1 / p), 0)


def _power(phi: Tensor, exponent: float) -> Tensor:
    return phi.abs() if exponent == 1 else phi.square() if exponent == 2 else phi.abs().pow(exponent)


def _line_cost(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float) -> Tensor:
    """W_p^p on a line for u (..., n), v (..., m): (...), in at least float32."""
    n, m = u.shape[-1], v.shape[-1]
    shapes = {"of u": u.shape[:-1], "of v": v.shape[:-1]}
    shapes |= {f"of {name}": w.shape[:-1] for name, w in (("a", a), ("b", b)) if w is not None}
    batch = check.batch(**shapes)
    _refuse_nonfinite(u=u, v=v, a=a, b=b)
    u, v = (t.to(check.compute_dtype(t.dtype)) for t in (u, v))
    if a is None and b is None and n == m:
        return _power(u.sort(-1).values - v.sort(-1).values, p).mean(-1)
    a = u.new_full((n,), 1 / n) if a is None else a
    b = v.new_full((m,), 1 / m) if b is None else b
    _refuse_weights(a, b)
    u, v, a, b = (t.expand(*batch, t.shape[-1]) for t in (u, v, a, b))
    # Cumulative weights are compared in float64: in float32 the rounding of 1/n adds up to whole cells.
    a, b = a.double(), b.double()
    b = b * (a.detach().sum(-1, keepdim=True) / b.detach().sum(-1, keepdim=True))
    u, u_order = u.sort(-1)
    v, v_order = v.sort(-1)
    path = staircase(a.gather(-1, u_order), b.gather(-1, v_order))
    distance = _power(u.gather(-1, path.rows) - v.gather(-1, path.cols), p)
    return (path.mass.to(u.dtype) * distance).sum(-1)


def _histograms(h: object, t: object) -> tuple[Tensor, Tensor]:
    h, t = (check.real_tensor(name, w, what="a histogram") for name, w in (("h", h), ("t", t)))
    if h.dim() == 0 or t.dim() == 0 or h.shape[-1] != t.shape[-1] or h.shape[-1] == 0:
        shapes = f"h has shape {check.shape(h)} but t has shape {check.shape(t)}"
        raise ValueError(f"{shapes}: the last dimension must agree and not be 0")
    check.same_kind("h", h, "t", t)
    check.batch(h=h.shape[:-1], t=t.shape[:-1])
    _refuse_nonfinite(h=h, t=t)
    _refuse_weights(h, t, names=("h", "t"))
    return h, t


def _refuse_nonfinite(**tensors: Tensor | None) -> None:
    for name, t in tensors.items():
        if t is not None and not bool(t.detach().isfinite().all()):
            raise BadInput(f"{name} contains a value that is not finite: {Status.not_finite.sentence}")


def _refuse_weights(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    for name, w in zip(names, (a, b), strict=True):
        if bool((w.detach() < 0).any()):
            raise BadInput(f"{name} contains {float(w.min()):g}: {Status.negative_weights.sentence}")
    mass_a, mass_b = (w.detach().double().sum(-1) for w in (a, b))
    if bool(((mass_a == 0) | (mass_b == 0)).any()):
        raise BadInput(Status.no_mass.sentence)
    off = (mass_a - mass_b).abs() > mass_tolerance(a.dtype) * torch.maximum(mass_a, mass_b)
    if bool(off.any()):
        one, two = (float(t.expand_as(off)[off][0]) for t in (mass_a, mass_b))
        sums = f"{names[0]} sums to {one:.9g} but {names[1]} sums to {two:.9g}"
        raise BadInput(f"{sums}: {Status.mass_mismatch.sentence}")
