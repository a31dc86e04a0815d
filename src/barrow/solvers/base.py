"""What every solver is."""

from __future__ import annotations

import abc
import dataclasses

from torch import Tensor

from barrow import check
from barrow.problem import Problem
from barrow.solution import Witness

Start = tuple[Tensor, Tensor]  # potentials f (B, n), g (B, m)


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
    """An algorithm and how far it should go; whatever changes the true answer is in the Problem instead.

    Args:
        tol: the relative duality gap, (upper - lower) / max(|upper|, tiny), at which a problem counts as solved.
            tiny is the rounding of the data: no gap below it can be asked for.
    """

    tol: float = 1e-9

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", check.positive("tol", self.tol))

    @abc.abstractmethod
    def rejects(self, problem: Problem) -> str | None:
        """Why this solver cannot solve ``problem``, in one sentence with a way out; None if it can."""

    @abc.abstractmethod
    def run(self, problem: Problem, start: Start | None) -> Witness:
        """Solve a flattened, screened float64 problem that :meth:`rejects` let through."""

    @property
    def warm(self) -> bool:
        """Whether a previous solution is of use."""
        return False

    @property
    def on_host(self) -> bool:
        """Whether the work is done on the CPU wherever the data are: they are copied once."""
        return False

    def select(self, problem: Problem) -> Solver:
        """The solver that will run: itself."""
        return self


def inexact(problem: Problem, name: str) -> str | None:
    """What every solver of balanced exact transport says to other problems."""
    if problem.epsilon > 0:
        return f"{name} solves exact transport, but epsilon is {problem.epsilon:g}; use Sinkhorn() or epsilon=0"
    if not problem.balanced:
        return f"{name} solves balanced transport, but rho is {problem.rho}; use Sinkhorn() with an epsilon > 0"
    return None
