"""Entropic transport between clouds: one sweep, whole solves to the same certified gap, many small ones in a call.

Everybody is handed the same single-precision points. A contender's potentials are judged by ``barrow.certify`` in
double precision; iterations are raised until that gap is small enough, and only the run with the least sufficient
number is timed: peers are told beforehand what ours has to find out, and ours includes its own proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import barrow
from benchmarks import peers
from benchmarks.harness import Case, Contender, Judged, Setting
from benchmarks.peers import Clouds, Potentials, blocks, ladder

GAP = 1e-3
FAR = 100.0  # how far both clouds of a "+100" setting are from the origin
EFFORTS = ladder(2, 100_000)
BLOCKS = blocks(EFFORTS)


def make(setting: Setting) -> Clouds:
    """Gaussian clouds half a unit apart in every coordinate; the task says epsilon in percent of the mean cost."""
    r = np.random.default_rng(0)
    x, y = r.normal(size=(setting.n, setting.d)), r.normal(size=(setting.m, setting.d)) + 0.5
    return prepare(x, y, setting.task)


def prepare(x: np.ndarray, y: np.ndarray, task: str) -> Clouds:
    mean = (x**2).sum(-1).mean() + (y**2).sum(-1).mean() - 2 * (x.mean(-2) * y.mean(-2)).sum(-1).mean()
    far = FAR if "+100" in task else 0.0
    points = (torch.from_numpy(t + far).float() for t in (x, y))
    return Clouds(*points, epsilon=float(task.split("%")[0]) / 100 * float(mean))


# -- one sweep ---------------------------------------------------------------------------------------------------------


class Sweep(NamedTuple):
    x: Tensor
    y: Tensor
    h: Tensor  # a potential that one step has made, with epsilon log b
    epsilon: float
    C: Tensor  # for those that keep it


def sweep_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (10_000,):
        for d in (3, 64):
            yield Setting(n, n, d, "uniform", "5%")
        yield Setting(n, n, 3, "uniform", "5% +100")


def make_sweep(setting: Setting) -> Sweep:
    x, y, epsilon = make(setting)
    log_b = epsilon * np.log(1 / len(y))
    h = reference(y, x, torch.full((len(x),), epsilon * np.log(1 / len(x))), epsilon) + log_b
    return Sweep(x, y, h.float(), epsilon, squares(x, y))


def squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def reference(x: Tensor, y: Tensor, h: Tensor, epsilon: float) -> Tensor:
    """In double precision, by differences."""
    y, h = y.double(), h.double()
    parts = (torch.logsumexp((h - squares(part.double(), y)) / epsilon, -1) for part in x.split(500))
    return -epsilon * torch.cat(list(parts))


def barrow_sweep(data: Sweep) -> Tensor:
    return barrow.Points(data.x, data.y).softmin(data.h, data.epsilon, -1)


def dense_sweep(data: Sweep) -> Tensor:
    return -data.epsilon * torch.logsumexp((data.h - torch.cdist(data.x, data.y).square()) / data.epsilon, -1)


def kept_sweep(data: Sweep) -> Tensor:
    return -data.epsilon * torch.logsumexp((data.h - data.C) / data.epsilon, -1)


def judge_sweep(known: Tensor, answer: Tensor) -> Judged:
    """The mean, and the largest error in units of the mean's size."""
    return Judged(float(answer.double().mean()), float((answer.double() - known).abs().max() / known.abs().mean()))


SWEEP = Case(
    name="sweep",
    contenders=(
        Contender("barrow softmin", "barrow", barrow_sweep, torch.Tensor.clone),
        Contender("torch, from points", "torch", dense_sweep, torch.Tensor.clone),
        Contender("torch, matrix kept", "torch", kept_sweep, torch.Tensor.clone),
        Contender("KeOps", "pykeops", lambda data: peers.keops_softmin(*data[:4]), torch.Tensor.clone, compiles=True),
        Contender("OTT", "ott-jax", lambda data: peers.ott_softmin(*data[:4]), torch.Tensor.clone, compiles=True),
    ),
    settings=sweep_settings,
    make=make_sweep,
    known=lambda data: reference(*data[:4]),
    judge=judge_sweep,
)


# -- to a certified gap ------------------------------------------------------------------------------------------------


class Truth(NamedTuple):
    problem: barrow.Problem
    value: Tensor  # the value of a problem, or those of a batch


def settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (10_000,):
        for d in (3, 64):
            for task in ("5%", "0.5%"):
                yield Setting(n, n, d, "uniform", task)
        yield Setting(n, n, 3, "uniform", "5% +100")


def problem(data: Clouds) -> barrow.Problem:
    return barrow.Problem(barrow.Points(data.x, data.y), epsilon=data.epsilon)


def truth(data: Clouds) -> Truth:
    """The dual value is off by far less than the gap."""
    asked = problem(Clouds(data.x.double(), data.y.double(), data.epsilon))
    return Truth(asked, barrow.solve(asked, barrow.Sinkhorn(tol=GAP / 10, max_steps=100_000)).value)


def barrow_solve(data: Clouds) -> barrow.Solution:
    return barrow.solve(problem(data), barrow.Sinkhorn(tol=GAP))


def own(found: barrow.Solution) -> Potentials:
    return Potentials(found.f, found.g)


def judge(known: Truth, answer: Potentials) -> Judged:
    """The value that the potentials claim, and their certified gap, the largest of a batch."""
    f, g = (t.double() for t in answer)
    claimed = f.mean(-1) + g.mean(-1)
    bounds = barrow.certify(known.problem, f=f, g=g)
    gap = ((bounds.upper - bounds.lower) / bounds.upper.abs()).max()
    off = (claimed - known.value).abs().sum() / known.value.abs().sum()
    # Not "off > GAP": a claim that is no number is off too.
    note = "" if off <= GAP else f"the value is off by {float(off):.1g}"
    return Judged(float(claimed.sum()), float(gap), note)


def pick(found: Any) -> Any:
    return found


def is_plain(setting: Setting) -> bool:
    """GeomLoss's multiscale mode is for low dimensions."""
    return setting.d <= 3


SINKHORN = Case(
    name="sinkhorn",
    contenders=(
        Contender("barrow solve", "barrow", barrow_solve, own),
        Contender("POT sinkhorn_log", "POT", peers.pot("sinkhorn_log"), pick, efforts=EFFORTS),
        Contender("POT sinkhorn", "POT", peers.pot("sinkhorn"), pick, efforts=EFFORTS),
        Contender("GeomLoss tensorized, scaling 0.5", "geomloss", peers.geomloss("tensorized", 0.5), pick),
        Contender("GeomLoss tensorized, scaling 0.9", "geomloss", peers.geomloss("tensorized", 0.9), pick),
        Contender("GeomLoss tensorized", "geomloss", peers.geomloss("tensorized"), pick, efforts=EFFORTS),
        Contender("GeomLoss online", "geomloss", peers.geomloss("online"), pick, efforts=EFFORTS, compiles=True),
        Contender(
            "GeomLoss multiscale",
            "geomloss",
            peers.geomloss("multiscale"),
            pick,
            takes=is_plain,
            efforts=EFFORTS,
            compiles=True,
        ),
        Contender("OTT", "ott-jax", peers.ott(), pick, efforts=BLOCKS, compiles=True),
        Contender("OTT momentum", "ott-jax", peers.ott(momentum=True), pick, efforts=BLOCKS, compiles=True),
        Contender("OTT schedule", "ott-jax", peers.ott(schedule=20.0), pick, efforts=BLOCKS, compiles=True),
    ),
    settings=settings,
    make=make,
    known=truth,
    judge=judge,
    goal=lambda known: GAP,
)


# -- many small problems -----------------------------------------------------------------------------------------------


def small_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    """Here m is the number of problems."""
    for n in sizes or (128,):
        for task in ("5%", "0.5%"):
            yield Setting(n, 512, 16, "uniform", task)


def make_small(setting: Setting) -> Clouds:
    r = np.random.default_rng(0)
    shape = (setting.m, setting.n, setting.d)
    return prepare(r.normal(size=shape), r.normal(size=shape) + 0.5, setting.task)


MANYSMALL = Case(
    name="manysmall",
    contenders=(
        Contender("barrow solve", "barrow", barrow_solve, own),
        Contender("POT solve_batch", "POT", peers.pot_batch, pick, efforts=EFFORTS),
        Contender("GeomLoss tensorized, scaling 0.5", "geomloss", peers.geomloss("tensorized", 0.5), pick),
        Contender("GeomLoss tensorized, scaling 0.9", "geomloss", peers.geomloss("tensorized", 0.9), pick),
        Contender("GeomLoss tensorized", "geomloss", peers.geomloss("tensorized"), pick, efforts=EFFORTS),
        Contender("OTT vmap", "ott-jax", peers.ott(), pick, efforts=BLOCKS, compiles=True),
    ),
    settings=small_settings,
    make=make_small,
    known=truth,
    judge=judge,
    goal=lambda known: GAP,
)
