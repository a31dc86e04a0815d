"""Pictures of the W_1 benchmark: every pair's error, and critics of one pair in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from barrow.studies import palette
from barrow.studies.w1benchmark.funnels import BOX, Funnels
from barrow.studies.w1benchmark.judge import Row, Score
from barrow.studies.w1benchmark.pairs import DIMENSIONS, LP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 0.01  # percent of error that a figure tells from nothing
TICKS = torch.linspace(-BOX, BOX, 201, dtype=torch.float64)


class Plane(NamedTuple):
    """A pair in the plane, and the heights of its critics there."""

    funnels: Funnels
    cones: Tensor
    network: Tensor


def figure_of(rows: Sequence[Row], plane: Plane | None) -> Figure:
    """Errors and cosines of all pairs; below, where a pair in the plane was measured, the level sets of its critics."""
    figure = palette.sheet(15, 9)
    figure.suptitle(
        "Certified critics against known W₁", fontsize=15, fontweight="bold", color=palette.TRUTH, x=0.01, ha="left"
    )
    grid = figure.add_gridspec(2, 6)
    errors, cosines = (figure.add_subplot(grid[0, part]) for part in (slice(0, 3), slice(3, 6)))
    draw_dots(
        errors, rows, lambda score: max(100 * abs(score.error), FLOOR), LP[0], "Error of the estimate", "percent of W₁"
    )
    draw_dots(cosines, rows, lambda score: score.cosine, LP[3], "Cosine with the optimal gradient", "")
    errors.set_yscale("log")
    errors.set_ylim(FLOOR / 2, 200)
    errors.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    errors.legend(frameon=False, fontsize=9, loc="lower right")
    if plane is not None:
        with_truth = {
            "The optimal critic": levels(lambda z: -plane.funnels.potential(z)),
            "Cones, from samples": plane.cones,
            "Orthogonal network, from samples": plane.network,
        }
        for k, (title, heights) in enumerate(with_truth.items()):
            draw_levels(figure.add_subplot(grid[1, 2 * k : 2 * k + 2]), heights, plane.funnels, title)
    return figure


def draw_dots(
    ax: Axes, rows: Sequence[Row], value: Callable[[Score], float], published: float, title: str, label: str
) -> None:
    """One dot a pair and critic, larger where there are more funnels."""
    for kind, colour, shift in (("cones", palette.SOURCE, -0.15), ("network", palette.TARGET, 0.15)):
        places = [math.log2(row.d) + shift for row in rows]
        sizes = [14 + 22 * math.log2(row.count) / 2 for row in rows]
        ax.scatter(places, [value(getattr(row, kind)) for row in rows], sizes, color=colour, alpha=0.75, label=kind)
    ax.axhline(published, color=palette.TRUTH, linewidth=1, linestyle=(0, (5, 2)), label="WGAN-LP, mean (no proof)")
    palette.dress(ax, title, "dimensions (larger dots: 4, 16, 64, 256 funnels)", label)
    ax.set_xticks([math.log2(d) for d in DIMENSIONS], [str(d) for d in DIMENSIONS])


def levels(critic: Callable[[Tensor], Tensor]) -> Tensor:
    """A critic (n, 2) -> (n,) on the grid over the plane: (201, 201), a row a second coordinate."""
    grid = torch.stack(torch.meshgrid(TICKS, TICKS, indexing="xy"), -1)
    with torch.no_grad():
        return critic(grid.reshape(-1, 2)).reshape(grid.shape[:2])


def draw_levels(ax: Axes, heights: Tensor, funnels: Funnels, title: str) -> None:
    """Level sets in the plane, and samples of x."""
    ax.contourf(TICKS, TICKS, heights - heights.mean(), levels=16, cmap="Blues")
    x, _ = funnels.sample(400, torch.Generator().manual_seed(0))
    ax.scatter(x[:, 0], x[:, 1], 3, color=palette.TARGET, linewidths=0)
    ax.set_aspect("equal")
    ax.axis("off")
    palette.entitle(ax, title)
