"""The library on a CUDA device that is simulated: run by tests/test_ops_triton.py in a process of its own."""

import math
import os

import pytest
import torch
from benchmarks import gpu
from simulated import Far, Recording, device, far, near

import barrow
from barrow import Dense, Grid, Points, Problem, Sinkhorn, Tree
from barrow.ops import triton
from barrow.ops.triton.sinkhorn import Effort, Entropic, Sweeps
from barrow.plan import GibbsPlan
from problems import dirichlet

assert os.environ["TRITON_INTERPRET"] == "1"

INF = math.inf


def drawn(B=2, n=17, m=12, d=2, seed=0, zeros=2):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(B, k, d, dtype=torch.float64, generator=g) for k in (n, m))
    return x, y + 0.5, dirichlet(B, n, seed=seed, zeros=zeros), dirichlet(B, m, seed=seed + 1)


def assert_same(near_result, far_result, tol=1e-3):
    for one, other in zip(near_result, far_result, strict=True):
        assert isinstance(other, Far), "it left the device"
        assert torch.allclose(one, other.near, rtol=tol, atol=tol * float(one.abs().max()))


def test_the_simulation_sees_what_a_device_refuses():
    x, y, *_ = drawn()
    with device() as simulation:
        there = far(x)
        assert there.is_cuda
        with pytest.raises(AssertionError, match="two devices"):
            there + x
        with pytest.raises(AssertionError, match="two devices"):
            torch.zeros(3, device=there.device) + torch.zeros(3)
        assert bool((there * 0 == 0).all())
        assert simulation.waits == ["_local_scalar_dense"]
        simulation.forbidden = True
        for wait in (
            lambda: float(there.sum()),
            lambda: bool(there.any()),
            there.cpu,
            there.nonzero,
            lambda: there[there > 0],
        ):
            with pytest.raises(AssertionError, match="makes the host wait"):
                wait()
        torch.zeros(()).copy_(there.sum(), non_blocking=True)  # what is queued is no wait
    with pytest.raises(AssertionError, match="left the device"):
        assert_same((x,), (y,))


def images(seed):
    return dirichlet(2, 36, seed=seed, zeros=4)


def kinds():
    """Problems by name, of tensors on the CPU."""
    x, y, a, b = drawn()
    C = torch.cdist(x, y)
    forbidden = C.clone()
    forbidden[:, 0, 1:5] = INF
    parent, length = torch.tensor([-1, 0, 0, 1, 1, 2, 2]), torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 1.5, 0.1]).double()
    leaves = dirichlet(2, 4, seed=1), dirichlet(2, 4, seed=2)
    h, t = images(3), images(4)
    return {
        "squares": (Points, (x, y), (a, b), {"epsilon": 0.5}),
        "distances, one cloud for all": (lambda x, y: Points(x, y, 1), (x[0], y[0]), (a, b), {"epsilon": 0.5}),
        "unbalanced": (Points, (x, y), (a, b), {"epsilon": 0.5, "rho": 1.0}),
        "semi-relaxed": (Points, (x, y), (a, b), {"epsilon": 0.5, "rho": (INF, 2.0)}),
        "matrix": (Dense, (C,), (a, b), {"epsilon": 0.5}),
        "many histograms": (Dense, (C[0],), (a, b), {"epsilon": 0.5}),
        "unbalanced matrix": (Dense, (C,), (a, b), {"epsilon": 0.5, "rho": 1.0}),
        "forbidden arcs": (Dense, (forbidden,), (a, b), {"epsilon": 0.5}),
        "forbidden arcs, semi-relaxed": (Dense, (forbidden,), (a, b), {"epsilon": 0.5, "rho": (INF, 1.0)}),
        "pictures": (lambda: Grid((6, 6), 2), (), (h, t), {"epsilon": 1.0}),
        "pictures by distances": (lambda: Grid((6, 6), 1), (), (h, t), {"epsilon": 1.0}),
        "tree": (lambda length: Tree(parent, length), (length,), leaves, {"epsilon": 0.5}),
        "exact clouds": (Points, (x, y), (a, b), {}),
        "exact on a line": (Points, (x[..., :1], y[..., :1]), (a, b), {}),
        "exact with forbidden arcs": (Dense, (forbidden,), (a, b), {}),
        "exact tree": (lambda length: Tree(parent, length), (length,), leaves, {}),
    }


@pytest.mark.parametrize("name", kinds())
def test_every_kind_of_problem_stays_on_its_device(name):
    make, data, weights, options = kinds()[name]

    def compute(data, weights):
        problem = Problem(make(*data), *weights, **options)
        found = barrow.solve(problem)
        bounds = barrow.certify(problem, f=found.f, g=found.g)
        return found.value, *found.bounds, *bounds, found.plan @ weights[1].mT[..., :1], *found.plan.marginals()

    wanted = compute(data, weights)
    with device():
        found = compute([far(t) for t in data], [far(t) for t in weights])
        assert_same(wanted, found, tol=5e-3)


def test_a_reference_and_a_start():
    x, y, a, b = drawn()
    with device():
        x, y, a, b = (far(t) for t in (x, y, a, b))
        reference = torch.ones_like(a), 2 * torch.ones_like(b)
        problem = Problem(Points(x, y), a, b, epsilon=0.5, rho=1.0, reference=reference)
        first = barrow.solve(problem)
        again = barrow.solve(problem, start=first)
        assert isinstance(again.value, Far)
        assert (near(again.steps) <= near(first.steps)).all()


def test_gradients():
    leaves = drawn(B=1)

    def compute(inputs):
        value = barrow.sinkhorn_divergence(*inputs, p=2, epsilon=1.0, tol=1e-5)
        return value.detach(), *torch.autograd.grad(value.sum(), inputs)

    wanted = compute([t.clone().requires_grad_() for t in leaves])
    with device():
        assert_same(wanted, compute([Far(t.clone(), True) for t in leaves]), tol=1e-4)


def test_a_plan_in_single_precision():
    x, y, a, b = drawn()
    with device():
        cost = Points(far(x.float()), far(y.float()))
        P = GibbsPlan(cost, far(a.log().float()), far(b.log().float()), 0.7)
        V = far(y.float())
        found = near((P @ V, *P.marginals(), *P.gradient(far(torch.ones(2)))))
    P = GibbsPlan(Points(x, y), a.log(), b.log(), 0.7)
    for one, other in zip(found, (P @ y, *P.marginals(), *P.gradient(torch.ones(2).double())), strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-5)


# -- the host and the device -------------------------------------------------------------------------------------------


def test_the_host_does_not_wait_for_a_sweep(monkeypatch):
    """No look at a result of the device in the loop, but for flags of chunks that are past while the next one runs."""
    x, y, a, b = drawn()
    x[1] *= 3
    with device() as simulation:
        state = Sweeps(Entropic(far(x), far(y), far(a), far(b), 0.3), Effort(settle=1e-4))
        before = len(simulation.waits)
        state.drive()
        assert simulation.waits[before:] == ["_local_scalar_dense"], "whether there is anything to do"
        assert isinstance(state.graph, Recording)
        steps, replays = near(state.steps), state.graph.replays
        assert steps[0] != steps[1]
        assert 16 * replays >= int(steps.max()), "the last chunk runs in vain"
        found = near(state.potentials())
        assert found.settled.all()
        state.resume(state.moved > 1e-5, 1e-5)
        state.drive()
        assert near(state.potentials()).settled.all()
        monkeypatch.setattr(Sweeps, "_left", lambda self: bool(self.active.any()))
        with pytest.raises(AssertionError, match="makes the host wait"):
            Sweeps(Entropic(far(x), far(y), far(a), far(b), 0.3)).drive()


def test_waits_of_a_solve_do_not_grow_with_its_sweeps():
    x, y, a, b = drawn(B=1)
    counts = []
    for epsilon in (0.5, 0.02):
        with device() as simulation:
            problem = Problem(Points(far(x), far(y)), far(a), far(b), epsilon=epsilon)
            found = barrow.solve(problem, Sinkhorn(tol=1e-2))
            counts.append((int(near(found.steps)), len(simulation.waits)))
    assert counts[1][0] > 3 * counts[0][0]
    assert counts[1][1] == counts[0][1]


def test_time_runs_out_between_chunks():
    x, y, a, b = drawn()
    seen = []

    def over(launched):
        seen.append(launched)
        return launched > 20

    with device():
        state = Sweeps(Entropic(far(x), far(y), far(a), far(b), 0.01), Effort(settle=1e-6))
        state.drive(over)
        assert seen == [0, 32]
        assert near(state.steps).tolist() == [32, 32]
        assert not near(state.potentials()).settled.any()


def test_large_problems_are_looked_at_more_often(monkeypatch):
    x, y, a, b = drawn()
    monkeypatch.setattr("barrow.ops.triton.sinkhorn.LOOK", 3 * x.shape[0] * x.shape[1] * y.shape[1])
    monkeypatch.setattr("barrow.ops.triton.sinkhorn.SMALL", 0)  # so large that nothing is recorded
    with device():
        state = Sweeps(Entropic(far(x), far(y), far(a), far(b), 0.3), Effort(settle=1e-3))
        state.drive()
        assert state.chunk == 3
        assert state.graph is None
        assert near(state.potentials()).settled.all()


def test_devices_that_are_too_old_for_triton_go_by_way_of_torch(monkeypatch):
    x, y, a, b = drawn(B=1)
    triton._known.cache_clear()
    with device() as simulation:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (7, 5))
        found = barrow.solve(Problem(Points(far(x), far(y)), far(a), far(b), epsilon=0.5))
        assert isinstance(found.value, Far)
        assert not simulation.launches
    triton._known.cache_clear()


def test_quantities_of_histograms():
    h, t = dirichlet(3, 8, seed=0), dirichlet(3, 8, seed=1)
    C = torch.cdist(*[torch.arange(8.0, dtype=torch.float64)[:, None]] * 2)

    def compute(h, t, C):
        return (
            barrow.label_wasserstein(h, t, C, epsilon=0.1),
            barrow.sinkhorn_transport(h, t, C, epsilon=0.1),
            barrow.sinkhorn_ball(h, t, C, alpha=0.5),
            barrow.debiased_barycenter(h, C, epsilon=0.5),
        )

    wanted = compute(h, t, C)
    with device():
        assert_same(wanted, compute(far(h), far(t), far(C)), tol=5e-3)


def test_benchmarks_measure_what_is_wired():
    x, y, a, b = (t.float() for t in drawn(d=3))
    a, b = (torch.full_like(w, 1 / w.shape[1]) for w in (a, b))
    with device():
        data = gpu.Data(far(x), far(y), far(a), far(b), 0.5, 2.0)
        kernels = next(one for one in gpu.CONTENDERS if one.name == "barrow kernels")
        kernels.sweeps(data, 2)()
        f, g = kernels.solve(data, 100.0)
        assert gpu.gap_of(data, f, g) <= 0.1
        assert gpu.gap_of(data, *gpu.barrow_solve(data, 100.0)) <= 0.011
