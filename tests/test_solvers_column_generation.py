import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import barrow
from barrow import ColumnGeneration, Dense, Incompatible, Points, Problem, Simplex, SolveError, Status, Tree
from barrow.solve import attempt
from problems import (
    F64,
    Known,
    check_gradient,
    check_solution,
    check_truth_inside,
    cloud,
    dirichlet,
    uniform,
)


def clouds(n: int, m: int, d: int = 2, p: float = 2, seed: int = 0) -> Problem:
    x, y = cloud(n, d, seed=seed), cloud(m, d, seed=seed + 1)
    return Problem(Points(x, y, p), dirichlet(n, seed=seed), dirichlet(m, seed=seed + 1))


def test_what_it_rejects():
    x, C = torch.rand(3, 2), torch.rand(3, 3)
    holes = C.clone()
    holes[0, 1] = torch.inf
    for problem, words in [
        (Problem(Dense(C), epsilon=0.5), r"ColumnGeneration solves exact transport, but epsilon is 0\.5; use Sinkhorn"),
        (
            Problem(Points(x, x), rho=(1.0, torch.inf)),
            r"ColumnGeneration solves balanced transport, but rho is \(1.0, inf",
        ),
        (Problem(Points(x, x, p=32.5)), r"too narrow for p = 32\.5; use Simplex\(\)"),
        (Problem(Dense(holes)), r"finite costs, but some arcs are forbidden; use Simplex\(\)"),
        (
            Problem(Tree(torch.tensor([-1, 0, 0, 0]), torch.tensor([0.0, 1, 1, 1]))),
            r"ColumnGeneration needs Points.* Dense, got Tree; use Simplex\(\)",
        ),
    ]:
        assert ColumnGeneration().rejects(problem).startswith("ColumnGeneration ")
        with pytest.raises(Incompatible, match=words):
            barrow.solve(problem, ColumnGeneration())
    for problem in (Problem(Dense(C)), Problem(Points(x, x, p=32)), Problem(Points(x, x, p=1, norm=1))):
        assert ColumnGeneration().rejects(problem) is None


@pytest.mark.parametrize("value", [-1, 2.5, "many", True])
def test_bad_limits(value):
    with pytest.raises(ValueError, match="max_steps is"):
        ColumnGeneration(max_steps=value)
    with pytest.raises(ValueError, match="time_limit is"):
        ColumnGeneration(time_limit=-1)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("norm", [1, 2, torch.inf])
def test_it_agrees_with_the_simplex(p, norm):
    x, y = cloud(120, 3, seed=0), cloud(90, 3, seed=1)
    a, b = dirichlet(120, seed=2, zeros=20), dirichlet(90, seed=3, zeros=5)
    problem = Problem(Points(x, y, p, norm), a, b)
    truth = barrow.solve(problem, Simplex()).value
    check_solution(barrow.solve(problem, ColumnGeneration()), Known(problem, truth), 1e-12)
    dense = Problem(Dense(problem.cost.dense()), a, b)
    check_solution(barrow.solve(dense, ColumnGeneration()), Known(dense, truth), 1e-12)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_step_limit_is_told_with_an_honest_bracket(limit):
    problem = Problem(Dense(uniform(400, 300, seed=0)), dirichlet(400, seed=0), dirichlet(300, seed=1))
    known = Known(problem, barrow.solve(problem, Simplex()).value)
    s = attempt(known.problem, ColumnGeneration(max_steps=limit))
    assert s.status is Status.step_limit
    assert s.steps == limit
    check_truth_inside(*s.bounds, known)
    assert (s.plan.dense().sum(1) - known.problem.a).abs().max() <= 1e-14, "never a plan of zeros"
    with pytest.raises(SolveError, match="certified only truth in"):
        barrow.solve(known.problem, ColumnGeneration(max_steps=limit))
    check_solution(barrow.solve(known.problem, ColumnGeneration()), known, 1e-12)


def test_a_time_limit_is_told_with_an_honest_bracket():
    problem = clouds(600, 700)
    s = attempt(problem, ColumnGeneration(time_limit=1e-9))
    assert s.status is Status.time_limit
    check_truth_inside(*s.bounds, Known(problem, barrow.solve(problem, Simplex()).value))


def test_a_start_changes_nothing():
    problem = clouds(500, 500)
    cold = barrow.solve(problem, ColumnGeneration())
    known = Known(problem, cold.value)
    again = barrow.solve(problem, ColumnGeneration(), start=cold)
    check_solution(again, known, 1e-12)
    assert again.steps == 0
    entropic = barrow.solve(Problem(problem.cost, problem.a, problem.b, epsilon=0.05), barrow.Sinkhorn(tol=0.1))
    check_solution(barrow.solve(problem, ColumnGeneration(), start=entropic), known, 1e-12)
    moved = Problem(Points(problem.cost.x + 1e-3 * cloud(500, 2, seed=9), problem.cost.y), problem.a, problem.b)
    warm = barrow.solve(moved, ColumnGeneration(), start=cold)
    check_solution(warm, Known(moved, barrow.solve(moved, Simplex()).value), 1e-12)


def test_solutions_of_images_and_matrices_and_of_the_simplex_are_starts():
    images = Problem(barrow.Grid((20, 20), 2), dirichlet(400, seed=0), dirichlet(400, seed=1))
    matrix = Problem(Dense(uniform(90, 80, seed=0)), dirichlet(90, seed=0, zeros=9), dirichlet(80, seed=1))
    single = Problem(Points(cloud(60, 2, seed=0).float(), cloud(50, 2, seed=1).float()))
    for problem in (images, matrix, single):
        cold = barrow.solve(problem, ColumnGeneration())
        for start in (cold, barrow.solve(problem, Simplex())):
            again = barrow.solve(problem, ColumnGeneration(), start=start)
            assert again.steps == 0
            assert again.value == pytest.approx(float(cold.value), rel=1e-12)


def test_progress():
    heard = []
    barrow.solve(clouds(900, 900), ColumnGeneration(), progress=heard.append)
    assert heard[-1].stage == "proof"
    assert {word.stage for word in heard} <= {"annealing", "scaling", "pivots", "arcs", "proof"}

    def bored(word):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        barrow.solve(clouds(900, 900), ColumnGeneration(), progress=bored)


def test_the_gil_is_released_and_ctrl_c_works():
    problem = clouds(700, 700)
    problem = Problem(problem.cost, problem.a.expand(1000, 700), problem.b)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt():
        time.sleep(0.3)
        signal.pthread_kill(main, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    start = time.perf_counter()
    helper.start()
    # A minute of work: were the lock held, the helper would come too late.
    with pytest.raises(KeyboardInterrupt):
        barrow.solve(problem, ColumnGeneration())
    helper.join()
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    x, y = cloud(150, 2, seed=0).to(dtype), cloud(130, 2, seed=1).to(dtype)
    s = barrow.solve(Problem(Points(x, y)), ColumnGeneration())
    assert s.value.dtype == dtype
    assert torch.equal(s.value, barrow.solve(Problem(Points(x, y)), Simplex()).value)


def test_batches_stop_one_by_one():
    C = torch.stack((uniform(400, 400, seed=0), torch.zeros(400, 400, dtype=F64)))
    C[0, 3, 4] = torch.nan
    w = dirichlet(2, 400, seed=0)
    s = attempt(Problem(Dense(C), w, w.flip(1)), ColumnGeneration())
    assert s.status == [Status.not_finite, Status.converged]
    C[0, 3, 4] = 0.5
    s = attempt(Problem(Dense(C), w, w.flip(1)), ColumnGeneration(max_steps=0))
    assert s.status == [Status.step_limit, Status.converged]


def test_one_cost_for_many():
    x, y, w = cloud(50, 2, seed=0), cloud(60, 2, seed=1), dirichlet(3, 50, seed=2)
    s = barrow.solve(Problem(Points(x, y), w), ColumnGeneration())
    for k in range(3):
        assert s.value[k] == barrow.solve(Problem(Points(x, y), w[k]), ColumnGeneration()).value
    again = barrow.solve(Problem(Points(x, y), w), ColumnGeneration(), start=s)
    assert torch.allclose(again.value, s.value, rtol=1e-13)


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e160, 1e200])
def test_costs_beyond_the_range_of_doubles_are_never_lied_about(size):
    problem = clouds(20, 30)
    small = barrow.solve(problem, Simplex()).value
    scaled = Problem(Points(size * problem.cost.x, size * problem.cost.y), problem.a, problem.b)
    s, reference = attempt(scaled, ColumnGeneration()), attempt(scaled, Simplex())
    assert s.status == reference.status
    truth = small * size * size
    assert s.bounds.lower <= truth * (1 + 1e-9)
    assert s.bounds.upper >= truth * (1 - 1e-9)


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradients_of_a_large_problem_are_those_of_its_plan():
    n = 3000
    x, y = cloud(n, 3, seed=0).requires_grad_(), cloud(n, 3, seed=1).requires_grad_()
    a, b = dirichlet(n, seed=2).requires_grad_(), dirichlet(n, seed=3).requires_grad_()
    s = barrow.solve(Problem(Points(x, y), a, b), ColumnGeneration())
    s.value.backward()
    with torch.no_grad():
        assert torch.allclose(x.grad, 2 * (a[:, None] * x - s.plan @ y), atol=1e-12)
        assert torch.allclose(y.grad, 2 * (b[:, None] * y - s.plan.T @ x), atol=1e-12)
        # Up to the constants that mass does not see.
        for grad, potential in ((a.grad, s.f), (b.grad, s.g)):
            off = grad - potential
            assert (off - off.mean()).abs().max() <= 1e-12


def test_gradients_of_a_matrix_are_its_plan():
    C = uniform(70, 60, seed=0).requires_grad_()
    a, b = dirichlet(70, seed=0), dirichlet(60, seed=1)
    s = barrow.solve(Problem(Dense(C), a, b), ColumnGeneration())
    s.value.backward()
    assert torch.allclose(C.grad, s.plan.dense(), atol=1e-14)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients_against_differences(p):
    x, y = cloud(12, 2, seed=0), cloud(10, 2, seed=1)
    a, b = dirichlet(12, seed=2), dirichlet(10, seed=3)
    check_gradient(lambda x, y: barrow.solve(Problem(Points(x, y, p), a, b), ColumnGeneration()).value, [x, y])


def test_gradients_are_finite_where_points_meet():
    x = cloud(40, 2, seed=0)
    x[::2] = x[0]
    x.requires_grad_()
    w = dirichlet(40, seed=0, zeros=7)
    s = barrow.solve(Problem(Points(x, x.detach().flip(0), p=1), w, w.flip(0)), ColumnGeneration())
    s.value.backward()
    assert s.value.abs() <= 1e-14
    assert x.grad.isfinite().all()


# -- memory ------------------------------------------------------------------------------------------------------------

MEASURE = """
import torch, barrow
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
torch.set_num_threads(1)
def problem(n):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, dtype=torch.float64, generator=g) for _ in range(2))
    a = torch.rand(n, dtype=torch.float64, generator=g)
    return barrow.Problem(barrow.Points(x, y), a / a.sum())
barrow.solve(problem(500), barrow.ColumnGeneration())
before = peak()
barrow.solve(problem(3000), barrow.ColumnGeneration())
print(peak() - before)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="no peak of the resident set to be read")
def test_memory_stays_far_below_the_matrix():
    found = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(found.stdout) * 1024 < 3000 * 3000 * 8 / 2
