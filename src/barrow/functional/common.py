"""What the named quantities share: solving with a warning, safe powers, judging values."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from barrow import check
from barrow.cost import Dense
from barrow.functional import traced
from barrow.problem import Problem
from barrow.screen import mass_tolerance
from barrow.solution import BadInput, Solution, Status
from barrow.solve import attempt, failure, refuse_faults
from barrow.solvers.base import Solver


class ConvergenceWarning(UserWarning):
    """A loss could not be certified to its tolerance; its value is still a lower bound."""


def value(problem: Problem, solver: Solver | None = None, *, offset: float = 0.0, reference: float = 0.0) -> Tensor:
    """The value of a problem less a constant; a warning, once a call site, where it is not certified to tol.

    ``reference`` is the one number that the problem's reference holds everywhere, where it has one.
    """
    if traced.following():
        return traced.value(problem, solver, reference) - offset
    return solved(problem, solver, stacklevel=4).value - offset


def solved(problem: Problem, solver: Solver | None = None, stacklevel: int = 2) -> Solution:
    """The solution; BadInput for data that make no problem, a warning where it is not certified to tol."""
    solution = attempt(problem, solver)
    refuse_faults(problem, solution)
    if not solution.converged:
        warnings.warn(failure(solution, problem), ConvergenceWarning, stacklevel=stacklevel)
    return solution


traced.solve_with(solved)


def labels(h: object, t: object, C: Tensor) -> tuple[Tensor, Tensor, Dense]:
    """Histograms h (..., K) and t (..., L) on the two sides of costs C (..., K, L), or what does not fit."""
    cost = Dense(C)
    sides = []
    for name, w, size in zip(("h", "t"), (h, t), cost.shape, strict=True):
        if isinstance(w, Tensor) and not w.is_floating_point():
            raise ValueError(
                f"{name} has dtype {w.dtype}, but a histogram must be floating point: class indices become one by "
                f"torch.nn.functional.one_hot({name}, {size}).to(C.dtype)"
            )
        sides.append(check.weights(name, w, size, C, "C"))
    h, t = sides
    check.batch(h=h.shape[:-1], t=t.shape[:-1], C=cost.batch_shape)
    return h, t, cost


def root(value: Tensor, p: float) -> Tensor:
    """value^(1/p), with slope 0 rather than infinity at 0."""
    if p == 1:
        return value
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1).pow(1 / p), 0)


def power(phi: Tensor, exponent: float) -> Tensor:
    """|phi|^exponent."""
    return phi.abs() if exponent == 1 else phi.square() if exponent == 2 else phi.abs().pow(exponent)


def refuse_nonfinite(**tensors: Tensor | None) -> None:
    """Refuse NaN and infinity, naming the tensor."""
    for name, t in tensors.items():
        if t is not None and not bool(t.detach().isfinite().all()):
            raise BadInput(f"{name} contains a value that is not finite: {Status.not_finite.sentence}")


def refuse_weights(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Refuse negative weights, sides without mass and sides of different mass."""
    for name, w in zip(names, (a, b), strict=True):
        if bool((w.detach() < 0).any()):
            raise BadInput(f"{name} contains {float(w.min()):g}: {Status.negative_weights.sentence}")
    mass_a, mass_b = (w.detach().double().sum(-1) for w in (a, b))
    if bool(((mass_a == 0) | (mass_b == 0)).any()):
        raise BadInput(Status.no_mass.sentence)
    off = (mass_a - mass_b).abs() > mass_tolerance(a.dtype) * torch.maximum(mass_a, mass_b)
    if bool(off.any()):
        one, two = (float(t.expand_as(off)[off][0]) for t in (mass_a, mass_b))
        sums = f"{names[0]} sums to {one:.9g} but {names[1]} sums to {two:.9g}"
        raise BadInput(f"{sums}: {Status.mass_mismatch.sentence}")
