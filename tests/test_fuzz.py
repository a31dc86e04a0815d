"""Small nasty problems, drawn at random, against SciPy's HiGHS, through every exact solver that accepts them.

Some hundreds here; as many thousands as one likes with BARROW_FUZZ=5000 pytest tests/test_fuzz.py.
"""

import math
import os
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import barrow
from barrow import Auto, Dense, Incompatible, Points, Problem, Simplex, Sort, SparsePlan, Status, Tree, TreeFlow
from barrow.solve import attempt
from barrow.solvers.assignment import Assignment
from barrow.solvers.column_generation import ColumnGeneration
from problems import F64

SOLVERS = [Auto(), Simplex(), Assignment(), ColumnGeneration(), Sort(), TreeFlow()]  # a new one is one more entry
MANY = int(os.environ.get("BARROW_FUZZ", "0"))
fuzz = settings(max_examples=MANY or 250, derandomize=not MANY)


def shares(draw, n, m):
    """Two sides of whole numbers with one sum: feasibility is decided by at least one unit, never by rounding."""
    most = draw(st.sampled_from([1, 2, 5, 40]))
    a = draw(st.lists(st.integers(0, most), min_size=n, max_size=n))
    b = draw(st.lists(st.integers(0, most), min_size=m, max_size=m))
    a[draw(st.integers(0, n - 1))] += 1 + max(0, sum(b) - sum(a))
    b[draw(st.integers(0, m - 1))] += sum(a) - sum(b)
    return a, b


@st.composite
def matrices(draw):
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    entry = draw(
        st.sampled_from(
            [
                st.integers(0, 2),  # ties
                st.integers(-3, 3),
                st.just(0),
                st.floats(0, 1),
                st.integers(-12, 12).map(lambda e: 10.0**e),  # wildly different
                st.integers(0, 9).map(lambda k: 1e6 + k),  # far from zero
            ]
        )
    )
    C = np.array(draw(st.lists(entry, min_size=n * m, max_size=n * m)), dtype=float).reshape(n, m)
    C *= draw(st.sampled_from([1.0, 1.0, 1e-12, 1e12]))
    if draw(st.booleans()):
        hole = st.sampled_from([False, False, True] if draw(st.booleans()) else [False, True, True])
        C[np.array(draw(st.lists(hole, min_size=n * m, max_size=n * m))).reshape(n, m)] = np.inf
    return Dense(torch.from_numpy(C))


@st.composite
def clouds(draw):
    d, n, m = draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    place = draw(st.sampled_from([st.integers(0, 2), st.floats(-1, 1), st.just(1.0)]))  # duplicates; one place for all
    x, y = (draw(st.lists(place, min_size=k * d, max_size=k * d)) for k in (n, m))
    scale = draw(st.sampled_from([1.0, 1e-6, 1e6]))
    x, y = (scale * torch.tensor(t, dtype=F64).reshape(-1, d) for t in (x, y))
    return Points(x, y, draw(st.sampled_from([1, 2, 1.5, 3])), draw(st.sampled_from([1, 2, math.inf])))


@st.composite
def trees(draw):
    nodes = draw(st.integers(2, 9))
    parent = [-1, *(draw(st.integers(0, v - 1)) for v in range(1, nodes))]
    length = draw(st.lists(st.sampled_from([0.0, 1.0, 1e-9, 1e9, 0.3]), min_size=nodes, max_size=nodes))
    return Tree(torch.tensor(parent), torch.tensor(length, dtype=F64))


@st.composite
def problems(draw):
    cost = draw(st.one_of(matrices(), clouds(), trees()))
    a, b = shares(draw, *cost.shape)
    return Problem(cost, torch.tensor(a, dtype=F64), torch.tensor(b, dtype=F64)), a, b


def optimum(C, a, b):
    """The value by HiGHS in units of the largest cost, or None where there is no plan."""
    n, m = C.shape
    A = np.concatenate((np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))))[:-1]
    allowed = np.isfinite(C).flatten()
    if not allowed.any():
        return None
    scale = max(np.abs(C[np.isfinite(C)]).max(), 1e-300)
    rhs = np.concatenate((a, b)).astype(float)[:-1]
    found = linprog(C.flatten()[allowed] / scale, A_eq=A[:, allowed], b_eq=rhs, method="highs")
    assert found.status in (0, 2), found.message
    return None if found.status == 2 else found.fun * scale


def check_exactly(C, a, b, s):
    """The bracket against the witnesses in rational arithmetic, which proves what the truth is."""
    n, m = C.shape
    exact = [[None if math.isinf(c) else Fraction(c) for c in row] for row in C.tolist()]
    rows, cols = range(n), range(m)
    g = [Fraction(t) for t in s.g.tolist()]
    f = [min((exact[i][j] - g[j] for j in cols if exact[i][j] is not None), default=0) for i in rows]
    dual = sum(x * y for x, y in zip(f, a, strict=True)) + sum(x * y for x, y in zip(g, b, strict=True))
    assert dual <= Fraction(float(s.bounds.upper))
    P = s.plan.dense()
    units = [[round(float(P[i, j])) for j in cols] for i in rows]  # vertices move whole units
    if isinstance(s.plan, SparsePlan) and [sum(row) for row in units] == a and [sum(c) for c in zip(*units)] == b:  # noqa: B905
        primal = sum(units[i][j] * exact[i][j] for i in rows for j in cols if units[i][j])
        assert primal >= Fraction(float(s.bounds.lower))


def check_infeasible(problem, s):
    assert s.status is Status.infeasible
    assert s.value == s.bounds.lower == s.bounds.upper == math.inf
    assert s.bounds.gap == 0
    rows, cols = s.plan.marginals()
    assert torch.allclose(rows, problem.a)
    assert torch.allclose(cols, problem.b)
    assert s.f.isfinite().all()
    assert s.g.isfinite().all()


def check_optimal(problem, C, truth, s):
    assert s.status is Status.converged
    largest = max(float(t.abs()) for t in problem.cost.limits()) * float(problem.a.sum())
    assert float(s.bounds.lower) <= truth + 1e-7 * largest
    assert float(s.bounds.upper) >= truth - 1e-7 * largest
    assert abs(float(s.value) - truth) <= 1e-7 * largest
    assert s.bounds.lower <= s.value <= s.bounds.upper
    assert float(s.bounds.gap) <= 1e-11 * largest
    P = s.plan.dense()
    assert (P >= 0).all()
    assert (P[torch.from_numpy(np.isinf(C))] == 0).all()
    for marginal, w in zip(s.plan.marginals(), (problem.a, problem.b), strict=True):
        assert (marginal - w).abs().max() <= 1e-13 * w.sum()
    assert s.f.isfinite().all()
    assert s.g.isfinite().all()


@fuzz
@given(problems())
def test_exact_solvers_agree_with_linear_programming(drawn):
    problem, a, b = drawn
    C = problem.cost.dense().numpy()
    truth = optimum(C, a, b)
    taken = [solver for solver in SOLVERS if solver.rejects(problem) is None]
    assert len(taken) >= 2
    for solver in taken:
        s = attempt(problem, solver)
        if truth is None:
            check_infeasible(problem, s)
        else:
            check_optimal(problem, C, truth, s)
            if isinstance(problem.cost, Dense):  # other entries are themselves rounded
                check_exactly(C, a, b, s)


@fuzz
@given(matrices(), st.data())
def test_a_batch_is_a_loop(cost, data):
    """Some feasible, some not, some without any arc: nobody disturbs the others."""
    n, m = cost.shape
    sides = [shares(data.draw, n, m) for _ in range(3)]
    a, b = (torch.tensor(w, dtype=F64) for w in zip(*sides, strict=True))
    C = torch.stack((cost.C, torch.full_like(cost.C, math.inf), cost.C.nan_to_num(posinf=1.0)))
    for matrix in (cost.C, C):
        together = attempt(Problem(Dense(matrix), a, b))
        for k in range(3):
            one_cost = Dense(matrix[k] if matrix.dim() == 3 else matrix)
            alone = attempt(Problem(one_cost, a[k], b[k]))
            slack = 1e-12 * float(a[k].sum()) * max(float(t.abs()) for t in one_cost.limits())  # of rounding
            assert together.status[k] is alone.status
            for one, two in zip((alone.value, *alone.bounds), (together.value, *together.bounds), strict=True):
                assert torch.allclose(one, two[k], rtol=1e-12, atol=slack)


def test_every_exact_solver_is_in_the_list():
    def known(kind):
        return [kind, *(one for sub in kind.__subclasses__() for one in known(sub))]

    exact = set()
    for kind in known(barrow.Solver)[1:]:
        problem = Problem(Points(torch.zeros(2, 1), torch.ones(2, 1)))
        tree = Problem(Tree(torch.tensor([-1, 0, 0]), torch.ones(3)))
        for question in (problem, tree, Problem(Dense(torch.zeros(2, 2)))):
            try:
                barrow.solve(question, kind())
                exact.add(kind)
            except Incompatible:
                pass
    assert exact == {type(solver) for solver in SOLVERS}
