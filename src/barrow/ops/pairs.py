"""Sweeps over all pairs of points in the C++ core: costs and c-transforms, on the CPU.

Points may be stored in float32 or float64; everything computed from them is float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow import _core
from barrow.ops.plain import plain

ALONE = 1 << 18  # numbers to look at below which one thread is faster than two


def swept(*tensors: Tensor) -> bool:
    """Whether the core may be handed these tensors: float32 or float64 on the CPU, of one dtype, and plain."""
    dtype = tensors[0].dtype
    return (
        dtype in (torch.float32, torch.float64)
        and all(t.dtype == dtype and t.device.type == "cpu" for t in tensors)
        and plain(*tensors)
    )


def distances(x: Tensor, y: Tensor, p: float, norm: float) -> Tensor:
    """|x_i - y_j|_norm^p for x (..., n, d) and y (..., m, d): (..., n, m).

    >>> distances(torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double(), 1, 2)
    tensor([[5.]], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    out = _room(*batch, x.shape[-2], y.shape[-2])
    if out.numel() == 0:
        return out
    size = math.prod(batch)
    _core.distances(
        one_batch(x, batch),
        one_batch(y, batch),
        p,
        norm,
        threads_for(out.numel() * x.shape[-1]),
        out.view(size, *out.shape[-2:]),
    )
    return out


def listed(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, p: float, norm: float) -> Tensor:
    """|x_i - y_j|_norm^p for listed pairs: x (..., n, d), y (..., m, d), rows and cols (..., k) -> (..., k).

    >>> i, j = torch.tensor([0]), torch.tensor([1])
    >>> listed(torch.zeros(1, 2).double(), torch.eye(2).double(), i, j, 2, 2)
    tensor([1.], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], rows.shape[:-1])
    out = _room(*batch, rows.shape[-1])
    if out.numel() == 0:
        return out
    size = math.prod(batch)
    i, j = (t.expand(*batch, t.shape[-1]).reshape(size, -1).contiguous() for t in (rows, cols))
    work = out.numel() * x.shape[-1]
    _core.listed_costs(
        one_batch(x, batch), one_batch(y, batch), i, j, p, norm, threads_for(work), out.view(size, out.shape[-1])
    )
    return out


def c_transform(x: Tensor, y: Tensor, h: Tensor, p: float, norm: float, where: Tensor | None = None) -> Tensor:
    """min_j |x_i - y_j|_norm^p - h_j for h (..., m), -inf allowed: (..., n), in memory O(n + m).

    A sweep in single precision bounds every entry from below; only where that leaves room is an entry looked at in
    float64. The result is the minimum of the float64 entries. Where ``where`` (..., n) is false it may be anything.

    >>> c_transform(torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double(), torch.ones(1).double(), 1, 2)
    tensor([4.], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(h.shape[:-1], x.shape[:-2], y.shape[:-2])
    out = _room(*batch, x.shape[-2])
    if out.numel() == 0:
        return out
    size = math.prod(batch)
    h = h.expand(*batch, h.shape[-1]).reshape(size, h.shape[-1]).contiguous()
    work = out.numel() * y.shape[-2] * x.shape[-1]
    wanted = None if where is None else where.expand(*batch, where.shape[-1]).reshape(size, -1).contiguous()
    _core.c_transform(
        one_batch(x, batch), one_batch(y, batch), h, p, norm, wanted, threads_for(work), out.view(size, out.shape[-1])
    )
    return out


def matrix_c_transform(C: Tensor, h: Tensor) -> Tensor:
    """min_j C_ij - h_j for C (..., n, m), +inf allowed, and h (..., m), -inf allowed: (..., n). Nothing is copied.

    >>> matrix_c_transform(torch.tensor([[1.0, 3.0]]).double(), torch.tensor([0.0, 5.0]).double())
    tensor([-2.], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(h.shape[:-1], C.shape[:-2])
    n, m = C.shape[-2:]
    size = math.prod(batch)
    out = _room(size, n)
    if out.numel():
        columns = not C.is_contiguous() and C.mT.is_contiguous()
        C = C.mT if columns else C
        C = C[None] if C.dim() == 2 else C.expand(*batch, *C.shape[-2:]).reshape(size, *C.shape[-2:])
        h = h.expand(*batch, m).reshape(size, m)
        _core.matrix_c_transform(C.contiguous(), h.contiguous(), columns, threads_for(size * n * m), out)
    return out.view(*batch, n)


def extent(x: Tensor, y: Tensor, p: float, norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """The cost across the box around both clouds (...), and between its middle and their points: (..., n), (..., m).

    The first is NaN unless all coordinates are finite.

    >>> extent(torch.zeros(1, 2).double(), torch.tensor([[6.0, 8.0]]).double(), 1, 2)[:2]
    (tensor(10., dtype=torch.float64), tensor([5.], dtype=torch.float64))
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    size, n, m = math.prod(batch), x.shape[-2], y.shape[-2]
    largest, to_x, to_y = _room(size), _room(size, n), _room(size, m)
    if size:
        threads = threads_for(size * (n + m) * x.shape[-1])
        _core.extent(one_batch(x, batch), one_batch(y, batch), p, norm, threads, largest, to_x, to_y)
    return largest.view(batch), to_x.view(*batch, n), to_y.view(*batch, m)


def threads_for(work: int) -> int:
    """Threads for so much to look at: one where others would come too late."""
    return 1 if work < ALONE else torch.get_num_threads()


def one_batch(z: Tensor, batch: torch.Size) -> Tensor:
    """The same clouds with one batch dimension, of size 1 where one cloud serves all."""
    if z.dim() == 2:
        return z[None].contiguous()
    return z.expand(*batch, *z.shape[-2:]).reshape(math.prod(batch), *z.shape[-2:]).contiguous()


def _room(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)
