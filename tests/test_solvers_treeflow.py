import pytest
import torch
from hypothesis import given, settings

import barrow
from barrow import Dense, Incompatible, Problem, Simplex, Tree, TreeFlow
from problems import F64, Known, check_solution, dirichlet, random_parents, seeds, tree, uniform

STAR = Tree(torch.tensor([-1, 0, 0, 0]), torch.ones(4))


def test_what_it_rejects():
    with pytest.raises(Incompatible, match="TreeFlow needs a Tree cost, got Dense; use Simplex"):
        barrow.solve(Problem(Dense(torch.rand(3, 3))), TreeFlow())
    with pytest.raises(Incompatible, match="TreeFlow solves exact transport"):
        barrow.solve(Problem(STAR, epsilon=0.1), TreeFlow())
    with pytest.raises(Incompatible, match="TreeFlow solves balanced transport"):
        barrow.solve(Problem(STAR, rho=2.0), TreeFlow())
    s = barrow.solve(Problem(STAR))
    assert s.solver == "TreeFlow"


@given(seeds)
@settings(max_examples=25)
def test_it_agrees_with_the_simplex_and_the_closed_form(seed):
    known = tree(seed, nodes=2 + seed % 30)
    one, two = (barrow.solve(known.problem, solver) for solver in (TreeFlow(), Simplex()))
    check_solution(one, known, 1e-9)
    assert torch.allclose(one.value, two.value, rtol=1e-10, atol=1e-13)
    a, b, cost = known.problem.a, known.problem.b, known.problem.cost
    assert torch.allclose(one.value, barrow.tree_emd(a, b, cost), rtol=1e-12, atol=1e-15)


def test_an_edge_of_length_zero_and_a_single_node():
    parent = random_parents(20, 1)
    known = tree(1, nodes=20, lengths=lambda nodes: torch.zeros(nodes, dtype=F64))
    check_solution(barrow.solve(known.problem), known, 1e-9)
    lone = Problem(Tree(torch.tensor([-1]), torch.tensor([3.0], dtype=F64)))
    check_solution(barrow.solve(lone), Known(lone, torch.zeros((), dtype=F64)), 1e-9)
    assert parent.shape == (20,)


def test_a_deep_path_and_a_wide_star():
    path = torch.arange(-1, 4999)
    parent = torch.cat((path, torch.tensor([10, 4000])))  # leaves: the end and two twigs
    problem = Problem(
        Tree(parent, torch.ones(5002, dtype=F64)),
        torch.tensor([1.0, 0, 0], dtype=F64),
        torch.tensor([0.0, 0.25, 0.75], dtype=F64),
    )
    truth = 0.25 * (4999 - 10 + 1) + 0.75 * (4999 - 4000 + 1)
    assert barrow.solve(problem).value == pytest.approx(truth, rel=1e-12)
    n = 3000
    a, b = dirichlet(n, seed=0), dirichlet(n, seed=1)
    arms = uniform(n + 1, seed=2)
    wide = barrow.solve(Problem(Tree(torch.tensor([-1] + [0] * n), arms), a, b))
    assert wide.value == pytest.approx(float((arms[1:] * (a - b).abs()).sum()), rel=1e-10)


def test_the_plan_leaves_in_place_what_can_stay():
    known = tree(5)
    s = barrow.solve(known.problem)
    stays = s.plan.dense().diagonal()
    assert torch.allclose(stays, torch.minimum(known.problem.a, known.problem.b))


def test_gradient_to_lengths_is_the_flow():
    known = tree(2)
    length = known.problem.cost.length.clone().requires_grad_()
    cost = Tree(known.problem.cost.parent, length)
    barrow.solve(Problem(cost, known.problem.a, known.problem.b)).value.backward()
    twin = known.problem.cost.length.clone().requires_grad_()
    barrow.tree_emd(known.problem.a, known.problem.b, Tree(cost.parent, twin)).backward()
    assert torch.allclose(length.grad, twin.grad, atol=1e-14)
