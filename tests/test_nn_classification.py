"""Losses of Kantorovich-Rubinstein classifiers: by hand, by law, and what they refuse."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from barrow import nn
from barrow.check import fraction

F64 = torch.float64
INF = math.inf
F = torch.tensor([2.0, 0.0, -1.0, 0.25], dtype=F64)
Y = torch.tensor([1, 1, 0, 0])
G = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]], dtype=F64)
Z = torch.tensor([0, 1])

BINARY = {
    "kr": (nn.BinaryKr, nn.binary_kr, {}),
    "hinge": (nn.HingeMargin, nn.hinge_margin, {"margin": 0.8}),
    "hkr": (nn.Hkr, nn.hkr, {"alpha": 0.3, "margin": 0.8}),
    "bce": (nn.TauBinaryCrossEntropy, nn.tau_binary_cross_entropy, {"tau": 3.0}),
}
MULTI = {
    "kr": (nn.MulticlassKr, nn.multiclass_kr, {}),
    "hinge": (nn.MulticlassHinge, nn.multiclass_hinge, {"margin": 0.8}),
    "hkr": (nn.MulticlassHkr, nn.multiclass_hkr, {"alpha": 0.3, "margin": 0.8}),
    "soft": (nn.SoftHkr, nn.soft_hkr, {"alpha": 0.3, "margin": 0.8, "temperature": 2.0}),
    "lse": (nn.LseHkr, nn.lse_hkr, {"alpha": 0.3, "margin": 0.8, "penalty": 2.0}),
    "ce": (nn.TauCrossEntropy, nn.tau_cross_entropy, {"tau": 3.0}),
    "categorical": (nn.CategoricalHinge, nn.categorical_hinge, {"margin": 0.8}),
}
binary = pytest.mark.parametrize(("module", "loss", "options"), BINARY.values(), ids=BINARY.keys())
multi = pytest.mark.parametrize(("module", "loss", "options"), MULTI.values(), ids=MULTI.keys())


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, dtype=F64, generator=torch.Generator().manual_seed(seed))


def near(value: Tensor, known: float, tol: float = 1e-12) -> bool:
    return value.shape == () and math.isclose(float(value), known, rel_tol=tol, abs_tol=tol)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_binary_by_hand() -> None:
    # Means 1 and -0.375. Hinges at 1/2: 0, 0.5, 0, 0.75, whose mean is 0.3125.
    assert near(nn.binary_kr(F, Y), 1.375)
    assert near(nn.hinge_margin(F, Y), 0.3125)
    assert near(nn.hkr(F, Y, alpha=0.25), 0.25 * 0.3125 - 0.75 * 1.375)
    # Hinges at 2: 0, 2, 1, 2.25.
    assert near(nn.hinge_margin(F, Y, margin=4), 5.25 / 4)


def test_columns_are_classifiers_of_their_own() -> None:
    f, y = torch.stack([F, -F], 1), torch.stack([Y, 1 - Y], 1)
    for _, loss, options in BINARY.values():
        assert near(loss(f, y, **options), float(loss(F, Y, **options)))
        both = (loss(F, Y, **options) + loss(-F, Y, **options)) / 2
        assert near(loss(f, Y, **options), float(both))
        assert near(loss(f, Y[:, None], **options), float(both))


def test_multiclass_kr_by_hand() -> None:
    # Columns: 1 - 0.25, 0.5 - 0, and nobody in the third.
    assert near(nn.multiclass_kr(G, Z), (0.75 + 0.5) / 3)


def test_multiclass_hinge_by_hand() -> None:
    # First sample: 2 * 0, 0.5, 0; second: 0.75, 2 * 0, 0.
    assert near(nn.multiclass_hinge(G, Z), (0.5 + 0.75) / 3 / 2)
    # At 1 the true classes lack 0 and 0.5, twice; the others 1, 0 and 1.25, 0.5.
    assert near(nn.multiclass_hinge(G, Z, margin=2), (1.0 + 1.0 + 1.75) / 3 / 2)


def test_multiclass_hkr_by_hand() -> None:
    assert near(nn.multiclass_hkr(G, Z, alpha=0.25), 0.25 * 1.25 / 6 - 0.75 * 1.25 / 3)


def test_soft_hkr_by_hand() -> None:
    # Softmax of ln 3 * (0, -1) is (3/4, 1/4); of ln 3 * (0.25, -0.5) it is (3^0.75, 1) / (1 + 3^0.75).
    w = 3**0.75 / (1 + 3**0.75)
    kr = [1 + 0.75 * 0 + 0.25 * 1, 0.5 - w * 0.25 + (1 - w) * 0.5]
    hinge = [0.75 * 0.5, w * 0.75]
    known = sum(0.25 * h - 0.75 * k for h, k in zip(hinge, kr, strict=True)) / 2
    assert near(nn.soft_hkr(G, Z, alpha=0.25, temperature=math.log(3)), known)


def test_lse_hkr_by_hand() -> None:
    # t = ln 2 / (1/2), so exp(t v) = 4^v: smooth maxima log_4(1 + 1/4) and log_4(sqrt 2 + 1/2).
    n = [math.log(1.25, 4), math.log(math.sqrt(2) + 0.5, 4)]
    hinge, kr = [0.5 + n[0], 0.5 + n[1]], [1 - n[0], 0.5 - n[1]]
    known = sum(0.25 * h - 0.75 * k for h, k in zip(hinge, kr, strict=True)) / 2
    assert near(nn.lse_hkr(G, Z, alpha=0.25), known)


def test_lse_hkr_of_two_classes_is_the_other_output() -> None:
    f = torch.tensor([[0.25, -1.0]], dtype=F64, requires_grad=True)
    value = nn.lse_hkr(f, torch.tensor([0]), alpha=0.25)
    assert near(value.detach(), 0.25 * (0.25 + 0) - 0.75 * 1.25)
    value.backward()
    assert f.grad.tolist() == [[-1.0, 0.75]]


def test_smooth_maximum_lies_where_it_says() -> None:
    f, y = draw(50, 7), torch.zeros(50, dtype=torch.long)
    kr = -nn.lse_hkr(f, y, alpha=0, margin=0.6, penalty=0.5)
    largest = (f[:, 0] - f[:, 1:].amax(1)).mean()
    assert largest - 0.5 * 0.3 < kr < largest


def test_cross_entropies_by_hand() -> None:
    log1p, exp = math.log1p, math.exp
    known = (log1p(exp(-2) + exp(-4)) + log1p(exp(-0.5) + exp(-2))) / 2 / 2
    assert near(nn.tau_cross_entropy(G, Z, tau=2), known)
    known = (log1p(exp(-4)) + math.log(2) + log1p(exp(-2)) + log1p(exp(0.5))) / 4 / 2
    assert near(nn.tau_binary_cross_entropy(F, Y, tau=2), known)


def test_categorical_hinge_by_hand() -> None:
    # Leads 1 and 0.25.
    assert near(nn.categorical_hinge(G, Z), 0.75 / 2)
    assert near(nn.categorical_hinge(G, Z, margin=3), (2 + 2.75) / 2)
    other = G.flip(1)  # leads -2 and 0.25
    assert near(nn.categorical_hinge(other, Z), (3 + 0.75) / 2)


# -- laws --------------------------------------------------------------------------------------------------------------


@binary
def test_binary_gradients_and_modules(module, loss, options) -> None:
    f = draw(5).requires_grad_()
    y = torch.tensor([1, 0, 0, 1, 0])
    assert torch.autograd.gradcheck(lambda f: loss(f, y, **options), f)
    assert torch.equal(module(**options)(f, y), loss(f, y, **options))
    assert all(f"{name}={value}" in repr(module(**options)) for name, value in options.items())


@multi
def test_multiclass_gradients_and_modules(module, loss, options) -> None:
    f = draw(5, 4).requires_grad_()
    y = torch.tensor([1, 0, 3, 1, 0])
    assert torch.autograd.gradcheck(lambda f: loss(f, y, **options), f)
    if module is not nn.SoftHkr:
        assert torch.equal(module(**options)(f, y), loss(f, y, **options))


@binary
def test_order_of_the_batch_and_formats_of_binary_labels(module, loss, options) -> None:
    f, y, order = draw(6), torch.tensor([1, 0, 0, 1, 0, 1]), torch.tensor([3, 0, 5, 1, 2, 4])
    known = float(loss(f, y, **options))
    assert near(loss(f[order], y[order], **options), known)
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float16, F64):
        assert near(loss(f, y.to(dtype), **options), known)
    for dtype in (torch.int8, torch.int64, torch.bfloat16):
        assert near(loss(f, (2 * y - 1).to(dtype), **options), known)
    for g, labels in ((f[:, None], y), (f, y[:, None]), (f[:, None], y[:, None])):
        assert near(loss(g, labels, **options), known)


@multi
def test_order_of_the_batch_and_formats_of_class_labels(module, loss, options) -> None:
    f, y, order = draw(6, 3), torch.tensor([1, 0, 2, 1, 0, 1]), torch.tensor([3, 0, 5, 1, 2, 4])
    known = float(loss(f, y, **options))
    assert near(loss(f[order], y[order], **options), known)
    classes = torch.tensor([2, 0, 1])  # column k becomes the column of class classes[k]
    assert near(loss(f[:, classes.argsort()], classes[y], **options), known)
    hot = torch.nn.functional.one_hot(y, 3)
    for labels in (y.int(), y.to(torch.uint8), hot, hot.bool(), hot.float(), 2 * hot - 1, (2 * hot - 1).half()):
        assert near(loss(f, labels, **options), known)


def test_kr_ignores_a_shift_and_scales() -> None:
    f, y = draw(6, 3), torch.tensor([1, 0, 2, 1, 0, 1])
    assert near(nn.multiclass_kr(3 * f + draw(3, seed=1), y), 3 * float(nn.multiclass_kr(f, y)))
    assert near(nn.binary_kr(3 * F + 5, Y), 3 * 1.375)
    assert near(nn.binary_kr(F, 1 - Y), -1.375)
    assert near(nn.binary_kr(F, Y), float(nn.kantorovich_rubinstein(F[:2], F[2:])))


def test_the_ends_of_alpha() -> None:
    assert near(nn.hkr(F, Y, alpha=0), -1.375)
    assert near(nn.hkr(F, Y, alpha=1), 0.3125)
    assert near(nn.hkr(F[:2], Y[:2], alpha=1), 0.25)


@multi
@pytest.mark.parametrize("labels", [torch.tensor([2, 2]), torch.tensor([0, 0])])
def test_missing_classes_are_finite(module, loss, options, labels: Tensor) -> None:
    f = G.clone().requires_grad_()
    value = loss(f, labels, **options)
    value.backward()
    assert value.isfinite()
    assert f.grad.isfinite().all()


def test_missing_classes_and_single_samples_give_no_kr() -> None:
    f = G.clone().requires_grad_()
    value = nn.multiclass_kr(f, torch.tensor([2, 2]))
    value.backward()
    assert value == 0
    assert torch.equal(f.grad, torch.zeros_like(G))
    assert nn.multiclass_kr(G[:1], Z[:1]) == 0
    assert near(nn.hinge_margin(F[3:], Y[3:]), 0.75)


@binary
def test_nan_in_binary_outputs_is_seen(module, loss, options) -> None:
    for k in range(4):
        f = F.clone()
        f[k] = math.nan
        assert loss(f, Y, **options).isnan()


@multi
def test_nan_in_class_outputs_is_seen(module, loss, options) -> None:
    for k in range(6):
        f = G.clone()
        f.view(-1)[k] = math.nan
        assert loss(f, Z, **options).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    # In half precision the sum would overflow, and in bfloat16 lose the last two digits.
    f, y = draw(4096).to(dtype) + 100, torch.arange(4096) % 2
    value = nn.binary_kr(f, y)
    assert value.dtype == dtype
    assert value == nn.binary_kr(f.double(), y).to(dtype)
    for _, loss, options in MULTI.values():
        known = loss(G.to(dtype).double(), Z, **options)
        assert abs(loss(G.to(dtype), Z, **options).double() - known) <= torch.finfo(dtype).eps * abs(known)


# -- the running mean --------------------------------------------------------------------------------------------------


def test_the_temperature_follows_the_outputs() -> None:
    loss = nn.SoftHkr(alpha=0.25, margin=1.0, sharpness=2.0, decay=0.75)
    f = torch.tensor([[4.0, -6.0, 5.0]], dtype=F64)  # mean of |f| is 5: the running mean becomes 0.75 + 1.25 = 2
    known = nn.soft_hkr(f, torch.tensor([0]), alpha=0.25, temperature=1.0)
    assert near(loss(f, torch.tensor([0])), float(known))
    assert loss.state_dict()["size"] == 2
    assert loss.eval()(f, torch.tensor([0])) == known
    assert loss.size == 2
    other = nn.SoftHkr(alpha=0.25, sharpness=2.0)
    other.load_state_dict(loss.state_dict())
    assert other.eval()(f, torch.tensor([0])) == known


def test_the_temperature_has_limits() -> None:
    small = torch.full((1, 2), 1e-3)
    assert nn.SoftHkr(alpha=0, sharpness=3, decay=0).temperature(small) == 3
    assert nn.SoftHkr(alpha=0, sharpness=1e4).eval().temperature(small) == 250
    assert nn.SoftHkr(alpha=0, decay=0).temperature(small * 1e9) == 0.005


def test_what_cannot_be_used_leaves_the_running_mean_alone() -> None:
    loss = nn.SoftHkr(alpha=0.25, decay=0.5)
    assert loss(torch.tensor([[math.nan, 9.0]]), torch.tensor([0])).isnan()
    with pytest.raises(ValueError, match="the indices are 0 to 1"):
        loss(torch.tensor([[9.0, 9.0]]), torch.tensor([2]))
    assert loss.size == 1


# -- several processes -------------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    assert nn.kr_weights(torch.tensor([1, 0, 0, 1])).tolist() == [2, -2, -2, 2]
    assert nn.kr_weights(torch.tensor([[-1.0], [1.0], [-1.0], [-1.0]]), dtype=F64).tolist() == [
        [-4 / 3],
        [4],
        [-4 / 3],
        [-4 / 3],
    ]
    # The third class is absent.
    hot = [[2, -2, 0], [-2, 2, 0]]
    assert nn.kr_weights(Z, classes=3).tolist() == hot
    assert nn.kr_weights(torch.nn.functional.one_hot(Z, 3)).tolist() == hot
    assert near((nn.kr_weights(Z, classes=3, dtype=F64) * G).mean(), float(nn.multiclass_kr(G, Z)))
    assert near((nn.kr_weights(Y, dtype=F64) * F).mean(), 1.375)


WORKER = """
import sys, torch, torch.distributed as dist
from barrow.nn import kr_weights, multiclass_kr
rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
mine = slice(0, 3) if rank == 0 else slice(3, 4)
f, y = torch.tensor([2.0, 0.0, 4.0, 0.25]), torch.tensor([1, 1, 1, 0])  # each process holds one class only
weights = kr_weights(y[mine])
assert torch.allclose(weights, torch.tensor([2.0, 2.0, 2.0] if rank == 0 else [-2.0])), weights
mean = (weights * f[mine]).mean()
dist.all_reduce(mean)
assert torch.isclose(mean / 2, torch.tensor(2.0 - 0.25)), mean
g, z = torch.arange(12.0).reshape(4, 3) ** 2, torch.tensor([0, 1, 1, 0])
mean = (kr_weights(z[mine], classes=3) * g[mine]).mean()
dist.all_reduce(mean)
assert torch.isclose(mean / 2, multiclass_kr(g, z)), mean
try:
    kr_weights(torch.ones(2))
except ValueError as error:
    assert "this batch of 4 is negative" in str(error), error
else:
    raise AssertionError("one class was taken")
dist.destroy_process_group()
"""


def test_two_processes_share_a_batch(tmp_path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    try:
        said = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "labels", "words"),
    [
        ([1.0], Y, "f is a list, but the outputs of a classifier must be a torch.Tensor"),
        (F.long(), Y, "f has dtype torch.int64"),
        (F[0], Y, "f has shape (), but outputs have shape (B,) or (B, C)"),
        (F.reshape(2, 2, 1), Y, "f has shape (2, 2, 1), but outputs have shape (B,) or (B, C): use f.flatten(1)"),
        (F[:0], Y[:0], "f has shape (0,), but a mean needs at least one sample"),
        (F, [1, 1, 0, 0], "labels is a list, but labels must be a torch.Tensor"),
        (F, Y * 1j, "labels has dtype torch.complex64, but labels must be real or bool"),
        (F, Y[:3], "f has shape (4,) but labels has shape (3,): give one label a sample, (4,), or one an output"),
        (F[:, None], Y.expand(4, 4), "f has shape (4, 1) but labels has shape (4, 4)"),
        (F, Y.to("meta"), "f is on cpu but labels is on meta: use labels.to(f.device)"),
        (F, 2 * Y, "labels contains 2, but binary labels are 0 and 1, -1 and 1, or bool: use labels > threshold"),
        (F, Y * math.nan, "labels contains nan, but binary labels"),
        (F, 0.9 * Y, "labels contains 0.9, but binary labels"),
        (F, (255 * Y).to(torch.uint8), "labels contains 255, but binary labels"),
        (F, Y - torch.tensor([0, 0, 1, 0]), "labels contains 0 and -1, but binary labels"),
        (F, Y * 0, "no label of this batch of 4 is positive, but Kantorovich-Rubinstein compares two classes"),
        (F, Y * 0 + 1, "no label of this batch of 4 is negative, but Kantorovich-Rubinstein compares two classes"),
        (F[:1], Y[:1], "no label of this batch of 1 is negative"),
        (torch.stack([F, F], 1), torch.stack([Y, Y * 0], 1), "no label of this batch of 4 is positive"),
    ],
)
def test_binary_refusals(f, labels, words: str) -> None:
    for loss in (nn.binary_kr, lambda f, y: nn.hkr(f, y, alpha=0.5)):
        with pytest.raises(ValueError, match="^" + re.escape(words)):
            loss(f, labels)


@multi
@pytest.mark.parametrize(
    ("f", "labels", "words"),
    [
        (F, Y, "f has shape (4,), but one output a class is needed, (B, C) with C >= 2: for one output a sample use"),
        (F[:, None], Y, "f has shape (4, 1), but one output a class is needed"),
        (G[:0], Z[:0], "f has shape (0, 3), but a mean needs at least one sample"),
        (G, [0, 1], "labels is a list"),
        (G, Z[:, None], "f has shape (2, 3) but labels has shape (2, 1): give class indices (2,) or one-hot labels (2"),
        (G, Z.float(), "labels has dtype torch.float32, but class indices are integers: use labels.long()"),
        (G, Z.bool(), "labels has dtype torch.bool, but class indices are integers"),
        (G, Z + 2, "labels contains 3, but with 3 classes the indices are 0 to 2: leave out samples"),
        (G, Z - 1, "labels contains -1, but with 3 classes"),
        (G, Z.to("meta"), "f is on cpu but labels is on meta"),
        (G, torch.eye(3)[:2].to("meta"), "f is on cpu but labels is on meta"),
        (G, torch.eye(3)[:2] * 0.5, "labels contains 0.5, but binary labels"),
        (G, torch.eye(3)[1:] * 0, "row 0 of the one-hot labels names 0 classes, but a sample has exactly one"),
        (G, torch.tensor([[0, 1, 0], [0, 1, 1]]), "row 1 of the one-hot labels names 2 classes"),
    ],
)
def test_multiclass_refusals(module, loss, options, f, labels, words: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        loss(f, labels, **options)


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        ([1], None, "labels is a list"),
        (torch.tensor(1), None, "labels has shape (), but one label a sample is needed: (B,) or (B, C)"),
        (Y[:0], None, "labels has shape (0,), but one label a sample is needed"),
        (2 * Y, None, "labels contains 2, but binary labels"),
        (Y * 0, None, "no label of this batch of 4 is positive"),
        (Y[:, None] * 0 + 1, None, "no label of this batch of 4 is negative"),
        (Y[:, None], 3, "labels has shape (4, 1), but class indices have shape (B,): leave out classes"),
        (Y, 1, "classes is 1, but it must be a whole number of at least 2"),
        (Y + 3, 3, "labels contains 4, but with 3 classes"),
    ],
)
def test_weights_refuse(labels, classes, words: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        nn.kr_weights(labels, classes=classes)


@pytest.mark.parametrize(("module", "loss", "options"), [*BINARY.values(), *MULTI.values()])
def test_options_out_of_range(module, loss, options) -> None:
    f, y = (F, Y) if (module, loss, options) in BINARY.values() else (G, Z)
    for name in options:
        for wrong in (-0.5, math.nan, INF, "1"):
            with pytest.raises(ValueError, match=f"^{name} is "):
                loss(f, y, **options | {name: wrong})
            if name != "temperature":
                with pytest.raises(ValueError, match=f"^{name} is "):
                    module(**{k: v for k, v in options.items() if k != "temperature"} | {name: wrong})
    assert fraction("alpha", 1) == 1
    with pytest.raises(ValueError, match=r"^alpha is 1\.5, but it must be a number from 0 to 1"):
        fraction("alpha", 1.5)
