"""Three laws in the plane and the WGAN family on them: who finds all modes, and how far from the truth, exactly."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

import barrow
from barrow.generative import (
    Method,
    Wgan,
    c_transform_gan,
    interpolates,
    lipschitz_gan,
    perceptron,
    train,
    wgan,
    wgan_gp,
    wgan_lp,
)
from barrow.nn import Critic
from barrow.studies import palette
from barrow.studies.planar import LAWS, Law
from barrow.studies.study import Claim, Outcome, Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JUDGED = 2500  # samples among which modes are looked for, as in VEEGAN's and PacGAN's protocol
PACGAN = {"ring": (7.9, 95.6), "grid": (23.8, 91.3)}  # modes and % of high quality of PacGAN2


# -- the games ---------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done. The papers have three layers of 512, five critic steps, batches of 256 and 100,000 steps.

    One core in ten minutes affords layers of 64, two critic steps and batches of 128 at ten times the learning rate,
    which falls by a cosine.
    """

    steps: int
    seeds: Mapping[str, int]  # how many of each law
    exact: int  # points of either side in the exact distance
    methods: Mapping[str, tuple[str, ...]]  # names by law
    width: int = 64
    rate: float = 1e-3


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


def method(name: str) -> Method:
    """The member of the family, all with one optimiser.

    WGAN-GP has the weight of its paper's toys: drawn to slope one from below with weight 10, it tends to collapse here.
    Clipping is at 0.1: in layers as narrow as these 0.01 leaves next to no slope.
    """
    return {
        "WGAN": wgan(0.1),
        "WGAN-GP": wgan_gp(0.1),
        "WGAN-LP": wgan_lp(10.0),
        "1-Lipschitz": lipschitz_gan(),
        "c-transform": c_transform_gan(),
    }[name]


@final
@dataclasses.dataclass(frozen=True)
class Run:
    """One trained generator, judged; the slope of its critic is the mean between data and samples."""

    law: str
    method: str
    seed: int
    w1: float  # exact, samples against fresh data
    floor: float  # exact, fresh data against fresh data
    modes: int
    quality: float
    slope: float
    steepest: float
    bound: float  # proved Lipschitz constant of the critic
    told: float  # what the critic itself takes W_1 for
    seconds: float
    samples: Tensor
    critic: nn.Module

    @property
    def excess(self) -> float:
        """W_1 in units of what chance alone makes of the truth."""
        return self.w1 / self.floor

    def numbers(self) -> dict[str, str | float]:
        """What is written to results.json."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("samples", "critic")}


def play(name: str, how: str, seed: int, size: Size, progress: Progress) -> Run:
    """Train one pair of networks and judge the generator by fresh samples."""
    start = time.perf_counter()
    law, chosen = LAWS[name](), method(how)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = perceptron(2, 2, (size.width,) * 3)
        critic = Critic(2, (size.width // 2,) * 3) if chosen.bounded else perceptron(2, 1, (size.width,) * 3)

    def adam(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, size.rate, betas=(0.5, 0.9))  # type: ignore[arg-type]

    game = Wgan(
        generator, critic, law.draw, 2, method=chosen, batch_size=128, n_critic=2, ema=0.99, seed=seed,
        generator_optimiser=adam, critic_optimiser=adam,
    )  # fmt: skip
    rows = train(
        game,
        size.steps,
        every=max(1, size.steps // 20),
        schedule=lambda share: (1 + math.cos(math.pi * share)) / 2,
        progress=lambda step, steps, w1: progress(f"{law.title}, {how}, seed {seed}: {w1:.3f}", step, steps),
    )
    random = torch.Generator().manual_seed(seed + 2**32)
    samples = game.sample(max(JUDGED, size.exact), random)
    y, x, other = samples[: size.exact], law.draw(size.exact, random), law.draw(size.exact, random)
    slopes = _slopes(critic, interpolates(x, y, random))
    modes, quality = (0, 0.0) if law.centres is None else law.judge(samples[:JUDGED])
    return Run(
        law=name,
        method=how,
        seed=seed,
        w1=_exact(x, y),
        floor=_exact(x, other),
        modes=modes,
        quality=quality,
        slope=float(slopes.mean()),
        steepest=float(slopes.max()),
        bound=rows[-1]["lipschitz_bound"],
        told=rows[-1]["w1"],
        seconds=time.perf_counter() - start,
        samples=samples[:JUDGED],
        critic=critic,
    )


def _exact(x: Tensor, y: Tensor) -> float:
    return float(barrow.wasserstein(x.double(), y.double(), p=1))


def _slopes(critic: nn.Module, points: Tensor) -> Tensor:
    points = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points)
    norms: Tensor = torch.linalg.vector_norm(slope, dim=1)
    return norms


# -- the study ---------------------------------------------------------------------------------------------------------


def run(*, seed: int, quick: bool, progress: Progress, size: Size | None = None) -> Outcome:
    """The study."""
    size = size or (QUICK if quick else FULL)
    plan = [(n, how, seed + k) for n in LAWS for how in size.methods[n] for k in range(size.seeds[n])]
    runs = []
    for done, (name, how, s) in enumerate(plan):
        progress("all games", done, len(plan))
        runs.append(play(name, how, s, size, progress))
    progress("all games", len(plan), len(plan))
    table = {
        f"{name}, {how}": _summary([r for r in runs if (r.law, r.method) == (name, how)])
        for name in LAWS
        for how in size.methods[name]
    }
    seconds: dict[str, float] = {}
    for r in runs:
        seconds[r.method] = seconds.get(r.method, 0.0) + r.seconds
    return Outcome(
        claims=tuple(claims(runs, ASKED_QUICKLY if quick else ASKED)),
        figures={"toys": _figure(runs)},
        numbers={"runs": [r.numbers() for r in runs], "summary": table, "size": dataclasses.asdict(size)},
        durations=seconds,
    )


def _summary(runs: list[Run]) -> dict[str, list[float]]:
    """Mean and spread over the seeds."""
    return {
        what: [statistics.fmean(values), statistics.pstdev(values)]
        for what in ("w1", "floor", "modes", "quality", "slope", "told")
        for values in [[float(getattr(r, what)) for r in runs]]
    }


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
            f"all but clipping find the modes of the ring, in every run; PacGAN2 finds {PACGAN['ring'][0]}",
            f">= {asked.ring_modes} of 8",
            f"{min(ring_modes)} to {max(ring_modes)}",
            min(ring_modes) >= asked.ring_modes,
        ),
        Claim(
            f"WGAN-LP finds the modes of the grid; PacGAN2 finds {PACGAN['grid'][0]}",
            f"mean >= {asked.grid_modes:g} of 25",
            f"{statistics.fmean(grid_modes):.1f}",
            statistics.fmean(grid_modes) >= asked.grid_modes,
        ),
        Claim(
            f"WGAN-LP's samples on the ring are within 3 sigma of a mode; PacGAN2's are in {PACGAN['ring'][1]} %",
            f"mean >= {100 * asked.quality:g} %",
            f"{100 * statistics.fmean(quality):.1f} ± {100 * statistics.pstdev(quality):.1f} %",
            statistics.fmean(quality) >= asked.quality,
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
    line = torch.linspace(-2, 2, 120)
    with torch.no_grad():
        heights = r.critic(torch.cartesian_prod(line, line)).reshape(120, 120).T
    ax.contourf(line.numpy(), line.numpy(), heights.numpy(), 18, cmap="Blues", alpha=0.8)
    ax.contour(line.numpy(), line.numpy(), heights.numpy(), 18, colors="white", linewidths=0.5)
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
    from matplotlib.figure import Figure

    first = {(r.law, r.method): r for r in reversed(runs)}
    figure = Figure(figsize=(16, 13), dpi=110, layout="constrained", facecolor="white")
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
