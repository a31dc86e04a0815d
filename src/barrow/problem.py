"""The one equation, its primal and its dual objective.

    V(C, a, b; epsilon, rho) = min over P >= 0 of
        <C, P> + epsilon KL(P | r x s) + rho_a KL(P 1 | a) + rho_b KL(P' 1 | b)

with KL(p | q) = sum p log(p / q) - sum p + sum q, and its dual

    V = sup over f, g of  - rho_a <a, exp(-f / rho_a) - 1> - rho_b <b, exp(-g / rho_b) - 1>
                          - epsilon <r x s, exp((f + g - C) / epsilon) - 1>.

rho = inf gives the hard constraint (P 1 = a, and <a, f> in the dual); epsilon = 0 gives f + g <= C.
"""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Cost, Grid, Points


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """What is asked: everything that changes the true answer, and nothing else.

    Args:
        cost: what moving mass costs, :class:`Points`, :class:`Dense`, :class:`Tree` or
            :class:`Grid`, n x m.
        a: weights (..., n) of the left measure; uniform, 1/n each, unless given. Zeros are legal.
        b: weights (..., m) of the right measure, likewise.
        epsilon: strength of the entropy, in units of the cost; 0 is exact transport.
        rho: strength of the marginal penalties, in units of the cost: a positive number or inf for both sides, or a
            pair (rho_a, rho_b). inf is the hard constraint; one finite and one infinite side is semi-relaxed.
        reference: the reference measure (r, s) of the entropy, r (..., n) and s (..., m); a x b unless given.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; epsilon < 0; rho <= 0; a reference without an entropy.

    >>> Problem(Points(torch.zeros(3, 2), torch.ones(4, 2)), epsilon=0.1)
    Problem(Points(3 x 4), epsilon=0.1)
    """

    cost: Cost
    a: Tensor
    b: Tensor
    epsilon: float
    rho: tuple[float, float]
    reference: tuple[Tensor, Tensor] | None
    uniform: tuple[bool, bool]  # whether a, b were left to be uniform: then they are exact in every precision

    def __init__(
        self,
        cost: Cost,
        a: Tensor | None = None,
        b: Tensor | None = None,
        *,
        epsilon: float = 0.0,
        rho: float | tuple[float, float] = math.inf,
        reference: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if not isinstance(cost, Cost):
            raise ValueError(
                f"cost is a {type(cost).__name__}, but it must be Points(x, y), Dense(C), Tree(parent, length) or "
                "Grid(shape, p)"
            )
        n, m = cost.shape
        data, whose = cost.tensors[0], "the cost's data"
        if data.dtype != cost.dtype:
            data = data.new_empty(0, dtype=cost.dtype)
        if isinstance(cost, Grid):
            given = {"a": a, "b": b} | dict(zip(("r", "s"), reference or (), strict=False))
            for name, w in given.items():
                check.flattened(name, w, cost.sides)
            # A grid has no data of its own: whatever is given first says the precision and the device.
            first = next((name for name, w in given.items() if w is not None), None)
            if first is not None:
                data, whose = check.real_tensor(first, given[first], what="weights"), first
                cost = cost.beside(data)
        uniform = (a is None, b is None)
        if a is None and b is None and n == m:
            a = b = data.new_full((n,), 1 / n)  # one tensor, so that a measure against itself is seen as such
        a, b = (
            data.new_full((size,), 1 / size) if w is None else check.weights(name, w, size, data, whose)
            for name, w, size in (("a", a, n), ("b", b, m))
        )
        epsilon = check.number("epsilon", epsilon)
        if epsilon < 0 or epsilon == math.inf:
            raise ValueError(f"epsilon is {epsilon}, but it must be finite and at least 0 (0 is exact transport)")
        both = check.penalties("rho", rho)
        if reference is not None:
            if epsilon == 0:
                raise ValueError("reference is given but epsilon is 0: without an entropy no reference is used")
            r, s = reference
            r, s = (check.weights(*side, data, whose) for side in (("r", r, n), ("s", s, m)))
            reference = (r, s)
        for name, value in (
            ("cost", cost),
            ("a", a),
            ("b", b),
            ("epsilon", epsilon),
            ("rho", both),
            ("reference", reference),
            ("uniform", uniform),
        ):
            object.__setattr__(self, name, value)
        _ = self.batch_shape  # read now, so that batches that do not fit are complained about here

    # -- shapes ----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.cost.shape

    @property
    def batch_shape(self) -> torch.Size:
        """Leading batch dimensions of the cost and the weights together."""
        shapes = {"of the cost": self.cost.batch_shape, "of a": self.a.shape[:-1], "of b": self.b.shape[:-1]}
        if self.reference is not None:
            shapes |= {"of r": self.reference[0].shape[:-1], "of s": self.reference[1].shape[:-1]}
        return check.batch(**shapes)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the data."""
        return self.cost.dtype

    @property
    def balanced(self) -> bool:
        """Both marginals are hard constraints."""
        return self.rho == (math.inf, math.inf)

    @property
    def symmetric(self) -> bool:
        """A measure against itself: the two potentials are one."""
        same_places = isinstance(self.cost, Grid) or (isinstance(self.cost, Points) and self.cost.x is self.cost.y)
        return same_places and self.a is self.b and self.rho[0] == self.rho[1] and self.reference is None

    @property
    def measures(self) -> tuple[Tensor, Tensor]:
        """The reference measure (r, s)."""
        return (self.a, self.b) if self.reference is None else self.reference

    # -- the same problem, otherwise stored -------------------------------------------------------------------------

    def _with(
        self, cost: Cost, a: Tensor, b: Tensor, reference: tuple[Tensor, Tensor] | None, uniform: tuple[bool, bool]
    ) -> Problem:
        new = Problem(cost, a, b, epsilon=self.epsilon, rho=self.rho, reference=reference)
        object.__setattr__(new, "uniform", uniform)
        return new

    def detach(self, dtype: torch.dtype | None = None) -> Problem:
        """The same problem off the autograd graph, in another precision where one is given."""
        dtype = dtype or self.dtype
        reference = self.reference and tuple(t.detach().to(dtype) for t in self.reference)
        a, b = (
            torch.full_like(w, 1 / w.shape[-1], dtype=dtype) if uniform else w.detach().to(dtype)
            for w, uniform in zip((self.a, self.b), self.uniform, strict=True)
        )
        return self._keeping_symmetry(self.cost.detach().to(dtype), a, b, reference)

    def _keeping_symmetry(self, cost: Cost, a: Tensor, b: Tensor, reference: tuple[Tensor, ...] | None) -> Problem:
        if self.symmetric:
            b = a
            if isinstance(cost, Points):
                cost = cost.replace(cost.x, cost.x)
        return self._with(cost, a, b, reference, self.uniform)  # type: ignore[arg-type]

    def flatten(self) -> Problem:
        """The same problems with exactly one batch dimension: a (B, n), b (B, m); a shared cost stays shared."""
        batch = self.batch_shape
        to = (math.prod(batch),)

        def flat(w: Tensor) -> Tensor:
            return w.expand(*batch, w.shape[-1]).reshape(*to, w.shape[-1])

        reference = self.reference and tuple(flat(t) for t in self.reference)
        return self._keeping_symmetry(self.cost.reshape_batch(batch, to), flat(self.a), flat(self.b), reference)

    def select(self, index: Tensor) -> Problem:
        """Some problems of a flattened batch."""
        reference = self.reference and tuple(t[index] for t in self.reference)
        return self._keeping_symmetry(self.cost.select(index), self.a[index], self.b[index], reference)

    def without(self, faulty: Tensor) -> Problem:
        """A flattened batch with some problems (B,) replaced by uniform weights and costs of 0."""
        if self.cost.batch_shape:
            tensors = (t.masked_fill(faulty.reshape(-1, *[1] * (t.dim() - 1)), 0) for t in self.cost.tensors)
        else:
            # One cost for all: where it is at fault, so are all problems.
            tensors = (t.nan_to_num(0, 0, 0) if bool(faulty.all()) else t for t in self.cost.tensors)
        a, b = (torch.where(faulty[:, None], 1 / w.shape[-1], w) for w in (self.a, self.b))
        reference = self.reference and tuple(torch.where(faulty[:, None], 1, w) for w in self.reference)
        return self._keeping_symmetry(self.cost.replace(*tensors), a, b, reference)

    def replace(self, *, cost: Cost | None = None, b: Tensor | None = None) -> Problem:
        """The same problem with another cost or right weights."""
        uniform = (self.uniform[0], self.uniform[1] and b is None)
        return self._with(cost or self.cost, self.a, self.b if b is None else b, self.reference, uniform)

    def __repr__(self) -> str:
        options = f", epsilon={self.epsilon:g}" if self.epsilon else ""
        if not self.balanced:
            options += f", rho={self.rho[0] if self.rho[0] == self.rho[1] else self.rho}"
        if self.reference is not None:
            options += ", reference given"
        return f"Problem({self.cost}{options})"


# -- both objectives, term by term -----------------------------------------------------------------------------------


def marginal_penalty(rho: float, q: Tensor, a: Tensor) -> Tensor:
    """The penalty rho KL(q | a) for a marginal q of a plan, entry by entry; inf where q has mass and a has none."""
    if math.isinf(rho):
        return torch.zeros_like(q)
    ratio = torch.where(a > 0, q / torch.where(a > 0, a, 1), 1)
    entry = torch.xlogy(q, ratio) - q + a
    return rho * torch.where((a == 0) & (q > 0), torch.inf, entry)


def marginal_dual(rho: float, f: Tensor, a: Tensor) -> Tensor:
    """-rho a (exp(-f / rho) - 1), or a f at rho = inf, entry by entry; 0 where a is 0."""
    value = f if math.isinf(rho) else -rho * torch.expm1(-f / rho)
    return torch.where(a > 0, a * torch.where(a > 0, value, 0), 0)


def marginal_slope(rho: float, f: Tensor) -> Tensor:
    """The derivative of :func:`marginal_dual` in a: rho (1 - exp(-f / rho)), or f."""
    return f if math.isinf(rho) else -rho * torch.expm1(-f / rho)


def marginal_mass(rho: float, f: Tensor, a: Tensor) -> Tensor:
    """The marginal that a potential stands for at its best: a exp(-f / rho), or a."""
    return a if math.isinf(rho) else torch.where(a > 0, a * torch.exp(-f / rho), 0)


def step(rho: float, epsilon: Tensor | float, soft: Tensor, log_ratio: Tensor | float) -> Tensor:
    """The potential that maximises the dual in one block.

    ``soft`` is softmin(other potential + epsilon log of its reference); ``log_ratio`` is log(a / r), 0 for the
    reference a x b. f = rho / (rho + epsilon) (soft + epsilon log(a / r)).
    """
    full = soft + epsilon * log_ratio
    return full if math.isinf(rho) else rho / (rho + epsilon) * full


def log_ratio(weights: Tensor, reference: Tensor) -> Tensor | float:
    """log(a / r): 0 for the reference a x b; finite for zero weights, whose potential is then merely very low."""
    if weights is reference:
        return 0.0
    tiny = torch.finfo(weights.dtype).tiny
    return weights.clamp_min(tiny).log() - reference.clamp_min(tiny).log()
