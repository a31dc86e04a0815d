"""Transport on a line and sliced transport, values and gradients, against POT's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import barrow
from benchmarks.harness import Case, Contender, Setting, Value, judge_value

DIRECTIONS = 1000


class Data(NamedTuple):
    x: Tensor  # (n,) on the line, (n, d) for slices; requires grad where the task is the gradient
    y: Tensor
    a: Tensor | None
    b: Tensor | None
    p: int


def draw(setting: Setting) -> Data:
    """Two Gaussian clouds half a unit apart in every coordinate."""
    r = np.random.default_rng(0)
    n, m, d = setting.n, setting.m, setting.d
    dtype = torch.float32 if "float32" in setting.task else torch.float64
    x, y = (torch.from_numpy(r.normal(size=(k, d)) + shift).to(dtype) for k, shift in ((n, 0), (m, 0.5)))
    p = 1 if "p=1" in setting.task else 2
    a, b = (torch.from_numpy(r.dirichlet(np.ones(k))).to(dtype) for k in (n, m))
    if setting.weights == "uniform":
        a = b = None
    return Data(x.requires_grad_("gradient" in setting.task), y, a, b, p)


def plain(data: Data) -> list[np.ndarray | None]:
    return [None if t is None else t.detach().numpy() for t in data[:4]]


def with_gradient(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    return value, torch.autograd.grad(value, x)[0] if x.requires_grad else None


def found(answer: tuple[Tensor, Tensor | None]) -> Value:
    return Value(float(answer[0]), answer[1])


def bare(answer: Any) -> Value:
    return Value(float(answer))


def asks_for_a_value(setting: Setting) -> bool:
    return "gradient" not in setting.task


# -- the truth, in 80 bits where the machine has them ------------------------------------------------------------------


def true_cost(u: np.ndarray, v: np.ndarray, a: np.ndarray | None, b: np.ndarray | None, p: int) -> tuple[Any, Any]:
    """W_p^p of positions and its gradient to u, by the quantile functions."""
    one, two = (
        np.full(len(t), 1, np.longdouble) if w is None else w.astype(np.longdouble) for t, w in ((u, a), (v, b))
    )
    u_order, v_order = np.argsort(u, kind="stable"), np.argsort(v, kind="stable")
    A, B = np.cumsum(one[u_order]), np.cumsum(two[v_order])
    A, B = A / A[-1], B / B[-1]
    ends = np.sort(np.concatenate((A, B)))
    i, j = (np.minimum(np.searchsorted(C, ends), len(C) - 1) for C in (A, B))
    mass = np.diff(ends, prepend=0)
    apart = u[u_order].astype(np.longdouble)[i] - v[v_order].astype(np.longdouble)[j]
    pull = mass * (np.sign(apart) if p == 1 else p * np.sign(apart) * np.abs(apart) ** (p - 1))
    gradient = np.zeros(len(u))
    gradient[u_order] = np.bincount(i, pull.astype(float), len(u))
    return (mass * np.abs(apart) ** p).sum(), gradient


def line_truth(data: Data) -> Value:
    x, y, a, b = plain(data)
    cost, gradient = true_cost(x[:, 0], y[:, 0], a, b, data.p)
    return Value(float(cost), torch.from_numpy(gradient)[:, None])


def sliced_truth(data: Data) -> Value:
    """The mean cost over the directions that barrow draws, and its gradient."""
    x, y, a, b = plain(data)
    w = directions(data).double().numpy()
    total, gradient = np.longdouble(0), np.zeros(x.shape)
    for direction in w.T:
        cost, slope = true_cost(x @ direction.astype(x.dtype), y @ direction.astype(y.dtype), a, b, data.p)
        total += cost
        gradient += slope[:, None] * direction
    value = float(total / w.shape[1]) ** (1 / data.p)
    return Value(value, torch.from_numpy(gradient / w.shape[1] * value ** (1 - data.p) / data.p))


# -- on the line: W_p^p, as POT has it ---------------------------------------------------------------------------------


def line_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (1_000_000,):
        for p in (1, 2):
            for task in (f"p={p}", f"p={p} gradient"):
                yield Setting(n, n, 1, "uniform", task)
                yield Setting(n, 4 * n // 5, 1, "dirichlet", task)
        yield Setting(n, 4 * n // 5, 1, "uniform", "p=2 gradient")
        yield Setting(n, n, 1, "uniform", "p=2 gradient float32")


def barrow_line(data: Data) -> tuple[Tensor, Tensor | None]:
    value = barrow.wasserstein_1d(data.x[:, 0], data.y[:, 0], data.a, data.b, p=data.p) ** data.p
    return with_gradient(value, data.x)


def pot_line(data: Data) -> tuple[Tensor, Tensor | None]:
    import ot

    value = ot.wasserstein_1d(data.x[:, 0], data.y[:, 0], data.a, data.b, p=data.p)
    return with_gradient(value, data.x)


def pot_line_numpy(data: Data) -> Any:
    import ot

    x, y, a, b = plain(data)
    return ot.wasserstein_1d(x[:, 0], y[:, 0], a, b, p=data.p)


def pot_emd(data: Data) -> Any:
    import ot

    x, y, a, b = plain(data)
    return ot.emd2_1d(x[:, 0], y[:, 0], a, b, metric="minkowski", p=data.p)


LINE = Case(
    name="line",
    contenders=(
        Contender("barrow wasserstein_1d", "barrow", barrow_line, found),
        Contender("POT wasserstein_1d, torch", "POT", pot_line, found),
        Contender("POT wasserstein_1d, numpy", "POT", pot_line_numpy, bare, asks_for_a_value),
        Contender("POT emd2_1d", "POT", pot_emd, bare, asks_for_a_value),
    ),
    settings=line_settings,
    make=draw,
    known=line_truth,
    judge=judge_value,
)


# -- slices: W_p, rooted -----------------------------------------------------------------------------------------------


def sliced_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (2000,):
        for task in ("p=2", "p=2 gradient"):
            yield Setting(n, n, 64, "uniform", task)
            yield Setting(n, 4 * n // 5, 64, "dirichlet", task)
        yield Setting(n, n, 64, "uniform", "p=2 float32")
        yield Setting(n, n, 64, "uniform", "p=2 gradient float32")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def directions(data: Data) -> Tensor:
    """What barrow draws: (d, directions)."""
    w = torch.randn(data.x.shape[1], DIRECTIONS, dtype=torch.float32, generator=generator()).to(data.x.dtype)
    return w / torch.linalg.vector_norm(w, dim=0)


def barrow_sliced(data: Data) -> tuple[Tensor, Tensor | None]:
    x, y, a, b, p = data
    value = barrow.sliced_wasserstein(x, y, a, b, p=p, n_projections=DIRECTIONS, generator=generator())
    return with_gradient(value, data.x)


def pot_sliced(data: Data) -> tuple[Tensor, Tensor | None]:
    import ot

    x, y, a, b, p = data
    value = ot.sliced_wasserstein_distance(x, y, a, b, p=p, projections=directions(data))
    return with_gradient(value, data.x)


def pot_sliced_numpy(data: Data) -> Any:
    import ot

    x, y, a, b = plain(data)
    return ot.sliced_wasserstein_distance(x, y, a, b, p=data.p, projections=directions(data).numpy())


SLICED = Case(
    name="sliced",
    contenders=(
        Contender("barrow sliced_wasserstein", "barrow", barrow_sliced, found),
        Contender("POT sliced_wasserstein, torch", "POT", pot_sliced, found),
        Contender("POT sliced_wasserstein, numpy", "POT", pot_sliced_numpy, bare, asks_for_a_value),
    ),
    settings=sliced_settings,
    make=draw,
    known=sliced_truth,
    judge=judge_value,
)
