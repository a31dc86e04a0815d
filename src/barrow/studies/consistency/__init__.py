"""A thousand images, and critics that learn them by heart: with a consistency term, without, and with a certificate.

A critic of a generative adversarial network that has seen the same thousand images again and again may tell them from
new ones, and then it no longer measures how far generated images are from the law behind them. Does it? And does the
consistency term prevent it, which asks that two passes of a critic with dropout give the same image nearly the same
value?

Every method trains the same networks from the same weights on the same images, and its critic is watched on as many
images held out: the objective E f(x) - E f(y), on images to train on and on others, against the same generated ones. A
gap between the two is what was learnt by heart. A critic of orthogonal layers, which is proved 1-Lipschitz, stands
beside them, and exact W_1 between the sets of images is what no such critic can exceed.

The term is that of Wei, Gong, Liu, Lu and Wang, "Improving the improved training of Wasserstein GANs", ICLR 2018, who
show the curves of both objectives for a thousand images of MNIST.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from barrow.studies import palette
from barrow.studies.consistency.games import METHODS, Look, Run, Size, exact, play
from barrow.studies.data import mnist
from barrow.studies.study import Claim, Outcome, Spread, Table
from barrow.studies.work import Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 0.1  # share of the objective on the training images that is lost on held-out ones: below it, both are together
SHOWN = 64  # generated images that are kept for the figure
FULL = Size()
# A tenth of the images is learnt by heart in fewer steps.
QUICK = Size(train=100, held=500, steps=160, looks=20, seeds=1)


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work, size: Size | None = None) -> Outcome:
    """The study: every method on the same images from the same seeds."""
    size = size or (QUICK if work.quick else FULL)
    digits = mnist.find(work.data)
    seeds = range(work.seed, work.seed + size.seeds)
    images = {s: digits.split(size.train, size.held, torch.Generator().manual_seed(s)) for s in seeds}
    w1_data = {s: work.part(f"images to images, seed {s}", functools.partial(exact, *images[s])) for s in seeds}

    def game(how: str, seed: int) -> dict[str, Any]:
        r, _ = play(how, seed, size, images[seed], w1_data[seed], work.progress)
        return dataclasses.asdict(dataclasses.replace(r, samples=r.samples[:SHOWN].clone()))

    cells = {f"{how}, seed {s}": functools.partial(game, how, s) for s in seeds for how in METHODS}
    runs = [
        Run(**{**kept, "looks": tuple(Look(**look) for look in kept["looks"])})
        for kept in work.parts(cells, "all games").values()
    ]
    shown, held = images[work.seed]
    return Outcome(
        claims=tuple(claims(runs)),
        figures={"consistency": _figure(runs, shown)},
        numbers={
            "data": {"source": digits.source, "advice": digits.advice},
            "runs": [r.numbers() for r in runs],
            "size": dataclasses.asdict(size),
        },
        tables={"methods": _table(runs)},
        captions={
            "consistency": "Above, what each critic takes W₁ for, from the images that it was trained on and from "
            "others; below, the gap between the two, which is what it learnt by heart. Faint are the seeds, strong "
            "their mean. The last row has the images, and what the generators made of them."
        },
        sources=(
            f"{digits.source}: {len(shown)} to train on, {len(held)} held out"
            + (digits.advice and f"; {digits.advice}"),
        ),
    )


def _of(runs: Sequence[Run], *methods: str) -> list[Run]:
    return [r for r in runs if r.method in methods]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _table(runs: Sequence[Run]) -> Table:
    """Mean and spread over the seeds, at the end."""
    columns: tuple[tuple[str, int, Callable[[Run], float]], ...] = (
        ("training", 3, lambda r: r.last.train),
        ("held out", 3, lambda r: r.last.held),
        ("gap", 3, lambda r: r.last.gap),
        ("gap, %", 1, lambda r: 100 * r.last.share),
        ("slope", 3, lambda r: r.slope),
        ("W_1, training", 2, lambda r: r.w1_train),
        ("W_1, held out", 2, lambda r: r.w1_held),
    )
    rows = [
        (how, *(f"{Spread.of(map(value, _of(runs, how))):.{places}f}" for _, places, value in columns))
        for how in METHODS
    ]
    return Table(("method", *(name for name, _, _ in columns)), tuple(rows))


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What is claimed of the runs, each a sentence that they can refute."""
    free, term, plain, proved = (_of(runs, how) for how in METHODS)
    per_seed = list(zip(free, term, strict=True))
    gaps = _mean(r.last.gap for r in free), _mean(r.last.gap for r in term)
    steady = _mean(r.steady for r in free), _mean(r.steady for r in term)
    certified_share, free_share = (_mean(r.last.share for r in group) for group in (proved, plain))
    reach = [max(r.last.train / r.w1_train, r.last.held / r.w1_held, abs(r.last.gap) / r.w1_data) for r in proved]
    bounds = [math.inf if r.bound is None else r.bound for r in proved]
    held = _mean(r.w1_held for r in free), _mean(r.w1_held for r in term)
    return [
        Claim(
            "without the term the critic overfits: its objective on training images is above that on held-out ones",
            f"gap > {100 * APART:g} % of it in every run",
            _range((100 * r.last.share for r in free), " %"),
            min(r.last.share for r in free) > APART,
            paper="curves only: those of WGAN-GP drift apart",
        ),
        Claim(
            "and it goes on: over the second half the gap grows",
            "> 0 in every run",
            _range((r.growth for r in free), " in 1000 steps"),
            min(r.growth for r in free) > 0,
        ),
        Claim(
            "with the term both objectives stay together",
            f"gap < {100 * APART:g} % in every run",
            _range((100 * r.last.share for r in term), " %"),
            max(abs(r.last.share) for r in term) < APART,
            paper="curves only: those of CT-GAN stay together",
        ),
        Claim(
            "the term makes the gap less than half, from the same start on the same images",
            "ratio < 0.5, in every pair",
            f"{gaps[1] / gaps[0]:.2f} of the means; {gaps[1]:.3f} of {gaps[0]:.3f}",
            all(c.last.gap < 0.5 * g.last.gap for g, c in per_seed),
        ),
        Claim(
            "it is not only that the critic is flatter: per unit of slope the gap is smaller too",
            "< 1 times, of the means",
            f"{steady[1] / steady[0]:.2f}; {steady[1]:.3f} of {steady[0]:.3f}",
            steady[1] < steady[0],
        ),
        Claim(
            "the generator gains: exact W_1 from held-out images is smaller with the term",
            f"< {held[0]:.3f} (WGAN-GP), of the means",
            f"{held[1]:.3f}",
            held[1] < held[0],
            paper="an inception score above 5 from 1000 images of CIFAR-10",
        ),
        Claim(
            "WGAN-GP as it was proposed, without dropout, overfits as well",
            f"gap > {100 * APART:g} % in every run",
            _range((100 * r.last.share for r in plain), " %"),
            min(r.last.share for r in plain) > APART,
        ),
        Claim(
            "the orthogonal critic has a proof: objectives and gap are below exact W_1 between the images compared",
            "bound <= 1 within 1e-5, shares <= 1",
            f"{max(bounds):.7f}, {_range(reach)}",
            max(bounds) <= 1 + 1e-5 and max(reach) <= 1 + 1e-5,
        ),
        Claim(
            "it overfits less than WGAN-GP without dropout, with neither term nor dropout of its own",
            f"gap < {100 * free_share:.1f} % of the objective, of the means",
            f"{100 * certified_share:.1f} %",
            certified_share < free_share,
        ),
    ]  # fmt: skip


def _range(values: Iterable[float], unit: str = "") -> str:
    seen = sorted(values)
    return f"{seen[0]:.2f} to {seen[-1]:.2f}{unit}"


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_curves(ax: Axes, runs: Sequence[Run]) -> None:
    """Both objectives in training."""
    for name, colour, value in (
        ("training images", palette.SOURCE, lambda look: look.train),
        ("held-out images", palette.TARGET, lambda look: look.held),
    ):
        _draw_each(ax, runs, value, colour, name)
    share = 100 * _mean(r.last.share for r in runs)
    palette.dress(ax, f"{runs[0].method}: {share:.1f} % apart", "", "mean f(x) − mean f(y)")


def draw_gap(ax: Axes, runs: Sequence[Run]) -> None:
    """Their difference, and no difference."""
    ax.axhline(0, color=palette.TRUTH, linewidth=1)
    _draw_each(ax, runs, lambda look: look.gap, palette.TRUTH, "")
    palette.dress(ax, "", "steps of the generator", "gap")


def _draw_each(ax: Axes, runs: Sequence[Run], value: Callable[[Look], float], colour: str, name: str) -> None:
    """Faint for each seed, strong for their mean."""
    steps = [look.step for look in runs[0].looks]
    curves = [[value(look) for look in r.looks] for r in runs]
    for curve in curves:
        ax.plot(steps, curve, color=colour, linewidth=0.7, alpha=0.35)
    ax.plot(steps, [_mean(values) for values in zip(*curves, strict=True)], color=colour, linewidth=2, label=name)


def draw_sheet(ax: Axes, images: Tensor, title: str, side: int = 8) -> None:
    """Some of the images, black on white."""
    tiles = torch.zeros(side * side, mnist.SIDE, mnist.SIDE)
    some = images[: side * side, 0]
    tiles[: len(some)] = some
    sheet = tiles.reshape(side, side, mnist.SIDE, mnist.SIDE).transpose(1, 2).reshape(side * mnist.SIDE, -1)
    ax.imshow(1 - sheet.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.axis("off")
    palette.entitle(ax, title)


def _figure(runs: Sequence[Run], shown: Tensor) -> Figure:
    """A column a method: objectives, their gap; below, what the generators of the last seed made of the images."""
    figure = palette.sheet(17, 12, dpi=110)
    figure.suptitle(
        "The critic on images that it was trained on, and on others", fontsize=14, fontweight="bold",
        color=palette.TRUTH, x=0.01, ha="left",
    )  # fmt: skip
    upper, lower = figure.subfigures(2, 1, height_ratios=(2, 1), squeeze=False)[:, 0]
    above, below = upper.subplots(2, len(METHODS), sharex=True, sharey="row", height_ratios=(3, 2))
    sheets = lower.subplots(1, 1 + len(METHODS))
    draw_sheet(sheets[0], shown, "Images to train on\n")
    for how, curves, gap, sheet in zip(METHODS, above, below, sheets[1:], strict=True):
        group = _of(runs, how)
        draw_curves(curves, group)
        draw_gap(gap, group)
        draw_sheet(sheet, group[-1].samples, f"{how}\nW₁ = {group[-1].w1_held:.2f} to held-out ones")
    # The fall of the first steps, when the generator makes noise, would leave the rest flat: it is outside the frame.
    settled = [look.train for r in runs for look in r.looks[len(r.looks) // 4 :]]
    above[0].set_ylim(0, 1.2 * max(settled))
    above[0].legend(frameon=False, fontsize=9)
    return figure
