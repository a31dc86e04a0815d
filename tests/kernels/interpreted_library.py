"""The library on a device, in Triton's interpreter: run by tests/test_ops_triton.py in a process of its own.

CPU tensors stand for those of a device: the C++ core looks away, as it does from these, and the kernels take them. The
oracle is the C++ core in float64.
"""

import math
import os

import pytest
import torch
from triton.runtime import interpreter

from barrow import Points
from barrow.ops import pairs, triton
from barrow.plan import GibbsPlan
from problems import cloud, dirichlet

assert os.environ["TRITON_INTERPRET"] == "1"
torch.use_deterministic_algorithms(True)  # what is not written is NaN

F32, F64 = torch.float32, torch.float64
INF = math.inf
LAUNCHES = []


@pytest.fixture(autouse=True)
def _count(monkeypatch):
    launch = interpreter.GridExecutor.__call__

    def counted(self, *args, **options):
        LAUNCHES.append(self.fn.__name__)
        return launch(self, *args, **options)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)


def on_device(compute, *kernels):
    """What is computed where the core looks away; all of the named kernels take part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "swept", lambda *tensors: False)
        del LAUNCHES[:]
        found = compute()
    assert set(kernels) <= set(LAUNCHES), LAUNCHES
    return found


def on_core(compute):
    """What the core computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "reaches", lambda t: False)
        del LAUNCHES[:]
        found = compute()
    assert not LAUNCHES
    return found


def assert_same(compute, *kernels, tol=1e-11):
    """Tensors, or tuples of them, that agree with the core's."""
    found, wanted = on_device(compute, *kernels), on_core(compute)
    if isinstance(found, torch.Tensor):
        found, wanted = (found,), (wanted,)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=tol, atol=tol * float(other[other.isfinite()].abs().max()))


def drawn(B=2, n=17, m=12, d=2, seed=0, shift=0.0, zeros=2):
    x, y = shift + cloud(B, n, d, seed=seed), shift + cloud(B, m, d, seed=seed + 1) + 0.5
    return x, y, dirichlet(B, n, seed=seed, zeros=zeros), dirichlet(B, m, seed=seed + 1)


def test_the_check_sees_an_error():
    with pytest.raises(AssertionError):
        assert_same(lambda: torch.full((2,), 1.0 + 1e-9 * triton.reaches(torch.zeros(1)), dtype=F64))
    with pytest.raises(AssertionError):
        assert_same(lambda: torch.ones(1), "softmin_kernel")


# -- costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "norm", "d"), [(2, 2, 3), (1, 2, 2), (2.5, 1, 2), (3, INF, 4), (2, 2, 20)])
def test_soft_transforms(p, norm, d):
    x, y, a, b = drawn(d=d, shift=1000.0)
    h = torch.where(b > 0.02, b.log(), -INF)
    for cost in (Points(x, y, p, norm), Points(x[0], y[0], p, norm)):
        assert_same(lambda cost=cost: cost.softmin(h, 0.3, -1), "softmin_kernel")
        assert_same(lambda cost=cost: cost.softmin(a.log(), torch.tensor([0.3, 5.0]).double(), -2), "softmin_kernel")
        assert_same(lambda cost=cost: cost.gibbs_pass(h, 0.3, a, a.log(), 1.0), "softmin_kernel")
    stored = Points(x.float(), y.float(), p, norm).to(F64)  # computed in float64 from points in float32
    assert_same(lambda: stored.softmin(h, 0.3, -1), "softmin_kernel")


def test_gradients_of_soft_transforms_are_those_of_torch():
    x, y, _, b = drawn()
    h = b.log().requires_grad_()

    def slope():
        return torch.autograd.grad(Points(x, y).softmin(h, 0.3, -1).sum(), h)[0]

    assert_same(slope)
    assert "softmin_kernel" not in LAUNCHES


def test_extreme_strengths_of_the_entropy_go_by_way_of_torch():
    x, y, _, b = drawn()
    assert_same(lambda: Points(x, y).softmin(b.log(), 1e-160, -1))
    assert not LAUNCHES


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
def test_plans(dtype):
    x, y, a, b = drawn(d=3, shift=1000.0)
    u, v = a.log().to(dtype), b.log().to(dtype)
    V = torch.randn(12, 18, dtype=dtype)
    tol = 1e-11 if dtype == F64 else 1e-4
    for cost in (Points(x, y), Points(x[0], y[0], 1)):
        P = GibbsPlan(cost.to(dtype), u, v, 0.7)
        assert_same(P.marginals, "marginals_kernel", tol=tol)
        assert_same(lambda P=P: P @ V, "product_kernel", tol=tol)
        assert_same(lambda P=P: P.T @ a[0].to(dtype), "product_kernel", tol=tol)
        assert_same(lambda P=P: P.scale(a.to(dtype), b.to(dtype)) @ V[None, :, :1], "product_kernel", tol=tol)
    twice = GibbsPlan(Points(x[:, None], y), u[:, None], v, 0.7 if dtype == F64 else 2.0).to(F64)
    assert_same(twice.marginals, "marginals_kernel", tol=tol)


@pytest.mark.parametrize(("p", "norm"), [(2, 2), (1, 2), (1.5, 1), (2, INF)])
def test_gradients_of_plans(p, norm):
    x, y, a, b = drawn(d=3)
    cotangent = torch.tensor([1.0, -2.0]).double()
    for cost in (Points(x, y, p, norm), Points(x[0], y[0], p, norm)):
        P = GibbsPlan(cost, a.log(), b.log(), 0.7)
        assert_same(lambda P=P: P.gradient(cotangent), "gradient_kernel")


def test_nothing_that_torch_follows_is_launched():
    x, y, a, b = drawn()
    P = GibbsPlan(Points(x, y), a.log().requires_grad_(), b.log(), 0.7)
    assert_same(lambda: (P @ torch.ones(12).double()).detach())
    assert not LAUNCHES
    assert not Points(x, y).launched(a.float()), "of another precision"
    assert not Points(x.half(), y.half()).launched()
