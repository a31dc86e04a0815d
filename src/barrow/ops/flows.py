"""Sums of powers of the flows over the edges of a chain or a tree, in one pass."""

from __future__ import annotations

import atexit
import functools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

from barrow import _core
from barrow.ops.flow_reference import Loss, flow_loss_reference, flow_pull_reference
from barrow.ops.tree import Topology

__all__ = ["Loss", "flow_loss", "flow_loss_reference", "flow_pull_reference", "refuse_with"]

Refuse = Callable[[Tensor, Tensor, Tensor | None, bool, bool], None]
_REFUSE: list[Refuse] = []  # finds the words of the complaint: it stands in a module that imports this one


def refuse_with(refuse: Refuse) -> Refuse:
    """Register refuse(h, t, w, on a tree, normalise), which raises where they are no histograms and weights."""
    _REFUSE[:] = [refuse]
    return refuse


def flow_loss(h: Tensor, t: Tensor, w: Tensor | None, tree: Topology | None, loss: Loss) -> Tensor:
    """The sum over edges of unit w_i |phi_i|^exponent, phi_i being the sum of h_j - t_j over the bins up to i, or over
    the leaves below node i.

    On the CPU one pass over the batch forward, which judges the histograms on the way, and one backward that computes
    the flows again rather than reading them. On other devices, in half precision and in forward mode it is
    :func:`flow_loss_reference`.

    Args:
        h: (..., N) bins, or leaves of the tree.
        t: (..., N) of the same dtype, or int64 of shape h.shape[:-1]: where all of the mass, 1, lies.
        w: weights of the edges, (..., N - 1) or, on a tree, (..., nodes), the root's not being used; None for ones.
        tree: None for the chain.
        loss: what is summed.

    Returns:
        (...), differentiable in h, t and w as often as you like.

    >>> h = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    >>> flow_loss(h, torch.tensor(2), None, None, Loss(1.0)).backward()
    >>> h.grad
    tensor([2., 1., 0.])

    Source: Martinez, Haurilet, Al-Halah, Tapaswi and Stiefelhagen 2016, sections 3 and 4.
    """
    if torch.compiler.is_compiling():
        traced: Tensor = _flow(h, t, w, None if tree is None else tree.parent, *loss)
        return traced
    if stack := torch._C._functorch.get_interpreter_stack():
        kinds = {level.key() for level in stack}
        if TransformType.Jvp not in kinds:
            followed: Tensor = _Followed.apply(h, t, w, tree, loss)
            return followed
        if TransformType.Vmap not in kinds:  # torch cannot be asked about values under both
            _REFUSE[0](h, t, w, tree is not None, loss.normalise)
        return flow_loss_reference(h, t, w, tree, loss)
    if not _native(h, t, w) or _dual(h, t, w):
        _REFUSE[0](h, t, w, tree is not None, loss.normalise)
        return flow_loss_reference(h, t, w, tree, loss)
    out: Tensor = _Flow.apply(h, t, w, tree, loss)
    return out


# -- the C++ core ----------------------------------------------------------------------------------------------------

_TENSORS = (Tensor, torch.nn.Parameter)
_ARRANGED: weakref.WeakKeyDictionary[Topology, _core.FlowTree] = weakref.WeakKeyDictionary()
atexit.register(_ARRANGED.clear)  # nanobind complains of what outlives it


def _native(h: Tensor, t: Tensor, w: Tensor | None) -> bool:
    """Whether the C++ core takes these tensors."""
    return (
        h.device.type == "cpu"
        and h.dtype in (torch.float32, torch.float64)
        and type(h) in _TENSORS
        and type(t) in _TENSORS
        and (w is None or type(w) in _TENSORS)
    )


def _dual(*tensors: Tensor | None) -> bool:
    """Whether a derivative is carried forward along with the values."""
    return forward_ad._current_level >= 0 and any(
        t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


def _arranged(tree: Topology | None) -> _core.FlowTree | None:
    if tree is None:
        return None
    found = _ARRANGED.get(tree)
    if found is None:
        found = _ARRANGED[tree] = _core.FlowTree(tree.parent)
    return found


def _forward(
    h: Tensor, t: Tensor, w: Tensor | None, tree: Topology | None, arranged: _core.FlowTree | None, loss: Loss
) -> Tensor:
    """The losses, or a complaint."""
    h, t, w = h.detach(), t.detach(), w if w is None else w.detach()
    given, batch = _given(h, t, w)
    out = h.new_empty(batch)
    p, unit, normalise, tolerance = loss
    threads = torch.get_num_threads()
    if _core.flows(*given, arranged, p, unit, normalise, tolerance, threads, out.view(-1), None, None, None):
        return out
    _REFUSE[0](h, t, w, arranged is not None, normalise)
    return flow_loss_reference(h, t, w, tree, loss)  # a sum overflows


def _pull(
    seed: Tensor,
    h: Tensor,
    t: Tensor,
    w: Tensor | None,
    tree: Topology | None,
    arranged: _core.FlowTree | None,
    loss: Loss,
    wants: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What :func:`flow_pull_reference` computes."""
    h, t, w = h.detach(), t.detach(), w if w is None else w.detach()
    to_h = to_t = to_w = None
    if wants[2]:
        to_w = flow_pull_reference(seed, h, t, w, tree, loss, (False, False, True))[2]
    if wants[0] or wants[1]:
        given, batch = _given(h, t, w)
        size = h.shape[-1]
        to_h, to_t = (h.new_empty((*batch, size)) if wanted else None for wanted in wants[:2])
        p, unit, normalise, tolerance = loss
        threads = torch.get_num_threads()
        room = (None if to is None else to.view(-1, size) if to.numel() else to.view(0, size) for to in (to_h, to_t))
        seeds = seed.detach().expand(batch).reshape(-1).contiguous()
        if not _core.flows(*given, arranged, p, unit, normalise, tolerance, threads, None, seeds, *room):
            to_h, to_t, _ = flow_pull_reference(seed, h, t, w, tree, loss, (*wants[:2], False))
        to_h = to_h if to_h is None or to_h.shape == h.shape else to_h.sum_to_size(h.shape)
        to_t = to_t if to_t is None or to_t.shape == t.shape else to_t.sum_to_size(t.shape)
    return to_h, to_t, to_w


def _given(
    h: Tensor, t: Tensor, w: Tensor | None
) -> tuple[tuple[Tensor, Tensor | None, Tensor | None, Tensor | None], torch.Size]:
    """Histograms, places and weights as the core takes them, and the batch that they are broadcast to."""
    dense = t.is_floating_point()
    if h.dim() == 2 and h.shape == t.shape and w is None:  # the common case, which is short of time where it is small
        return (h.contiguous(), t.contiguous(), None, None), h.shape[:-1]
    batch = torch.broadcast_shapes(h.shape[:-1], t.shape[:-1] if dense else t.shape, () if w is None else w.shape[:-1])
    if not dense:
        at = t.expand(batch).reshape(-1).long().contiguous()
    rows, weights = _rows(h, batch), None if w is None else _rows(w, batch).double()
    return (rows, _rows(t, batch) if dense else None, None if dense else at, weights), batch


def _rows(t: Tensor, batch: torch.Size) -> Tensor:
    """(rows or 1, size), contiguous."""
    count = math.prod(t.shape[:-1])
    if count != 1 and t.shape[:-1] != batch:
        t, count = t.expand(*batch, t.shape[-1]), math.prod(batch)
    return t.reshape(count, t.shape[-1]).contiguous()


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, t: Tensor, w: Tensor | None, tree: Topology | None, loss: Loss) -> Tensor:
        ctx.save_for_backward(h, t, w)
        ctx.tree, ctx.loss = tree, loss
        return _forward(h, t, w, tree, _arranged(tree), loss)

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        h, t, w = ctx.saved_tensors
        wants = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return (*flow_pull_reference(seed, h, t, w, ctx.tree, ctx.loss, wants), None, None)
        return (*_pull(seed, h, t, w, ctx.tree, _arranged(ctx.tree), ctx.loss, wants), None, None)


# -- compilers and transforms: operators, which know a tree by its parents ---------------------------------------------


@functools.lru_cache(maxsize=32)
def _tree_of(parents: bytes, device: torch.device) -> Topology:
    return Topology.of(torch.frombuffer(bytearray(parents), dtype=torch.int64)).to(device)


def _tree(parent: Tensor | None) -> Topology | None:
    return None if parent is None else _tree_of(parent.cpu().numpy().tobytes(), parent.device)


@torch.library.custom_op("barrow::flow", mutates_args=())
def _flow(
    h: Tensor,
    t: Tensor,
    w: Tensor | None,
    parent: Tensor | None,
    exponent: float,
    unit: float,
    normalise: bool,
    tolerance: float,
) -> Tensor:
    tree, loss = _tree(parent), Loss(exponent, unit, normalise, tolerance)
    if _native(h, t, w):
        return _forward(h, t, w, tree, _arranged(tree), loss)
    _REFUSE[0](h, t, w, tree is not None, normalise)
    return flow_loss_reference(h, t, w, tree, loss)


@_flow.register_fake
def _(h: Tensor, t: Tensor, w: Tensor | None, *_: object) -> Tensor:
    return h.new_empty(_batch(h, t, w))


def _batch(h: Tensor, t: Tensor, w: Tensor | None) -> torch.Size:
    places = t.shape[:-1] if t.is_floating_point() else t.shape
    joint: torch.Size = torch.broadcast_shapes(h.shape[:-1], places, () if w is None else w.shape[:-1])
    return joint


@torch.library.custom_op("barrow::flow_pull", mutates_args=())
def _flow_pull(
    seed: Tensor,
    h: Tensor,
    t: Tensor,
    w: Tensor | None,
    parent: Tensor | None,
    exponent: float,
    unit: float,
    normalise: bool,
    tolerance: float,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    tree, loss = _tree(parent), Loss(exponent, unit, normalise, tolerance)
    if _native(h, t, w):
        found = _pull(seed, h, t, w, tree, _arranged(tree), loss, wants)
    else:
        found = flow_pull_reference(seed, h, t, w, tree, loss, wants)
    to_h, to_t, to_w = (h.new_empty(0) if to is None else to for to in found)
    return to_h, to_t, to_w


@_flow_pull.register_fake
def _(seed: Tensor, h: Tensor, t: Tensor, w: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    to_h, to_t, to_w = (
        h.new_empty(source.shape if wanted and source is not None else 0)
        for source, wanted in zip((h, t, w), rest[-1], strict=True)
    )
    return to_h, to_t, to_w


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.loss = inputs[4:]


def _backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
    h, t, w, parent = ctx.saved_tensors
    wants = list(ctx.needs_input_grad[:3])
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = flow_pull_reference(seed, h, t, w, _tree(parent), Loss(*ctx.loss), wants)
    else:
        found = _flow_pull(seed, h, t, w, parent, *ctx.loss, wants)
    grads = (to if wanted else None for to, wanted in zip(found, wants, strict=True))
    return (*grads, *[None] * 5)


_flow.register_autograd(_backward, setup_context=_setup)


class _Followed(torch.autograd.Function):
    """The operator for torch.func, which does not know the gradients of operators."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, t: Tensor, w: Tensor | None, tree: Topology | None, loss: Loss) -> Tensor:
        out: Tensor = _flow(h, t, w, None if tree is None else tree.parent, *loss)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.tree, ctx.loss = inputs[3:]

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        h, t, w = ctx.saved_tensors
        wants = [x is not None and x.is_floating_point() for x in (h, t, w)]
        return (*flow_pull_reference(seed, h, t, w, ctx.tree, Loss(*ctx.loss), wants), None, None)


def _aligned(
    info: Any, tensors: Sequence[Tensor | None], dims: Sequence[int | None], keep: Sequence[int]
) -> list[Tensor | None]:
    """All with the mapped dimension first and as many others as the one that has most, so that they broadcast."""
    given = [(t, d, k) for t, d, k in zip(tensors, dims, keep, strict=True) if t is not None]
    rank = max(t.dim() - k - (d is not None) for t, d, k in given)
    out: list[Tensor | None] = []
    for t, d, k in zip(tensors, dims, keep, strict=True):
        if t is not None:
            t = t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            t = t.reshape(t.shape[0], *[1] * (rank - (t.dim() - k - 1)), *t.shape[1:])
        out.append(t)
    return out


@_flow.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    keep = (1, int(args[1].is_floating_point()), 1)
    h, t, w = _aligned(info, args[:3], in_dims[:3], keep)
    assert in_dims[3] is None, "trees differ in their lengths only"
    return _flow(h, t, w, *args[3:]), 0


@_flow_pull.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    keep = (0, 1, int(args[2].is_floating_point()), 1)
    seed, *given = _aligned(info, args[:4], in_dims[:4], keep)
    found = _flow_pull(seed, *given, *args[4:])
    shaped = []
    for to, source, d, wanted in zip(found, args[1:4], in_dims[1:4], args[-1], strict=True):
        if not wanted:
            shaped.append(to.expand(info.batch_size, 0))
        else:
            own = source.shape if d is None else source.movedim(d, 0).shape[1:]
            shaped.append(to.reshape(info.batch_size, *own))
    return tuple(shaped), (0, 0, 0)
