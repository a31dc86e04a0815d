"""How a solve is limited, watched and interrupted."""

import dataclasses
import math
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

import barrow
from barrow import Auto, Dense, Points, Problem, Progress, Simplex, Sinkhorn, SolveError, Sort, Status, TreeFlow
from barrow.ops import network_simplex
from barrow.solve import attempt
from barrow.solvers.base import Watch
from problems import KINDS, check_truth_inside, cloud, solved_by_lp, uniform

ITERATIVE = (Simplex, Sinkhorn, Auto)
NOW = 1e-9  # a limit that is over before anything begins


@pytest.fixture
def threads():
    """Two threads, whatever the tests are given."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def entropic(n=40, epsilon=1e-3, batch=()):
    return Problem(Points(cloud(*batch, n, 2, seed=0), cloud(*batch, n, 2, seed=1)), epsilon=epsilon)


# -- time limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, "soon", True])
def test_bad_time_limits(solver, value):
    with pytest.raises(ValueError, match="time_limit is"):
        solver(time_limit=value)


@pytest.mark.parametrize("solver", ITERATIVE)
def test_good_time_limits(solver):
    assert solver(time_limit=3).time_limit == 3.0
    assert solver(time_limit=math.inf).time_limit == math.inf
    assert solver().time_limit is None


def test_the_simplex_at_a_time_limit_has_an_honest_bracket():
    known = solved_by_lp(Problem(Dense(uniform(12, 15, seed=0))))
    with pytest.raises(SolveError, match=r"certified only truth in .* after 0 steps: time_limit was reached") as caught:
        barrow.solve(known.problem, Simplex(time_limit=NOW))
    s = caught.value.solution
    assert s.status is Status.time_limit
    assert s.status.code == 9
    check_truth_inside(*s.bounds, known)
    rows, cols = s.plan.marginals()
    assert torch.allclose(rows, known.problem.a, atol=1e-14), "never a plan of zeros"
    assert torch.allclose(cols, known.problem.b, atol=1e-14)
    assert s.value <= known.value + 1e-9


@pytest.mark.parametrize("kind", ["entropic", "unbalanced", "semi_relaxed_right", "entropic_batch"])
def test_sinkhorn_at_a_time_limit_has_an_honest_bracket(kind):
    known = KINDS[kind](0)
    s = attempt(known.problem, Sinkhorn(tol=1e-15, time_limit=NOW))
    assert (s.codes == Status.time_limit.code).all()
    assert (s.steps == 1).all()
    check_truth_inside(*s.bounds, known)
    assert s.plan.dense().isfinite().all()


def test_a_batch_at_a_time_limit_has_a_plan_for_every_problem():
    problem = Problem(Dense(uniform(5, 9, 9, seed=0)))
    s = attempt(problem, Simplex(time_limit=NOW))
    assert s.status == [Status.time_limit] * 5
    exact = barrow.solve(problem, Simplex())
    assert (s.bounds.lower <= exact.bounds.upper).all()
    assert (exact.bounds.lower <= s.bounds.upper).all()
    assert torch.allclose(s.plan.marginals()[0], problem.a, atol=1e-14)


def test_what_is_within_tol_at_the_limit_has_converged():
    problem = Problem(Dense(1 + 0.01 * uniform(9, 9, seed=0)))
    assert attempt(problem, Simplex(time_limit=NOW)).status is Status.time_limit
    assert attempt(problem, Simplex(time_limit=NOW, tol=0.05)).status is Status.converged
    assert attempt(Problem(Dense(torch.zeros(4, 4))), Simplex(time_limit=NOW)).status is Status.converged


@pytest.mark.parametrize("solver", [Simplex, Sinkhorn])
def test_a_generous_limit_changes_nothing(solver):
    problem = entropic(epsilon=0.3) if solver is Sinkhorn else Problem(Dense(uniform(30, 30, seed=0)))
    free, limited = barrow.solve(problem, solver()), barrow.solve(problem, solver(time_limit=1e6))
    assert torch.equal(free.value, limited.value)
    assert torch.equal(free.plan.dense(), limited.plan.dense())
    assert free.steps == limited.steps


def test_auto_hands_the_limit_on_where_there_is_one():
    x, y, line = torch.rand(3, 2), torch.rand(4, 2), torch.rand(3, 1)
    tree = barrow.Tree(torch.tensor([-1, 0, 0]), torch.ones(3))
    auto = Auto(time_limit=5.0)
    assert auto.select(Problem(Points(x, y))) == Simplex(time_limit=5.0)
    assert auto.select(Problem(Points(x, x), epsilon=1.0)) == Sinkhorn(time_limit=5.0)
    assert auto.select(Problem(Points(line, line))) == Sort()
    assert auto.select(Problem(tree)) == TreeFlow()
    assert Auto(1e-3, 5.0).select(Problem(Points(x, y))) == Simplex(tol=1e-3, time_limit=5.0)


def test_the_watch_counts_from_the_beginning():
    watch = Watch()
    assert watch.left(None) == math.inf
    assert watch.left(math.inf) == math.inf
    before = watch.left(100.0)
    time.sleep(0.01)
    assert watch.left(100.0) <= before - 0.01
    assert watch.listener is None


# -- progress ----------------------------------------------------------------------------------------------------------


def heard(problem, solver=None):
    """What a solve says of its progress, and on which threads."""
    words, where = [], set()

    def listen(now):
        words.append(now)
        where.add(threading.get_ident())

    return attempt(problem, solver, progress=listen), words, where


def test_sinkhorn_tells_its_gap():
    s, words, where = heard(entropic(epsilon=0.05), Sinkhorn(tol=1e-5))
    assert all(isinstance(word, Progress) for word in words)
    sweeps = [word for word in words if word.stage == "passes"]
    assert words[-1].stage == "proof"
    assert len(sweeps) == len(words) - 1
    assert sweeps[0].done == 1
    assert sweeps[-1].done == s.steps
    assert sweeps[-1].gap <= 1e-5
    assert [word.done for word in sweeps] == sorted(word.done for word in sweeps)
    assert where == {threading.get_ident()}
    assert words[0].seconds >= 0
    assert [word.seconds for word in words] == sorted(word.seconds for word in words)


def test_the_simplex_tells_its_pivots():
    s, words, where = heard(Problem(Dense(uniform(300, 300, seed=0))), Simplex())
    assert [word.stage for word in words][-1] == "proof"
    pivots = [word for word in words if word.stage == "pivots"]
    assert pivots[0].done == 0
    assert all(word.total is None and word.done <= s.steps for word in pivots)
    assert where == {threading.get_ident()}


def test_a_batch_tells_the_number_of_its_problems(threads):
    _, words, where = heard(Problem(Dense(uniform(7, 30, 30, seed=0))), Simplex())
    problems = [word for word in words if word.stage == "problems"]
    assert {word.stage for word in words} == {"problems", "proof"}
    assert problems[-1].done == problems[-1].total == 7
    assert [word.done for word in problems] == sorted(word.done for word in problems)
    assert where == {threading.get_ident()}


def test_watching_changes_nothing():
    for problem in (entropic(epsilon=0.1), Problem(Dense(uniform(30, 30, seed=0)))):
        s, _, _ = heard(problem)
        assert torch.equal(s.value, attempt(problem).value)


def test_the_watch_keeps_its_pace():
    words = []
    watch = Watch(words.append)
    for k in range(1000):
        watch.tell("one", k)
    watch.tell("two", 0)
    watch.tell("two", 1, 5, 0.5, now=True)
    assert words[0].done == 0
    assert len(words) < 500
    assert dataclasses.replace(words[-1], seconds=0.0) == Progress("two", 1, 5, 0.5)
    assert words[-2].stage == "two"


def test_progress_must_be_a_function():
    with pytest.raises(ValueError, match=r"progress is True, but it must be a function of one barrow\.Progress"):
        barrow.solve(entropic(), progress=True)


class EnoughError(Exception):
    pass


RAISING = {
    "one": (lambda: Problem(Dense(uniform(200, 200, seed=0))), Simplex(), "pivots"),
    "batch": (lambda: Problem(Dense(uniform(9, 40, 40, seed=0))), Simplex(), "problems"),
    "sinkhorn": (entropic, Sinkhorn(), "passes"),
    "proof": (lambda: Problem(Points(cloud(5, 1, seed=0), cloud(5, 1, seed=1))), Sort(), "proof"),
}


@pytest.mark.parametrize("case", RAISING)
def test_a_listener_that_raises_ends_the_solve_and_breaks_nothing(case, threads):
    make, solver, stage = RAISING[case]
    problem, enough = make(), EnoughError("seen enough")

    def listen(now):
        if now.stage == stage:
            raise enough

    for _ in range(3):
        with pytest.raises(EnoughError) as caught:
            barrow.solve(problem, solver, progress=listen)
        assert caught.value is enough, "unharmed"
    assert attempt(problem, Simplex() if problem.epsilon == 0 else Sinkhorn(max_steps=3)).value.isfinite().all()


def test_a_listener_may_solve():
    """Nested solves: nothing of a watch is shared."""
    inner = Problem(Dense(uniform(20, 20, seed=3)))
    values = []
    barrow.solve(Problem(Dense(uniform(200, 200, seed=0))), progress=lambda _: values.append(barrow.solve(inner).value))
    assert len(values) >= 2
    assert all(torch.equal(value, values[0]) for value in values)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "n"), [(1, 2500), (3000, 150)])
def test_ctrl_c_ends_the_simplex_at_once(monkeypatch, threads, batch, n):
    rooms = []
    room = network_simplex.room

    def marked(*arguments):
        rooms.append(room(*arguments))
        rooms[-1][5].fill_(-7)
        return rooms[-1]

    monkeypatch.setattr(network_simplex, "room", marked)
    C = uniform(n, n, seed=0)
    w = -torch.log1p(-uniform(2, batch, n, seed=1))
    a, b = w / w.sum(-1, keepdim=True)
    main = threading.main_thread().ident
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        network_simplex.solve_now(a, b, C.expand(batch, n, n))
    timer.join()
    codes = rooms[-1][5]
    assert (codes != network_simplex.OPTIMAL).any(), "the work was not done to the end"
    small = Problem(Dense(uniform(9, 9, seed=0)))
    assert barrow.solve(small).converged


def test_ctrl_c_in_a_program():
    """As a user meets it: several solves in a fresh interpreter, the signal in the midst of one."""
    code = """
        import os, signal, threading, torch, barrow
        torch.manual_seed(0)
        x, y = torch.rand(1500, 3), torch.rand(1500, 3)
        barrow.solve(barrow.Problem(barrow.Points(x[:9], y[:9])))  # torch imports the rest of itself at the first use
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                barrow.solve(barrow.Problem(barrow.Points(x, y)))
        except KeyboardInterrupt:
            print("interrupted")
        print(barrow.solve(barrow.Problem(barrow.Points(x[:9], y[:9]))).status.name)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nconverged\n", "")
