"""An orthogonal weight as a function of a raw parameter that is moved onto the manifold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from barrow.ops.once import once
from barrow.ops.polar import ONCE, Factors, polar_gradient
from barrow.ops.retraction import tangent

__all__ = ["OnManifold", "OrthogonalFactor"]


class OrthogonalFactor(torch.autograd.Function):
    """A known orthogonal factor W of raw; with a scale c, raw is c W, and the derivative is the projection over c.

    Otherwise it is that of :func:`barrow.ops.polar.polar` at raw, quicker where its factors are known.

    The context keeps tensors as attributes and not as saved tensors, which are gone after one backward pass.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, W: Tensor, scale: Tensor | None, factors: Factors | None) -> Tensor:
        ctx.raw, ctx.W, ctx.scale, ctx.factors, ctx.version = raw, W, scale, factors, raw._version
        ctx.set_materialize_grads(False)
        return W.view_as(W)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        (G,) = grads
        if G is None:
            return None, None, None, None
        if ctx.scale is None and ctx.raw._version != ctx.version:
            raise RuntimeError(
                "the raw weight of an orthogonal layer was modified in place between forward and backward: take the "
                "optimiser's step after the backward pass"
            )
        with torch.no_grad():
            if ctx.scale is None:
                found = polar_gradient(ctx.raw.detach(), ctx.W, G, ctx.factors)
            else:
                found = tangent(ctx.W, G / ctx.scale.to(G.dtype).squeeze())
        return (once((G, ctx.raw), (found,), ONCE)[0] if torch.is_grad_enabled() else found), None, None, None


class OnManifold(torch.autograd.Function):
    """x W' + b for a moved weight, raw = c W: its gradient from factors of the rank of the batch.

    With d the gradient of y = x W' and u = d W, the gradient of W is d'x, and its tangent part

        d'x - W (W' d'x + x'd W) / 2 = (d - u W' / 2)' x - y'u / 2      (W'W = I)
                                     = d' (x - y W / 2)  - y'u / 2      (W W' = I)

    is, over c, a product of rank 2 B instead of three with the whole matrix. Where the gradient will be differentiated
    it goes through W like any other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, raw: Tensor, scale: Tensor) -> Tensor:
        # With the bias inside, as without gradients: the values are those to the last bit.
        out = torch.nn.functional.linear(x, W, b)
        ctx.save_for_backward(x, W, out if b is None else out - b)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (d,) = grads
        x, W, y = ctx.saved_tensors
        flat = d.reshape(-1, d.shape[-1])
        b = flat.sum(0) if ctx.needs_input_grad[2] else None
        u = d @ W
        if torch.is_grad_enabled():
            return u, flat.mT @ x.reshape(-1, x.shape[-1]), b, None, None
        if not ctx.needs_input_grad[3]:
            return u, None, b, None, None
        return u, None, b, _tangent_of(flat, ctx.scale.to(d.dtype), x, W, y, u), None


def _tangent_of(d: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
    x, W, y, u = (t.reshape(-1, t.shape[-1]) for t in others)
    m, n = W.shape
    if m == n:
        d = d / 2
    elif m > n:
        d = torch.addmm(d, u, W.mT, alpha=-0.5)
    else:
        x = torch.addmm(x, y, W, alpha=-0.5)
    return (torch.cat((d, y.mul(-0.5))) / scale).mT @ torch.cat((x, u))
