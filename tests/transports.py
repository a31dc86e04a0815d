"""Problems for column generation, and what every answer to one must satisfy."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from barrow.ops.column_generation import column_generation
from barrow.ops.network_simplex import OPTIMAL, SimplexResult
from barrow.ops.pairs import distances
from problems import EPS, F64

Clouds = tuple[Tensor, Tensor]
Cost = Clouds | Tensor
Arcs = tuple[Tensor, Tensor, Tensor]
GROUNDS = list(itertools.product([1, 1.5, 2, 3], [1, 2, math.inf]))


def matrix_of(cost: Cost, p: float = 2, norm: float = 2) -> Tensor:
    return cost if isinstance(cost, Tensor) else distances(*cost, p, norm)


def solve_one(
    a: Tensor,
    b: Tensor,
    cost: Cost,
    p: float = 2,
    norm: float = 2,
    start: Tensor | None = None,
    arcs: Arcs | None = None,
    **options: object,
) -> SimplexResult:
    options["start"] = None if start is None else start[None]
    options["arcs"] = None if arcs is None else tuple(t[None] for t in arcs)
    one = cost[None] if isinstance(cost, Tensor) else (cost[0][None], cost[1][None])
    return SimplexResult(*(t[0] for t in column_generation(a[None], b[None], one, p, norm, **options)))


def check_plan(a: Tensor, b: Tensor, result: SimplexResult) -> None:
    """Nonnegative, with the right marginals, and a forest of at most n + m - 1 arcs; whatever the code says."""
    rows, cols, mass, f, g, _, _ = result
    n, m = len(a), len(b)
    total = a.sum()
    assert rows.shape == cols.shape == mass.shape == (n + m - 1,)
    assert (mass >= 0).all()
    out, came = torch.zeros_like(a).index_add(0, rows, mass), torch.zeros_like(b).index_add(0, cols, mass)
    assert (out - a).abs().max() <= 64 * EPS * total
    assert (came - b).abs().max() <= 64 * EPS * total
    root = list(range(n + m))

    def find(x: int) -> int:
        while root[x] != x:
            root[x] = x = root[root[x]]
        return x

    used = mass > 0
    for i, j in zip(rows[used].tolist(), (n + cols[used]).tolist(), strict=True):
        assert find(i) != find(j), "a cycle"
        root[find(i)] = find(j)
    assert f.isfinite().all()
    assert g.isfinite().all()


def check_optimal(a: Tensor, b: Tensor, C: Tensor, result: SimplexResult) -> float:
    """Everything that a result promises, for one problem; returns the value."""
    rows, cols, mass, f, g, code, steps = result
    assert code == OPTIMAL
    assert steps >= 0
    check_plan(a, b, result)
    scale = max(f.abs().max(), g.abs().max(), C.abs().max(), torch.tensor(1e-300))
    used = mass > 0
    assert (f[:, None] + g - C).max() <= 64 * EPS * scale
    assert ((f[rows] + g[cols] - C[rows, cols])[used].abs() <= 64 * EPS * scale).all()
    value = (C[rows, cols] * mass).sum()
    assert ((a * f).sum() + (b * g).sum() - value).abs() <= 256 * EPS * scale * a.sum()
    return value.item()


def dense(result: SimplexResult, n: int, m: int) -> Tensor:
    return torch.zeros(n, m, dtype=F64).index_put((result.rows, result.cols), result.mass, accumulate=True)


def weights(kind: str, n: int, r: np.random.Generator) -> np.ndarray:
    if kind == "uniform":
        return np.full(n, 1 / n)
    if kind == "dirichlet":
        return r.dirichlet(np.ones(n))
    if kind == "peaked":
        return r.dirichlet(np.full(n, 0.1))
    if kind == "integers":
        w = r.integers(0, 4, n).astype(float)
    elif kind == "heavy":  # one atom has nearly everything
        w = np.append(r.random(n - 1) * 1e-6, 1.0)
    else:
        w = np.zeros(n)
    w[r.integers(n)] += 1
    return w / w.sum()


WEIGHTS = ["uniform", "dirichlet", "peaked", "integers", "heavy", "dirac"]
MATRICES = ["normal", "negative", "integers", "signs", "constant", "zero", "shifted", "wide"]
CLOUDS = ["normal", "lattice", "equal", "twins", "far clusters", "line", "outlier", "translated", "square"]


def drawn(n: int, m: int, weighting: tuple[str, str], kind: str, seed: int) -> tuple[Tensor, Tensor, Cost]:
    r = np.random.default_rng(seed)
    a, b = weights(weighting[0], n, r), weights(weighting[1], m, r)
    a, b = torch.from_numpy(a), torch.from_numpy(b * a.sum() / b.sum())
    if kind in MATRICES:
        C = {
            "normal": lambda: r.normal(size=(n, m)),
            "negative": lambda: -(10.0 ** r.uniform(0, 3, (n, m))),
            "integers": lambda: r.integers(-2, 3, (n, m)).astype(float),
            "signs": lambda: r.integers(0, 2, (n, m)) - 0.5,
            "constant": lambda: np.full((n, m), r.normal()),
            "zero": lambda: np.zeros((n, m)),
            "shifted": lambda: r.normal(size=(n, m)) + 1e6,
            "wide": lambda: 10.0 ** r.uniform(-12, 12, (n, m)),
        }[kind]()
        return a, b, torch.from_numpy(C)
    d = int(r.integers(1, 6))
    x, y = r.normal(size=(n, d)), r.normal(size=(m, d))
    if kind == "lattice":
        x, y = x.round(), y.round()
    elif kind == "equal":
        x[:], y[:] = x[0], x[0]
    elif kind == "twins":  # points of one cloud are points of the other
        y[:] = np.resize(x, y.shape)
    elif kind == "far clusters":
        for z in (x, y):
            z *= 1e-3
            z[::2] += 1e5
            z[::3] -= 1e5
    elif kind == "line":
        x, y = (np.outer(z[:, 0], np.ones(d)) for z in (x, y))
    elif kind == "outlier":
        x[0] += 1e6
    elif kind == "translated":
        x, y = x + 1e6, y + 1e6
    elif kind == "square":
        x, y = r.random((n, 2)), r.random((m, 2))
    return a, b, (torch.from_numpy(x), torch.from_numpy(y))
