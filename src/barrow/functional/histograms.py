"""Transport between histograms on ordered bins, on the leaves of a tree, or on labels with any metric."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Dense, Tree
from barrow.functional.common import labels, refuse_nonfinite, refuse_weights, value
from barrow.ops.flows import Loss, flow_loss, refuse_with
from barrow.problem import Problem
from barrow.screen import mass_tolerance
from barrow.solution import BadInput, Status
from barrow.solvers.sinkhorn import Sinkhorn


def emd_1d(
    h: Tensor, t: Tensor, exponent: float = 1, spacing: float | Tensor = 1.0, *, normalise: bool = False
) -> Tensor:
    """Earth mover's distance between histograms on ordered bins, in closed form.

        sum_i w_i |phi_i|^exponent,   phi_i = sum_{j <= i} (h_j - t_j),   i = 1 ... N - 1

    For exponent 1 this is W_1 with bins ``spacing`` apart; for exponent 2 it is the Cramer distance (not the square of
    the former), whose gradient shrinks near the optimum: the better training loss. O(N), no iteration.

    The gradient is what autograd gives for an unconstrained h: dE/dh_k = sum_{i >= k} s_i with
    s_i = exponent w_i sign(phi_i) |phi_i|^(exponent - 1), 0 where phi_i is. Wrap h in :func:`tangent`, where the other
    conventions of the literature are listed, for the one projected onto histograms of constant mass. After a softmax
    all give the same gradient to the logits.

    Args:
        h: predictions (..., N).
        t: targets (..., N), of the same mass; or class indices, integers of the shape h.shape[:-1], which stand for
            histograms with mass 1 in one bin.
        exponent: at least 1.
        spacing: distance between neighbouring bins: a number, or (N - 1,), or (..., N - 1).
        normalise: whether h and t are first divided by their masses, which then may differ.

    Returns:
        (...), differentiable in h, t and spacing, as often as you like.

    Raises:
        ValueError: shapes that do not fit, NaN, a class that there is not, exponent < 1, no mass, or, unless
            ``normalise``, different masses.

    >>> emd_1d(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    tensor(2.)
    >>> emd_1d(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([1, 0]))
    tensor([0.5000, 2.0000])

    Source: Martinez, Haurilet, Al-Halah, Tapaswi and Stiefelhagen 2016 (relaxed earth mover's distance), section 3.
    """
    h, t = _histograms(h, t)
    exponent = check.exponent("exponent", exponent)
    w, unit = None, 1.0
    if isinstance(spacing, Tensor) and spacing.dim() > 0:
        w = check.weights("spacing", spacing, h.shape[-1] - 1, h, "h")
        check.batch(h=h.shape[:-1], t=t.shape[:-1] if t.is_floating_point() else t.shape, spacing=w.shape[:-1])
    else:
        unit = check.positive("spacing", spacing)
    return flow_loss(h, t, w, None, Loss(exponent, unit, bool(normalise), mass_tolerance(h.dtype)))


def tree_emd(h: Tensor, t: Tensor, tree: Tree, exponent: float = 1, *, normalise: bool = False) -> Tensor:
    """Earth mover's distance between histograms on the leaves of a tree, in closed form (HEMD).

        sum over nodes i but the root of  length_i |phi_i|^exponent,   phi_i = sum over leaves j under i of h_j - t_j

    For exponent 1 this is W_1 of the tree metric. Linear in the number of nodes: the loss for class hierarchies. The
    gradient is what autograd gives for an unconstrained h; wrap h in :func:`tangent` for the projected one, which
    does not depend on where the root is.

    Args:
        h: predictions (..., L) over the leaves of ``tree``, in the order of ``tree.leaves``.
        t: targets (..., L), of the same mass; or class indices, integers of the shape h.shape[:-1], which count
            leaves (not nodes) and stand for histograms with mass 1 on one of them.
        tree: the hierarchy.
        exponent: at least 1.
        normalise: whether h and t are first divided by their masses, which then may differ.

    Returns:
        (...), differentiable in h, t and ``tree.length``, as often as you like.

    Raises:
        ValueError: shapes that do not fit, NaN, a class that there is not, exponent < 1, no mass, or, unless
            ``normalise``, different masses.

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
    if tree.batch_shape:
        places = t.shape[:-1] if t.is_floating_point() else t.shape
        check.batch(h=h.shape[:-1], t=places, **{"tree.length": tree.batch_shape})
    exponent = check.exponent("exponent", exponent)
    loss = Loss(exponent, 1.0, bool(normalise), mass_tolerance(h.dtype))
    return flow_loss(h, t, tree.length, tree.topology, loss)


class _Tangent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, scale: float) -> Tensor:
        return h.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        projected = grad - grad.mean(-1, keepdim=True)
        return (projected if ctx.scale == 1 else ctx.scale * projected), None

    @staticmethod
    def jvp(ctx: Any, along: Tensor, _: None) -> Tensor:
        projected = along - along.mean(-1, keepdim=True)
        return projected if ctx.scale == 1 else ctx.scale * projected


def tangent(h: Tensor, *, scale: float = 1.0) -> Tensor:
    """The histogram h itself, with gradients projected onto histograms of constant mass.

        scale (grad_k - mean(grad))

    Use it where h is optimised directly rather than through a softmax. The literature states the gradient of the same
    loss in four ways; with g_k = sum over the edges i whose flow bin k is part of of s_i, and N bins, they are

        g_k                                   emd_1d(h, t)                     what autograd gives
        g_k - mean(g)                         emd_1d(tangent(h), t)            of hierarchies and of the elephant
        N (g_k - mean(g))                     emd_1d(tangent(h, scale=N), t)   of the one-dimensional loss
        (g_k - sum_j p_j g_j) / sum(h)        emd_1d(h, t, normalise=True)     exact where p = h / sum(h) is compared

    and likewise for :func:`tree_emd`. To the logits z of a softmax all of them are p_k (g_k - sum_j p_j g_j), the third
    N times that: for training through a softmax none needs to be chosen.

    Args:
        h: (..., N).
        scale: what the projected gradient is multiplied by.

    >>> h = torch.tensor([0.5, 0.5], requires_grad=True)
    >>> (tangent(h) * torch.tensor([1.0, 3.0])).sum().backward()
    >>> h.grad
    tensor([-1.,  1.])

    Source: Martinez et al. 2016; the projection onto the tangent space of the simplex.
    """
    projected: Tensor = _Tangent.apply(h, check.positive("scale", scale))
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

    Beware: where the marginals are hard, the best h for a given t is a blurred t, h_i = sum_j t_j softmax_i(-C_ij /
    epsilon); for one near t take a small epsilon, or on a line or a tree the two functions above, which are least at t.
    But not none: for a single true class exact transport (epsilon -> 0), and so those two with exponent 1, is linear in
    h and drives a softmax into a corner, where its gradient vanishes; the entropy keeps the best h inside, and so the
    loss trainable.

    Args:
        h: predictions (..., K), for instance a softmax.
        t: targets (..., L); zeros are legal. Or class indices, integers of the shape h.shape[:-1]: where the marginals
            are hard there is one plan, and the loss is <h, C[:, t]> + epsilon <h, log h>, without iterations.
        C: costs between classes (K, L) or (..., K, L).
        epsilon: entropy, in units of C. There is no default: it changes the answer.
        rho: marginal penalty, inf (hard), a number or a pair (for h, for t).
        tol: certified gap, relative to <T, C> + epsilon KL(T | h t') where the marginals are hard, to the value plus
            epsilon elsewhere.
        max_steps: iterations at most.

    Returns:
        (...), differentiable once in h, t and C.

    Raises:
        ValueError: shapes that do not fit, a class that there is not, epsilon <= 0, rho <= 0, NaN, negative or (at
            rho = inf) different masses.

    >>> C = 1 - torch.eye(3)
    >>> h = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    >>> label_wasserstein(h, torch.tensor([0.0, 0.0, 1.0]), C, epsilon=0.1).backward()
    >>> h.grad.argmin()
    tensor(2)

    Source: Frogner, Zhang, Mobahi, Araya-Polo and Poggio 2015, Algorithm 1 and equation (9).
    """
    epsilon = check.positive("epsilon", epsilon)
    solver, hard = Sinkhorn(tol, max_steps), check.penalties("rho", rho) == (math.inf, math.inf)
    if isinstance(t, Tensor) and t.dtype in _WHOLE:
        classes, t = t, _one_hot(h, t, C)
        h, t, cost = labels(h, t, C)
        if hard:
            refuse_nonfinite(h=h, C=C)
            refuse_weights(h, t, names=("h", "t"))
            return _forced(h, classes, cost.C, epsilon)
    else:
        h, t, cost = labels(h, t, C)
    K, L = cost.shape
    if hard:
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


def _one_hot(h: Tensor, t: Tensor, C: Tensor) -> Tensor:
    """Class indices as histograms over the columns of C."""
    L = Dense(C).shape[1]
    _one_each(check.real_tensor("h", h, what="a histogram"), t)
    outside = (t < 0) | (t >= L)
    if bool(outside.any()):
        raise BadInput(f"t contains the class index {int(t[outside][0])}, but the columns of C are 0 to {L - 1}")
    return torch.nn.functional.one_hot(t.long(), L).to(C.dtype)


def _forced(h: Tensor, t: Tensor, C: Tensor, epsilon: float) -> Tensor:
    """The loss where all mass goes to the class t (...), of mass 1."""
    dtype = check.compute_dtype(h.dtype)
    if C.dim() == 2:
        column = C.T[t.long()]
    else:
        index = t.long()[..., None, None].expand(*t.shape, C.shape[-2], 1)
        column = C.expand(*t.shape, *C.shape[-2:]).gather(-1, index)[..., 0]
    return ((h.to(dtype) * column.to(dtype)).sum(-1) + epsilon * _plogp(h)).to(C.dtype)


def _plogp(w: Tensor) -> Tensor:
    """The sum of w log w, with a finite slope at 0."""
    w = w.to(check.compute_dtype(w.dtype))
    return (w * w.clamp_min(torch.finfo(w.dtype).tiny).log()).sum(-1)


def _histograms(h: object, t: object) -> tuple[Tensor, Tensor]:
    """What can be known of them without reading their values."""
    h = check.real_tensor("h", h, what="a histogram")
    if h.dim() == 0 or h.shape[-1] == 0:
        raise ValueError(f"h has shape {check.shape(h)}, but a histogram has at least one bin: expected (..., N)")
    if isinstance(t, Tensor) and t.dtype in _WHOLE:
        _one_each(h, t)
        return h, t
    t = check.real_tensor("t", t, what="a histogram")
    if t.dim() == 0 or h.shape[-1] != t.shape[-1]:
        shapes = f"h has shape {check.shape(h)} but t has shape {check.shape(t)}"
        raise ValueError(f"{shapes}: the last dimension must agree and not be 0")
    check.same_kind("h", h, "t", t)
    check.batch(h=h.shape[:-1], t=t.shape[:-1])
    return h, t


def _one_each(h: Tensor, t: Tensor) -> None:
    """Refuse integers that are not one class for each histogram."""
    if t.shape != h.shape[:-1]:
        raise ValueError(
            f"t has shape {check.shape(t)} and dtype {t.dtype}, but integers are class indices, one for each "
            f"histogram in h: expected shape {tuple(h.shape[:-1])}; a histogram of counts must be floating point: "
            "t.to(h.dtype)"
        )
    if t.device != h.device:
        raise ValueError(f"h is on {h.device} but t is on {t.device}: move one with t.to(h.device)")


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _refuse(h: Tensor, t: Tensor, w: Tensor | None, on_tree: bool, normalise: bool) -> None:
    """Say what is wrong with the values, if something is."""
    if w is not None and not on_tree:  # a tree knows that its lengths are not negative
        if bool((w.detach() < 0).any()):
            raise BadInput(f"spacing contains {float(w.min()):g}, but distances between bins are at least 0")
        refuse_nonfinite(spacing=w)
    given = {"h": h.detach(), "t": t.detach()}
    if not t.is_floating_point():
        outside = (t < 0) | (t >= h.shape[-1])
        if bool(outside.any()):
            wrong, last = int(t[outside][0]), h.shape[-1] - 1
            raise BadInput(f"t contains the class index {wrong}, but the classes of h are 0 to {last}")
        del given["t"]
    refuse_nonfinite(**given)
    for name, x in given.items():
        if bool((x < 0).any()):
            raise BadInput(f"{name} contains {float(x.min()):g}: {Status.negative_weights.sentence}")
    mass = {name: x.double().sum(-1) for name, x in given.items()}
    if any(bool((m == 0).any()) for m in mass.values()):
        raise BadInput(Status.no_mass.sentence)
    if normalise:
        return
    one, two = torch.broadcast_tensors(mass["h"], mass.get("t", torch.ones_like(mass["h"])))
    off = (one - two).abs() > mass_tolerance(h.dtype) * torch.maximum(one, two)
    if bool(off.any()):
        sums = f"h sums to {float(one[off][0]):.9g} but t sums to {float(two[off][0]):.9g}"
        cure = "normalise both, or pass normalise=True, which divides each by its mass"
        raise BadInput(f"{sums}: the two sides have different masses: {cure}")


refuse_with(_refuse)
