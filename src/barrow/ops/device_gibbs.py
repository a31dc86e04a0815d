"""The kernel of entropic transport, exp((u_i + v_j - C_ij) / epsilon), between clouds on a device: never stored.

What `barrow.ops.gibbs` does in the C++ core, by the kernels in Triton, in the dtype of u and v: float32 or float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from barrow.ops.triton.plan import Gibbs


def gibbs_times(x: Tensor, y: Tensor, u: Tensor, v: Tensor, epsilon: float, p: float, norm: float, V: Tensor) -> Tensor:
    """P V for x (..., n, d), y (..., m, d), u (..., n), v (..., m) and V (..., m, k): (..., n, k); -inf is no mass."""
    from barrow.ops.triton import plan
    from barrow.ops.triton.clouds import guard

    batch = torch.broadcast_shapes(_batch(x, y, u, v), V.shape[:-2])
    with guard(u):
        V = V if V.dim() == 2 else V.expand(*batch, *V.shape[-2:])
        found = plan.product(_laid(x, y, u, v, epsilon, p, norm, batch), V.reshape(-1, *V.shape[-2:]))
    return found.view(*batch, *found.shape[-2:])


def gibbs_marginals(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, epsilon: float, p: float, norm: float
) -> tuple[Tensor, Tensor]:
    """P 1 (..., n) and P' 1 (..., m) in one pass over all pairs."""
    from barrow.ops.triton import plan
    from barrow.ops.triton.clouds import guard

    batch = _batch(x, y, u, v)
    with guard(u):
        rows, cols = plan.marginals(_laid(x, y, u, v, epsilon, p, norm, batch))
    return rows.view(*batch, rows.shape[-1]), cols.view(*batch, cols.shape[-1])


def gibbs_vjp(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, epsilon: float, p: float, norm: float
) -> tuple[Tensor, Tensor]:
    """The gradient of sum_ij P_ij |x_i - y_j|_norm^p at fixed P in both clouds: (..., n, d), (..., m, d).

    At distance zero the gradient is zero. Coordinates that share the maximum of norm inf share the slope.
    """
    from barrow.ops.triton import plan
    from barrow.ops.triton.clouds import guard

    batch = _batch(x, y, u, v)
    with guard(u):
        sides = plan.gradient(_laid(x, y, u, v, epsilon, p, norm, batch))
    to_x, to_y = (t.view(*batch, *t.shape[-2:]) for t in sides)
    return to_x, to_y


def _batch(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> torch.Size:
    batch: torch.Size = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], u.shape[:-1], v.shape[:-1])
    return batch


def _laid(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, epsilon: float, p: float, norm: float, batch: torch.Size
) -> Gibbs:
    """The plans with one batch dimension, of clouds whose distances are taken from differences."""
    from barrow.ops.triton.clouds import lay_out
    from barrow.ops.triton.plan import Gibbs

    B = math.prod(batch)

    def points(t: Tensor) -> Tensor:
        return t if t.dim() == 2 else t.expand(*batch, *t.shape[-2:]).reshape(B, *t.shape[-2:])

    def numbers(t: Tensor) -> Tensor:
        return t.expand(*batch, t.shape[-1]).reshape(B, t.shape[-1])

    one, h, k = points(x), numbers(u), numbers(v)
    other = one if y is x else points(y)
    # Padding may lie anywhere; a cloud that all problems share is seen whole.
    seen = h > -torch.inf if x.dim() > 2 else None, k > -torch.inf if y.dim() > 2 else None
    laid = lay_out(one, other, p, norm, dtype=u.dtype, product="direct", seen=seen)
    return Gibbs.of(laid, h, k, torch.full((B,), epsilon, dtype=u.dtype, device=u.device))
