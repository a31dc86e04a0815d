"""Transport on a line, and on many lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow import check
from barrow.functional.common import refuse_nonfinite, refuse_weights, root
from barrow.ops import chunks
from barrow.ops.known import known
from barrow.ops.line import line_cost
from barrow.solution import BadInput, Status


def wasserstein_1d(u: Tensor, v: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2) -> Tensor:
    """Exact Wasserstein distance W_p between weighted positions on a line, for any p >= 1.

        W_p = (integral over q in [0, 1] of |F_u^-1(q) - F_v^-1(q)|^p)^(1/p)

    Sorting is all it takes: one sort a side where there are no weights and n = m, else one walk along both sides more.
    For bins of a histogram, take :func:`emd_1d`.

    Args:
        u: positions (..., n), in any order.
        v: positions (..., m).
        a: weights (..., n), uniform unless given; zeros are legal.
        b: weights (..., m), of the same mass.
        p: exponent, at least 1.

    Returns:
        (...), differentiable once in positions and weights.

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

    Choose it for large clouds in high dimension when a cheap, smooth-enough loss will do: two sorts a direction, and
    memory for a block of directions, whatever their number. It is a random estimate: pass a generator to repeat it.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        a: weights (..., n), uniform unless given.
        b: weights (..., m), of the same mass.
        p: exponent, at least 1.
        n_projections: how many directions.
        generator: where the directions come from; torch's global generator unless given.

    Returns:
        (...), differentiable once in points and weights.

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
    a = None if a is None else check.weights("a", a, x.shape[-2], x, "x")
    b = None if b is None else check.weights("b", b, y.shape[-2], y, "y")
    check.batch(**_leading(x=x[..., 0], y=y[..., 0], a=a, b=b))
    _judge(a, b)
    home = x.device if generator is None else generator.device
    dtype = check.compute_dtype(x.dtype)
    # Drawn in one precision, so that a generator gives the same directions in every other.
    w = torch.randn(x.shape[-1], L, dtype=torch.float32, device=home, generator=generator).to(x.device, dtype)
    w = w / torch.linalg.vector_norm(w, dim=0)
    return root(_sliced_cost(x, y, a, b, w.mT, p), p).to(x.dtype)


def _line_cost(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float) -> Tensor:
    """W_p^p on a line for u (..., n), v (..., m): (...), in float64."""
    check.batch(**_leading(u=u, v=v, a=a, b=b))
    _judge(a, b)
    weights = [None if t is None else _plain(t) for t in (a, b)]
    found = line_cost(_plain(u), _plain(v), weights[0], weights[1], p, _wants(u, v, a, b))
    if bool(found.cost.isnan().any()):
        refuse_nonfinite(u=u, v=v)
    return known(found.cost, (u, v, a, b), found[1:])


def _sliced_cost(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, w: Tensor, p: float) -> Tensor:
    """Mean over directions w (L, d) of W_p^p between the clouds x (..., n, d) and y (..., m, d): (...), in float64.

    The gradient is found along with the value, so that no block of projections outlives its turn.
    """
    points, others = _plain(x), _plain(y)
    weights = [None if t is None else _plain(t)[..., None, :] for t in (a, b)]
    wants = _wants(x, y, a, b)
    size = math.prod(torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])) * (x.shape[-2] + y.shape[-2])
    sums: list[Tensor | None] = [None] * 5
    for directions in w.split(max(1, chunks.ENTRIES // 4 // max(1, size))):
        found = line_cost(directions @ points.mT, directions @ others.mT, weights[0], weights[1], p, wants)
        if bool(found.cost.isnan().any()):
            refuse_nonfinite(x=x, y=y)
            raise BadInput(f"a projection of x or y overflows {w.dtype}: {Status.not_finite.sentence}")
        parts: list[Tensor | None] = [found.cost.sum(-1)]
        parts += [None if s is None else s.mT @ directions for s in found[1:3]]
        parts += [None if s is None else s.sum(-2) for s in found[3:]]
        sums = [
            old if part is None else part if old is None else old.add_(part)
            for old, part in zip(sums, parts, strict=True)
        ]
    value, *slopes = (None if t is None else t / len(w) for t in sums)
    assert value is not None
    return known(value, (x, y, a, b), slopes)


def _leading(**tensors: Tensor | None) -> dict[str, torch.Size]:
    """The batch shapes of sides and their weights, (..., atoms), for a complaint."""
    return {f"of {name}": t.shape[:-1] for name, t in tensors.items() if t is not None}


def _judge(a: Tensor | None, b: Tensor | None) -> None:
    """Refuse weights that are none; a side without weights has mass 1."""
    like = b if a is None else a
    if like is not None:
        refuse_nonfinite(a=a, b=b)
        one, two = (like.new_ones(1) if w is None else w for w in (a, b))
        refuse_weights(one, two)


def _plain(t: Tensor) -> Tensor:
    return t.detach().to(check.compute_dtype(t.dtype))


def _wants(*sources: Tensor | None) -> tuple[bool, bool, bool, bool]:
    """Which sources need a gradient."""
    u, v, a, b = (t is not None and t.requires_grad and torch.is_grad_enabled() for t in sources)
    return u, v, a, b
