"""Kernel matrices made positive semidefinite."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

REPAIRS = None, "shift", "clip", "flip"


class Repair(NamedTuple):
    """How a kernel is repaired: the least eigenvalue before, what is added, and what rows are multiplied by."""

    least: float
    shift: float
    projection: Matrix | None


def repair(K: Matrix, how: str | None) -> Repair:
    """The repair of a symmetric matrix K = Q diag(l) Q'.

    "shift" adds max(0, -least l) to the kernel of a histogram with itself; "clip" and "flip" multiply rows by
    Q diag(s) Q' with s = [l > 0] and s = sign l, which makes the matrix Q diag(s l) Q'.

    Raises:
        ValueError: another word for ``how``.

    >>> fixed = repair(np.array([[1.0, 3.0], [3.0, 1.0]]), "shift")
    >>> round(fixed.least, 6), round(fixed.shift, 6)
    (-2.0, 2.0)

    Source: Chen, Garcia, Gupta, Rahimi and Cazzanti 2009, sections 4.1 to 4.4 (similarity-based classification).
    """
    if how not in REPAIRS:
        raise ValueError(f"psd is {how!r}, but it must be 'shift', 'clip', 'flip' or None (leave the kernel as it is)")
    if how in ("clip", "flip"):
        values, Q = np.linalg.eigh(K)
        sign = np.sign(values) if how == "flip" else (values > 0).astype(np.float64)
        return Repair(float(values[0]), 0.0, (Q * sign) @ Q.T)
    values = np.linalg.eigvalsh(K)
    noise = len(K) * np.finfo(np.float64).eps * np.abs(values).max()
    shift = -float(values[0]) if how == "shift" and values[0] < -noise else 0.0
    return Repair(float(values[0]), shift, None)
