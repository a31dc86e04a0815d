"""Laws in the plane that generators are tried on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor


@final
@dataclasses.dataclass(frozen=True)
class Law:
    """Points drawn in the plane; centres (k, 2) and the standard deviation about them where it has modes.

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs", NeurIPS 2017, the
    code of its toys.
    """

    title: str
    draw: Callable[[int, torch.Generator], Tensor]
    centres: Tensor | None = None
    sigma: float = 0.0

    def judge(self, y: Tensor) -> tuple[int, float]:
        """Modes with a sample of high quality, and the share of such samples: within three sigma of a centre."""
        assert self.centres is not None
        distance, mode = torch.cdist(y, self.centres).min(1)
        good = distance <= 3 * self.sigma
        return len(mode[good].unique()), float(good.double().mean())


def _mixture(title: str, centres: Tensor, sigma: float) -> Law:
    def draw(n: int, random: torch.Generator) -> Tensor:
        chosen = centres[torch.randint(len(centres), (n,), generator=random)]
        return chosen + sigma * torch.randn(n, 2, generator=random)

    return Law(title, draw, centres, sigma)


def ring() -> Law:
    """Eight Gaussians on a circle."""
    angle = torch.arange(8) * (math.pi / 4)
    return _mixture("8 Gaussians", 2 * torch.stack((angle.cos(), angle.sin()), 1) / 1.414, 0.02 / 1.414)


def grid() -> Law:
    """Five by five Gaussians."""
    line = 2.0 * torch.arange(-2, 3)
    return _mixture("25 Gaussians", torch.cartesian_prod(line, line) / 2.828, 0.05 / 2.828)


def roll() -> Law:
    """A spiral with noise: two coordinates of the Swiss roll."""

    def draw(n: int, random: torch.Generator) -> Tensor:
        angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=random))
        spiral = angle[:, None] * torch.stack((angle.cos(), angle.sin()), 1)
        return (spiral + 0.25 * torch.randn(n, 2, generator=random)) / 7.5

    return Law("Swiss roll", draw)


LAWS: Mapping[str, Callable[[], Law]] = {"ring": ring, "grid": grid, "roll": roll}
