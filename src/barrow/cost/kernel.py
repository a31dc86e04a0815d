"""One Gibbs kernel for many measures: soft minima and plans are products of matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from barrow.cost.base import row_masses

REACH = 600  # epsilon: the widest range of costs whose exponentials, and sums of them, are numbers of double precision
SINGLE = 60  # the same in single precision


class Kernel(NamedTuple):
    """K = exp((shift - C) / epsilon) (n, m), of which no entry is above 1.

    Exponents of potentials are taken relative to the highest, whose column alone gives each row the sum exp(-REACH):
    what falls below the range of numbers counts for nothing beside it.

    >>> kernel = Kernel.of(1 - torch.eye(2).double(), 0.5)
    >>> torch.allclose(kernel.K, torch.tensor([[1.0, 0.1353353], [0.1353353, 1.0]]).double())
    True
    """

    K: Tensor
    epsilon: float
    shift: float
    reach: float  # the largest exponent

    @classmethod
    def of(cls, C: Tensor, epsilon: float) -> Kernel | None:
        """The kernel of a matrix of costs, if all of it is in range."""
        low, high = (float(t) for t in torch.aminmax(C))
        if not high - low < REACH * epsilon:
            return None
        return cls((low - C).div_(epsilon).exp_(), epsilon, low, (high - low) / epsilon)

    @property
    def T(self) -> Kernel:
        return self._replace(K=self.K.mT)

    def soft_c_transform(self, h: Tensor) -> Tensor:
        """-epsilon log sum_j exp((h_j - C_ij) / epsilon): h (B, m) -> (B, n)."""
        V, top = self._raised(h)
        return self._soft(V @ self.K.mT, top)

    def gibbs_pass(
        self, h: Tensor, a: Tensor | None, u: Tensor | None, power: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`barrow.cost.Cost.gibbs_pass`."""
        V, top = self._raised(h)
        y = V @ self.K.mT
        f = self._soft(y, top)
        w = row_masses(f, self.epsilon, a, u, power)
        return f, w, torch.where(V > 0, V * (torch.where(w > 0, w / y, 0) @ self.K), 0)

    def _raised(self, h: Tensor) -> tuple[Tensor, Tensor]:
        highest = h.amax(-1, keepdim=True)
        top = torch.where(highest > -torch.inf, highest, 0)
        return ((h - top) / self.epsilon).exp_(), top

    def _soft(self, y: Tensor, top: Tensor) -> Tensor:
        return (y.log() * -self.epsilon).sub_(top).add_(self.shift)
