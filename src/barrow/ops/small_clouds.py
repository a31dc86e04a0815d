"""Exact transport between many pairs of small clouds, on the CPU, in float64, from coordinates of either precision.

The same as :func:`barrow.ops.network_simplex.network_simplex` and :func:`barrow.ops.assignment.assignment` on the
matrices of their costs, but a matrix lives only while its problem is solved, and holds only atoms that have mass.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from barrow import _core
from barrow.ops.assignment import AssignmentResult
from barrow.ops.network_simplex import SimplexResult

Listener = Callable[[str, int, int], object]


def simplex_clouds(
    x: Tensor,
    y: Tensor,
    p: float,
    norm: float,
    a: Tensor,
    b: Tensor,
    *,
    max_steps: int | None = None,
    seconds: float = math.inf,
    listener: Listener | None = None,
    g: Tensor | None = None,
    arcs: tuple[Tensor, Tensor, Tensor] | None = None,
) -> SimplexResult:
    """Minimise sum_ij |x_i - y_j|_norm^p P_ij over P >= 0 with marginals a and b, for every problem of a batch.

    Args:
        x: clouds (B or 1, n, d), float32 or float64, on the CPU.
        y: clouds (B or 1, m, d), likewise.
        p: exponent.
        norm: ground norm.
        a: weights (B, n) >= 0, float64. Atoms without mass cost nothing; f is 0 there.
        b: weights (B, m) >= 0 with the same sums as a, up to rounding.
        max_steps: a bound on the pivots of each problem.
        seconds: a bound on the time.
        listener: told ("problems", done, B).
        g: potentials (B, m) that the first basis is greedy under; any numbers.
        arcs: rows, cols and mass (B, k) of a plan that the first basis follows as far as it can.

    >>> w = torch.tensor([[0.5, 0.5]]).double()
    >>> found = simplex_clouds(torch.eye(2)[None], torch.zeros(1, 2, 2), 2, 2, w, w)
    >>> float(found.f @ w[0] + found.g @ w[0])
    1.0
    """
    batch, n, m = len(a), a.shape[1], b.shape[1]
    rows, cols = (np.empty((batch, n + m - 1), np.int64) for _ in range(2))
    mass, f, u = np.empty((batch, n + m - 1)), np.empty((batch, n)), np.empty((batch, m))
    code, steps = np.empty(batch, np.int64), np.empty(batch, np.int64)
    none, no = np.empty((0, 0), np.int64), np.empty((0, 0))
    i, j, flow = (none, none, no) if arcs is None else (_array(t) for t in arcs)
    _core.simplex_clouds(
        _array(x),
        _array(y),
        p,
        norm,
        _array(a),
        _array(b),
        -1 if max_steps is None else max(0, max_steps),
        torch.get_num_threads(),
        seconds,
        listener,
        no if g is None else _array(g),
        i,
        j,
        flow,
        *(rows, cols, mass, f, u, code, steps),
    )
    return SimplexResult(*(torch.from_numpy(t) for t in (rows, cols, mass, f, u, code, steps)))


def assignment_clouds(
    x: Tensor,
    y: Tensor,
    p: float,
    norm: float,
    batch: int,
    *,
    max_steps: int | None = None,
    seconds: float = math.inf,
    listener: Listener | None = None,
    g: Tensor | None = None,
) -> AssignmentResult:
    """Minimise sum_i |x_i - y_cols(i)|_norm^p over the permutations cols, for every problem of a batch.

    Args:
        x: clouds (B or 1, n, d), float32 or float64, on the CPU.
        y: clouds (B or 1, n, d), likewise.
        p: exponent.
        norm: ground norm.
        batch: B.
        max_steps: a bound on the steps of each problem.
        seconds: a bound on the time.
        listener: told ("problems", done, B).
        g: potentials (B, n) to start from.

    >>> assignment_clouds(torch.eye(2)[None], torch.eye(2)[None].flip(1), 2, 2, 1).cols
    tensor([[1, 0]])
    """
    n = x.shape[1]
    cols, f, u = np.empty((batch, n), np.int64), np.empty((batch, n)), np.empty((batch, n))
    code, steps = np.empty(batch, np.int64), np.empty(batch, np.int64)
    _core.assignment_clouds(
        _array(x),
        _array(y),
        p,
        norm,
        np.empty((0, n)) if g is None else _array(g),
        -1 if max_steps is None else max(0, max_steps),
        torch.get_num_threads(),
        seconds,
        listener,
        *(cols, f, u, code, steps),
    )
    return AssignmentResult(*(torch.from_numpy(t) for t in (cols, f, u, code, steps)))


def _array(t: Tensor) -> np.ndarray:
    # Arrays of numpy are handed over faster than tensors, which small problems feel.
    return t.detach().contiguous().numpy()
