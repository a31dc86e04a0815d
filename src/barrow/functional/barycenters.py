"""Entropic barycenters of histograms on fixed places, by Bregman projections in the log domain."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Cost, Dense, Grid
from barrow.functional.common import ConvergenceWarning, refuse_nonfinite
from barrow.solution import BadInput, Status
from barrow.solvers.base import Progress, Watch

EVERY = 5  # sweeps between two judgements


class _Asked(NamedTuple):
    """A flattened batch in float64: a (B, k, n), weights w (B, k) of sum 1, all histograms of mass 1."""

    a: Tensor
    w: Tensor
    cost: Cost
    epsilon: float
    batch: torch.Size
    mass: Tensor  # (B,)


def barycenter(
    histograms: Tensor,
    C: Tensor | Grid,
    weights: Tensor | None = None,
    *,
    epsilon: float,
    tol: float = 1e-5,
    max_steps: int = 10_000,
    progress: Callable[[Progress], object] | None = None,
) -> Tensor:
    """Entropic Wasserstein barycenter of histograms on fixed places.

        argmin over b of  sum_k w_k min over couplings P of b and a_k of  <P, C> - epsilon H(P),   H = -sum P log P

    Choose it for a fast, smooth mean of images or spectra. It is blurred: two equal Diracs have a Gaussian of variance
    about epsilon / 2 as their barycenter (C = |x - y|^2). Where that matters take :func:`debiased_barycenter`, or a
    smaller epsilon, which only takes more sweeps: everything is computed in the log domain.

    Args:
        histograms: a_k, (..., k, n), of one mass; zeros are legal.
        C: costs (m, n) from the m places of the barycenter to the n places of the histograms, or a
            :class:`barrow.Grid`, for images in row-major order.
        weights: w_k >= 0 (..., k), of which only the ratios count; equal unless given.
        epsilon: entropy, in units of C. There is no default: it changes the answer.
        tol: the certified duality gap in units of epsilon and of the mass. What is returned is then off by at most
            sqrt(2 tol) of the mass in the sum norm.
        max_steps: sweeps at most.
        progress: called with a :class:`barrow.Progress` a few times a second, as by :func:`barrow.solve`.

    Returns:
        (..., m), of the mass of the histograms. Not differentiable.

    Raises:
        ValueError: shapes that do not fit, epsilon <= 0, NaN or infinity, negative or different masses, an argument
            that requires grad.

    Warns:
        ConvergenceWarning: max_steps was reached before tol.

    >>> a = torch.zeros(2, 9)
    >>> a[0, 2] = a[1, 6] = 1.0
    >>> barycenter(a, Grid((9,), p=2), epsilon=0.5).argmax()
    tensor(4)

    Source: Benamou, Carlier, Cuturi, Nenna and Peyre 2015, section 3.2; the gap is that of Cuturi and Peyre 2016.
    """
    asked = _asked(histograms, C, weights, epsilon, square=False)
    return _run(_blurred, asked, tol, max_steps, progress, histograms)


def debiased_barycenter(
    histograms: Tensor,
    C: Tensor | Grid,
    weights: Tensor | None = None,
    *,
    epsilon: float,
    tol: float = 1e-5,
    max_steps: int = 10_000,
    progress: Callable[[Progress], object] | None = None,
) -> Tensor:
    """Barycenter of histograms for the Sinkhorn divergence: without the blur of the entropy.

        argmin over b of  sum_k w_k S(b, a_k),   S(b, a) = V(b, a) - V(b, b) / 2 - V(a, a) / 2

    with V the entropic transport cost. The barycenter of equal histograms is that histogram, that of translates of one
    bump is the bump in the middle, that of Gaussians with one covariance has it too. The first choice for means whose
    sharpness matters, for costs |x - y|^p with p in [1, 2], where the problem is convex.

    Args:
        histograms: a_k, (..., k, n), of one mass; zeros are legal.
        C: symmetric costs (n, n) between the places, or a :class:`barrow.Grid`.
        weights: w_k >= 0 (..., k), of which only the ratios count; equal unless given.
        epsilon: entropy, in units of C. There is no default: it changes the answer.
        tol: how far the equations of the optimum may be off, as measured: the sum of |P_k' 1 - a_k| weighted by w, and
            of |Q 1 - b| for the plan Q from b to itself, as a share of the mass. It is not certified.
        max_steps: sweeps at most.
        progress: called with a :class:`barrow.Progress` a few times a second, as by :func:`barrow.solve`.

    Returns:
        (..., n), of the mass of the histograms. Not differentiable.

    Raises:
        ValueError: as for :func:`barycenter`, and for costs that are not symmetric.

    Warns:
        ConvergenceWarning: max_steps was reached before tol.

    >>> a = torch.softmax(-torch.linspace(-3, 3, 20).square(), 0).expand(2, 20)
    >>> bool((debiased_barycenter(a, Grid((20,), p=2), epsilon=1.0) - a[0]).abs().sum() < 1e-4)
    True

    Source: Janati, Cuturi and Gramfort 2020, Algorithm 1.
    """
    asked = _asked(histograms, C, weights, epsilon, square=True)
    return _run(_debiased, asked, tol, max_steps, progress, histograms)


# -- what is asked -----------------------------------------------------------------------------------------------------


def _asked(histograms: object, C: object, weights: object, epsilon: object, *, square: bool) -> _Asked:
    epsilon = check.positive("epsilon", epsilon)
    a = check.real_tensor("histograms", histograms, what="histograms")
    if a.dim() < 2 or a.shape[-2] == 0:
        raise ValueError(f"histograms has shape {check.shape(a)}, but k histograms have shape (..., k, n) with k >= 1")
    if isinstance(C, Grid):
        cost: Cost = C.beside(a)
    else:
        cost = Dense(C)  # type: ignore[arg-type]
        check.same_kind("histograms", a, "C", cost.tensors[0])
        if cost.batch_shape:
            raise ValueError(f"C has shape {check.shape(cost.tensors[0])}, but one matrix (m, n) is shared by all")
        refuse_nonfinite(C=cost.tensors[0])
        if square and not torch.equal(cost.tensors[0], cost.tensors[0].mT):
            raise ValueError("C is not symmetric, but a histogram is compared with itself here: use (C + C.mT) / 2")
    if a.shape[-1] != cost.shape[1]:
        raise ValueError(
            f"histograms has shape {check.shape(a)}, but the cost has {cost.shape[1]} places for them: expected "
            f"(..., k, {cost.shape[1]})"
        )
    k = a.shape[-2]
    w = a.new_ones(k) if weights is None else check.weights("weights", weights, k, a, "histograms")
    for name, given in (("histograms", a), ("C", cost.tensors[0]), ("weights", w)):
        if given.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires grad, but a barycenter gives no gradient: pass {name}.detach()")
    batch = check.batch(histograms=a.shape[:-2], weights=w.shape[:-1])
    refuse_nonfinite(histograms=a, weights=w)
    for name, numbers in (("histograms", a), ("weights", w)):
        if bool((numbers < 0).any()):
            raise BadInput(f"{name} contains {float(numbers.min()):g}: {Status.negative_weights.sentence}")
    w, a = w.double(), a.double()
    if bool((w.sum(-1) == 0).any()) or bool((a.sum(-1) == 0).any()):
        raise BadInput(Status.no_mass.sentence)
    mass = a.sum(-1)
    _one_mass(mass, histograms.dtype)  # type: ignore[attr-defined]
    w = (w / w.sum(-1, keepdim=True)).expand(*batch, k).reshape(-1, k)
    a = (a / mass[..., None]).expand(*batch, k, a.shape[-1]).reshape(len(w), k, a.shape[-1])
    return _Asked(a, w, cost.to(torch.float64), epsilon, batch, mass.mean(-1).expand(batch).reshape(-1))


def _one_mass(mass: Tensor, dtype: torch.dtype) -> None:
    low, high = mass.amin(-1), mass.amax(-1)
    off = (high - low) > max(2 * torch.finfo(dtype).eps, 4e-6) * high
    if bool(off.any()):
        sums = f"{float(low[off][0]):.9g} and {float(high[off][0]):.9g}"
        raise BadInput(f"histograms of one problem sum to {sums}: {Status.mass_mismatch.sentence}")


# -- the iterations ----------------------------------------------------------------------------------------------------


class _Judged(NamedTuple):
    b: Tensor  # (B, m)
    error: Tensor  # (B,) what is compared with tol


Step = Callable[[_Asked, Tensor, Tensor, bool], tuple[Tensor, Tensor, _Judged | None]]


def _run(
    step: Step,
    asked: _Asked,
    tol: float,
    max_steps: int,
    progress: Callable[[Progress], object] | None,
    like: Tensor,
) -> Tensor:
    """Sweep until each problem is good enough; epsilon is lowered to its target by halves, for a near start."""
    tol, max_steps = check.positive("tol", tol), check.whole("max_steps", max_steps)
    watch = Watch(progress)
    B, k, _ = asked.a.shape
    m = asked.cost.shape[0]
    result = asked.a.new_zeros(B, m)
    with torch.no_grad():
        low, high = (float(t.max()) for t in asked.cost.limits())
        now = max(high - low, asked.epsilon)
        f, log_d = asked.a.new_zeros(B, k, m), asked.a.new_zeros(B, m)
        errors = torch.full((B,), torch.inf, dtype=torch.float64, device=result.device)
        todo = torch.arange(B, device=result.device)
        age = 0
        for count in range(1, max_steps + 1):
            if not len(todo):
                break
            last = count == max_steps
            now = asked.epsilon if last else now
            at_target = now == asked.epsilon
            age += at_target
            judge = last or (at_target and (age <= 2 or age % EVERY == 0))
            part = asked._replace(a=asked.a[todo], w=asked.w[todo], epsilon=now)
            f, log_d, judged = step(part, f, log_d, judge)
            if judged is not None:
                result[todo], errors[todo] = judged.b, judged.error
                left = (judged.error > tol).nonzero()[:, 0]
                f, log_d, todo = f[left], log_d[left], todo[left]
                watch.tell("sweeps", count, max_steps, gap=float(errors.max()), now=True)
            if not at_target and count % 2 == 0:
                now = max(now / 2, asked.epsilon)
    if len(todo):
        told = f"{len(todo)} of {B} barycenters" if B > 1 else "the barycenter"
        warnings.warn(
            f"{told} reached only {float(errors.max()):.3g} of tol = {tol:g} after {max_steps} sweeps: "
            "raise max_steps, tol or epsilon",
            ConvergenceWarning,
            stacklevel=3,
        )
    return (result * asked.mass[:, None]).reshape(*asked.batch, m).to(like.dtype)


def _sums(asked: _Asked, h: Tensor, axis: int) -> Tensor:
    """The logarithm of K exp(h / epsilon), or of K' where axis is -2, for h (B, k, n)."""
    return -asked.cost.softmin(h, asked.epsilon, axis) / asked.epsilon


def _columns(asked: _Asked, f: Tensor) -> Tensor:
    """The potentials g that make P_k' 1 = a_k; -inf where a_k is 0."""
    return asked.epsilon * (asked.a.log() - _sums(asked, f, -2))


def _blurred(asked: _Asked, f: Tensor, log_d: Tensor, judge: bool) -> tuple[Tensor, Tensor, _Judged | None]:
    """One sweep of Benamou et al.: sum_k w_k f_k = 0 before and after."""
    eps, w = asked.epsilon, asked.w[..., None]
    g = _columns(asked, f)
    rows = _sums(asked, g, -1)  # log K v
    log_b = (w * rows).sum(1)
    judged = _gap(asked, f, g, rows, log_b) if judge else None
    return eps * (log_b[:, None, :] - rows), log_d, judged


def _gap(asked: _Asked, f: Tensor, g: Tensor, rows: Tensor, log_b: Tensor) -> _Judged:
    """A barycenter b with plans of the right marginals, and the gap that they leave, over epsilon.

    P_k = exp((f_k + g_k - C) / epsilon) has columns a_k and rows r_k. Capping rows at b leaves X_k of mass 1 - delta_k
    and the columns x_k; the rest is filled by a product of what is missing on both sides. The objective
    F(P) = <P, C> + epsilon <P, log P> is convex, so F(X + Y) <= (1 - delta) F(X / (1 - delta)) + delta F(Y / delta).
    """
    eps, a, w = asked.epsilon, asked.a, asked.w
    log_r, log_b = f / eps + rows, log_b.log_softmax(-1)
    b = log_b.exp()
    # Dual objective at f: sum w f = 0, and each P_k has mass 1.
    held = torch.where(a > 0, g, 0)
    dual = (w * ((a * held).sum(-1) - eps)).sum(-1)
    cap = (log_b[:, None, :] - log_r).clamp_max(0)
    u = f + eps * cap
    x_rows = (log_r + cap).exp()
    x_cols = torch.where(a > 0, (held / eps + _sums(asked, u, -2)).exp(), 0)
    x_cols = torch.minimum(x_cols, a)
    up, side = (b[:, None, :] - x_rows).clamp_min(0), (a - x_cols).clamp_min(0)
    delta = up.sum(-1)
    kept = (1 - delta).clamp_min(torch.finfo(b.dtype).tiny)
    value = (x_rows * u).sum(-1) + (x_cols * held).sum(-1) - eps * torch.xlogy(kept, kept)
    # Cost of the product up side' / delta: at most the largest cost; its entropy is that of its factors.
    largest = asked.cost.limits()[1].max()
    product = largest * delta + eps * (torch.xlogy(up, up).sum(-1) + torch.xlogy(side, side).sum(-1))
    product = product - 2 * eps * torch.xlogy(delta, delta)
    primal = (w * (value + torch.where(delta > 0, product, 0) - eps)).sum(-1)
    return _Judged(b, (primal - dual).clamp_min(0) / eps)


def _debiased(asked: _Asked, f: Tensor, log_d: Tensor, judge: bool) -> tuple[Tensor, Tensor, _Judged | None]:
    """One sweep of Janati et al.: the barycenter of the plain sweep, times d, which makes diag(d) K d = b."""
    eps, w = asked.epsilon, asked.w[..., None]
    g = _columns(asked, f)
    rows = _sums(asked, g, -1)
    log_b = log_d + (w * rows).sum(1)
    new = eps * (log_b[:, None, :] - rows)
    own = _sums(asked, eps * log_d[:, None, :], -1)[:, 0]
    judged = None
    if judge:
        b = log_b.exp()
        columns = torch.where(asked.a > 0, (g / eps + _sums(asked, new, -2)).exp(), 0)
        off = (asked.w * (columns - asked.a).abs().sum(-1)).sum(-1) + ((log_d + own).exp() - b).abs().sum(-1)
        judged = _Judged(b / b.sum(-1, keepdim=True), off)
    return new, (log_d + log_b - own) / 2, judged
