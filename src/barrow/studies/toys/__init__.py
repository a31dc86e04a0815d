"""Three laws in the plane and the WGAN family on them: who finds all modes, and how far from the truth, exactly.

A generative adversarial network of the Wasserstein family trains a critic to tell data from samples and a generator to
please it. How the critic is kept from being steep makes the methods: clipped weights, a penalty on slopes that differ
from one (WGAN-GP) or exceed it (WGAN-LP), orthogonal layers that cannot be steep, or the c-transform of a batch. The
question is what each brings to eight Gaussians on a ring, twenty-five on a grid, and the Swiss roll.

All methods have the same networks, data, optimiser and number of steps. Modes and the share of good samples are
counted as VEEGAN and PacGAN do; beyond that exact W_1 between samples and fresh data tells how far each generator is
from the truth, and the same number between data and data what chance alone makes of it.

The toys are those of Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, "Improved training of Wasserstein GANs",
2017, who show pictures; the numbers are those of Lin, Khetan, Fanti and Oh, "PacGAN", 2018.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from barrow.studies import palette
from barrow.studies.study import Claim, Outcome, Spread, Table
from barrow.studies.toys.games import LINE, Run, Size, play
from barrow.studies.toys.planar import LAWS, Law
from barrow.studies.work import Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACGAN = {"ring": (7.9, 95.6), "grid": (23.8, 91.3)}  # modes and % of high quality of PacGAN2


@final
@dataclasses.dataclass(frozen=True)
class Asked:
    """What is expected of that much work."""

    ring_modes: int
    grid_modes: float
    quality: float
    w1: float


ALL = ("WGAN", "WGAN-GP", "WGAN-LP", "1-Lipschitz", "c-transform")
FULL = Size(2000, {"ring": 3, "grid": 2, "roll": 1}, 10_000, dict.fromkeys(LAWS, ALL))
QUICK = Size(500, dict.fromkeys(LAWS, 1), 1000, {"ring": ALL, "grid": ("WGAN-LP",), "roll": ("WGAN-LP",)}, rate=2e-3)
ASKED, ASKED_QUICKLY = Asked(8, 23.8, 0.5, 0.2), Asked(6, 12.5, 0.05, 0.6)


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work, size: Size | None = None) -> Outcome:
    """The study."""
    size = size or (QUICK if work.quick else FULL)
    plan = [(n, how, work.seed + k) for n in LAWS for how in size.methods[n] for k in range(size.seeds[n])]
    cells = {f"{name}, {how}, seed {seed}": _game(work, name, how, seed, size) for name, how, seed in plan}
    runs = [Run(**fields) for fields in work.parts(cells, "all games").values()]
    groups = {
        (name, how): [r for r in runs if (r.law, r.method) == (name, how)]
        for name in LAWS
        for how in size.methods[name]
    }
    return Outcome(
        claims=tuple(claims(runs, ASKED_QUICKLY if work.quick else ASKED)),
        figures={"toys": _figure(runs)},
        numbers={
            "runs": [r.numbers() for r in runs],
            "summary": {", ".join(key): _summary(group) for key, group in groups.items()},
            "size": dataclasses.asdict(size),
        },
        tables={"who finds what": _table(groups)},
        captions={
            "toys": "Grey are the data, orange what each generator makes of them: its exact W₁ to the truth, and how "
            "many modes it finds. The last row has the critics on the ring, and the steepest slope that their weights "
            "prove: clipping and penalties prove next to nothing, orthogonal layers prove 1."
        },
        sources=("points in the plane, drawn here without end: nothing is read",),
    )


def _game(work: Work, name: str, how: str, seed: int, size: Size) -> Callable[[], dict[str, Any]]:
    return lambda: dataclasses.asdict(play(name, how, seed, size, work.progress)[0])


def _summary(runs: list[Run]) -> dict[str, list[float]]:
    """Mean and spread over the seeds."""
    return {
        what: [spread.mean, spread.std]
        for what in ("w1", "floor", "modes", "quality", "slope", "told")
        for spread in [Spread.of(getattr(r, what) for r in runs)]
    }


def _table(groups: Mapping[tuple[str, str], list[Run]]) -> Table:
    rows = []
    for (name, how), group in groups.items():
        centres = LAWS[name]().centres
        found = ("-", "-")
        if centres is not None:
            quality = Spread.of(100 * r.quality for r in group)
            found = f"{Spread.of(r.modes for r in group):.1f} of {len(centres)}", f"{quality:.0f} %"
        w1, floor, told = (Spread.of(getattr(r, what) for r in group) for what in ("w1", "floor", "told"))
        rows.append((LAWS[name]().title, how, f"{len(group)}", f"{w1:.3f}", f"{floor:.3f}", *found, f"{told:.3f}"))
    columns = ("law", "critic", "seeds", "exact W_1", "data to data", "modes", "good samples", "the critic's own W_1")
    return Table(columns, tuple(rows))


def claims(runs: list[Run], asked: Asked) -> list[Claim]:
    """What is claimed of the runs, each a sentence that they can refute."""

    def of(law: str, *methods: str) -> list[Run]:
        return [r for r in runs if r.law == law and (not methods or r.method in methods)]

    held, clipped = [r for r in runs if r.method != "WGAN"], [r for r in runs if r.method == "WGAN"]
    ring_modes = [r.modes for r in of("ring") if r.method != "WGAN"]
    grid_modes = [r.modes for r in of("grid", "WGAN-LP")]
    quality = [r.quality for r in of("ring", "WGAN-LP")]
    # How many times worse clipping is than the worst of the others, law by law.
    margins = [
        min(r.w1 for r in of(law, "WGAN")) / max(r.w1 for r in held if r.law == law) for law in {r.law for r in clipped}
    ]
    certified = [r for r in runs if r.method == "1-Lipschitz"]
    free = [r.bound for r in held if r.method != "1-Lipschitz"]
    one_sided = [r for r in runs if r.method == "WGAN-LP"]
    return [
        Claim(
            "all but clipping find the modes of the ring, in every run",
            f">= {asked.ring_modes} of 8",
            f"{min(ring_modes)} to {max(ring_modes)}",
            min(ring_modes) >= asked.ring_modes,
            paper=f"PacGAN2 finds {PACGAN['ring'][0]} of them on average, a plain GAN 6.3",
        ),
        Claim(
            "WGAN-LP finds the modes of the grid",
            f"mean >= {asked.grid_modes:g} of 25",
            f"{statistics.fmean(grid_modes):.1f}",
            statistics.fmean(grid_modes) >= asked.grid_modes,
            paper=f"PacGAN2 finds {PACGAN['grid'][0]} of them on average, a plain GAN 17.3",
        ),
        Claim(
            "WGAN-LP's samples on the ring are within 3 sigma of a mode",
            f"mean >= {100 * asked.quality:g} %",
            f"{Spread.of(100 * share for share in quality):.1f} %",
            statistics.fmean(quality) >= asked.quality,
            paper=f"PacGAN2 has {PACGAN['ring'][1]} % there",
        ),
        Claim(
            "exact W_1 to the truth is small on all laws for all but clipping",
            f"<= {asked.w1:g} (the ring has radius 1.41)",
            _range(r.w1 for r in held),
            max(r.w1 for r in held) <= asked.w1,
        ),
        Claim(
            "no generator beats fresh data by more than chance",
            ">= 0.9 of W_1 between data and data",
            f"least {min(r.excess for r in runs):.2f}",
            min(r.excess for r in runs) >= 0.9,
        ),
        Claim(
            "clipping is the worst in exact W_1, whatever the law and the seed",
            "> 1 times the worst of the others",
            _range(margins),
            min(margins) > 1,
            paper="pictures only: a critic of clipped weights misses the higher moments of the data",
        ),
        Claim(
            "WGAN-LP holds the slope between data and samples, on average",
            "<= 1.05 in every run",
            _range(r.slope for r in one_sided),
            all(r.slope <= 1.05 for r in one_sided),
        ),
        Claim(
            "the orthogonal critic is proved 1-Lipschitz, and nowhere steeper",
            "<= 1 within 1e-5",
            f"proved {max(r.bound for r in certified):.7f}, seen {max(r.steepest for r in certified):.7f}",
            max(max(r.bound, r.steepest) for r in certified) <= 1 + 1e-5,
        ),
        Claim(
            "of free critics the weights prove next to nothing, though the penalty holds their slopes",
            "bounds > 2",
            _range(free),
            min(free) > 2,
        ),
    ]


def _range(values: Iterable[float]) -> str:
    seen = sorted(values)
    return f"{seen[0]:.3f} to {seen[-1]:.3f}"


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_samples(ax: Axes, law: Law, r: Run, x: Tensor) -> None:
    """What a generator made, over the truth."""
    ax.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=5, color=palette.PLAN, alpha=0.35, linewidths=0)
    made = r.samples[:1000]
    ax.scatter(made[:, 0].numpy(), made[:, 1].numpy(), s=5, color=palette.TARGET, alpha=0.6, linewidths=0)
    found = f", {r.modes}/{len(law.centres)}" if law.centres is not None else ""
    palette.entitle(ax, f"{r.method}: W₁ = {r.w1:.3f}{found}")
    _frame(ax)


def draw_levels(ax: Axes, r: Run) -> None:
    """Level sets of a critic, high on the data."""
    line, heights = LINE.numpy(), r.heights.numpy()
    ax.contourf(line, line, heights, 18, cmap="Blues", alpha=0.8)
    ax.contour(line, line, heights, 18, colors="white", linewidths=0.5)
    palette.entitle(ax, f"{r.method}: critic, slope ≤ {r.bound:.3g}")
    _frame(ax)


def _frame(ax: Axes) -> None:
    ax.set_xlim(-2, 2)
    ax.set_ylim(-2, 2)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])


def _figure(runs: list[Run]) -> Figure:
    """A row a law, a column a method, the first seed of each; below, the critics on the first law."""
    first = {(r.law, r.method): r for r in reversed(runs)}
    figure = palette.sheet(16, 13, dpi=110)
    axes = figure.subplots(len(LAWS) + 1, len(ALL))
    for row, name in zip(axes[:-1], LAWS, strict=True):
        law = LAWS[name]()
        x = law.draw(1000, torch.Generator().manual_seed(0))
        for ax, how in zip(row, ALL, strict=True):
            if (name, how) in first:
                draw_samples(ax, law, first[name, how], x)
            else:
                ax.axis("off")
    for ax, how in zip(axes[-1], ALL, strict=True):
        draw_levels(ax, first["ring", how])
    return figure
