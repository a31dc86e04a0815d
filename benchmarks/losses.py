"""Losses for training: Sinkhorn divergences with their gradients, large clouds, label histograms under one cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import barrow
from benchmarks import peers
from benchmarks.entropic import EFFORTS, GAP, Truth, make, own, pick
from benchmarks.harness import Case, Contender, Judged, Setting, Value
from benchmarks.peers import Clouds, Potentials, ladder

# -- the divergence and its gradient -----------------------------------------------------------------------------------


def settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (5000,):
        for task in ("5%", "0.5%", "5% +100"):
            yield Setting(n, n, 3, "uniform", task)


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor], data: Clouds) -> tuple[Tensor, Tensor]:
    x = data.x.clone().requires_grad_()
    value = loss(x, data.y)
    return value.detach(), torch.autograd.grad(value, x)[0]


def barrow_divergence(data: Clouds, effort: float) -> tuple[Tensor, Tensor]:
    """The tolerance is that of each of three terms, which are larger than the divergence: it is lowered, too."""
    tol = GAP / effort
    return with_gradient(lambda x, y: barrow.sinkhorn_divergence(x, y, epsilon=data.epsilon, tol=tol), data)


def geomloss_divergence(backend: str, scaling: float | None = None) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(data: Clouds, k: int = 1) -> tuple[Tensor, Tensor]:
        loss = peers.samples_loss(data.epsilon, scaling or 0.5 ** (1 / k), backend)
        return with_gradient(lambda x, y: 2 * loss(x, y), data)

    return run


def divergence_truth(data: Clouds) -> Value:
    double = Clouds(data.x.double(), data.y.double(), data.epsilon)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return barrow.sinkhorn_divergence(x, y, epsilon=data.epsilon, tol=GAP / 1000, max_steps=100_000)

    return found(with_gradient(loss, double))


def found(answer: tuple[Tensor, Tensor]) -> Value:
    return Value(float(answer[0]), answer[1].double())


def judge_divergence(known: Value, answer: Value) -> Judged:
    """The error of the value, or a tenth of that of the gradient (largest entry by largest entry), if that is more."""
    off = abs(answer.value - known.value) / abs(known.value)
    assert known.gradient is not None
    assert answer.gradient is not None
    slope = float((answer.gradient - known.gradient).abs().max() / known.gradient.abs().max())
    return Judged(answer.value, max(off, slope / 10), f"value off by {off:.1g}, gradient by {slope:.1g}")


DIVERGENCE = Case(
    name="divergence",
    contenders=(
        Contender("barrow", "barrow", barrow_divergence, found, efforts=ladder(1, 1000), unit="times finer tol"),
        Contender("GeomLoss tensorized, scaling 0.5", "geomloss", geomloss_divergence("tensorized", 0.5), found),
        Contender("GeomLoss tensorized, scaling 0.9", "geomloss", geomloss_divergence("tensorized", 0.9), found),
        Contender("GeomLoss tensorized", "geomloss", geomloss_divergence("tensorized"), found, efforts=EFFORTS),
        Contender("GeomLoss online", "geomloss", geomloss_divergence("online"), found, efforts=EFFORTS, compiles=True),
        Contender(
            "GeomLoss multiscale", "geomloss", geomloss_divergence("multiscale"), found, efforts=EFFORTS, compiles=True
        ),
    ),
    settings=settings,
    make=make,
    known=divergence_truth,
    judge=judge_divergence,
    goal=lambda known: GAP,
)


# -- a hundred thousand points -----------------------------------------------------------------------------------------


class Around(NamedTuple):
    lower: float
    upper: float


def memory_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (100_000,):
        yield Setting(n, n, 3, "uniform", "5%")


def barrow_cost(data: Clouds) -> tuple[Tensor, Tensor]:
    """The gradient along with it."""
    return with_gradient(lambda x, y: barrow.sinkhorn_cost(x, y, epsilon=data.epsilon, tol=GAP), data)


def geomloss_cost(backend: str) -> Callable[[Clouds], tuple[Tensor, Tensor]]:
    def run(data: Clouds) -> tuple[Tensor, Tensor]:
        loss = peers.samples_loss(data.epsilon, 0.9, backend, debias=False)
        return with_gradient(lambda x, y: 2 * loss(x, y), data)

    return run


def bracket(data: Clouds) -> Around:
    asked = barrow.Problem(barrow.Points(data.x, data.y), epsilon=data.epsilon)
    bounds = barrow.solve(asked, barrow.Sinkhorn(tol=GAP)).bounds
    return Around(float(bounds.lower), float(bounds.upper))


def judge_around(known: Around, answer: Value) -> Judged:
    """The largest error that a value can have, given a certified bracket of the truth."""
    off = max(answer.value - known.lower, known.upper - answer.value) / abs(known.upper)
    return Judged(answer.value, off)


MEMORY = Case(
    name="memory",
    contenders=(
        Contender("barrow sinkhorn_cost", "barrow", barrow_cost, found),
        Contender("GeomLoss multiscale, scaling 0.9", "geomloss", geomloss_cost("multiscale"), found, compiles=True),
        Contender("GeomLoss online, scaling 0.9", "geomloss", geomloss_cost("online"), found, compiles=True),
    ),
    settings=memory_settings,
    make=make,
    known=bracket,
    judge=judge_around,
    limit_s=900,
    alone=True,
)


# -- histograms under one cost -----------------------------------------------------------------------------------------


class Histograms(NamedTuple):
    h: Tensor  # (B, n)
    t: Tensor
    C: Tensor  # (n, n), its largest entry 1
    epsilon: float
    by_gap: bool  # whether a certified gap is asked for, or as good marginals as ours


class Wanted(NamedTuple):
    asked: Truth
    data: Histograms
    marginals: float  # what ours are off, in all


def histogram_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    """Here m is the number of pairs of histograms."""
    for n in sizes or (1000,):
        for task in ("lambda=50, gap", "lambda=50, marginals"):
            yield Setting(n, 256, 0, "dirichlet", task)


def make_histograms(setting: Setting) -> Histograms:
    """Cuturi's (2013) random graphs: shortest paths, half of the edges there; histograms uniform on the simplex."""
    from scipy.sparse.csgraph import shortest_path

    n, r = setting.n, np.random.default_rng(0)
    length = r.uniform(size=(n, n)) * (r.uniform(size=(n, n)) < 0.5)
    C = torch.from_numpy(shortest_path(length, directed=False))
    h, t = (torch.from_numpy(r.dirichlet(np.ones(n), size=setting.m)).float() for _ in "ht")
    weight = float(setting.task.split("=")[1].split(",")[0])
    return Histograms(h, t, (C / C.max()).float(), 1 / weight, "gap" in setting.task)


def barrow_histograms(data: Histograms) -> barrow.Solution:
    h, t, C, epsilon, _ = data
    return barrow.solve(barrow.Problem(barrow.Dense(C), h, t, epsilon=epsilon), barrow.Sinkhorn(tol=GAP))


def plain_loop(data: Histograms, iterations: int) -> Potentials:
    """Cuturi's three lines: scalings against the kernel, all histograms at once."""
    h, t, C, epsilon, _ = data
    K, v = torch.exp(-C / epsilon), torch.ones_like(t)
    for _ in range(iterations):
        u = h / (v @ K.T)
        v = t / (u @ K)
    return Potentials(epsilon * (u.log() - h.log()), epsilon * (v.log() - t.log()))


def off_marginals(data: Histograms, answer: Potentials) -> float:
    """What the plan of these potentials lacks or has too much in its marginals, on average over the problems."""
    f, g = (t.double() for t in answer)
    K = torch.exp(-data.C.double() / data.epsilon)
    u, v = data.h * (f / data.epsilon).exp(), data.t * (g / data.epsilon).exp()
    rows, cols = u * (v @ K.T), v * (u @ K)
    return float(((rows - data.h).abs().sum(-1) + (cols - data.t).abs().sum(-1)).mean())


def wanted(data: Histograms) -> Wanted:
    asked = barrow.Problem(barrow.Dense(data.C.double()), data.h.double(), data.t.double(), epsilon=data.epsilon)
    found = barrow_histograms(data)
    return Wanted(Truth(asked, found.value), data, off_marginals(data, own(found)))


def judge_histograms(known: Wanted, answer: Potentials) -> Judged:
    (asked, _), data, _ = known
    f, g = (t.double() for t in answer)
    bounds = barrow.certify(asked, f=f, g=g)
    gap = float(((bounds.upper - bounds.lower) / bounds.upper.abs()).max())
    off = off_marginals(data, answer)
    value = float((data.h * f).sum() + (data.t * g).sum())
    note = f"gap {gap:.1g}, marginals off by {off:.1g}"
    return Judged(value, gap if data.by_gap else off, note)


HISTOGRAMS = Case(
    name="histograms",
    contenders=(
        Contender("barrow solve", "barrow", barrow_histograms, own),
        Contender("torch, three lines", "torch", plain_loop, pick, efforts=ladder(1, 100_000)),
    ),
    settings=histogram_settings,
    make=make_histograms,
    known=wanted,
    judge=judge_histograms,
    goal=lambda known: GAP if known.data.by_gap else known.marginals,
)
