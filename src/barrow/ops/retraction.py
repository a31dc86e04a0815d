"""Back to the orthogonal matrices after a small step, and the part of a gradient that points along them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow.ops.polar import polar
from barrow.ops.rough import has_rough_products

__all__ = ["retract", "tangent"]

# Relative steps above this are left to the polar factor: the series below converges for norms of E under 1.
_SMALL = 0.5
_EXACT = (torch.float32, torch.float64)
# How far below one singular values are aimed at, in float32 also where products may be rough; how near they must come.
_MARGIN = {torch.float32: 2.0**-20, torch.float64: 2.0**-43}
_ROUGH_MARGIN = 2.0**-19
_GOAL = 0.5
# From this many columns on, products may be rough: below, they are not what takes time.
_ROUGH_FROM = 128
# Rounding of a Gram matrix, as its Frobenius norm over sqrt(n).
_NOISE = {torch.float32: 2.0**-20, torch.float64: 2.0**-44}
# The error of a rough product, relative to its result: eight bits of rounding, which mostly cancel.
_BFLOAT16 = 2.0**-10
_FAR = 1e15


def retract(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The orthogonal factor of a matrix that is nearly a multiple of an orthogonal one, for a few products:

        E = X'X / c^2 - I,   W = X / c (I - E/2 + 3/8 E^2), repeated until |E| is rounding      (X' where X is wide)

    It is :func:`barrow.ops.polar.polar` to within 1e-5, without a graph, at a tenth of its cost after the step of an
    optimiser; where X is far from orthogonal it calls that function. Singular values are a few units of rounding below
    one, so that the result is a contraction. A multiple of an orthogonal matrix is only divided, c W always giving the
    same bits: that is what makes resumed runs repeat themselves.

    Args:
        X: (..., m, n) of a floating dtype; half precision is computed in float32 and rounded at the end.

    Returns:
        W (..., m, n); c W, the multiple that X is moved to; and c, the mean singular value of X, (..., 1, 1). All
        detached; W is what this function makes of c W, to the last bit. An X that is not finite, or whose c is beyond
        1e15 or below 1e-15, stays where it is, and its c is told as 0.

    >>> W, moved, c = retract(3 * (torch.eye(3) + 0.1))
    >>> torch.dist(W @ W.T, torch.eye(3)) < 1e-5, c.flatten().round(decimals=2)
    (tensor(True), tensor([3.3000]))
    >>> torch.equal(retract(moved)[0], W)
    True

    Source: Björck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix", SIAM J.
    Numer. Anal. 8, 1971, section 2, of which this is the series to second order.
    """
    with torch.no_grad(), torch.autocast(X.device.type, enabled=False):
        X = X.detach()
        if X.numel() == 0:
            return X, X, X.new_ones(*X.shape[:-2], 1, 1)
        Z = X if X.dtype in _EXACT else X.float()
        W = _normalised(Z)
        wide = X.shape[-2] < X.shape[-1]
        on_host = X.device.type == "cpu"
        found, kept = (_on_host if on_host else _on_device)(*((Z.mT, W.mT) if wide else (Z, W)))
        factor = found.mT if wide else found
        c = _mean(factor, Z)
        if on_host and kept.all():
            moved = Z
        else:
            # Neither vanished nor diverged; NaN and infinities are seen here too, as 0 times infinity is NaN.
            ordinary = (c > 1 / _FAR) & (c < _FAR)
            # In the layout of X, so that the sums of its norm are those of the next time.
            moved = torch.mul(factor, c, out=torch.empty_like(Z))
            again = _normalised(moved)
            c = torch.where(ordinary, _mean(again, moved), 0)
            if not on_host or not ordinary.all():
                moved, again = torch.where(ordinary, moved, Z), torch.where(ordinary, again, factor)
            if not on_host:
                moved, again = torch.where(kept, Z, moved), torch.where(kept, W, again)
            W = again
        return W.to(X.dtype), moved.to(X.dtype), c.to(X.dtype)


def _mean(W: Tensor, X: Tensor) -> Tensor:
    """The mean singular value of X, whose factor is W."""
    inner: Tensor = torch.linalg.vecdot(W.flatten(-2), X.flatten(-2))
    return inner[..., None, None] / min(X.shape[-2:])


def _normalised(X: Tensor) -> Tensor:
    """X divided by its size, which is all there is to do to a multiple of an orthogonal matrix."""
    n = min(X.shape[-2:])
    size = _size(X) / (math.sqrt(n) * target(X.dtype, n))
    Z: Tensor = X / size if X.dtype == torch.float64 else X * (1 / size).to(X.dtype)
    return Z


def _size(X: Tensor) -> Tensor:
    """The Frobenius norm (..., 1, 1), in float64 where there is one: a million squares in float32 lose two digits."""
    wide = torch.float32 if X.device.type == "mps" else torch.float64
    piece = math.gcd(X.shape[-2] * X.shape[-1], 1024)
    if X.dtype == torch.float32 and piece >= 64:
        # Short pieces lose none, and need no copy of the whole in float64.
        X = torch.linalg.vector_norm(X.flatten(-2).unflatten(-1, (-1, piece)), dim=-1).unsqueeze(-1)
    size: Tensor = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, dtype=wide)
    return size


def tangent(W: Tensor, G: Tensor) -> Tensor:
    """The derivative of the polar factor at an orthogonal W, applied to a gradient: its part along the manifold,

        G - W (W'G + G'W) / 2     (W'W = I; for a wide W its transpose)

    Args:
        W: (..., m, n), orthogonal.
        G: (..., m, n), the gradient with respect to W.

    >>> tangent(torch.eye(2), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    tensor([[ 0.,  1.],
            [-1.,  0.]])

    Source: Edelman, Arias, Smith, "The geometry of algorithms with orthogonality constraints", SIAM J. Matrix Anal.
    Appl. 20, 1998, section 2.2.1.
    """
    if W.shape[-2] < W.shape[-1]:
        return tangent(W.mT, G.mT).mT
    A = W.mT @ G
    return G - W @ ((A + A.mT) / 2)


def _margin(dtype: torch.dtype, n: int) -> float:
    if dtype == torch.float32 and n >= _ROUGH_FROM:
        return _ROUGH_MARGIN * max(1.0, math.sqrt(n) / 64)
    return _MARGIN[dtype]


def target(dtype: torch.dtype, n: int) -> float:
    """The singular value that is aimed at: far enough below one for the rounding of Gram matrices of n columns."""
    return 1 - _margin(dtype, n)


def _excess(X: Tensor, t: float) -> Tensor:
    """E = X'X / t^2 - I."""
    E = _gram(X)
    E /= t * t
    E.diagonal(dim1=-2, dim2=-1).sub_(1)
    return E


def _gram(X: Tensor) -> Tensor:
    """X'X; of a large matrix only one triangle of blocks is multiplied."""
    n = X.shape[-1]
    if X.ndim > 2 or n < 512 or X.device.type != "cpu":
        return X.mT @ X
    A, size = X.new_empty(n, n), -(-n // 4)
    for i in range(0, n, size):
        torch.mm(X[:, i : i + size].mT, X[:, i:], out=A[i : i + size, i:])
        A[i + size :, i : i + size] = A[i : i + size, i + size :].mT
    return A


def _norm(E: Tensor) -> Tensor:
    """About the largest |eigenvalue| of symmetric matrices; it decides on effort only, and no proof hangs on it."""
    n = E.shape[-1]
    v = torch.cos(torch.arange(1, n + 1, dtype=E.dtype, device=E.device).square()).expand(*E.shape[:-2], n)
    for _ in range(6):
        v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(1e-30)
        v = (E @ v.unsqueeze(-1)).squeeze(-1)
    size: Tensor = torch.linalg.vector_norm(v, dim=-1)
    return 1.3 * size


def _orthogonal(E: Tensor) -> Tensor:
    """Whether matrices are as orthogonal as rounding lets them be, and below one."""
    n, dtype = E.shape[-1], E.dtype
    size, limit = torch.linalg.matrix_norm(E), 1.8 * _margin(dtype, n)
    surely: Tensor = size <= limit
    noise = size <= _NOISE[dtype] * math.sqrt(n)
    if E.device.type == "cpu" and not noise.any():
        return surely
    within: Tensor = surely | (noise & (_norm(E) <= limit))
    return within


def _times(X: Tensor, Y: Tensor, rough: bool) -> Tensor:
    return X.bfloat16() @ Y.bfloat16() if rough else X @ Y


def _on_host(given: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """The factor, made in place of X, and which of the matrices were left alone."""
    n, dtype = X.shape[-1], X.dtype
    t, goal = target(dtype, n), _GOAL * _margin(dtype, n)
    # Corrections are small, so their relative precision may be: what is left is seen by the next Gram matrix.
    rough = dtype == torch.float32 and n >= _ROUGH_FROM and has_rough_products(X.device)

    def left(size: float) -> float:
        return 0.3125 * size**3 + (_BFLOAT16 * size if rough else 0)

    E = _excess(X, t)
    kept = _orthogonal(E)
    far = False
    while not kept.all():
        size = float(torch.linalg.matrix_norm(E).max())
        if not left(size) < goal:
            size = min(size, float(_norm(E).max()))
            if not size < _SMALL:
                if far:  # the polar factor is as orthogonal as this dtype gets
                    break
                X, far = polar(given), True
                E = _excess(X, t)
                continue
        square = None
        # Without the square 0.75 E^2 is left of E: small enough, or it is if that is all that another step needs.
        if 0.375 * size**2 > 0.5 * goal and not (left(size) >= goal > left(0.75 * size**2 + 2 * left(size))):
            square = _times(E, E, rough)
        step = E.mul_(-0.5) if square is None else E.mul_(-0.5).add_(square, alpha=0.375)
        X = X.add_(_times(X, step, rough))
        if left(size) < goal:
            break
        E = _excess(X, t)
        if _orthogonal(E).all():
            break
    return X, kept


def _on_device(given: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """Always the polar factor in its fixed number of steps, and no wait for the host: what is orthogonal is kept."""
    kept = _orthogonal(_excess(X, target(X.dtype, X.shape[-1])))[..., None, None]
    return torch.where(kept, X, polar(given)), kept
