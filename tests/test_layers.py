"""What an import costs: no CUDA, and nothing that only the command line and the studies need."""

import subprocess
import sys

HEAVY = ("matplotlib", "sklearn", "scipy", "typer", "rich")


def run(code: str) -> str:
    """In a fresh interpreter, which has imported nothing yet."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def newly_loaded(statement: str) -> str:
    """Which of the heavy modules a statement brings in, beyond what torch brings."""
    return run(
        f"import sys, torch; old = set(sys.modules); {statement}; print(*({{*{HEAVY}}} & set(sys.modules) - old))"
    )


def test_importing_barrow_imports_nothing_heavy():
    loaded = run(
        f"import sys, torch; old = set(sys.modules); import barrow; print(*(set({HEAVY}) & set(sys.modules) - old))"
    )
    assert loaded == ""


def test_the_check_above_sees_a_heavy_import():
    assert newly_loaded("import barrow, rich") == "rich"


def test_tensors_on_the_cpu_never_wake_cuda():
    # Waking CUDA goes through torch.cuda._lazy_init, which fails loudly here.
    code = """
import torch
def refuse(): raise AssertionError("CUDA was initialised")
torch.cuda._lazy_init = refuse
import barrow
x, y = torch.randn(6, 2, requires_grad=True), torch.randn(5, 2)
h, t = torch.ones(3) / 3, torch.tensor([1.0, 0.0, 0.0])
tree = barrow.Tree(torch.tensor([-1, 0, 0, 0]), torch.ones(4))
for loss in (
    barrow.wasserstein(x, y),
    barrow.transport_cost(x, y),
    barrow.sinkhorn_cost(x, y, epsilon=0.5, rho=1.0),
    barrow.sinkhorn_divergence(x, y, epsilon=0.5),
    barrow.sliced_wasserstein(x, y),
    barrow.wasserstein_1d(x[:, 0], y[:, 0]),
):
    loss.backward()
barrow.emd_1d(h, t), barrow.tree_emd(h, t, tree), barrow.label_wasserstein(h, t, tree.dense(), epsilon=0.5)
cloud = barrow.Points(x, y)
for problem in (barrow.Problem(cloud), barrow.Problem(tree), barrow.Problem(cloud, epsilon=1)):
    repr(barrow.solve(problem)), barrow.certify(problem)
assert not torch.cuda.is_initialized()
try:
    torch.cuda.init()
except AssertionError as error:
    print(error)
"""
    assert run(code) == "CUDA was initialised"
