"""Compiles every kernel for a device that is not there: what the interpreter forgives, a compiler does not.

All variants that the library reaches are compiled: by dimension, cost, precision and kind of problem. Prints one line a
variant: its name, the precision, and the bytes of its stack, where registers that do not suffice are spilled.
"""

import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from barrow.ops.triton import clouds, plan, softmin
from barrow.ops.triton.sinkhorn import Effort, Entropic, Sweeps

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
F32, F64 = torch.float32, torch.float64
INF = math.inf


class Absent:
    """As much of a driver as a compilation asks for."""

    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


driver.set_active(Absent())
compile_or_launch = JITFunction.run
seen = set()


def compile_only(self, *args, grid, warmup, **options):
    kernel = compile_or_launch(self, *args, grid=grid, warmup=True, **options)
    if kernel.hash in seen:
        return kernel
    seen.add(kernel.hash)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", usage).group(1)
    assert kernel.metadata.shared <= 227 * 1024
    print(self.fn.__name__, precision, stack, flush=True)
    return kernel


JITFunction.run = compile_only


def sweeps(d, dtype, p=2, norm=2, n=20_000, **options):
    """What a search launches; few points have one piece of the columns or several."""
    x, h, epsilon = torch.rand(1, n, d), torch.ones(1, n), torch.ones(1)
    symmetric = options.get("symmetric", False)
    other = x if symmetric else x.clone()
    state = Sweeps(Entropic(x, other, h, h, epsilon, p, norm, **options), Effort((None, h), dtype=dtype))
    state.advance(1)
    return state.clouds


def plans(d, dtype, p=2, norm=2, k=2, n=500):
    """What a plan launches: marginals, products with one vector and several, gradients."""
    x, h = torch.rand(1, n, d), torch.zeros(1, n)
    laid = plan.Gibbs.of(clouds.lay_out(x, x.clone(), p, norm, dtype=dtype, product="direct"), h, h, torch.ones(1))
    plan.marginals(laid)
    plan.product(laid, torch.rand(1, n, 1))
    plan.product(laid, torch.rand(1, n, k))
    plan.gradient(laid)


for dtype in (F32, F64):
    precision = str(dtype)
    sweeps(3, dtype, rho=(1.0, INF))
    sweeps(2, dtype, n=500)  # one piece of the columns has to fill the device
    sweeps(3, dtype, p=1, symmetric=True)
    sweeps(7, dtype, p=1.5, norm=1)
    sweeps(2, dtype, norm=INF)
    for d in (3, 20):
        plans(d, dtype)
    plans(2, dtype, p=1)
    plans(2, dtype, p=1.5, norm=1)
    plans(2, dtype, norm=INF)
precision = "products"
assert sweeps(64, F32).product == "tf32x3"
assert sweeps(100, F32).product == "tf32x3"
for product in ("ieee", "direct"):
    x, h = torch.rand(1, 20_000, 64), torch.zeros(1, 20_000)
    softmin.softmin(clouds.lay_out(x, x, product=product), h, torch.ones(1))
