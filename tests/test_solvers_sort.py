import pytest
import torch
from hypothesis import given, settings

import barrow
from barrow import Dense, Incompatible, Points, Problem, Simplex, Sort, Tree
from problems import F64, cloud, dirichlet, line, seeds


def test_what_it_rejects():
    flat = Points(torch.rand(3, 2), torch.rand(3, 2))
    on_line = Points(torch.rand(3, 1), torch.rand(3, 1))
    for cost, got in ((flat, "d = 2"), (Dense(torch.rand(3, 3)), "Dense"), (star(), "Tree")):
        with pytest.raises(Incompatible, match=f"Sort needs Points with d = 1, got {got}; use Simplex"):
            barrow.solve(Problem(cost), Sort())
    with pytest.raises(Incompatible, match="Sort solves exact transport"):
        barrow.solve(Problem(on_line, epsilon=0.1), Sort())
    with pytest.raises(Incompatible, match="Sort solves balanced transport"):
        barrow.solve(Problem(on_line, rho=1.0), Sort())


def star():
    return Tree(torch.tensor([-1, 0, 0, 0]), torch.ones(4))


@given(seeds)
@settings(max_examples=25)
def test_it_agrees_with_the_simplex(seed):
    known = line(seed, 1 + seed % 5 / 2, n=1 + seed % 9, m=1 + seed % 7, zeros=0, ties=seed % 2 == 0)
    one, two = (barrow.solve(known.problem, solver) for solver in (Sort(), Simplex()))
    assert torch.allclose(one.value, two.value, rtol=1e-10, atol=1e-13)
    assert one.solver == "Sort"
    assert one.steps == 1


def test_the_plan_is_monotone():
    known = line(3, 2.0)
    s = barrow.solve(known.problem, Sort())
    x, y = (t[:, 0] for t in known.problem.cost.tensors)
    used = s.plan.mass > 1e-12
    u, v = x[s.plan.rows[used]], y[s.plan.cols[used]]
    order = u.argsort(stable=True)
    for one in range(len(u)):
        for two in range(len(u)):
            if u[one] < u[two]:
                assert v[one] <= v[two]
    assert len(order) <= 13 + 8 - 1


def test_large_lines_are_exact_and_cheap():
    n, m = 20_000, 15_000
    x, y = cloud(n, 1, seed=0), cloud(m, 1, seed=1) * 2
    s = barrow.solve(Problem(Points(x, y, p=2), dirichlet(n, seed=0), dirichlet(m, seed=1)))
    assert s.solver == "Sort"
    assert s.bounds.relative_gap <= 1e-9


def test_far_away_and_close_together():
    x = torch.tensor([[1e8], [1e8 + 1], [1e8 + 3]], dtype=F64)
    s = barrow.solve(Problem(Points(x, x + 5, p=1)))
    assert s.value == 5
