"""Judging the values of the data."""

import math
import re

import pytest
import torch

from barrow import BadInput, Dense, Points, Problem, Status, Tree, certify, solve
from barrow.screen import complaint, mass_tolerance, screen

F64 = torch.float64


def problem(**options) -> Problem:
    return Problem(Points(torch.randn(5, 2), torch.randn(4, 2)), **options)


def spoiled(t: torch.Tensor, at, value: float) -> torch.Tensor:
    t = t.clone()
    t[at] = value
    return t


x, y = torch.randn(5, 2), torch.randn(4, 2)
three = torch.full((3, 5), 0.2)

FAULTS = [
    (Problem(Points(spoiled(x, (3, 1), math.nan), y)), Status.not_finite, "x[3, 1] is nan: "),
    (Problem(Points(x, spoiled(y, (0, 0), -math.inf))), Status.not_finite, "y[0, 0] is -inf: "),
    (
        Problem(Points(torch.stack((x, x, spoiled(x, (4, 0), math.inf))), y)),
        Status.not_finite,
        "x[4, 0] in problem 2 of 3 is inf: ",
    ),
    (Problem(Points(x, spoiled(y, (2, 1), math.nan)), three), Status.not_finite, "y[2, 1] in problem 0 of 3 is nan: "),
    (Problem(Dense(spoiled(torch.ones(5, 4), (1, 2), -math.inf))), Status.not_finite, "C[1, 2] is -inf: "),
    (
        Problem(Tree(torch.tensor([-1, 0, 0]), torch.tensor([0.0, math.inf, 1.0]))),
        Status.not_finite,
        "length[1] is inf: ",
    ),
    (Problem(Points(x, y), spoiled(three, (1, 4), math.nan)), Status.not_finite, "a[4] in problem 1 of 3 is nan: "),
    (Problem(Points(x, y), b=spoiled(torch.ones(4) / 4, 2, math.nan)), Status.not_finite, "b[2] is nan: "),
    (Problem(Points(x, y), spoiled(three, (2, 0), -0.5)), Status.negative_weights, "a[0] in problem 2 of 3 is -0.5: "),
    (Problem(Points(x, y), b=spoiled(torch.ones(4), 3, -2)), Status.negative_weights, "b[3] is -2: "),
    (Problem(Points(x, y), torch.full((5,), 0.25)), Status.mass_mismatch, "a sums to 1.25 but b sums to 1: "),
    (
        Problem(Points(x, y), torch.tensor([[0.125] * 4 + [0.5], [0.25] * 5])),
        Status.mass_mismatch,
        "a sums to 1.25 but b sums to 1 in problem 1 of 2: ",
    ),
    (Problem(Points(x, y), torch.zeros(5)), Status.no_mass, ""),
    (Problem(Points(x, y), torch.zeros(5), torch.zeros(4)), Status.no_mass, ""),
    (Problem(Points(x, y), torch.zeros(5), epsilon=1, rho=1.0), Status.no_mass, ""),
    (
        Problem(Points(x, y), epsilon=1, reference=(torch.ones(5), spoiled(torch.ones(4), 1, math.nan))),
        Status.not_finite,
        "s[1] is nan: ",
    ),
    (
        Problem(Points(x, y), epsilon=1, reference=(spoiled(torch.ones(5), 1, -3), torch.ones(4))),
        Status.negative_weights,
        "r[1] is -3: ",
    ),
]


@pytest.mark.parametrize(("bad", "status", "words"), FAULTS, ids=lambda v: str(v)[:40])
def test_faults_are_named_and_located(bad, status, words):
    _, codes, _ = screen(bad)
    assert status.code in codes.tolist()
    assert complaint(bad, codes).startswith(words + status.sentence)
    for verb in (solve, certify):
        with pytest.raises(BadInput, match=f"^{re.escape(words)}"):
            verb(bad)


def test_only_the_unfit_problems_are_marked():
    bad = Problem(Points(x, y), spoiled(three, (1, 4), math.nan))
    assert screen(bad).codes.tolist() == [0, Status.not_finite.code, 0]


def test_the_worst_is_told_first():
    bad = Problem(Points(spoiled(x, (0, 0), math.nan), y), spoiled(torch.ones(5), 0, -1))
    assert screen(bad).codes.tolist() == [Status.not_finite.code]


def test_fit_problems_come_back_flat_and_in_float64():
    flat, codes, defect = screen(Problem(Points(torch.randn(2, 3, 5, 2), y)))
    assert codes.tolist() == [0] * 6
    assert flat.batch_shape == (6,)
    assert flat.dtype == F64
    assert (defect < 1e-7).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_masses_that_differ_by_rounding_are_mended(dtype):
    off = 1 + mass_tolerance(dtype) / 2
    a, b = torch.full((5,), 0.25, dtype=dtype), torch.full((4,), 0.3125, dtype=dtype)
    b[0] += (off - 1) * 1.25
    given = 1 - 1.25 / float(b.double().sum())
    flat, codes, defect = screen(Problem(Points(x.to(dtype), y.to(dtype)), a, b))
    assert codes.tolist() == [0]
    assert float(defect) == pytest.approx(given, rel=1e-3, abs=1e-15)
    assert torch.allclose(flat.b.sum(-1), flat.a.sum(-1), rtol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_masses_that_differ_by_more_are_not(dtype):
    a, b = torch.full((5,), 0.2, dtype=dtype), torch.full((4,), 0.25, dtype=dtype)
    bad = Problem(Points(x.to(dtype), y.to(dtype)), a * (1 + 3 * mass_tolerance(dtype)), b)
    assert screen(bad).codes.tolist() == [Status.mass_mismatch.code]


def test_unbalanced_masses_may_differ_and_stay():
    b = torch.full((4,), 7.0)
    flat, codes, defect = screen(problem(b=b, epsilon=1, rho=1.0))
    assert codes.tolist() == [0]
    assert torch.equal(flat.b, b[None].double())
    assert defect.tolist() == [0]
    for semi in ((math.inf, 1.0), (1.0, math.inf)):
        assert screen(problem(b=b, epsilon=1, rho=semi)).codes.tolist() == [0]


def test_the_root_of_a_tree_is_never_used():
    tree = Tree(torch.tensor([-1, 0, 0]), torch.tensor([math.inf, 1.0, 1.0]))
    assert screen(Problem(tree)).codes.tolist() == [0]


def test_costs_that_overflow_are_not_finite():
    assert screen(Problem(Points(1e200 * x.double(), y.double()))).codes.tolist() == [Status.not_finite.code]


@pytest.mark.parametrize(
    ("dtype", "later"),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float32, F64),
    ],
)
def test_weights_normalised_in_their_own_precision_or_in_float32_pass(dtype, later):
    C = torch.rand(6, 7).to(later)
    for _ in range(20):
        a, b = (torch.rand(n, dtype=dtype) for n in (6, 7))
        a, b = ((w / w.sum()).to(C.dtype) for w in (a, b))
        bounds = solve(Problem(Dense(C), a, b)).bounds
        defect = float((a.double().sum() - b.double().sum()).abs() / b.double().sum())
        assert float(bounds.gap) >= defect * float(bounds.lower)
        assert float(bounds.gap) <= 4 * defect * float(bounds.upper) + 1e-12


def test_a_percent_is_no_rounding():
    for dtype in (torch.float16, torch.float32, F64):
        assert mass_tolerance(dtype) < 0.01
