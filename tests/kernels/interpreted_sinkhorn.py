"""Sinkhorn's sweeps on the device, in Triton's interpreter: run by tests/test_ops_triton.py in a process of its own."""

import dataclasses
import math
import os

import pytest
import torch

from barrow import Points, Problem, certify
from barrow.ops import distance
from barrow.ops import softmin as reference
from barrow.ops.triton import softmin
from barrow.ops.triton.sinkhorn import Effort, Entropic, Sweeps, sinkhorn_on_device
from problems import cloud, dirichlet

assert os.environ["TRITON_INTERPRET"] == "1"
torch.use_deterministic_algorithms(True)  # what is not written is NaN

F32, F64 = torch.float32, torch.float64
INF = math.inf


def drawn(B=1, n=17, m=12, d=2, seed=0, zeros=2):
    x, y = cloud(B, n, d, seed=seed), cloud(B, m, d, seed=seed + 1) + 0.5
    return x, y, dirichlet(B, n, seed=seed, zeros=zeros), dirichlet(B, m, seed=seed + 1)


EFFORT = {field.name for field in dataclasses.fields(Effort)}


def asked(x, y, a, b, **options):
    effort = Effort(**{name: options.pop(name) for name in EFFORT & set(options)})
    return Entropic(x, y, a, b, **options), effort


def swept(*tensors, **options):
    return sinkhorn_on_device(*asked(*tensors, **options))


def proved(found, x, y, a, b, epsilon, *, rho=INF, reference=None, p=2, norm=2):
    problem = Problem(Points(x, y, p, norm), a, b, epsilon=epsilon, rho=rho, reference=reference)
    assert found.f.isfinite().all()
    assert found.g.isfinite().all()
    return certify(problem, f=found.f.double(), g=found.g.double())


@pytest.mark.parametrize(
    ("rho", "referenced", "dtype"),
    [
        (INF, False, F32),
        (1.0, False, F32),
        ((0.5, INF), False, F64),
        ((INF, 2.0), True, F32),
        (INF, True, F64),
    ],
)
def test_every_problem_is_solved(rho, referenced, dtype):
    x, y, a, b = drawn()
    reference = (torch.ones_like(a), 2 * torch.ones_like(b)) if referenced else None
    both = rho if isinstance(rho, tuple) else (rho, rho)
    found = swept(x, y, a, b, epsilon=2.0, rho=both, reference=reference, settle=1e-4, max_steps=300, dtype=dtype)
    assert found.f.dtype == dtype
    assert found.settled.all()
    bounds = proved(found, x, y, a, b, 2.0, rho=rho, reference=reference)
    assert (bounds.relative_gap <= 1e-4).all()


def by_hand(x, y, a, b, target, rho, sweeps):
    """The sweeps of `solvers/ascent.py` before over-relaxation, on a matrix."""
    C, (rho_a, rho_b) = distance.all_pairs(x, y, 2, 2), rho
    low, high = torch.minimum(x.amin(0), y.amin(0)), torch.maximum(x.amax(0), y.amax(0))
    epsilon, f, g = float((high - low).square().sum()), torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(sweeps):
        logs = (torch.logsumexp(w.log() - h / r, -1) for w, h, r in ((a, f, rho_a), (b, g, rho_b)))
        shift = (next(logs) - next(logs)) / (1 / rho_a + 1 / rho_b)
        before, f, g = f, f + shift, g - shift
        together = target < epsilon <= 16 * target
        length = 0.5 if together else 1.0
        right = reference.softmin(C.T, f + epsilon * a.log(), epsilon) / (1 + epsilon / rho_b)
        new = g + length * (right - g)
        left = reference.softmin(C, (g if together else new) + epsilon * b.log(), epsilon) / (1 + epsilon / rho_a)
        f, g = f + length * (left - f), new
        if epsilon <= 16 * target or (a * (f - before).abs()).sum() <= 0.05 * epsilon:
            epsilon = max(epsilon / 2, target)
    return f, g


@pytest.mark.parametrize("epsilon", [0.01, 2.0])
def test_sweeps_are_what_they_say(epsilon):
    x, y, a, b = (t[0] for t in drawn())
    for rho in ((0.5, 2.0), (INF, 3.0)):
        found = swept(x, y, a[None], b[None], epsilon=epsilon, rho=rho, settle=0.0, max_steps=5, dtype=F64)
        for one, other in zip(found, by_hand(x, y, a, b, epsilon, rho, 5), strict=False):
            assert torch.allclose(one[0], other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("p", "norm", "d", "epsilon"), [(1, 2, 3, 0.5), (2, INF, 3, 1.0), (2, 2, 40, 16.0)])
def test_costs(p, norm, d, epsilon):
    x, y, a, b = drawn(d=d)
    found = swept(x, y, a, b, epsilon=epsilon, p=p, norm=norm, settle=1e-3, max_steps=300)
    bounds = proved(found, x, y, a, b, epsilon, p=p, norm=norm)
    assert (bounds.relative_gap <= 2e-3).all()


def test_a_measure_against_itself():
    x, _, a, _ = drawn()
    found = swept(x, x, a, a, epsilon=1.0, symmetric=True, settle=1e-3, dtype=F64)
    assert torch.equal(found.f, found.g)
    assert (found.steps < 40).all()
    bounds = proved(found, x, x, a, a, 1.0)
    assert (bounds.relative_gap <= 1e-3).all()


def test_problems_of_a_batch_do_not_know_each_other():
    x, y, a, b = drawn(B=2)
    x[1] *= 3
    epsilon = torch.tensor([8.0, 2.0], dtype=F64)
    together = swept(x, y, a, b, epsilon=epsilon, settle=1e-2)
    assert together.steps[0] != together.steps[1]
    for k in range(2):
        alone = swept(*(t[k : k + 1] for t in (x, y, a, b)), epsilon=float(epsilon[k]), settle=1e-2)
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[k], other[0])


def test_clouds_that_all_problems_share():
    x, y, a, b = drawn()
    weights = torch.stack((a[0], a[0].flip(0)))
    found = swept(x[0], y[0], weights, b.repeat(2, 1), epsilon=1.0, max_steps=4)
    for k in range(2):
        alone = swept(x[0], y[0], weights[k : k + 1], b, epsilon=1.0, max_steps=4)
        assert torch.equal(found.f[k], alone.f[0])


def test_a_good_start_and_going_on():
    x, y, a, b = drawn()
    rough = swept(x, y, a, b, epsilon=2.0, settle=1e-2, dtype=F64)
    state = Sweeps(*asked(x, y, a, b, epsilon=2.0, start=(rough.f, rough.g), settle=1e-2, max_steps=200, dtype=F64))
    state.drive()
    assert state.potentials().steps == 4, "at once, but not before it is sure"
    state.resume(torch.tensor([True]), 1e-5)
    state.drive()
    fine = state.potentials()
    assert fine.settled.all()
    assert fine.moved <= 1e-5 < rough.moved
    state.resume(torch.tensor([False]), 1e-9)
    state.drive()
    assert all(torch.equal(s, t) for s, t in zip(fine[:3], state.potentials()[:3], strict=True))


def test_limits():
    x, y, a, b = drawn()
    found = swept(x, y, a, b, epsilon=0.01, max_steps=5)
    assert found.steps == 5
    assert not found.settled.any()
    # Nothing moves by less than its rounding: that is an end too, and single precision reaches it.
    found = swept(x, y, a, b, epsilon=4.0, settle=0.0, max_steps=300)
    assert found.settled.all()
    assert found.steps < 300
    state = Sweeps(*asked(x, y, a, b, epsilon=0.01))
    state.drive(lambda sweeps: True)
    assert state.potentials().steps == 0
    nothing = swept(x[:0], y[:0], a[:0], b[:0], epsilon=1.0)
    assert nothing.f.shape == (0, 17)


def test_padding_may_lie_anywhere():
    x, y, a, b = drawn()
    here = swept(x, y, a, b, epsilon=1.0, max_steps=4)
    x[:, -2:] = 1e6
    there = swept(x, y, a, b, epsilon=1.0, max_steps=4)
    assert torch.allclose(here.g, there.g, atol=1e-5)
    assert torch.allclose(here.moved, there.moved, atol=1e-5)


def test_where_the_origin_lies_changes_nothing():
    x, y, a, b = drawn()
    here, there = (swept(x + s, y + s, a, b, epsilon=1.0, max_steps=4) for s in (0.0, 1024.0))
    assert torch.allclose(here.f, there.f, atol=1e-5)


def test_pieces_of_the_columns(monkeypatch):
    x, y, a, b = drawn(n=3, m=80, zeros=0)
    wanted = swept(x, y, a, b, epsilon=0.5, max_steps=4, dtype=F64)
    monkeypatch.setattr(softmin, "PIECE", 32)
    found = swept(x, y, a, b, epsilon=0.5, max_steps=4, dtype=F64)
    assert torch.allclose(found.g, wanted.g, atol=1e-12)
