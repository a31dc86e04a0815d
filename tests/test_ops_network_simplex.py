import itertools
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from barrow import _core
from barrow.ops.network_simplex import (
    INFEASIBLE,
    OPTIMAL,
    STEP_LIMIT,
    SimplexResult,
    network_simplex,
    network_simplex_arcs,
)

EPS = torch.finfo(torch.float64).eps


def linprog_value(a: Tensor, b: Tensor, C: Tensor) -> float | None:
    n, m = C.shape
    A = np.zeros((n + m, n * m))
    for i, j in itertools.product(range(n), range(m)):
        A[i, i * m + j] = A[n + j, i * m + j] = 1
    bounds = [(0, 0 if c == np.inf else None) for c in C.flatten().tolist()]
    C = C.masked_fill(C.isinf(), 0)
    # HiGHS drops tiny numbers, so costs are brought to scale one; one marginal follows from the others, up to rounding.
    scale = max(C.abs().max().item(), 1e-300)
    A, marginals = (np.delete(t, n + b.argmax().item(), axis=0) for t in (A, torch.cat((a, b)).numpy()))
    found = linprog(C.flatten().numpy() / scale, A_eq=A, b_eq=marginals, bounds=bounds)
    return None if found.status == 2 else found.fun * scale


def check_optimal(a: Tensor, b: Tensor, C: Tensor, result: SimplexResult) -> float:
    """Everything that a result promises, for one problem; returns the value."""
    rows, cols, mass, f, g, code, _ = result
    n, m = C.shape
    assert code == OPTIMAL
    assert rows.shape == cols.shape == mass.shape == (n + m - 1,)
    plan = torch.zeros_like(C).index_put((rows, cols), mass, accumulate=True)
    total = a.sum()
    assert (mass >= 0).all()
    assert (plan.sum(1) - a).abs().max() <= 1e-12 * total
    assert (plan.sum(0) - b).abs().max() <= 1e-12 * total
    used = mass > 0
    cost = C[rows, cols]
    finite = C[C.isfinite()]
    # Potentials are sums of up to n + m costs of either sign.
    scale = max(f.abs().max(), g.abs().max(), finite.abs().max() if finite.numel() else 0.0, 1e-300)
    assert f.isfinite().all()
    assert g.isfinite().all()
    assert (f[:, None] + g - C).max() <= 64 * EPS * scale
    assert ((f[rows] + g[cols] - cost)[used].abs() <= 64 * EPS * scale).all()
    value = (cost[used] * mass[used]).sum()
    assert ((a * f).sum() + (b * g).sum() - value).abs() <= 256 * EPS * scale * total
    # A basis is a forest: as a graph on rows and columns it has as many arcs as nodes that it ties together, less one.
    distinct = {(i, n + j) for i, j, x in zip(rows.tolist(), cols.tolist(), mass.tolist(), strict=True) if x > 0}
    root = list(range(n + m))

    def find(x: int) -> int:
        while root[x] != x:
            x = root[x]
        return x

    for i, j in distinct:
        assert find(i) != find(j)
        root[find(i)] = find(j)
    return value.item()


def solve_one(a: Tensor, b: Tensor, C: Tensor, **options: int) -> SimplexResult:
    return SimplexResult(*(t[0] for t in network_simplex(a[None], b[None], C[None], **options)))


def drawn(n: int, m: int, weights: str, costs: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    r = np.random.default_rng(seed)

    def histogram(k: int) -> np.ndarray:
        if weights == "uniform":
            return np.full(k, 1 / k)
        if weights == "peaked":
            return r.dirichlet(np.full(k, 0.1))
        if weights == "integers":
            w = r.integers(0, 4, k).astype(float)
            w[r.integers(k)] += 1
            return w / w.sum()
        w = np.zeros(k)
        w[r.integers(k)] = 1
        return w

    a, b = histogram(n), histogram(m)
    b *= a.sum() / b.sum()
    if costs == "zero":
        C = np.zeros((n, m))
    elif costs == "integers":
        C = r.integers(-2, 3, (n, m)).astype(float)
    elif costs == "wide":
        C = 10.0 ** r.uniform(-12, 12, (n, m))
    elif costs == "shifted":
        C = r.normal(size=(n, m)) + 1e6
    else:
        x, y = r.integers(0, 3, (n, 2)), r.integers(0, 3, (m, 2))
        C = ((x[:, None] - y[None]) ** 2).sum(-1).astype(float) if costs == "grid" else r.normal(size=(n, m))
    return torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(C)


nasty = st.builds(
    drawn,
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["uniform", "peaked", "integers", "dirac"]),
    st.sampled_from(["zero", "integers", "wide", "shifted", "grid", "normal"]),
    st.integers(0, 2**31),
)


@settings(max_examples=300, deadline=None)
@given(nasty)
def test_agrees_with_linear_programming(problem):
    a, b, C = problem
    value = check_optimal(a, b, C, solve_one(a, b, C))
    scale = C.abs().max().item()
    assert value == pytest.approx(linprog_value(a, b, C), rel=1e-7, abs=1e-7 * scale)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.sampled_from(["integers", "normal", "grid", "zero"]), st.integers(0, 2**31))
def test_agrees_with_the_assignment_problem(n, costs, seed):
    a, b, C = drawn(n, n, "uniform", costs, seed)
    rows, cols = linear_sum_assignment(C.numpy())
    assert check_optimal(a, b, C, solve_one(a, b, C)) == pytest.approx(C[rows, cols].mean().item(), abs=1e-12)


@pytest.mark.parametrize("costs", ["normal", "grid", "wide", "shifted", "integers"])
@pytest.mark.parametrize("weights", ["uniform", "peaked", "integers"])
@pytest.mark.parametrize(("n", "m"), [(150, 150), (3, 400), (400, 3), (97, 130)])
def test_larger_problems_certify_themselves(n, m, weights, costs):
    a, b, C = drawn(n, m, weights, costs, 0)
    check_optimal(a, b, C, solve_one(a, b, C))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_scale_of_costs_and_weights(scale):
    a, b, C = drawn(20, 30, "peaked", "normal", 1)
    value = check_optimal(a, b, C, solve_one(a, b, C))
    assert check_optimal(scale * a, scale * b, C / scale, solve_one(scale * a, scale * b, C / scale)) == pytest.approx(
        value
    )


def test_a_permutation_is_found():
    n = 60
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    C = torch.ones(n, n, dtype=torch.float64)
    C[torch.arange(n), order] = 0
    w = torch.full((n,), 1 / n, dtype=torch.float64)
    result = solve_one(w, w, C)
    check_optimal(w, w, C, result)
    used = result.mass > 0
    assert torch.equal(order[result.rows[used]], result.cols[used])


def test_tiny_weights_are_not_lost():
    a = torch.tensor([1.0, 1e-15, 0.0], dtype=torch.float64)
    C = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = solve_one(a, a.flip(0), C)
    moved = torch.zeros(3, dtype=torch.float64).index_add(0, result.rows, result.mass)
    assert torch.allclose(moved, a, rtol=1e-2, atol=0)


def test_potentials_where_there_is_no_weight():
    a, b, C = drawn(9, 11, "uniform", "normal", 3)
    a[[0, 4]] = 0
    b[[10, 3]] = 0
    a, b = a / a.sum(), b / b.sum()
    result = solve_one(a, b, C)
    check_optimal(a, b, C, result)
    slack = C - result.f[:, None] - result.g
    assert slack[0].min().abs() < 1e-14
    assert slack[:, 10].min().abs() < 1e-14


def test_no_weight_at_all_and_empty_batches():
    zero, C = torch.zeros(3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    assert check_optimal(zero, zero, C, solve_one(zero, zero, C)) == 0
    empty = network_simplex(torch.empty(0, 3).double(), torch.empty(0, 4).double(), torch.empty(0, 3, 4).double())
    assert empty.rows.shape == (0, 6)
    assert empty.code.shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -1.0, 1e308])
@pytest.mark.parametrize("where", ["a", "b", "C"])
def test_garbage_is_survived(bad, where):
    a, b, C = drawn(12, 12, "uniform", "normal", 0)
    for index in (0, slice(None)):
        t = {"a": a, "b": b, "C": C}
        t[where] = t[where].clone()
        t[where][index] = bad
        result = solve_one(t["a"], t["b"], t["C"], max_steps=10_000)
        assert (result.rows < 12).all()
        assert (result.cols < 12).all()


@settings(max_examples=100, deadline=None)
@given(nasty, st.integers(0, 30))
def test_an_early_stop_still_gives_a_plan(problem, limit):
    a, b, C = problem
    result = solve_one(a, b, C, max_steps=limit)
    assert result.steps <= limit
    assert result.code in (OPTIMAL, STEP_LIMIT)
    plan = torch.zeros_like(C).index_put((result.rows, result.cols), result.mass, accumulate=True)
    assert (plan.sum(1) - a).abs().max() <= 1e-12
    assert (plan.sum(0) - b).abs().max() <= 1e-12
    value = (plan * C).sum().item()
    assert value >= linprog_value(a, b, C) - 1e-7 * C.abs().max().item()


def test_the_step_limit_is_reported():
    a, b, C = drawn(40, 40, "peaked", "normal", 0)
    steps = solve_one(a, b, C).steps.item()
    assert solve_one(a, b, C, max_steps=steps - 1).code == STEP_LIMIT
    assert solve_one(a, b, C, max_steps=steps).code == OPTIMAL


@settings(max_examples=200, deadline=None)
@given(nasty, st.floats(0, 0.9))
def test_forbidden_pairs(problem, share):
    a, b, C = problem
    # The oracle is blind to masses below 1e-7.
    a, b = (t.add(0.01).mul(t > 0) for t in (a, b))
    a, b = a / a.sum(), b / b.sum()
    forbidden = torch.rand(C.shape, generator=torch.Generator().manual_seed(0)) < share
    C = C.masked_fill(forbidden, torch.inf)
    expected = linprog_value(a, b, C)
    result = solve_one(a, b, C)
    sparse = network_simplex_arcs(a, b, *torch.where(~forbidden), C[~forbidden])
    if expected is None:
        assert result.code == sparse.code == INFEASIBLE
    else:
        assert check_optimal(a, b, C, result) == pytest.approx(check_optimal(a, b, C, sparse), rel=1e-9)


def test_blocks_that_agree_up_to_rounding():
    # In binary 0.1 + 0.2 is not 0.3, but nobody would call this problem infeasible.
    C = torch.full((3, 2), torch.inf, dtype=torch.float64)
    C[:2, 0] = C[2, 1] = 1
    a, b = (torch.tensor(w, dtype=torch.float64) for w in ([0.1, 0.2, 0.7], [0.3, 0.7]))
    assert check_optimal(a, b, C, solve_one(a, b, C)) == pytest.approx(1)
    a[0] += 1e-9
    assert solve_one(a / a.sum(), b, C).code == INFEASIBLE


def test_blocks_that_do_not_touch():
    C = torch.full((6, 6), torch.inf, dtype=torch.float64)
    C[:3, :3] = C[3:, 3:] = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = torch.full((6,), 1 / 6, dtype=torch.float64)
    check_optimal(w, w, C, solve_one(w, w, C))
    assert solve_one(torch.tensor([1.0, 0, 0, 0, 0, 0]).double(), w, C).code == INFEASIBLE


def test_sparse_arcs_on_the_full_set_are_dense():
    for weights, costs in itertools.product(["uniform", "peaked", "integers"], ["normal", "grid"]):
        a, b, C = drawn(30, 23, weights, costs, 5)
        order = torch.randperm(C.numel(), generator=torch.Generator().manual_seed(0))
        rows, cols = order // 23, order % 23
        sparse = network_simplex_arcs(a, b, rows, cols, C[rows, cols])
        assert check_optimal(a, b, C, sparse) == pytest.approx(check_optimal(a, b, C, solve_one(a, b, C)), abs=1e-13)


def test_arcs_that_do_not_exist_are_refused():
    w = torch.ones(2, dtype=torch.float64)
    for row in (-1, 2):
        with pytest.raises(ValueError, match="row or column"):
            network_simplex_arcs(w, w, torch.tensor([row]), torch.tensor([0]), torch.ones(1, dtype=torch.float64))
    assert network_simplex_arcs(w, w, *torch.empty(2, 0, dtype=torch.int64), w[:0]).code == INFEASIBLE


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_is_a_loop(threads):
    problems = [drawn(20, 25, w, c, 7) for w in ("uniform", "peaked", "dirac") for c in ("normal", "grid", "zero")]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = network_simplex(*(torch.stack(t) for t in zip(*problems, strict=True)))
    finally:
        torch.set_num_threads(before)
    for k, problem in enumerate(problems):
        for one, of_many in zip(solve_one(*problem), batch, strict=True):
            assert torch.equal(one, of_many[k])


def test_a_shared_cost_is_not_copied():
    a, b, C = drawn(8, 8, "peaked", "normal", 0)
    a, b = torch.stack((a, a.flip(0))), torch.stack((b, b))
    shared, copied = network_simplex(a, b, C.expand(2, 8, 8)), network_simplex(a, b, C.repeat(2, 1, 1))
    assert all(map(torch.equal, shared, copied))


def test_the_gil_is_released_and_ctrl_c_works():
    a, b, C = drawn(1500, 1500, "peaked", "normal", 0)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt():
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    start = time.perf_counter()
    helper.start()
    # Several seconds of work: were the lock held, the helper would come too late; were signals not asked for, Python
    # would only hear of this one afterwards.
    with pytest.raises(KeyboardInterrupt):
        network_simplex(*(t.expand(300, *t.shape) for t in (a, b, C)))
    helper.join()
    assert time.perf_counter() - start < 2


def test_operator_registration():
    a, b, C = (t[None] for t in drawn(5, 4, "uniform", "normal", 0))
    torch.library.opcheck(torch.ops.barrow.network_simplex.default, (a, b, C, -1))
    rows, cols = torch.where(C[0] > -10)
    torch.library.opcheck(torch.ops.barrow.network_simplex_arcs.default, (a[0], b[0], rows, cols, C[0].flatten(), -1))


def test_vmap():
    problems = [drawn(6, 5, "peaked", "normal", seed) for seed in range(6)]
    a, b, C = (torch.stack(t).unflatten(0, (2, 3)) for t in zip(*problems, strict=True))
    mapped = torch.vmap(network_simplex, in_dims=(0, 0, 1))(a, b, C.transpose(0, 1))
    for k in range(2):
        assert all(map(torch.equal, network_simplex(a[k], b[k], C[k]), (t[k] for t in mapped)))


def test_inputs_that_require_grad_are_detached():
    a, b, C = drawn(4, 4, "uniform", "normal", 0)
    assert not solve_one(a, b, C.requires_grad_()).mass.requires_grad


def test_instruction_set_has_a_name():
    assert _core.instruction_set() in ("baseline", "avx2", "avx512", "neon")
