"""Cuturi's distances: what the entropic plan costs, and the cheapest coupling of a ball."""

import math

import pytest
import torch

import barrow
from barrow import ConvergenceWarning, Dense, Problem, sinkhorn_ball, sinkhorn_transport
from barrow.functional import fixed_point, sinkhorn
from problems import F64, check_gradient, cloud, dirichlet, lp_value, uniform

KINDS = {
    "transport": lambda h, t, C, **options: sinkhorn_transport(h, t, C, epsilon=0.05, **options),
    "ball": lambda h, t, C, **options: sinkhorn_ball(h, t, C, alpha=0.3, **options),
}
every = pytest.mark.parametrize("loss", KINDS.values(), ids=KINDS.keys())


def metric(n, seed=0):
    z = uniform(n, 2, seed=seed)
    return torch.cdist(z, z)


def plan(h, t, C, epsilon, sweeps=20_000):
    """Algorithm 1 in its plainest form."""
    K = torch.exp(-C / epsilon)
    u = torch.ones_like(h)
    for _ in range(sweeps):
        v = t / (u @ K)
        u = h / (v @ K.mT)
    return u[..., None] * K * v[..., None, :]


def information(P):
    return (P * (P / (P.sum(-1, keepdim=True) * P.sum(-2, keepdim=True))).log()).nan_to_num(0).sum((-2, -1))


def tangent(d, k):
    return d - d.mean(-1, keepdim=True) if k < 2 else d


# -- what the entropic plan costs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02])
def test_the_cost_of_the_plan_of_algorithm_1(epsilon):
    h, t, C = dirichlet(3, 6, seed=0), dirichlet(3, 5, seed=1), uniform(6, 5, seed=2)
    expected = (plan(h, t, C, epsilon) * C).sum((-2, -1))
    assert torch.allclose(sinkhorn_transport(h, t, C, epsilon=epsilon), expected, rtol=1e-3)
    assert torch.allclose(sinkhorn_transport(h, t, C, epsilon=epsilon, tol=1e-5), expected, rtol=1e-7)


def test_above_the_exact_cost_decreasing_in_lambda_and_with_it_as_the_limit():
    h, t, C = dirichlet(5, 8, seed=0, zeros=1), dirichlet(5, 8, seed=1), metric(8)
    exact = lp_value(Problem(Dense(C), h, t))
    values = torch.stack([sinkhorn_transport(h, t, C, epsilon=1 / k) for k in (1, 3, 10, 30, 100, 1000, 10_000)])
    assert (values >= exact - 1e-12).all()
    assert (values.diff(dim=0) <= 1e-9).all()
    assert torch.allclose(values[-1], exact, rtol=1e-3)
    independent = (h * (t @ C)).sum(-1)
    assert torch.allclose(sinkhorn_transport(h, t, C, epsilon=1e5), independent, rtol=1e-4)


def test_the_exact_cost_lies_between_cuturis_bound_and_the_divergence():
    h, t, C = dirichlet(4, 8, seed=3), dirichlet(4, 8, seed=4), metric(8, seed=3)
    exact = lp_value(Problem(Dense(C), h, t))
    for epsilon in (0.5, 0.05, 0.01):
        P = plan(h, t, C, epsilon)
        # a log u + b log v over lambda, with P = u K v and P <= 1.
        L = epsilon * (P * (P.log() + C / epsilon)).nan_to_num(0).sum((-2, -1))
        assert (exact - L >= -1e-12).all()
        assert (exact <= sinkhorn_transport(h, t, C, epsilon=epsilon) + 1e-12).all()


@pytest.mark.parametrize("epsilon", [0.5, 0.05])
def test_the_gradient_of_the_fixed_point(epsilon):
    h, t, C = dirichlet(2, 5, seed=0) + 0.1, dirichlet(2, 4, seed=1), uniform(5, 4, seed=2)
    h = h / h.sum(-1, keepdim=True)
    check_gradient(
        lambda *w: sinkhorn_transport(*w, epsilon=epsilon, tol=1e-5), [h, t, C], h=1e-5, tol=1e-6, along=tangent
    )

    def on_the_simplex(h, t, C):
        h, t = (w - (w.sum(-1, keepdim=True) - 1) / w.shape[-1] for w in (h, t))
        return sinkhorn_transport(h, t, C, epsilon=epsilon, tol=1e-5)

    assert torch.autograd.gradcheck(on_the_simplex, [w.clone().requires_grad_() for w in (h, t, C)])


def test_the_gradient_is_that_of_unrolled_sweeps():
    h, t, C = (w.requires_grad_() for w in (dirichlet(6, seed=0), dirichlet(6, seed=1), metric(6)))
    told = torch.autograd.grad(sinkhorn_transport(h, t, C, epsilon=0.1, tol=1e-5), (h, t, C))
    seen = torch.autograd.grad((plan(h, t, C, 0.1, sweeps=300) * C).sum(), (h, t, C))
    for k, (one, other) in enumerate(zip(told, seen, strict=True)):
        assert torch.allclose(tangent(one, k), tangent(other, k), atol=1e-8)


def test_the_wrong_gradient_is_seen():
    # Without the response of the plan d<P, C>/dC would be P: what envelope-theorem code returns by mistake.
    h, t, C = dirichlet(6, seed=0), dirichlet(6, seed=1), metric(6).requires_grad_()
    (told,) = torch.autograd.grad(sinkhorn_transport(h, t, C, epsilon=0.1, tol=1e-5), C)
    assert (told - plan(h, t, C.detach(), 0.1)).abs().max() > 1e-2
    assert torch.allclose(told.sum(), torch.ones((), dtype=F64))  # adding a constant to C adds it to the value


def test_the_value_scales_with_mass_and_costs():
    h, t, C = dirichlet(6, seed=0), dirichlet(6, seed=1), metric(6)
    one = sinkhorn_transport(h, t, C, epsilon=0.1, tol=1e-6)
    assert torch.allclose(sinkhorn_transport(3 * h, 3 * t, C, epsilon=0.1, tol=1e-6), 3 * one)
    assert torch.allclose(sinkhorn_transport(h, t, 7 * C, epsilon=0.7, tol=1e-6), 7 * one)
    assert torch.allclose(sinkhorn_transport(h, t, C + 100, epsilon=0.1, tol=1e-6), one + 100)


def test_thousands_of_histograms_share_a_matrix():
    h, t, C = dirichlet(2000, 10, seed=0).requires_grad_(), dirichlet(10, seed=1), metric(10).requires_grad_()
    values = sinkhorn_transport(h, t, C, epsilon=0.1)
    assert values.shape == (2000,)
    values.sum().backward()
    assert C.grad.shape == (10, 10)
    assert torch.allclose(C.grad.sum(), torch.tensor(2000.0, dtype=F64))
    for k in (0, 999, 1999):
        assert torch.allclose(values[k], sinkhorn_transport(h[k], t, C, epsilon=0.1), rtol=1e-10, atol=0)


def test_atoms_of_little_weight_are_certified_too():
    # Their potentials ask for long Newton steps, which must not hold up all others.
    z = cloud(150, 20, seed=0)
    C = torch.cdist(z, z) / 10
    h, t = torch.softmax(2 * cloud(3, 150, seed=1), -1), dirichlet(3, 150, seed=2)
    value = sinkhorn_transport(h, t, C, epsilon=0.02)
    assert torch.allclose(value, sinkhorn_transport(h, t, C, epsilon=0.02, tol=1e-5), rtol=1e-5)


def test_small_groups_change_nothing(monkeypatch):
    h, t, C = dirichlet(7, 5, seed=0), dirichlet(7, 5, seed=1), uniform(7, 5, 5, seed=2).requires_grad_()
    whole = [loss(h, t, C) for loss in KINDS.values()]
    slopes = [torch.autograd.grad(v.sum(), C)[0] for v in whole]
    monkeypatch.setattr(fixed_point, "ENTRIES", 60)
    for loss, value, slope in zip(KINDS.values(), whole, slopes, strict=True):
        again = loss(h, t, C)
        assert torch.allclose(again, value, rtol=1e-12)
        assert torch.allclose(torch.autograd.grad(again.sum(), C)[0], slope, rtol=1e-9, atol=1e-12)


def test_a_transport_that_is_not_certified_warns(monkeypatch):
    monkeypatch.setattr(sinkhorn, "POLISH", 0)
    h, t, C = dirichlet(30, seed=0), dirichlet(30, seed=1), metric(30)
    with pytest.warns(ConvergenceWarning, match=r"certified to a relative error of") as seen:
        sinkhorn_transport(h, t, C, epsilon=1e-3, tol=1e-6)
    assert seen[0].filename == __file__


# -- the ball ----------------------------------------------------------------------------------------------------------


def test_no_information_is_the_independence_kernel():
    h, t, C = dirichlet(3, 6, seed=0), dirichlet(3, 5, seed=1), uniform(6, 5, seed=2)
    assert torch.allclose(sinkhorn_ball(h, t, C, alpha=0), (h * (t @ C.mT)).sum(-1), rtol=1e-14)
    nearly = sinkhorn_ball(h, t, C, alpha=1e-12, tol=1e-9)
    assert torch.allclose(nearly, (h * (t @ C.mT)).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("alpha", [1.8, 10, math.inf])
def test_much_information_is_exact_transport(alpha):
    h, t, C = dirichlet(3, 6, seed=0), dirichlet(3, 5, seed=1), uniform(6, 5, seed=2)
    assert torch.allclose(sinkhorn_ball(h, t, C, alpha=alpha), lp_value(Problem(Dense(C), h, t)), rtol=1e-12)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02])
def test_the_ball_that_a_divergence_is_on_the_edge_of(epsilon):
    h, t, C = dirichlet(6, seed=0), dirichlet(5, seed=1), uniform(6, 5, seed=2)
    P = plan(h, t, C, epsilon)
    value = sinkhorn_ball(h, t, C, alpha=float(information(P)), tol=1e-9)
    assert torch.allclose(value, (P * C).sum(), rtol=1e-8)
    assert value <= (P * C).sum() + 1e-12


def test_the_distance_falls_with_alpha_and_each_problem_of_a_batch_has_its_own_epsilon():
    h, t, C = dirichlet(6, 7, seed=0), dirichlet(6, 7, seed=1), metric(7)
    C = torch.logspace(-3, 3, 6, dtype=F64)[:, None, None] * C
    values = torch.stack([sinkhorn_ball(h, t, C, alpha=k, tol=1e-7) for k in (0, 1e-3, 0.1, 0.5, 1, 1.4, 3)])
    assert (values.diff(dim=0) <= 3e-7 * values[1:]).all()
    for k in range(6):
        assert torch.allclose(values[3, k], sinkhorn_ball(h[k], t[k], C[k], alpha=0.5), rtol=1e-3)


@pytest.mark.parametrize("alpha", [0, 0.05, 0.4, 1.2, 5])
def test_a_metric_stays_one(alpha):
    x, y, z = (dirichlet(40, 6, seed=k) for k in range(3))
    C = metric(6)

    def d(u, v):
        return sinkhorn_ball(u, v, C, alpha=alpha, tol=1e-7)

    xy, yz, xz = d(x, y), d(y, z), d(x, z)
    assert (xz <= (xy + yz) * (1 + 2e-7)).all()
    assert torch.allclose(xy, d(y, x), rtol=1e-6)


def test_the_triangle_inequality_can_fail_where_it_is_not_claimed():
    # For a cost that is no metric the check above has to go red.
    x, y, z = (torch.eye(3, dtype=F64)[k] for k in range(3))
    C = torch.tensor([[0, 1, 5], [1, 0, 1], [5, 1, 0]], dtype=F64)
    xy, yz, xz = (sinkhorn_ball(u, v, C, alpha=0.4) for u, v in ((x, y), (y, z), (x, z)))
    assert xz > xy + yz


def test_the_envelope_of_the_ball():
    h, t, C = dirichlet(2, 5, seed=0) + 0.05, dirichlet(2, 4, seed=1) + 0.05, uniform(5, 4, seed=2)
    h, t = (w / w.sum(-1, keepdim=True) for w in (h, t))
    for alpha in (0, 0.01, 0.2, 0.6, 3):
        check_gradient(
            lambda *w, alpha=alpha: sinkhorn_ball(*w, alpha=alpha, tol=1e-10), [h, t, C], tol=2e-5, along=tangent
        )
    C.requires_grad_()
    (P,) = torch.autograd.grad(sinkhorn_ball(h, t, C, alpha=0.2, tol=1e-9)[0], C)
    assert torch.allclose(P.sum(-1), h[0], atol=1e-9)
    assert torch.allclose(P.sum(-2), t[0], atol=1e-9)
    assert float(information(P)) == pytest.approx(0.2, rel=1e-5)


def test_equal_histograms_cost_something_in_a_small_ball_and_nothing_in_a_large_one():
    h, C = dirichlet(6, seed=0), metric(6)
    assert sinkhorn_ball(h, h, C, alpha=0.2) > 0.01
    assert sinkhorn_ball(h, h, C, alpha=1.79) < 1e-12
    nearly = float(-(h * h.log()).sum()) * (1 - 1e-6)
    assert 0 <= sinkhorn_ball(h, h, C, alpha=nearly) < 1e-6


def test_too_few_steps_warn_and_give_a_lower_bound():
    h, t, C = dirichlet(6, seed=0), dirichlet(6, seed=1), metric(6)
    with pytest.warns(ConvergenceWarning, match="relative gap of .* raise tol or max_steps") as seen:
        value = sinkhorn_ball(h, t, C, alpha=0.5, tol=1e-9, max_steps=2)
    assert seen[0].filename == __file__
    assert value <= sinkhorn_ball(h, t, C, alpha=0.5, tol=1e-9)


# -- both --------------------------------------------------------------------------------------------------------------


@every
def test_shapes(loss):
    C = metric(4)
    assert loss(dirichlet(4, seed=0), dirichlet(4, seed=1), C).shape == ()
    assert loss(dirichlet(2, 1, 4, seed=0), dirichlet(3, 4, seed=1), C).shape == (2, 3)
    assert loss(dirichlet(4, seed=0), dirichlet(4, seed=1), C.expand(5, 4, 4)).shape == (5,)
    assert loss(torch.zeros(0, 4, dtype=F64), dirichlet(4, seed=1), C).shape == (0,)


@every
def test_zero_weights_change_nothing_and_have_finite_gradients(loss):
    h, t, C = dirichlet(5, seed=0), dirichlet(5, seed=1), uniform(5, 5, seed=2)
    pad = torch.nn.functional.pad
    big = uniform(8, 8, seed=3, high=50)
    big[:5, :5] = C
    wide = [w.requires_grad_() for w in (pad(h, (0, 3)), pad(t, (0, 3)), big)]
    assert torch.allclose(loss(*wide), loss(h, t, C), rtol=2e-3)
    slopes = torch.autograd.grad(loss(*wide), wide)
    assert all(s.isfinite().all() for s in slopes)
    assert (slopes[2][5:] == 0).all()
    assert (slopes[2][:, 5:] == 0).all()


def test_the_slope_of_a_zero_weight_is_that_of_a_small_one():
    h, t, C = dirichlet(5, seed=0, zeros=1), dirichlet(5, seed=1, zeros=1), uniform(5, 5, seed=2)
    for loss in KINDS.values():
        leaves = [w.clone().requires_grad_() for w in (h, t)]
        value = loss(*leaves, C, tol=1e-7 if loss is KINDS["ball"] else 1e-5)
        slopes = torch.autograd.grad(value, leaves)
        for k in range(2):
            d = torch.zeros(5, dtype=F64)
            d[4], d[0] = 1, -1
            moved = [h, t]
            moved[k] = moved[k] + 1e-5 * d
            seen = (loss(*moved, C, tol=1e-7 if loss is KINDS["ball"] else 1e-5) - value) / 1e-5
            assert torch.allclose(slopes[k] @ d, seen, atol=5e-3)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_precision(loss, dtype):
    h, t = (torch.softmax(3 * uniform(6, seed=k), 0).to(dtype) for k in (0, 1))
    h, t = h / h.sum(), t / t.sum()
    if dtype.itemsize == 2:  # weights that sum to 1 in half precision
        h, t = (torch.tensor([4, 2, 3, 3, 2, 2], dtype=dtype) / 16, torch.tensor([1, 5, 2, 2, 5, 1], dtype=dtype) / 16)
    C = metric(6).to(dtype).requires_grad_()
    value = loss(h, t, C)
    assert value.dtype == dtype
    exact = loss(h.double(), t.double(), C.detach().double())
    assert torch.allclose(value.double(), exact, rtol=3e-3 + 4 * torch.finfo(dtype).eps)
    value.backward()
    assert C.grad.dtype == dtype
    assert C.grad.isfinite().all()


@every
def test_a_second_derivative_is_refused(loss):
    h, t, C = dirichlet(5, seed=0), dirichlet(5, seed=1), metric(5).requires_grad_()
    (slope,) = torch.autograd.grad(loss(h, t, C), C, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated again"):
        slope.square().sum().backward()


def assert_refuses(words, call, *args, **options):
    with pytest.raises(ValueError, match=words) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)


@every
def test_complaints(loss):
    h, t, C = dirichlet(4, seed=0), dirichlet(4, seed=1), metric(4)
    for bad in (math.nan, math.inf):
        spoiled = h.clone()
        spoiled[1] = bad
        assert_refuses("^h contains .* not finite", loss, spoiled, t, C)
        spoiled = C.clone()
        spoiled[1, 2] = bad
        assert_refuses("^C contains .* not finite", loss, h, t, spoiled)
    assert_refuses("weights must not be negative", loss, torch.tensor([1.5, -0.5, 0, 0], dtype=F64), t, C)
    assert_refuses("^h sums to 2 but t sums to 1: .*different masses", loss, 2 * h, t, C)
    assert_refuses("no mass", loss, 0 * h, 0 * t, C)
    assert_refuses("^h has shape", loss, h[:3], t, C)
    assert_refuses("t has dtype torch.float32", loss, h, t.float(), C)
    assert_refuses("do not broadcast", loss, dirichlet(2, 4, seed=0), dirichlet(3, 4, seed=0), C)
    assert_refuses("^C has shape", loss, h, t, C[0])
    assert_refuses("^tol is 0", loss, h, t, C, tol=0)
    assert_refuses("^max_steps is 0", loss, h, t, C, max_steps=0)


@pytest.mark.parametrize("loss", KINDS.values())
def test_class_indices_are_told_what_they_need(loss):
    h, t, C = dirichlet(3, 4, seed=0), torch.tensor([1, 0, 3]), metric(4)
    assert_refuses(r"^t has dtype torch.int64, .*one_hot\(t, 4\)\.to\(C\.dtype\)$", loss, h, t, C)
    loss(h, torch.nn.functional.one_hot(t, 4).to(C.dtype), C)


def test_other_complaints():
    h, C = dirichlet(4, seed=0), metric(4)
    for epsilon in (0, -1, math.nan, math.inf, None, "small"):
        assert_refuses("^epsilon ", sinkhorn_transport, h, h, C, epsilon=epsilon)
    for alpha in (-1, math.nan, None, "small"):
        assert_refuses("^alpha ", sinkhorn_ball, h, h, C, alpha=alpha)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        (barrow.nn.SinkhornTransport(metric(4), epsilon=0.1), lambda *w: sinkhorn_transport(*w, epsilon=0.1)),
        (barrow.nn.SinkhornBall(metric(4), alpha=0.1), lambda *w: sinkhorn_ball(*w, alpha=0.1)),
    ],
)
def test_modules(module, call):
    h, t = dirichlet(3, 4, seed=0), dirichlet(3, 4, seed=1)
    assert torch.equal(module(h, t), call(h, t, metric(4)))
    assert repr(module).startswith(type(module).__name__ + "(C=(4, 4), ")
    assert set(module.state_dict()) == {"C"}
