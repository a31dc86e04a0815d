"""The assignment problem: the cheapest permutation and its potentials, on the CPU, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from barrow import _core


class AssignmentResult(NamedTuple):
    """Row i of problem k goes to column ``cols[k, i]``: a permutation whatever ``code`` says.

    ``f`` and ``g`` are finite everywhere, and f_i + g_j <= C_ij up to rounding: with equality on the assigned pairs
    if ``code`` is OPTIMAL. If it is INFEASIBLE or a limit, some of these may be forbidden.
    """

    cols: Tensor
    f: Tensor
    g: Tensor
    code: Tensor
    steps: Tensor


OPTIMAL, STEP_LIMIT, INFEASIBLE, TIME_LIMIT = 0, 1, 3, 9

_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def assignment(C: Tensor, g: Tensor | None = None, max_steps: int | None = None) -> AssignmentResult:
    """Minimise sum_i C_i,cols(i) over the permutations cols of n columns, for every problem of a batch.

    Column reduction, a bounded number of row reductions, and shortest augmenting paths over the whole rows of C, whose
    scans are vectorised. Problems of a batch share the threads of ``torch.get_num_threads()``.

    Args:
        C: costs (B, n, n), float64, on the CPU, +inf where a pair is forbidden. An expanded batch dimension is not
            copied.
        g: potentials of the columns (B, n) to start from, such as those of a similar problem. Any numbers: those of a
            problem that has NaN, infinity or differences far beyond its costs are left aside.
        max_steps: a bound on the steps of each problem, which are scans of one row of C: 5 n to 40 n usually, and never
            more than n^2 / 2 + 42 n. At the bound the rows left are assigned greedily: an upper bound.

    Source: Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems,
    Computing 38, 1987; Crouse, On implementing 2D rectangular assignment algorithms, IEEE Transactions on Aerospace and
    Electronic Systems 52, 2016.

    >>> C = torch.tensor([[[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]], dtype=torch.float64)
    >>> result = assignment(C)
    >>> result.cols
    tensor([[1, 0, 2]])
    >>> (result.f.sum() + result.g.sum()).item()
    5.0
    """
    # What the solution depends on is differentiated by the envelope theorem, never through the search.
    given = C.detach(), None if g is None else g.detach()
    return AssignmentResult(*_op(*given, -1 if max_steps is None else max(0, max_steps)))


def assign_now(
    C: Tensor,
    g: Tensor | None = None,
    *,
    max_steps: int | None = None,
    seconds: float = math.inf,
    listener: Callable[[str, int, int], object] | None = None,
) -> AssignmentResult:
    """:func:`assignment` past torch's dispatcher, for callers that neither compile nor vmap.

    Args:
        C: as there.
        g: as there.
        max_steps: as there.
        seconds: what is assigned after so many seconds is completed likewise, with ``code`` TIME_LIMIT.
        listener: told ("rows", assigned, n) about ten times a second, or ("problems", done, B) of a batch. What it
            raises ends the work and is raised here.
    """
    return AssignmentResult(*_kernel(C, g, -1 if max_steps is None else max(0, max_steps), seconds, listener))


def _kernel(
    C: Tensor,
    g: Tensor | None,
    max_steps: int,
    seconds: float = math.inf,
    listener: Callable[[str, int, int], object] | None = None,
) -> _Five:
    # Arrays of numpy are made and handed over faster than tensors, which small problems feel.
    batch, n = C.shape[0], C.shape[-1]
    start = np.empty((0, n)) if g is None else g.detach().contiguous().numpy()
    if batch > 1 and C.stride(0) == 0:
        C = C[:1]  # one matrix for all: the core reads it with stride 0
    cols, f, u = np.empty((batch, n), np.int64), np.empty((batch, n)), np.empty((batch, n))
    code, steps = np.empty(batch, np.int64), np.empty(batch, np.int64)
    costs, threads = C.detach().contiguous().numpy(), torch.get_num_threads()
    _core.assignment(costs, start, max_steps, threads, seconds, listener, cols, f, u, code, steps)
    shared = torch.from_numpy
    return shared(cols), shared(f), shared(u), shared(code), shared(steps)


def _limited(C: Tensor, g: Tensor | None, max_steps: int) -> _Five:
    return _kernel(C, g, max_steps)


_op = torch.library.custom_op("barrow::assignment", _limited, mutates_args=(), device_types="cpu")


@_op.register_fake
def _(C: Tensor, g: Tensor | None, max_steps: int) -> _Five:
    batch, n = C.shape[0], C.shape[-1]
    return (
        C.new_empty((batch, n), dtype=torch.int64),
        C.new_empty((batch, n), dtype=torch.float64),
        C.new_empty((batch, n), dtype=torch.float64),
        C.new_empty((batch,), dtype=torch.int64),
        C.new_empty((batch,), dtype=torch.int64),
    )


@_op.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], C: Tensor, g: Tensor | None, max_steps: int) -> Any:
    # One batch dimension more is a longer batch.
    size = info.batch_size
    moved = [
        None if t is None else (t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)
        for t, dim in zip((C, g), in_dims[:2], strict=True)
    ]
    return tuple(t.unflatten(0, (size, -1)) for t in _op(moved[0], moved[1], max_steps)), (0,) * 5
