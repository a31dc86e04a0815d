"""Figures of the study ``hierarchy``: a tree with what its edges carry, scores by samples, mistakes by distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, final

from torch import Tensor

from barrow.studies import palette
from barrow.studies.hierarchy.trees import Hierarchy, Setting
from barrow.studies.study import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (palette.TARGET, palette.PLAN, palette.SOURCE, palette.PROVED)  # of the losses, in their order
ROOM = 64  # classes that a drawing of a tree has room for


@final
@dataclasses.dataclass(frozen=True)
class View:
    """What is shown of one setting, by loss: scores (counts, repeats), by score; at the smallest count, the shares of
    predictions (repeats, H) that are h edges from the truth, and the mean prediction (K, K) for each class.
    """

    world: Setting
    scores: Mapping[str, Mapping[str, Tensor]]
    far: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]


def figures(views: Sequence[View]) -> dict[str, Figure]:
    """By name, in order."""
    return {"scores": _scores(views), "tree": _tree(drawn(views)), "mistakes": _mistakes(views)}


def captions(views: Sequence[View]) -> dict[str, str]:
    """What is to be seen."""
    view = drawn(views)
    name = title(view.world.hierarchy, hardest(view))
    return {
        "scores": "Test scores by the number of samples a class: how far the predicted class is from the true one in "
        "the tree, how far the whole prediction is, and how often it is right. Bands are one standard deviation over "
        "repeats.",
        "tree": f"The tree over the classes of {view.world.name}; a dot is a node, as far to the right as it is below "
        f"the root. Edges are as thick as what they carry when the mean prediction for {name} is moved to the truth, "
        f"which HEMD sums; bars are that prediction. It is by a network that saw {view.world.counts[0]} "
        f"{view.world.what} a class.",
        "mistakes": "How many fewer predictions than with cross-entropy are at least so many edges from the truth, at "
        "the smallest number of samples: on the left all mistakes, on the right the worst. Above the line is better.",
    }


def drawn(views: Sequence[View]) -> View:
    """The setting whose tree has fewest classes."""
    return min(views, key=lambda view: len(view.world.hierarchy.classes))


def hardest(view: View) -> int:
    """The class whose mean prediction by the first loss is farthest from it."""
    return int((next(iter(view.mean.values())) * view.world.hierarchy.distance).sum(-1).argmax())


def title(hierarchy: Hierarchy, k: int) -> str:
    """What class k is called."""
    name = hierarchy.classes[k]
    return hierarchy.words.get(name, f"class {name}")


# -- the tree ----------------------------------------------------------------------------------------------------------


def carried(hierarchy: Hierarchy, p: Tensor, k: int) -> dict[str, float]:
    """Phi at each node but the root: what is below it of p (K,), less 1 if class k is."""
    phi = dict.fromkeys(hierarchy.above, 0.0)
    for j, (name, mass) in enumerate(zip(hierarchy.classes, p.tolist(), strict=True)):
        node: str | None = name
        while node is not None:
            phi[node] += mass - (j == k)
            node = hierarchy.above[node]
    return {node: value for node, value in phi.items() if hierarchy.above[node] is not None}


def layout(hierarchy: Hierarchy) -> tuple[dict[str, tuple[float, float]], dict[str, int]]:
    """Places (edges from the root, row) of the nodes, and the rows of the classes; parents are amid their children."""
    rows = {name: row for row, name in enumerate(hierarchy.rows)}
    depth: dict[str, int] = {}
    for node in hierarchy.above:
        way, up = 0, hierarchy.above[node]
        while up is not None:
            way, up = way + 1, hierarchy.above[up]
        depth[node] = way
    height: dict[str, float] = {}
    for node in sorted(depth, key=lambda one: -depth[one]):
        below = [height[child] for child, parent in hierarchy.above.items() if parent == node]
        below += [rows[node]] if node in rows else []
        height[node] = (min(below) + max(below)) / 2
    return {node: (depth[node], height[node]) for node in depth}, rows


def _edge(ax: Axes, start: tuple[float, float], end: tuple[float, float], flow: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    middle = (start[0] + end[0]) / 2
    curve = Path([start, (middle, start[1]), (middle, end[1]), end], [Path.MOVETO, *[Path.CURVE4] * 3])
    ax.add_patch(PathPatch(curve, fill=False, edgecolor="#c6cad1", linewidth=1.2, zorder=1))
    if abs(flow) > 0.004:
        colour = palette.TARGET if flow > 0 else palette.SOURCE
        ax.add_patch(
            PathPatch(
                curve, fill=False, edgecolor=colour, linewidth=18 * abs(flow), alpha=0.75, capstyle="round", zorder=2
            )
        )


def draw_tree(ax: Axes, hierarchy: Hierarchy, p: Tensor, k: int, heading: str, *, top: float) -> None:
    """The tree on its side, what its edges carry, and the prediction p as bars, of which ``top`` would be longest."""
    places, rows = layout(hierarchy)
    phi = carried(hierarchy, p, k)
    deepest = max(x for x, _ in places.values())
    small = len(rows) <= 20
    for node, parent in hierarchy.above.items():
        if parent is not None:
            _edge(ax, places[parent], places[node], phi[node])
    for node, (x, y) in places.items():
        fork = sum(parent == node for parent in hierarchy.above.values()) > 1
        ax.plot(
            x,
            y,
            "o",
            color=palette.TRUTH if fork or node in rows else "#aab0b8",
            markersize=4 if small else 2.5,
            zorder=3,
        )
        if fork and small and node not in rows and node in hierarchy.words:
            up = hierarchy.above[node]
            over = up is None or places[up][1] > y  # the side on which no edge comes
            ax.annotate(
                hierarchy.words[node], (x, y), (5, 5 if over else -5), textcoords="offset points", ha="right",
                va="bottom" if over else "top", fontsize=9, color="#555b63", zorder=4,
            )  # fmt: skip
    left = deepest + 0.35
    for j, name in enumerate(hierarchy.classes):
        (x, y), row = places[name], rows[name]
        ax.plot([x, left], [y if y == row else row, row], color="#c6cad1", linewidth=0.9, linestyle=":", zorder=0)
        if y != row:
            ax.plot([x, x], [y, row], color="#c6cad1", linewidth=0.9, linestyle=":", zorder=0)
        bar = left + 0.32 * deepest
        if small:
            weight, colour = ("bold", palette.TRUTH) if j == k else ("normal", "#333333")
            ax.text(left + 0.06, row, title(hierarchy, j), va="center", fontsize=10, fontweight=weight, color=colour)
        else:
            bar = left + 0.05
        share = float(p[j])
        width = share / top * 0.25 * deepest
        ax.barh(row, width, left=bar, height=0.62, color=palette.PROVED if j == k else palette.TARGET)
        if share >= 0.045:
            ax.text(bar + width + 0.05, row, f"{100 * share:.0f} %", va="center", fontsize=9, color="#555b63")
    ax.set_xlim(-0.5, left + (0.75 if small else 0.4) * deepest)
    ax.set_ylim(len(rows) - 0.3, -0.8)
    ax.axis("off")
    palette.entitle(ax, heading)


def _tree(view: View) -> Figure:
    hierarchy, k = view.world.hierarchy, hardest(view)
    shown = list(view.mean)[::2]  # CE and HEMD^2
    figure = palette.sheet(15, 6 if len(hierarchy.classes) <= 20 else 10, dpi=120)
    distance, top = hierarchy.distance[k], max(float(view.mean[how][k].max()) for how in shown)
    for ax, how in zip(figure.subplots(1, 2), shown, strict=True):
        p = view.mean[how][k]
        draw_tree(
            ax, hierarchy, p, k,
            f"{how}: what the mean prediction for {title(hierarchy, k)} must move, {float(p @ distance):.2f} edges",
            top=top,
        )  # fmt: skip
    figure.supxlabel("orange: mass that leaves a branch; blue: mass that enters it", fontsize=10, color="#555b63")
    return figure


# -- scores and mistakes -----------------------------------------------------------------------------------------------


def draw_scores(ax: Axes, counts: Sequence[int], of_losses: Mapping[str, Tensor], *, scale: float = 1) -> None:
    """Means with bands of one standard deviation over repeats."""
    for colour, (how, values) in zip(COLOURS, of_losses.items(), strict=True):
        spreads = [Spread.of(row.tolist()) for row in scale * values]
        palette.trend(ax, counts, spreads, colour, linewidth=2, marker="o", markersize=4, label=how)
    ax.set_xscale("log")


def _scores(views: Sequence[View]) -> Figure:
    names = list(views[0].scores)
    figure = palette.sheet(14, 3.9 * len(views), dpi=120)
    for row, view in zip(figure.subplots(len(views), len(names), squeeze=False), views, strict=True):
        for ax, score in zip(row, names, strict=True):
            share = score == names[-1]
            draw_scores(ax, view.world.counts, view.scores[score], scale=100 if share else 1)
            unit = "%, more is better" if share else "edges, less is better"
            palette.dress(ax, f"{view.world.name}: {score}", f"{view.world.what} a class", unit)
            ax.set_xticks(view.world.counts, [str(n) for n in view.world.counts])
            ax.minorticks_off()
        row[0].legend(frameon=False, fontsize=9.5)
    return figure


def at_least(far: Tensor) -> Tensor:
    """Shares (..., H) at every distance to shares at that distance or more."""
    return far.flip(-1).cumsum(-1).flip(-1)


def draw_mistakes(ax: Axes, view: View) -> None:
    """How many points fewer of the predictions are so far from the truth than with the first loss, within repeats."""
    shares = {how: 100 * at_least(far.double()) for how, far in view.far.items()}
    base, _, *others = shares  # W_1 alone makes so many mistakes that nothing else could be seen
    ticks = sorted(set(view.world.hierarchy.distance.round().long().flatten().tolist()) - {0})
    ax.axhline(0, color=COLOURS[0], linewidth=2, label=base)
    for colour, how in zip(COLOURS[2:], others, strict=True):
        fewer = [Spread.of(points.tolist()) for points in (shares[base] - shares[how])[:, ticks].mT]
        palette.trend(ax, ticks, fewer, colour, linewidth=2, marker="o", markersize=4, label=how)
    palette.dress(
        ax, f"{view.world.name}, {view.world.counts[0]} {view.world.what} a class",
        "edges from the truth, at least", f"% of predictions, fewer than with {base}",
    )  # fmt: skip
    ax.set_xticks(ticks if len(ticks) < 12 else ticks[1::2])


def _mistakes(views: Sequence[View]) -> Figure:
    figure = palette.sheet(max(5 * len(views), 8), 4.4, dpi=120)
    for ax, view in zip(figure.subplots(1, len(views), squeeze=False)[0], views, strict=True):
        draw_mistakes(ax, view)
    figure.axes[0].legend(frameon=False, fontsize=9.5)
    return figure
