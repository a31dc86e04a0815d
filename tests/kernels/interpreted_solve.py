"""Whole solves on a device, in Triton's interpreter: run by tests/test_ops_triton.py in a process of its own."""

import dataclasses
import math
import os

import pytest
import torch
from interpreted_library import LAUNCHES, _count, assert_same, drawn, on_core, on_device  # noqa: F401

import barrow
from barrow import Points, Problem, Sinkhorn, Status
from barrow.ops.triton import sinkhorn as loop
from barrow.solve import attempt
from barrow.solvers import device_search

assert os.environ["TRITON_INTERPRET"] == "1"
torch.use_deterministic_algorithms(True)  # what is not written is NaN

F32, F64 = torch.float32, torch.float64
INF = math.inf
SEARCH = "softmin_kernel", "left_kernel", "control_kernel"


def assert_solved(problem, tol=1e-3, **options):
    """Certified to tol, with bounds that agree with the core's and finite potentials that are as good as they say."""
    found = on_device(lambda: attempt(problem, Sinkhorn(tol=tol, **options)), *SEARCH)
    assert bool(found.converged)
    truth = on_core(lambda: attempt(problem, Sinkhorn(tol=1e-8, max_steps=1000)))
    slack = 1e-13 * truth.bounds.upper.abs()
    assert (found.bounds.lower <= truth.bounds.upper + slack).all()
    assert (truth.bounds.lower <= found.bounds.upper + slack).all()
    for h in (found.f, found.g):
        assert h.isfinite().all()
    again = on_core(lambda: barrow.certify(problem, f=found.f, g=found.g))
    assert (again.gap <= (tol + 1e-5) * again.upper + 1e-9).all()
    return found


def test_the_check_sees_an_error(monkeypatch):
    x, y, a, b = drawn(B=1)
    with pytest.raises(AssertionError):
        assert_solved(Problem(Points(x, y), a, b, epsilon=0.05), max_steps=3)
    search = device_search.device_search

    def wrong(*args):
        found = search(*args)
        low = found.proof.lower * 0.9
        return dataclasses.replace(found, proof=found.proof._replace(lower=low, upper=low))

    monkeypatch.setattr("barrow.solvers.sinkhorn.device_search", wrong)
    with pytest.raises(AssertionError):
        assert_solved(Problem(Points(x, y), a, b, epsilon=0.5))


# -- every kind of problem ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [INF, 1.0, (0.5, INF), (INF, 2.0)])
@pytest.mark.parametrize("referenced", [False, True])
def test_every_member_of_the_family(rho, referenced):
    x, y, a, b = drawn()
    reference = (torch.ones_like(a), 2 * torch.ones_like(b)) if referenced else None
    problem = Problem(Points(x, y), a, b, epsilon=0.3, rho=rho, reference=reference)
    assert_solved(problem, 1e-6 if rho == 1.0 else 1e-3)


@pytest.mark.parametrize(
    ("p", "norm", "d", "epsilon"), [(1, 2, 2, 0.2), (1.5, 1, 2, 0.5), (2, INF, 3, 0.5), (2, 2, 1, 0.1), (2, 2, 20, 5.0)]
)
def test_every_cost(p, norm, d, epsilon):
    x, y, a, b = drawn(B=1, d=d)
    assert_solved(Problem(Points(x, y, p, norm), a, b, epsilon=epsilon))


def test_one_cloud_for_all_problems():
    x, y, a, b = drawn()
    assert_solved(Problem(Points(x[0], y[0]), a, b, epsilon=0.5))


def test_high_precision_and_few_sweeps():
    x, y, a, b = drawn()
    found = assert_solved(Problem(Points(x, y), a, b, epsilon=0.5), 1e-9)
    assert (found.steps < 100).all()


def test_single_precision_far_from_the_origin():
    x, y, a, b = (t.float() for t in drawn(shift=1000.0))
    found = assert_solved(Problem(Points(x, y), a, b, epsilon=0.3))
    assert found.value.dtype == F32
    here = assert_solved(Problem(Points(x - 1000, y - 1000), a, b, epsilon=0.3))
    assert torch.allclose(found.value, here.value, rtol=2e-3)


def test_a_measure_against_itself():
    x, _, a, _ = drawn(n=30)
    found = assert_solved(Problem(Points(x, x), a, a, epsilon=0.1))
    assert (found.steps < 40).all()
    assert torch.allclose(found.f, found.g, atol=1e-3)


def test_one_atom_and_points_in_one_place():
    x, y, _, b = drawn(B=1, n=1, zeros=0)
    assert_solved(Problem(Points(x, y), None, b, epsilon=0.1))
    assert_solved(Problem(Points(x, x), epsilon=0.1))


def test_padding_far_away_is_nothing():
    x, y, a, b = drawn(n=12)
    here = assert_solved(Problem(Points(x, y), a, b, epsilon=0.5))
    x = torch.where(a[..., None] > 0, x, 50.0)
    there = assert_solved(Problem(Points(x, y), a, b, epsilon=0.5))
    assert torch.allclose(here.value, there.value, rtol=1e-3)


def test_problems_of_a_batch_do_not_know_each_other():
    x, y, a, b = drawn()
    x[1] *= 4

    def solved(k):
        problem = Problem(Points(x[k], y[k]), a[k], b[k], epsilon=0.5)
        return on_device(lambda: attempt(problem, Sinkhorn()), *SEARCH)

    together, alone = solved(slice(None)), [solved(slice(k, k + 1)) for k in range(2)]
    assert together.steps[0] != together.steps[1]
    for k in range(2):
        assert torch.equal(together.steps[k], alone[k].steps[0])
        assert torch.equal(together.value[k], alone[k].value[0])
        assert torch.equal(together.f[k], alone[k].f[0])


# -- what follows from it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
def test_divergences_and_their_gradients(dtype):
    x, y, a, b = (t.to(dtype) for t in drawn(shift=1000.0))
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)

    def compute():
        inputs = [t.clone().requires_grad_() for t in (x, y, a, b)]
        value = barrow.sinkhorn_divergence(*inputs, p=2, epsilon=0.5, tol=1e-7 if dtype == F64 else 1e-4)
        return value.detach(), *torch.autograd.grad(value.sum(), inputs)

    assert_same(compute, *SEARCH, "gradient_kernel", tol=1e-5 if dtype == F64 else 5e-3)


def test_gradients_of_an_unbalanced_cost():
    x, y, a, b = drawn()

    def compute():
        inputs = [t.clone().requires_grad_() for t in (x, y, a, b)]
        value = barrow.sinkhorn_cost(*inputs, p=1, epsilon=0.5, rho=1.0, tol=1e-9)
        return value.detach(), *torch.autograd.grad(value.sum(), inputs)

    assert_same(compute, *SEARCH, "gradient_kernel", tol=1e-4)


def test_plans_and_bounds_of_a_solution():
    x, y, a, b = drawn()
    problem = Problem(Points(x, y), a, b, epsilon=0.5)

    def compute():
        found = barrow.solve(problem, Sinkhorn(tol=1e-9))
        bounds = barrow.certify(problem, f=found.f, g=found.g)
        return *found.plan.marginals(), found.plan @ y, found.plan.T @ x, bounds.lower, bounds.upper

    assert_same(compute, *SEARCH, "marginals_kernel", "product_kernel", tol=1e-5)


def test_a_start_helps_and_is_not_believed():
    x, y, a, b = drawn(B=1)
    problem = Problem(Points(x, y), a, b, epsilon=0.1)
    first = assert_solved(problem)
    again = on_device(lambda: barrow.solve(problem, Sinkhorn(), start=first), *SEARCH)
    assert again.steps[0] < first.steps[0]
    other = Problem(Points(x + 0.1, y), a, b, epsilon=0.1)
    assert on_device(lambda: barrow.solve(other, Sinkhorn(), start=first), *SEARCH).converged


# -- honest ends -------------------------------------------------------------------------------------------------------


def test_too_few_sweeps():
    x, y, a, b = drawn()
    x[1] = y[1, :1]  # one place: solved at once
    problem = Problem(Points(x, y), a, b, epsilon=0.05)
    found = on_device(lambda: attempt(problem, Sinkhorn(tol=1e-6, max_steps=7)), *SEARCH)
    truth = on_core(lambda: attempt(problem, Sinkhorn(tol=1e-8)))
    assert found.status == [Status.step_limit, Status.converged]
    assert (found.steps <= 7).all()
    assert (found.bounds.lower <= truth.bounds.upper).all()
    assert (truth.bounds.lower <= found.bounds.upper).all()
    with pytest.raises(barrow.SolveError, match="max_steps was reached"):
        on_device(lambda: barrow.solve(problem, Sinkhorn(tol=1e-6, max_steps=7)))


def test_too_little_time():
    x, y, a, b = drawn()
    problem = Problem(Points(x, y), a, b, epsilon=0.01)
    found = on_device(lambda: attempt(problem, Sinkhorn(tol=1e-6, time_limit=1e-9)))
    assert found.status == [Status.time_limit, Status.time_limit]
    assert found.bounds.upper.isfinite().all()
    assert (found.bounds.lower <= found.bounds.upper).all()


def test_bad_data_in_a_batch():
    x, y, a, b = drawn(B=3)
    x[1, 0, 0] = math.nan
    found = on_device(lambda: attempt(Problem(Points(x, y), a, b, epsilon=0.5), Sinkhorn()), *SEARCH)
    assert found.status == [Status.converged, Status.not_finite, Status.converged]


def test_numbers_that_single_precision_does_not_hold(monkeypatch):
    made, effort = [], loop.Effort
    monkeypatch.setattr(loop, "Effort", lambda *args: made.append(effort(*args)) or made[-1])
    x, y, a, b = drawn(B=1)
    for scale in (1e-12, 1e12):
        assert_solved(Problem(Points(x * scale, y * scale), a, b, epsilon=0.5 * scale**2))
    assert {one.dtype for one in made} == {F64}
    on_device(lambda: attempt(Problem(Points(x, y), a, b, epsilon=1e-7), Sinkhorn(max_steps=2)))
    assert {one.dtype for one in made} == {F64}, "the rounding of a potential is as large as epsilon"


def test_an_empty_batch():
    x, y, a, b = (t[:0] for t in drawn())
    found = on_device(lambda: attempt(Problem(Points(x, y), a, b, epsilon=0.5), Sinkhorn()))
    assert found.value.shape == (0,)


def test_progress_is_told():
    x, y, a, b = drawn(B=1)
    told = []
    problem = Problem(Points(x, y), a, b, epsilon=0.3)
    on_device(lambda: barrow.solve(problem, Sinkhorn(), progress=told.append), *SEARCH)
    assert {one.stage for one in told} == {"sweeps", "proof"}
    assert told[-2].gap <= 1e-3
    counts = [one.done for one in told if one.stage == "sweeps"]
    assert counts == sorted(counts)
