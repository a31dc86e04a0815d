"""How a critic of the W_1 benchmark is judged: by fresh samples, over its certified Lipschitz bound."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import final

import torch
from torch import nn

from barrow.nn import lipschitz_bound
from barrow.studies.w1benchmark.funnels import Funnels

PART = 4096  # samples that are judged at a time


@final
@dataclasses.dataclass(frozen=True)
class Score:
    """A critic f judged on fresh samples: mean f(x) - mean f(y) over its certified bound, and its gradients.

    ``error`` is relative to the truth and signed, ``stderr`` its standard error; ``cosine`` is between grad f and
    -grad u at samples of x, ``l2`` the mean length of their difference.
    """

    value: float
    bound: float
    error: float
    stderr: float
    cosine: float
    l2: float


@final
@dataclasses.dataclass(frozen=True)
class Row:
    """A pair and what both critics made of it.

    ``spread`` is the standard deviation of a move's length, ``residual`` the greatest | u(y) - u(x) - |x - y| | seen.
    """

    d: int
    count: int
    truth: float
    stderr: float
    spread: float
    residual: float
    cones: Score
    network: Score


def judge(funnels: Funnels, truth: float, critic: nn.Module, n: int, generator: torch.Generator, sign: float) -> Score:
    """Judge f = sign * critic on n fresh samples.

    Coupled samples make the error exact to more digits: f(x) - f(y) is compared with |x - y| move by move, and the
    truth takes the place of the mean of |x - y|.
    """
    bound = lipschitz_bound(critic)
    critic = wide(critic)
    short, cosines, apart = [], [], []
    for start in range(0, n, PART):
        x, y = funnels.sample(min(PART, n - start), generator)
        x.requires_grad_()
        f_x = sign * critic(x)
        (slope,) = torch.autograd.grad(f_x.sum(), x)
        with torch.no_grad():
            short.append((f_x - sign * critic(y)) / bound - (x - y).norm(dim=-1))
            best = -funnels.slope(x)
            cosines.append(nn.functional.cosine_similarity(slope, best, dim=-1))
            apart.append((slope - best).norm(dim=-1))
    lost, cosine, l2 = (torch.cat(t) for t in (short, cosines, apart))
    return Score(
        value=truth + float(lost.mean()),
        bound=bound,
        error=float(lost.mean()) / truth,
        stderr=float(lost.std()) / math.sqrt(n) / truth,
        cosine=float(cosine.mean()),
        l2=float(l2.mean()),
    )


def wide(critic: nn.Module) -> nn.Module:
    """The stored weights, which the certificate is about, in double precision."""
    if not isinstance(critic, nn.Sequential):
        return critic.double()
    return nn.Sequential(*(getattr(layer, "to_linear", lambda layer=layer: layer)() for layer in critic)).double()


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Absolute errors in percent, cosines and l2 over the pairs."""
    errors = [100 * abs(score.error) for score in scores]
    return {
        "mean": statistics.fmean(errors),
        "median": statistics.median(errors),
        "max": max(errors),
        "cosine": statistics.fmean(score.cosine for score in scores),
        "least cosine": min(score.cosine for score in scores),
        "l2": statistics.fmean(score.l2 for score in scores),
    }
