"""The main job on real input: known answers three ways, then handwritten digits; one table, one picture."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from barrow.studies import digits, palette, squares
from barrow.studies.study import Answer, need
from barrow.studies.work import Progress, one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclasses.dataclass(frozen=True)
class Demo:
    """The table's rows under a heading each, the picture, and the seconds it all took."""

    sections: tuple[tuple[str, tuple[Answer, ...]], ...]
    figure: Figure
    seconds: float


def run(*, seed: int, quick: bool, progress: Progress) -> Demo:
    """Do everything; ``quick`` takes smaller networks and clouds."""
    need("matplotlib", "sklearn")
    with one_thread():
        return _run(seed, quick, progress)


def _run(seed: int, quick: bool, progress: Progress) -> Demo:
    start = time.perf_counter()
    laws = squares.Laws.draw()
    progress("image laws: exact and entropic", 0, 1)
    known = [squares.exact(laws), *(squares.entropic(laws, epsilon) for epsilon in squares.EPSILONS)]
    progress("image laws: exact and entropic", 1, 1)
    critic = squares.train(laws, seed, quick=quick, progress=progress)
    known.append(critic.answer)

    count, steps = digits.size(quick)
    x, y = digits.two_classes(3, 8, count, torch.Generator().manual_seed(seed))
    moved = digits.flow(x, y, steps=steps, progress=progress)
    before = dataclasses.replace(moved.first, question=f"W₂, {count} threes to {count} eights")
    after = dataclasses.replace(moved.last, question=f"W₂, after {steps} descent steps", seconds=moved.seconds)
    figure = _figure(laws, known, critic, x, y, moved)
    return Demo(
        sections=(
            (f"two laws of images, {laws.truth:g} apart in W₁", tuple(known)),
            ("handwritten digits", (before, after)),
        ),
        figure=figure,
        seconds=time.perf_counter() - start,
    )


def _figure(
    laws: squares.Laws, known: list[Answer], critic: squares.Critic, x: Tensor, y: Tensor, moved: digits.Flow
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 10), dpi=130, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.16)
    figure.suptitle(
        "barrow: every distance comes with a proof of how far it can be from the truth",
        fontsize=15, fontweight="bold", color=palette.TRUTH, x=0.01, ha="left",
    )  # fmt: skip
    (images, training, gaps), (morph, fall, arcs) = figure.subplots(2, 3, width_ratios=(1.12, 1, 1))
    squares.draw_laws(images, laws)
    squares.draw_training(training, [critic], laws.truth)
    squares.draw_gaps(gaps, known)
    digits.draw_morph(morph, moved, y)
    digits.draw_fall(fall, moved)
    digits.draw_arcs(arcs, x, y)
    return figure
