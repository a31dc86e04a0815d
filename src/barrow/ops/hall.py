"""Hall's condition: which mass has no arc to leave by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from barrow.ops.network_simplex import solve_now


class Stranded(NamedTuple):
    """Rows whose columns want too little, and what is left over.

    ``rows`` (n,) hold more than ``cols`` (m,) want, by ``excess``, and ``cols`` are all columns with weight that an
    allowed arc leads to from there: no plan exists, whoever looks. ``left`` (n,) is the mass that a best plan leaves in
    each row. Empty sets and zeros where everything can be moved.
    """

    rows: Tensor
    cols: Tensor
    excess: float
    left: Tensor


def stranded(a: Tensor, b: Tensor, allowed: Tensor) -> Stranded:
    """Move as much as allowed arcs can carry, for one problem on the CPU, and say what cannot be moved and why.

    Args:
        a: weights (n,) >= 0, float64.
        b: weights (m,) >= 0 with the same sum, up to rounding.
        allowed: (n, m), where mass may move.

    From rows with mass left over one walks along allowed arcs to columns, and from these back along arcs that are used:
    were there room in any column met, more could have been moved.

    >>> allowed = torch.tensor([[True, False], [True, False], [True, True]])
    >>> a, b = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]], dtype=torch.float64)
    >>> found = stranded(a, b[:2], allowed)
    >>> found.rows.tolist(), found.cols.tolist(), found.excess
    ([True, True, False], [True, False], 0.25)

    Source: Hall, On representatives of subsets, 1935; Ford and Fulkerson 1956 (the cut of a maximal flow).
    """
    C = (~allowed).to(a)  # a price, not a prohibition: only then the flow over the others is as small as can be
    flow = solve_now(a[None], b[None], C[None])
    i, j, mass = flow.rows[0], flow.cols[0], flow.mass[0]
    forbidden = ~allowed[i, j]
    left = torch.zeros_like(a).index_add(0, i, torch.where(forbidden, mass, 0))
    rows, cols = left > 0, torch.zeros_like(b, dtype=torch.bool)
    used = (mass > 0) & ~forbidden
    front = rows
    while bool(front.any()):  # each row enters the front once
        reached = allowed[front].any(0) & (b > 0) & ~cols
        cols = cols | reached
        front = torch.zeros_like(rows).index_fill(0, i[used & reached[j]], True) & ~rows
        rows = rows | front
    return Stranded(rows, cols, float(a[rows].sum() - b[cols].sum()), left)
