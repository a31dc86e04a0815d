"""Figures of the study ``ratings``: histograms, distances by loss and domain, distances by the number of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from barrow.studies import palette
from barrow.studies.ratings.scores import MEAN, NOISE, Results
from barrow.studies.ratings.texts import GRADES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {  # of the losses that have a line
    "EMD": (palette.PROVED, "-", "s"),
    "EMD²": (palette.SOURCE, "-", "o"),
    "cross-entropy": (palette.TARGET, "-", "^"),
    "MSE": ("#8c5fa8", "--", "v"),
    "rounded mean": ("#b8860b", "--", "D"),
    "EMD², shuffled": (palette.PLAN, ":", "x"),
}
DRAWN = ("EMD", "EMD²", "cross-entropy", "rounded mean")
KINDS = ("Negative", "In between", "Positive")


def figures(results: Results) -> dict[str, Figure]:
    """By name, in order."""
    made = {"distances": _distances(results), "histograms": _histograms(results)}
    return made | ({"texts": _texts(results)} if results.curves else {})


def captions(results: Results) -> dict[str, str]:
    """What is to be seen."""
    home = next(iter(results.whole))
    said = {
        "distances": "Earth mover's distance from the predicted to the true histogram of texts not seen, in grades; "
        "bars are one standard deviation over seeds, which differ in the split. Left of the solid line no predictor "
        "can be, as the raters are a sample; the dashed one is the mean histogram, which needs no text.",
        "histograms": f"What raters gave and what is predicted, means over kinds of test texts ({home}): those "
        "with a mean grade up to -1, up to 1, and above; in the upper row raters agree more than on half of the texts. "
        "Words do not say all, so that predictions are nearer to the middle.",
    }
    if results.curves:
        said["texts"] = (
            "The same distance by the number of texts to train on. Bands are one standard deviation over seeds, "
            "and the dashed line is the mean histogram."
        )
    return said


def draw_distances(ax: Axes, results: Results, name: str) -> None:
    """A row a loss, best first."""
    losses = sorted(results.losses(name), key=lambda how: -results.of(how, name).mean)
    for row, how in enumerate(losses):
        spread = results.of(how, name)
        colour = STYLES[how][0] if how in STYLES else palette.TRUTH
        ax.errorbar(spread.mean, row, xerr=spread.std, color=colour, marker="o", markersize=6, capsize=3, linewidth=1.6)
        ax.annotate(
            f"{spread.mean:.3f}", (spread.mean, row), (0, 6), textcoords="offset points", ha="center", fontsize=9,
            color=palette.TRUTH,
        )  # fmt: skip
    for what, bound, line in (("raters", NOISE, "-"), ("constant", MEAN, "--")):
        place = results.of(bound, name).mean
        ax.axvline(place, color=palette.TRUTH, linewidth=1.2, linestyle=line)
        ax.annotate(
            what, (place, -0.4), (4 if bound == NOISE else -4, 0), textcoords="offset points", fontsize=9,
            ha="left" if bound == NOISE else "right", color=palette.TRUTH,
        )  # fmt: skip
    palette.dress(ax, f"{name}, {results.whole[name]} texts", "EMD, grades", "")
    ax.set_yticks(range(len(losses)), losses)
    ax.set_ylim(-0.7, len(losses) - 0.2)


def draw_kind(ax: Axes, results: Results, kind: int, title: str) -> None:
    """Bars of raters, lines of losses."""
    grades = GRADES.tolist()
    ax.bar(grades, results.raters[kind], width=0.85, color="#d5d9df", label="raters")
    for how in DRAWN:
        colour, line, marker = STYLES[how]
        ax.plot(grades, results.predicted[how][kind], line, color=colour, marker=marker, markersize=4, label=how)
    palette.dress(ax, title, "", "")
    ax.set_xticks(grades, [f"{grade:+.0f}".replace("-", "−") if grade else "0" for grade in grades])


def draw_texts(ax: Axes, results: Results, name: str) -> None:
    """Distance against the number of texts."""
    counts = results.curves[name]
    for how, (colour, line, marker) in STYLES.items():
        spreads = [results.of(how, name, n=n) for n in counts]
        palette.trend(ax, counts, spreads, colour, band=0.1, linestyle=line, marker=marker, markersize=5, label=how)
    ax.axhline(results.of(MEAN, name).mean, color=palette.TRUTH, linewidth=1.2, linestyle="--", label=MEAN)
    palette.dress(ax, name, "texts to train on", "EMD, grades")
    ax.set_xscale("log")
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()


def _distances(results: Results) -> Figure:
    figure = palette.sheet(11, 3.6 * ((len(results.whole) + 1) // 2))
    grid = figure.subplots((len(results.whole) + 1) // 2, 2, squeeze=False)
    for ax, name in zip(grid.flat, results.whole, strict=False):
        draw_distances(ax, results, name)
    return figure


def _histograms(results: Results) -> Figure:
    figure = palette.sheet(12, 6)
    grid = figure.subplots(2, 3, sharex=True, sharey="row")
    for row, (axes, how) in enumerate(zip(grid, ("raters agree", "raters differ"), strict=True)):
        for column, (ax, what) in enumerate(zip(axes, KINDS, strict=True)):
            draw_kind(ax, results, 3 * row + column, f"{what}, {how}")
        axes[0].set_ylabel("share", fontsize=9.5, color="#333333")
    grid[0, 0].legend(frameon=False, fontsize=9)
    return figure


def _texts(results: Results) -> Figure:
    figure = palette.sheet(6 * max(len(results.curves), 1) + 1.5, 4.4)
    axes = figure.subplots(1, len(results.curves), squeeze=False)[0]
    for ax, name in zip(axes, results.curves, strict=True):
        draw_texts(ax, results, name)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return figure
