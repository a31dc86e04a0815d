"""Sorting and walking along a line: known answers, every kind of number, and the C++ core against plain torch."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from barrow.ops import line
from barrow.ops.line import line_cost, line_cost_reference, line_plan, line_plan_reference

F32, F64 = torch.float32, torch.float64
ALL = (True, True, True, True)
POSITIONS = (True, True, False, False)
both = pytest.mark.parametrize("cost", [line_cost, line_cost_reference], ids=["core", "torch"])
both_plans = pytest.mark.parametrize("plan", [line_plan, line_plan_reference], ids=["core", "torch"])


def corner_rule(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> dict[tuple[int, int], Fraction]:
    """The monotone coupling by the textbook's loop, in exact arithmetic."""
    rows, cols = x.argsort(stable=True).tolist(), y.argsort(stable=True).tolist()
    left, right = [Fraction(w) for w in a.tolist()], [Fraction(w) for w in b.tolist()]
    scale = sum(left) / sum(right)
    right = [w * scale for w in right]
    plan: dict[tuple[int, int], Fraction] = {}
    while rows and cols:
        i, j = rows[0], cols[0]
        moved = min(left[i], right[j])
        plan[i, j] = plan.get((i, j), Fraction(0)) + moved
        left[i], right[j] = left[i] - moved, right[j] - moved
        if left[i] == 0:
            rows.pop(0)
        else:
            cols.pop(0)
    return plan


def uniform(n: int, batch: tuple[int, ...] = (), dtype: torch.dtype = F64) -> Tensor:
    return torch.full((*batch, n), 1 / n, dtype=dtype)


def assert_tight(x, y, a, b, f, g, p, value, rtol):
    """Feasible potentials that reach the value, each side carrying half of it."""
    x, y, a, b, f, g = (t.double() for t in (x, y, a, b, f, g))
    C = (x[:, None] - y).abs() ** p
    scale = float(C.max()) + float(f.abs().max()) + 1e-300
    assert (f[:, None] + g - C).max() <= rtol * scale
    mass = float(a.sum())
    assert float((a * f).sum()) == pytest.approx(value / 2, rel=rtol, abs=rtol * scale * mass)
    assert float((b * g).sum()) == pytest.approx(value / 2, rel=rtol, abs=rtol * scale * mass)


# -- known answers -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", [F32, F64])
def test_by_hand(cost, dtype):
    u, v = torch.tensor([3.0, 0.0], dtype=dtype), torch.tensor([1.0, 7.0], dtype=dtype)
    found = cost(u, v, None, None, 2.0, POSITIONS)  # 0 goes to 1, 3 goes to 7
    assert found.cost == (1 + 16) / 2
    assert found.u.tolist() == [-4, -1]
    assert found.v.tolist() == [1, 4]
    assert found.a is found.b is None
    found = cost(u, v, torch.tensor([0.25, 0.75], dtype=dtype), torch.tensor([0.5, 0.5], dtype=dtype), 1.0, ALL)
    assert found.cost == 0.5 * 1 + 0.25 * 7 + 0.25 * 4  # 0 to 1, 0 to 7, 3 to 7
    assert found.u.tolist() == [-0.25, -0.75]
    assert found.v.tolist() == [0.5, 0.5]
    # Tight on the path: f_0 + g_1 = 1, f_0 + g_7 = 7, f_3 + g_7 = 4.
    f, g = found.a, found.b
    assert [float(f[1] + g[0]), float(f[1] + g[1]), float(f[0] + g[1])] == [1, 7, 4]
    assert float(0.25 * f[0] + 0.75 * f[1]) == float(g.mean()) == found.cost / 2


@both
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_translations_and_single_atoms(cost, p):
    u = torch.randn(3, 50, dtype=F64)
    found = cost(u, u[:, torch.randperm(50)] + 2, None, None, p, POSITIONS)
    assert torch.allclose(found.cost, torch.full((3,), 2**p, dtype=F64), rtol=1e-12)
    assert torch.allclose(found.u, torch.full((3, 50), -p * 2 ** (p - 1) / 50, dtype=F64), rtol=1e-12)
    found = cost(torch.tensor([3.0], dtype=F64), u[0], None, None, p, ALL)
    assert torch.allclose(found.cost, ((3 - u[0]).abs() ** p).mean(), rtol=1e-12)


@both
def test_nothing_is_pulled_at_ties(cost):
    u = torch.tensor([1.0, 0.0, 1.0, -0.0], dtype=F64)
    v = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64)
    for p in (1.0, 1.2, 2.0):
        found = cost(u, v, uniform(4), uniform(4), p, ALL)
        assert found.cost == 0
        assert (found.u == 0).all()
        assert (found.v == 0).all()
        assert found.a.isfinite().all()


# -- against plain torch, and against the exact rule -------------------------------------------------------------------


@st.composite
def pairs(draw):
    """u (..., n), v (..., m), a, b: ties, atoms without mass, sides without weights, batches that broadcast."""
    r = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    if draw(st.booleans()):
        m = n
    batches = draw(st.sampled_from([((), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2,)), ((0,), ()), ((1,), (1, 1))]))
    dtype = draw(st.sampled_from([F32, F64]))
    u, v = (torch.randn(*s, k, generator=r, dtype=dtype) for s, k in zip(batches, (n, m), strict=True))
    if draw(st.booleans()):
        u, v = (2 * u).round(), (2 * v).round()

    def weights(k, batch):
        kind = draw(st.sampled_from(["none", "random", "grains"]))
        if kind == "none":
            return None
        w = torch.rand(*batch, k, generator=r, dtype=dtype)
        if kind == "grains":
            w = (3 * w).floor()
            w[..., 0] += 1
        return w / w.sum(-1, keepdim=True)

    a, b = weights(n, draw(st.sampled_from(batches))), weights(m, draw(st.sampled_from(batches)))
    return u, v, a, b, draw(st.sampled_from([1.0, 1.5, 2.0, 3.0]))


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_the_core_agrees_with_torch(problem):
    u, v, a, b, p = problem
    one, two = line_cost(u, v, a, b, p, ALL), line_cost_reference(u, v, a, b, p, ALL)
    eps = 1e-6 if u.dtype == F32 else 1e-12
    for ours, theirs in zip(one[:3], two[:3], strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=eps, atol=eps)
    assert [t.shape for t in one] == [t.shape for t in two]
    batch = one.cost.shape
    a, b = (uniform(t.shape[-1], (), t.dtype) if w is None else w for w, t in ((a, u), (b, v)))
    u, v, a, b = (t.expand(*batch, t.shape[-1]).reshape(batch.numel(), t.shape[-1]) for t in (u, v, a, b))
    for found in (one, two):
        f, g, value = found.a.view(u.shape), found.b.view(v.shape), found.cost.flatten()
        for k in range(len(u)):
            assert_tight(u[k], v[k], a[k], b[k], f[k], g[k], p, float(value[k]), 30 * eps)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_only_what_is_wanted_is_returned_and_it_is_the_same(problem):
    u, v, a, b, p = problem
    whole = line_cost(u, v, a, b, p, ALL)
    for wants in ((False,) * 4, (True, False, False, False), (False, True, False, True), POSITIONS):
        part = line_cost(u, v, a, b, p, wants)
        assert torch.allclose(part.cost, whole.cost, rtol=1e-13)
        for ours, theirs, wanted in zip(part[1:], whole[1:], wants, strict=True):
            assert (ours is not None) == wanted
            assert ours is None or torch.allclose(ours, theirs, rtol=1e-5 if u.dtype == F32 else 1e-12, atol=1e-15)


@both_plans
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([1.0, 1.5, 2.0]), st.booleans())
def test_the_plan_is_the_corner_rule(plan, n, m, seed, p, ties):
    r = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, generator=r, dtype=F64), torch.randn(2, m, generator=r, dtype=F64)
    a, b = torch.rand(2, n, generator=r, dtype=F64), torch.rand(2, m, generator=r, dtype=F64)
    if ties:
        x, y, a, b = x.round(), y.round(), (3 * a).floor(), (3 * b).floor()
        a[:, 0] += 1
        b[:, -1] += 1
    b = b * (a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True))
    found = plan(x, y, a, b, p)
    for k in range(2):
        rows, cols, mass = (t[k] for t in found[:3])
        assert (mass >= 0).all()
        assert all((i == j) != (s == t) for (i, s), (j, t) in pairwise(zip(rows.tolist(), cols.tolist(), strict=True)))
        dense = torch.zeros(n, m, dtype=F64).index_put((rows, cols), mass, accumulate=True)
        expected = torch.zeros(n, m, dtype=F64)
        for (i, j), moved in corner_rule(x[k], y[k], a[k], b[k]).items():
            expected[i, j] = float(moved)
        assert torch.allclose(dense, expected, atol=1e-14 * float(a[k].sum()))
        C = (x[k][:, None] - y[k]).abs() ** p
        slack = C - found.f[k][:, None] - found.g[k]
        assert slack[rows, cols].abs().max() <= 1e-12
        assert slack.min() >= -1e-12
        assert found.f[k][x[k].argsort(stable=True)[0]] == 0


def test_plans_share_positions_and_threads():
    x, y, a = torch.randn(30, dtype=F64), torch.randn(5, 20, dtype=F64), torch.rand(5, 30, dtype=F64)
    b = torch.rand(5, 20, dtype=F64)
    b = b * (a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True))
    together = line_plan(x, y, a, b, 2.0)
    for k in range(5):
        alone = line_plan(x, y[k], a[k : k + 1], b[k : k + 1], 2.0)
        assert all(torch.equal(one[k], two[0]) for one, two in zip(together, alone, strict=True))


# -- every kind of number ----------------------------------------------------------------------------------------------


def signed_zeros(n, r, dtype):
    x = torch.randint(-1, 2, (n,), generator=r).to(dtype)
    return torch.where(torch.rand(n, generator=r) < 0.5, x * 0.0, -x * 0.0) + x * (torch.rand(n, generator=r) < 0.2)


def normal(n, r, dtype):
    return torch.randn(n, generator=r, dtype=dtype)


def outlier(n, r, dtype):
    x = normal(n, r, dtype)
    x[n // 2] = 1e30
    return x


NUMBERS = {
    "normal": normal,
    "cauchy": lambda n, r, t: normal(n, r, t) / normal(n, r, t),
    "spread over orders of magnitude": lambda n, r, t: (10 * normal(n, r, t)).exp() * normal(n, r, t).sign(),
    "few values": lambda n, r, t: (3 * normal(n, r, t)).round(),
    "all alike": lambda n, r, t: torch.full((n,), 7.0, dtype=t),
    "two far clusters": lambda n, r, t: 1e-3 * normal(n, r, t) + 1e6 * torch.randint(2, (n,), generator=r),
    "outlier": outlier,
    "close together": lambda n, r, t: 1 + torch.finfo(t).eps * torch.randint(5, (n,), generator=r).to(t),
    "huge": lambda n, r, t: normal(n, r, t).sign() * torch.rand(n, generator=r, dtype=t) * torch.finfo(t).max,
    "denormal": lambda n, r, t: torch.randint(-9, 9, (n,), generator=r).to(t) * torch.finfo(t).smallest_normal / 64,
    "signed zeros": signed_zeros,
    "sorted": lambda n, r, t: normal(n, r, t).sort().values,
    "reversed": lambda n, r, t: normal(n, r, t).sort(descending=True).values,
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("n", [1, 2, 24, 25, 100, 4096, 4097, 70_000])
@pytest.mark.parametrize("kind", NUMBERS)
def test_ranks_of_all_kinds_of_numbers(kind, n, dtype):
    r = torch.Generator().manual_seed(n)
    x = NUMBERS[kind](n, r, dtype)
    order = x.sort(stable=True).indices
    # Steep weights on the other side tell the rank of every atom: ties must keep their order.
    b = torch.arange(1, n + 1, dtype=dtype)
    found = line_plan(x.double(), torch.zeros(1, dtype=F64), uniform(n, (1,)), torch.ones(1, 1, dtype=F64), 1.0)
    if dtype == F64:
        assert torch.equal(found.rows[0], order)
    # In float32 the core sorts by itself; with one atom a rank, the pull to u tells to which one it goes.
    v = b.flip(0) * 0 + torch.arange(n, dtype=dtype)
    d = x.sort(stable=True).values.double() - v.double()
    found = line_cost(x, v, None, None, 2.0, POSITIONS)
    expected = torch.empty(n, dtype=F64).scatter_(0, order, 2 * d / n).to(dtype)
    assert torch.allclose(found.u, expected, rtol=1e-6 if dtype == F32 else 1e-14, atol=0)
    assert torch.allclose(found.cost, d.square().mean(), rtol=1e-12)
    assert torch.equal(found.cost, line_cost(x, v, None, None, 2.0, (False,) * 4).cost)


@both
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("n", [5, 300, 10_000])
def test_what_is_not_finite_is_told_of_its_problem_only(cost, bad, n):
    for side in range(2):
        given = [torch.randn(3, n, dtype=F64), torch.randn(3, n, dtype=F64)]
        given[side][1, n // 2] = bad
        for a in (None, uniform(n)):
            found = cost(*given, a, None, 1.0, ALL)
            assert found.cost.isnan().tolist() == [False, True, False]
            for t in found[1:]:
                assert t.isnan().all(-1).tolist() == t.isnan().any(-1).tolist() == [False, True, False]
        assert cost(*given, None, None, 1.0, POSITIONS).u.isnan().all(-1).tolist() == [False, True, False]


def test_what_is_not_finite_has_no_plan():
    x = torch.tensor([0.0, torch.nan], dtype=F64)
    with pytest.raises(ValueError, match="positions must be finite"):
        line_plan(x, x, uniform(2, (1,)), uniform(2, (1,)), 1.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0, 0.0, 1e300, 5e-324])
@pytest.mark.parametrize("every", [1, 2])
def test_garbage_in_weights_is_survived(bad, every):
    x, w = torch.randn(2, 30, dtype=F64), torch.rand(2, 30, dtype=F64)
    spoiled = w.clone()
    spoiled[:, ::every] = bad
    for a, b in ((w, spoiled), (spoiled, w), (spoiled, spoiled)):
        found = line_plan(x, x, a, b, 2.0)
        assert found.rows.max() < 30
        assert found.cols.max() < 30
        line_cost(x, x, a, b, 2.0, ALL)


def test_tiny_and_large_masses():
    x, a = torch.randn(2, 30, dtype=F64), torch.rand(30, dtype=F64)
    expected = line_cost(x[0], x[1], a, a, 2.0, ALL)
    for scale in (1e-300, 1e-12, 1e12, 1e250):
        found = line_cost(x[0], x[1], scale * a, scale * a, 2.0, ALL)
        assert torch.allclose(found.cost / scale, expected.cost, rtol=1e-12)
        assert torch.allclose(found.u / scale, expected.u, rtol=1e-12)
        assert torch.allclose(found.a, expected.a, rtol=1e-12)


def test_long_sums_are_accurate():
    n = 300_000
    u = torch.full((n,), 0.1, dtype=F64)
    v = torch.zeros(n, dtype=F64)
    expected = float(u[0]) ** 2
    assert float(line_cost(u, v, None, None, 2.0, ALL).cost) == pytest.approx(expected, rel=1e-13)
    assert float(line_cost(u, v, uniform(n), uniform(n), 2.0, ALL).cost) == pytest.approx(expected, rel=1e-13)


# -- batches and threads -----------------------------------------------------------------------------------------------


def test_batches_are_loops_on_any_number_of_threads():
    u, v, a = torch.randn(7, 1, 40, dtype=F64), torch.randn(5, 30, dtype=F64), torch.rand(7, 1, 40, dtype=F64)
    a = a / a.sum(-1, keepdim=True)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            for weights in (None, a):
                together = line_cost(u, v, weights, None, 2.0, ALL)
                assert together.cost.shape == (7, 5)
                for i in range(7):
                    for j in range(5):
                        alone = line_cost(u[i, 0], v[j], None if weights is None else a[i, 0], None, 2.0, ALL)
                        assert all(torch.equal(one[i, j], two) for one, two in zip(together, alone, strict=True))
            same = line_cost(u[:, 0], v[:1].expand(7, 30), None, None, 2.0, ALL)
            assert torch.equal(same.cost, line_cost(u, v, None, None, 2.0, ALL).cost[:, 0])
    finally:
        torch.set_num_threads(before)


def test_inputs_of_any_memory_layout():
    u, v = torch.randn(40, 6, dtype=F64).mT, torch.randn(6, 80, dtype=F64)[:, ::2]
    one, two = line_cost(u, v, None, None, 2.0, ALL), line_cost(u.contiguous(), v.contiguous(), None, None, 2.0, ALL)
    assert all(torch.equal(s, t) for s, t in zip(one, two, strict=True))


def test_what_the_core_refuses():
    from barrow import _core

    t, index = torch.zeros(2, 3, dtype=F64), torch.zeros(4, 2, dtype=torch.int64)
    none, cost = torch.zeros(0, 3, dtype=F64), torch.zeros(2, dtype=F64)
    outputs = [none] * 4
    _core.line_cost(t, t, none, none, index, 1.0, 1, cost, *outputs)
    with pytest.raises(ValueError, match="a row that does not exist"):
        _core.line_cost(t, t, none, none, index + 2, 1.0, 1, cost, *outputs)
    with pytest.raises(ValueError, match=r"the shape \(4, pairs\)"):
        _core.line_cost(t, t, none, none, index[:3], 1.0, 1, cost, *outputs)
    with pytest.raises(ValueError, match="one entry for every atom"):
        _core.line_cost(t, t, t[:, :2].contiguous(), none, index, 1.0, 1, cost, *outputs)
    with pytest.raises(ValueError, match="cost needs the shape"):
        _core.line_cost(t, t, none, none, index, 1.0, 1, cost[:1], *outputs)
    with pytest.raises(ValueError, match="an output needs the shape"):
        _core.line_cost(t, t, none, none, index, 1.0, 1, cost, t[:1], *outputs[1:])
    with pytest.raises(ValueError, match="at least one atom"):
        _core.line_cost(t[:, :0], t, none[:, :0], none, index, 1.0, 1, cost, *outputs)


# -- the operators -----------------------------------------------------------------------------------------------------


def test_operator_registration():
    u, v, a = torch.randn(3, 1, 6, dtype=F64), torch.randn(2, 5, dtype=F64), uniform(6)
    for wants in ([True] * 4, [False] * 4, [True, False, False, True]):
        torch.library.opcheck(torch.ops.barrow.line_cost.default, (u, v, a, None, 2.0, wants))
    torch.library.opcheck(torch.ops.barrow.line_plan.default, (u[0, 0], v, uniform(6, (2,)), uniform(5, (2,)), 2.0))


def test_it_compiles_without_a_break():
    u, v = torch.randn(3, 6, dtype=F64), torch.randn(3, 5, dtype=F64)
    compiled = torch.compile(lambda u, v: line_cost(u, v, None, None, 2.0, ALL), fullgraph=True, backend="aot_eager")
    for one, two in zip(compiled(u, v), line_cost(u, v, None, None, 2.0, ALL), strict=True):
        assert torch.equal(one, two)
    compiled = torch.compile(
        lambda u, v: line_plan(u, v, uniform(6, (3,)), uniform(5, (3,)), 2.0), fullgraph=True, backend="aot_eager"
    )
    expected = line_plan(u, v, uniform(6, (3,)), uniform(5, (3,)), 2.0)
    assert all(torch.equal(one, two) for one, two in zip(compiled(u, v), expected, strict=True))


def test_other_devices_take_the_torch_path(monkeypatch):
    called = []
    monkeypatch.setattr(line, "_native", lambda u, v: False)
    for name in ("line_cost_reference", "line_plan_reference"):
        original = getattr(line, name)
        monkeypatch.setattr(line, name, lambda *args, original=original: called.append(1) or original(*args))
    u = torch.randn(4, dtype=F64)
    line_cost(u, u, None, None, 1.0, ALL)
    line_plan(u, u, uniform(4, (1,)), uniform(4, (1,)), 1.0)
    assert called == [1, 1]
