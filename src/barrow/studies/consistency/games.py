"""Games on few images: a generator and a critic are trained on some, and the critic is watched on others."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn

import barrow
from barrow.generative import Method, Wgan, ct_gan, interpolates, lipschitz_gan, perceptron, train, wgan_gp
from barrow.nn import Critic
from barrow.studies.data.mnist import SIDE
from barrow.studies.work import Progress, silent

PIXELS = SIDE**2
GP, CT, PLAIN, CERTIFIED = "WGAN-GP", "CT-GAN", "WGAN-GP, no dropout", "1-Lipschitz"
METHODS: dict[str, Callable[[], Method]] = {
    GP: lambda: wgan_gp(10.0),
    CT: lambda: ct_gan(10.0, consistency=2.0, margin=0.0),
    PLAIN: lambda: wgan_gp(10.0),
    CERTIFIED: lipschitz_gan,
}
DROPOUT = 0.5


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
    samples: Tensor

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
        hidden = ("samples", "looks")
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}
        derived = {"gap": self.last.gap, "share": self.last.share, "growth": self.growth, "steady": self.steady}
        return {**kept, **derived, "looks": [dataclasses.asdict(look) for look in self.looks]}


def networks(how: str, size: Size) -> tuple[nn.Module, nn.Module]:
    """Generator and critic; those of one seed differ from method to method only where they must."""
    generator = nn.Sequential(
        perceptron(size.latent, PIXELS, (size.width,)), nn.Sigmoid(), nn.Unflatten(1, (1, SIDE, SIDE))
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


def play(
    how: str, seed: int, size: Size, images: tuple[Tensor, Tensor], w1_data: float, progress: Progress = silent
) -> tuple[Run, nn.Module]:
    """Train one pair of networks on the first images, and watch the critic on the second; it comes along."""
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
    run = Run(
        method=how,
        seed=seed,
        looks=tuple(looks),
        stderr=math.sqrt(float(f_x.var()) / len(f_x) + float(f_held.var()) / len(f_held)),
        slope=_slope(critic, interpolates(held[:n], y[:n], torch.Generator().manual_seed(seed))),
        bound=rows[-1].get("lipschitz_bound"),
        w1_train=exact(shown, y),
        w1_held=exact(held, y),
        w1_data=w1_data,
        samples=y,
    )
    return run, critic


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
