"""Arcs that cost infinity: forbidden. Either some plan does without them, or the contradiction is proved."""

import math

import pytest
import torch

import barrow
from barrow import BadInput, Dense, Problem, Simplex, Sinkhorn, SolveError, Status, certify
from barrow.ops.hall import stranded
from barrow.solve import attempt
from problems import F64, dirichlet, permutation, uniform

INF = math.inf


def weights(*values):
    return torch.tensor(values, dtype=F64)


def holed(n, m, seed, share=0.4):
    """A matrix with forbidden arcs off a random plan of small integers, which keeps it feasible: C, a, b."""
    plan = torch.zeros(n, m, dtype=F64)
    for i in range(max(n, m)):
        plan[i % n, int(permutation(m, seed + i)[0])] += 1
        plan[int(permutation(n, seed + i)[0]), i % m] += 1
    C = uniform(n, m, seed=seed)
    C[(uniform(n, m, seed=seed + 1) < share) & (plan == 0)] = INF
    return C, plan.sum(1) / plan.sum(), plan.sum(0) / plan.sum()


CROSSED = torch.tensor([[1.0, INF], [INF, 2.0]], dtype=F64)
NARROW = torch.tensor([[1.0, INF, 2.0], [3.0, INF, INF], [1.0, 1.0, INF]], dtype=F64)  # row 1 may only go to column 0
LONELY = torch.tensor([[1.0, 2.0], [INF, INF]], dtype=F64)
UNREACHED = torch.tensor([[1.0, INF], [3.0, INF]], dtype=F64)


# -- exact -------------------------------------------------------------------------------------------------------------


def test_what_a_plan_can_do_without_is_never_used():
    s = barrow.solve(Problem(Dense(CROSSED)))
    assert s.bounds.lower <= 1.5 <= s.bounds.upper
    assert s.bounds.relative_gap <= 1e-12
    assert torch.equal(s.plan.dense(), torch.eye(2, dtype=F64) / 2)


@pytest.mark.parametrize(
    ("C", "a", "b", "words"),
    [
        (
            NARROW,
            weights(0.25, 0.5, 0.25),
            weights(0.4, 0.3, 0.3),
            r"^row 1 holds 0.5, of which 0.1 has no arc to leave by, as rows \{1\} hold 0.5 and may only go to columns "
            r"\{0\} that want 0.4: no plan of finite cost",
        ),
        (LONELY, None, None, "^row 1 holds 0.5, but no arc joins it to a column with mass: no plan"),
        (UNREACHED, None, None, "^column 1 holds 0.5, but no arc joins it to a row with mass: no plan"),
        (torch.full((3, 3), INF, dtype=F64), None, None, "^row 0 holds 0.333333, but no arc joins it"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"epsilon": 0.1}])
def test_a_contradiction_is_proved_and_named(C, a, b, words, options):
    with pytest.raises(SolveError, match=words) as caught:
        barrow.solve(Problem(Dense(C), a, b, **options))
    s = caught.value.solution
    assert s.status is Status.infeasible
    assert s.value == s.bounds.lower == s.bounds.upper == INF
    assert s.f.isfinite().all()
    assert s.g.isfinite().all()
    assert s.plan.dense().sum() > 0.1, "never a plan of zeros"
    assert "value=inf, truth in [inf, inf], infeasible" in repr(s)
    bounds = certify(Problem(Dense(C), a, b, **options))
    assert bounds.lower == bounds.upper == INF


def test_atoms_without_mass_may_be_without_arcs():
    for C, a, b in ((LONELY, weights(1, 0), weights(0.5, 0.5)), (UNREACHED, weights(0.5, 0.5), weights(1, 0))):
        for options in ({}, {"epsilon": 0.1}, {"epsilon": 0.1, "rho": 1.0}):
            leaf, a_, b_ = (t.clone().requires_grad_() for t in (C, a, b))
            s = barrow.solve(Problem(Dense(leaf), a_, b_, **options))
            s.value.backward()
            for t in (s.value, s.f, s.g, leaf.grad, a_.grad, b_.grad):
                assert t.isfinite().all()


def test_a_batch_solves_what_can_be_solved():
    C = torch.stack((NARROW, NARROW.nan_to_num(posinf=9.0), NARROW, NARROW))
    C[3, 0, 0] = math.nan
    a = weights(0.25, 0.5, 0.25).repeat(4, 1)
    b = torch.stack((weights(0.4, 0.3, 0.3), weights(0.4, 0.3, 0.3), weights(0.5, 0.25, 0.25), weights(1, 1, 1) / 3))
    with pytest.raises(BadInput, match=r"^C\[0, 0\] in problem 3 of 4 is nan") as caught:
        barrow.solve(Problem(Dense(C), a, b))
    s = caught.value.solution
    assert s.status == [Status.infeasible, Status.converged, Status.converged, Status.not_finite]
    alone = barrow.solve(Problem(Dense(C[2]), a[2], b[2]))
    assert torch.allclose(alone.value, s.value[2])
    with pytest.raises(SolveError, match=r"^problem 0 of 3: row 1 holds 0.5") as caught:
        barrow.solve(Problem(Dense(C[:3]), a[:3], b[:3]))
    assert caught.value.solution.status[1:] == [Status.converged] * 2


def test_a_fault_elsewhere_does_not_open_a_shared_matrix():
    a = torch.stack((weights(0.5, 0.5), weights(-1, 2), weights(0.5, 0.5)))
    b = torch.stack((weights(0.5, 0.5), weights(0.5, 0.5), weights(0.25, 0.75)))
    s = attempt(Problem(Dense(CROSSED), a, b))
    assert s.status == [Status.converged, Status.negative_weights, Status.infeasible]
    assert s.value[0] == pytest.approx(1.5)


@pytest.mark.parametrize("bad", [math.nan, -INF])
def test_only_plus_infinity_is_legal(bad):
    C = CROSSED.clone()
    C[1, 1] = bad
    with pytest.raises(BadInput, match=r"^C\[1, 1\] is"):
        barrow.solve(Problem(Dense(C)))


def test_the_gradient_at_forbidden_arcs_is_zero_and_the_rest_is_the_plan():
    C, a, b = holed(8, 9, seed=3)
    for options, solver in (({}, Simplex()), ({"epsilon": 0.2}, Sinkhorn(tol=1e-9))):
        leaf = C.clone().requires_grad_()
        s = barrow.solve(Problem(Dense(leaf), a, b, **options), solver)
        s.value.backward()
        assert (leaf.grad[C.isinf()] == 0).all()
        assert torch.allclose(leaf.grad, s.plan.dense(), atol=1e-15)
        assert torch.allclose(leaf.grad.sum(1), a, atol=1e-6)


def test_infinity_has_no_gradient():
    C = torch.stack((CROSSED, UNREACHED)).requires_grad_()
    attempt(Problem(Dense(C))).value.sum().backward()
    assert C.grad[0].isfinite().all()
    assert C.grad[1].isnan().any(), "rather than a number that means nothing"


def test_a_price_that_nobody_pays_is_the_same_as_a_prohibition():
    """Independent of all that knows about infinity: forbidden arcs at a price above any detour."""
    for seed in range(8):
        C, a, b = holed(9, 7, seed)
        s = barrow.solve(Problem(Dense(C), a, b))
        dear = barrow.solve(Problem(Dense(C.nan_to_num(posinf=1e3)), a, b))
        assert s.value == pytest.approx(float(dear.value), rel=1e-9)


# -- rounding of the weights -------------------------------------------------------------------------------------------


def test_blocks_that_agree_up_to_rounding_are_solved():
    # In binary 0.1 + 0.2 is not 0.3.
    C = torch.full((3, 2), INF, dtype=F64)
    C[:2, 0], C[2, 1] = 1, 5
    s = barrow.solve(Problem(Dense(C), weights(0.1, 0.2, 0.7), weights(0.3, 0.7)))
    assert s.bounds.lower <= 3.8 <= s.bounds.upper
    assert s.bounds.relative_gap <= 1e-12
    assert (s.plan.dense()[C.isinf()] == 0).all()
    assert certify(Problem(Dense(C), weights(0.1, 0.2, 0.7), weights(0.3, 0.7)), plan=s.plan).upper < 3.8 + 1e-9
    # A millionth is no rounding of float64.
    assert attempt(Problem(Dense(C), weights(0.100001, 0.2, 0.699999), weights(0.3, 0.7))).status is Status.infeasible


def test_blocks_of_weights_normalised_in_single_precision():
    C = torch.full((8, 6), INF)
    C[:4, :3], C[4:, 3:] = torch.rand(4, 3), torch.rand(4, 3)
    for seed in range(10):
        a = torch.cat((dirichlet(4, seed=seed), dirichlet(4, seed=seed + 50))).float() / 2
        b = torch.cat((dirichlet(3, seed=seed + 70), dirichlet(3, seed=seed + 90))).float() / 2
        s = barrow.solve(Problem(Dense(C), a, b))
        assert (s.plan.dense()[C.isinf()] == 0).all()
        parts = [
            barrow.solve(Problem(Dense(C[i : i + 4, j : j + 3].double()), one / one.sum(), two / two.sum())).value / 2
            for i, j in ((0, 0), (4, 3))
            for one, two in ((a[i : i + 4].double(), b[j : j + 3].double()),)
        ]
        assert abs(float(sum(parts) - s.value)) <= 1e-6
        assert s.bounds.lower - 1e-6 <= sum(parts) <= s.bounds.upper + 1e-6


def test_masses_that_differ_by_rounding_are_mended_within_the_bracket():
    C = torch.tensor([[1.0, INF], [INF, 2.0]], dtype=F64)
    s = barrow.solve(Problem(Dense(C), weights(0.5, 0.5), weights(0.5, 0.5 + 1e-7)))
    assert s.bounds.lower <= 1.5 <= s.bounds.upper
    assert s.bounds.lower <= 1.5 + 2e-7 <= s.bounds.upper


# -- certify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_anybodys_plan_is_mended_along_allowed_arcs(seed):
    C, a, b = holed(7, 8, seed)
    problem = Problem(Dense(C), a, b)
    truth = barrow.solve(problem)
    random = uniform(7, 8, seed=seed)
    plans = [
        None,
        random,
        truth.plan,
        truth.plan.dense() + 1e-3 * random,
        torch.zeros(7, 8),
        1e-9 * random,
        INF * random,
    ]
    for plan in plans:
        bounds = certify(problem, plan=plan, f=truth.f)
        assert bounds.lower <= truth.value
        assert truth.bounds.lower <= bounds.upper < INF, "a plan exists, so one is found"
    assert certify(problem, plan=truth.plan, f=truth.f, g=truth.g).relative_gap <= 1e-12
    near = certify(problem, plan=truth.plan.dense() + 1e-6 * random, f=truth.f)
    assert near.gap <= 1e-3, "and near a good one, a good one"
    exact = attempt(problem, Simplex(max_steps=2))
    assert exact.bounds.lower <= truth.bounds.upper
    assert truth.bounds.lower <= exact.bounds.upper


def test_a_plan_on_forbidden_arcs_is_no_upper_bound():
    bounds = certify(Problem(Dense(CROSSED)), plan=torch.full((2, 2), 0.25), f=torch.zeros(2))
    assert bounds.lower <= 1.5 <= bounds.upper < INF
    bounds = certify(Problem(Dense(CROSSED), weights(0.5, 0.5), weights(0.4, 0.6)), plan=torch.full((2, 2), 0.25))
    assert bounds.lower == bounds.upper == INF


# -- entropic ----------------------------------------------------------------------------------------------------------


def scaled(C, a, b, epsilon, rounds=20_000):
    """Sinkhorn's own iteration on exp(-C / epsilon): its value, by the primal objective."""
    K = a[:, None] * b * torch.exp(-C / epsilon)
    u, v = torch.ones_like(a), torch.ones_like(b)
    for _ in range(rounds):
        u = a / (K @ v)
        v = b / (K.T @ u)
    P = u[:, None] * K * v
    kl = torch.where(P > 0, P * (P / (a[:, None] * b)).log(), 0).sum()
    return (torch.where(P > 0, C * P, 0).sum() + epsilon * kl), P


@pytest.mark.parametrize("seed", range(4))
def test_entropic_transport_around_forbidden_arcs(seed):
    C, a, b = holed(6, 7, seed, share=0.3)
    value, P = scaled(C, a, b, 0.2)
    s = barrow.solve(Problem(Dense(C), a, b, epsilon=0.2), Sinkhorn(tol=1e-8))
    assert s.bounds.lower - 1e-8 <= value <= s.bounds.upper + 1e-8
    assert torch.allclose(s.plan.dense(), P, atol=1e-4)
    assert s.f.isfinite().all()
    assert s.g.isfinite().all()


@pytest.mark.parametrize("rho", [1.0, (INF, 1.0), (1.0, INF)])
def test_a_prohibition_is_the_limit_of_high_prices(rho):
    C, a, b = holed(6, 5, seed=7)
    s = barrow.solve(Problem(Dense(C), a, b, epsilon=0.2, rho=rho), Sinkhorn(tol=1e-9))
    dear = barrow.solve(Problem(Dense(C.nan_to_num(posinf=50.0)), a, b, epsilon=0.2, rho=rho), Sinkhorn(tol=1e-9))
    assert s.value == pytest.approx(float(dear.value), rel=1e-7)


def test_one_soft_side_needs_only_the_other_to_be_served():
    for C, rho, feasible in (
        (UNREACHED, (INF, 1.0), True),
        (UNREACHED, (1.0, INF), False),
        (LONELY, (1.0, INF), True),
        (LONELY, (INF, 1.0), False),
        (LONELY, 1.0, True),
    ):
        s = attempt(Problem(Dense(C), epsilon=0.1, rho=rho))
        assert s.converged == feasible
        assert s.status is (Status.converged if feasible else Status.infeasible)
        assert s.bounds.upper.isfinite() == feasible


def test_an_optimum_that_potentials_only_approach_keeps_an_honest_bracket():
    """Row 1 fills column 1, so that arc (0, 1) is allowed but empty: its potential would be minus infinity."""
    C = torch.tensor([[0.0, 0.0], [INF, 0.0]], dtype=F64)
    truth = 0.1 * 2 * 0.5 * math.log(2)
    s = attempt(Problem(Dense(C), epsilon=0.1), Sinkhorn(tol=1e-2, max_steps=3000))
    assert s.bounds.lower <= truth <= s.bounds.upper
    assert s.f.isfinite().all()
    assert s.converged


# -- the proof ---------------------------------------------------------------------------------------------------------


def test_hall():
    for seed in range(30):
        n, m = 6, 5
        allowed = uniform(n, m, seed=seed) < 0.4
        a, b = (torch.randint(0, 5, (k,), generator=torch.Generator().manual_seed(seed)).to(F64) for k in (n, m))
        a[0] += (b.sum() - a.sum()).clamp_min(0) + 1
        b[0] += a.sum() - b.sum()
        found = stranded(a, b, allowed)
        worst = max(
            float(a[rows].sum() - b[allowed[rows].any(0)].sum())
            for k in range(2**n)
            for rows in (torch.tensor([bool(k >> i & 1) for i in range(n)]),)
        )
        assert found.excess == pytest.approx(max(worst, 0), abs=1e-12), "no set of rows is worse"
        assert float(found.left.sum()) == pytest.approx(max(worst, 0), abs=1e-12)
        assert (allowed[found.rows].any(0) & (b > 0) <= found.cols).all(), "all columns that these rows may reach"
