"""Pairs of continuous laws whose W_1 and optimal potential are known: a box and its image under funnels."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, final

import torch
from torch import Tensor

BOX = 2.5  # half of the side of the cube
ROWS = 4096  # points that are moved at a time


class Pair(NamedTuple):
    """Points (n, d) of both laws, coupled optimally: ``x`` is where the mass of ``y`` comes from."""

    x: Tensor
    y: Tensor


class Truth(NamedTuple):
    """W_1 by Monte Carlo, and the standard error of that."""

    value: float
    stderr: float


@final
@dataclasses.dataclass(frozen=True)
class Funnels:
    """A cube, and the law that it becomes when everything slides down the funnels of a potential:

        u(y) = min_k |y - a_k| + b_k,     y uniform on [-2.5, 2.5]^d,     x = low + t^8 (up - low)

    Each y lies on a ray of slope one from the tip ``low`` of its funnel to ``up``, where the next funnel or the wall
    begins; t in [0, 1] is its place on it. Mass moves along rays of u only, so u is an optimal potential:
    W_1(x, y) = E |x - y|, and f = -u is the critic of largest E f(x) - E f(y), with gradient -grad u.

    Args:
        centers: a_k, (k, d), float64.
        offsets: b_k, (k,).

    >>> funnels = Funnels.drawn(2, 4, torch.Generator().manual_seed(0))
    >>> x, y = funnels.sample(1000, torch.Generator().manual_seed(1))
    >>> bool(torch.allclose(funnels.potential(y) - funnels.potential(x), (x - y).norm(dim=-1)))
    True

    Source: Korotin, Kolesov and Burnaev, Kantorovich strikes back! Wasserstein GANs are not optimal transport?,
    NeurIPS 2022, section 4.
    """

    centers: Tensor
    offsets: Tensor

    @classmethod
    def drawn(cls, d: int, count: int, generator: torch.Generator) -> Funnels:
        """Tips uniform in the cube, offsets of standard deviation 0.1."""
        centers = BOX * (2 * torch.rand(count, d, dtype=torch.float64, generator=generator) - 1)
        return cls(centers, 0.1 * torch.randn(count, dtype=torch.float64, generator=generator))

    @property
    def d(self) -> int:
        """The dimension of the space."""
        return self.centers.shape[1]

    def potential(self, points: Tensor) -> Tensor:
        """U at points (n, d)."""
        return (self._apart(points) + self.offsets).amin(-1)

    def slope(self, points: Tensor) -> Tensor:
        """The gradient of u at points (n, d): unit vectors away from the tips."""
        away = points - self.centers[(self._apart(points) + self.offsets).argmin(-1)]
        slope: Tensor = away / away.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(away.dtype).tiny)
        return slope

    def sample(self, n: int, generator: torch.Generator) -> Pair:
        """Draw n points of both laws, in double precision."""
        y = BOX * (2 * torch.rand(n, self.d, dtype=torch.float64, generator=generator) - 1)
        return Pair(torch.cat([self._slide(part) for part in y.split(ROWS)]) if n else y, y)

    def truth(self, n: int, generator: torch.Generator) -> Truth:
        """W_1 from the lengths of n moves."""
        total = square = 0.0
        for start in range(0, n, ROWS):
            x, y = self.sample(min(ROWS, n - start), generator)
            length = (x - y).norm(dim=-1)
            total, square = total + float(length.sum()), square + float(length.square().sum())
        mean = total / n
        return Truth(mean, (max(square / n - mean**2, 0) / n) ** 0.5)

    def _apart(self, points: Tensor) -> Tensor:
        apart: Tensor = torch.cdist(points, self.centers, compute_mode="donot_use_mm_for_euclid_dist")
        return apart

    def _slide(self, y: Tensor) -> Tensor:
        apart = self._apart(y)
        height, own = (apart + self.offsets).min(-1)
        low = self.centers[own]
        down = (y - low).norm(dim=-1, keepdim=True)
        v = (y - low) / down.clamp_min(torch.finfo(y.dtype).tiny)
        wall = ((v.sign() * BOX - y) / v).nan_to_num(nan=torch.inf, posinf=torch.inf).amin(-1)
        # Where |y + r v - a_k| + b_k = u(y) + r: the squares of both sides are linear in r.
        rise = height[:, None] - self.offsets
        along = (y * v).sum(-1, keepdim=True) - v @ self.centers.T
        r = (apart.square() - rise.square()) / (2 * (rise - along))
        met = (r > 0) & (rise + r >= 0)
        met.scatter_(1, own[:, None], torch.zeros_like(own, dtype=torch.bool)[:, None])
        left = torch.minimum(torch.where(met, r, torch.inf).amin(-1), wall)[:, None]
        length = down + left
        return torch.where(down > 0, low + (down / length) ** 8 * length * v, low)  # a tip stays where it is
