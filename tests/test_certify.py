"""certify under sense and nonsense: the bracket always holds the truth."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import barrow
from barrow import BadInput, Dense, Points, Problem, Sinkhorn, SparsePlan, certify
from barrow.certify import Bracket, within
from barrow.solve import attempt
from problems import (
    EPS,
    F64,
    KINDS,
    Known,
    backwards,
    backwards_unbalanced_exact,
    check_truth_inside,
    cloud,
    dirichlet,
    generator,
    lp,
    lp_value,
    scale_of,
    seeds,
    small_entropic,
    small_lps,
    solved_by_lp,
    uniform,
)

INF = math.inf

# Ways of handing in numbers that nobody meant.
NONSENSE = {
    "random": lambda t: t,
    "zero": torch.zeros_like,
    "negative": lambda t: -t.abs() - 1,
    "large": lambda t: 1e30 * t,
    "huge": lambda t: 1e300 * t,
    "largest": lambda t: torch.full_like(t, torch.finfo(F64).max) * t.sign(),
    "tiny": lambda t: 1e-300 * t,
    "nan": lambda t: torch.full_like(t, torch.nan),
    "one nan": lambda t: t.index_fill(-1, torch.tensor([0]), torch.nan),
    "inf": lambda t: torch.full_like(t, INF),
    "minus inf": lambda t: torch.full_like(t, -INF),
    "one inf": lambda t: t.index_fill(-1, torch.tensor([0]), INF),
    "one minus inf": lambda t: t.index_fill(-1, torch.tensor([0]), -INF),
}

FAMILY = {
    "exact": lambda seed: KINDS["dense_lp"](seed),
    "exact, zero weights": lambda seed: KINDS["dense_lp_zero_weights"](seed),
    "exact, batch": lambda seed: KINDS["shared_cost_batch"](seed),
    "exact, line": lambda seed: KINDS["line_p2_zero_weights"](seed),
    "exact, tree": lambda seed: KINDS["tree_zero_weights_and_unit_edges"](seed),
    "exact, points": lambda seed: KINDS["points_norm_inf"](seed),
    "exact, unbalanced": lambda seed: backwards_unbalanced_exact(seed, (1.0, 2.0)),
    "exact, semi-relaxed left": lambda seed: backwards_unbalanced_exact(seed, (1.0, INF)),
    "exact, semi-relaxed right": lambda seed: backwards_unbalanced_exact(seed, (INF, 0.5)),
    "entropic": lambda seed: backwards(seed),
    "entropic, zero weights": lambda seed: backwards(seed, zeros=2),
    "entropic, batch": lambda seed: KINDS["entropic_batch"](seed),
    "entropic, reference": lambda seed: backwards(seed, reference=True, mass=4.0),
    "unbalanced": lambda seed: backwards(seed, rho=(1.0, 0.5), zeros=1),
    "unbalanced, reference": lambda seed: backwards(seed, rho=(1.0, 0.5), reference=True),
    "semi-relaxed left": lambda seed: backwards(seed, rho=(1.0, INF), zeros=1),
    "semi-relaxed right": lambda seed: backwards(seed, rho=(INF, 0.5), reference=True),
}


def witnesses(problem, seed):
    batch, (n, m) = problem.batch_shape, problem.shape
    return (
        cloud(*batch, n, m, seed=seed),
        cloud(*batch, n, seed=seed + 1),
        cloud(*batch, m, seed=seed + 2),
    )


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("member", FAMILY)
def test_nonsense_gives_a_wide_bracket_never_a_wrong_one(member, nonsense):
    known = FAMILY[member](3)
    plan, f, g = (NONSENSE[nonsense](t) for t in witnesses(known.problem, 5))
    for given_ in ({}, {"plan": plan}, {"f": f}, {"g": g}, {"f": f, "g": g}, {"plan": plan, "f": f, "g": g}):
        bounds = certify(known.problem, **given_)
        check_truth_inside(*bounds, known)
        assert (bounds.lower <= bounds.upper).all()
        assert not bounds.relative_gap.isnan().any()


entries = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.3, 1e-320, 1e-30, 1e30, 1e155, 1e300, -1e300, INF, -INF, math.nan])


@given(st.one_of(small_lps(), small_entropic()), st.lists(entries, min_size=8, max_size=8), seeds)
@settings(max_examples=150)
def test_mixed_nonsense(known, pool, seed):
    n, m = known.problem.shape
    pick = torch.randint(0, 8, (n * m + n + m,), generator=generator(seed))
    plan, f, g = torch.tensor(pool, dtype=F64)[pick].split([n * m, n, m])
    check_truth_inside(*certify(known.problem, plan=plan.reshape(n, m), f=f, g=g), known)
    check_truth_inside(*certify(known.problem, g=g), known)
    check_truth_inside(*certify(known.problem, f=f), known)
    check_truth_inside(*certify(known.problem, plan=plan.reshape(n, m)), known)


@pytest.mark.parametrize("member", FAMILY)
def test_nonsense_in_one_problem_does_not_spoil_its_neighbours(member):
    known = FAMILY[member](0)
    if known.problem.batch_shape:
        return
    q = known.problem
    reference = None if q.reference is None else tuple(torch.stack((t, t)) for t in q.reference)
    cost = q.cost if not isinstance(q.cost, Dense) else Dense(torch.stack((q.cost.C, q.cost.C)))
    both = Problem(
        cost, torch.stack((q.a, q.a)), torch.stack((q.b, q.b)), epsilon=q.epsilon, rho=q.rho, reference=reference
    )
    plan, f, g = witnesses(q, 1)
    plan = plan.abs()
    alone = certify(q, plan=plan, f=f, g=g)
    for bad in (torch.nan, INF, 1e300):
        P, F, G = (torch.stack((t, torch.full_like(t, bad))) for t in (plan, f, g))
        paired = certify(both, plan=P, f=F, g=G)
        for one, two in zip(alone, paired, strict=True):
            assert torch.allclose(one, two[0], rtol=1e-9), (bad, one, two)
    _, F, G = (torch.stack((t, 1e300 * torch.rand_like(t))) for t in (plan, f, g))
    for one, two in zip(certify(q, f=f, g=g), certify(both, f=F, g=G), strict=True):
        assert torch.allclose(one, two[0], rtol=1e-9), (one, two)


@pytest.mark.parametrize("kind", ["dense_lp_zero_weights", "entropic_zero_weights", "line_p15_batch", "entropic_batch"])
def test_zero_weights_on_the_right(kind):
    known = KINDS[kind](0)
    for plan in (None, torch.rand(known.problem.shape, dtype=F64)):
        check_truth_inside(*certify(known.problem, plan=plan), known)


@pytest.mark.parametrize("n", [5, 20])
def test_an_outside_lp_is_certified_tightly(n):
    C, a, b = uniform(n, n + 2, seed=n), dirichlet(n, seed=n), dirichlet(n + 2, seed=n + 1)
    problem = Problem(Dense(C), a, b)
    value, plan = lp(C, a, b)
    A = np.concatenate((np.kron(np.eye(n), np.ones(n + 2)), np.kron(np.ones(n), np.eye(n + 2))))
    dual = linprog(-torch.cat((a, b)).numpy(), A_ub=A.T, b_ub=C.flatten().numpy(), bounds=(None, None))
    f, g = torch.from_numpy(dual.x).split([n, n + 2])
    for given_ in ({"f": f}, {"g": g}, {"f": f, "g": g}):
        bounds = certify(problem, plan=plan, **given_)
        check_truth_inside(*bounds, Known(problem, torch.tensor(value, dtype=F64), trust=1e-9))
        assert bounds.relative_gap <= 1e-8
    assert certify(problem, f=f).gap > 1e-3, "without a plan the upper bound is the independent coupling's"
    assert torch.isclose(certify(problem).upper, (C * a[:, None] * b).sum())


@pytest.mark.parametrize("member", ["entropic", "entropic, reference", "unbalanced", "semi-relaxed left"])
def test_the_optimum_is_certified_tightly_whatever_it_is_given_as(member):
    known = FAMILY[member](2)
    s = barrow.solve(known.problem, Sinkhorn(tol=1e-8))
    for plan in (None, s.plan, s.plan.dense(), known.plan):
        bounds = certify(known.problem, plan=plan, f=s.f, g=s.g)
        check_truth_inside(*bounds, known)
        assert bounds.relative_gap <= 1e-7
    assert certify(known.problem, f=s.f).relative_gap <= 1e-7
    assert certify(known.problem, g=s.g).relative_gap <= 1e-7


def test_a_stopped_sinkhorn_brackets_the_exact_distance():
    x, y = cloud(25, 2, seed=0), cloud(20, 2, seed=1) + 1
    exact = Problem(Points(x, y))
    known = solved_by_lp(exact)
    gaps = []
    for epsilon in (1.0, 0.1, 0.01):
        s = attempt(Problem(Points(x, y), epsilon=epsilon), Sinkhorn(max_steps=200))
        bounds = certify(exact, plan=s.plan, f=s.f)
        check_truth_inside(*bounds, known)
        gaps.append(float(bounds.relative_gap))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05


def test_any_numbers_are_a_critic():
    x, y = cloud(30, 3, seed=0), cloud(30, 3, seed=1) + 2
    known = solved_by_lp(Problem(Points(x, y, p=1)))
    bounds = certify(known.problem, f=-x.sum(-1))
    check_truth_inside(*bounds, known)
    assert bounds.lower > 0.8 * known.value, "a linear critic sees most of a translation"


def test_rounding_slack_is_small_and_honest():
    """An integer problem whose value float64 knows exactly: the bracket holds it, a few thousand roundoffs wide."""
    n = 200
    x = torch.randperm(1000, generator=generator(0))[:n].to(F64)
    y = torch.randperm(1000, generator=generator(1))[:n].to(F64)
    a = torch.ones(n, dtype=F64)
    truth = float((x.sort().values - y.sort().values).abs().sum())  # integers: exact
    for cost in (Dense((x[:, None] - y).abs()), Points(x[:, None], y[:, None], p=1)):
        s = barrow.solve(Problem(cost, a, a.clone()))
        assert s.bounds.lower <= truth <= s.bounds.upper
        assert s.bounds.relative_gap <= 1e-9
    x3, y3 = cloud(n, 3, seed=0), cloud(n, 3, seed=1)
    s = barrow.solve(Problem(Points(x3, y3)))
    assert s.bounds.relative_gap <= 1e-9
    assert s.bounds.relative_gap >= EPS, "no float64 computation of this size is exact"
    known = Known(Problem(Points(x3, y3)), s.value.detach())
    check_truth_inside(*certify(known.problem, plan=s.plan, f=s.f), known)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_the_slack_holds_where_the_sums_cancel(epsilon, level):
    """Costs of 1e8 that cancel to a value of about 1: the slack must be that of the costs, not of the value."""
    known = KINDS["dense_lp"](0) if epsilon == 0 else backwards(0, epsilon=epsilon)
    shift_a, shift_b = 1e8 * cloud(known.problem.shape[0], seed=9), -1e8 * cloud(known.problem.shape[1], seed=8)
    a, b, C = known.problem.a, known.problem.b, known.problem.cost.C
    if level == 0:
        shift_a = shift_a - (a * shift_a).sum() / a.sum()
        shift_b = shift_b - (b * shift_b).sum() / b.sum()
    moved = Problem(Dense(C + shift_a[:, None] + shift_b), a, b, epsilon=epsilon)
    truth = known.value + (a * shift_a).sum() + (b * shift_b).sum()
    s = attempt(moved, Sinkhorn(tol=1e-6) if epsilon else None)
    check_truth_inside(*s.bounds, Known(moved, truth, trust=8 * EPS))
    if epsilon == 0:
        _, plan = lp(C, a, b)
        assert certify(moved, plan=plan, f=shift_a).upper >= truth - 1e-9, "the roundings of large terms do not cancel"


def test_a_difference_of_masses_within_rounding_is_inside_the_bracket():
    C, a, b = uniform(6, 5, seed=0), dirichlet(6, seed=0), dirichlet(5, seed=1)
    off = b * (1 + 5e-9)
    bounds = certify(Problem(Dense(C), a, off))
    truth = lp_value(Problem(Dense(C), a, b))
    for t in (truth, truth * (1 + 5e-9)):
        assert bounds.lower <= t <= bounds.upper
    s = barrow.solve(Problem(Dense(C), a, off))
    assert s.bounds.lower <= truth <= s.bounds.upper


def test_sparse_plans_of_others_are_cleaned():
    known = KINDS["dense_lp"](1)
    n, m = known.problem.shape
    rows, cols = torch.tensor([0, 0, 3, 2]), torch.tensor([1, 1, 4, 0])
    for mass in ([0.1, 0.2, -1.0, math.nan], [INF, 1.0, 1e300, 0.0], [0.0, 0.0, 0.0, 0.0]):
        plan = SparsePlan(rows, cols, torch.tensor(mass, dtype=F64), (n, m))
        check_truth_inside(*certify(known.problem, plan=plan), known)


def test_a_plan_in_single_precision_and_integers_with_gradients():
    known = KINDS["dense_lp"](1)
    value, plan = lp(known.problem.cost.C, known.problem.a, known.problem.b)
    bounds = certify(known.problem, plan=plan.float().requires_grad_(), f=torch.zeros(7, requires_grad=True))
    check_truth_inside(*bounds, known)
    assert not bounds.upper.requires_grad
    assert bounds.upper - value <= 1e-5 * scale_of(known.problem)


def test_costs_of_minus_infinity_are_refused():
    C = torch.tensor([[0.0, -INF], [1.0, 0.0]], dtype=F64)
    with pytest.raises(BadInput, match=r"C\[0, 1\] is -inf"):
        certify(Problem(Dense(C)))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"plan": torch.zeros(4, 3)}, r"plan has shape \(4, 3\), but the problem is 3 x 4"),
        ({"plan": torch.zeros(12)}, "plan has shape"),
        ({"plan": torch.tensor(1.0)}, "plan has shape"),
        ({"plan": torch.zeros(2, 3, 4)}, "plan"),
        ({"f": torch.zeros(4)}, r"f has shape \(4,\), but there are 3 atoms"),
        ({"g": torch.zeros(3)}, r"g has shape \(3,\), but there are 4 atoms"),
        ({"f": torch.tensor(0.0)}, r"f has shape \(\)"),
        ({"f": torch.zeros(5, 3)}, "f"),
        ({"f": 3.0}, r"f has shape \(\)"),
        ({"plan": [[1.0]]}, r"plan has shape \(1, 1\)"),
        ({"plan": "nonsense"}, "plan is a str"),
    ],
)
def test_malformed_witnesses_are_refused_in_words(given_, message):
    problem = Problem(Dense(torch.rand(3, 4)))
    with pytest.raises(ValueError, match=message) as caught:
        certify(problem, **given_)
    assert "expand" not in str(caught.value), "torch's own words say nothing to a user"


def test_plans_of_another_problem_are_refused():
    s = barrow.solve(Problem(Dense(torch.rand(2, 3, 4))))
    with pytest.raises(ValueError, match="plan has shape"):
        certify(Problem(Dense(torch.rand(3, 4))), plan=s.plan)
    with pytest.raises(ValueError, match="plan has shape"):
        certify(Problem(Dense(torch.rand(2, 3, 5))), plan=s.plan)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0.5, math.nan], [0.5, 0.5], r"a\[1\] is nan"),
        ([0.5, -0.5], [0.5, 0.5], r"a\[1\] is -0.5"),
        ([0.5, 0.5], [0.6, 0.6], "a sums to 1 but b sums to 1.2"),
        ([0.0, 0.0], [0.0, 0.0], "no mass"),
    ],
)
def test_data_that_make_no_problem(a, b, message):
    problem = Problem(Dense(torch.rand(2, 2)), torch.tensor(a), torch.tensor(b))
    for act in (certify, barrow.solve):
        with pytest.raises(BadInput, match=message):
            act(problem)
    if "sums" in message:
        bounds = certify(Problem(Dense(torch.rand(2, 2)), torch.tensor(a), torch.tensor(b), rho=1.0))
        assert bounds.lower <= bounds.upper


def test_a_wider_bracket_for_worse_witnesses_only():
    """What is optimal is not spoiled by certify: both bounds are those of the witnesses."""
    known = KINDS["backwards_exact"](0)
    s = barrow.solve(known.problem)
    best = certify(known.problem, plan=s.plan, f=s.f, g=s.g)
    assert best.gap <= 1e-10 * scale_of(known.problem)
    worse = certify(known.problem, plan=torch.ones(known.problem.shape, dtype=F64), f=torch.zeros_like(s.f))
    assert worse.lower <= best.lower + 1e-12
    assert worse.upper >= best.upper - 1e-12


def test_an_infinite_bracket_is_no_convergence():
    nothing = torch.tensor([INF], dtype=F64)
    zero = torch.zeros(1, dtype=F64)
    for lower in (-nothing, zero):
        proof = Bracket(zero, zero, zero, lower, nothing, nothing, nothing)
        assert not within(proof, 1e-3, F64).any()
        assert barrow.Bounds(lower, nothing).relative_gap == INF


@pytest.mark.parametrize("solver", [barrow.Sort(), barrow.Simplex()], ids=repr)
def test_the_bracket_is_honest_to_the_last_bit(solver):
    """Unit masses on a line: the truth is a sum of differences of floats, and rational arithmetic knows it."""
    n = 60
    for seed in range(12):
        x, y = cloud(n, 1, seed=seed), 1e3 + cloud(n, 1, seed=seed + 100)
        ones = torch.ones(n, dtype=F64)
        s = barrow.solve(Problem(Points(x, y, p=1), ones, ones.clone()), solver)
        left, right = (sorted(map(Fraction, t[:, 0].tolist())) for t in (x, y))
        truth = sum(abs(u - v) for u, v in zip(left, right, strict=True))
        for lower, upper in (s.bounds, certify(Problem(Points(x, y, p=1), ones, ones.clone()), plan=s.plan, f=s.f)):
            assert Fraction(float(lower)) <= truth <= Fraction(float(upper))
