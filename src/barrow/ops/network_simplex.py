"""The network simplex: exact transport plans and potentials, on the CPU, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from barrow import _core


class SimplexResult(NamedTuple):
    """A basis of the transportation problem, its flow and its potentials.

    The n + m - 1 basic arcs are ``rows``, ``cols`` with ``mass``, padded with row = col = 0 and mass = 0 where weights
    are zero. Their mass has the marginals a and b whatever ``code`` says; it lies on a forbidden pair exactly when no
    plan without one was found. ``f`` and ``g`` are finite everywhere; f_i + g_j <= C_ij holds if ``code`` is OPTIMAL.
    """

    rows: Tensor
    cols: Tensor
    mass: Tensor
    f: Tensor
    g: Tensor
    code: Tensor
    steps: Tensor


OPTIMAL, STEP_LIMIT, STALLED, INFEASIBLE, TIME_LIMIT = 0, 1, 2, 3, 9

_Seven = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def network_simplex(a: Tensor, b: Tensor, C: Tensor, *, max_steps: int | None = None) -> SimplexResult:
    """Minimise sum_ij C_ij P_ij over P >= 0 with marginals a and b, for every problem of a batch.

    A primal simplex on spanning trees. Weights become integers of 60 bits, so that flows are exact, and the trees stay
    strongly feasible, so that ties cannot make it cycle. Problems of a batch share the threads of
    ``torch.get_num_threads()``.

    Args:
        a: weights (B, n) >= 0, float64, on the CPU. Zeros are free: their arcs are never looked at.
        b: weights (B, m) >= 0 with the same sums as a, up to rounding.
        C: costs (B, n, m), +inf where transport is forbidden. An expanded batch dimension is not copied.
        max_steps: a bound on the pivots of each problem. The flow at the bound is still a plan: an upper bound.

    Source: Cunningham, A network simplex method, Mathematical Programming 11, 1976.

    >>> half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    >>> C = torch.tensor([[[1.0, 4.0], [0.0, 1.0]]], dtype=torch.float64)
    >>> result = network_simplex(half, half, C)
    >>> (C[0][result.rows, result.cols] * result.mass).sum().item()
    1.0
    """
    # What the solution depends on is differentiated by the envelope theorem, never through the pivots.
    given = (t.detach() for t in (a, b, C))
    return SimplexResult(*_dense(*given, -1 if max_steps is None else max(0, max_steps)))


def network_simplex_arcs(
    a: Tensor, b: Tensor, rows: Tensor, cols: Tensor, cost: Tensor, *, max_steps: int | None = None
) -> SimplexResult:
    """The network simplex on a list of allowed arcs, for one problem; the result has no batch dimension.

    Args:
        a: weights (n,) >= 0, float64, on the CPU.
        b: weights (m,) >= 0 with the same sum as a, up to rounding.
        rows: the row of every arc (K,), int64, in any order.
        cols: the column of every arc (K,), int64.
        cost: the cost of every arc (K,), +inf where forbidden. Of parallel arcs the cheapest counts.
        max_steps: a bound on the pivots.

    Raises:
        ValueError: an arc leads to a row or column that does not exist.

    f_i + g_j <= cost_ij holds on the arcs given, not elsewhere. If they admit no plan, ``code`` is INFEASIBLE and some
    of the mass lies on pairs that are not in the list.
    """
    given = (t.detach() for t in (a, b, rows, cols, cost))
    return SimplexResult(*_arcs(*given, -1 if max_steps is None else max(0, max_steps)))


def room(batch: int, a: Tensor, n: int, m: int) -> _Seven:
    """Uninitialised tensors for a result."""
    arcs = max(0, n + m - 1)
    return (
        a.new_empty((batch, arcs), dtype=torch.int64),
        a.new_empty((batch, arcs), dtype=torch.int64),
        a.new_empty((batch, arcs), dtype=torch.float64),
        a.new_empty((batch, n), dtype=torch.float64),
        a.new_empty((batch, m), dtype=torch.float64),
        a.new_empty((batch,), dtype=torch.int64),
        a.new_empty((batch,), dtype=torch.int64),
    )


def solve_now(
    a: Tensor,
    b: Tensor,
    C: Tensor,
    *,
    max_steps: int | None = None,
    seconds: float = math.inf,
    listener: Callable[[str, int, int], object] | None = None,
    g: Tensor | None = None,
    arcs: tuple[Tensor, Tensor, Tensor] | None = None,
) -> SimplexResult:
    """:func:`network_simplex` past torch's dispatcher, for callers that neither compile nor vmap.

    The dispatcher of a custom operator costs 0.1 ms a call, and a second at the first, when it imports the compiler.

    Args:
        a: as there.
        b: as there.
        C: as there.
        max_steps: as there.
        seconds: the flow after so many seconds is returned likewise, with ``code`` TIME_LIMIT.
        listener: told ("pivots", done, -1) about ten times a second, or ("problems", done, B) of a batch. What it
            raises ends the work and is raised here.
        g: potentials (B, m) that the first basis is greedy under; any numbers, float64, on the CPU.
        arcs: rows, cols and mass (B, k) of a plan that the first basis follows as far as it can; any indices and
            numbers. From its own result, with these weights, no pivot is left to do.
    """
    limit = -1 if max_steps is None else max(0, max_steps)
    return SimplexResult(*_kernel(a, b, C, limit, seconds, listener, g, arcs))


def _kernel(
    a: Tensor,
    b: Tensor,
    C: Tensor,
    max_steps: int,
    seconds: float = math.inf,
    listener: Callable[[str, int, int], object] | None = None,
    g: Tensor | None = None,
    arcs: tuple[Tensor, Tensor, Tensor] | None = None,
) -> _Seven:
    out = room(a.shape[0], a, a.shape[1], b.shape[1])
    if C.shape[0] > 1 and C.stride(0) == 0:
        C = C[:1]  # one matrix for all: the core reads it with stride 0
    no, none = a.new_empty((0, 0)), a.new_empty((0, 0), dtype=torch.int64)
    i, j, mass = (none, none, no) if arcs is None else arcs
    _core.network_simplex(
        a.contiguous(),
        b.contiguous(),
        C.contiguous(),
        max_steps,
        torch.get_num_threads(),
        seconds,
        listener,
        no if g is None else g.contiguous(),
        i.contiguous(),
        j.contiguous(),
        mass.contiguous(),
        *out,
    )
    return out


def _limited(a: Tensor, b: Tensor, C: Tensor, max_steps: int) -> _Seven:
    return _kernel(a, b, C, max_steps)


_dense = torch.library.custom_op("barrow::network_simplex", _limited, mutates_args=(), device_types="cpu")


@_dense.register_fake
def _(a: Tensor, b: Tensor, C: Tensor, max_steps: int) -> _Seven:
    return room(a.shape[0], a, a.shape[1], b.shape[1])


@_dense.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], a: Tensor, b: Tensor, C: Tensor, max_steps: int) -> Any:
    # One batch dimension more is a longer batch.
    size = info.batch_size
    moved = [
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((a, b, C), in_dims[:3], strict=True)
    ]
    a, b, C = (t.flatten(0, 1) for t in moved)
    return tuple(t.unflatten(0, (size, -1)) for t in _dense(a, b, C, max_steps)), (0,) * 7


@torch.library.custom_op("barrow::network_simplex_arcs", mutates_args=(), device_types="cpu")
def _arcs(a: Tensor, b: Tensor, rows: Tensor, cols: Tensor, cost: Tensor, max_steps: int) -> _Seven:
    out = room(1, a, a.shape[0], b.shape[0])
    _core.network_simplex_arcs(
        a[None].contiguous(),
        b[None].contiguous(),
        rows.contiguous(),
        cols.contiguous(),
        cost.contiguous(),
        max_steps,
        *out,
    )
    for t in out:
        t.squeeze_(0)
    return out


@_arcs.register_fake
def _(a: Tensor, b: Tensor, rows: Tensor, cols: Tensor, cost: Tensor, max_steps: int) -> _Seven:
    rows_, cols_, mass, f, g, code, steps = room(1, a, a.shape[0], b.shape[0])
    return rows_[0], cols_[0], mass[0], f[0], g[0], code[0], steps[0]
