"""Two laws of images whose distance is known: black images, and images with a square of -1 or +1 in the middle.

How far is one law from the other? Every image of the second is as far from black as its square is wide, so W_1 is 35,
known without any computation. Both laws have the same mean: no linear critic tells them apart.

Three roads that share no code lead to the same number: exact transport between the three images that there are,
entropic transport, and the Kantorovich-Rubinstein dual, max over 1-Lipschitz f of E f(x) - E f(y), where f is a network
of orthogonal layers that is trained on samples and judged by others. The example is the first tutorial of
deel-torchlip; the layers are those of Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation", 2019.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

import barrow
from barrow.estimate import estimate
from barrow.studies import palette
from barrow.studies.study import Answer, Claim, Outcome, Spread, Table, solved
from barrow.studies.work import Progress, Work, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPSILONS = (0.1, 1.0, 10.0)
SAMPLES = 32  # images of each law that a critic sees: half train it, half judge it


@final
@dataclasses.dataclass(frozen=True)
class Laws:
    """A Dirac at the black image, and a fair coin between two squares: every image of one is ``truth`` from the other.

    The square covers about ``share`` of the image, so its side, a whole number k, has k^2 pixels of value 1 or -1, and
    the distance is sqrt(k^2) = k.
    """

    black: Tensor
    squares: Tensor
    truth: float

    @staticmethod
    def draw(size: int = 64, share: float = 0.3) -> Laws:
        """Images of ``size`` x ``size`` pixels."""
        side = int(size * math.sqrt(share))
        first = (size - side) // 2
        square = torch.zeros(size, size)
        square[first : first + side, first : first + side] = 1
        return Laws(torch.zeros(1, size, size), torch.stack((-square, square)), float(side))

    def samples(self, n: int) -> tuple[Tensor, Tensor]:
        """As many images of each law as asked for, both squares equally often."""
        return self.black.repeat(n, 1, 1), self.squares.repeat(n // 2, 1, 1)

    def problem(self, epsilon: float = 0.0) -> barrow.Problem:
        """W_1 between the laws themselves: three images are all there is."""
        return barrow.Problem(barrow.Points(self.black.flatten(1), self.squares.flatten(1), p=1), epsilon=epsilon)


@final
@dataclasses.dataclass(frozen=True)
class Critic:
    """A trained critic's answer, its certified Lipschitz constant, and the way it came there: (step, objective)."""

    answer: Answer
    bound: float
    curve: tuple[tuple[int, float], ...]
    heights: tuple[float, float, float]  # f at the black image and at the two squares


def exact(laws: Laws) -> Answer:
    """W_1 with its certificate."""
    return solved("exact", laws.problem(), root=1)


def entropic(laws: Laws, epsilon: float) -> Answer:
    """The entropic cost: W_1 for every epsilon here, since all costs are equal and a x b is already the best plan."""
    return solved(f"entropic, ε = {epsilon:g}", laws.problem(epsilon), barrow.Sinkhorn(tol=1e-9))


def train(laws: Laws, seed: int, *, quick: bool, progress: Progress = silent) -> Critic:
    """Train one critic and let fresh samples judge it."""
    curve: list[tuple[int, float]] = []

    def note(step: int, steps: int, value: float) -> None:
        curve.append((step, value))
        progress(f"critic, seed {seed}: {value:7.4f} of {laws.truth:g}", step, steps)

    start = time.perf_counter()
    found = estimate(
        *laws.samples(SAMPLES),
        steps=400 if quick else 300,
        widths=(32, 16) if quick else (128, 64, 32),
        generator=torch.Generator().manual_seed(seed),
        progress=note,
    )
    seconds = time.perf_counter() - start
    with torch.no_grad():
        black, minus, plus = found.critic(torch.cat((laws.black, laws.squares))).tolist()
    answer = Answer(f"critic, seed {seed}", found.value, found.lower, found.upper, "1-Lipschitz network", seconds)
    return Critic(answer, found.lipschitz_bound, tuple(curve), (black, minus, plus))


def trained(work: Work, laws: Laws, seed: int) -> Critic:
    """The same, or what an interrupted run kept of it."""
    kept = work.part(
        f"critic, seed {seed}",
        lambda: dataclasses.asdict(train(laws, seed, quick=work.quick, progress=work.progress)),
    )
    return Critic(**{**kept, "answer": Answer(**kept["answer"])})


def run(work: Work) -> Outcome:
    """The study: the same 35 by three roads that share no code."""
    laws = Laws.draw()
    work.progress("exact and entropic", 0, 1)
    reference = exact(laws)
    smooth = [entropic(laws, epsilon) for epsilon in EPSILONS]
    work.progress("exact and entropic", 1, 1)
    critics = [trained(work, laws, seed) for seed in range(work.seed, work.seed + (2 if work.quick else 3))]
    answers = [reference, *smooth, *(critic.answer for critic in critics)]
    return Outcome(
        claims=tuple(_claims(laws, reference, smooth, critics)),
        figures={"squares": _figure(laws, answers, critics)},
        numbers={
            "truth": laws.truth,
            "answers": {a.question: {"value": a.value, "lower": a.lower, "upper": a.upper} for a in answers},
            "lipschitz_bounds": [critic.bound for critic in critics],
            "curves": [critic.curve for critic in critics],
        },
        tables={"answers": _table(answers)},
        captions={
            "squares": "Left, the two laws. Middle, the critic's objective climbs to the distance from below, and what "
            "is still green is not proved. Right, the width of every certified bracket: how far an answer can be off."
        },
        sources=("two laws of 64 x 64 images, made here: nothing is read",),
    )


def _table(answers: list[Answer]) -> Table:
    rows = [
        (a.question, f"{a.value:.6f}", f"[{a.lower:.6f}, {a.upper:.6f}]", f"{a.upper - a.lower:.0e}", a.how)
        for a in answers
    ]
    critics = Spread.of(a.value for a in answers if a.question.startswith("critic"))
    rows.append(("critics, mean ± std", f"{critics:.6f}", "", "", f"{len(critics.values)} seeds"))
    return Table(("answer", "W_1", "bracket", "width", "found by"), tuple(rows))


def _claims(laws: Laws, reference: Answer, smooth: list[Answer], critics: list[Critic]) -> list[Claim]:
    truth = laws.truth
    norms = torch.linalg.vector_norm((laws.squares - laws.black).double(), dim=(1, 2)).tolist()
    mean = float(torch.linalg.vector_norm(laws.squares.mean(0) - laws.black.mean(0)))
    values = [critic.answer.value for critic in critics]
    worst = max(abs(value - truth) for value in values)
    bounds = [critic.bound for critic in critics]
    drops = [height - other for critic in critics for height, *others in (critic.heights,) for other in others]
    return [
        Claim(
            "both squares are as far from black as their sides are long",
            f"{truth:g}",
            ", ".join(f"{norm:g}" for norm in norms),
            all(norm == truth for norm in norms),
        ),
        Claim(
            "exact W_1 is the distance, proved to nine digits",
            f"{truth:.3f}, relative gap <= 1e-9",
            f"{reference.value:.3f}, relative gap {reference.relative_gap:.0e}",
            reference.contains(truth) and reference.relative_gap <= 1e-9,
        ),
        Claim(
            f"entropic transport agrees for epsilon {', '.join(f'{e:g}' for e in EPSILONS)}: all costs are equal",
            f"{truth:.3f} inside every bracket",
            ", ".join(f"{answer.value:.3f}" for answer in smooth),
            all(answer.contains(truth) and abs(answer.value - truth) < 1e-6 for answer in smooth),
        ),
        Claim(
            "no linear critic sees anything: the laws have one mean",
            "0",
            f"{mean:g}",
            mean == 0,
        ),
        Claim(
            f"a 1-Lipschitz network finds the distance from samples, for each of {len(critics)} seeds",
            f"{truth:.3f} within 0.001",
            ", ".join(f"{value:.4f}" for value in values),
            worst <= 1e-3,
            paper="34.995, as the tutorial of deel-torchlip prints it",
        ),
        Claim(
            "no critic cheats: the certified Lipschitz constant is at most 1",
            "<= 1",
            f"{max(bounds):.7f}",
            max(bounds) <= 1,
        ),
        Claim(
            "every critic's bracket closes on the distance",
            f"{truth:g} within 0.001 of [lower, upper]",
            ", ".join(f"[{c.answer.lower:.4f}, {c.answer.upper:.4f}]" for c in critics),
            all(c.answer.contains(truth, 1e-3) and c.answer.upper - c.answer.lower < 2e-3 for c in critics),
        ),
        Claim(
            "the critic falls by the whole distance to either square",
            f"{truth:g} within 0.01",
            f"{min(drops):.4f} to {max(drops):.4f}",
            all(abs(drop - truth) < 1e-2 for drop in drops),
        ),
    ]


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_laws(ax: Axes, laws: Laws) -> None:
    """The three images that there are, and how far one law is from the other."""
    places = ((0.0, 0.62), (1.75, 1.24), (1.75, 0.0))
    labels = ("P: all 0", "Q: a square of −1", "Q: a square of +1")
    colours = (palette.SOURCE, palette.TARGET, palette.TARGET)
    for image, (left, low), label, colour in zip((*laws.black, *laws.squares), places, labels, colours, strict=True):
        ax.imshow(image.numpy(), cmap="gray", vmin=-1.4, vmax=1.4, extent=(left, left + 1, low, low + 1), zorder=2)
        ax.plot(
            [left, left + 1, left + 1, left, left],
            [low, low, low + 1, low + 1, low],
            color=colour,
            linewidth=2.2,
            zorder=3,
        )
        ax.text(left + 0.5, low - 0.04, label, ha="center", va="top", fontsize=9.5, color=colour)
    for left, low in places[1:]:
        middle = (0.5 + low + 1.12) / 2
        ax.plot([1.0, left], [1.12, low + 0.5], color=palette.PLAN, linewidth=1.6, zorder=1)
        ax.text(
            (1 + left) / 2, middle, f"{laws.truth:g}", ha="center", va="center", fontsize=12, fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )  # fmt: skip
    ax.set_xlim(-0.05, 2.8)
    ax.set_ylim(-0.2, 2.3)
    ax.set_aspect("equal")
    ax.axis("off")
    palette.entitle(ax, f"Two laws of images, {laws.truth:g} apart")


def draw_training(ax: Axes, critics: list[Critic], truth: float) -> None:
    """The objective rising to the truth: what is between is what is not proved yet."""
    for k, critic in enumerate(critics):
        steps, values = zip(*critic.curve, strict=True)
        if k == 0:
            ax.fill_between(steps, values, truth, color=palette.PROVED, alpha=0.13, linewidth=0)
        label = "1-Lipschitz critic: from below" if k == 0 else None
        ax.plot(
            steps, values, color=palette.SOURCE, linewidth=2.2 if k == 0 else 1.2, alpha=1 - 0.5 * (k > 0), label=label
        )
    ax.axhline(truth, color=palette.TARGET, linewidth=1.6, linestyle=(0, (5, 2)), label="exact transport: from above")
    palette.dress(ax, f"The bracket closes on {truth:g}", "training step", "W₁ between the laws")
    ax.set_ylim(-1.5, truth * 1.1)
    ax.set_xlim(left=0)
    ax.legend(loc="center right", frameon=False, fontsize=9)
    best = critics[0].answer
    ax.annotate(
        f"{best.value:.4f} in [{best.lower:.4f}, {best.upper:.4f}]",
        (critics[0].curve[-1][0], best.value),
        xytext=(-4, -18),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=palette.SOURCE,
    )


def draw_gaps(ax: Axes, answers: list[Answer]) -> None:
    """How wide each bracket is, in the units of the distance."""
    rows = list(range(len(answers)))[::-1]
    floor = 1e-14
    for row, answer in zip(rows, answers, strict=True):
        colour = palette.SOURCE if "critic" in answer.question else palette.PROVED
        width = max(answer.upper - answer.lower, floor)
        ax.plot([floor, width], [row, row], color=colour, linewidth=7, solid_capstyle="butt", alpha=0.85)
        ax.text(width * 3, row, f"{answer.value:.3f}", va="center", fontsize=10, fontweight="bold", color=colour)
    ax.set_xscale("log")
    ax.set_xlim(floor, 1e2)
    ax.set_ylim(-0.7, len(answers) - 0.3)
    palette.dress(ax, "The answer, and what is left to prove", "width of the certified bracket (W₁ = 35)")
    ax.set_yticks(rows, [answer.question for answer in answers])
    ax.grid(False, axis="y")


def _figure(laws: Laws, answers: list[Answer], critics: list[Critic]) -> Figure:
    figure = palette.sheet(16, 5, dpi=150)
    images, training, gaps = figure.subplots(1, 3)
    draw_laws(images, laws)
    draw_training(training, critics, laws.truth)
    draw_gaps(gaps, answers)
    return figure
