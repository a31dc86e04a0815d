"""The kernel of entropic transport in the core against torch's logsumexp in float64."""

import math

import pytest
import torch
from torch import Tensor

from barrow import Dense, GibbsPlan, Points
from barrow.cost.base import blockwise_soft_c_transform, gibbs_pass_in_two
from barrow.ops import gibbs
from problems import F64, cloud, generator, uniform

GROUNDS = [(2, 2), (1, 2), (1, 1), (2, 1), (1, math.inf), (1.5, 2), (3, 1), (2.5, math.inf)]
DIMENSIONS = [1, 2, 3, 4, 5, 8, 16, 33]
SIZES = [(1, 1), (1, 70), (70, 1), (3, 65), (130, 64), (33, 300)]
SHARE = [1e-5, 1e-3, 0.05, 1.0, 1e3]  # epsilon as a share of the mean cost


def costs(x: Tensor, y: Tensor, p: float, norm: float) -> Tensor:
    apart = (x[..., :, None, :] - y[..., None, :, :]).abs()
    if norm == 2:
        square = apart.square().sum(-1)
        return square if p == 2 else square.sqrt() ** p
    return (apart.sum(-1) if norm == 1 else apart.amax(-1)) ** p


def by_torch(C: Tensor, h: Tensor, epsilon: Tensor | float) -> Tensor:
    return -epsilon * torch.logsumexp((h[..., None, :] - C) / epsilon, -1)


def draw(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return cloud(n, d, seed=seed), 0.7 * cloud(m, d, seed=seed + 1) + 0.3, cloud(m, seed=seed + 2)


def room(C: Tensor, h: Tensor, epsilon: float) -> float:
    """What float64 may do to a soft minimum: roundings of its terms, and of the exponential."""
    finite = [float(t[t.isfinite()].abs().max()) if t.isfinite().any() else 0.0 for t in (C, h)]
    return 4e-15 * (sum(finite) + epsilon)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("share", SHARE)
def test_the_soft_minimum_is_the_definition(ground, share):
    for k, (n, m) in enumerate(SIZES):
        for d in DIMENSIONS[k % 2 :: 2]:
            x, y, h = draw(n, m, d, seed=10 * k)
            C = costs(x, y, *ground)
            epsilon = share * float(C.mean())
            h = h * epsilon * [0, 1, 30][k % 3]
            found = gibbs.soft_c_transform(x, y, h, epsilon, *ground)
            assert found.dtype == F64
            assert (found - by_torch(C, h, epsilon)).abs().max() <= room(C, h, epsilon)


@pytest.mark.parametrize("share", SHARE)
def test_a_pass_is_the_definition(share):
    for k, (n, m) in enumerate(SIZES):
        ground, d = GROUNDS[k], DIMENSIONS[k]
        x, y, h = draw(n, m, d, seed=k)
        C = costs(x, y, *ground)
        epsilon = share * float(C.mean())
        h = h * epsilon
        f = by_torch(C, h, epsilon)
        a, u = uniform(n, seed=k), f + epsilon * cloud(n, seed=k + 1)
        for given in ({}, {"a": a}, {"u": u}, {"a": a, "u": u}):
            found, w, q = gibbs.gibbs_pass(x, y, h, epsilon, *ground, **given)
            expected = torch.ones(n, dtype=F64)
            if given:
                bounds = [a] * ("a" in given) + [((u - f) / epsilon).exp()] * ("u" in given)
                expected = torch.stack(bounds).amin(0)
            slack = 2 * room(C, h, epsilon) / epsilon + 1e-14
            K = ((f[:, None] + h - C) / epsilon).exp()
            assert (found - f).abs().max() <= room(C, h, epsilon)
            assert torch.allclose(w, expected, rtol=slack, atol=0)
            assert torch.allclose(q, K.mT @ expected, rtol=2 * slack, atol=1e-100)
            matrix = gibbs.matrix_gibbs_pass(C, h, epsilon, **given)
            for one, two in zip(matrix, (f, expected, K.mT @ expected), strict=True):
                assert torch.allclose(
                    one, two, rtol=2 * slack, atol=room(C, h, epsilon) if one is matrix[0] else 1e-100
                )


@pytest.mark.parametrize("ground", GROUNDS)
def test_products_are_the_definition(ground):
    for k, (n, m) in enumerate(SIZES):
        d = DIMENSIONS[k + 1]
        x, y, v = draw(n, m, d, seed=k)
        u, C = cloud(n, seed=k), costs(x, y, *ground)
        epsilon = 0.1 * float(C.mean())
        u, v = u * epsilon, v * epsilon
        P = ((u[:, None] + v - C) / epsilon).exp()
        for columns in (1, 2, 3, 5, 8):
            V = cloud(m, columns, seed=k)
            expected, size = P @ V, P @ V.abs()
            for found in (
                gibbs.gibbs_times(x, y, u, v, epsilon, *ground, V),
                gibbs.matrix_gibbs_times(C, u, v, epsilon, V),
                gibbs.matrix_gibbs_times(C.mT.contiguous().mT, u, v, epsilon, V),
            ):
                assert found.shape == (n, columns)
                assert ((found - expected).abs() <= 1e-12 * size + 1e-200).all()


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_gradient_is_that_of_torch(ground):
    for k, (n, m) in enumerate(SIZES):
        d = DIMENSIONS[k + 1]
        x, y, v = draw(n, m, d, seed=k)
        u, C = cloud(n, seed=k), costs(x, y, *ground)
        epsilon = 0.3 * float(C.mean())
        P = ((u[:, None] + v - C) / epsilon).exp()
        x, y = x.requires_grad_(), y.requires_grad_()
        expected = torch.autograd.grad((P.detach() * costs(x, y, *ground)).sum(), (x, y))
        found = gibbs.gibbs_vjp(x.detach(), y.detach(), u, v, epsilon, *ground)
        for one, two in zip(found, expected, strict=True):
            assert (one - two).abs().max() <= 1e-12 * float(P.sum()) * max(1.0, float(C.detach().max()))


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_gradient_at_distance_zero_is_zero(ground):
    x, zero = cloud(5, 3, seed=1), torch.zeros(5, dtype=F64)
    y = x.clone()
    for found in gibbs.gibbs_vjp(x, y, zero, zero, 1e-9, *ground):  # only the diagonal has mass
        assert found.abs().max() < 1e-300


@pytest.mark.parametrize("share", SHARE)
@pytest.mark.parametrize("ground", [(2, 2), (1, 2), (1, 1), (1, math.inf)])
def test_single_precision_is_as_good_as_torch(ground, share):
    ratios = []
    for d in (1, 3, 8, 20):
        x, y, h = (t.float() for t in draw(100, 300, d, seed=d))
        C = costs(x.double(), y.double(), *ground)
        epsilon = share * float(C.mean())
        h = h * epsilon
        exact = by_torch(C, h.double(), epsilon)
        ours = gibbs.soft_c_transform(x, y, h.double(), epsilon, *ground, torch.float32)
        theirs = by_torch(costs(x, y, *ground), h, epsilon).double()
        floor = 2.0**-24 * float(exact.abs().max() + epsilon)  # the rounding of the answer itself, which ours has not
        ratios.append(float((ours - exact).abs().max()) / max(floor, float((theirs - exact).abs().max())))
    assert max(ratios) <= 2, ratios


def test_translations_change_nothing():
    x, y, h = draw(50, 80, 3)
    shift = torch.tensor([1e3, -1e3, 5e2], dtype=F64)
    for ground in GROUNDS:
        one = gibbs.soft_c_transform(x, y, h, 0.1, *ground)
        assert torch.allclose(
            one, gibbs.soft_c_transform(x + shift, y + shift, h, 0.1, *ground), rtol=1e-11, atol=1e-11
        )
        single = [gibbs.soft_c_transform(x + t, y + t, h, 0.1, *ground, torch.float32) for t in (0 * shift, shift)]
        assert torch.allclose(*single, rtol=1e-4, atol=1e-4)
        assert torch.allclose(one, single[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1.0, 1e3, 1e100])
def test_scales_change_nothing(scale):
    x, y, h = draw(50, 80, 3)
    for p, norm in [(2, 2), (1, 2), (1, 1), (1, math.inf)]:
        one, unit = gibbs.soft_c_transform(x, y, h, 0.1, p, norm), scale**p
        if unit == 0 or math.isinf(unit):
            continue
        for precision, tol in ((F64, 1e-13), (torch.float32, 1e-5)):
            two = gibbs.soft_c_transform(scale * x, scale * y, unit * h, 0.1 * unit, p, norm, precision)
            assert torch.allclose(one, two / unit, rtol=tol, atol=tol)


def test_batches_are_loops():
    x, y, h, u = cloud(4, 30, 3, seed=1), cloud(4, 40, 3, seed=2), cloud(4, 40, seed=3), cloud(4, 30, seed=4)
    V, epsilon = cloud(4, 40, 2, seed=5), uniform(4, seed=6, low=0.1, high=2.0)
    C = costs(x, y, 2, 2)

    def everything(x, y, h, u, V, C, epsilon):
        return [
            gibbs.soft_c_transform(x, y, h, epsilon, 2, 2),
            *gibbs.gibbs_pass(x, y, h, epsilon, 2, 2, u=u),
            gibbs.gibbs_times(x, y, u, h, epsilon, 2, 2, V),
            *gibbs.gibbs_vjp(x, y, u, h, epsilon, 2, 2),
            gibbs.matrix_soft_c_transform(C, h, epsilon),
            *gibbs.matrix_gibbs_pass(C, h, epsilon, u=u),
            gibbs.matrix_gibbs_times(C, u, h, epsilon, V),
        ]

    together = everything(x, y, h, u, V, C, epsilon)
    shared = everything(x[0], y[0], h, u, V, C[0], epsilon)
    pairs = everything(*(t.reshape(2, 2, *t.shape[1:]) for t in (x, y, h, u, V, C, epsilon)))
    for k in range(4):
        alone = everything(x[k], y[k], h[k], u[k], V[k], C[k], float(epsilon[k]))
        same = everything(x[0], y[0], h[k], u[k], V[k], C[0], epsilon[k])
        for one, two, three, four, five in zip(together, alone, shared, same, pairs, strict=True):
            assert torch.equal(one[k], two)
            assert torch.equal(three[k], four)
            assert torch.equal(five[k // 2, k % 2], two)


def test_columns_of_a_matrix_are_read_where_they_are():
    C, h = cloud(3, 40, 50, seed=1), cloud(3, 40, seed=2)
    for matrix in (C, C[0]):
        for precision, tol in ((F64, 1e-14), (torch.float32, 1e-5)):
            one = gibbs.matrix_soft_c_transform(matrix.mT, h, 0.3, precision)
            assert torch.allclose(one, by_torch(matrix.mT, h, 0.3), rtol=tol, atol=tol)


def test_threads_change_nothing():
    x, y, h = draw(1000, 600, 3)
    u, V, C = cloud(1000, seed=5), cloud(600, 3, seed=6), costs(x, y, 2, 2)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(
                [
                    gibbs.soft_c_transform(x, y, h, 0.1, 2, 2),
                    gibbs.soft_c_transform(x, y, h, 0.1, 2, 2, torch.float32),
                    *gibbs.gibbs_pass(x, y, h, 0.1, 2, 2, u=u),
                    gibbs.gibbs_times(x, y, u, h, 1.0, 2, 2, V),
                    *gibbs.gibbs_vjp(x, y, u, h, 1.0, 2, 2),
                    *gibbs.matrix_gibbs_pass(C, h, 0.1, u=u),
                ]
            )
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_what_is_out_is_not_seen():
    x, y, h = draw(30, 100, 3)
    out = torch.rand(100, generator=generator(1)) < 0.4
    h[out] = -torch.inf
    u = torch.where(torch.arange(30) % 3 == 0, -torch.inf, cloud(30, seed=1))
    f, w, q = gibbs.gibbs_pass(x, y, h, 0.1, 2, 2, u=u)
    assert torch.allclose(f, gibbs.soft_c_transform(x, y, h, 0.1, 2, 2), rtol=1e-14)
    assert torch.allclose(f, gibbs.soft_c_transform(x, y[~out], h[~out], 0.1, 2, 2), rtol=1e-14)
    assert (q[out] == 0).all()
    assert (w[::3] == 0).all()
    gx, gy = gibbs.gibbs_vjp(x, y, u, h, 1.0, 1, 2)
    assert (gx[::3] == 0).all()
    assert (gy[out] == 0).all()
    moved = gibbs.gibbs_times(x, y, u, h, 1.0, 2, 2, torch.where(out, torch.nan, 1.0).double()[:, None])
    assert (moved[::3] == 0).all()
    assert moved.isfinite().all()
    nothing = torch.full_like(h, -torch.inf)
    f, w, q = gibbs.gibbs_pass(x, y, nothing, 0.1, 2, 2)
    assert (f == torch.inf).all()
    assert (q == 0).all()
    assert (gibbs.soft_c_transform(x, y, nothing, 0.1, 2, 2, torch.float32) == torch.inf).all()


def test_forbidden_pairs():
    C = uniform(20, 90, seed=1)
    C[torch.rand(20, 90, generator=generator(2)) < 0.5] = torch.inf
    C[3] = torch.inf
    h = cloud(90, seed=3)
    f, _, q = gibbs.matrix_gibbs_pass(C, h, 0.1)
    expected = by_torch(C, h, 0.1)
    assert f[3] == expected[3] == torch.inf
    seen = torch.arange(20) != 3
    assert torch.allclose(f[seen], expected[seen], rtol=1e-14)
    assert torch.allclose(q, ((expected[seen, None] + h - C[seen]) / 0.1).exp().sum(0), rtol=1e-13)
    assert torch.allclose(gibbs.matrix_soft_c_transform(C, h, 0.1, torch.float32)[seen], f[seen], rtol=1e-5, atol=1e-6)


def test_not_a_number_is_passed_on():
    x, y, h = draw(5, 70, 2)
    x[2, 1] = torch.nan
    f = gibbs.soft_c_transform(x, y, h, 0.1, 2, 2)
    assert f[2].isnan()
    assert f[[0, 1, 3, 4]].isfinite().all()
    h[7] = torch.nan
    assert gibbs.soft_c_transform(x, y, h, 0.1, 2, 2).isnan().all()


def test_points_are_read_in_their_precision():
    x, y, h = draw(30, 40, 3)
    x, y = x.float(), y.float()
    for ground in GROUNDS:
        one = gibbs.soft_c_transform(x, y, h, 0.1, *ground)
        assert torch.allclose(one, gibbs.soft_c_transform(x.double(), y.double(), h, 0.1, *ground), rtol=1e-14)


def test_wrong_shapes_are_refused():
    x, y, h = draw(5, 6, 2)
    u, V = cloud(5, seed=1), cloud(6, 2, seed=2)
    with pytest.raises(ValueError, match="h needs one number for every column"):
        gibbs.soft_c_transform(x, y, h[:5], 0.1, 2, 2)
    with pytest.raises(ValueError, match="x and y need the same dimension"):
        gibbs.soft_c_transform(x, y[:, :1], h, 0.1, 2, 2)
    with pytest.raises(ValueError, match="a needs one number for every row"):
        gibbs.gibbs_pass(x, y, h, 0.1, 2, 2, a=h)
    with pytest.raises(ValueError, match="u needs one number for every row"):
        gibbs.gibbs_times(x, y, h, h, 0.1, 2, 2, V)
    with pytest.raises(ValueError, match="V needs the shape"):
        gibbs.gibbs_times(x, y, u, h, 0.1, 2, 2, V[:5])
    with pytest.raises(ValueError, match="v needs one number for every column"):
        gibbs.gibbs_vjp(x, y, u, u, 0.1, 2, 2)
    with pytest.raises(ValueError, match="h needs one number for every column"):
        gibbs.matrix_soft_c_transform(torch.zeros(5, 6, dtype=F64), u, 0.1)
    with pytest.raises(ValueError, match="V needs the shape"):
        gibbs.matrix_gibbs_times(torch.zeros(5, 6, dtype=F64), u, h, 0.1, V[:5])
    with pytest.raises(TypeError):
        gibbs.soft_c_transform(x, y, h.float(), 0.1, 2, 2)
    with pytest.raises(RuntimeError):
        gibbs.soft_c_transform(x.expand(3, 5, 2), y.expand(2, 6, 2), h, 0.1, 2, 2)


def test_nothing_at_all():
    x, y, h = torch.zeros(0, 5, 2, dtype=F64), torch.zeros(0, 6, 2, dtype=F64), torch.zeros(0, 6, dtype=F64)
    assert gibbs.soft_c_transform(x, y, h, 0.1, 2, 2).shape == (0, 5)
    assert [t.shape for t in gibbs.gibbs_pass(x, y, h, 0.1, 2, 2)] == [(0, 5), (0, 5), (0, 6)]


# -- who uses it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda x, y: Points(x, y, p=1), lambda x, y: Dense(costs(x, y, 2, 2))])
@pytest.mark.parametrize("epsilon", [0.3, torch.tensor([0.1, 3.0], dtype=F64)])
def test_costs_ask_the_core(make, epsilon, monkeypatch):
    cost, h = make(cloud(2, 20, 3, seed=1), cloud(2, 30, 3, seed=2)), cloud(2, 30, seed=3)
    found = cost.soft_c_transform(h, epsilon)
    assert torch.allclose(found, blockwise_soft_c_transform(cost, h, epsilon), rtol=1e-13)
    leaf = h.clone().requires_grad_()
    recorded = cost.soft_c_transform(leaf, epsilon)  # who wants a gradient is not handed to the core
    assert torch.allclose(recorded, found, rtol=1e-13)
    (slope,) = torch.autograd.grad(recorded.sum(), leaf)
    assert torch.allclose(-slope.sum(-1), torch.full((2,), 20.0, dtype=F64))
    a, u = uniform(2, 20, seed=4), cloud(2, 20, seed=5)
    for given in ((a, None, 1.0), (None, u, 0.5), (a, u, 1.0)):
        for one, two in zip(cost.gibbs_pass(h, 0.3, *given), gibbs_pass_in_two(cost, h, 0.3, *given), strict=True):
            assert torch.allclose(one, two, rtol=1e-12)
    monkeypatch.setattr(gibbs, "gibbs_times", None)
    monkeypatch.setattr(gibbs, "matrix_gibbs_times", None)
    with pytest.raises(TypeError):
        GibbsPlan(cost, u, h, 0.3).marginals()


def test_a_matrix_that_is_kept_is_read():
    x, y, h = draw(20, 30, 17)
    cost = Points(x, y)
    before = cost.soft_c_transform(h, 0.5)
    cost.matrix[:] += 1
    assert torch.allclose(cost.soft_c_transform(h, 0.5), before + 1, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda x, y: Points(x, y, p=1), lambda x, y: Dense(costs(x, y, 2, 2))])
def test_plans_of_costs_are_the_definition(make):
    cost, u, v = make(cloud(2, 20, 3, seed=1), cloud(2, 30, 3, seed=2)), cloud(2, 20, seed=3), cloud(2, 30, seed=4)
    plan = GibbsPlan(cost, u, v, 0.5)
    P, V = plan.dense(), cloud(2, 30, 4, seed=5)
    rows, cols = plan.marginals()
    assert torch.allclose(rows, P.sum(-1), rtol=1e-12)
    assert torch.allclose(cols, P.sum(-2), rtol=1e-12)
    assert torch.allclose(plan @ V, P @ V, rtol=1e-11, atol=1e-13)
    assert torch.allclose(plan.T @ V[:, :20], P.mT @ V[:, :20], rtol=1e-11, atol=1e-13)
