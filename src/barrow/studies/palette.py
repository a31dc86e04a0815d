"""One look for all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCE = "#2a5d8f"  # x: where mass comes from
TARGET = "#d9622b"  # y: where it goes
TRUTH = "#222222"
PLAN = "#8a8f98"
PROVED = "#2f8f6b"  # certificates
FAINT = "#e7e9ed"


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
