"""Transport between clouds on a line: sort both sides, walk along both."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from barrow import _core
from barrow.ops.staircase import Staircase, in_units, staircase, staircase_potentials


class LineCost(NamedTuple):
    """Costs (...) in float64, and their gradients to positions and weights, (..., n) and (..., m), where asked for.

    Gradients to weights are potentials, of which each side carries half of the cost. Everything is NaN where a position
    is NaN or infinite.
    """

    cost: Tensor
    u: Tensor | None
    v: Tensor | None
    a: Tensor | None
    b: Tensor | None


class LinePlan(NamedTuple):
    """A monotone coupling: ``rows``, ``cols`` and ``mass`` (B, n + m - 1), with potentials f (B, n) and g (B, m)."""

    rows: Tensor
    cols: Tensor
    mass: Tensor
    f: Tensor
    g: Tensor


Wants = tuple[bool, bool, bool, bool]  # gradients to u, v, a, b
_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def line_cost(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float, wants: Wants) -> LineCost:
    """sum_ij P_ij |u_i - v_j|^p for the monotone coupling P, on any device.

    Uniform weights and n = m cost one sort a side; weights, or n != m, one walk along both sides more. Rows that are
    broadcast are sorted once. Not differentiable: the gradient is an output.

    Args:
        u: positions (..., n), float32 or float64.
        v: positions (..., m).
        a: weights (..., n) >= 0, uniform with sum 1 unless given.
        b: weights (..., m) >= 0 of the same sums.
        p: exponent, at least 1.
        wants: which gradients to return: to u, to v, to a, to b.

    >>> u, v = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 7.0])
    >>> found = line_cost(u, v, None, None, 2.0, (True, False, False, False))
    >>> found.cost, found.u
    (tensor(8.5000, dtype=torch.float64), tensor([-4., -1.]))

    Source: Peyre and Cuturi, Computational Optimal Transport, section 2.6.
    """
    u, v = u.detach(), v.detach()
    a, b = (None if w is None else w.detach() for w in (a, b))
    if not _native(u, v):
        return line_cost_reference(u, v, a, b, p, wants)
    # Only a compiler needs the operator: its dispatcher costs 0.1 ms a call, and a second at the first.
    run = _line_cost if torch.compiler.is_compiling() else _line_cost_now
    return _asked(run(u, v, a, b, p, list(wants)), wants)


def line_cost_reference(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float, wants: Wants) -> LineCost:
    """What :func:`line_cost` computes, in plain torch on any device: the oracle of its tests."""
    n, m, batch = u.shape[-1], v.shape[-1], _batch(u, v, a, b)
    finite = u.isfinite().all(-1) & v.isfinite().all(-1)
    u, u_order = u.sort(dim=-1, stable=True)
    v, v_order = v.sort(dim=-1, stable=True)
    u_order, v_order = (t.expand(*batch, t.shape[-1]) for t in (u_order, v_order))
    slopes: list[Tensor | None] = [None] * 4
    if a is None and b is None and n == m and not (wants[2] or wants[3]):
        d = u.double() - v.double()
        cost = _power(d, p).mean(-1)
        pull = (_slope(d, p) / n).expand(*batch, n)
        pulls = (pull, -pull)
    else:
        path, mass = _path(n, m, a, b, u_order, v_order)
        rows, cols = path.rows, path.cols
        x, y = (t.double().expand(*batch, t.shape[-1]) for t in (u, v))
        d = x.gather(-1, rows) - y.gather(-1, cols)
        C = _power(d, p)
        cost = torch.where(mass > 0, mass * C, 0).sum(-1)
        pull = torch.where(mass > 0, mass * _slope(d, p), 0)
        pulls = (torch.zeros_like(x).scatter_add_(-1, rows, pull), torch.zeros_like(y).scatter_add_(-1, cols, -pull))
        if wants[2] or wants[3]:
            f, g = _tight(path, x, y, C, p)
            of_a, of_b = ((mass * h.gather(-1, at)).sum(-1, keepdim=True) for h, at in ((f, rows), (g, cols)))
            shift = (of_b - of_a) / (2 * mass.sum(-1, keepdim=True))
            slopes[2:] = f + shift, g - shift
    slopes[:2] = pulls
    blank = torch.where(finite, 1.0, torch.nan).double()
    to_u, to_v, to_a, to_b = (
        torch.empty_like(s).scatter_(-1, order, s * blank[..., None]).to(u.dtype) if wanted and s is not None else None
        for s, order, wanted in zip(slopes, (u_order, v_order, u_order, v_order), wants, strict=True)
    )
    return LineCost(cost * blank, to_u, to_v, to_a, to_b)


def line_plan(x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: float) -> LinePlan:
    """The monotone coupling of clouds on a line, and potentials that prove it optimal for |x - y|^p; on any device.

    Cells lie in the order of the line; those without mass stay in. Potentials are tight on all cells, hence feasible
    everywhere, as |x - y|^p is a Monge cost; f is 0 at the first atom of the line.

    Args:
        x: positions (B, n), or (n,) for all problems, float64.
        y: positions (B, m) or (m,).
        a: weights (B, n) >= 0.
        b: weights (B, m) >= 0 of the same sums.
        p: exponent, at least 1.

    Source: Peyre and Cuturi, Computational Optimal Transport, section 3.4.2.
    """
    x, y, a, b = (t.detach() for t in (x, y, a, b))
    if not _native(x, y):
        return line_plan_reference(x, y, a, b, p)
    run = _line_plan if torch.compiler.is_compiling() else _line_plan_now
    return LinePlan(*run(x, y, a, b, p))


def line_plan_reference(x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: float) -> LinePlan:
    """What :func:`line_plan` computes, in plain torch on any device: the oracle of its tests."""
    (B, n), m = a.shape, b.shape[-1]
    x, x_order = x.expand(B, n).sort(dim=-1, stable=True)
    y, y_order = y.expand(B, m).sort(dim=-1, stable=True)
    path, mass = _path(n, m, a, b, x_order, y_order)
    C = _power(x.gather(-1, path.rows) - y.gather(-1, path.cols), p)
    f, g = _tight(path, x, y, C, p)
    return LinePlan(
        x_order.gather(-1, path.rows),
        y_order.gather(-1, path.cols),
        mass,
        torch.empty_like(f).scatter_(-1, x_order, f),
        torch.empty_like(g).scatter_(-1, y_order, g),
    )


def _native(u: Tensor, v: Tensor) -> bool:
    """Whether the C++ core takes these sizes on this device."""
    return u.device.type == "cpu" and max(u.shape[-1], v.shape[-1]) < 2**31 - 1


def _batch(*sides: Tensor | None) -> torch.Size:
    joint: torch.Size = torch.broadcast_shapes(*(t.shape[:-1] for t in sides if t is not None))
    return joint


def _power(d: Tensor, p: float) -> Tensor:
    return d.abs() if p == 1 else d.square() if p == 2 else d.abs().pow(p)


def _slope(d: Tensor, p: float) -> Tensor:
    """The derivative of |d|^p, 0 at 0."""
    return d.sign() if p == 1 else 2 * d if p == 2 else p * d.abs().pow(p - 1) * d.sign()


def _path(
    n: int, m: int, a: Tensor | None, b: Tensor | None, u_order: Tensor, v_order: Tensor
) -> tuple[Staircase, Tensor]:
    """The staircase in whole masses, and the masses themselves; leading dimensions are those of the orders."""
    if a is None and b is None:
        one = torch.ones((), dtype=torch.long, device=u_order.device)
        path = staircase((m * one).expand(u_order.shape), (n * one).expand(v_order.shape))
        return path, path.mass.double() / (n * m)
    a, b = (
        torch.full(order.shape, 1 / order.shape[-1], dtype=torch.float64, device=order.device)
        if w is None
        else w.double().expand(order.shape).gather(-1, order)
        for w, order in ((a, u_order), (b, v_order))
    )
    A, B, unit = in_units(a, b)
    path = staircase(A, B)
    return path, path.mass * unit


def _tight(path: Staircase, x: Tensor, y: Tensor, C: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Potentials (..., n), (..., m) in sorted order, tight on a path through cells of cost C; f is 0 at the first."""
    xs, ys = x.gather(-1, path.rows), y.gather(-1, path.cols)
    right = _power(xs[..., :-1] - ys[..., 1:], p) - C[..., :-1]
    down = _power(xs[..., 1:] - ys[..., :-1], p) - C[..., :-1]
    f, g = staircase_potentials(path, right, down, x.shape[-1], y.shape[-1])
    return f, g + C[..., :1]


# -- the C++ core ----------------------------------------------------------------------------------------------------


def _cost_room(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, wants: list[bool]) -> _Five:
    """Uninitialised tensors for the result; no rows, (0, size), where it is not wanted."""
    n, m, batch = u.shape[-1], v.shape[-1], _batch(u, v, a, b)
    out = (
        u.new_empty((*batch, size) if wanted else (0, size)) for size, wanted in zip((n, m, n, m), wants, strict=True)
    )
    to_u, to_v, to_a, to_b = out
    return u.new_empty(batch, dtype=torch.float64), to_u, to_v, to_a, to_b


def _line_cost_now(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float, wants: list[bool]) -> _Five:
    n, m = u.shape[-1], v.shape[-1]
    out = _cost_room(u, v, a, b, wants)
    given = (u, v, u.new_empty(0, n) if a is None else a, u.new_empty(0, m) if b is None else b)
    u_rows, v_rows, a_rows, b_rows = (_rows(t).contiguous() for t in given)
    to_u, to_v, to_a, to_b = (_rows(t) for t in out[1:])
    cost = out[0].view(-1)
    index = _index(out[0].shape, u, v, a, b)
    threads = torch.get_num_threads()
    _core.line_cost(u_rows, v_rows, a_rows, b_rows, index, p, threads, cost, to_u, to_v, to_a, to_b)
    return out


_line_cost = torch.library.custom_op("barrow::line_cost", _line_cost_now, mutates_args=(), device_types="cpu")


@_line_cost.register_fake
def _(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float, wants: list[bool]) -> _Five:
    return _cost_room(u, v, a, b, wants)


def _line_plan_now(x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: float) -> _Five:
    out = _plan_room(a, b)
    index = _index(a.shape[:1], x, y, a, b)
    x, y, a, b = (_rows(t).contiguous() for t in (x, y, a, b))
    _core.line_plan(x, y, a, b, index, p, torch.get_num_threads(), *out)
    return out


_line_plan = torch.library.custom_op("barrow::line_plan", _line_plan_now, mutates_args=(), device_types="cpu")


@_line_plan.register_fake
def _(x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: float) -> _Five:
    return _plan_room(a, b)


def _plan_room(a: Tensor, b: Tensor) -> _Five:
    (B, n), m = a.shape, b.shape[-1]
    rows, cols = (a.new_empty((B, n + m - 1), dtype=torch.int64) for _ in range(2))
    return rows, cols, a.new_empty(B, n + m - 1), a.new_empty(B, n), b.new_empty(B, m)


def _rows(t: Tensor) -> Tensor:
    return t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


def _index(batch: torch.Size, *sides: Tensor | None) -> Tensor:
    """Which row of each side every problem of the batch takes: (4, problems)."""
    each = torch.arange(batch.numel())
    return torch.stack([each if t is None or t.shape[:-1] == batch else _expanded(t.shape[:-1], batch) for t in sides])


def _expanded(leading: torch.Size, batch: torch.Size) -> Tensor:
    return torch.arange(leading.numel()).view(leading).expand(batch).flatten()


def _asked(found: _Five, wants: Wants) -> LineCost:
    to_u, to_v, to_a, to_b = (t if wanted else None for t, wanted in zip(found[1:], wants, strict=True))
    return LineCost(found[0], to_u, to_v, to_a, to_b)
