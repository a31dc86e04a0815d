"""Judging the values of the data: read once, on the device, before anything is solved."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from barrow.problem import Problem
from barrow.solution import Status


class Screened(NamedTuple):
    """A flattened problem in float64 whose two masses agree, what is wrong with it, and how much was mended.

    Problems with a fault are replaced by a harmless one, so that the others of the batch can be solved.
    """

    problem: Problem
    codes: Tensor  # (B,) of Status, 0 where nothing is wrong
    defect: Tensor  # (B,) the relative difference of mass that was mended away


def mass_tolerance(dtype: torch.dtype) -> float:
    """The relative difference of mass that counts as rounding of weights in this dtype.

    Weights that were normalised in this dtype are off by at most two roundings each; those of float64 were often
    normalised in float32 before. Whatever is mended widens the bounds.
    """
    return max(2 * torch.finfo(dtype).eps, 4e-6)


def screen(problem: Problem) -> Screened:
    """Flatten, convert to float64, find faults, and give b the mass of a where they differ by rounding only."""
    flat = problem.detach(torch.float64).flatten()
    a, b = flat.a, flat.b
    weights = [a, b, *(flat.reference or ())]
    unfit = torch.stack([~w.isfinite().all(-1) for w in weights]).any(0)
    for limit in flat.cost.limits():  # finite if and only if the data are, and no entry can overflow
        unfit = unfit | ~limit.isfinite()
    negative = torch.stack([(w < 0).any(-1) for w in weights]).any(0)
    mass_a, mass_b = a.sum(-1), b.sum(-1)
    empty = (mass_a == 0) | (mass_b == 0)
    codes = torch.zeros_like(mass_a, dtype=torch.long)
    defect = torch.zeros_like(mass_a)
    if flat.balanced:
        defect = (mass_a - mass_b).abs() / torch.maximum(mass_a, mass_b)
        codes[defect > mass_tolerance(problem.dtype)] = Status.mass_mismatch.code
        if not flat.symmetric:
            flat = flat.replace(b=b * (mass_a / mass_b)[:, None])
    codes[empty] = Status.no_mass.code
    codes[negative] = Status.negative_weights.code
    codes[unfit] = Status.not_finite.code
    faulty = codes != 0
    if bool(faulty.any()):
        flat, defect = flat.without(faulty), torch.where(faulty, 0, defect)
    return Screened(flat, codes, defect)


def faults(codes: Tensor) -> Tensor:
    """The codes that speak of the data, 0 elsewhere."""
    bad_input = torch.tensor([status.code for status in Status if status.bad_input], device=codes.device)
    return torch.where(torch.isin(codes, bad_input), codes, 0)


def complaint(problem: Problem, codes: Tensor) -> str:
    """One line on the first unfit problem of a batch: what was given, what is expected, what to do."""
    k = int(codes.nonzero()[0, 0])
    status = Status.of(int(codes[k]))
    flat = problem.flatten()
    sides = {"a": flat.a, "b": flat.b} | dict(zip(("r", "s"), flat.reference or (), strict=False))
    where = f" in problem {k} of {codes.numel()}" if problem.batch_shape else ""
    if status is Status.not_finite:
        named = dict(sides)
        fields = [name for name in ("x", "y", "C", "length") if hasattr(flat.cost, name)]
        for name in fields:
            t = getattr(flat.cost, name)
            named[name] = t if flat.cost.batch_shape else t[None]
        for name, t in named.items():
            one = t[k if t.shape[0] == codes.numel() else 0]
            bad = (~one.isfinite() & ~((one == torch.inf) & (name == "C"))).nonzero()  # +inf forbids an arc
            if len(bad):
                at = ", ".join(str(int(i)) for i in bad[0])
                return f"{name}[{at}]{where} is {float(one[tuple(bad[0])]):g}: {status.sentence}"
    if status is Status.negative_weights:
        for name, w in sides.items():
            if bool((w[k] < 0).any()):
                return f"{name}[{int(w[k].argmin())}]{where} is {float(w[k].min()):g}: {status.sentence}"
    if status is Status.mass_mismatch:
        mass_a, mass_b = float(flat.a[k].double().sum()), float(flat.b[k].double().sum())
        return f"a sums to {mass_a:.9g} but b sums to {mass_b:.9g}{where}: {status.sentence}"
    return f"{status.sentence}{where}"
