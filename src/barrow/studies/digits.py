"""Handwritten threes and eights: how far apart they are, and one cloud moved onto the other.

An image of 8 x 8 grey levels is a point in 64 dimensions, and all the threes are a cloud. How far are the threes from
the eights, and is a loss of transport good enough to move the one cloud onto the other?

The exact W_2 says how far, with a proof; slices bound it from below, entropy from above. Then the threes go down the
gradient of their Sinkhorn divergence to the eights, while the exact distance, which the descent does not see, is
watched. The divergence and its flow are those of Feydy, Sejourne, Vialard, Amari, Trouve and Peyre, "Interpolating
between optimal transport and MMD using Sinkhorn divergences", 2019; the digits are those of scikit-learn.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

import barrow
from barrow.studies import palette
from barrow.studies.study import Answer, Claim, Outcome, Table, need, solved
from barrow.studies.work import Progress, Work, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPSILON = 0.1  # squared grey levels summed over 64 pixels; two images of one class are about 3 apart
RATE = 0.25  # the share of the way to its target that a point goes in one step


def two_classes(first: int, second: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` images of each of two digits, (count, 64) with grey levels in [0, 1]."""
    need("sklearn")
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.as_tensor(data.data) / 16, torch.as_tensor(data.target)
    clouds = []
    for digit in (first, second):
        cloud = images[labels == digit]
        clouds.append(cloud[torch.randperm(len(cloud), generator=generator)[:count]])
    return clouds[0], clouds[1]


def exact(x: Tensor, y: Tensor, question: str = "exact W₂") -> Answer:
    """W_2 with its certificate."""
    return solved(question, barrow.Problem(barrow.Points(x, y, p=2)), root=2)


@final
@dataclasses.dataclass(frozen=True)
class Flow:
    """A cloud on its way to another: where it was after each step, and how far, exactly."""

    frames: tuple[Tensor, ...]
    distances: tuple[Answer, ...]
    seconds: float

    @property
    def first(self) -> Answer:
        """Before the first step."""
        return self.distances[0]

    @property
    def last(self) -> Answer:
        """After the last step."""
        return self.distances[-1]


def flow(x: Tensor, y: Tensor, *, steps: int, progress: Progress = silent) -> Flow:
    """Gradient descent of the cloud x on its Sinkhorn divergence to y; the exact distance is only watched."""
    loss = barrow.nn.SinkhornDivergence(p=2, epsilon=EPSILON, tol=1e-2)
    z, start = x, time.perf_counter()
    frames, distances = [z], [exact(z, y)]
    for step in range(1, steps + 1):
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(z, y), z)
        # Each point holds 1/n of the mass and |.|^2 has slope 2: this is RATE of the way to where its mass goes.
        z = (z - RATE * len(z) / 2 * slope).detach()
        frames.append(z)
        distances.append(exact(z, y))
        progress(f"threes to eights: W₂ = {distances[-1].value:.4f}", step, steps)
    return Flow(tuple(frames), tuple(distances), time.perf_counter() - start)


def size(quick: bool) -> tuple[int, int]:
    """How many images of each class, and how many steps."""
    return (64, 12) if quick else (160, 24)


def moving(work: Work, x: Tensor, y: Tensor, steps: int) -> Flow:
    """The flow, or what an interrupted run kept of it."""
    kept = work.part("flow", lambda: dataclasses.asdict(flow(x, y, steps=steps, progress=work.progress)))
    return Flow(kept["frames"], tuple(Answer(**fields) for fields in kept["distances"]), kept["seconds"])


def run(work: Work) -> Outcome:
    """The study."""
    generator = torch.Generator().manual_seed(work.seed)
    count, steps = size(work.quick)
    work.progress("exact distances", 0, 1)
    x, y = two_classes(3, 8, count, generator)
    between = exact(x, y, "W₂, threes to eights")
    half = count // 2
    within = exact(x[:half], x[half:], "W₂, threes to other threes")
    across = exact(x[:half], y[:half], "W₂, as many threes to eights")
    smooth = solved(
        f"entropic cost, ε = {EPSILON:g}", barrow.Problem(barrow.Points(x, y, p=2), epsilon=EPSILON), barrow.Sinkhorn()
    )
    sliced = float(barrow.sliced_wasserstein(x, y, n_projections=256, generator=generator))
    work.progress("exact distances", 1, 1)
    moved = moving(work, x, y, steps)
    values = [answer.value for answer in moved.distances]
    claims = (
        Claim(
            "exact W_2 is proved to nine digits",
            "relative gap <= 1e-9",
            f"{between.value:.6f}, relative gap {between.relative_gap:.0e}",
            between.relative_gap <= 1e-9,
        ),
        Claim(
            "threes are nearer to other threes than to eights",
            f"< {across.lower:.4f}",
            f"{within.upper:.4f}",
            within.upper < across.lower,
        ),
        Claim("sliced is a lower bound", f"<= {between.upper:.4f}", f"{sliced:.4f}", sliced <= between.upper),
        Claim(
            "entropy only adds to the cost",
            f">= {between.lower**2:.4f}",
            f"{smooth.upper:.4f}",
            smooth.upper >= between.lower**2,
        ),
        Claim(
            "descent on the Sinkhorn divergence brings the exact distance down by 95 %",
            f"<= {0.05 * values[0]:.4f}",
            f"{values[0]:.4f} to {values[-1]:.4f}",
            values[-1] <= 0.05 * values[0],
        ),
        Claim(
            "the exact distance falls in every step",
            "0 steps upwards",
            str(sum(after > before for before, after in itertools.pairwise(values))),
            all(after <= before for before, after in itertools.pairwise(values)),
        ),
    )
    answers = (between, within, across, smooth)
    after = dataclasses.replace(moved.last, question=f"W₂, after {steps} steps of descent")
    rows = [(a.question, f"{a.value:.4f}", f"[{a.lower:.6f}, {a.upper:.6f}]", a.how) for a in (*answers, after)]
    return Outcome(
        claims=claims,
        figures={"digits": _figure(x, y, moved)},
        numbers={
            "answers": {a.question: {"value": a.value, "lower": a.lower, "upper": a.upper} for a in answers},
            "sliced": sliced,
            "distances": values,
        },
        tables={"distances": Table(("question", "value", "bracket", "found by"), tuple(rows))},
        captions={
            "digits": "Left, eight threes on their way, in the colour of how far they have come. Middle, the exact "
            "distance in each step of the descent. Right, the optimal plan before it: who becomes whom."
        },
        sources=(f"scikit-learn's digits, 8 x 8: {count} threes and {count} eights",),
    )


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_morph(ax: Axes, moved: Flow, y: Tensor, columns: int = 8) -> None:
    """Digits on their way, in the colour of how far they have come, above the digits that they become."""
    steps = len(moved.frames) - 1
    shown = [0, steps // 12, steps // 6, steps // 3, steps]
    final = barrow.solve(barrow.Problem(barrow.Points(moved.frames[-1], y, p=2))).plan
    targets = y[final.dense().argmax(1)[:columns]]
    rows = [(f"step {k}", moved.frames[k][:columns], moved.distances[k].value) for k in shown]
    zoom, gap = 6, 5
    cell = 8 * zoom
    height, width = (len(rows) + 1) * (cell + gap) + gap, columns * (cell + gap) - gap
    picture = torch.ones(height, width, 3, dtype=torch.float64)
    ticks, labels = [], []
    for row, (label, images, distance) in enumerate([*rows, ("targets", targets, 0.0)]):
        top = row * (cell + gap) + 2 * gap * (row == len(rows))
        ink = torch.tensor(palette.blend(palette.TARGET, palette.SOURCE, min(1.0, distance / moved.first.value)))
        smooth = torch.nn.functional.interpolate(images.reshape(-1, 1, 8, 8), scale_factor=zoom, mode="bicubic")
        for column, grey in enumerate(smooth.clamp(0, 1)):
            left = column * (cell + gap)
            picture[top : top + cell, left : left + cell] = 1 - grey.permute(1, 2, 0) * (1 - ink)
        ticks.append(top + cell / 2 - 0.5)
        labels.append(label)
    ax.imshow(picture.numpy(), interpolation="nearest")
    palette.entitle(ax, "Threes become eights")
    ax.set_xticks([])
    ax.set_yticks(ticks, labels, fontsize=9.5, color="#333333")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_fall(ax: Axes, moved: Flow) -> None:
    """The exact distance after each step, with its bracket."""
    values = [answer.value for answer in moved.distances]
    steps = range(len(values))
    ax.fill_between(steps, values, color=palette.SOURCE, alpha=0.12, linewidth=0)
    ax.plot(steps, values, color=palette.SOURCE, linewidth=2.2, marker="o", markersize=3.5)
    palette.dress(ax, "The exact distance falls", "descent step on the Sinkhorn divergence", "W₂ to the eights, exact")
    ax.set_xlim(0, len(values) - 1)
    ax.set_ylim(0, values[0] * 1.12)
    ax.annotate(
        f"{moved.first.value:.4f}  (proved to {moved.first.upper - moved.first.lower:.0e})",
        (0, values[0]),
        xytext=(8, 2),
        textcoords="offset points",
        fontsize=9.5,
        color=palette.SOURCE,
    )
    ax.annotate(
        f"{moved.last.value:.4f}",
        (len(values) - 1, values[-1]),
        xytext=(-2, 8),
        textcoords="offset points",
        ha="right",
        fontsize=9.5,
        color=palette.TARGET,
    )


def principal_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,) and the two leading principal directions (d, 2) of a cloud, signs fixed."""
    mean = z.mean(0)
    _, _, directions = torch.linalg.svd(z - mean, full_matrices=False)
    axes = directions[:2].T
    return mean, axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


def draw_arcs(ax: Axes, x: Tensor, y: Tensor) -> None:
    """Both clouds in their first two principal coordinates, and who goes where."""
    from matplotlib.collections import LineCollection

    mean, axes = principal_axes(torch.cat((x, y)))
    flat_x, flat_y = ((t - mean) @ axes for t in (x, y))
    plan = barrow.solve(barrow.Problem(barrow.Points(x, y, p=2))).plan
    rows, cols = plan.dense().nonzero(as_tuple=True)
    segments = torch.stack((flat_x[rows], flat_y[cols]), 1).numpy()
    ax.add_collection(LineCollection(list(segments), colors=palette.PLAN, linewidths=0.8, alpha=0.45, zorder=1))
    for flat, colour, label in ((flat_x, palette.SOURCE, "threes"), (flat_y, palette.TARGET, "eights")):
        horizontal, vertical = flat.T.numpy()
        ax.scatter(horizontal, vertical, s=18, color=colour, linewidths=0, alpha=0.9, zorder=2, label=label)
    palette.dress(ax, "The optimal plan", "first principal coordinate", "second principal coordinate")
    ax.legend(loc="best", frameon=False, fontsize=9, handletextpad=0.2)


def _figure(x: Tensor, y: Tensor, moved: Flow) -> Figure:
    figure = palette.sheet(16, 5, dpi=150)
    morph, fall, arcs = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    draw_morph(morph, moved, y)
    draw_fall(fall, moved)
    draw_arcs(arcs, x, y)
    return figure
