"""Exact transport from coordinates: large clouds, batches of clouds, ragged batches; POT is handed its cost matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import barrow
from benchmarks.harness import Answer, Case, Contender, Setting, Value, judge_value

DENSE = 10_000  # points a side beyond which no matrix is made


class Clouds(NamedTuple):
    x: Tensor
    y: Tensor
    a: Tensor | None
    b: Tensor | None
    C: np.ndarray | None  # for POT


def make_clouds(setting: Setting) -> Clouds:
    """Two Gaussian clouds half a unit apart in every coordinate."""
    r = np.random.default_rng(0)
    x = torch.from_numpy(r.normal(size=(setting.n, setting.d)))
    y = torch.from_numpy(r.normal(size=(setting.m, setting.d)) + 0.5)
    a = b = None
    if setting.weights == "dirichlet":
        a, b = (torch.from_numpy(r.dirichlet(np.ones(k))) for k in (setting.n, setting.m))
        b = b * (a.sum() / b.sum())
    C = barrow.Points(x, y).dense().numpy() if setting.n <= DENSE else None
    return Clouds(x, y, a, b, C)


def clouds_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (2000, 5000):
        for d in (2, 64) if n <= 5000 else (3,) if n <= 20_000 else (2,):
            for weights in ("uniform", "dirichlet"):
                yield Setting(n, n, d, weights)


def solve_clouds(data: Clouds) -> barrow.Solution:
    return barrow.solve(barrow.Problem(barrow.Points(data.x, data.y), data.a, data.b))


def solved(found: barrow.Solution) -> Answer:
    assert isinstance(found.plan, barrow.SparsePlan)
    return Answer((found.plan.rows, found.plan.cols, found.plan.mass), found.f, found.g)


def pot_clouds(data: Clouds) -> Any:
    import ot

    a, b = ([] if w is None else w.numpy() for w in (data.a, data.b))
    return ot.emd(a, b, data.C, numItermax=10**9, log=True)


def pot_answer(found: Any) -> Answer:
    plan, log = found
    rows, cols = np.nonzero(plan)
    arcs = (torch.from_numpy(rows), torch.from_numpy(cols), torch.from_numpy(plan[rows, cols]))
    return Answer(arcs, torch.from_numpy(log["u"]), torch.from_numpy(log["v"]))


def judge_arcs(known: Clouds, answer: Answer) -> tuple[float, float]:
    """Value and relative gap: the arcs of a plan, whose marginals are looked at, against a c-transform of f."""
    x, y, a, b, _ = known
    n, m = len(x), len(y)
    a, b = (torch.full((k,), 1 / k, dtype=torch.float64) if w is None else w for w, k in ((a, n), (b, m)))
    assert isinstance(answer.plan, tuple)
    rows, cols, mass = answer.plan
    off = (a - torch.zeros_like(a).index_add(0, rows, mass)).abs().max()
    off = torch.maximum(off, (b - torch.zeros_like(b).index_add(0, cols, mass)).abs().max())
    if off > 1e-12:
        return float("nan"), float("nan")
    upper = (mass * (x[rows] - y[cols]).square().sum(-1)).sum().item()
    g = torch.cat([(torch.cdist(part, x).square() - answer.f).amin(-1) for part in y.split(1000)])
    lower = (a @ answer.f + b @ g).item()
    return upper, (upper - lower) / max(abs(upper), 1e-300)


CLOUDS = Case(
    name="clouds",
    contenders=(
        Contender("barrow solve", "barrow", solve_clouds, solved),
        Contender("POT emd", "POT", pot_clouds, pot_answer, takes=lambda setting: setting.n <= DENSE),
    ),
    settings=clouds_settings,
    make=make_clouds,
    known=lambda data: data,
    judge=judge_arcs,
)


# -- many small problems in one call -----------------------------------------------------------------------------------


class Batch(NamedTuple):
    x: Tensor  # (B, n, d)
    y: Tensor
    a: Tensor | None  # (B, n), zeros where a cloud is shorter
    b: Tensor | None
    p: int


def make_batch(setting: Setting) -> Batch:
    r = np.random.default_rng(0)
    B, n, d = setting.m, setting.n, setting.d
    x, y = (torch.from_numpy(r.normal(size=(B, n, d))).float() for _ in "xy")
    if setting.weights == "uniform":
        return Batch(x, y, None, None, 2)
    sizes = r.integers(5, n + 1, size=(2, B))
    a, b = (torch.zeros(B, n) for _ in "ab")
    for w, counts in ((a, sizes[0]), (b, sizes[1])):
        for k, count in enumerate(counts):
            w[k, :count] = torch.from_numpy(r.dirichlet(np.ones(count)))
    return Batch(x, y, a, b, 1)


def batch_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    """Here m is the number of problems."""
    yield Setting(256, 64, 784, "uniform", "plans")
    yield Setting(100, 1000, 50, "ragged", "p=1")


def barrow_batch(data: Batch) -> barrow.Solution:
    return barrow.solve(barrow.Problem(barrow.Points(data.x, data.y, p=data.p), data.a, data.b))


def pot_batch(data: Batch) -> float:
    import ot

    total = 0.0
    for k in range(len(data.x)):
        x, y = data.x[k].double().numpy(), data.y[k].double().numpy()
        a = b = np.full(len(x), 1 / len(x))
        if data.a is not None and data.b is not None:
            a, b = data.a[k].double().numpy(), data.b[k].double().numpy()
            x, y, a, b = x[a > 0], y[b > 0], a[a > 0], b[b > 0]
            a, b = a / a.sum(), b / b.sum()
        C = ot.dist(x, y, metric="sqeuclidean" if data.p == 2 else "euclidean")
        total += float((ot.emd(a, b, C) * C).sum())
    return total


BATCH = Case(
    name="batch",
    contenders=(
        Contender("barrow solve", "barrow", barrow_batch, lambda found: Value(float(found.value.double().sum()))),
        Contender("POT loop", "POT", pot_batch, Value),
    ),
    settings=batch_settings,
    make=make_batch,
    known=lambda data: Value(pot_batch(data)),
    judge=judge_value,
)
