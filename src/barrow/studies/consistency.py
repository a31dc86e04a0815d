"""A thousand images, and critics that learn them by heart: with a consistency term, without, and with a certificate."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

import barrow
from barrow.generative import Method, Wgan, ct_gan, interpolates, lipschitz_gan, perceptron, train, wgan_gp
from barrow.nn import Critic
from barrow.studies import mnist, palette
from barrow.studies.study import Claim, Outcome, Progress, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = mnist.SIDE**2
GP, CT, PLAIN, CERTIFIED = "WGAN-GP", "CT-GAN", "WGAN-GP, no dropout", "1-Lipschitz"
METHODS: dict[str, Callable[[], Method]] = {
    GP: lambda: wgan_gp(10.0),
    CT: lambda: ct_gan(10.0, consistency=2.0, margin=0.0),
    PLAIN: lambda: wgan_gp(10.0),
    CERTIFIED: lipschitz_gan,
}
DROPOUT = 0.5
APART = 0.1  # share of the objective on the training images that is lost on held-out ones: below it, both are together


# -- the games ---------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done.

    The paper has 1000 images, three convolutions of 64 to 256 channels, batches of 50, five critic steps and 50,000
    steps of Adam(1e-4, 0.5, 0.9). One core in ten minutes affords all twelve games with two hidden layers of 128 and
    a learning rate ten times that, in the steps given here.
    """

    train: int = 1000
    held: int = 1000
    steps: int = 1000
    looks: int = 40
    seeds: int = 3
    width: int = 128
    latent: int = 32
    batch: int = 50
    rate: float = 1e-3


FULL = Size()
# A tenth of the images is learnt by heart in fewer steps.
QUICK = Size(train=100, held=500, steps=160, looks=20, seeds=1)


@final
@dataclasses.dataclass(frozen=True)
class Look:
    """What the critic takes W_1 for, from training and from held-out images to the same generated ones."""

    step: int
    train: float
    held: float

    @property
    def gap(self) -> float:
        """Mean of f on training images minus that on held-out ones."""
        return self.train - self.held

    @property
    def share(self) -> float:
        """The gap as a share of the objective on the training images."""
        return self.gap / abs(self.train)


@final
@dataclasses.dataclass(frozen=True)
class Run:
    """One trained pair of networks; ``slope`` is the critic's mean one between held-out and generated images."""

    method: str
    seed: int
    looks: tuple[Look, ...]
    stderr: float  # of the last gap, over the choice of images
    slope: float
    bound: float | None  # proved Lipschitz constant of the critic
    w1_train: float  # exact, training images to generated ones
    w1_held: float
    w1_data: float  # exact, training images to held-out ones
    seconds: float
    samples: Tensor
    critic: nn.Module

    @property
    def last(self) -> Look:
        """At the end."""
        return self.looks[-1]

    @property
    def growth(self) -> float:
        """The gap's growth in a thousand steps, by least squares over the second half of the looks."""
        half = self.looks[len(self.looks) // 2 :]
        return 1000 * statistics.linear_regression([look.step for look in half], [look.gap for look in half]).slope

    @property
    def steady(self) -> float:
        """The last gap in units of the critic's slope: a flat critic has a small gap without having learnt less."""
        return self.last.gap / self.slope

    def numbers(self) -> dict[str, object]:
        """What is written to results.json."""
        hidden = ("samples", "critic", "looks")
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}
        derived = {"gap": self.last.gap, "share": self.last.share, "growth": self.growth, "steady": self.steady}
        return {**kept, **derived, "looks": [dataclasses.asdict(look) for look in self.looks]}


def networks(how: str, size: Size) -> tuple[nn.Module, nn.Module]:
    """Generator and critic; those of one seed differ from method to method only where they must."""
    generator = nn.Sequential(
        perceptron(size.latent, PIXELS, (size.width,)), nn.Sigmoid(), nn.Unflatten(1, (1, mnist.SIDE, mnist.SIDE))
    )
    if how == CERTIFIED:
        return generator, Critic(PIXELS, (size.width, size.width))
    dropout = 0.0 if how == PLAIN else DROPOUT
    critic = nn.Sequential(
        nn.Flatten(),
        nn.Linear(PIXELS, size.width), nn.LeakyReLU(0.2), nn.Dropout(dropout),
        nn.Linear(size.width, size.width), nn.LeakyReLU(0.2), nn.Dropout(dropout),
        nn.Linear(size.width, 1),
    )  # fmt: skip
    return generator, critic


def play(how: str, seed: int, size: Size, images: tuple[Tensor, Tensor], w1_data: float, progress: Progress) -> Run:
    """Train one pair of networks on the first images, and watch the critic on the second."""
    start = time.perf_counter()
    shown, held = images
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator, critic = networks(how, size)

    def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, size.rate, betas=(0.5, 0.9), fused=True)

    game = Wgan(
        generator, critic, shown, size.latent, method=METHODS[how](), batch_size=size.batch, n_critic=5, seed=seed,
        generator_optimiser=adam, critic_optimiser=adam,
    )  # fmt: skip
    looks: list[Look] = []

    def look(step: int, steps: int, w1: float) -> None:
        y = game.sample(size.train, torch.Generator().manual_seed(seed + 2**32))
        looks.append(Look(step, *(float(t) for t in _objectives(critic, shown, held, y))))
        progress(f"{how}, seed {seed}: gap {looks[-1].gap:.3f}", step, steps)

    rows = train(game, size.steps, every=max(1, size.steps // size.looks), progress=look)
    y = game.sample(size.train, torch.Generator().manual_seed(seed + 2**32))
    f_x, f_held = _values(critic, shown), _values(critic, held)
    n = min(len(held), len(y))
    return Run(
        method=how,
        seed=seed,
        looks=tuple(looks),
        stderr=math.sqrt(float(f_x.var()) / len(f_x) + float(f_held.var()) / len(f_held)),
        slope=_slope(critic, interpolates(held[:n], y[:n], torch.Generator().manual_seed(seed))),
        bound=rows[-1].get("lipschitz_bound"),
        w1_train=exact(shown, y),
        w1_held=exact(held, y),
        w1_data=w1_data,
        seconds=time.perf_counter() - start,
        samples=y,
        critic=critic,
    )


def exact(x: Tensor, y: Tensor) -> float:
    """W_1 between two sets of images."""
    return float(barrow.wasserstein(x.flatten(1).double(), y.flatten(1).double(), p=1))


@torch.no_grad()
def _values(critic: nn.Module, images: Tensor) -> Tensor:
    """The critic without its dropout, in double precision where means are taken."""
    training = critic.training
    critic.eval()
    values: Tensor = critic(images).flatten().double()
    critic.train(training)
    return values


def _objectives(critic: nn.Module, shown: Tensor, held: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    on_shown, on_held, on_y = (_values(critic, t).mean() for t in (shown, held, y))
    return on_shown - on_y, on_held - on_y


def _slope(critic: nn.Module, points: Tensor) -> float:
    training = critic.training
    critic.eval()
    points = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points)
    critic.train(training)
    return float(torch.linalg.vector_norm(slope.flatten(1), dim=1).mean())


# -- the study ---------------------------------------------------------------------------------------------------------


def run(*, seed: int, quick: bool, progress: Progress, data: Path | None = None, size: Size | None = None) -> Outcome:
    """The study: every method on the same images from the same seeds."""
    size = size or (QUICK if quick else FULL)
    digits = mnist.find(data)
    runs: list[Run] = []
    total = size.seeds * len(METHODS)
    for s in range(seed, seed + size.seeds):
        images = digits.split(size.train, size.held, torch.Generator().manual_seed(s))
        w1_data = exact(*images)
        for how in METHODS:
            progress("all games", len(runs), total)
            runs.append(play(how, s, size, images, w1_data, progress))
    progress("all games", total, total)
    return Outcome(
        claims=tuple(claims(runs)),
        figures={"consistency": _figure(runs, images[0])},
        numbers={
            "data": {"source": digits.source, "advice": digits.advice},
            "runs": [r.numbers() for r in runs],
            "size": dataclasses.asdict(size),
        },
        durations={how: sum(r.seconds for r in runs if r.method == how) for how in METHODS},
        tables={
            "data": Table(("images", "to train on", "held out", "how to get MNIST"), ((
                digits.source, str(len(images[0])), str(len(images[1])), digits.advice or "this is MNIST",
            ),)),
            "methods": _table(runs),
        },
    )  # fmt: skip


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
    rows = []
    for how in METHODS:
        cells = [(places, [value(r) for r in _of(runs, how)]) for _, places, value in columns]
        rows.append((how, *(f"{_mean(v):.{p}f} ± {statistics.pstdev(v):.{p}f}" for p, v in cells)))
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 12), dpi=110, layout="constrained", facecolor="white")
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
