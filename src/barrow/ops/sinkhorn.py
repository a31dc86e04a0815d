"""The search for entropic potentials in the C++ core: on the CPU, from coordinates or matrices of costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from barrow import _core
from barrow.ops.pairs import one_batch

Listener = Callable[[str, int, int], object]
SETTLED, STEP_LIMIT, ROUNDED, TIME_LIMIT = 0, 1, 2, 9  # ROUNDED: as far as single precision goes


class Found(NamedTuple):
    """Potentials f (B, n) and g (B, m), where g is the best for f; how the search ended; passes over all pairs; and the
    share of the mass that the columns have wrong under the best potentials of rows.
    """

    f: Tensor
    g: Tensor
    code: Tensor
    steps: Tensor
    error: Tensor


class Sides(NamedTuple):
    """Weights and reference measures (B, n), (B, m), and the penalties of the marginals."""

    a: Tensor
    b: Tensor
    r: Tensor
    s: Tensor
    rho: tuple[float, float]


class Aim(NamedTuple):
    """Where a search begins and when it may end, float64, one number a problem (B,).

    The annealing begins at ``epsilon``. The search ends when no more than the share ``error`` of the mass is wrong, and
    so little that the relative gap between the bounds is likely below ``tol``, given the ``mean_cost`` of the
    independent coupling. ``decay`` is the share of the error that a step from the start is likely to leave, 1 if that
    is not known. It looks at ``max_steps`` passes at most.
    """

    epsilon: Tensor
    error: Tensor
    tol: Tensor
    mean_cost: Tensor
    decay: Tensor
    max_steps: int


def sinkhorn(
    cost: tuple[Tensor, Tensor, float, float] | Tensor,
    sides: Sides,
    epsilon: float,
    g: Tensor,
    aim: Aim,
    *,
    symmetric: bool = False,
    fine: bool = False,
    seconds: float = math.inf,
    listener: Listener | None = None,
) -> Found:
    """Maximise the dual of the one equation over f and g, for every problem of a batch.

    Passes over all pairs, none of which is stored, while epsilon falls; in between, iterations on the few entries of
    the plan that matter (csrc/sinkhorn.hpp).

    Args:
        cost: clouds x (..., n, d), y (..., m, d), exponent and norm, or a matrix (B or 1, n, m), float64.
        sides: weights, float64, on the CPU.
        epsilon: strength of the entropy.
        g: where the search starts (B, m); it is left as it is.
        aim: where the annealing starts and when the search ends.
        symmetric: the problems are measures against themselves: g is a guess of both potentials, and no annealing is
            needed.
        fine: passes in double precision, which tell errors below about 1e-6 from noise.
        seconds: a bound on the time.
        listener: told ("passes", done, -1), or ("problems", done, B) of a batch.

    >>> w = torch.full((1, 4), 0.25).double()
    >>> aim = Aim(*(torch.tensor([t]).double() for t in (1.0, 1e-3, 1e-3, 1.0, 1.0)), 99)
    >>> x = torch.arange(4.0).double()[None, :, None]
    >>> found = sinkhorn((x, x + 1, 2, 2), Sides(w, w, w, w, (math.inf, math.inf)), 0.1, torch.zeros_like(w), aim)
    >>> bool(found.error <= 1e-3)
    True
    """
    batch, n = sides.a.shape
    f, g = torch.empty(batch, n, dtype=torch.float64), g.detach().clone(memory_format=torch.contiguous_format)
    code, steps = torch.empty(batch, dtype=torch.long), torch.empty(batch, dtype=torch.long)
    error = torch.empty(batch, dtype=torch.float64)
    weights = [t.contiguous() for t in (sides.a, sides.b, sides.r, sides.s)]
    options = torch.stack([t.expand(batch) for t in aim[:5]], -1).contiguous()
    rest: Any = (
        *weights,
        epsilon,
        *sides.rho,
        symmetric,
        options,
        aim.max_steps,
        torch.get_num_threads(),
        seconds,
        listener,
    )
    found: Any = (f, g, code, steps, error)
    if isinstance(cost, Tensor):
        shared = cost[:1] if cost.shape[0] > 1 and cost.stride(0) == 0 else cost
        _core.sinkhorn_matrix(shared.contiguous(), fine, *rest, *found)
    else:
        x, y, p, norm = cost
        size = torch.Size((batch,))
        _core.sinkhorn_points(one_batch(x, size), one_batch(y, size), p, norm, fine, *rest, *found)
    return Found(*found)
