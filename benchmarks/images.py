"""Exact transport between grey pictures at squared distances; POT is handed its cost matrix.

The pictures are those of DOTmark (Schrieber, Schuhmacher, Gottschlich 2017), which are not part of the repository.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import barrow
from benchmarks.harness import HERE, Answer, Case, Contender, Setting

PICTURES = HERE.parents[1] / "shared" / "data" / "dotmark"
KINDS = ("classic", "micro", "shapes")
DENSE = 64  # pixels a side beyond which no matrix is made


class Images(NamedTuple):
    side: int
    a: Tensor
    b: Tensor
    C: np.ndarray | None  # for POT


def settings(sizes: Sequence[int]) -> Iterable[Setting]:
    """The sizes are pixels a side."""
    if not PICTURES.is_dir():
        print(f"images: skipped, there are no pictures in {PICTURES}", file=sys.stderr)
        return
    for side in sizes or (32, 64, 128):
        for kind in KINDS:
            yield Setting(side * side, side * side, 2, kind)


def photograph(path: Path, side: int) -> Tensor:
    """Grey levels, averaged over boxes, of sum 1."""
    from PIL import Image

    with Image.open(path) as picture:
        grey = torch.from_numpy(np.asarray(picture.convert("L"), dtype=np.float64))
    grey = torch.nn.functional.adaptive_avg_pool2d(grey[None], side)[0]
    return (grey / grey.sum()).flatten()


def make(setting: Setting) -> Images:
    side = math.isqrt(setting.n)
    a, b = (photograph(PICTURES / f"{setting.weights}512_{number}.png", side) for number in (1001, 1003))
    C = barrow.Grid((side, side), 2).to(torch.float64).dense().numpy() if side <= DENSE else None
    return Images(side, a, b, C)


def barrow_run(data: Images) -> barrow.Solution:
    """Certified."""
    return barrow.solve(barrow.Problem(barrow.Grid((data.side, data.side), 2), data.a, data.b))


def barrow_answer(found: barrow.Solution) -> Answer:
    assert isinstance(found.plan, barrow.SparsePlan)
    return Answer((found.plan.rows, found.plan.cols, found.plan.mass), found.f, found.g)


def pot_run(data: Images) -> Any:
    import ot

    return ot.emd(data.a.numpy(), data.b.numpy(), data.C, numItermax=10**9, log=True)


def pot_answer(found: Any) -> Answer:
    plan, log = found
    rows, cols = np.nonzero(plan)
    arcs = (torch.from_numpy(rows), torch.from_numpy(cols), torch.from_numpy(plan[rows, cols]))
    return Answer(arcs, torch.from_numpy(log["u"]))


def judge(known: Images, answer: Answer) -> tuple[float, float]:
    """Value and relative gap: the arcs of a plan, whose marginals are looked at, against the c-transform of f."""
    side, a, b, _ = known
    assert isinstance(answer.plan, tuple)
    rows, cols, mass = answer.plan
    off = (a - torch.zeros_like(a).index_add(0, rows, mass)).abs().max()
    off = torch.maximum(off, (b - torch.zeros_like(b).index_add(0, cols, mass)).abs().max())
    if off > 1e-12:
        return float("nan"), float("nan")
    across, down = rows % side - cols % side, rows // side - cols // side
    upper = (mass * (across.square() + down.square())).sum().item()
    # Axis by axis: the least over pixels (k, l) of (i - k)^2 + (j - l)^2 - f_kl.
    z = torch.arange(side, dtype=torch.float64)
    squares = (z[:, None] - z).square()
    f = torch.where(a > 0, answer.f, -torch.inf).reshape(side, side)
    rest = (squares[:, :, None] - f).amin(1)  # over k: (i, l)
    g = (squares[:, None, :] + rest).amin(-1).T  # over l: (i, j)
    lower = (torch.where(a > 0, a * answer.f, 0).sum() + b @ g.flatten()).item()
    return upper, (upper - lower) / max(abs(upper), 1e-300)


IMAGES = Case(
    name="images",
    contenders=(
        Contender("barrow solve", "barrow", barrow_run, barrow_answer),
        Contender("POT emd", "POT", pot_run, pot_answer, takes=lambda setting: setting.n <= DENSE**2),
    ),
    settings=settings,
    make=make,
    known=lambda data: data,
    judge=judge,
)
