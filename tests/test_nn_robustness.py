"""Certified radii: hand calculations, attacks that must fail, and sums over batches and processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import FullSort, OrthogonalLinear, UnitLinear, lipschitz_bound
from barrow.nn.robustness import (
    AverageCertifiedRadius,
    BinaryAverageCertifiedRadius,
    BinaryProvableRobustAccuracy,
    ProvableRobustAccuracy,
    average_certified_radius,
    binary_average_certified_radius,
    binary_certified_radius,
    binary_provable_robust_accuracy,
    certified_radius,
    provable_robust_accuracy,
)

F = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 1.0, 0.0], [2.0, -1.0, 1.9]])
Y = torch.tensor([0, 1, 0, 0])
MARGINS = torch.tensor([2.0, -0.5, 0.0, 0.1])
HOT = nn.functional.one_hot(Y, 3)


@pytest.mark.parametrize("labels", [Y, Y.int(), HOT, HOT.bool(), 2.0 * HOT - 1], ids=["index", "int", "1", "b", "-1"])
def test_radii_by_hand(labels: Tensor) -> None:
    assert torch.allclose(certified_radius(F, labels), MARGINS / 2**0.5)
    assert torch.allclose(certified_radius(F, labels, disjoint=True), MARGINS / 2)
    assert torch.allclose(certified_radius(F, labels, lipschitz=5.0), MARGINS / (5 * 2**0.5))
    assert torch.allclose(average_certified_radius(F, labels, disjoint=True), torch.tensor(1.05 / 4))
    assert torch.allclose(average_certified_radius(F, labels, disjoint=True, negative=True), torch.tensor(0.8 / 4))
    assert provable_robust_accuracy(F, labels) == 0.25
    assert provable_robust_accuracy(F, labels, epsilon=0.07) == 0.5
    assert provable_robust_accuracy(F, labels, epsilon=0.07, disjoint=True) == 0.25
    # A tie is not safe against any change, not even none.
    assert provable_robust_accuracy(F, labels, epsilon=0) == 0.5


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("y", [torch.tensor([1, 0, 1, 0]), torch.tensor([1.0, -1.0, 1.0, -1.0])])
def test_binary_radii_by_hand(y: Tensor, column: bool) -> None:
    f = torch.tensor([2.0, -0.1, -1.0, 0.0])
    if column:
        f, y = f[:, None], y[:, None]
    assert torch.allclose(binary_certified_radius(f, y, lipschitz=2.0), torch.tensor([1.0, 0.05, -0.5, 0.0]))
    assert binary_provable_robust_accuracy(f, y) == 0.25
    assert binary_provable_robust_accuracy(f, y, epsilon=0.06) == 0.5
    assert binary_provable_robust_accuracy(f, y, epsilon=0.06, lipschitz=2) == 0.25
    assert torch.allclose(binary_average_certified_radius(f, y), torch.tensor(2.1 / 4))
    assert torch.allclose(binary_average_certified_radius(f, y, negative=True), torch.tensor(1.1 / 4))


@pytest.mark.parametrize("disjoint", [True, False])
def test_no_attack_within_the_radius_succeeds_and_the_constant_is_sharp(disjoint: bool) -> None:
    torch.manual_seed(0)
    last = UnitLinear(8, 3) if disjoint else OrthogonalLinear(8, 3)
    model = nn.Sequential(OrthogonalLinear(4, 8), FullSort(), last).double()
    L = 1.0 if disjoint else lipschitz_bound(model)
    x = torch.randn(64, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    radius = certified_radius(model(x), y, lipschitz=L, disjoint=disjoint)
    delta = torch.randn(64, 4, dtype=torch.float64) * 0.01
    for _ in range(100):
        delta.requires_grad_()
        (slope,) = torch.autograd.grad(certified_radius(model(x + delta), y, lipschitz=L).sum(), delta)
        delta = delta.detach() - 0.1 * slope
        delta = delta / delta.norm(dim=1, keepdim=True).clamp(min=1e-12) * radius[:, None] * (1 - 1e-9)
    assert (model(x + delta).argmax(1) == y).all()
    # Opposite unit rows, or orthogonal ones, attain the constant.
    W = torch.tensor([[1.0], [-1.0]]) if disjoint else torch.eye(2)
    z = torch.full((1, W.shape[1]), 0.0)
    z[0, 0] = 1.0
    move = (W[1] - W[0]) / (W[1] - W[0]).norm()
    r = certified_radius(z @ W.T, torch.tensor([0]), disjoint=disjoint)
    assert torch.allclose(((z + r * move) @ W.T).diff(), torch.zeros(1), atol=1e-6)


METRICS = [
    (ProvableRobustAccuracy(epsilon=0.07), provable_robust_accuracy, {"epsilon": 0.07}),
    (
        ProvableRobustAccuracy(lipschitz=2.0, disjoint=True),
        provable_robust_accuracy,
        {"lipschitz": 2, "disjoint": True},
    ),
    (AverageCertifiedRadius(lipschitz=3.0), average_certified_radius, {"lipschitz": 3.0}),
    (
        AverageCertifiedRadius(disjoint=True, negative=True),
        average_certified_radius,
        {"disjoint": True, "negative": True},
    ),
]
BINARY = [
    (BinaryProvableRobustAccuracy(epsilon=0.6, lipschitz=2.0), binary_provable_robust_accuracy, (0.6, 2.0)),
    (BinaryAverageCertifiedRadius(lipschitz=2.0, negative=True), binary_average_certified_radius, (True, 2.0)),
]


@pytest.mark.parametrize(("metric", "function", "options"), METRICS)
def test_metrics_of_uneven_batches_are_those_of_the_whole(metric, function, options) -> None:
    metric.reset()
    for part in (slice(0, 3), slice(3, 4)):
        metric.update(F[part].clone().requires_grad_(), Y[part])
    value = metric.compute()
    assert value.shape == ()
    assert not value.requires_grad
    assert math.isclose(value, function(F, Y, **options), rel_tol=1e-6, abs_tol=1e-12)
    metric.reset()
    with pytest.raises(ValueError, match=f"{type(metric).__name__} has seen no batch since its last reset"):
        metric.compute()


def test_binary_metrics() -> None:
    f, y = F.flatten(), HOT.flatten()
    accuracy, radius = (metric for metric, *_ in BINARY)
    for part in (slice(0, 7), slice(7, 12)):
        accuracy.update(f[part], y[part])
        radius.update(f[part], y[part])
    assert math.isclose(
        accuracy.compute(), binary_provable_robust_accuracy(f, y, epsilon=0.6, lipschitz=2.0), rel_tol=1e-6
    )
    known = binary_average_certified_radius(f, y, lipschitz=2.0, negative=True)
    assert math.isclose(radius.compute(), known, rel_tol=1e-6)


def test_many_terms_are_summed_in_double_precision() -> None:
    metric = BinaryAverageCertifiedRadius()
    f = 1 / torch.arange(1, 100_002)
    for _ in range(3):
        metric.update(f, torch.ones(100_001))
    assert math.isclose(metric.compute(), f.double().mean(), rel_tol=1e-12)


def test_nan_is_not_a_wrong_prediction() -> None:
    for place in ((0, 0), (0, 1)):
        f = F.clone()
        f[place] = math.nan
        assert provable_robust_accuracy(f, Y).isnan()
        assert average_certified_radius(f, Y).isnan()
    assert binary_provable_robust_accuracy(torch.tensor([math.nan]), torch.tensor([1])).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for value in (certified_radius(F.to(dtype), Y), provable_robust_accuracy(F.to(dtype), Y)):
        assert value.dtype == wide


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: certified_radius(F, Y[:2]), r"give class indices \(4,\) or one-hot labels \(4, 3\)"),
        (lambda: certified_radius(F[:, :1], Y), "one output a class is needed"),
        (lambda: certified_radius(F, Y + 2), "with 3 classes the indices are 0 to 2"),
        (lambda: certified_radius(F, Y, lipschitz=0.0), "lipschitz is 0.0, but it must be positive"),
        (lambda: binary_certified_radius(F, HOT), r"one output a sample is needed, \(B,\) or \(B, 1\)"),
        (lambda: binary_certified_radius(F[:, 0], Y, lipschitz=math.inf), "lipschitz is inf"),
        (lambda: provable_robust_accuracy(F, Y, epsilon=-1), "epsilon is -1, but the length of a change"),
        (lambda: ProvableRobustAccuracy(epsilon=math.nan), "epsilon is NaN"),
        (lambda: AverageCertifiedRadius(lipschitz=-1), "lipschitz is -1"),
    ],
)  # fmt: skip
def test_refusals(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


WORKER = """
import sys, torch, torch.distributed as dist
from barrow.nn.robustness import AverageCertifiedRadius
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
metric = AverageCertifiedRadius(disjoint=True, negative=True)
try:
    metric.compute()
    raise AssertionError
except ValueError as error:
    assert "no batch" in str(error)
if rank == 1:
    metric.update(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
assert metric.compute() == 1
if rank == 0:
    metric.update(torch.tensor([[0.0, 2.0], [4.0, 0.0]]), torch.tensor([0, 0]))
assert abs(metric.compute() - 2 / 3) < 1e-12
dist.destroy_process_group()
"""


def test_two_processes(tmp_path) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, env=env)
        for rank in (0, 1)
    ]
    try:
        said = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
