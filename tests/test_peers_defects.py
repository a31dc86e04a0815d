"""Defects that were found in the sources of other libraries of the field: each is a test here."""

import math

import pytest
import torch

import barrow
from barrow import Dense, Points, Problem, Sinkhorn, sinkhorn_cost, sinkhorn_divergence
from problems import F64, central_difference, check_gradient, cloud, dirichlet, small_chunks, uniform

INF = math.inf


# -- gradients that are wrong by a factor ------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "rho"), [(10.0, 0.1), (1.0, 1.0), (0.1, 10.0), (1.0, (0.2, INF))])
@pytest.mark.parametrize("loss", [sinkhorn_cost, sinkhorn_divergence])
def test_unbalanced_gradients_for_epsilon_above_rho(loss, epsilon, rho):
    # Elsewhere rho + epsilon / 2 stands for rho + epsilon in the gradient: a factor of two where epsilon >> rho.
    if loss is sinkhorn_divergence and isinstance(rho, tuple):
        pytest.skip("a divergence has one rho")
    x, y, a, b = cloud(5, 2, seed=0), cloud(4, 2, seed=1), dirichlet(5, seed=2), dirichlet(4, seed=3)
    b = b if isinstance(rho, tuple) else 1.5 * b

    def value(*data):
        return loss(*data, epsilon=epsilon, rho=rho, tol=1e-11)

    def along(d, k):
        return d - d.mean() if isinstance(rho, tuple) and k == 3 else d

    check_gradient(value, [x, y, a, b], tol=1e-5, along=along)


def test_the_factor_itself():
    # One Dirac against one Dirac at a distance: all is known in closed form.
    epsilon, rho, c = 3.0, 0.5, 2.0
    x, y = torch.zeros(1, 1, dtype=F64, requires_grad=True), torch.full((1, 1), c, dtype=F64)
    value = sinkhorn_cost(x, y, epsilon=epsilon, rho=rho, tol=1e-12)
    mass = math.exp(-(c**2) / (epsilon + 2 * rho))
    # min over m of m c^2 + (epsilon + 2 rho) (m log m - m + 1).
    assert float(value.detach()) == pytest.approx((epsilon + 2 * rho) * (1 - mass), rel=1e-9)
    (slope,) = torch.autograd.grad(value, x)
    assert float(slope) == pytest.approx(-2 * c * mass, rel=1e-9)


# -- gradients that are not there --------------------------------------------------------------------------------------


def test_positions_have_a_gradient_where_the_matrix_is_not_stored(monkeypatch):
    # Elsewhere the lazy mode gives gradients to weights only, and says nothing.
    x, y, a = cloud(30, 2, seed=0).requires_grad_(), cloud(20, 2, seed=1), dirichlet(30, seed=2).requires_grad_()
    whole = torch.autograd.grad(sinkhorn_cost(x, y, a, epsilon=0.5, tol=1e-8), (x, a))
    small_chunks(monkeypatch, 40)
    pieces = torch.autograd.grad(sinkhorn_cost(x, y, a, epsilon=0.5, tol=1e-8), (x, a))
    assert whole[0].abs().min() > 0
    for one, other in zip(pieces, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("rho", [INF, 1.0])
def test_a_second_derivative_is_refused_and_not_dropped(rho):
    # Elsewhere the envelope's gradient is a constant to autograd: the second-order term vanishes without a word.
    x, y = cloud(5, 2, seed=0).requires_grad_(), cloud(4, 2, seed=1)
    for loss in (sinkhorn_cost, sinkhorn_divergence):
        (slope,) = torch.autograd.grad(loss(x, y, epsilon=0.5, rho=rho), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated again"):
            slope.square().sum().backward()
        with pytest.raises(RuntimeError, match="differentiated again"):
            torch.autograd.functional.hvp(lambda x, loss=loss: loss(x, y, epsilon=0.5, rho=rho), x, torch.ones_like(x))


def test_composed_losses():
    # Elsewhere derivatives of a function of the loss were off by 3.
    x, y, z = cloud(5, 2, seed=0), cloud(4, 2, seed=1), cloud(6, 2, seed=2)

    def composed(x, y):
        one, two = sinkhorn_divergence(x, y, epsilon=0.5, tol=1e-11), sinkhorn_cost(x, z, epsilon=0.3, tol=1e-11)
        return one.square() * two.exp() + (3 * one).sin() - two * barrow.transport_cost(x.square(), y)

    check_gradient(composed, [x, y], tol=1e-5)
    (slope,) = torch.autograd.grad(composed(x.requires_grad_(), y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated again"):
        slope.sum().backward()


def test_the_same_tensor_twice():
    x = cloud(6, 2, seed=0)
    a = dirichlet(6, seed=1)

    def value(x, a):
        return sinkhorn_cost(x, x, a, a, epsilon=0.5, rho=1.0, tol=1e-11)

    check_gradient(value, [x, a], tol=1e-5)


# -- numbers that depend on where the origin is ------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [100.0, 1000.0, -4096.0])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("rho", [INF, 1.0])
def test_translating_both_clouds_changes_nothing(shift, p, rho):
    # Elsewhere a shift of 100 moved the value by up to 720 times.
    x, y = (uniform(20, 3, seed=k).float() + k / 4 for k in (0, 1))
    here = x.clone().requires_grad_()
    there = x + shift
    # What the coordinates lose by being stored so far out is not the loss's fault.
    x, y = there - shift, (y + shift) - shift
    here = x.clone().requires_grad_()
    there = there.requires_grad_()
    for loss in (sinkhorn_cost, sinkhorn_divergence):
        options = {"epsilon": 0.05, "p": p, "rho": rho, "tol": 1e-6}
        one, two = loss(here, y, **options), loss(there, y + shift, **options)
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-6)
        slopes = [torch.autograd.grad(v, t)[0] for v, t in ((one, here), (two, there))]
        assert torch.allclose(*slopes, atol=1e-4 * float(slopes[0].abs().max()))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scaling_all_lengths(scale):
    x, y = (uniform(15, 2, seed=k).float() for k in (0, 1))
    one = sinkhorn_divergence(x, y, epsilon=0.05, tol=1e-6)
    two = sinkhorn_divergence(scale * x, scale * y, epsilon=0.05 * scale**2, tol=1e-6)
    assert torch.allclose(two, scale**2 * one, rtol=1e-4)


def test_the_precision_of_matrix_products_is_nobodys_business():
    # Elsewhere coordinates are rounded to TF32 unless one asks.
    x, y = (uniform(40, 8, seed=k).float() for k in (0, 1))
    before = torch.get_float32_matmul_precision()
    try:
        values = []
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            values.append(sinkhorn_cost(x, y, epsilon=0.05, tol=1e-6))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(*values)
    assert torch.allclose(values[0].double(), sinkhorn_cost(x.double(), y.double(), epsilon=0.05, tol=1e-6), rtol=2e-6)


# -- options that are ignored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [[1.0, 0.1], (0.1,), torch.tensor([1.0, 0.1]), None])
def test_a_list_of_epsilons_is_refused_and_not_ignored(epsilon):
    x = cloud(4, 2, seed=0)
    for loss in (sinkhorn_cost, sinkhorn_divergence):
        with pytest.raises(ValueError, match=r"^epsilon "):
            loss(x, x, epsilon=epsilon)
    with pytest.raises(ValueError, match=r"^epsilon "):
        Problem(Points(x, x), epsilon=epsilon)


def test_unknown_options_are_refused():
    x = cloud(4, 2, seed=0)
    for name in ("blur", "reg", "method", "scaling", "eps_list"):
        with pytest.raises(TypeError, match=name):
            sinkhorn_cost(x, x, epsilon=0.1, **{name: 1})


def test_a_start_is_used_and_changes_no_answer():
    # Elsewhere the initial potentials of balanced entropic transport are read and dropped.
    x, y = cloud(40, 2, seed=0), cloud(40, 2, seed=1) + 1
    problem, solver = Problem(Points(x, y), epsilon=0.02), Sinkhorn(tol=1e-7)
    cold = barrow.solve(problem, solver)
    warm = barrow.solve(problem, solver, start=cold)
    assert int(warm.steps) < int(cold.steps) / 2
    assert torch.allclose(warm.value, cold.value, rtol=2e-7)


def test_tol_is_kept_and_checked_by_somebody_else():
    # Elsewhere a solver called itself converged at a residual a thousand times larger.
    C, a, b = uniform(30, 25, seed=0), dirichlet(30, seed=1), dirichlet(25, seed=2)
    for tol in (1e-2, 1e-4, 1e-8):
        s = barrow.solve(Problem(Dense(C), a, b, epsilon=0.01), Sinkhorn(tol=tol))
        f, g = s.f, s.g
        P = a[:, None] * b * torch.exp((f[:, None] + g - C) / 0.01)
        dual = (a * f).sum() + (b * g).sum() - 0.01 * (P.sum() - 1)
        # Rounded onto the polytope as Altschuler et al. do it.
        Q = P * (a / P.sum(1)).clamp_max(1)[:, None]
        Q = Q * (b / Q.sum(0)).clamp_max(1)
        up, side = a - Q.sum(1), b - Q.sum(0)
        if up.sum() > 0:
            Q = Q + up[:, None] * side / up.sum()
        primal = (C * Q).sum() + 0.01 * (Q * (Q / (a[:, None] * b)).log()).nan_to_num(0).sum()
        assert primal - dual >= -1e-12
        assert primal - dual <= 4 * tol * primal  # our own rounding is finer than this one
        assert s.bounds.lower <= primal
        assert dual <= s.bounds.upper


# -- answers that are none ---------------------------------------------------------------------------------------------


def test_a_plan_that_underflows_everywhere_is_still_a_plan():
    # Elsewhere exp(-C / epsilon) is 0 throughout, and the independent coupling is returned after a print.
    x, y = cloud(8, 2, seed=0), cloud(8, 2, seed=1) + 1000
    s = barrow.solve(Problem(Points(x, y), epsilon=0.5), Sinkhorn(tol=1e-6))
    P = s.plan.dense()
    assert P.isfinite().all()
    assert torch.allclose(P.sum(-1), torch.full((8,), 1 / 8, dtype=F64), rtol=1e-4)
    assert (P - 1 / 64).abs().max() > 1e-3
    assert s.value.isfinite()


def test_what_is_impossible_is_an_error():
    C = torch.tensor([[0.0, INF], [INF, 0.0]], dtype=F64)
    with pytest.raises(barrow.SolveError, match="no plan of finite cost"):
        barrow.solve(Problem(Dense(C), torch.tensor([0.9, 0.1]).double(), epsilon=0.1))


@pytest.mark.parametrize("spoil", [math.nan, INF])
def test_one_bad_number_is_an_error_and_not_a_plan(spoil):
    x = cloud(4, 2, seed=0)
    x[1, 1] = spoil
    with pytest.raises(ValueError, match="NaN or infinity"):
        sinkhorn_divergence(x, cloud(4, 2, seed=1), epsilon=0.1)


# -- the checks themselves ---------------------------------------------------------------------------------------------


def test_the_wrong_factor_would_be_seen():
    x, y = cloud(5, 2, seed=0), cloud(4, 2, seed=1)

    def value(x):
        return sinkhorn_cost(x, y, epsilon=10.0, rho=0.1, tol=1e-11)

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(leaf), leaf)
    d = cloud(5, 2, seed=2)
    seen = central_difference(value, [x], [d], 1e-5)
    wrong = float((slope * d).sum()) * (0.1 + 5) / (0.1 + 10)
    assert abs(wrong - seen) > 0.4 * abs(seen)
