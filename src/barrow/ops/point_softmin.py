"""The soft minimum over the points of a cloud, as an operator that compilers see.

On CUDA it is one launch of a Triton kernel and stores no matrix; elsewhere it is the reference, block by block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from barrow.ops import distance, triton
from barrow.ops.chunks import row_ranges
from barrow.ops.softmin import softmin

__all__ = ["point_softmin"]


def point_softmin(x: Tensor, y: Tensor, h: Tensor, epsilon: Tensor | float, p: float = 2, norm: float = 2) -> Tensor:
    """The soft minimum -epsilon log sum_j exp((h_j - |x_i - y_j|_norm^p) / epsilon).

    Choose it inside compiled functions and on devices; it is what `Points.softmin` means. It has no gradient: values
    of transport have theirs from the plan (the envelope theorem).

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        h: numbers (..., m) in float32 or float64, which is the precision of the result; -inf is an absent point.
        epsilon: positive, a number or one a problem (...).
        p: the exponent.
        norm: the ground norm, 1, 2 or inf.

    Returns:
        (..., n), +inf where no point is present.

    Raises:
        RuntimeError: a gradient is asked for.

    >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    >>> point_softmin(x, y, torch.zeros(1), 0.5)
    tensor([25.])
    """
    if isinstance(epsilon, Tensor):
        strengths = epsilon.to(h)
    else:  # filled on the device: a copy from the host would wait
        strengths = torch.full((), float(epsilon), dtype=h.dtype, device=h.device)
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], h.shape[:-1], strengths.shape)
    B = math.prod(batch)

    def flat(t: Tensor) -> Tensor:
        # A cloud that all problems share stays shared.
        return t if t.dim() == 2 else t.expand(*batch, *t.shape[-2:]).reshape(B, *t.shape[-2:])

    u = flat(x)
    v = u if y is x else flat(y)
    weights = h.expand(*batch, h.shape[-1]).reshape(B, h.shape[-1])
    result: Tensor = _point_softmin(u, v, weights, strengths.expand(batch).reshape(B), float(p), float(norm))
    return result.reshape(*batch, x.shape[-2])


@torch.library.custom_op("barrow::point_softmin", mutates_args=())
def _point_softmin(x: Tensor, y: Tensor, h: Tensor, epsilon: Tensor, p: float, norm: float) -> Tensor:
    with torch.autocast(h.device.type, enabled=False), torch.no_grad():
        if triton.reaches(h) and h.numel() and h.dtype in (torch.float32, torch.float64):
            from barrow.ops.triton.clouds import guard, lay_out
            from barrow.ops.triton.softmin import softmin as on_device

            seen = None if h.shape[0] != 1 and y.dim() == 2 else h > -torch.inf
            with guard(h):
                return on_device(lay_out(x, y, p, norm, dtype=h.dtype, seen=(None, seen)), h, epsilon).clone()
        x, y = x.to(h.dtype), y.to(h.dtype)
        n, m = x.shape[-2], y.shape[-2]
        blocks = [
            softmin(distance.all_pairs(x[..., i:j, :], y, p, norm), h, epsilon)
            for i, j in row_ranges(n, h.shape[0] * m)
        ]
        return torch.cat(blocks, -1) if blocks else h.new_empty(h.shape[0], 0)


@_point_softmin.register_fake
def _(x: Tensor, y: Tensor, h: Tensor, epsilon: Tensor, p: float, norm: float) -> Tensor:
    return h.new_empty(h.shape[0], x.shape[-2])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _no_gradient(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "point_softmin has no gradient: take that of the transport value, which follows from its plan, or detach the "
        "points and the potential"
    )


_point_softmin.register_autograd(_no_gradient, setup_context=_setup)


@_point_softmin.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor, h: Tensor, epsilon: Tensor, p: float, norm: float
) -> tuple[Tensor, int]:
    size = info.batch_size

    def front(t: Tensor, at: int | None, keep: int) -> Tensor:
        t = t.expand(size, *t.shape) if at is None else t.movedim(at, 0)
        if t.dim() == keep + 1:  # a cloud that was shared within the mapped call
            t = t[:, None]
        return t

    u, v = front(x, in_dims[0], 2), front(y, in_dims[1], 2)
    return point_softmin(u, v, front(h, in_dims[2], 1), front(epsilon, in_dims[3], 0), p, norm), 0
