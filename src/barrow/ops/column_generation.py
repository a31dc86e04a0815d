"""Exact transport on more pairs than can be kept: the network simplex on a list of arcs that grows, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from barrow import _core
from barrow.ops.network_simplex import SimplexResult, room

Listener = Callable[[str, int, int], object]


class Lattice(NamedTuple):
    """The pixels of a regular grid in row-major order, n = m = the product of sides, at squared distances.

    c_ij = sum_k weights_k (i_k - j_k)^2. A sweep over all pairs is one along each axis: O(n * sum of sides).
    """

    sides: tuple[int, ...]
    weights: tuple[float, ...]


def column_generation(
    a: Tensor,
    b: Tensor,
    cost: tuple[Tensor, Tensor] | Tensor | Lattice,
    p: float = 2,
    norm: float = 2,
    *,
    start: Tensor | None = None,
    arcs: tuple[Tensor, Tensor, Tensor] | None = None,
    max_steps: int | None = None,
    seconds: float = math.inf,
    listener: Listener | None = None,
) -> SimplexResult:
    """Minimise sum_ij c_ij P_ij over P >= 0 with marginals a and b, for every problem of a batch.

    1. Potentials from Sinkhorn's iteration while epsilon falls, in single precision, no matrix stored.
    2. The arcs of smallest reduced cost under them, and those of a greedy plan.
    3. A nearly optimal flow on these arcs by cost scaling, made a basis of the network simplex.
    4. Pivots until no arc of the list improves; a sweep over all pairs for arcs that do; and again. When there is none,
       the basis is optimal among all pairs.

    Memory is O(n + m) beside the data. A single problem uses all threads of ``torch.get_num_threads()`` in its sweeps;
    the problems of a batch share them.

    Args:
        a: weights (B, n) >= 0, float64, on the CPU.
        b: weights (B, m) >= 0 with the same sums as a, up to rounding.
        cost: clouds x (B or 1, n, d) and y (B or 1, m, d) for c_ij = |x_i - y_j|_norm^p, a matrix (B or 1, n, m) of
            finite numbers, or a :class:`Lattice`.
        p: exponent, for clouds.
        norm: ground norm, for clouds.
        start: column potentials (B, m) to begin with instead of step 1. Any numbers.
        arcs: rows, cols and mass (B, k) of a plan that goes with ``start``. Where it is nearly optimal its arcs are the
            list and the basis of step 4; where it is somewhat stale step 3 goes on from its flow; elsewhere neither it
            nor ``start`` is used. Any indices and numbers. From its own result no pivot is left to do.
        max_steps: a bound on the pivots of each problem. The flow at the bound is still a plan.
        seconds: a bound on the time.
        listener: told (stage, done, total or -1).

    Source: Schmitzer, A sparse multiscale algorithm for dense optimal transport, 2016 (a short list that grows);
    Goldberg and Tarjan 1990 (cost scaling); Cuturi 2013 (potentials); Felzenszwalb and Huttenlocher 2012 (lattices).

    >>> x = torch.rand(50, 2, dtype=torch.float64)
    >>> w = torch.full((1, 50), 0.02, dtype=torch.float64)
    >>> found = column_generation(w, w, (x[None], x[None] + 1.0))
    >>> round(float(((x[found.rows[0]] - x[found.cols[0]] - 1).square().sum(-1) * found.mass[0]).sum()), 12)
    2.0
    """
    out = room(a.shape[0], a, a.shape[1], b.shape[1])
    no, none = a.new_empty((0, 0)), a.new_empty((0, 0), dtype=torch.int64)
    i, j, mass = (none, none, no) if arcs is None else arcs
    limits = (
        (no if start is None else start).contiguous(),
        i.contiguous(),
        j.contiguous(),
        mass.contiguous(),
        -1 if max_steps is None else max(0, max_steps),
        torch.get_num_threads(),
        seconds,
        listener,
    )
    a, b = a.contiguous(), b.contiguous()
    if isinstance(cost, Lattice):
        _core.column_generation_grid(list(cost.sides), list(cost.weights), a, b, *limits, *out)
    elif isinstance(cost, Tensor):
        _core.column_generation_matrix(_shared(cost), a, b, *limits, *out)
    else:
        x, y = (_shared(z) for z in cost)
        _core.column_generation_points(x, y, p, norm, a, b, *limits, *out)
    return SimplexResult(*out)


def _shared(t: Tensor) -> Tensor:
    """One for all is stored once."""
    return (t[:1] if t.shape[0] > 1 and t.stride(0) == 0 else t).contiguous()
