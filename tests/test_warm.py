"""Starting from a previous solution: sooner, and never another answer."""

import dataclasses
import math

import pytest
import torch

import barrow
from barrow import Auto, Dense, Points, Problem, Simplex, Sinkhorn, Sort, SparsePlan, Tree, TreeFlow
from barrow.ops.network_simplex import solve_now
from barrow.solve import attempt
from barrow.solvers.base import Start, Watch
from barrow.warm import begin
from problems import F64, KINDS, check_solution, cloud, dirichlet, uniform

INF = math.inf


def planar(n=60, m=50, seed=0, **options):
    x, y = cloud(n, 2, seed=seed), cloud(m, 2, seed=seed + 1)
    return Problem(Points(x, y), dirichlet(n, seed=seed), dirichlet(m, seed=seed + 1), **options)


class Received(Exception):
    """Thrown by a solver that only says what it was given."""


def given(monkeypatch, problem, solver, start):
    def catch(self, problem, start, watch):
        raise Received(start)

    with monkeypatch.context() as patch:
        patch.setattr(type(solver), "run", catch)
        with pytest.raises(Received) as caught:
            barrow.solve(problem, solver, start=start)
    return caught.value.args[0]


# -- the simplex -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense_lp", "dense_lp_zero_weights", "line_p15_batch", "permuted"])
def test_from_its_own_solution_no_pivot_is_left(kind):
    known = KINDS[kind](0)
    cold = barrow.solve(known.problem, Simplex())
    warm = barrow.solve(known.problem, Simplex(), start=cold)
    check_solution(warm, known, 1e-9)
    assert (warm.steps == 0).all()
    assert torch.equal(warm.plan.dense(), cold.plan.dense())


def test_a_cloud_that_moved_a_little_needs_few_pivots():
    problem = planar()
    near = barrow.solve(problem, Simplex())
    moved = Problem(Points(problem.cost.x + 0.01 * cloud(60, 2, seed=9), problem.cost.y), problem.a, problem.b)
    cold, warm = barrow.solve(moved, Simplex()), barrow.solve(moved, Simplex(), start=near)
    assert warm.steps < cold.steps / 4
    assert warm.value == pytest.approx(float(cold.value), rel=1e-12)


def test_other_weights_on_the_same_cost_need_fewer_pivots():
    problem = planar()
    near = barrow.solve(problem, Simplex())
    a = problem.a + 0.05 * dirichlet(60, seed=5)
    other = Problem(problem.cost, a / a.sum(), problem.b)
    cold, warm = barrow.solve(other, Simplex()), barrow.solve(other, Simplex(), start=near)
    assert warm.steps < cold.steps
    assert warm.value == pytest.approx(float(cold.value), rel=1e-12)


def test_potentials_alone_need_fewer_pivots():
    big = planar(200, 180)
    smooth = barrow.solve(Problem(big.cost, big.a, big.b, epsilon=0.005), Sinkhorn(tol=0.05))
    cold = barrow.solve(big, Simplex())
    warm = barrow.solve(big, Simplex(), start=smooth)
    assert 2 * warm.steps < cold.steps
    assert warm.value == pytest.approx(float(cold.value), rel=1e-12)


def test_a_sinkhorn_solution_starts_the_simplex_and_back():
    problem = planar()
    rough = barrow.solve(planar(epsilon=0.05))
    cold, warm = barrow.solve(problem, Simplex()), barrow.solve(problem, Simplex(), start=rough)
    assert warm.steps < cold.steps
    assert warm.value == pytest.approx(float(cold.value), rel=1e-12)
    smooth = barrow.solve(planar(epsilon=0.05), Sinkhorn(tol=1e-6), start=cold)
    assert smooth.value == pytest.approx(float(rough.value), rel=1e-3)


def test_a_batch_starts_problem_by_problem():
    x, y = cloud(4, 20, 2, seed=0), cloud(18, 2, seed=1)
    problem = Problem(Points(x, y))
    cold = barrow.solve(problem, Simplex())
    assert (barrow.solve(problem, Simplex(), start=cold).steps == 0).all()
    mixed = barrow.solve(Problem(Points(x.flip(0), y)), Simplex(), start=cold)
    assert torch.allclose(mixed.value, cold.value.flip(0), rtol=1e-12)


def test_arcs_that_became_forbidden_are_left_out():
    C = uniform(9, 8, seed=0)
    s = barrow.solve(Problem(Dense(C)), Simplex())
    heaviest = s.plan.dense() == s.plan.dense().max()
    problem = Problem(Dense(C.masked_fill(heaviest, INF)))
    cold, warm = barrow.solve(problem, Simplex()), barrow.solve(problem, Simplex(), start=s)
    assert warm.value == pytest.approx(float(cold.value), rel=1e-12)
    assert (warm.plan.dense()[heaviest] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_arcs_and_numbers_of_nonsense_do_no_harm(seed):
    pick = torch.Generator().manual_seed(seed)
    a, b, C = dirichlet(2, 9, seed=seed, zeros=2), dirichlet(2, 7, seed=seed), uniform(2, 9, 7, seed=seed)
    pool = torch.tensor([0.0, -1.0, 0.3, INF, -INF, math.nan, 1e300, -1e300], dtype=F64)
    rows, cols = torch.randint(-3, 12, (2, 2, 40), generator=pick)
    mass, g = pool[torch.randint(0, 8, (2, 40), generator=pick)], pool[torch.randint(0, 8, (2, 7), generator=pick)]
    cold = solve_now(a, b, C)
    for hint in ({"g": g}, {"arcs": (rows, cols, mass)}, {"g": g, "arcs": (rows, cols, mass)}):
        warm = solve_now(a, b, C, **hint)
        assert (warm.code == 0).all()
        for one, two in ((cold, warm),):
            values = [(C[[0], r.rows[0], r.cols[0]] * r.mass[0]).sum() for r in (one, two)]
            assert values[0] == pytest.approx(float(values[1]), rel=1e-12)
    with pytest.raises(ValueError, match="of the start need"):
        solve_now(a, b, C, g=g[:1])
    with pytest.raises(ValueError, match="of the start need"):
        solve_now(a, b, C, arcs=(rows, cols[:, :3], mass))


# -- what is handed over -----------------------------------------------------------------------------------------------


def test_a_solution_remembers_its_problem():
    x = cloud(5, 2, seed=0).requires_grad_()
    problem = Problem(Points(x, cloud(4, 2, seed=1)), epsilon=0.5)
    s = barrow.solve(problem)
    assert not s.problem.cost.x.requires_grad
    assert s.problem.cost.x.data_ptr() == x.data_ptr(), "a reference, not a copy"
    assert s.problem.epsilon == 0.5
    assert s.problem.shape == problem.shape


def test_potentials_and_plan_are_handed_over_flat_in_float64(monkeypatch):
    x, y = cloud(2, 3, 6, 2, seed=0).float(), cloud(5, 2, seed=1).float()
    problem = Problem(Points(x, y))
    start = given(monkeypatch, problem, Simplex(), barrow.solve(problem, Simplex()))
    assert isinstance(start, Start)
    assert (start.f.shape, start.g.shape, start.plan.shape) == ((6, 6), (6, 5), (6, 6, 5))
    assert start.f.dtype == start.g.dtype == start.plan.mass.dtype == F64
    entropic = Problem(Points(x, y), epsilon=0.5)
    assert given(monkeypatch, entropic, Sinkhorn(), barrow.solve(entropic)).plan is None


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.3}, {"epsilon": 0.3, "rho": 0.7}], ids=str)
@pytest.mark.parametrize("d", [1, 2])
def test_extended_potentials_are_the_old_ones_at_the_old_points(monkeypatch, options, d):
    """There, one more block ascent changes nothing; elsewhere they are what the formula says."""
    x, y = cloud(20, d, seed=0), cloud(18, d, seed=1)
    old = Problem(Points(x, y), epsilon=options.get("epsilon", 0.0), rho=options.get("rho", INF))
    s = barrow.solve(old, Auto(1e-10))
    both = Problem(Points(torch.cat((x, x + 0.1)), torch.cat((y, y[:3] + 9))), **options)
    start = begin(s, both, both.flatten())
    f, g = start.f[0], start.g[0]
    shift = (f[:20] - s.f).mean() if old.balanced else 0.0
    assert torch.allclose(f[:20], s.f + shift, atol=1e-6)
    assert torch.allclose(g[:18], s.g - shift, atol=1e-6)
    assert start.plan is None
    new = ((x[7] + 0.1 - y) ** 2).sum(-1) - s.g
    if not options:
        assert f[27] == pytest.approx(float(new.min() + shift), abs=1e-9)


def test_sinkhorn_starts_from_other_clouds():
    big = planar(80, 70, epsilon=0.1)
    fewer = Problem(Points(big.cost.x[:75], big.cost.y[:66]), epsilon=0.1)
    moved = Problem(Points(big.cost.x + 0.001 * cloud(80, 2, seed=7), big.cost.y), epsilon=0.1)
    cold = barrow.solve(big)
    for other in (fewer, moved):
        warm = barrow.solve(big, start=barrow.solve(other))
        assert warm.value == pytest.approx(float(cold.value), rel=2e-3)
    assert barrow.solve(big, start=cold).steps == 1


def test_one_solution_starts_a_batch():
    one = planar()
    x = torch.stack((one.cost.x, one.cost.x + 0.01, one.cost.x[:60] * 1.01))
    batch = Problem(Points(x[:, :55], one.cost.y))
    warm = barrow.solve(batch, Simplex(), start=barrow.solve(one, Simplex()))
    assert torch.allclose(warm.value, barrow.solve(batch, Simplex()).value, rtol=1e-12)


def test_what_cannot_be_extended_is_refused_in_words():
    s = barrow.solve(planar(6, 5))
    x, y = torch.rand(7, 2, dtype=F64), torch.rand(5, 2, dtype=F64)
    words = r"start has potentials of shapes \(6,\) and \(5,\), but this problem needs"
    for cost in (Points(x, y, p=1), Points(x, y, norm=1), Points(torch.rand(7, 3), torch.rand(5, 3))):
        with pytest.raises(ValueError, match=words + r".*the same p and norm$"):
            barrow.solve(Problem(cost), start=s)
    with pytest.raises(ValueError, match=words):
        barrow.solve(Problem(Dense(torch.rand(7, 5))), start=s)
    with pytest.raises(ValueError, match=words):
        barrow.solve(Problem(Points(x, y)), start=dataclasses.replace(s, problem=None))
    batch = barrow.solve(Problem(Points(torch.rand(3, 6, 2), torch.rand(5, 2))))
    with pytest.raises(ValueError, match=r"they extend only to a batch of the same shape"):
        barrow.solve(Problem(Points(x, y)), start=batch)
    with pytest.raises(ValueError, match="start is a Tensor, but it must be a Solution"):
        barrow.solve(planar(6, 5), start=s.f)


# -- never believed ----------------------------------------------------------------------------------------------------

EVERY = {
    "Simplex": (lambda: planar(15, 12), Simplex()),
    "Simplex batch": (lambda: Problem(Dense(uniform(3, 8, 9, seed=0))), Simplex()),
    "Auto": (lambda: Problem(Points(cloud(12, 2, seed=0), cloud(12, 2, seed=1))), Auto()),
    "Sort": (lambda: Problem(Points(cloud(9, 1, seed=0), cloud(7, 1, seed=1))), Sort()),
    "TreeFlow": (lambda: Problem(Tree(torch.tensor([-1, 0, 0, 1, 1]), torch.rand(5, dtype=F64))), TreeFlow()),
    "Sinkhorn": (lambda: planar(15, 12, epsilon=0.3), Sinkhorn(tol=1e-7)),
    "Sinkhorn unbalanced": (lambda: planar(15, 12, epsilon=0.3, rho=0.5), Sinkhorn(tol=1e-7)),
}


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("bad", [math.nan, INF, -INF, 1e300, -1e300, 1e-320, "mixed", "half"])
def test_nonsense_changes_nothing_but_the_steps(case, bad):
    make, solver = EVERY[case]
    problem = make()
    s = barrow.solve(problem, solver)
    pool = torch.tensor([0.0, math.nan, INF, -INF, 1e300, -1e300, 3.0, -7.0], dtype=F64)

    def spoil(t):
        if bad == "half":
            return (-t).half()
        if bad == "mixed":
            return pool[torch.arange(t.numel()) % 8].reshape(t.shape)
        return torch.full_like(t, bad)

    plan = s.plan
    if isinstance(plan, SparsePlan):
        plan = SparsePlan(plan.rows + 5, plan.cols.flip(-1) - 4, spoil(plan.mass), plan.size)
    other = barrow.solve(problem, solver, start=dataclasses.replace(s, f=spoil(s.f), g=spoil(s.g), plan=plan))
    assert torch.allclose(other.value, s.value, rtol=1e-6)
    assert other.converged


def test_the_start_of_a_faulty_batch_starts_its_neighbours():
    x, y = cloud(3, 8, 2, seed=0), cloud(7, 2, seed=1)
    broken = x.clone()
    broken[1] = math.nan
    s = attempt(Problem(Points(broken, y)), Simplex())
    again = barrow.solve(Problem(Points(x, y)), Simplex(), start=s)
    assert again.steps[0] == again.steps[2] == 0
    assert torch.allclose(again.value, barrow.solve(Problem(Points(x, y))).value, rtol=1e-12)


def test_solvers_are_given_a_start_or_none():
    problem = planar(6, 5).flatten()
    with pytest.raises(TypeError):
        Simplex().run(problem, None)
    assert Simplex().run(problem, None, Watch()).codes.tolist() == [0]
