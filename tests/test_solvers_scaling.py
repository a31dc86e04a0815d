"""Many measures under one cost: products of matrices instead of passes."""

import math

import pytest
import torch

import barrow
from barrow import Dense, Problem, Sinkhorn, Status
from barrow.cost.kernel import REACH, SINGLE, Kernel
from barrow.ops.sinkhorn import ROUNDED
from barrow.solve import attempt
from barrow.solvers import scaling
from problems import F64, Known, check_truth_inside, cloud, dirichlet, uniform

INF = math.inf
B = 10


def cost(n=12, m=9, seed=0):
    return torch.cdist(cloud(n, 2, seed=seed), cloud(m, 2, seed=seed + 1)).square()


def one_by_one(problem, tol):
    """The answers that each problem has alone, where there is no kernel."""
    parts = [problem.select(torch.tensor([k])) for k in range(len(problem.a))]
    return torch.cat([barrow.solve(part, Sinkhorn(tol=tol, max_steps=100_000)).value for part in parts])


def asked(epsilon=1.0, rho=INF, zeros=0, negative=0.0, reference=None, seed=0):
    a, b = dirichlet(B, 12, seed=seed, zeros=zeros), dirichlet(B, 9, seed=seed + 1, zeros=zeros)
    return Problem(Dense(cost(seed=seed) - negative), a, b, epsilon=epsilon, rho=rho, reference=reference)


CASES = {
    "balanced": {},
    "unbalanced": {"rho": 0.7},
    "semi-relaxed, left": {"rho": (0.5, INF)},
    "semi-relaxed, right": {"rho": (INF, 0.5)},
    "weights that are zero": {"zeros": 2},
    "unbalanced, weights that are zero": {"zeros": 2, "rho": 0.7},
    "negative costs": {"negative": 3.0},
    "another reference": {"reference": (uniform(B, 12, seed=5, low=0.1), uniform(B, 9, seed=6, low=0.1))},
    "too wide for single precision": {"epsilon": 0.2},
}


@pytest.mark.parametrize("tol", [1e-3, 1e-9])
@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_those_of_each_problem_alone(case, tol, monkeypatch):
    used = []
    search = scaling.scaling
    monkeypatch.setattr("barrow.solvers.sinkhorn.scaling", lambda *a, **k: used.append(k["fine"]) or search(*a, **k))
    problem = asked(**CASES[case])
    s = barrow.solve(problem, Sinkhorn(tol=tol))
    assert used
    assert used[-1] == (tol == 1e-9)
    truth = one_by_one(problem, 1e-11)
    check_truth_inside(*s.bounds, Known(problem, truth))
    assert ((s.value - truth).abs() <= tol * truth.abs()).all()
    assert (s.bounds.upper - s.bounds.lower <= 3 * tol * s.bounds.upper.abs()).all()  # with its rounding


@pytest.mark.parametrize("epsilon", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("seed", range(4))
def test_sparse_weights_and_sharp_kernels(epsilon, seed):
    # Potentials of atoms without weight must not run away, nor acceleration go round in circles.
    n, many = 13, 16
    x = cloud(n, 2, seed=seed)
    C = torch.cdist(x, x)
    C = C / C.median()
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(many, n, dtype=F64, generator=generator) ** 3 for _ in range(2))
    a, b = a * (a > 0.05), b * (b > 0.4)
    a[:, 0], b[:, 1] = 0.001, 0.002
    problem = Problem(Dense(C), a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), epsilon=epsilon)
    assert problem.cost.kernel(many, epsilon) is not None
    s = attempt(problem, Sinkhorn(tol=1e-4, max_steps=1000))
    assert set(s.status) == {Status.converged}
    truth = one_by_one(problem, 1e-9)
    check_truth_inside(*s.bounds, Known(problem, truth))
    assert ((s.value - truth).abs() <= 1e-4 * truth.abs()).all()


def test_who_is_not_settled_soon_is_annealed(monkeypatch):
    monkeypatch.setattr("barrow.solvers.sinkhorn.PATIENCE", 3)
    problem = asked(epsilon=0.5)
    s = barrow.solve(problem, Sinkhorn(tol=1e-6))
    assert int(s.steps.min()) > 3
    truth = one_by_one(problem, 1e-11)
    check_truth_inside(*s.bounds, Known(problem, truth))
    assert ((s.value - truth).abs() <= 1e-6 * truth.abs()).all()


def test_a_kernel_in_and_out_of_range():
    C = cost()
    assert Dense(C).kernel(B, 1.0).reach <= SINGLE
    wide = float(C.max() - C.min()) / REACH
    assert Dense(C).kernel(B, 1.01 * wide).reach > SINGLE
    assert Dense(C).kernel(B, 0.99 * wide) is None
    assert Dense(C).kernel(2, 0.2) is None
    assert Dense(C.float()).kernel(B, 0.2) is None
    assert Dense(C.clone().index_fill_(0, torch.tensor([0]), INF)).kernel(B, 0.2) is None
    assert Dense(C.expand(B, 12, 9)).kernel(B, 0.2) is None


def test_a_kernel_is_made_once_for_each_epsilon():
    both = Dense(cost())
    first = both.kernel(B, 0.2)
    assert both.kernel(B, torch.full((B,), 0.2, dtype=F64)) is first
    assert torch.equal(both.T.kernel(B, 0.2).K, first.K.mT)
    assert both.kernel(B, 0.3) is not first
    assert both.kernel(B, torch.linspace(0.2, 0.3, B, dtype=F64)) is None


@pytest.mark.parametrize("epsilon", [5.0, 1.0, 0.1])
@pytest.mark.parametrize("far", [0.0, 500.0, -500.0])
def test_passes_of_a_kernel(epsilon, far):
    C = cost() + far
    h, u, a = cloud(B, 9, seed=3), cloud(B, 12, seed=4), dirichlet(B, 12, seed=5)
    h[0], h[1, 3] = -INF, -INF
    kernel, plain = Kernel.of(C, epsilon), Dense(C.expand(B, 12, 9).contiguous())
    soft = kernel.soft_c_transform(h)
    assert (soft[0] == INF).all()
    assert torch.allclose(soft, plain.soft_c_transform(h, epsilon), rtol=1e-13, atol=1e-11)
    for arguments in ((a, None, 1.0), (a, u, 1.0), (None, u, 0.6)):
        found, wanted = kernel.gibbs_pass(h, *arguments), plain.gibbs_pass(h, epsilon, *arguments)
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_measure_against_itself():
    a, C = dirichlet(B, 12, seed=0), cost(12, 12, seed=3)
    C = C + C.T
    one = barrow.solve(Problem(Dense(C), a, a, epsilon=1.0), Sinkhorn(tol=1e-8))
    two = barrow.solve(Problem(Dense(C), a, a.clone(), epsilon=1.0), Sinkhorn(tol=1e-10))
    assert torch.allclose(one.f, one.g, rtol=1e-3, atol=1e-3)
    assert torch.allclose(one.value, two.value, rtol=1e-7)


def test_problems_that_are_done_leave_and_the_others_go_on():
    """Half of the problems are done at once; their answers are kept while the others need many more iterations."""
    C = cost(40, 40, seed=2)
    easy = torch.full((B, 40), 1 / 40, dtype=F64)
    hard = dirichlet(B, 40, seed=1).square()
    a = torch.cat((easy, hard / hard.sum(-1, keepdim=True)))
    b = torch.cat((easy, dirichlet(B, 40, seed=2)))
    problem = Problem(Dense(C), a, b, epsilon=1.0)
    s = barrow.solve(problem, Sinkhorn(tol=1e-5))
    assert int(s.steps.min()) < int(s.steps.max())
    check_truth_inside(*s.bounds, Known(problem, one_by_one(problem, 1e-11)))
    again = barrow.solve(problem, Sinkhorn(tol=1e-5), start=s)
    assert int(again.steps.max()) <= 3


def test_limits_are_told_with_an_honest_bracket():
    problem = asked(epsilon=0.5)
    truth = one_by_one(problem, 1e-11)
    for limits in ({"max_steps": 1}, {"max_steps": 2}, {"time_limit": 1e-9}):
        s = attempt(problem, Sinkhorn(tol=1e-12, **limits))
        check_truth_inside(*s.bounds, Known(problem, truth))
        assert set(s.status) == {Status.step_limit if "max_steps" in limits else Status.time_limit}


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
def test_units_do_not_matter(scale):
    problem = asked()
    scaled = Problem(Dense(problem.cost.C * scale), problem.a, problem.b, epsilon=scale)
    s, t = (barrow.solve(p, Sinkhorn(tol=1e-3)) for p in (problem, scaled))
    assert torch.allclose(t.value / scale, s.value, rtol=1e-5)


def test_what_went_astray_is_taken_back():
    """Where the error grew much, the next iterate is the plain step before it."""
    x, r, w = cloud(2, 5, seed=0), cloud(2, 5, seed=1), dirichlet(2, 5, seed=2)
    mixing = scaling._Mixing(w, 1.7)
    assert torch.allclose(mixing.next(x, r, torch.tensor([0.1, 0.1], dtype=F64)), x + 1.7 * r)
    fell = mixing.next(x + 1, r / 2, torch.tensor([0.5, 0.3], dtype=F64))
    assert torch.allclose(fell[0], (x + r)[0])
    assert not torch.allclose(fell[1], (x + r)[1])
    assert mixing.known.tolist() == [0, 2]
    mixing.select(torch.tensor([0]))
    begun_anew = mixing.next(x[:1], r[:1], torch.ones(1, dtype=F64))
    assert torch.allclose(begun_anew, (x + 1.7 * r)[:1])


def test_mixing_is_least_squares():
    """Linear steps r = c - M x in two unknowns: two looks back find the fixed point, up to the ridge."""
    M = torch.tensor([[0.9, 0.2], [0.2, 0.3]], dtype=F64)
    c, w = cloud(1, 2, seed=0), torch.ones(1, 2, dtype=F64)
    x, mixing = torch.zeros(1, 2, dtype=F64), scaling._Mixing(w, 1.0)
    for _ in range(12):
        x = mixing.next(x, c - x @ M, torch.zeros(1, dtype=F64))
    assert torch.allclose(x @ M, c, atol=1e-8)


@pytest.mark.parametrize("bfloats", [False, True])
def test_rough_products_change_nothing_in_the_end(bfloats, monkeypatch):
    monkeypatch.setattr(scaling, "has_rough_products", lambda device: bfloats)
    problem = asked()
    for tol in (0.3, 1e-3, 1e-5):
        s = barrow.solve(problem, Sinkhorn(tol=tol))
        check_truth_inside(*s.bounds, Known(problem, one_by_one(problem, 1e-11)))
        assert ((s.bounds.upper - s.bounds.lower) <= 1.01 * tol * s.bounds.upper).all()


def test_rough_products_that_are_too_rough_are_given_up(monkeypatch):
    monkeypatch.setattr(scaling, "has_rough_products", lambda device: True)
    monkeypatch.setattr(scaling, "ROUGH", -1.0)
    s = barrow.solve(asked(), Sinkhorn(tol=1e-3))
    assert scaling.ROUGHLY < int(s.steps.min()) <= int(s.steps.max()) < 100


def test_what_single_precision_cannot_tell_is_left_to_double(monkeypatch):
    """Errors asked for that are below those that single precision makes up."""
    codes = []
    search = scaling.scaling

    def watched(*arguments, **options):
        found = search(*arguments, **options)
        codes.append((options["fine"], set(found.code.tolist())))
        return found

    monkeypatch.setattr("barrow.solvers.sinkhorn.scaling", watched)
    monkeypatch.setattr("barrow.solvers.sinkhorn.target_error", lambda tol: 1e-12)
    C = cost(200, 200)
    problem = Problem(Dense(C), dirichlet(B, 200, seed=1), dirichlet(B, 200, seed=2), epsilon=float(C.max()) / 50)
    s = attempt(problem, Sinkhorn(tol=5e-5, max_steps=500))
    assert s.status == [Status.converged] * B
    assert not codes[0][0]
    assert ROUNDED in codes[0][1]
    assert int(s.steps.max()) < 400
