"""The figures of the study ``sinkhorn-svm``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import barrow
from barrow.studies import palette
from barrow.studies.sinkhorn_svm.speed import LAMBDAS, TOGETHER
from barrow.studies.study import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADES = {1.0: "#e8a27c", 10.0: palette.TARGET, 50.0: "#8c3510"}
# Those that know the ground metric are in colour.
COLOURS = {
    "Sinkhorn": palette.TARGET, "exact transport": palette.SOURCE, "independence": palette.PROVED,
    "Hellinger": "#7a5195", "χ²": "#b08ac4", "total variation": "#70757d", "squared Euclidean": "#a9aeb6",
}  # fmt: skip
PLANS = (9, 50)  # λ that are drawn; exact transport comes last
SHOWN = 0.01  # of the largest entry of a plan: smaller ones are not seen anyway


def of_errors(errors: Mapping[int, Mapping[str, Sequence[float]]], own: str) -> Figure:
    """Errors against the number of images, and each fold's against ``own``."""
    figure = palette.sheet(12, 4.8)
    curves, folds = figure.subplots(1, 2, width_ratios=(1.15, 1))
    draw_errors(curves, errors)
    exact = max(n for n in errors if len(errors[n]) == max(len(e) for e in errors.values()))
    draw_folds(folds, errors[exact], own, exact)
    return figure


def draw_errors(ax: Axes, errors: Mapping[int, Mapping[str, Sequence[float]]]) -> None:
    """A curve a family; the bars beside one another are standard deviations over the folds."""
    for k, (family, colour) in enumerate(COLOURS.items()):
        sizes = [n for n in errors if family in errors[n]]
        spreads = [Spread.of(100 * e for e in errors[n][family]) for n in sizes]
        places = [n * 1.018 ** (k - 3) for n in sizes]
        ax.errorbar(
            places, [s.mean for s in spreads], [s.std for s in spreads], color=colour, marker="o", markersize=5,
            linewidth=2.6 if k == 0 else 1.6, elinewidth=1, capsize=2, label=family, zorder=3 if k == 0 else 2,
        )  # fmt: skip
    _ticks(ax, list(errors))
    ax.set_ylim(bottom=0)
    palette.dress(ax, "Errors on held-out digits", "images (a quarter to train on)", "test error, %")
    ax.legend(frameon=False, fontsize=9, loc="lower left", ncols=2)


def draw_folds(ax: Axes, errors: Mapping[str, Sequence[float]], own: str, n: int) -> None:
    """How much more the others err, fold by fold, and the mean."""
    others = [family for family in COLOURS if family in errors and family != own]
    for row, family in enumerate(reversed(others)):
        more = [100 * (e - o) for e, o in zip(errors[family], errors[own], strict=True)]
        jitter = [row + 0.22 * ((k * 0.618) % 1 - 0.5) for k in range(len(more))]
        ax.scatter(more, jitter, s=20, color=COLOURS[family], alpha=0.45, linewidths=0)
        mean = statistics.fmean(more)
        ax.plot([mean, mean], [row - 0.28, row + 0.28], color=COLOURS[family], linewidth=3)
        ax.text(mean, row + 0.32, f"{mean:+.1f}", ha="center", va="bottom", fontsize=9.5, color=palette.TRUTH)
    ax.axvline(0, color=palette.TARGET, linewidth=1.8)
    palette.dress(ax, f"How much more they err than {own}", f"difference of test errors, %, {n} images", "")
    ax.set_yticks(range(len(others)), list(reversed(others)))
    ax.set_ylim(-0.6, len(others) - 0.2)
    ax.grid(False, axis="y")


def of_speed(speed: Mapping[int, Mapping[str, Any]], gaps: Mapping[int, Sequence[float]]) -> Figure:
    """Seconds, iterations, and what is lost."""
    figure = palette.sheet(15, 5)
    seconds, steps, lost = figure.subplots(1, 3)
    draw_seconds(seconds, speed)
    draw_steps(steps, speed)
    draw_gaps(lost, gaps)
    return figure


def draw_seconds(ax: Axes, speed: Mapping[int, Mapping[str, Any]]) -> None:
    """Milliseconds a distance, as the number of bins grows; dashed where many are found at once."""
    from matplotlib.lines import Line2D

    sizes = list(speed)
    names = speed[sizes[0]]["seconds"]
    handles = []
    for name in names:
        lam = next((lam for lam in LAMBDAS if f"Sinkhorn, λ = {lam:g}" in (name, name.rsplit(",", 1)[0])), None)
        colour = palette.SOURCE if lam is None else SHADES[lam]
        style: Any = ":" if "ot." in name else "-." if "Auto" in name else "--" if "at once" in name else "-"
        values = [speed[d]["seconds"][name] * 1e3 for d in sizes]
        ax.plot(sizes, values, marker="o", markersize=3.5, linewidth=1.8, color=colour, linestyle=style)
        if "at once" not in name:
            handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=name))
    handles.append(Line2D([], [], color=palette.PLAN, linestyle="--", label=f"{TOGETHER} at once, each"))
    _ticks(ax, sizes)
    ax.set_yscale("log")
    palette.dress(ax, "Time for one distance", "bins d", "milliseconds")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
    ax.legend(handles=handles, frameon=False, fontsize=9, loc="upper left")


def draw_steps(ax: Axes, speed: Mapping[int, Mapping[str, Any]]) -> None:
    """Iterations until the distance stands, as the number of bins grows: the bar is from the least to the most."""
    sizes = list(speed)
    for lam in LAMBDAS:
        counts = [speed[d]["steps"][f"{lam:g}"] for d in sizes]
        means = [statistics.fmean(c) for c in counts]
        ax.fill_between(
            sizes, [min(c) for c in counts], [max(c) for c in counts], color=SHADES[lam], alpha=0.18, linewidth=0
        )
        ax.plot(sizes, means, color=SHADES[lam], marker="o", markersize=3.5, linewidth=2)
        ax.annotate(
            f"λ = {lam:g}",
            (sizes[0], means[0]),
            xytext=(2, 6),
            textcoords="offset points",
            fontsize=9.5,
            color=SHADES[lam],
        )
    _ticks(ax, sizes)
    ax.set_yscale("log")
    palette.dress(ax, "Iterations until it changes by less than 1e-4", "bins d", "iterations")


def _ticks(ax: Axes, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(d) for d in sizes])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_gaps(ax: Axes, gaps: Mapping[int, Sequence[float]]) -> None:
    """Boxes from quartile to quartile; whiskers leave out a twentieth on each side."""
    boxes = ax.boxplot(
        [[100 * gap for gap in values] for values in gaps.values()], whis=(5, 95), showfliers=False, widths=0.55,
        patch_artist=True, medianprops={"color": palette.TRUTH, "linewidth": 1.6},
        whiskerprops={"color": palette.PLAN}, capprops={"color": palette.PLAN},
    )  # fmt: skip
    for box in boxes["boxes"]:
        box.set(facecolor=palette.TARGET, alpha=0.55, linewidth=0)
    for place, values in enumerate(gaps.values(), 1):
        middle = 100 * statistics.median(values)
        ax.annotate(f"{middle:.3g}", (place + 0.3, middle), va="center", fontsize=9, color=palette.TRUTH)
    ax.set_yscale("log")
    palette.dress(ax, "Above exact transport: pairs of digits", "λ, over the median of M", "gap, %")
    ax.set_xticks(range(1, 1 + len(gaps)), [str(lam) for lam in gaps])
    ax.set_xlim(0.4, len(gaps) + 1.1)


def of_plans(a: Tensor, b: Tensor, M: Tensor, side: int) -> Figure:
    """Where the ink goes, at several lambda."""
    figure = palette.sheet(12.5, 4.7)
    panels = figure.subplots(1, 1 + len(PLANS))
    plans = {
        f"λ = {lam:g}" if lam < math.inf else "exact transport": barrow.solve(
            barrow.Problem(barrow.Dense(M), a, b, epsilon=1 / lam)
        ).plan.dense()
        for lam in (*PLANS, math.inf)
    }
    most = max(float(P.max()) for P in plans.values())
    for ax, (name, P) in zip(panels, plans.items(), strict=True):
        draw_plan(ax, a, b, P, most, side, f"{name}: cost {float((P * M).sum()):.3f}")
    return figure


def draw_plan(ax: Axes, a: Tensor, b: Tensor, P: Tensor, most: float, side: int, title: str) -> None:
    """Two digits on one grid, ink as dots; a line between pixels is the broader the nearer its mass is to ``most``."""
    from matplotlib.collections import LineCollection

    places = (
        torch.stack(torch.meshgrid(torch.arange(side), -torch.arange(side), indexing="xy"), -1).reshape(-1, 2).double()
    )
    rows, cols = (SHOWN * P.max() < P).nonzero(as_tuple=True)
    weight = P[rows, cols] / most
    lines = LineCollection(
        list(torch.stack((places[rows], places[cols]), 1).numpy()), colors=palette.TRUTH,
        linewidths=(0.4 + 2.4 * weight).tolist(), alpha=(0.08 + 0.77 * weight).tolist(), zorder=2,
    )  # fmt: skip
    for w, colour in ((a, palette.SOURCE), (b, palette.TARGET)):
        x, y = places[w > 0].T.numpy()
        ink = 90 * (20 / side) ** 2 * w[w > 0] / w.max()
        ax.scatter(x, y, s=ink.numpy(), color=colour, alpha=0.6, linewidths=0, zorder=1)
    ax.add_collection(lines)
    ax.set_aspect("equal")
    ax.set_xlim(-0.7, side - 0.3)
    ax.set_ylim(-side + 0.3, 0.7)
    ax.axis("off")
    palette.entitle(ax, title)
