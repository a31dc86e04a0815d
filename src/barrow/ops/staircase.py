"""Transport on a line: the monotone coupling is a staircase from the first pair of atoms to the last."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Staircase(NamedTuple):
    """n + m - 1 cells, each one step right or down of the one before: (..., n + m - 1)."""

    rows: Tensor
    cols: Tensor
    mass: Tensor


def staircase(a: Tensor, b: Tensor) -> Staircase:
    """The north-west corner rule for a (..., n) and b (..., m) of equal mass, already in the order of the line.

    Cell k carries the mass between the k-th and the next breakpoint of the two cumulative sums; cells of zero mass stay
    in, so that there are always n + m - 1 and the potentials can be read off the path. Differentiable in float a and b.
    Source: Peyre and Cuturi, Computational Optimal Transport, section 3.4.2.
    """
    n, m = a.shape[-1], b.shape[-1]
    A, B = a.cumsum(-1), b.cumsum(-1)
    inner = torch.cat((A[..., : n - 1], B[..., : m - 1]), -1)
    # Stable: at a tie the row advances first, which keeps the path within the matrix.
    breaks, order = inner.sort(dim=-1, stable=True)
    down = order < n - 1
    start = torch.zeros_like(A[..., :1])
    rows = torch.cat((torch.zeros_like(start, dtype=torch.long), down.cumsum(-1)), -1)
    cols = torch.arange(n + m - 1, device=a.device) - rows
    # The total is the larger of the two, which differ by rounding only.
    total = torch.maximum(A[..., -1:], B[..., -1:])
    mass = torch.diff(torch.cat((start, breaks, total), -1), dim=-1).clamp_min(0)
    return Staircase(rows, cols, mass)


def in_units(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (..., n), (..., m) of equal mass as integers of exactly equal sum, and the unit (..., 1) they count.

    Cumulative sums of integers are exact, so a staircase of them has exact marginals; floats lose a rounding a step. A
    unit is 2^-62 of the mass; the remainder of rounding goes to the heaviest atom of b.
    """
    total = a.sum(-1, keepdim=True)
    A, B = ((w * (2.0**62 / total)).round().long() for w in (a, b))
    heaviest = b.argmax(-1, keepdim=True)
    rest = A.sum(-1, keepdim=True) - B.sum(-1, keepdim=True)
    return A, B.scatter_add(-1, heaviest, rest), total / 2.0**62


def staircase_potentials(path: Staircase, right: Tensor, down: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Potentials that are tight on every cell of the path, starting from f_0 = 0.

    ``right`` (..., n + m - 2) is the change of the cost from a cell to the next where the step goes right, ``down``
    likewise where it goes down (each is ignored where the step is of the other kind).
    """
    goes_down = torch.diff(path.rows, dim=-1) > 0
    step_f = torch.where(goes_down, down, 0)
    step_g = torch.where(goes_down, 0, right)
    zero = down.new_zeros((*down.shape[:-1], 1))
    f_path = torch.cat((zero, step_f.cumsum(-1)), -1)
    g_path = torch.cat((zero, step_g.cumsum(-1)), -1)
    f = zero.new_zeros((*f_path.shape[:-1], n)).scatter(-1, path.rows, f_path)
    g = zero.new_zeros((*g_path.shape[:-1], m)).scatter(-1, path.cols, g_path)
    return f, g
