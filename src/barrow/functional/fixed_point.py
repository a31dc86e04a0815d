"""The fixed point of balanced entropic transport on a stored matrix: reached by Newton's method, and differentiated.

Problems are flattened: C (n, m) or (B, n, m), weights a (B, n) and b (B, m) of equal mass, epsilon (B,), all float64.
Given g, the potential f = softmin(g) makes the rows of P = a b exp((f + g - C) / epsilon) sum to a; what is left is to
maximise the concave <a, f(g)> + <b, g>, whose gradient is b - P' 1 and whose Hessian is -S / epsilon with

    S = diag(P' 1) - P' diag(1 / a) P.

The same S answers how P moves with the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ENTRIES = 1 << 22  # of the plans that are held at once
LONGEST = 2.0  # epsilon: how far a Newton step moves a potential at most
RIDGE = 1e-13  # of the largest eigenvalue of S, 1: where P falls apart into blocks, S has more than one zero


class Plans(NamedTuple):
    """Plans whose rows are exact. R (B, n, m) holds each row's distribution, P = a R; it is finite at zero weights."""

    f: Tensor
    R: Tensor
    q: Tensor  # (B, m) the sums of columns
    value: Tensor  # (B,) the dual objective <a, f> + <b, g>


class Moved(NamedTuple):
    """C = alpha + beta + rest with rest orthogonal, under P, to every sum of a row and a column function."""

    alpha: Tensor  # (B, n)
    beta: Tensor  # (B, m)


def groups(B: int, entries: int) -> Iterator[Tensor]:
    """Indices of problems, as many at once as ``entries`` each allow."""
    yield from torch.arange(B).split(max(1, ENTRIES // max(1, entries)))


def pick(C: Tensor, index: Tensor) -> Tensor:
    """The matrices of some problems; a shared one stays shared."""
    return C[index] if C.dim() == 3 else C


def plans(C: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, g: Tensor) -> Plans:
    """The plans with exact rows of a potential g (B, m)."""
    eps = epsilon[:, None]
    logits = ((g + eps * b.log())[:, None, :] - C) / eps[..., None]
    total = logits.logsumexp(-1)
    R = (logits - total[..., None]).exp()
    f = -eps * total
    return Plans(f, R, (a[:, None, :] @ R)[:, 0], (a * f).sum(-1) + (b * g).sum(-1))


def off(now: Plans, b: Tensor) -> Tensor:
    """How far the columns are from b: the sum of the differences over the mass, (B,)."""
    return (now.q - b).abs().sum(-1) / b.sum(-1)


def solve_columns(now: Plans, a: Tensor, b: Tensor, right: Tensor) -> Tensor:
    """Solve S x = right (B, m) for right sides of sum 0; x is 0 where b is."""
    support = b > 0
    scale = torch.where(support, b, 1).rsqrt() * support
    S = (now.R * a[..., None]).mT @ now.R
    S = torch.diag_embed(now.q) - S
    S = S * scale[:, :, None] * scale[:, None, :]
    root = b.sqrt() / b.sum(-1, keepdim=True).sqrt()
    S = S + root[:, :, None] * root[:, None, :]  # constants, which S does not see
    S.diagonal(dim1=-2, dim2=-1).add_(RIDGE + (~support).to(b))
    factor, info = torch.linalg.cholesky_ex(S)
    x = torch.cholesky_solve((right * scale)[..., None], factor)[..., 0]
    failed = info != 0
    if bool(failed.any()):
        values, vectors = torch.linalg.eigh(S[failed])
        inverse = torch.where(values > RIDGE, 1 / values, 0)
        x[failed] = (vectors @ (inverse[..., None] * (vectors.mT @ (right * scale)[failed][..., None])))[..., 0]
    return x * scale


def sweep(C: Tensor, now: Plans, a: Tensor, b: Tensor, epsilon: Tensor, g: Tensor) -> Tensor:
    """One block ascent on g from f: the columns of the new plan sum to b, and zero weights get their potential."""
    eps = epsilon[:, None]
    logits = ((now.f + eps * a.log())[..., None] - C) / eps[..., None]
    return -eps * logits.logsumexp(-2)


def newton(
    C: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, g: Tensor, tol: Tensor | float, max_steps: int
) -> tuple[Tensor, Plans]:
    """Raise the dual until columns are off by at most tol (a number or (B,)): potentials g (B, m), finite everywhere.

    Newton steps where they raise it, block ascents where they do not; each problem stops by itself.
    """
    g = sweep(C, plans(C, a, b, epsilon, g), a, b, epsilon, g)
    now = plans(C, a, b, epsilon, g)
    goal = torch.as_tensor(tol, dtype=g.dtype, device=g.device).expand(len(g))
    f, R, q, value = now
    for _ in range(max_steps):
        todo = (off(now, b) > goal).nonzero()[:, 0]
        if not len(todo):
            break
        part = Plans(*(t[todo] for t in now))
        C_, a_, b_, eps, g_ = pick(C, todo), a[todo], b[todo], epsilon[todo], g[todo]
        new = g_ + _step(part, a_, b_, eps)
        new = sweep(C_, plans(C_, a_, b_, eps, new), a_, b_, eps, new)
        then = plans(C_, a_, b_, eps, new)
        worse = ~(off(then, b_) < off(part, b_)) & ~(then.value > part.value)
        if bool(worse.any()):
            k = worse.nonzero()[:, 0]
            less = Plans(*(t[k] for t in part))
            new[k] = sweep(pick(C_, k), less, a_[k], b_[k], eps[k], g_[k])
            again = plans(pick(C_, k), a_[k], b_[k], eps[k], new[k])
            for whole, piece in zip(then, again, strict=True):
                whole[k] = piece
        g[todo] = new
        for whole, piece in zip((f, R, q, value), then, strict=True):
            whole[todo] = piece
    last = sweep(C, now, a, b, epsilon, g)
    return torch.where(b > 0, g, last), now


def _step(now: Plans, a: Tensor, b: Tensor, epsilon: Tensor) -> Tensor:
    """Newton's step, cut atom by atom where it would change the plan beyond what its quadratic model knows.

    Atoms of little weight ask for the longest steps; one block ascent afterwards puts them in their place.
    """
    d = solve_columns(now, a, b, b - now.q)
    return epsilon[:, None] * d.clamp(-LONGEST, LONGEST)


def project(C: Tensor, now: Plans, a: Tensor, b: Tensor, epsilon: Tensor, g: Tensor) -> Moved:
    """Split C under P; alpha and beta are d<P, C>/da and d<P, C>/db, of which each side carries half of <P, C>."""
    means = (now.R * C).sum(-1)
    P = now.R * a[..., None]
    right = (P * C).sum(-2) - (means[:, None, :] @ P)[:, 0]
    beta = solve_columns(now, a, b, right)
    alpha = means - (now.R @ beta[..., None])[..., 0]
    if bool((b == 0).any()):
        eps = epsilon[:, None]
        there = (((now.f + eps * a.log())[..., None] - C) / eps[..., None]).softmax(-2)
        beta = torch.where(b > 0, beta, (there * (C - alpha[..., None])).sum(-2))
    half = ((a * alpha).sum(-1) - (b * beta).sum(-1)) / (2 * a.sum(-1))
    return Moved(alpha - half[:, None], beta + half[:, None])
