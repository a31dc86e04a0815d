"""Layers that store raw parameters and multiply by a function of them, computed once a step."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barrow.ops.polar import Factors

__all__ = ["DerivedWeight"]

_State = tuple[object, ...]
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DerivedWeight(nn.Module, abc.ABC):
    """A layer whose weight is a differentiable function of raw parameters: all of its own but `bias`.

    A subclass implements :meth:`derive`; everybody else reads :attr:`weight`, which derives again only when a raw
    parameter has changed: through an optimiser, `load_state_dict`, averaging, another device or dtype, and on the CPU
    also through `.data`, behind autograd's back, since there the numbers themselves are looked at. On other devices
    that would make the host wait; a write through `.data` is seen there only if it replaces the storage. Nothing is
    cached inside `torch.compile`, `torch.func` and its relatives, nor carried by copies and pickles.

    Several accesses of a step share one node of the graph, so that the derivation is differentiated once a backward
    pass; any number of backward passes may go through it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.derived = Derived()

    @abc.abstractmethod
    def derive(self) -> Tensor:
        """The weight from the present raw parameters; differentiable in them."""

    def raws(self) -> tuple[Tensor, ...]:
        """What the weight is a function of."""
        return tuple(p for name, p in self._parameters.items() if p is not None and name != "bias")

    @property
    def weight(self) -> Tensor:
        """What inputs are multiplied by; differentiable once."""
        raws = self.raws()
        return self._current(raws) if cacheable(raws) else self.derive()

    def _current(self, raws: tuple[Tensor, ...]) -> Tensor:
        cache = self.derived
        fresh = cache.describes(raws)
        if not (torch.is_grad_enabled() and any(raw.requires_grad for raw in raws)):
            if not fresh:
                with torch.no_grad(), torch.inference_mode(False):
                    cache.keep(raws, self.derive().detach())
            return cache.value
        if not fresh or cache.node is None:
            with torch.inference_mode(False):
                local = self.derive()
                cache.keep(raws, local.detach())
                cache.node = _Shared.apply((local,), *raws)
        assert cache.node is not None
        return cache.node


class Derived:
    """What was derived, and from which state of the raw parameters; copies begin empty."""

    def __init__(self) -> None:
        self._raws: tuple[Tensor, ...] = ()
        self._state: _State = ()
        self._seen = b""
        self.value = torch.empty(0)
        self.node: Tensor | None = None
        self.scale = torch.ones(())  # mean singular value of the raw parameter, where the value is orthogonal
        self.factors: Factors | None = None  # where the gradient of an orthogonal value is quicker with them
        self.moved_to: Tensor | None = None  # scale times the value, where the raw parameter may go
        self.moved = False  # it is there

    def __deepcopy__(self, memo: Any) -> Derived:
        return Derived()

    def __reduce__(self) -> tuple[type[Derived], tuple[()]]:
        return Derived, ()

    def describes(self, raws: Sequence[Tensor]) -> bool:
        """Whether the value belongs to the raw parameters as they are now."""
        same = len(raws) == len(self._raws) and all(raw is kept for raw, kept in zip(raws, self._raws, strict=True))
        return same and self._state == _state(raws) and self._seen == _look(raws)

    def keep(
        self,
        raws: Sequence[Tensor],
        value: Tensor,
        scale: Tensor | None = None,
        *,
        factors: Factors | None = None,
        moved_to: Tensor | None = None,
        moved: bool = False,
    ) -> None:
        """Remember what was derived from the raw parameters as they are now."""
        self._raws, self._state, self._seen = tuple(raws), _state(raws), _look(raws)
        self.value, self.node = value, None
        self.factors, self.moved_to, self.moved = factors, moved_to, moved
        if scale is not None:
            self.scale = scale


def cacheable(raws: Sequence[Tensor]) -> bool:
    """Whether these are true parameters rather than what a compiler or a transform puts in their place."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(raw) is nn.Parameter and not raw.is_inference() and raw.device.type != "meta" for raw in raws)


def _state(raws: Sequence[Tensor]) -> _State:
    return tuple(part for raw in raws for part in (raw._version, raw.data_ptr(), raw.dtype, raw.device))


def _look(raws: Sequence[Tensor]) -> bytes:
    """Two sums a row: of the bits, which sees the last of them, and of waves, which sees places.

    Whoever writes behind autograd's back changes one of them.
    """
    seen = []
    for raw in raws:
        if raw.device.type == "cpu" and raw.numel():
            rows = raw.detach().contiguous()
            rows = rows.view(1, -1) if rows.ndim < 2 else rows.flatten(1)
            wave = (rows @ _wave(rows.shape[1], rows.dtype)).view(_BITS[raw.element_size()])
            seen += [rows.view(wave.dtype).sum(1).numpy().tobytes(), wave.numpy().tobytes()]
    return b"".join(seen)


@functools.lru_cache(maxsize=64)
def _wave(n: int, dtype: torch.dtype) -> Tensor:
    return torch.cos(torch.arange(1, n + 1, dtype=torch.float64).square()).to(dtype)


class _Shared(torch.autograd.Function):
    """The derived weight as a function of the raw parameters, through a graph that is kept as long as the weight."""

    @staticmethod
    def forward(ctx: Any, box: tuple[Tensor], *raws: Tensor) -> Tensor:
        # In a box, or the outer backward pass would walk into its graph, and free it.
        ctx.local, ctx.raws = box[0], raws
        ctx.set_materialize_grads(False)
        return box[0].detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (G,) = grads
        if G is None:
            return (None,) * (1 + len(ctx.raws))
        wanted = [raw for raw in ctx.raws if raw.requires_grad]
        found = iter(torch.autograd.grad(ctx.local, wanted, G, retain_graph=True, create_graph=torch.is_grad_enabled()))
        return None, *(next(found) if raw.requires_grad else None for raw in ctx.raws)
