"""Transport on a line, and on many lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow import check
from barrow.functional.common import power, refuse_nonfinite, refuse_weights, root
from barrow.ops import chunks
from barrow.ops.staircase import staircase


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
    return root(_line_cost(u, v, a, b, p), p).to(u.dtype)


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
    block = max(1, chunks.ENTRIES // max(1, size))
    total = x.new_zeros((), dtype=dtype)
    for directions in w.split(block, -1):
        u, v = ((t.to(dtype) @ directions).mT for t in (x, y))
        total = total + _line_cost(u, v, a, b, p).sum(-1)
    return root(total / L, p).to(x.dtype)


def _line_cost(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float) -> Tensor:
    """W_p^p on a line for u (..., n), v (..., m): (...), in at least float32."""
    n, m = u.shape[-1], v.shape[-1]
    shapes = {"of u": u.shape[:-1], "of v": v.shape[:-1]}
    shapes |= {f"of {name}": w.shape[:-1] for name, w in (("a", a), ("b", b)) if w is not None}
    batch = check.batch(**shapes)
    refuse_nonfinite(u=u, v=v, a=a, b=b)
    u, v = (t.to(check.compute_dtype(t.dtype)) for t in (u, v))
    if a is None and b is None and n == m:
        return power(u.sort(-1).values - v.sort(-1).values, p).mean(-1)
    a = u.new_full((n,), 1 / n) if a is None else a
    b = v.new_full((m,), 1 / m) if b is None else b
    refuse_weights(a, b)
    u, v, a, b = (t.expand(*batch, t.shape[-1]) for t in (u, v, a, b))
    # Cumulative weights are compared in float64: in float32 the rounding of 1/n adds up to whole cells.
    a, b = a.double(), b.double()
    b = b * (a.detach().sum(-1, keepdim=True) / b.detach().sum(-1, keepdim=True))
    u, u_order = u.sort(-1)
    v, v_order = v.sort(-1)
    path = staircase(a.gather(-1, u_order), b.gather(-1, v_order))
    distance = power(u.gather(-1, path.rows) - v.gather(-1, path.cols), p)
    return (path.mass.to(u.dtype) * distance).sum(-1)
