"""What comes back: the witnesses of a solver, and what follows from them."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from barrow.plan import Plan
from barrow.problem import Problem


@final
class Status(enum.Enum):
    """How a problem ended, each with its cause and its cure."""

    converged = 0, "converged"
    step_limit = 1, "max_steps was reached before the certified gap fell to tol: raise max_steps, tol or epsilon"
    cycle = 2, "the pivots stopped making progress: scale the costs to about 1, or use Sinkhorn with a small epsilon"
    infeasible = 3, "no plan of finite cost has these marginals: allow more arcs, or a finite rho and epsilon > 0"
    gap = 4, "the certified gap is above tol although the algorithm ended: the data are at the limit of their precision"
    not_finite = 5, "the input contains NaN or infinity: look for a division by zero where it was made"
    negative_weights = 6, "weights must not be negative: clamp or re-normalise them"
    mass_mismatch = 7, "the two sides have different masses: normalise both, or use a finite rho (unbalanced transport)"
    no_mass = 8, "one side has no mass at all: give it positive weights, or leave that problem out"
    time_limit = 9, "time_limit was reached before the certified gap fell to tol: raise time_limit, tol or epsilon"

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        self.sentence = sentence

    @property
    def bad_input(self) -> bool:
        """The fault lies in the data, not in the solve."""
        return self in (Status.not_finite, Status.negative_weights, Status.mass_mismatch, Status.no_mass)

    @staticmethod
    def of(code: int) -> Status:
        """The status with this code."""
        return _BY_CODE[code]

    def __repr__(self) -> str:
        return f"Status.{self.name}"

    def __str__(self) -> str:
        return self.sentence


_BY_CODE = {status.code: status for status in Status}


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Bounds:
    """A certificate: lower <= truth <= upper, in float64, one pair a problem."""

    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> Tensor:
        """The width, upper - lower; 0 where both are the same infinity."""
        return torch.where(self.lower == self.upper, 0.0, self.upper - self.lower)

    @property
    def relative_gap(self) -> Tensor:
        """(upper - lower) / max(|upper|, tiny), what ``tol`` is compared with everywhere."""
        relative = self.gap / self.upper.abs().clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where((self.gap == 0) | self.gap.isinf(), self.gap, relative)

    def __iter__(self) -> Any:
        return iter((self.lower, self.upper))


class Bracket(NamedTuple):
    """A certificate with what it was made of, for a flattened float64 problem."""

    value: Tensor  # (B,) the dual objective at the repaired potentials
    f: Tensor
    g: Tensor
    lower: Tensor
    upper: Tensor
    slack: Tensor  # what rounding, of the arithmetic and of the masses, may have added to the gap
    scale: Tensor  # the dearest arc for all the mass


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """What an algorithm hands back, for a flattened batch of B problems.

    plan is an upper bound (after rounding), f (B, n) and g (B, m) are a lower bound (after repair), ``codes`` (B,) are
    the codes of :class:`Status`, ``steps`` (B,) counts what the solver repeats. ``proof`` is what
    :func:`certify.bracket` said of these very potentials, where a solver has asked it already.
    """

    plan: Plan
    f: Tensor
    g: Tensor
    codes: Tensor
    steps: Tensor
    proof: Bracket | None = None


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The witnesses of a solve and what follows from them.

    Attributes:
        value: V, the dual objective at the repaired potentials (...): differentiable in everything of the problem that
            requires grad, once (its gradient is the plan and the potentials). inf, without a gradient (NaN), where a
            problem is proved infeasible.
        bounds: lower <= truth <= upper, float64.
        plan: the plan, batched like the problem; ``plan @ y``, ``plan.T``, ``plan.dense()``, ``plan.marginals()``. That
            of an infeasible problem uses forbidden arcs.
        f: left potential (..., n).
        g: right potential (..., m).
        codes: status codes (...); :attr:`status` spells them out.
        steps: pivots, iterations or 1 for closed forms (...).
        solver: the solver's name, and where it ran if the data were elsewhere.
        problem: what was asked, detached; a solve that starts from here reads it.
    """

    value: Tensor
    bounds: Bounds
    plan: Plan
    f: Tensor
    g: Tensor
    codes: Tensor
    steps: Tensor
    solver: str
    problem: Problem | None = None

    @property
    def status(self) -> Any:
        """A :class:`Status`, or nested lists of them for a batch."""

        def spell(code: Any) -> Any:
            return [spell(c) for c in code] if isinstance(code, list) else Status.of(code)

        return spell(self.codes.tolist())

    @property
    def converged(self) -> bool:
        """Every problem of the batch reached its tolerance."""
        return not bool(self.codes.any())

    def __repr__(self) -> str:
        name = f"{self.solver})"
        steps = int(self.steps.max()) if self.steps.numel() else 0
        unit = "step" if steps == 1 else "steps"
        lower, upper = self.bounds
        if self.value.dim() == 0:
            how = "converged" if self.converged else self.status.name
            digits = _digits(float(lower), float(upper), 9 if self.value.dtype == torch.float64 else 6)
            return (
                f"Solution(value={float(self.value.detach()):.{digits}g}, "
                f"truth in [{float(lower):.{digits}g}, {float(upper):.{digits}g}], {how} in {steps} {unit}, {name}"
            )
        count = self.value.numel()
        if count == 0:
            return f"Solution(no problems, {name}"
        fine = int((self.codes == 0).sum())
        how = f"all {count} converged" if fine == count else f"{fine} of {count} converged"
        known = ~self.value.detach().isnan()  # faulty problems have no value
        if not bool(known.any()):
            return f"Solution({count} problems, none with a value, {name}"
        low, high = float(self.value.detach()[known].min()), float(self.value.detach()[known].max())
        worst = float(self.bounds.relative_gap[known].max())
        return (
            f"Solution(values {low:.4g} to {high:.4g}, relative gap at most {worst:.1e}, "
            f"{how} in at most {steps} {unit}, {name}"
        )


def _digits(lower: float, upper: float, most: int) -> int:
    """Enough digits to tell the two bounds apart, but no more than the value has."""
    for digits in range(4, most + 1):
        if f"{lower:.{digits}g}" != f"{upper:.{digits}g}":
            return digits
    return 4


class SolveError(RuntimeError):
    """A solve did not reach its tolerance; ``solution`` holds what was reached, with its bounds."""

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


class BadInput(SolveError, ValueError):
    """The values of the data make no problem: NaN, negative weights, masses that differ."""
