"""Transport between histograms on ordered bins, on the leaves of a tree, or on labels with any metric."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Dense, Tree
from barrow.functional.common import labels, power, refuse_nonfinite, refuse_weights, value
from barrow.ops.tree import subtree_sum
from barrow.problem import Problem
from barrow.solution import BadInput
from barrow.solvers.sinkhorn import Sinkhorn


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
        refuse_nonfinite(spacing=spacing)
        spacing = spacing.to(dtype)
    else:
        spacing = check.positive("spacing", spacing)
    phi = (h.double() - t.double()).cumsum(-1)[..., : N - 1].to(dtype)
    return (spacing * power(phi, exponent)).sum(-1).to(h.dtype)


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
    return (tree.edge_length.to(dtype) * power(phi, exponent)).sum(-1).to(h.dtype)


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
        tol: certified gap, relative to <T, C> + epsilon KL(T | h t') where the marginals are hard, to the value plus
            epsilon elsewhere.
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
    h, t, cost = labels(h, t, C)
    solver = Sinkhorn(tol, max_steps)
    K, L = cost.shape
    if check.penalties("rho", rho) == (math.inf, math.inf):
        # The marginals are given, and with them the difference of -H(T) and KL(T | h t').
        gained = _plogp(h) + _plogp(t) + (h.sum(-1) + t.sum(-1)) / 2 - h.sum(-1) * t.sum(-1)
        return value(Problem(cost, h, t, epsilon=epsilon), solver) + (epsilon * gained).to(C.dtype)
    # -H(T) = KL(T | 1 x 1 / KL) + (1 - log KL) |T| - 1. Another constant reference would need no change of the costs,
    # but add a number of order epsilon KL to the value, beside which neither tol nor single precision means much.
    half = (K * L) ** -0.5
    r, s = (C.new_full((size,), half) for size in (K, L))
    moved = Dense(cost.C.to(check.compute_dtype(C.dtype)) + epsilon * (1 - math.log(K * L)))
    moved = moved.to(C.dtype)
    return value(
        Problem(moved, h, t, epsilon=epsilon, rho=rho, reference=(r, s)), solver, offset=epsilon, reference=half
    )


def _plogp(w: Tensor) -> Tensor:
    """The sum of w log w, with a finite slope at 0."""
    w = w.to(check.compute_dtype(w.dtype))
    return (w * w.clamp_min(torch.finfo(w.dtype).tiny).log()).sum(-1)


def _histograms(h: object, t: object) -> tuple[Tensor, Tensor]:
    h, t = (check.real_tensor(name, w, what="a histogram") for name, w in (("h", h), ("t", t)))
    if h.dim() == 0 or t.dim() == 0 or h.shape[-1] != t.shape[-1] or h.shape[-1] == 0:
        shapes = f"h has shape {check.shape(h)} but t has shape {check.shape(t)}"
        raise ValueError(f"{shapes}: the last dimension must agree and not be 0")
    check.same_kind("h", h, "t", t)
    check.batch(h=h.shape[:-1], t=t.shape[:-1])
    refuse_nonfinite(h=h, t=t)
    refuse_weights(h, t, names=("h", "t"))
    return h, t
