"""One look for all figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from barrow.studies.study import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE = "#2a5d8f"  # x: where mass comes from
TARGET = "#d9622b"  # y: where it goes
TRUTH = "#222222"
PLAN = "#8a8f98"
PROVED = "#2f8f6b"  # certificates
FAINT = "#e7e9ed"


def sheet(width: float, height: float, *, dpi: int = 130) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")


def trend(
    ax: Axes, x: Sequence[float], spreads: Sequence[Spread], colour: Any, *, band: float = 0.12, **line: Any
) -> None:
    """A line through the means, in a band of one standard deviation; ``band`` is its opacity."""
    means = [spread.mean for spread in spreads]
    if band:
        low, high = ([spread.mean + sign * spread.std for spread in spreads] for sign in (-1, 1))
        ax.fill_between(x, low, high, color=colour, alpha=band, linewidth=0)
    ax.plot(x, means, color=colour, **line)


def dress(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Quiet axes: two spines, a faint grid behind, a title on the left."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9aa0a8")
    ax.tick_params(colors="#555b63", labelsize=9)
    ax.grid(True, color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    entitle(ax, title)
    ax.set_xlabel(x, fontsize=9.5, color="#333333")
    ax.set_ylabel(y, fontsize=9.5, color="#333333")


def entitle(ax: Axes, title: str, **options: Any) -> None:
    """A title on the left."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=TRUTH, **options)


def blend(first: str, second: str, share: float) -> tuple[float, float, float]:
    """The colour ``share`` of the way from one to the other."""
    from matplotlib.colors import to_rgb

    one, two = to_rgb(first), to_rgb(second)
    red, green, blue = ((1 - share) * p + share * q for p, q in zip(one, two, strict=True))
    return red, green, blue
