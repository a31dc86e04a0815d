"""A network from noisy windows to spectra: the losses, one training, and when it arrives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

import barrow
from barrow.studies.spectrum import breathing
from barrow.studies.spectrum.breathing import BINS, Windows, median_rate, peak_rate

EPSILON = 0.05  # of the whole axis
LINE = torch.linspace(0, 1, BINS)[:, None]
ADAM, SGD = "Adam", "SGD"
Found = dict[str, Any]
Errors = tuple[float, float, float]  # of the rate by the peak, in EMD, of the rate by the median: breaths/min
RATE, EMD, MEDIAN = 0, 1, 2

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MSE": lambda h, t: ((h - t) ** 2).sum(-1),
    "L1": lambda h, t: (h - t).abs().sum(-1),
    "KL": lambda h, t: (torch.xlogy(t, t) - t * h.clamp_min(1e-30).log()).sum(-1),
    "EMD": lambda h, t: barrow.emd_1d(h, t),
    "EMD²": lambda h, t: barrow.emd_1d(h, t, exponent=2),
    "Sinkhorn": lambda h, t: barrow.sinkhorn_divergence(LINE, LINE, h, t, p=1, epsilon=EPSILON),
}


@final
@dataclasses.dataclass(frozen=True)
class Task:
    """Windows to train on, to choose and time by, and to judge by; how to descend, at which rates, how often."""

    name: str
    train: Windows
    held: Windows
    tests: Mapping[str, Windows]
    descent: str
    rates: tuple[float, ...]
    seeds: int
    losses: tuple[str, ...] = tuple(LOSSES)


@final
@dataclasses.dataclass(frozen=True)
class Length:
    """Of a training: steps, and windows in each."""

    steps: int
    batch: int


def network(seed: int) -> nn.Module:
    """From windows (n, 600) to logits (n, 64): three strided convolutions and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (1, breathing.LENGTH)),
            nn.Conv1d(1, 16, 9, stride=2),
            nn.ReLU(),
            nn.Conv1d(16, 32, 9, stride=2),
            nn.ReLU(),
            nn.Conv1d(32, 64, 9, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 68, BINS),
        )


def errors(h: Tensor, windows: Windows) -> Errors:
    """Of predictions (n, 64), in the mean."""
    true = peak_rate(windows.spectra, windows.hertz)
    peak, median = ((rate(h, windows.hertz) - true).abs().mean() for rate in (peak_rate, median_rate))
    emd = barrow.emd_1d(h, windows.spectra, spacing=windows.spacing, normalise=True).mean()
    return float(peak), float(emd), float(median)


def looks(steps: int) -> list[int]:
    """When to look at the validation windows: every second step, later at every sixteenth part more.

    >>> looks(10), looks(70)[-4:]
    ([0, 2, 4, 6, 8, 10], [60, 63, 66, 70])
    """
    at = [0]
    while at[-1] < steps:
        at.append(min(steps, at[-1] + max(2, at[-1] // 16)))
    return at


def train(how: str, rate: float, task: Task, length: Length, seed: int) -> Found:
    """One network: errors on validation windows on the way, and on the others at the end.

    Adam cares little for the scale of a loss. For SGD, with momentum 0.9, each loss is divided by the norm of its
    gradient at the initial weights, so that a rate means the same first step for all.
    """
    model, random = network(seed), torch.Generator().manual_seed(seed)
    weights = list(model.parameters())

    def loss(rows: Tensor) -> Tensor:
        return LOSSES[how](model(task.train.noisy[rows]).softmax(-1), task.train.spectra[rows]).mean()

    if task.descent == SGD:
        first = torch.autograd.grad(loss(torch.arange(min(256, len(task.train)))), weights)
        rate /= float(torch.cat([g.flatten() for g in first]).norm())
        optimiser: torch.optim.Optimizer = torch.optim.SGD(weights, rate, momentum=0.9)
    else:
        optimiser = torch.optim.Adam(weights, rate)
    at, curve = set(looks(length.steps)), []
    order = torch.empty(0, dtype=torch.long)
    for step in range(length.steps + 1):
        if step in at:
            with torch.no_grad():
                curve.append(errors(model(task.held.noisy).softmax(-1), task.held))
        if step == length.steps:
            break
        if len(order) < length.batch:
            order = torch.randperm(len(task.train), generator=random)
        rows, order = order[: length.batch], order[length.batch :]
        optimiser.zero_grad()
        loss(rows).backward()
        optimiser.step()
    with torch.no_grad():
        last = {name: model(test.noisy).softmax(-1) for name, test in task.tests.items()}
    return {
        "curve": curve,
        "tests": {name: errors(h, task.tests[name]) for name, h in last.items()},
        "examples": {name: h[:: max(1, len(h) // 4)] for name, h in last.items()},
    }


def guesses(task: Task) -> dict[str, dict[str, Errors]]:
    """What needs no training: the best constant guess, on all windows, and the spectrum of the noisy belt as it is.

    The constant guess is the median rate, and the median of the cumulative spectra, the best for either error. Of the
    noisy belt, the peak is sought where breathing is, from 5 to 35 breaths a minute.
    """
    median = peak_rate(task.train.spectra, task.train.hertz).median()
    middle = task.train.spectra.cumsum(-1).median(0).values
    middle = middle.diff(prepend=middle.new_zeros(1))
    found = {}
    for name, windows in {"validation": task.held, **task.tests}.items():
        true = peak_rate(windows.spectra, windows.hertz)
        constant = float((true - median).abs().mean())
        own = breathing.spectrum(windows.noisy, windows.hertz)
        near = (windows.hertz >= 5 / 60) & (windows.hertz <= 35 / 60)
        peak, by_median = (
            float((rate(own[:, near], windows.hertz[near]) - true).abs().mean()) for rate in (peak_rate, median_rate)
        )
        found[name] = {
            "constant": (constant, errors(middle.expand_as(windows.spectra), windows)[EMD], constant),
            "as it is": (peak, errors(own, windows)[EMD], by_median),
        }
    return found


def chosen(tried: Mapping[float, Found], constant: Sequence[float]) -> float:
    """The learning rate with the least errors on validation windows, a mean over all looks at them.

    Of rate and EMD, each as a share of that of the ``constant`` guess: by the rate alone, where it is hard to find, a
    network that has stopped learning may be preferred.
    """
    return min(
        tried,
        key=lambda rate: sum(look[RATE] / constant[RATE] + look[EMD] / constant[EMD] for look in tried[rate]["curve"]),
    )


def arrival(errors: Sequence[float], goal: float, steps: int) -> int | None:
    """The first look at which, and at the next of which, the error is at most ``goal``.

    >>> arrival([9, 1, 9, 2, 1, 1], 3, 10)
    6
    """
    below = [error <= goal for error in errors]
    return next((at for at, one, two in zip(looks(steps), below, below[1:], strict=False) if one and two), None)


def arrivals(runs: Sequence[Found], which: int, goal: float, steps: int) -> list[int | None]:
    """Of every seed."""
    return [arrival([look[which] for look in run["curve"]], goal, steps) for run in runs]


def way(errors: Sequence[float], constant: float, step: float, steps: int) -> float:
    """How far an error has come on its way from the constant guess to its end after ``step``; 0 if it has none.

    >>> way([9.0, 6.0, 3.0, 2.0], 6.0, 4, 6)
    0.75
    """
    last = max(k for k, at in enumerate(looks(steps)) if at <= step)
    if errors[-1] >= constant:
        return 0.0
    return max(0.0, (constant - errors[last]) / (constant - errors[-1]))
