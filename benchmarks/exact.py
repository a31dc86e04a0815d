"""Exact transport between two clouds, from the cost matrix: our network simplex, bare and certified, against POT's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import barrow
from barrow.ops.network_simplex import SimplexResult, network_simplex
from benchmarks.harness import Answer, Case, Contender, Setting, judge_plan


class Data(NamedTuple):
    a: Tensor
    b: Tensor
    C: Tensor


def settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (256, 1000, 2000):
        for d in (2, 64):
            for weights in ("uniform", "dirichlet"):
                yield Setting(n, n, d, weights)


def make(setting: Setting) -> Data:
    """Squared Euclidean costs between two Gaussian clouds half a unit apart in every coordinate."""
    r = np.random.default_rng(0)
    n, m, d = setting.n, setting.m, setting.d
    x, y = torch.from_numpy(r.normal(size=(n, d))), torch.from_numpy(r.normal(size=(m, d)) + 0.5)
    C = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    if setting.weights == "uniform":
        return Data(torch.full((n,), 1 / n, dtype=torch.float64), torch.full((m,), 1 / m, dtype=torch.float64), C)
    a, b = (torch.from_numpy(r.dirichlet(np.ones(k))) for k in (n, m))
    return Data(a, b * (a.sum() / b.sum()), C)


def barrow_run(data: Data) -> SimplexResult:
    return network_simplex(data.a[None], data.b[None], data.C[None])


def barrow_answer(found: SimplexResult) -> Answer:
    return Answer((found.rows[0], found.cols[0], found.mass[0]), found.f[0], found.g[0])


def solve_run(data: Data) -> barrow.Solution:
    """What a user calls: screening, the simplex, and the certificate."""
    return barrow.solve(barrow.Problem(barrow.Dense(data.C), data.a, data.b))


def solve_answer(found: barrow.Solution) -> Answer:
    assert isinstance(found.plan, barrow.SparsePlan)
    return Answer((found.plan.rows, found.plan.cols, found.plan.mass), found.f, found.g)


def pot_run(data: Data) -> Any:
    import ot

    return ot.emd(data.a.numpy(), data.b.numpy(), data.C.numpy(), numItermax=10**9, log=True)


def pot_answer(found: Any) -> Answer:
    plan, log = found
    return Answer(torch.from_numpy(plan), torch.from_numpy(log["u"]), torch.from_numpy(log["v"]))


EXACT = Case(
    name="exact",
    contenders=(
        Contender("barrow simplex", "barrow", barrow_run, barrow_answer),
        Contender("barrow solve", "barrow", solve_run, solve_answer),
        Contender("POT emd", "POT", pot_run, pot_answer),
    ),
    settings=settings,
    make=make,
    known=tuple,
    judge=judge_plan,
)
