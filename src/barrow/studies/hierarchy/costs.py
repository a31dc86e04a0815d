"""What a loss costs that knows a tree, beside one that knows its matrix of distances, and what each is worth."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import barrow
from barrow.studies.study import Claim, Table

BATCH, EXACT = 64, 4  # pairs of histograms; those of them that are solved exactly
SHARES = (0.05, 0.02)  # epsilon, of the longest distance
TOL = 1e-4

clock = time.perf_counter


def histograms(K: int, seed: int) -> tuple[Tensor, Tensor]:
    """Predictions and soft labels (BATCH, K), in float64."""
    generator = torch.Generator().manual_seed(seed)
    h, t = (3 * torch.randn((2, BATCH, K), generator=generator, dtype=torch.float64)).softmax(-1)
    return h, t


def seconds(loss: Callable[[Tensor], Tensor], h: Tensor) -> float:
    """Forward and backward, the best of three after one that warms up."""
    times = []
    for _ in range(4):
        h = h.detach().requires_grad_()
        start = clock()
        loss(h).sum().backward()
        times.append(clock() - start)
    return min(times[1:])


def measure(tree: barrow.Tree, seed: int) -> dict[str, Any]:
    """Values in edges, in float64; seconds for the losses and their gradients, in float32.

    "work" is what is read for one histogram: the nodes, up and down the tree; the matrix, twice an iteration.
    """
    tree = tree.to(torch.float64)
    D, K = tree.dense(), tree.shape[0]
    h, t = histograms(K, seed)
    exact = [
        barrow.solve(barrow.Problem(barrow.Dense(D), a, b), barrow.Simplex())
        for a, b in zip(h[:EXACT], t, strict=False)
    ]
    y = torch.arange(BATCH) % K
    found: dict[str, Any] = {
        "classes": K,
        "nodes": len(tree.parent),
        "HEMD^1": barrow.tree_emd(h, t, tree).tolist(),
        "simplex": [float(solution.value) for solution in exact],
        "HEMD^1, one class": barrow.tree_emd(h, y, tree).tolist(),
        "expected distance": (h * D[y]).sum(-1).tolist(),
        "least entropy": torch.minimum(*(-torch.xlogy(p, p).sum(-1) for p in (h, t))).tolist(),
    }
    light, soft, C = tree.to(torch.float32), t.float(), D.float()
    for exponent in (1, 2):
        loss = functools.partial(barrow.tree_emd, t=soft, tree=light, exponent=exponent)
        found[f"HEMD^{exponent}, seconds"] = seconds(loss, h.float())
    for share in SHARES:
        epsilon = share * float(D.max())
        solution = barrow.solve(barrow.Problem(barrow.Dense(D), h, t, epsilon=epsilon), barrow.Sinkhorn(tol=TOL))
        loss = functools.partial(barrow.label_wasserstein, t=soft, C=C, epsilon=epsilon)
        found[f"Sinkhorn, {share:g}"] = {
            "epsilon": epsilon,
            "values": solution.value.tolist(),
            "steps": float(solution.steps.double().mean()),
            "seconds": seconds(loss, h.float()),
        }
    return found


def claims(cost: dict[str, Any]) -> list[Claim]:
    """That both are the same distance, one exactly, and what the other adds."""
    W = torch.tensor(cost["HEMD^1"], dtype=torch.float64)
    simplex = torch.tensor(cost["simplex"], dtype=torch.float64)
    off = float(((W[: len(simplex)] - simplex) / simplex).abs().max())
    one, expected = (torch.tensor(cost[k], dtype=torch.float64) for k in ("HEMD^1, one class", "expected distance"))
    apart = float(((one - expected) / expected).abs().max())
    shares, fine = [], True
    for share in SHARES:
        found = cost[f"Sinkhorn, {share:g}"]
        above = torch.tensor(found["values"], dtype=torch.float64) - W
        bound = found["epsilon"] * torch.tensor(cost["least entropy"], dtype=torch.float64)
        shares.append((above / bound).tolist())
        fine = fine and bool(((above >= -TOL * W) & (above <= bound + TOL * W)).all())
    return [
        Claim(
            f"at {cost['classes']} classes HEMD¹ is W₁, as the simplex method finds it in the matrix of distances",
            "to within 1e-6 of it",
            f"{off:.0e}",
            off <= 1e-6,
        ),
        Claim(
            "for a single true class HEMD¹ is the expected distance from the prediction to it",
            "to within 1e-6 of it",
            f"{apart:.0e}",
            apart <= 1e-6,
        ),
        Claim(
            "Sinkhorn's value is above it, by epsilon times the smaller entropy at most",
            f"a share of 0 to 1 of that bound, for epsilon {' and '.join(f'{s:g}' for s in SHARES)} of the longest way",
            "; ".join(f"{min(some):.2f} to {max(some):.2f}" for some in shares),
            fine,
        ),
    ]


def table(cost: dict[str, Any]) -> Table:
    """A row a loss; seconds are of this machine."""
    nodes, K = cost["nodes"], cost["classes"]
    quickest = cost["HEMD^1, seconds"]
    rows = [
        (f"tree_emd, exponent {exponent}", f"{2 * nodes:,}", "1", _milliseconds(cost[f"HEMD^{exponent}, seconds"]), "1")
        for exponent in (1, 2)
    ]
    for share in SHARES:
        found = cost[f"Sinkhorn, {share:g}"]
        read = found["steps"] * 2 * K**2
        rows.append((
            f"label_wasserstein, epsilon {share:g} of the longest",
            f"{read:,.0f}",
            f"{read / (2 * nodes):,.0f}",
            _milliseconds(found["seconds"]),
            f"{found['seconds'] / quickest:,.0f}" if quickest else "",
        ))  # fmt: skip
    columns = (
        f"{K} classes, {nodes} nodes",
        "numbers read a histogram",
        "times the tree's",
        f"{BATCH} histograms",
        "times",
    )
    return Table(columns, tuple(rows))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
