"""The Triton kernels: interpreted, compiled, and on a device where there is one."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from barrow import Points, Problem, Sinkhorn, certify, solve
from barrow.ops import distance, triton
from barrow.ops import softmin as reference
from barrow.ops.point_softmin import point_softmin

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def run(*command: str, **environment: str) -> str:
    """In a fresh process: Triton reads at its import whether it interprets."""
    paths = {
        "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("tests", "tests/kernels")),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | paths | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


@needs_triton
@pytest.mark.parametrize("name", ["", "_sinkhorn", "_library", "_solve", "_device"])
def test_interpreted(name):
    # numpy, which interprets, warns of the logarithm of zero.
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::RuntimeWarning")
    said = run("-m", "pytest", *options, f"tests/kernels/interpreted{name}.py", TRITON_INTERPRET="1")
    assert " passed" in said


@needs_triton
def test_they_compile_without_spilling_registers(tmp_path):
    said = run("tests/kernels/compiled.py", "90", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    found = [line.split() for line in said.splitlines()]
    assert len({name for name, *_ in found}) == 8
    assert len(found) > 80
    # In float64 a called function keeps 8 bytes there, and gradients in the norm inf spill 12: nothing to speak of.
    assert all(int(stack) <= (16 if precision == "torch.float64" else 0) for _, precision, stack in found)


def test_nothing_on_the_cpu_reaches_the_kernels():
    code = """
import sys, torch, barrow
assert "triton" not in sys.modules
x, y = torch.randn(5, 2), torch.randn(4, 2)
barrow.solve(barrow.Problem(barrow.Points(x, y), epsilon=1.0))
assert "triton" not in sys.modules
from barrow.ops.point_softmin import point_softmin
point_softmin(x, y, torch.zeros(4), 0.5)  # torch may look for Triton at its first custom operator: we do not
assert not any(name.startswith("barrow.ops.triton.") for name in sys.modules)
assert not torch.cuda.is_initialized()
"""
    run("-W", "error", "-c", code, TRITON_INTERPRET="0")


# -- the operator where there is no device -----------------------------------------------------------------------------


def test_the_operator_is_the_reference():
    x, y, h = torch.randn(3, 1, 5, 2).double(), torch.randn(2, 4, 2).double(), torch.randn(3, 2, 4).double()
    h[0, 0, 1] = -math.inf
    assert not triton.reaches(h) or os.environ.get("TRITON_INTERPRET") == "1"
    for p, norm in ((2, 2), (1, math.inf), (1.5, 1)):
        found = point_softmin(x, y, h, 0.5, p, norm)
        assert torch.allclose(found, reference.softmin(distance.all_pairs(x, y, p, norm), h, 0.5), rtol=1e-12)
    epsilon = torch.tensor([0.5, 2.0])
    each = [point_softmin(x, y[k], h[:, k, None], float(epsilon[k]))[:, 0] for k in range(2)]
    assert torch.allclose(point_softmin(x, y, h, epsilon), torch.stack(each, 1), rtol=1e-12)
    assert point_softmin(x[:0], y, h[:0], 0.5).shape == (0, 2, 5)
    assert point_softmin(x[..., :0, :], y, h, 0.5).shape == (3, 2, 0)


def test_the_operator_is_well_made():
    x, y, h = torch.randn(2, 5, 2), torch.randn(4, 2), torch.randn(2, 4)
    torch.library.opcheck(torch.ops.barrow.point_softmin.default, (x, y, h, torch.ones(2), 2.0, 2.0))
    mapped = torch.vmap(lambda h, e: point_softmin(x[0], y, h, e))(h, torch.tensor([0.5, 2.0]))
    assert torch.allclose(mapped, point_softmin(x[0], y, h, torch.tensor([0.5, 2.0])))
    with pytest.raises(RuntimeError, match="point_softmin has no gradient"):
        point_softmin(x, y, h.requires_grad_(), 0.5).sum().backward()


# -- on a device -------------------------------------------------------------------------------------------------------


def on_device(B, n, m, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(B, k, d, generator=g).cuda() for k in (n, m))
    return x, y, torch.randn(B, m, generator=g).cuda()


def twice_as_good(found, x, y, h, epsilon, p, norm):
    """The house rule: an error against float64 of at most twice the reference's at the same precision."""
    C = distance.all_pairs(x.double(), y.double(), p, norm)
    exact = reference.softmin(C, h.double(), epsilon)
    rounded = reference.softmin(distance.all_pairs(x, y, p, norm), h, epsilon)
    size = exact.abs().max()
    return (found - exact).abs().max() <= 2 * (rounded - exact).abs().max() + 2**-22 * size


@needs_cuda
@needs_triton
@pytest.mark.parametrize(("p", "norm"), [(2, 2), (1, 2), (3, 2), (1, 1), (2, math.inf), (1.5, 1)])
@pytest.mark.parametrize("d", [1, 3, 16, 64, 200])
def test_soft_minima_on_a_device(p, norm, d):
    x, y, h = on_device(2, 700, 901, d)
    h[:, ::7] = -math.inf
    for epsilon in (0.05, 5.0):
        assert twice_as_good(point_softmin(x, y, h, epsilon, p, norm), x, y, h, epsilon, p, norm)
    found = point_softmin(x.double(), y.double(), h.double(), 0.5, p, norm)
    exact = reference.softmin(distance.all_pairs(x.double(), y.double(), p, norm), h.double(), 0.5)
    assert torch.allclose(found, exact, rtol=1e-11, atol=1e-11)


@needs_cuda
@needs_triton
@pytest.mark.parametrize("product", ["ieee", "tf32x3"])
def test_products_are_never_rounded_to_tf32(product):
    from barrow.ops.triton import clouds, softmin

    x, y, h = on_device(1, 500, 3000, 64)
    epsilon = torch.full((1,), 0.5, device="cuda")
    found = softmin.softmin(clouds.lay_out(x, y, product=product), h, epsilon)
    exact = reference.softmin(distance.all_pairs(x.double(), y.double(), 2, 2), h.double(), 0.5)
    assert (found - exact).abs().max() <= 2e-4, "TF32 is off by a tenth here"


@needs_cuda
@needs_triton
def test_plans_on_a_device():
    from barrow.ops.triton import clouds, plan

    x, y, v = on_device(2, 700, 901, 3)
    epsilon = torch.tensor([0.5, 2.0], device="cuda")
    u = torch.randn(2, 700, device="cuda")
    C = distance.all_pairs(x.double(), y.double(), 2, 2)
    P = ((u.double()[..., None] + v.double()[:, None] - C) / epsilon[:, None, None]).exp()
    laid = plan.Gibbs.of(clouds.lay_out(x, y), u, v, epsilon)
    rows, cols = plan.marginals(laid)
    assert torch.allclose(rows.double(), P.sum(-1), rtol=1e-4)
    assert torch.allclose(cols.double(), P.sum(-2), rtol=1e-4)
    V = torch.randn(2, 901, 20, device="cuda")
    found = plan.product(laid, V)
    assert torch.allclose(found.double(), P @ V.double(), rtol=1e-4, atol=1e-4 * float(P.sum(-1).max()))
    to_x, _ = plan.gradient(laid)
    wanted = 2 * (P.sum(-1, keepdim=True) * x - P @ y.double())
    assert torch.allclose(to_x.double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@needs_cuda
@needs_triton
@pytest.mark.parametrize(("n", "m", "d", "B"), [(300, 257, 3, 4), (20_000, 20_000, 3, 1), (3000, 2000, 64, 1)])
def test_sinkhorn_on_a_device(n, m, d, B):
    from barrow.ops.triton.sinkhorn import Effort, Entropic, sinkhorn_on_device

    x, y, _ = on_device(B, n, m, d)
    a, b = torch.full((B, n), 1 / n, device="cuda"), torch.full((B, m), 1 / m, device="cuda")
    epsilon = 0.1 * d
    found = sinkhorn_on_device(Entropic(x, y, a, b, epsilon), Effort(settle=1e-3))
    assert found.settled.all()
    bounds = certify(Problem(Points(x.double(), y.double()), epsilon=epsilon), f=found.f.double(), g=found.g.double())
    assert (bounds.relative_gap <= 1e-2).all()
    again = sinkhorn_on_device(Entropic(x, y, a, b, epsilon), Effort(settle=1e-3))
    assert torch.equal(found.f, again.f), "the same bits every time"


@needs_cuda
@needs_triton
@pytest.mark.parametrize(("p", "d", "rho"), [(2, 3, math.inf), (1, 2, 1.0), (2, 40, math.inf)])
def test_solving_on_a_device(p, d, rho):
    x, y, _ = on_device(2, 700, 901, d)
    epsilon = 0.05 * float(distance.all_pairs(x, y, p, 2).mean())

    def solved(*points, tol):
        points = [t.detach().requires_grad_() for t in points]
        found = solve(Problem(Points(*points, p), epsilon=epsilon, rho=rho), Sinkhorn(tol=tol))
        return found, torch.autograd.grad(found.value.sum(), points)

    there, slopes = solved(x, y, tol=1e-3)
    here, wanted = solved(x.cpu(), y.cpu(), tol=1e-4)
    assert there.value.is_cuda
    assert (there.bounds.lower.cpu() <= here.bounds.upper).all()
    assert (here.bounds.lower <= there.bounds.upper.cpu()).all()
    for one, other in zip(slopes, wanted, strict=True):
        assert torch.allclose(one.cpu(), other, atol=2e-2 * float(other.abs().max()))
    assert torch.allclose((there.plan @ y).cpu(), here.plan @ y.cpu(), atol=1e-2 / 700 * float(y.abs().max()))
