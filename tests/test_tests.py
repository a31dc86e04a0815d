"""Every check is seen failing once: each helper is handed a wrong answer and must go red."""

import dataclasses
import math

import pytest
import torch

import barrow
from barrow import Dense, Problem, Sinkhorn, Status
from problems import (
    F64,
    KINDS,
    Known,
    backwards,
    check_complementary,
    check_gap,
    check_gradient,
    check_plan,
    check_potentials,
    check_same_plan,
    check_solution,
    check_truth_inside,
    check_value,
    cloud,
    dirichlet,
    dual_value,
    kl,
    line_value,
    lp,
    tree_metric,
    tree_value,
    uniform,
)

SOLVED = {
    "exact": ("backwards_exact", None, 1e-9),
    "zero weights": ("dense_lp_zero_weights", None, 1e-9),
    "batch": ("shared_cost_batch", None, 1e-9),
    "tree": ("random_tree", None, 1e-9),
    "line": ("line_p1", None, 1e-9),
    "entropic": ("entropic", Sinkhorn(tol=1e-7), 1e-7),
    "entropic batch": ("entropic_batch", Sinkhorn(tol=1e-7), 1e-7),
    "unbalanced": ("unbalanced", Sinkhorn(tol=1e-7), 1e-7),
    "semi-relaxed": ("semi_relaxed_left", Sinkhorn(tol=1e-7), 1e-7),
    "single": ("points_single_precision", None, 1e-9),
}


def solved(name):
    kind, solver, tol = SOLVED[name]
    known = KINDS[kind](0)
    return barrow.solve(known.problem, solver), known, tol


def assert_red(solution, known, tol):
    with pytest.raises(AssertionError):
        check_solution(solution, known, tol)


def first(t, change):
    """A copy with one entry changed."""
    t = t.clone()
    t.view(-1)[0] = change(t.view(-1)[0])
    return t


every = pytest.mark.parametrize("name", SOLVED)


@every
def test_the_right_answer_is_green(name):
    check_solution(*solved(name))


@every
@pytest.mark.parametrize("factor", [1 + 1e-3, 1 - 1e-3])
def test_a_value_off_by_a_thousandth(name, factor):
    s, known, tol = solved(name)
    assert_red(dataclasses.replace(s, value=first(s.value, lambda v: v * factor)), known, tol)
    assert_red(s, dataclasses.replace(known, value=first(known.value, lambda v: v * factor)), tol)
    with pytest.raises(AssertionError):
        check_value(s.value * factor, known, tol)


@every
def test_a_value_of_another_dtype_or_shape(name):
    s, known, tol = solved(name)
    assert_red(dataclasses.replace(s, value=s.value.to(torch.float16)), known, tol)
    with pytest.raises(AssertionError):
        check_value(s.value[None], known, tol)


@every
@pytest.mark.parametrize("sign", [1, -1])
def test_a_bracket_that_misses_the_truth(name, sign):
    s, known, tol = solved(name)
    off = sign * 1e-3 * known.value.abs()
    bounds = barrow.Bounds(s.bounds.lower + off, s.bounds.upper + off)
    assert_red(dataclasses.replace(s, bounds=bounds), known, tol)
    with pytest.raises(AssertionError):
        check_truth_inside(*bounds, known)


@every
def test_a_bracket_of_nan_or_too_wide(name):
    s, known, tol = solved(name)
    lower, upper = s.bounds
    assert_red(dataclasses.replace(s, bounds=barrow.Bounds(lower * math.nan, upper)), known, tol)
    assert_red(dataclasses.replace(s, bounds=barrow.Bounds(lower, upper * math.nan)), known, tol)
    wide = dataclasses.replace(s, bounds=barrow.Bounds(lower - 1e-2 * lower.abs(), upper + 1e-2 * upper.abs()))
    assert_red(wide, known, tol)
    with pytest.raises(AssertionError):
        check_gap(wide, known, tol)


@every
def test_a_status_that_is_not_convergence(name):
    s, known, tol = solved(name)
    assert_red(dataclasses.replace(s, codes=first(s.codes, lambda c: c * 0 + Status.gap.code)), known, tol)


@every
def test_a_plan_with_a_wrong_marginal(name):
    s, known, tol = solved(name)
    P = s.plan.dense()
    wrong = P.clone()
    i, j = divmod(int(P.flatten(-2).reshape(-1, P.shape[-1] * P.shape[-2])[0].argmax()), P.shape[-1])
    wrong[..., i, j] *= 1.02
    assert_red(dataclasses.replace(s, plan=barrow.DensePlan(wrong)), known, tol)
    if known.problem.balanced:
        with pytest.raises(AssertionError):
            check_plan(wrong, known.problem, 1e-6)


@every
def test_a_plan_with_a_negative_entry(name):
    """Its marginals are right: a cycle of mass was pushed backwards."""
    s, known, tol = solved(name)
    P = s.plan.dense().clone()
    t = 1.1 * P.max()
    for i, j, sign in ((0, 0, -1), (0, 1, 1), (1, 0, 1), (1, 1, -1)):
        P[..., i, j] += sign * t
    assert_red(dataclasses.replace(s, plan=barrow.DensePlan(P)), known, tol)
    with pytest.raises(AssertionError):
        check_plan(P, known.problem, 1e-6)


@every
def test_the_independent_coupling_is_not_optimal(name):
    s, known, tol = solved(name)
    a, b = (w.expand(*known.problem.batch_shape, w.shape[-1]) for w in (known.problem.a, known.problem.b))
    P = a[..., :, None] * b[..., None, :] / b.sum(-1)[..., None, None]
    assert_red(dataclasses.replace(s, plan=barrow.DensePlan(P)), known, tol)
    with pytest.raises(AssertionError):
        check_complementary(P, s.f, s.g, s.value, known.problem, torch.tensor(1e-6))
    if known.plan is not None:
        with pytest.raises(AssertionError):
            check_same_plan(P, known, 1e-6)


@every
def test_infeasible_or_wrong_potentials(name):
    s, known, tol = solved(name)
    heavy = int(known.problem.a.reshape(-1, known.problem.shape[0])[0].argmax())
    for step in (1e-2, -1e-2, math.nan):
        f = s.f.clone()
        f[..., heavy] += step * (1 + f[..., heavy].abs())
        assert_red(dataclasses.replace(s, f=f), known, tol)
        with pytest.raises(AssertionError):
            check_potentials(f, s.g, s.value, known.problem)
    assert_red(dataclasses.replace(s, g=s.g * 1.01 + 0.01), known, tol)


def test_an_infeasible_potential_of_an_atom_without_mass():
    s, known, tol = solved("zero weights")
    f = s.f.clone()
    f[-1] += 5  # a[-1] is 0: the dual objective does not notice
    assert_red(dataclasses.replace(s, f=f), known, tol)


def test_mass_on_an_atom_without_mass():
    known = backwards(0, rho=(1.0, 1.0), zeros=1)
    P = known.plan.clone()
    P[-1, 0] = 1e-12
    with pytest.raises(AssertionError):
        check_plan(P, known.problem, 1.0)


# -- gradients ---------------------------------------------------------------------------------------------------------


class Scaled(torch.autograd.Function):
    """The identity, with a wrong factor in its gradient."""

    @staticmethod
    def forward(ctx, t, factor):
        ctx.factor = factor
        return t.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.factor * grad, None


@pytest.mark.parametrize("factor", [1.001, 0.5, -1.0, 0.0, math.nan])
def test_a_gradient_with_a_wrong_factor(factor):
    x, y = cloud(5, 2, seed=0), cloud(4, 2, seed=1)
    check_gradient(barrow.transport_cost, [x, y])
    for loss in (
        lambda x, y: barrow.transport_cost(Scaled.apply(x, factor), y),
        lambda x, y: Scaled.apply(barrow.transport_cost(x, y), factor),
    ):
        with pytest.raises(AssertionError):
            check_gradient(loss, [x, y])


def test_the_unbalanced_factor_of_half_an_epsilon_is_caught():
    """rho + epsilon / 2 in place of rho + epsilon: what a library computed for years."""
    x, y, a, b = cloud(5, 2, seed=0), cloud(4, 2, seed=1), dirichlet(5, seed=0), 2 * dirichlet(4, seed=1)
    rho, epsilon = 1.0, 10.0
    factor = (rho + epsilon / 2) / (rho + epsilon)

    def wrong(a, b):
        return barrow.sinkhorn_cost(
            x, y, *(Scaled.apply(w, factor) for w in (a, b)), epsilon=epsilon, rho=rho, tol=1e-11
        )

    with pytest.raises(AssertionError, match="differences say"):
        check_gradient(wrong, [a, b], h=1e-4, tol=1e-4)


def test_a_gradient_that_is_missing():
    with pytest.raises(AssertionError):
        check_gradient(lambda x, y: barrow.transport_cost(x, y.detach()), [cloud(3, 2, seed=0), cloud(3, 2, seed=1)])


# -- the truths themselves, by hand ------------------------------------------------------------------------------------


def vector(*values):
    return torch.tensor(values, dtype=F64)


def test_the_oracles_by_hand():
    half = vector(0.5, 0.5)
    value, plan = lp(torch.tensor([[1.0, 4.0], [0.0, 1.0]]), half, half)
    assert value == pytest.approx(1.0)
    assert plan.sum() == pytest.approx(1.0)
    assert line_value(vector(0, 1), vector(3), half, vector(1.0), 2) == pytest.approx(0.5 * 9 + 0.5 * 4)
    assert line_value(vector(1, 0), vector(0, 1), vector(0.25, 0.75), half, 1) == pytest.approx(0.25)
    parent, length = torch.tensor([-1, 0, 0, 1, 1]), vector(9, 1, 2, 3, 4)  # leaves 2, 3, 4
    assert tree_value(parent, length, vector(1, 0, 0), vector(0, 1, 0)) == 2 + 1 + 3
    assert tree_value(parent, length, vector(1, 0, 0), vector(0, 0.5, 0.5), 2) == pytest.approx(2 + 1 + 0.75 + 1)
    assert tree_metric(parent, length).tolist() == [[0, 6, 7], [6, 0, 7], [7, 7, 0]]
    assert kl(vector(1, 0), vector(2, 3)) == pytest.approx(math.log(0.5) - 1 + 5)


def test_problems_built_backwards_solve_their_own_equations():
    """The primal objective at the plan is the dual objective at the potentials: no solver is asked."""
    for options in ({}, {"rho": (1.0, 2.0)}, {"rho": (math.inf, 0.5)}, {"reference": True, "rho": (0.5, math.inf)}):
        for mass in (1.0, 3.0):
            known = backwards(3, mass=mass, **options)
            q, P = known.problem, known.plan
            r, s = q.measures
            primal = (q.cost.C * P).sum() + q.epsilon * kl(P.flatten(), (r[:, None] * s).flatten())
            for rho, marginal, w in ((q.rho[0], P.sum(1), q.a), (q.rho[1], P.sum(0), q.b)):
                if math.isinf(rho):
                    assert torch.allclose(marginal, w)
                else:
                    primal = primal + rho * kl(marginal, w)
            assert torch.allclose(primal, known.value, rtol=1e-11)
            with pytest.raises(AssertionError):
                assert torch.allclose(primal * 1.001, known.value, rtol=1e-11)


def test_the_dual_value_by_hand():
    one = vector(1.0)
    assert dual_value(one, 2 * one, one, one, 0.0, (math.inf, math.inf), one[0], one[0]) == 3
    soft = dual_value(one, 0 * one, one, one, 0.5, (2.0, math.inf), 3 * one[0], one[0])
    assert soft == pytest.approx(-2 * (math.exp(-0.5) - 1) - 0.5 * 2)


def test_a_kind_whose_truth_is_wrong_is_caught_by_the_product():
    known = KINDS["dense_lp"](0)
    liar = Known(known.problem, known.value + 1e-3, known.trust)
    with pytest.raises(AssertionError):
        check_solution(barrow.solve(liar.problem), liar, 1e-9)


def test_a_solver_of_another_problem_is_caught_by_the_product():
    C = uniform(6, 7, seed=0)
    known = Known(Problem(Dense(C)), torch.tensor(lp(C, *(torch.full((k,), 1 / k) for k in (6, 7)))[0]).double(), 1e-6)
    check_solution(barrow.solve(known.problem), known, 1e-9)
    assert_red(barrow.solve(Problem(Dense(C + 1e-3 * uniform(6, 7, seed=1)))), known, 1e-9)
    assert_red(barrow.solve(Problem(Dense(C), dirichlet(6, seed=1))), known, 1e-9)
