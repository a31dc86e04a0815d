"""Values that peers gave, read from JSON: tests/golden/make_golden.py made them."""

import json
from pathlib import Path

import pytest
import torch

import barrow
from barrow import Points, Problem, Simplex, Sinkhorn
from problems import F64, Known, check_solution

HERE = Path(__file__).parent / "golden"


def cases(name):
    stored = json.loads((HERE / f"{name}.json").read_text())
    assert stored["versions"]["POT"] == "0.9.7.post1"
    return [pytest.param(case, id=str(k)) for k, case in enumerate(stored["cases"])]


def tensor(values):
    return torch.tensor(values, dtype=F64)


def measures(case):
    return (tensor(case[key]) for key in ("x", "y", "a", "b"))


@pytest.mark.parametrize("case", cases("exact"))
def test_exact(case):
    x, y, a, b = measures(case)
    value = tensor(case["value"])
    assert barrow.transport_cost(x, y, a, b, p=case["p"]) == pytest.approx(case["value"], rel=1e-11)
    known = Known(Problem(Points(x, y, p=case["p"]), a, b), value)
    check_solution(barrow.solve(known.problem, Simplex()), known, 1e-9)


@pytest.mark.parametrize("case", cases("entropic"))
def test_entropic(case):
    x, y, a, b = measures(case)
    s = barrow.solve(Problem(Points(x, y), a, b, epsilon=case["epsilon"]), Sinkhorn(tol=1e-11))
    assert s.value == pytest.approx(case["value"], rel=1e-9)
    linear = (s.plan.dense() * s.plan.cost.dense()).sum()
    assert linear == pytest.approx(case["linear"], rel=1e-4)
    assert case["linear"] < case["value"], "POT's sinkhorn2 leaves the entropy out"


@pytest.mark.parametrize("case", cases("unbalanced"))
def test_unbalanced(case):
    x, y, a, b = measures(case)
    s = barrow.solve(Problem(Points(x, y), a, b, epsilon=case["epsilon"], rho=case["rho"]), Sinkhorn(tol=1e-11))
    assert s.value == pytest.approx(case["value"], rel=1e-9)
    assert torch.allclose(s.plan.dense(), tensor(case["plan"]), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("case", cases("line"))
def test_line(case):
    u, v, a, b = (tensor(case[key]) for key in ("u", "v", "a", "b"))
    assert barrow.wasserstein_1d(u, v, a, b, p=1) == pytest.approx(case["w1"], rel=1e-11)
    for p, power in case["power"].items():  # POT's wasserstein_1d has no root
        assert barrow.wasserstein_1d(u, v, a, b, p=float(p)) ** float(p) == pytest.approx(power, rel=1e-11)
    # The energy distance is the root of twice the Cramer distance of the merged positions.
    at = torch.cat((u, v)).sort()
    h, t = torch.cat((a, torch.zeros_like(b)))[at.indices], torch.cat((torch.zeros_like(a), b))[at.indices]
    cramer = barrow.emd_1d(h, t, exponent=2, spacing=at.values.diff())
    assert (2 * cramer).sqrt() == pytest.approx(case["energy"], rel=1e-11)
