"""Pictures of the study of breathing spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

import barrow
from barrow.studies import palette
from barrow.studies.data import belt
from barrow.studies.spectrum import breathing
from barrow.studies.spectrum.breathing import Windows, peak_rate
from barrow.studies.spectrum.training import EMD, LOSSES, RATE, Found, Task
from barrow.studies.study import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "MSE": palette.TARGET,
    "L1": palette.blend(palette.TARGET, "#ffffff", 0.45),
    "KL": palette.TRUTH,
    "EMD": palette.blend(palette.SOURCE, "#9fd0ff", 0.6),
    "EMD²": palette.SOURCE,
    "Sinkhorn": palette.PROVED,
}
SHOWN = ("MSE", "KL", "EMD²")
FAR = 10  # bins


def draw_curves(ax: Axes, found: Mapping[str, Sequence[Found]], which: int, goal: float, looks: Sequence[int]) -> None:
    """An error of every loss against steps."""
    for how, runs in found.items():
        curves = [[look[which] for look in run["curve"]] for run in runs]
        spreads = [Spread.of(errors) for errors in zip(*curves, strict=True)]
        band, width = (0.13, 2.2) if how in SHOWN else (0, 1.5)
        palette.trend(ax, looks, spreads, COLOURS[how], band=band, linewidth=width, label=how)
    ax.axhline(goal, color=palette.PLAN, linewidth=1.4, linestyle=(0, (4, 2)))
    ax.set_yscale("log")
    ticks = [0.5, 1, 2, 4, 8, 16]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def training(
    found: Mapping[str, Mapping[str, Sequence[Found]]], goals: Mapping[str, Mapping[int, float]], looks: Sequence[int]
) -> Figure:
    """A row for each task: the error of the rate, and the EMD."""
    figure = palette.sheet(12, 4.2 * len(found))
    for (rates, emds), (name, runs) in zip(figure.subplots(len(found), 2, squeeze=False), found.items(), strict=True):
        title = name[0].upper() + name[1:]
        for ax, which, what in ((rates, RATE, "error of the rate"), (emds, EMD, "EMD")):
            draw_curves(ax, runs, which, goals[name][which], looks)
            palette.dress(ax, f"{title}: {what}", "step", "breaths/min")
        emds.legend(frameon=False, fontsize=9, ncols=2)
    return figure


def gradients(windows: Windows) -> Figure:
    """One spectrum and a prediction that is too fast: the pushes on its bins, and the losses as it is moved."""
    truth = windows.spectra[int((peak_rate(windows.spectra, windows.hertz) - 16).abs().argmin())]
    guess = truth.roll(FAR).requires_grad_()
    axis = (60 * windows.hertz).tolist()
    figure = palette.sheet(14, 4.2)
    spectra, pushes, shifts = figure.subplots(1, 3)
    spectra.fill_between(axis, truth.tolist(), color=palette.PLAN, alpha=0.5, linewidth=0, label="truth")
    spectra.plot(axis, guess.tolist(), color=palette.TRUTH, linewidth=2, label="prediction")
    moves = range(-FAR, FAR + 1)
    moved = torch.stack([truth.roll(move) for move in moves])
    for how in ("MSE", "KL", "EMD", "EMD²"):
        if how != "KL":
            (grad,) = torch.autograd.grad(LOSSES[how](barrow.tangent(guess), truth), guess)
            pushes.plot(axis, (-grad / grad.abs().max()).tolist(), color=COLOURS[how], linewidth=2, label=how)
        value = LOSSES[how](moved, truth.expand_as(moved))
        away = [move * windows.spacing for move in moves]
        shifts.plot(away, (value / value.max()).tolist(), color=COLOURS[how], linewidth=2, label=how)
    pushes.set_yticks([-1, 0, 1], ["less mass", "0", "more mass"])
    palette.dress(spectra, "Ten bins too fast", "breaths/min", "share of the power")
    palette.dress(pushes, "The push on every bin", "breaths/min")
    palette.dress(shifts, "The loss as the peak is moved", "moved by, breaths/min", "share of the largest")
    spectra.legend(frameon=False, fontsize=9)
    pushes.legend(frameon=False, fontsize=9)
    shifts.legend(frameon=False, fontsize=9, loc="upper center")
    return figure


def examples(tasks: Sequence[Task], found: Mapping[str, Mapping[str, Sequence[Found]]]) -> Figure:
    """Three windows, and below them their spectra as they are and as they are predicted."""
    tests = {test: (task, windows) for task in reversed(tasks) for test, windows in task.tests.items()}
    picked = [(test, k) for test in tests for k in ((1, 2, 3) if len(tests) == 1 else (1,))]
    figure = palette.sheet(14, 5.8)
    grid = figure.subplots(2, len(picked), squeeze=False)
    seconds = (torch.arange(breathing.LENGTH) / belt.RATE).tolist()
    for column, (test, k) in enumerate(picked):
        task, windows = tests[test]
        row = k * max(1, len(windows) // 4)
        signal, spectra = grid[:, column]
        signal.plot(seconds, windows.noisy[row].tolist(), color=palette.PLAN, linewidth=0.9)
        axis = (60 * windows.hertz).tolist()
        spectra.fill_between(axis, windows.spectra[row].tolist(), color=palette.PLAN, alpha=0.5, linewidth=0)
        for how in SHOWN:
            h = found[task.name][how][0]["examples"][test][k]
            spectra.plot(axis, h.tolist(), color=COLOURS[how], linewidth=1.8, label=how)
        palette.dress(signal, test[0].upper() + test[1:], "seconds", "belt" if column == 0 else "")
        palette.dress(spectra, "", "breaths/min", "share of the power" if column == 0 else "")
    grid[1, 0].legend(frameon=False, fontsize=9)
    return figure
