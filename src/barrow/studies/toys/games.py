"""Games of the WGAN family in the plane: one generator and one critic, trained, and judged by fresh samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import final

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
from barrow.studies.toys.planar import LAWS
from barrow.studies.work import Progress, silent

JUDGED = 2500  # samples among which modes are looked for, as in VEEGAN's and PacGAN's protocol
LINE = torch.linspace(-2, 2, 120)  # both axes of the grid on which a critic is looked at


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
    """One trained generator, judged; the slope of its critic is the mean between data and samples.

    ``heights`` (120, 120) are those of the critic on the plane, a row a second coordinate.
    """

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
    samples: Tensor
    heights: Tensor

    @property
    def excess(self) -> float:
        """W_1 in units of what chance alone makes of the truth."""
        return self.w1 / self.floor

    def numbers(self) -> dict[str, str | float]:
        """What is written to results.json."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("samples", "heights")}


def play(name: str, how: str, seed: int, size: Size, progress: Progress = silent) -> tuple[Run, nn.Module]:
    """Train one pair of networks and judge the generator by fresh samples; the critic comes along."""
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
    run = Run(
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
        samples=samples[:JUDGED].clone(),
        heights=_heights(critic),
    )
    return run, critic


def _exact(x: Tensor, y: Tensor) -> float:
    return float(barrow.wasserstein(x.double(), y.double(), p=1))


@torch.no_grad()
def _heights(critic: nn.Module) -> Tensor:
    heights: Tensor = critic(torch.cartesian_prod(LINE, LINE)).reshape(len(LINE), len(LINE)).T.contiguous()
    return heights


def _slopes(critic: nn.Module, points: Tensor) -> Tensor:
    points = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points)
    norms: Tensor = torch.linalg.vector_norm(slope, dim=1)
    return norms
