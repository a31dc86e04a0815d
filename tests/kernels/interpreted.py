"""The Triton kernels in Triton's interpreter, on CPU tensors: run by tests/test_ops_triton.py in a process of its own.

float64 shows that a kernel computes what it says, to the last digits; float32 shows how it rounds.
"""

import math
import os

import pytest
import torch

from barrow.ops import distance, point_softmin, triton
from barrow.ops import softmin as reference
from barrow.ops.triton import clouds, plan, softmin

assert os.environ["TRITON_INTERPRET"] == "1"
torch.use_deterministic_algorithms(True)  # what is not written is NaN

F32, F64 = torch.float32, torch.float64
INF = math.inf
COSTS = [(2, 2), (1, 2), (1.5, 2), (3, 2), (1, 1), (2, 1), (2.5, 1), (1, INF), (2, INF), (1.5, INF)]
SIZES = [(1, 1), (1, 33), (17, 3), (33, 70)]


def drawn(B, n, m, d, seed=0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    x, y = (shift + torch.randn(B, k, d, dtype=F64, generator=g) for k in (n, m))
    return x, y, torch.randn(B, m, dtype=F64, generator=g), torch.randn(B, n, dtype=F64, generator=g)


def truth(x, y, h, epsilon, p, norm):
    return reference.softmin(distance.all_pairs(x.double(), y.double(), p, norm), h.double(), epsilon.double())


def ours(x, y, h, epsilon, p=2, norm=2, dtype=F64, **options):
    return softmin.softmin(clouds.lay_out(x, y, p, norm, dtype=dtype, **options), h, epsilon)


def assert_close(found, wanted, tol=1e-12):
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted.to(found.dtype), rtol=tol, atol=tol), (found - wanted).abs().max()


def test_the_check_sees_an_error():
    with pytest.raises(AssertionError):
        assert_close(torch.ones(2, dtype=F64), torch.tensor([1.0, 1 + 1e-9], dtype=F64))
    with pytest.raises(AssertionError):
        assert_close(torch.full((1,), math.nan), torch.ones(1))


# -- soft minima -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "norm"), COSTS)
def test_costs(p, norm):
    epsilon = torch.tensor([0.5, 2.0], dtype=F64)
    for d in (1, 5):
        x, y, h, _ = drawn(2, 17, 33, d)
        assert_close(ours(x, y, h, epsilon, p, norm), truth(x, y, h, epsilon, p, norm))
        x, y, h = x.float(), y.float(), h.float()
        rounded = reference.softmin(distance.all_pairs(x, y, p, norm), h, epsilon.float())
        exact = truth(x, y, h, epsilon, p, norm)
        error = (ours(x, y, h, epsilon, p, norm, F32) - exact).abs().max()
        # The norm of a row in roundings: on so few numbers the reference is sometimes lucky.
        assert error <= 2 * (rounded - exact).abs().max() + 4 * 2**-24 * exact.abs().max()


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("d", [2, 16, 40])
def test_sizes(n, m, d):
    x, y, h, _ = drawn(2, n, m, d, seed=n + m)
    epsilon = torch.tensor([0.3, 5.0], dtype=F64)
    exact = truth(x, y, h, epsilon, 2, 2)
    assert_close(ours(x, y, h, epsilon), exact)
    for product in ("direct", "ieee", "tf32x3") if d == 40 and n > 1 else (None,):
        assert_close(ours(x, y, h, epsilon, dtype=F32, product=product), exact, 1e-5)


@pytest.mark.parametrize("d", [3, 40, 70])
def test_where_the_origin_lies_changes_nothing(d):
    x, y, h, _ = drawn(1, 17, 33, d)
    epsilon = torch.tensor([0.5], dtype=F64)
    # Stored in float64 and moved by a number that moves them exactly, up to the last bits.
    assert_close(ours(x + 1024, y + 1024, h, epsilon, dtype=F32), truth(x, y, h, epsilon, 2, 2), 2e-6)
    # Stored in float32: the moved points are other points, and theirs is the truth.
    x, y = (x + 1000).float(), (y + 1000).float()
    for product in ("direct", "ieee") if d > 16 else ("direct",):
        assert_close(ours(x, y, h, epsilon, dtype=F32, product=product), truth(x, y, h, epsilon, 2, 2), 2e-6)


def test_padding_far_away_costs_no_digits():
    x, y, h, _ = drawn(1, 17, 33, 3)
    y[:, 20:], h[:, 20:] = 1e6, -INF
    epsilon = torch.tensor([0.5], dtype=F64)
    found = ours(x, y, h, epsilon, dtype=F32, seen=(None, h > -INF))
    assert_close(found, truth(x, y[:, :20], h[:, :20], epsilon, 2, 2), 2e-6)
    assert not torch.allclose(ours(x, y, h, epsilon, dtype=F32).double(), truth(x, y, h, epsilon, 2, 2), rtol=1e-3)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_every_strength_of_the_entropy(dtype):
    x, y, h, _ = drawn(4, 17, 33, 2)
    epsilon = torch.tensor([1e-6, 1e-2, 1.0, 1e6], dtype=F64)
    found, exact = ours(x, y, h, epsilon, dtype=dtype).double(), truth(x, y, h, epsilon, 2, 2)
    assert ((found - exact).abs() <= (1e-12 if dtype == F64 else 1e-6) * exact.abs().clamp_min(1)).all()


def test_absent_points():
    x, y, h, _ = drawn(3, 17, 33, 2)
    h[0, ::2], h[1] = -INF, -INF
    epsilon = torch.full((3,), 0.5, dtype=F64)
    for dtype in (F32, F64):
        found = ours(x, y, h, epsilon, dtype=dtype)
        assert (found[1] == INF).all()
        assert_close(found[0], truth(x[:1], y[:1, 1::2], h[:1, 1::2], epsilon[:1], 2, 2)[0], 1e-6)


def launched(x, y, h, epsilon, shift, stretch=0.0, active=None):
    """Through the absorbed form, into poisoned memory."""
    laid = clouds.lay_out(x, y, dtype=F64)
    out = softmin.room(laid, len(h)).fill_(math.nan)
    active = torch.ones(len(h), dtype=torch.int32) if active is None else active
    softmin.launch(laid, h, epsilon, active, out, shift=(shift, torch.tensor([stretch], dtype=F64)))
    return softmin.finish(out, epsilon)


@pytest.mark.parametrize("error", [0.0, 10.0, 1e4, -1e4, INF, -INF, math.nan])
def test_any_expectation_gives_the_same_soft_minimum(error):
    x, y, h, _ = drawn(2, 17, 33, 2)
    h[:, ::3] = -INF
    epsilon = torch.tensor([0.5, 0.01], dtype=F64)
    exact = truth(x, y, h, epsilon, 2, 2)
    expected = exact.clone()
    expected[:, 1::2] += error
    assert_close(launched(x, y, h, epsilon, expected), exact)
    assert_close(launched(x, y, h, epsilon, expected / (1 + epsilon[:, None] * 3), 3.0), exact)


def test_problems_that_have_stopped_are_not_touched():
    x, y, h, s = drawn(3, 17, 33, 2)
    epsilon = torch.full((3,), 0.5, dtype=F64)
    found = launched(x, y, h, epsilon, s, active=torch.tensor([1, 0, 1], dtype=torch.int32))
    assert found[1].isnan().all()
    assert_close(found[::2], truth(x, y, h, epsilon, 2, 2)[::2])


def test_pieces_of_the_columns(monkeypatch):
    x, y, h, s = drawn(2, 3, 300, 2)
    h[:, :130] = -INF  # a whole piece is absent
    epsilon = torch.tensor([0.5, 1e-3], dtype=F64)
    monkeypatch.setattr(softmin, "PIECE", 64)
    assert softmin.pieces_of(clouds.lay_out(x, y, dtype=F64)) == (4, 96)
    assert_close(ours(x, y, h, epsilon), truth(x, y, h, epsilon, 2, 2))
    assert_close(launched(x, y, h, epsilon, s), truth(x, y, h, epsilon, 2, 2))


def test_one_cloud_for_all_problems_and_the_second_choice():
    x, y, h, _ = drawn(2, 17, 33, 2)
    epsilon = torch.tensor([0.5, 1.0], dtype=F64)
    assert_close(ours(x[0], y[0], h, epsilon), truth(x[0], y[0], h, epsilon, 2, 2))
    assert_close(ours(x[0], y, h, epsilon), truth(x[0], y, h, epsilon, 2, 2))
    laid = clouds.lay_out(x, y, dtype=F64)
    out, ones = softmin.room(laid, 2), torch.ones(2, dtype=torch.int32)
    weight = torch.randn(1, 33, dtype=F64)
    softmin.launch(laid, h, epsilon, ones, out, other=(2 * h, torch.tensor([0, 1], dtype=torch.int32)), weight=weight)
    chosen = torch.stack((h[0], 2 * h[1])) + epsilon[:, None] * weight
    assert_close(softmin.finish(out, epsilon), truth(x, y, chosen, epsilon, 2, 2))


def test_what_is_refused():
    x, y, *_ = drawn(1, 3, 3, 2)
    with pytest.raises(ValueError, match="only squared Euclidean costs in float32 are products"):
        clouds.lay_out(x, y, 1, 2, product="ieee")
    with pytest.raises(ValueError, match="too large"):
        clouds.lay_out(torch.empty(1, 1, 1).expand(1, 1 << 30, 1), y[..., :1])
    with pytest.raises(ValueError, match="gradients take differences"):
        plan.gradient(plan.Gibbs.of(clouds.lay_out(x, y, product="ieee"), x[..., 0], y[..., 0], torch.ones(1)))


@pytest.mark.parametrize(
    ("d", "units", "wanted"), [(16, 1e9, "direct"), (64, 1e4, "tf32x3"), (64, 8e4, "ieee"), (64, 1e6, "direct")]
)
def test_how_distances_are_found(d, units, wanted):
    x = torch.zeros(1, 1, d)
    assert clouds.affordable(x, 2, 2, F32, torch.tensor(units)) == wanted
    assert clouds.affordable(x, 2, 2, F64, torch.tensor(units)) == "direct"
    assert clouds.affordable(x, 1, 2, F32, torch.tensor(units)) == "direct"


# -- plans -------------------------------------------------------------------------------------------------------------


def dense(x, y, u, v, epsilon, p=2, norm=2):
    C = distance.all_pairs(x, y, p, norm)
    return ((u[..., None] + v[..., None, :] - C) / epsilon[:, None, None]).exp()


def gibbs(n=17, m=40, d=3, p=2, norm=2, seed=0):
    x, y, v, u = drawn(2, n, m, d, seed)
    u[0, ::4], v[:, 1::5] = -INF, -INF
    epsilon = torch.tensor([0.7, 3.0], dtype=F64)
    return x, y, u, v, epsilon, dense(x, y, u, v, epsilon, p, norm)


@pytest.mark.parametrize("d", [3, 17])
@pytest.mark.parametrize("split", [1 << 26, 1])
def test_marginals(d, split, monkeypatch):
    monkeypatch.setattr(plan, "SPLIT", split)
    x, y, u, v, epsilon, P = gibbs(n=40, d=d)
    for dtype, tol in ((F64, 1e-12), (F32, 3e-5)):
        found = plan.marginals(plan.Gibbs.of(clouds.lay_out(x, y, dtype=dtype), u, v, epsilon))
        assert_close(found[0], P.sum(-1), tol)
        assert_close(found[1], P.sum(-2), tol)


def test_marginals_in_pieces(monkeypatch):
    monkeypatch.setattr(softmin, "PIECE", 64)
    x, y, u, v, epsilon, P = gibbs(n=3, m=200)
    rows, cols = plan.marginals(plan.Gibbs.of(clouds.lay_out(x, y, dtype=F64), u, v, epsilon))
    assert_close(rows, P.sum(-1))
    assert_close(cols, P.sum(-2))


@pytest.mark.parametrize("k", [0, 1, 18])
def test_products(k):
    x, y, u, v, epsilon, P = gibbs()
    V, U = torch.randn(2, 40, k, dtype=F64), torch.randn(17, k, dtype=F64)
    for dtype, tol in ((F64, 1e-12), (F32, 3e-5)):
        laid = plan.Gibbs.of(clouds.lay_out(x, y, dtype=dtype), u, v, epsilon)
        assert_close(plan.product(laid, V), P @ V, tol)
        assert_close(plan.product(laid.T, U[None]), P.mT @ U, tol)


def by_autograd(x, y, p, norm, weights):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    difference = x[..., :, None, :] - y[..., None, :, :]
    if norm == 2:
        size, p = difference.square().sum(-1), p / 2
    else:
        size = difference.abs().sum(-1) if norm == 1 else difference.abs().amax(-1)
    C = torch.where(size > 0, torch.where(size > 0, size, 1).pow(p), 0)
    return torch.autograd.grad((weights * C).sum(), (x, y))


@pytest.mark.parametrize(("p", "norm", "d"), [*((p, norm, 3) for p, norm in COSTS), (2, 2, 1), (1, 2, 20)])
def test_gradients(p, norm, d):
    x, y, u, v, epsilon, _ = gibbs(5, 9, d, p, norm)
    y[:, 2] = x[:, 1]  # two points in one place
    P = dense(x, y, u, v, epsilon, p, norm)
    alpha, beta = torch.randn(2, 5, dtype=F64), torch.randn(2, 9, dtype=F64)
    kinds = ((F64, 1e-12, (alpha, beta)), (F64, 1e-12, ()), (F32, 2e-5, (alpha, beta)))
    for dtype, tol, scales in kinds if d == 3 else kinds[:1]:
        weights = alpha[..., None] * P * beta[..., None, :] if scales else P
        laid = plan.Gibbs.of(clouds.lay_out(x, y, p, norm, dtype=dtype, product="direct"), u, v, epsilon)
        found = plan.gradient(laid, *scales)
        for one, other in zip(found, by_autograd(x, y, p, norm, weights), strict=True):
            assert_close(one, other, tol * float(other.abs().max().clamp_min(1)))


def test_coordinates_that_share_the_maximum_share_the_slope():
    x, y = torch.zeros(1, 1, 2, dtype=F64), torch.tensor([[[1.0, -1.0]]], dtype=F64)
    zero = torch.zeros(1, 1, dtype=F64)
    laid = clouds.lay_out(x, y, 1, INF, dtype=F64)
    found, _ = plan.gradient(plan.Gibbs.of(laid, zero + 1, zero, torch.ones(1)))
    assert_close(found, torch.tensor([[[-0.5, 0.5]]], dtype=F64))


def test_the_same_bits_every_time():
    x, y, u, v, epsilon, _ = gibbs()
    laid = plan.Gibbs.of(clouds.lay_out(x, y), u, v, epsilon)
    for compute in (plan.marginals, plan.gradient):
        once, twice = (compute(laid) for _ in "ab")
        assert all(torch.equal(s, t) for s, t in zip(once, twice, strict=True))


# -- the operator ------------------------------------------------------------------------------------------------------


def test_the_operator():
    x, y, h, _ = drawn(2, 5, 7, 3)
    h[:, 2] = -INF
    assert triton.reaches(h)
    for arguments in ((x, y), (x[0], y[0]), (x.float(), y.float()), (x[0], y)):
        found = point_softmin.point_softmin(*arguments, h, 0.5)
        assert_close(found, truth(*arguments, h, torch.full((2,), 0.5), 2, 2))
    epsilon = torch.tensor([0.5, 2.0], dtype=F64)
    assert_close(
        point_softmin.point_softmin(x[:, None], y, h, epsilon)[1, 0], truth(x[1], y[0], h[0], epsilon[0], 2, 2)
    )
    torch.library.opcheck(torch.ops.barrow.point_softmin.default, (x, y, h, epsilon, 2.0, 2.0))


def test_the_operator_in_a_compiled_function():
    x, y, h, _ = drawn(2, 5, 7, 3)
    whole = torch.compile(
        lambda x, y, h: point_softmin.point_softmin(x, y, h, 0.5) * 2, fullgraph=True, backend="eager"
    )
    assert_close(whole(x, y, h), 2 * truth(x, y, h, torch.full((2,), 0.5), 2, 2))


def test_the_operator_under_vmap():
    x, y, h, _ = drawn(3, 5, 7, 2)
    epsilon = torch.full((3,), 0.5)
    mapped = torch.vmap(lambda x, h: point_softmin.point_softmin(x, y[0], h, 0.5))(x, h)
    assert_close(mapped, truth(x, y[0], h, epsilon, 2, 2))


def test_it_says_that_it_has_no_gradient():
    x, y, h, _ = drawn(1, 3, 3, 2)
    value = point_softmin.point_softmin(x.requires_grad_(), y, h, 0.5).sum()
    with pytest.raises(RuntimeError, match="point_softmin has no gradient"):
        value.backward()
