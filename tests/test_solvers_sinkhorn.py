import dataclasses
import math

import pytest
import torch

import barrow
from barrow import Dense, Incompatible, Points, Problem, Sinkhorn, SolveError, Status, certify
from barrow.solve import attempt
from problems import (
    F64,
    KINDS,
    Known,
    backwards,
    check_solution,
    check_truth_inside,
    cloud,
    dirichlet,
    small_chunks,
    uniform,
)

INF = math.inf


def clouds(n=20, m=16, seed=0, dtype=F64):
    return cloud(n, 2, seed=seed).to(dtype), cloud(m, 2, seed=seed + 1).to(dtype)


def test_what_it_rejects():
    with pytest.raises(Incompatible, match="Sinkhorn needs epsilon > 0, got 0; use Simplex"):
        barrow.solve(Problem(Dense(torch.rand(3, 3))), Sinkhorn())
    for kind in ("entropic", "unbalanced", "semi_relaxed_left", "entropic_reference", "entropic_tree"):
        assert Sinkhorn().rejects(KINDS[kind](0).problem) is None


@pytest.mark.parametrize("value", [0, -3, 1.5, True, None])
def test_bad_limits(value):
    with pytest.raises(ValueError, match="max_steps is"):
        Sinkhorn(max_steps=value)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("kind", ["entropic", "unbalanced", "semi_relaxed_right", "entropic_batch"])
def test_a_step_limit_is_told_with_an_honest_bracket(kind, limit):
    known = KINDS[kind](0)
    with pytest.raises(SolveError, match="certified only truth in") as caught:
        barrow.solve(known.problem, Sinkhorn(tol=1e-15, max_steps=limit))
    s = caught.value.solution
    check_truth_inside(*s.bounds, known)
    hit = s.codes == Status.step_limit.code
    assert hit.any()
    assert (s.steps <= limit).all()
    assert (s.value <= known.value + 1e-12).all()
    assert s.plan.dense().isfinite().all()


@pytest.mark.parametrize("tol", [0.1, 1e-3, 1e-6, 1e-9])
def test_the_tolerance_is_the_certified_relative_gap(tol):
    known = backwards(0, epsilon=0.3)
    s = barrow.solve(known.problem, Sinkhorn(tol=tol))
    check_solution(s, known, tol)
    assert s.bounds.relative_gap <= max(tol, 1e-12)
    outside = certify(known.problem, plan=s.plan, f=s.f, g=s.g)
    assert outside.relative_gap <= 1.5 * max(tol, 1e-12), "anybody can check it"


def test_a_tighter_tolerance_takes_more_steps():
    x, y = clouds()
    steps = [int(barrow.solve(Problem(Points(x, y), epsilon=0.5), Sinkhorn(tol=t)).steps) for t in (1e-1, 1e-4, 1e-8)]
    assert steps[0] < steps[1] < steps[2]


def test_each_problem_of_a_batch_stops_by_itself():
    x, y = clouds()
    x = torch.stack((x, 5 * x, 0.1 * x))
    s = barrow.solve(Problem(Points(x, y), epsilon=0.3), Sinkhorn(tol=1e-6))
    assert len(set(s.steps.tolist())) == 3
    for k in range(3):
        alone = barrow.solve(Problem(Points(x[k], y), epsilon=0.3), Sinkhorn(tol=1e-6))
        assert torch.allclose(alone.value, s.value[k], rtol=2e-6)
        assert alone.bounds.lower <= s.bounds.upper[k]
        assert s.bounds.lower[k] <= alone.bounds.upper
    limited = attempt(Problem(Points(x, y), epsilon=0.3), Sinkhorn(tol=1e-6, max_steps=int(s.steps.min())))
    assert limited.status.count(Status.converged) >= 1
    assert limited.status.count(Status.step_limit) >= 1


# -- warm start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["entropic", "unbalanced", "entropic_reference", "entropic_batch", "entropic_self"])
def test_a_warm_start_gives_the_same_answer_sooner(kind):
    known = KINDS[kind](0)
    cold = barrow.solve(known.problem, Sinkhorn(tol=1e-8))
    warm = barrow.solve(known.problem, Sinkhorn(tol=1e-8), start=cold)
    check_solution(warm, known, 1e-8)
    assert warm.steps.max() < cold.steps.max()
    assert warm.steps.max() <= 4


def test_a_warm_start_from_a_neighbour():
    x, y = clouds()
    near = barrow.solve(Problem(Points(x, y), epsilon=0.1), Sinkhorn(tol=1e-6))
    moved = Problem(Points(x + 0.001 * cloud(20, 2, seed=9), y), epsilon=0.1)
    cold, warm = barrow.solve(moved, Sinkhorn(tol=1e-6)), barrow.solve(moved, Sinkhorn(tol=1e-6), start=near)
    assert warm.steps < cold.steps
    assert torch.allclose(warm.value, cold.value, rtol=2e-6)


def test_a_start_of_nonsense_changes_nothing_but_the_steps():
    known = backwards(0)
    s = barrow.solve(known.problem, Sinkhorn(tol=1e-7))
    for far in (s.f * 0 + 50, s.f * 100, -s.f):
        start = dataclasses.replace(s, f=far, g=-far[:1] + 0 * s.g)
        check_solution(barrow.solve(known.problem, Sinkhorn(tol=1e-7), start=start), known, 1e-7)


def test_a_start_of_a_wrong_shape_is_refused():
    one = barrow.solve(backwards(0, n=5, m=6).problem)
    for other in (backwards(0, n=6, m=5).problem, KINDS["entropic_batch"](0).problem):
        with pytest.raises(ValueError, match="start has potentials of shapes"):
            barrow.solve(other, start=one)


def test_a_start_of_an_exact_solution():
    x, y = clouds()
    exact = barrow.solve(Problem(Points(x, y)))
    warm = barrow.solve(Problem(Points(x, y), epsilon=0.05), Sinkhorn(tol=1e-5), start=exact)
    cold = barrow.solve(Problem(Points(x, y), epsilon=0.05), Sinkhorn(tol=1e-5))
    assert torch.allclose(warm.value, cold.value, rtol=2e-5)


# -- memory ------------------------------------------------------------------------------------------------------------


class Recorder:
    """Counts the entries of the largest block of the cost matrix that anybody asks for."""

    def __init__(self, monkeypatch):
        self.largest = 0
        block = Points.block

        def recording(cost, start, stop):
            found = block(cost, start, stop)
            self.largest = max(self.largest, found.numel())
            return found

        monkeypatch.setattr(Points, "block", recording)


@pytest.mark.parametrize("rho", [INF, 1.0, (INF, 2.0)])
def test_chunks_change_nothing(monkeypatch, rho):
    x, y = clouds(30, 23)
    a, b = dirichlet(30, seed=0, zeros=3), dirichlet(23, seed=1)

    def run():
        leaves = [t.clone().requires_grad_() for t in (x, y, a, b)]
        s = barrow.solve(Problem(Points(*leaves[:2]), *leaves[2:], epsilon=0.2, rho=rho), Sinkhorn(tol=1e-6))
        s.value.backward()
        return [s.value.detach(), *s.bounds, s.f, s.g, s.plan @ y, s.plan.T @ x, *(t.grad for t in leaves)]

    whole = run()
    for size in (1, 50, 200):
        small_chunks(monkeypatch, size)
        for one, two in zip(whole, run(), strict=True):
            assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (4,)])
def test_memory_is_linear(monkeypatch, batch):
    chunk, n, m = 2000, 150, 130
    small_chunks(monkeypatch, chunk)
    seen = Recorder(monkeypatch)
    x, y = cloud(*batch, n, 2, seed=0).requires_grad_(), cloud(*batch, m, 2, seed=1)
    s = barrow.solve(Problem(Points(x, y), epsilon=0.5), Sinkhorn(tol=1e-3))
    s.value.sum().backward()
    s.plan @ y
    s.plan.marginals()
    certify(Problem(Points(x, y), epsilon=0.5), plan=s.plan, f=s.f)
    certify(Problem(Points(x, y)), plan=s.plan, f=s.f)
    assert 0 < seen.largest <= max(chunk, math.prod(batch) * max(n, m))
    assert seen.largest < math.prod(batch) * n * m / 4


def test_a_small_cost_is_stored_and_a_large_one_is_not(monkeypatch):
    x, y = clouds()
    problem = Problem(Points(x, y), epsilon=0.2)
    stored = barrow.solve(problem, Sinkhorn(tol=1e-6))
    monkeypatch.setattr(barrow.solvers.ascent, "CACHED", 0)
    recomputed = barrow.solve(problem, Sinkhorn(tol=1e-6))
    assert torch.allclose(stored.value, recomputed.value, rtol=1e-12)


# -- extremes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [INF, 1.0, (0.01, INF)])
@pytest.mark.parametrize("strength", [1e-4, 1e-3, 1e-2, 1.0, 1e2])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tiny_and_large_epsilon_converge_or_say_that_they_did_not(strength, rho, dtype):
    x, y = clouds(12, 10, dtype=dtype)
    mean = float((x[:, None] - y).square().sum(-1).mean())
    a, b = dirichlet(12, seed=0, zeros=1).to(dtype), dirichlet(10, seed=1).to(dtype)
    leaf = x.clone().requires_grad_()
    problem = Problem(Points(leaf, y), a, b, epsilon=strength * mean, rho=rho)
    s = attempt(problem, Sinkhorn(max_steps=1500))
    lower, upper = s.bounds
    assert lower <= upper
    assert (s.status is Status.converged) == bool(s.bounds.relative_gap <= 1.0001e-3)
    if strength >= 1e-2 or rho in (1.0, INF):
        assert s.converged
    for t in (s.value, lower, upper, s.f, s.g, s.plan.dense()):
        assert t.isfinite().all()
    s.value.backward()
    assert leaf.grad.isfinite().all()
    tight = attempt(problem, Sinkhorn(tol=1e-7, max_steps=4000 if strength < 1e-2 else 2000))
    assert tight.bounds.lower <= upper
    assert lower <= tight.bounds.upper


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300, 1e308])
def test_costs_at_the_ends_of_the_exponent_range(size):
    C = uniform(5, 6, seed=0)
    truth = barrow.solve(Problem(Dense(C), epsilon=0.3), Sinkhorn(tol=1e-10)).value
    s = attempt(Problem(Dense(size * C), epsilon=0.3 * size), Sinkhorn(tol=1e-6))
    known = Known(Problem(Dense(size * C), epsilon=0.3 * size), size * truth, trust=1e-9)
    check_truth_inside(*s.bounds, known)
    if s.converged:
        assert torch.allclose(s.value / size, truth, rtol=1e-5)
    else:
        assert size > 1e300, "only overflow excuses"


def test_separate_clusters_far_apart():
    """Almost disconnected: mass must cross a gap of 1e4 epsilon, and nothing overflows."""
    x = torch.cat((cloud(6, 2, seed=0), cloud(6, 2, seed=1) + 100))
    y = torch.cat((cloud(4, 2, seed=2), cloud(8, 2, seed=3) + 100))
    exact = barrow.transport_cost(x, y)
    s = barrow.solve(Problem(Points(x, y), epsilon=1.0), Sinkhorn(tol=1e-3))
    assert exact <= s.bounds.upper
    assert torch.allclose(s.value, exact, rtol=0.01)


def test_a_measure_against_itself_is_solved_by_one_potential():
    x, a = cloud(15, 2, seed=0), dirichlet(15, seed=0)
    same = Problem(Points(x, x), a, a, epsilon=0.3)
    twin = Problem(Points(x, x.clone()), a, a.clone(), epsilon=0.3)
    assert same.symmetric
    assert not twin.symmetric
    one, two = barrow.solve(same, Sinkhorn(tol=1e-6)), barrow.solve(twin, Sinkhorn(tol=1e-5))
    assert torch.allclose(one.value, two.value, rtol=2e-5)
    assert torch.allclose(one.f, one.g, atol=1e-4)
    assert torch.allclose(one.plan.dense(), one.plan.T.dense(), atol=1e-4)


def test_extreme_masses():
    for mass in (1e-12, 1e12):
        known = backwards(1, rho=(1.0, 1.0), mass=mass)
        check_solution(barrow.solve(known.problem, Sinkhorn(tol=1e-6)), known, 1e-6)


def test_lopsided_masses_are_bridged():
    """The two masses differ by 1e6: the translation of the potentials takes the distance at once."""
    known = backwards(2, rho=(0.5, 0.5))
    a, b = known.problem.a, 1e6 * known.problem.b
    s = barrow.solve(Problem(known.problem.cost, a, b, epsilon=0.3, rho=0.5), Sinkhorn(tol=1e-6))
    assert s.steps <= 200
    check_truth_inside(*s.bounds, Known(Problem(known.problem.cost, a, b, rho=0.5), s.value, trust=1e-9))


def test_nothing_is_drawn_from_the_global_generator_and_solves_repeat():
    known = KINDS["entropic_batch"](0)
    before = torch.random.get_rng_state()
    one, two = barrow.solve(known.problem), barrow.solve(known.problem)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.value, two.value)


def test_an_answer_does_not_depend_on_the_batch_it_is_in():
    """Not even within the tolerance: each problem seeks its proof when its own sweeps say so."""
    x, y = cloud(30, 5, seed=0)[..., None], cloud(30, 4, seed=1)[..., None]
    together = barrow.solve(Problem(Points(x, y), epsilon=0.1))
    assert len(set(together.steps.tolist())) > 3
    for k in range(30):
        alone = barrow.solve(Problem(Points(x[k], y[k]), epsilon=0.1))
        assert together.steps[k] == alone.steps
        assert torch.allclose(together.f[k], alone.f, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "epsilon", "tol"), [(500, 0.02, 1e-5), (500, 0.01, 1e-5), (800, 0.02, 1e-4)])
def test_groups_that_only_small_entries_connect_take_few_passes(n, epsilon, tol):
    """A few sweeps of a list of the large entries hardly move such groups: once it took more than a thousand passes."""
    x, y = cloud(n, 3, seed=0), cloud(n, 3, seed=1) + 0.5
    s = barrow.solve(Problem(Points(x, y), epsilon=epsilon), Sinkhorn(tol=tol))
    assert int(s.steps) <= 60


@pytest.mark.parametrize(
    ("n", "d", "share"), [(20, 2, 0.02), (300, 3, 0.005), (300, 3, 1e-3), (200, 1, 1e-4), (150, 16, 1e-4)]
)
@pytest.mark.parametrize("rho", [INF, 1.0])
def test_small_problems_are_solved_to_the_last_digits(n, d, share, rho):
    """Nearly a matching, whose parts only the smallest entries connect: block ascent takes 10,000 passes and more."""
    x, y = cloud(n, d, seed=0), cloud(n, d, seed=1) + 0.5
    epsilon = share * float((x[:, None] - y).square().sum(-1).mean())
    s = barrow.solve(Problem(Points(x, y), epsilon=epsilon, rho=rho), Sinkhorn(tol=1e-10, max_steps=500))
    P = s.plan.dense()
    a, b = ((torch.full((n,), 1 / n, dtype=F64) * torch.exp(-h / rho)) for h in (s.f, s.g))
    assert (P.sum(1) - a).abs().sum() <= 1e-8
    assert (P.sum(0) - b).abs().sum() <= 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_line_whose_potentials_are_thousands_of_epsilon(dtype):
    """Single precision makes up errors larger than those asked for: once it took thousands of passes to notice."""
    x, y = (cloud(2000, 1, seed=s).to(dtype) + 0.5 * s for s in (1, 2))
    s = barrow.solve(Problem(Points(x, y), epsilon=0.0023))
    assert int(s.steps) <= 500


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_single_precision_cannot_tell_is_left_to_double(symmetric):
    """Potentials of thousands of epsilon: errors asked for may be below those that single precision makes up."""
    x, y = cloud(300, 2, seed=0), cloud(300, 2, seed=1)
    s = barrow.solve(Problem(Points(x, x if symmetric else y), epsilon=1e-3), Sinkhorn(tol=5e-5))
    assert s.status is Status.converged
    assert int(s.steps) <= 300
