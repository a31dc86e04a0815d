"""Check, choose, run, certify, attach the gradient, package."""

import copy
import importlib
import math
import pickle
import re

import pytest
import torch

import barrow
from barrow import (
    BadInput,
    Dense,
    GibbsPlan,
    Incompatible,
    Points,
    Problem,
    Simplex,
    Sinkhorn,
    SolveError,
    Sort,
    SparsePlan,
    Status,
    Tree,
    TreeFlow,
    solve,
)

_round_down = importlib.import_module("barrow.solve")._round_down  # barrow.solve is the function
F64 = torch.float64
TREE = torch.tensor([-1, 0, 0, 2, 2])


def cloud(*shape, dtype=F64):
    return torch.randn(shape, dtype=dtype)


def weights(*shape, dtype=F64):
    w = torch.rand(shape, dtype=dtype) + 0.1
    return w / w.sum(-1, keepdim=True)


def problems():
    """One for every solver."""
    return {
        "Simplex": Problem(Points(cloud(5, 2), cloud(4, 2)), weights(5), weights(4)),
        "Sort": Problem(Points(cloud(5, 1), cloud(4, 1)), weights(5), weights(4)),
        "TreeFlow": Problem(Tree(TREE, torch.rand(5, dtype=F64)), weights(3), weights(3)),
        "Sinkhorn": Problem(Points(cloud(5, 2), cloud(4, 2)), weights(5), weights(4), epsilon=0.5),
    }


every_solver = pytest.mark.parametrize("name", ["Simplex", "Sort", "TreeFlow", "Sinkhorn"])


# -- packaging -------------------------------------------------------------------------------------------------------


@every_solver
def test_what_comes_back(name):
    problem = problems()[name]
    s = solve(problem)
    n, m = problem.shape
    assert s.solver == name
    assert s.status is Status.converged
    assert s.value.shape == s.bounds.lower.shape == s.bounds.upper.shape == s.codes.shape == s.steps.shape == ()
    assert s.f.shape == (n,)
    assert s.g.shape == (m,)
    assert s.plan.shape == (n, m)
    assert isinstance(s.plan, GibbsPlan if name == "Sinkhorn" else SparsePlan)
    assert s.bounds.lower <= s.value + 1e-12
    assert s.value <= s.bounds.upper
    rows, cols = s.plan.marginals()
    assert torch.allclose(rows, problem.a, atol=1e-2 if name == "Sinkhorn" else 1e-14)
    assert torch.allclose(cols, problem.b, atol=1e-2 if name == "Sinkhorn" else 1e-14)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_precision(name, dtype):
    given = problems()[name].detach(dtype)
    s = solve(given)
    computed = F64 if dtype == F64 else torch.float32
    assert s.value.dtype == dtype
    assert s.plan.dtype == s.f.dtype == s.g.dtype == computed
    assert s.bounds.lower.dtype == s.bounds.upper.dtype == F64
    assert not s.value.requires_grad


@every_solver
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_value_is_rounded_down(name, dtype):
    """Never above the truth, whatever the precision of the data: the same question in float64 is the judge."""
    for _ in range(4):
        given = problems()[name]
        given = Problem(given.cost.to(dtype), epsilon=given.epsilon)
        exact = Problem(given.cost.to(F64), epsilon=given.epsilon)
        assert solve(given).value.double() <= solve(exact).bounds.upper


def test_round_down():
    exact = torch.tensor([1 / 3, 0.1, 2.0, -0.3, 1e30, -1e-50, math.inf], dtype=F64)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, F64):
        rounded = _round_down(exact, dtype)
        assert rounded.dtype == dtype
        assert (rounded.double() <= exact).all()
        assert rounded[2] == 2
        assert rounded[-1] == torch.inf
    assert _round_down(exact, torch.float16)[4] == torch.finfo(torch.float16).max


def test_batches():
    problem = Problem(Points(cloud(3, 1, 5, 2), cloud(4, 2)), weights(2, 5))
    s = solve(problem)
    assert s.value.shape == s.bounds.upper.shape == s.codes.shape == s.steps.shape == (3, 2)
    assert s.plan.shape == (3, 2, 5, 4)
    assert s.f.shape == (3, 2, 5)
    assert (s.plan @ problem.cost.y).shape == (3, 2, 5, 2)
    assert s.status == [[Status.converged] * 2] * 3
    alone = solve(Problem(Points(problem.cost.x[1, 0], problem.cost.y), problem.a[1]))
    assert torch.allclose(s.value[1, 1], alone.value, rtol=1e-13)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_an_empty_batch_has_no_problems(epsilon):
    x, y = cloud(0, 5, 2).requires_grad_(), cloud(4, 2)
    s = solve(Problem(Points(x, y), epsilon=epsilon))
    assert s.value.shape == (0,)
    assert s.converged
    assert s.status == []
    assert "no problems" in repr(s)
    s.value.sum().backward()
    assert x.grad.shape == (0, 5, 2)


def test_a_start_never_changes_the_answer():
    problem = problems()["Sinkhorn"]
    cold = solve(problem, Sinkhorn(tol=1e-6))
    warm = solve(problem, Sinkhorn(tol=1e-6), start=cold)
    assert warm.steps <= cold.steps
    assert torch.allclose(warm.value, cold.value, rtol=1e-6)


@every_solver
def test_problems_and_solutions_can_be_copied_and_pickled(name):
    problem = problems()[name]
    s = solve(problem)
    for copied in (copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
        again, other = copied(s), copied(problem)
        assert repr(again) == repr(s)
        assert torch.equal(again.plan.dense(), s.plan.dense())
        assert torch.equal(solve(other).value, s.value)
        assert repr(other) == repr(problem)


# -- what is refused -------------------------------------------------------------------------------------------------

THREE = Problem(Points(torch.zeros(2, 3), torch.ones(2, 3)))
MATRIX = Problem(Dense(torch.ones(2, 2)))
ENTROPIC = Problem(Points(torch.zeros(2, 1), torch.ones(2, 1)), epsilon=0.1)
RELAXED = Problem(Points(torch.zeros(2, 1), torch.ones(2, 1)), rho=2.0)


@pytest.mark.parametrize(
    ("problem", "solver", "words"),
    [
        (THREE, Sort(), "Sort needs Points with d = 1, got d = 3; use Simplex() or Sinkhorn()"),
        (MATRIX, Sort(), "Sort needs Points with d = 1, got Dense; use Simplex() or Sinkhorn()"),
        (THREE, TreeFlow(), "TreeFlow needs a Tree cost, got Points; use Simplex() or Sinkhorn()"),
        (
            THREE,
            Sinkhorn(),
            "Sinkhorn needs epsilon > 0, got 0; use Simplex() for exact transport, or choose an epsilon",
        ),
        (ENTROPIC, Sort(), "Sort solves exact transport, but epsilon is 0.1; use Sinkhorn() or epsilon=0"),
        (ENTROPIC, Simplex(), "Simplex solves exact transport, but epsilon is 0.1; use Sinkhorn() or epsilon=0"),
        (
            RELAXED,
            Simplex(),
            "Simplex solves balanced transport, but rho is (2.0, 2.0); use Sinkhorn() with an epsilon > 0",
        ),
    ],
)
def test_incompatible(problem, solver, words):
    with pytest.raises(Incompatible, match=f"^{re.escape(words)}$"):
        solve(problem, solver)
    assert solver.rejects(problem) == words


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"problem is a Points, but solve takes a barrow\.Problem"):
        solve(THREE.cost)
    with pytest.raises(
        ValueError, match=r"solver is 'sinkhorn', but it must be a barrow solver such as barrow\.Sinkhorn"
    ):
        solve(THREE, "sinkhorn")
    with pytest.raises(ValueError, match=r"solver is <class .*Sinkhorn'>"):
        solve(THREE, Sinkhorn)


def test_bad_data_raises_and_carries_a_solution_that_claims_nothing():
    with pytest.raises(BadInput, match="a sums to 2 but b sums to 1") as caught:
        solve(Problem(Points(torch.zeros(2, 3), torch.ones(2, 3)), torch.ones(2)))
    s = caught.value.solution
    assert s.status is Status.mass_mismatch
    assert s.value.isnan()
    assert (s.bounds.lower, s.bounds.upper) == (-math.inf, math.inf)


def test_a_failure_carries_the_solution_and_its_bounds():
    problem = Problem(Points(cloud(30, 2), cloud(30, 2)), epsilon=1e-3)
    with pytest.raises(
        SolveError, match=r"^Sinkhorn certified only truth in \[.*\] after 2 steps: max_steps was"
    ) as caught:
        solve(problem, Sinkhorn(max_steps=2))
    s = caught.value.solution
    assert s.status is Status.step_limit
    exact = solve(Problem(problem.cost)).value
    # The entropy is not negative, and at most log n.
    assert s.bounds.lower <= exact + 1e-3 * math.log(30)
    assert exact <= s.bounds.upper


def test_a_failure_in_a_batch_names_the_problem():
    x = cloud(3, 30, 2)
    x[1] = 0
    with pytest.raises(SolveError, match=r"^problem 0 of 3: Sinkhorn certified .* \(2 problems in all\)$") as caught:
        solve(Problem(Points(x, cloud(3, 30, 2).flip(1) * (x != 0)), epsilon=1e-3), Sinkhorn(max_steps=1))
    assert caught.value.solution.status[1] is Status.converged


# -- the gradient ----------------------------------------------------------------------------------------------------


def leaves(problem):
    return [*problem.cost.tensors, problem.a, problem.b]


@every_solver
def test_the_gradient_is_that_of_the_value(name):
    """Against differences of the value, for generic data, in directions that keep both masses."""
    problem = problems()[name]
    solver = Sinkhorn(tol=1e-12) if name == "Sinkhorn" else None
    given = leaves(problem)
    kinds = len(problem.cost.tensors)

    def value(*tensors):
        a, b = (w - (w.sum() - 1) / len(w) for w in tensors[kinds:])
        return solve(Problem(problem.cost.replace(*tensors[:kinds]), a, b, epsilon=problem.epsilon), solver).value

    inputs = [t.clone().requires_grad_() for t in given]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rho", [(math.inf, 0.7), (0.4, 0.7), (0.4, math.inf)])
@pytest.mark.parametrize("referenced", [False, True])
def test_the_gradient_of_relaxed_problems(rho, referenced):
    C = torch.rand(4, 3, dtype=F64)
    a, b, r, s = weights(4), weights(3) * 1.3, torch.rand(4, dtype=F64) + 0.1, torch.rand(3, dtype=F64) + 0.1

    def value(C, a, b, *reference):
        problem = Problem(Dense(C), a, b, epsilon=0.3, rho=rho, reference=reference or None)
        return solve(problem, Sinkhorn(tol=1e-12)).value

    inputs = [t.requires_grad_() for t in (C, a, b, *((r, s) if referenced else ()))]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_a_batch_sums_over_what_is_shared():
    x, y, a = cloud(3, 1, 5, 2).requires_grad_(), cloud(4, 2).requires_grad_(), weights(2, 5).requires_grad_()
    grad = torch.randn(3, 2, dtype=F64)
    together = torch.autograd.grad(solve(Problem(Points(x, y), a)).value, (x, y, a), grad)
    total = sum(grad[i, j] * solve(Problem(Points(x[i, 0], y), a[j])).value for i in range(3) for j in range(2))
    for one, other in zip(together, torch.autograd.grad(total, (x, y, a)), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-12)


def test_the_gradient_in_the_cost_is_the_plan():
    C = torch.rand(5, 4, dtype=F64, requires_grad=True)
    for epsilon in (0, 0.5):
        s = solve(Problem(Dense(C), epsilon=epsilon))
        (gradient,) = torch.autograd.grad(s.value, C)
        assert torch.allclose(gradient, s.plan.dense(), atol=1e-15)


@pytest.mark.parametrize("epsilon", [0, 0.3])
def test_absent_atoms_give_finite_gradients(epsilon):
    x, y, a, b = cloud(5, 2), cloud(4, 2), weights(5), weights(4)
    a[3], b[0] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    inputs = [t.requires_grad_() for t in (x, y, a, b)]
    solve(Problem(Points(x, y, 1), a, b, epsilon=epsilon)).value.backward()
    assert all(t.grad.isfinite().all() for t in inputs)
    assert (x.grad[3] == 0).all()
    assert (y.grad[0] == 0).all()


def test_an_absent_reference_gives_a_finite_gradient():
    r, s = torch.ones(3, dtype=F64), torch.ones(3, dtype=F64)
    r[1] = 0
    a = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
    r.requires_grad_()
    solve(Problem(Dense(torch.rand(3, 3, dtype=F64)), a, weights(3), epsilon=1, reference=(r, s))).value.backward()
    assert r.grad.isfinite().all()


def test_no_graph_where_none_is_wanted():
    x, y = cloud(5, 2), cloud(4, 2)
    assert not solve(Problem(Points(x, y))).value.requires_grad
    with torch.no_grad():
        assert not solve(Problem(Points(x.requires_grad_(), y))).value.requires_grad
    s = solve(Problem(Points(x, y)))
    assert s.value.requires_grad
    assert not any(t.requires_grad for t in (s.f, s.g, s.plan.mass, *s.bounds))
    s.value.backward()
    assert y.grad is None


def test_gradients_arrive_in_the_dtype_of_the_data():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = cloud(5, 2, dtype=dtype).requires_grad_()
        solve(Problem(Points(x, cloud(4, 2, dtype=dtype)), epsilon=0.5)).value.backward()
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()


def test_one_cloud_against_itself_gathers_both_sides():
    x = cloud(6, 2)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    solve(Problem(Points(one, one), epsilon=0.5), Sinkhorn(tol=1e-10)).value.backward()
    other = two.detach().clone().requires_grad_()
    solve(Problem(Points(two, other), epsilon=0.5), Sinkhorn(tol=1e-10)).value.backward()
    assert torch.allclose(one.grad, two.grad + other.grad, atol=1e-4)


@every_solver
def test_the_second_derivative_is_refused(name):
    problem = problems()[name]
    t = problem.cost.tensors[0].requires_grad_()
    value = solve(problem).value
    (gradient,) = torch.autograd.grad(value, t, create_graph=True)
    with pytest.raises(RuntimeError, match="was differentiated again, which barrow does not offer"):
        gradient.square().sum().backward()
    scaled = (2 * solve(problem).value).square()
    (gradient,) = torch.autograd.grad(scaled, t, create_graph=True)
    with pytest.raises(RuntimeError, match="was differentiated again"):
        torch.autograd.grad(gradient.sum(), t)


def test_a_first_derivative_within_create_graph_is_right():
    x, y = cloud(5, 2).requires_grad_(), cloud(4, 2)
    (plain,) = torch.autograd.grad(solve(Problem(Points(x, y))).value, x)
    (graphed,) = torch.autograd.grad(solve(Problem(Points(x, y))).value, x, create_graph=True)
    assert torch.equal(plain, graphed)


def test_data_changed_in_place_before_the_backward_pass_is_seen():
    x, y = cloud(5, 2).requires_grad_(), cloud(4, 2)
    value = solve(Problem(Points(x, y))).value
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_values_are_one_expression_in_a_larger_graph():
    x = cloud(5, 2).requires_grad_()
    moved = 2 * x + 1
    y = cloud(4, 2)
    (whole,) = torch.autograd.grad(3 * barrow.solve(Problem(Points(moved, y))).value, x)
    leaf = moved.detach().requires_grad_()
    (inner,) = torch.autograd.grad(barrow.solve(Problem(Points(leaf, y))).value, leaf)
    assert torch.allclose(whole, 6 * inner)


EMPTY_BATCHES = {
    "line": lambda: Problem(Points(torch.rand(0, 5, 1), torch.rand(0, 4, 1))),
    "cloud": lambda: Problem(Points(torch.rand(0, 5, 2), torch.rand(0, 4, 2), p=1)),
    "matrix": lambda: Problem(Dense(torch.rand(2, 0, 3, 3))),
    "tree": lambda: Problem(Tree(torch.tensor([-1, 0, 0]), torch.ones(3)), *torch.rand(2, 0, 2)),
    "entropic": lambda: Problem(Points(torch.rand(0, 5, 2), torch.rand(0, 4, 2)), epsilon=0.1),
    "unbalanced": lambda: Problem(Points(torch.rand(0, 5, 1), torch.rand(0, 4, 1)), epsilon=0.1, rho=1.0),
}


@pytest.mark.parametrize("make", EMPTY_BATCHES.values(), ids=EMPTY_BATCHES)
def test_a_batch_of_no_problems_has_no_solutions(make):
    problem = make()
    s = solve(problem)
    assert s.value.shape == s.bounds.lower.shape == s.codes.shape == problem.batch_shape
    assert s.f.shape == (*problem.batch_shape, problem.shape[0])
    assert s.plan.shape == (*problem.batch_shape, *problem.shape)
    assert s.converged
    assert "no problems" in repr(s)


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.1}, {"epsilon": 0.1, "rho": 1.0}], ids=str)
@pytest.mark.parametrize("d", [1, 2])
def test_a_faulty_problem_does_not_cost_the_batch_its_answers(options, d):
    x, y = torch.rand(3, 5, d, dtype=torch.float64), torch.rand(3, 4, d, dtype=torch.float64)
    broken = x.clone()
    broken[1, 2, 0] = math.nan
    with pytest.raises(BadInput, match=r"^x\[2, 0\] in problem 1 of 3 is nan") as caught:
        solve(Problem(Points(broken, y), **options))
    s, whole = caught.value.solution, solve(Problem(Points(x, y), **options))
    assert s.status == [Status.converged, Status.not_finite, Status.converged]
    good = torch.tensor([0, 2])
    assert torch.allclose(s.value[good], whole.value[good], rtol=1e-12)
    assert torch.allclose(s.f[good], whole.f[good], rtol=1e-9)
    assert torch.allclose(s.plan.dense()[good], whole.plan.dense()[good], rtol=1e-9)
    assert s.value[1].isnan()
    assert (s.bounds.lower[1], s.bounds.upper[1]) == (-math.inf, math.inf)
    assert s.f[1].isnan().all()
    assert s.plan.marginals()[0][1].isnan().any()
    assert "nan" not in repr(s)


def test_a_matrix_that_is_shared_and_faulty_leaves_nothing():
    C = torch.eye(3)
    C[1, 2] = math.nan
    with pytest.raises(BadInput) as caught:
        solve(Problem(Dense(C), torch.full((2, 3), 1 / 3)))
    assert caught.value.solution.status == [Status.not_finite] * 2
    assert "none with a value" in repr(caught.value.solution)
