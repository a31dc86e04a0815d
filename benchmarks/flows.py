"""Losses of histograms in closed form, forward and backward, against torch's cross-entropy on the same batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import barrow
from barrow.ops.flows import Loss, flow_loss_reference
from benchmarks.harness import Case, Contender, Judged, Setting, Value

BATCH = 4096


class Batch(NamedTuple):
    z: Tensor  # (B, n) logits
    p: Tensor  # their softmax
    at: Tensor  # (B,) classes
    t: Tensor  # either at or dense histograms, as the task says
    tree: barrow.Tree | None
    exponent: float
    logits: bool


def settings(sizes: Sequence[int]) -> Iterable[Setting]:
    """Here m is the size of the batch."""
    for n in sizes or (1000,):
        for kind in ("chain", "tree"):
            for exponent in (1, 2):
                for source in ("probabilities", "logits"):
                    for target in ("dense", "classes"):
                        yield Setting(n, BATCH, 0, target, f"{kind} {exponent} from {source}")


def hierarchy(leaves: int) -> barrow.Tree:
    """A random tree about a dozen levels deep, its leaves numbered at random."""
    g = torch.Generator().manual_seed(0)
    inner = max(1, 7 * leaves // 10)
    up, depth = [-1], [0]
    for v in range(1, inner):
        near = max(0, v - 120)
        u = int(torch.randint(near, v, (), generator=g))
        u = u if depth[u] < 10 else int(torch.randint(0, max(1, v // 4), (), generator=g))
        up.append(u)
        depth.append(depth[u] + 1)
    bare = sorted(set(range(inner)) - set(up))
    parents = bare + [int(torch.randint(0, inner, (), generator=g)) for _ in range(leaves - len(bare))]
    up += [parents[k] for k in torch.randperm(leaves, generator=g).tolist()]
    return barrow.Tree(torch.tensor(up), torch.ones(len(up)))


def make(setting: Setting) -> Batch:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(setting.m, setting.n, generator=g)
    at = torch.randint(0, setting.n, (setting.m,), generator=g)
    kind, exponent, _, source = setting.task.split()
    t = at if setting.weights == "classes" else torch.nn.functional.one_hot(at, setting.n).float()
    return Batch(
        z, z.softmax(-1), at, t, hierarchy(setting.n) if kind == "tree" else None, float(exponent), source == "logits"
    )


def trained(data: Batch, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The mean loss of the batch and its gradient."""
    x = (data.z if data.logits else data.p).detach().requires_grad_()
    value = loss(x.softmax(-1) if data.logits else x).mean()
    return value.detach(), torch.autograd.grad(value, x)[0]


def ours(data: Batch) -> tuple[Tensor, Tensor]:
    if data.tree is None:
        return trained(data, lambda h: barrow.emd_1d(h, data.t, data.exponent))
    tree = data.tree
    return trained(data, lambda h: barrow.tree_emd(h, data.t, tree, data.exponent))


def plain(data: Batch) -> tuple[Tensor, Tensor]:
    """The same in plain torch, whose input nobody judges."""
    tree, w = (None, None) if data.tree is None else (data.tree.topology, data.tree.length)
    return trained(data, lambda h: flow_loss_reference(h, data.t, w, tree, Loss(data.exponent)))


def cross_entropy(data: Batch) -> None:
    """Another loss, for its time: from logits and classes, as torch fuses it."""
    x = data.z.detach().requires_grad_()
    torch.nn.functional.cross_entropy(x, data.at).backward()


def known(data: Batch) -> Value:
    double = data._replace(
        z=data.z.double(),
        p=data.p.double(),
        t=data.t.double() if data.t.is_floating_point() else data.t,
        tree=None if data.tree is None else data.tree.to(torch.float64),
    )
    value, gradient = plain(double)
    return Value(float(value), gradient)


def judge(known: Value, answer: Value | None) -> Judged:
    if answer is None:
        return Judged(float("nan"), float("nan"), "another loss")
    assert known.gradient is not None
    assert answer.gradient is not None
    off = abs(answer.value - known.value) / abs(known.value)
    # For exponent 1 the sign of a flow within rounding of 0 is free: entries that it decides are counted, not measured.
    apart = (answer.gradient.double() - known.gradient).abs() / known.gradient.abs().max()
    return Judged(
        answer.value, off, f"gradient off by {float(apart.median()):.1g} (median), {float(apart.max()):.1g} at most"
    )


def found(answer: tuple[Tensor, Tensor]) -> Value:
    return Value(float(answer[0]), answer[1])


FLOWS = Case(
    "flows",
    (
        Contender("barrow", "barrow", ours, found),
        Contender("torch cross_entropy", "torch", cross_entropy, lambda answer: None),
        Contender("plain torch", "torch", plain, found),
    ),
    settings,
    make,
    known,
    judge,
)
