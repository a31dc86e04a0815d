"""Sweeps over all pairs of points in the C++ core: costs and c-transforms, on the CPU, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from barrow import _core

ALONE = 1 << 18  # numbers to look at below which one thread is faster than two


def swept(*tensors: Tensor) -> bool:
    """Whether the core may be handed these tensors: plain float64 on the CPU, and nobody who must see what is done to
    them: a gradient of either mode, a compiler, a tracer, vmap.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    ):
        return False
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return not recorded and all(
        t.dtype == torch.float64
        and t.device.type == "cpu"
        and type(t) is Tensor
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
        and forward_ad.unpack_dual(t).tangent is None
        for t in tensors
    )


def distances(x: Tensor, y: Tensor, p: float, norm: float) -> Tensor:
    """|x_i - y_j|_norm^p for x (..., n, d) and y (..., m, d): (..., n, m).

    >>> distances(torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double(), 1, 2)
    tensor([[5.]], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    out = x.new_empty((*batch, x.shape[-2], y.shape[-2]))
    if out.numel() == 0:
        return out
    size = math.prod(batch)
    _core.distances(
        _clouds(x, batch),
        _clouds(y, batch),
        p,
        norm,
        _threads(out.numel() * x.shape[-1]),
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
    out = x.new_empty((*batch, rows.shape[-1]))
    if out.numel() == 0:
        return out
    size = math.prod(batch)
    i, j = (t.expand(*batch, t.shape[-1]).reshape(size, -1).contiguous() for t in (rows, cols))
    work = out.numel() * x.shape[-1]
    _core.listed_costs(
        _clouds(x, batch), _clouds(y, batch), i, j, p, norm, _threads(work), out.view(size, out.shape[-1])
    )
    return out


def c_transform(x: Tensor, y: Tensor, h: Tensor, p: float, norm: float) -> Tensor:
    """min_j |x_i - y_j|_norm^p - h_j for h (..., m), -inf allowed: (..., n), in memory O(n + m).

    A sweep in single precision bounds every entry from below; only where that leaves room is an entry looked at in
    float64. The result is the minimum of the float64 entries.

    >>> c_transform(torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double(), torch.ones(1).double(), 1, 2)
    tensor([4.], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(h.shape[:-1], x.shape[:-2], y.shape[:-2])
    out = x.new_empty((*batch, x.shape[-2]))
    if out.numel() == 0:
        return out
    size = math.prod(batch)
    h = h.expand(*batch, h.shape[-1]).reshape(size, h.shape[-1]).contiguous()
    work = out.numel() * y.shape[-2] * x.shape[-1]
    _core.c_transform(_clouds(x, batch), _clouds(y, batch), h, p, norm, _threads(work), out.view(size, out.shape[-1]))
    return out


def _threads(work: int) -> int:
    return 1 if work < ALONE else torch.get_num_threads()


def _clouds(z: Tensor, batch: torch.Size) -> Tensor:
    """The same clouds with one batch dimension, of size 1 where one cloud serves all."""
    if z.dim() == 2:
        return z[None].contiguous()
    return z.expand(*batch, *z.shape[-2:]).reshape(math.prod(batch), *z.shape[-2:]).contiguous()
