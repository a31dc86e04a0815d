import itertools
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from barrow.ops.assignment import (
    INFEASIBLE,
    OPTIMAL,
    STEP_LIMIT,
    TIME_LIMIT,
    AssignmentResult,
    assign_now,
    assignment,
)

F64 = torch.float64
EPS = torch.finfo(F64).eps
COSTS = [
    "normal",
    "uniform",
    "digits",
    "signs",
    "constant",
    "shifted",
    "wide",
    "plane",
    "clouds",
    "lattice",
    "negative",
]


def drawn(n: int, costs: str, seed: int) -> Tensor:
    r = np.random.default_rng(seed)
    if costs in ("plane", "clouds"):
        x, y = (torch.from_numpy(r.normal(size=(n, 2 if costs == "plane" else 100))) for _ in range(2))
        return (x[:, None] - y).square().sum(-1)
    if costs == "lattice":
        x, y = (torch.from_numpy(r.integers(0, 4, (n, 2))) for _ in range(2))
        return (x[:, None] - y).square().sum(-1).double()
    C = {
        "normal": lambda: r.normal(size=(n, n)),
        "uniform": lambda: r.random((n, n)),
        "digits": lambda: r.integers(0, 10, (n, n)).astype(float),
        "signs": lambda: r.integers(0, 2, (n, n)) - 0.5,
        "constant": lambda: np.full((n, n), r.normal()),
        "shifted": lambda: r.normal(size=(n, n)) + 1e6,
        "wide": lambda: 10.0 ** r.uniform(-12, 12, (n, n)),
        "negative": lambda: -(10.0 ** r.uniform(0, 3, (n, n))),
    }[costs]()
    return torch.from_numpy(C)


def check_optimal(C: Tensor, result: AssignmentResult) -> float:
    """Everything that a result promises, for one problem; returns the value."""
    cols, f, g, code, steps = result
    n = len(C)
    assert code == OPTIMAL
    assert steps >= 0
    assert cols.dtype == torch.int64
    assert torch.equal(cols.sort().values, torch.arange(n))
    scale = max([C[C.isfinite()].abs().max(), f.abs().max(), g.abs().max()])
    assert f.isfinite().all()
    assert g.isfinite().all()
    pairs = C[torch.arange(n), cols]
    assert (f[:, None] + g - C).max() <= 16 * EPS * scale
    assert (f + g[cols] - pairs).abs().max() <= 16 * EPS * scale
    return pairs.sum().item()


def solve_one(C: Tensor, g: Tensor | None = None, **options: int) -> AssignmentResult:
    return AssignmentResult(*(t[0] for t in assignment(C[None], None if g is None else g[None], **options)))


def truth(C: Tensor) -> float:
    return C.numpy()[linear_sum_assignment(C.numpy())].sum().item()


@pytest.mark.parametrize("costs", COSTS)
def test_every_size_agrees_with_scipy(costs):
    for n in (*range(1, 61), 127, 128, 129, 200):
        C = drawn(n, costs, n)
        value = check_optimal(C, solve_one(C))
        assert value == pytest.approx(truth(C), rel=1e-12, abs=16 * n * EPS * C.abs().max().item())


@pytest.mark.parametrize("costs", ["uniform", "plane", "clouds", "digits"])
def test_larger_sizes_agree_with_scipy(costs):
    C = drawn(500, costs, 0)
    assert check_optimal(C, solve_one(C)) == pytest.approx(truth(C), rel=1e-12)


@pytest.mark.parametrize("costs", ["uniform", "plane", "digits", "shifted", "constant"])
def test_long_rows_prove_themselves(costs):
    C = drawn(1600, costs, 0)
    result = solve_one(C)
    value = check_optimal(C, result)
    tolerance = 1600 * 16 * EPS * max(C.abs().max().item(), result.g.abs().max().item())
    assert (result.f.sum() + result.g.sum()).item() == pytest.approx(value, abs=tolerance)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 25), st.sampled_from(COSTS), st.floats(0, 0.95), st.integers(0, 2**31))
def test_forbidden_pairs(n, costs, share, seed):
    C = drawn(n, costs, seed)
    C[torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < share] = torch.inf
    result = solve_one(C)
    scale = C[C.isfinite()].abs().amax().item() if C.isfinite().any() else 0.0
    try:
        value = truth(C)
    except ValueError:  # scipy's word for infeasible
        assert result.code == INFEASIBLE
        assert torch.equal(result.cols.sort().values, torch.arange(n))
        scale = max(scale, result.f.abs().max(), result.g.abs().max())
        assert (result.f[:, None] + result.g <= C + 16 * EPS * scale).all()
        assert result.f.isfinite().all()
        return
    assert check_optimal(C, result) == pytest.approx(value, rel=1e-12, abs=16 * n * EPS * scale)


def test_one_way_only():
    n = 70
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    C = torch.full((n, n), torch.inf, dtype=F64)
    C[torch.arange(n), order] = drawn(n, "normal", 0)[0]
    result = solve_one(C)
    check_optimal(C, result)
    assert torch.equal(result.cols, order)
    # A triangle has one perfect matching too, and the way to it is long.
    C = drawn(n, "normal", 0).masked_fill(torch.ones(n, n).triu(1).bool(), torch.inf)
    result = solve_one(C)
    check_optimal(C, result)
    assert torch.equal(result.cols, torch.arange(n))


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-12, 1e12, 1e150, 1e300])
def test_scales(size):
    C = drawn(40, "normal", 0)
    assert check_optimal(C * size, solve_one(C * size)) == pytest.approx(truth(C) * size, rel=1e-12)


def test_degenerate_batches():
    assert assignment(torch.empty(0, 5, 5, dtype=F64)).cols.shape == (0, 5)
    nothing = assignment(torch.empty(3, 0, 0, dtype=F64))
    assert nothing.f.shape == (3, 0)
    assert (nothing.code == OPTIMAL).all()


@pytest.mark.parametrize("costs", COSTS)
def test_a_start_never_changes_the_value(costs):
    C = drawn(50, costs, 0)
    cold = solve_one(C)
    value = check_optimal(C, cold)
    tolerance = 64 * 50 * EPS * max(C.abs().max().item(), cold.g.abs().max().item())
    r = torch.Generator().manual_seed(0)
    for g in (cold.g, cold.g + 1e3 * C.abs().max(), torch.zeros(50, dtype=F64), torch.randn(50, generator=r).double()):
        assert check_optimal(C, solve_one(C, g)) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e308, -1e200])
def test_a_start_of_nonsense_is_no_start(bad):
    C = drawn(30, "normal", 0)
    cold = solve_one(C)
    g = torch.zeros(30, dtype=F64)
    g[7] = bad
    assert all(map(torch.equal, solve_one(C, g), cold))
    both = assignment(torch.stack((C, C)), torch.stack((g, cold.g)))
    assert all(map(torch.equal, (t[0] for t in both), cold))
    assert both.steps[1] <= 2 * 30


@pytest.mark.parametrize("costs", ["normal", "uniform", "plane", "clouds"])
def test_a_start_from_a_neighbour_saves_work(costs):
    C = drawn(300, costs, 0)
    near = C * (1 + 1e-6 * drawn(300, "normal", 1))
    cold = solve_one(near)
    warm = solve_one(near, solve_one(C).g)
    assert check_optimal(near, warm) == pytest.approx(check_optimal(near, cold))
    assert warm.steps < cold.steps


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e308])
def test_garbage_is_survived(bad):
    for index in (0, (slice(None), 3), slice(None)):
        C = drawn(20, "normal", 0)
        C[index] = bad
        result = solve_one(C)
        assert torch.equal(result.cols.sort().values, torch.arange(20))
        assert result.f.isfinite().all()
        assert result.g.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 25), st.sampled_from(COSTS), st.integers(0, 100), st.integers(0, 2**31))
def test_an_early_stop_still_gives_bounds(n, costs, limit, seed):
    C = drawn(n, costs, seed)
    result = solve_one(C, max_steps=limit)
    assert result.steps <= limit
    assert result.code in (OPTIMAL, STEP_LIMIT)
    assert torch.equal(result.cols.sort().values, torch.arange(n))
    slack = 16 * n * EPS * max(C.abs().max().item(), result.g.abs().max().item())
    assert (result.f[:, None] + result.g - C).max() <= slack
    assert result.f.sum() + result.g.sum() - slack <= truth(C) <= C[torch.arange(n), result.cols].sum() + slack


def test_the_limits_are_reported():
    C = drawn(60, "plane", 0)
    steps = solve_one(C).steps.item()
    assert solve_one(C, max_steps=steps - 1).code == STEP_LIMIT
    assert solve_one(C, max_steps=steps).code == OPTIMAL
    assert assign_now(C[None], seconds=0.0).code == TIME_LIMIT
    assert solve_one(torch.eye(5, dtype=F64) - 1, max_steps=0).steps == 0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_is_a_loop(threads):
    C = torch.stack([drawn(33, costs, seed) for costs, seed in itertools.product(COSTS, range(3))])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = assignment(C)
    finally:
        torch.set_num_threads(before)
    for k, one in enumerate(C):
        assert all(torch.equal(alone, of_many[k]) for alone, of_many in zip(solve_one(one), batch, strict=True))


def test_strided_and_shared_costs():
    C = drawn(8, "normal", 0)
    turned = solve_one(C.T)
    assert all(map(torch.equal, turned, solve_one(C.T.contiguous())))
    shared, copied = assignment(C.expand(3, 8, 8)), assignment(C.repeat(3, 1, 1))
    assert all(map(torch.equal, shared, copied))
    assert all(map(torch.equal, assign_now(C[None]), assignment(C[None])))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cost needs the shape"):
        assignment(torch.zeros(1, 3, 4, dtype=F64))
    with pytest.raises(ValueError, match="start needs the shape"):
        assignment(torch.zeros(2, 3, 3, dtype=F64), torch.zeros(1, 3, dtype=F64))


def test_what_a_listener_hears_and_throws():
    heard = []
    assign_now(drawn(20, "normal", 0)[None], listener=lambda *word: heard.append(word))
    assert heard[0] == ("rows", 0, 20)

    def bored(*word: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        assign_now(drawn(20, "normal", 0)[None], listener=bored)
    heard.clear()
    assign_now(torch.zeros(3, 4, 4, dtype=F64), listener=lambda *word: heard.append(word))
    assert heard[-1] == ("problems", 3, 3)


def test_the_gil_is_released_and_ctrl_c_works():
    C = drawn(1000, "plane", 0)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt():
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    start = time.perf_counter()
    helper.start()
    # Many seconds of work: were the lock held, the helper would come too late.
    with pytest.raises(KeyboardInterrupt):
        assignment(C.expand(2000, *C.shape))
    helper.join()
    assert time.perf_counter() - start < 4


def test_operator_registration():
    C = drawn(5, "normal", 0)[None]
    torch.library.opcheck(torch.ops.barrow.assignment.default, (C, None, -1))
    torch.library.opcheck(torch.ops.barrow.assignment.default, (C, C[:, 0], 10))


def test_vmap():
    C = torch.stack([drawn(6, "normal", seed) for seed in range(6)]).unflatten(0, (2, 3))
    mapped = torch.vmap(assignment, in_dims=1)(C.transpose(0, 1))
    started = torch.vmap(assignment, in_dims=(0, None))(C, C[0, :, 0])
    for k in range(2):
        assert all(map(torch.equal, assignment(C[k]), (t[k] for t in mapped)))
        assert all(map(torch.equal, assignment(C[k], C[0, :, 0]), (t[k] for t in started)))


def test_inputs_that_require_grad_are_detached():
    C = drawn(4, "normal", 0).requires_grad_()
    assert not solve_one(C, C[0]).f.requires_grad
