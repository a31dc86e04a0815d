"""Figures of a solved problem and of an estimate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from barrow import Plan, SparsePlan
from barrow.cli import files
from barrow.cli.complaint import Complaint
from barrow.estimate import Estimate
from barrow.studies import need, palette
from barrow.studies.digits import principal_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARCS = 3000  # more lines than this are a blot


def plottable(path: Path) -> Path:
    """Refuse a path that matplotlib cannot write a figure to, before any work is done."""
    need("matplotlib")
    known = sorted(_figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise Complaint(
            f"plot {path} has the suffix {path.suffix or '(none)'!r}, but figures are written as "
            f".png, .pdf or .svg (matplotlib also knows {', '.join(known)})"
        )
    return files.writable(path, "plot")


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all."""
    files.write(path, lambda sibling: figure.savefig(sibling))


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(8, 6.5), dpi=150, layout="constrained", facecolor="white")


def arcs(plan: Plan, most: int = ARCS) -> tuple[Tensor, Tensor, Tensor, int]:
    """The heaviest arcs (rows, cols, mass) of a plan, and how many there are in all."""
    if isinstance(plan, SparsePlan):
        rows, cols, mass = plan.rows, plan.cols, plan.mass
        count = int((mass > 0).sum())
        keep = mass.topk(min(most, count)).indices
        return rows[keep], cols[keep], mass[keep], count
    found: list[tuple[Tensor, Tensor]] = []
    m, count = plan.shape[-1], 0
    for start, stop in plan.chunks():
        block = plan.block(start, stop).flatten()
        count += int((block > 0).sum())
        top = block.topk(min(most, block.numel()))
        found.append((top.indices + start * m, top.values))
    index, mass = (torch.cat(parts) for parts in zip(*found, strict=True))
    top = mass.topk(min(most, mass.numel()))
    keep = top.indices[top.values > 0]
    return index[keep] // m, index[keep] % m, mass[keep], count


def draw_plan(x: files.Measure, y: files.Measure, plan: Plan, title: str) -> Figure:
    """Both clouds and who goes where: in the plane, in principal coordinates, or between two lines."""
    from matplotlib.collections import LineCollection

    figure = _figure()
    ax = figure.subplots()
    points = [t.points.double() for t in (x, y)]
    d = points[0].shape[1]
    rows, cols, mass, count = arcs(plan)
    drawn = "" if len(mass) == count else f", the {len(mass)} heaviest of {count} arcs"
    if d == 1:
        flat = [torch.cat((t, torch.full_like(t, height)), 1) for t, height in zip(points, (1.0, 0.0), strict=True)]
        names = ("position", "")
    elif d == 2:
        flat, names = points, ("first coordinate", "second coordinate")
    else:
        mean, axes = principal_axes(torch.cat(points))
        flat, names = [(t - mean) @ axes for t in points], ("first principal coordinate", "second principal coordinate")
    start, end = flat[0][rows], flat[1][cols]
    # On a line an arc leaves and arrives vertically, so that neighbours stay apart; elsewhere it is straight.
    s = torch.linspace(0, 1, 24 if d == 1 else 2, dtype=torch.float64)[:, None, None]
    bend = 3 * s**2 - 2 * s**3
    path = torch.cat((start[:, :1] + bend * (end - start)[:, :1], start[:, 1:] + s * (end - start)[:, 1:]), -1)
    heaviest = float(mass.max()) if len(mass) else 1.0
    crowding = min(1.0, (400 / max(len(mass), 1)) ** 0.5)
    alphas = (0.08 + 0.7 * crowding * mass.double() / heaviest).clamp(max=0.85)
    segments = list(path.transpose(0, 1).numpy())
    ax.add_collection(LineCollection(segments, colors=palette.PLAN, linewidths=0.9, alpha=alphas.numpy(), zorder=1))
    for cloud, measure, colour in zip(flat, (x, y), (palette.SOURCE, palette.TARGET), strict=True):
        share = torch.ones(len(cloud)) if measure.weights is None else measure.weights.double() / measure.weights.max()
        area = (3 + 30 * share) * min(1.0, math.sqrt(300 / len(cloud)))
        label = f"{measure.path.name} ({len(cloud)} points)"
        horizontal, vertical = cloud.T.numpy()
        ax.scatter(horizontal, vertical, s=area.numpy(), color=colour, linewidths=0, alpha=0.9, zorder=2, label=label)
    palette.dress(ax, title, names[0] + drawn, names[1])
    if d == 1:
        ax.set_ylim(-0.15, 1.15)
        ax.set_yticks([0, 1], [y.path.name, x.path.name])
        ax.grid(False, axis="y")
    else:
        ax.set_aspect("equal", adjustable="datalim")
        ax.legend(loc="best", frameon=False, fontsize=9)
    return figure


def draw_training(curve: list[tuple[int, float]], found: Estimate) -> Figure:
    """The critic's objective in training, and the bracket that fresh samples gave."""
    figure = _figure()
    ax = figure.subplots()
    steps, values = zip(*curve, strict=True)
    label = f"truth in [{found.lower:.5g}, {found.upper:.5g}] with confidence {found.confidence:g}"
    ax.axhspan(found.lower, found.upper, color=palette.PROVED, alpha=0.18, linewidth=0, label=label)
    ax.axhline(found.value, color=palette.TARGET, linewidth=1.4, linestyle=(0, (5, 2)), label="value on fresh samples")
    ax.plot(steps, values, color=palette.SOURCE, linewidth=2, label="training objective")
    title = f"W₁ between the laws = {found.value:.5g} ± {found.stderr:.1g}"
    palette.dress(ax, title, "training step", "mean f(x) − mean f(y)")
    ax.set_xlim(0, steps[-1])
    ax.legend(loc="best", frameon=False, fontsize=9)
    return figure
