"""Compiles every kernel for a device that is not there: what the interpreter forgives, a compiler does not.

Prints one line a kernel: its name, and the bytes of its stack, where registers that do not suffice are spilled.
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


def compile_only(self, *args, grid, warmup, **options):
    kernel = compile_or_launch(self, *args, grid=grid, warmup=True, **options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", usage).group(1)
    assert kernel.metadata.shared <= 227 * 1024
    print(self.fn.__name__, stack, flush=True)
    return kernel


JITFunction.run = compile_only
for d, dtype in ((3, torch.float32), (64, torch.float32), (3, torch.float64)):
    x, h, epsilon = torch.rand(1, 20_000, d), torch.zeros(1, 20_000), torch.ones(1)
    sweeps = Sweeps(Entropic(x, x.clone(), h, h, 1.0, rho=(1.0, math.inf)), Effort(dtype=dtype))
    sweeps.advance(1)
    if d == 3 and dtype == torch.float32:
        laid = plan.Gibbs.of(sweeps.clouds, h, h, epsilon)
        plan.marginals(laid)
        plan.product(laid, x[..., :2])
        plan.gradient(laid, h, h)
    elif d == 64:
        assert sweeps.clouds.product == "tf32x3"
        softmin.softmin(clouds.lay_out(x, x, product="ieee"), h, epsilon)
