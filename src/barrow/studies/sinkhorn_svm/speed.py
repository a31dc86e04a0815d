"""What Sinkhorn distances cost, how far they are from exact transport, and which laws they keep."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import barrow

LAMBDAS = (1.0, 10.0, 50.0)
TOGETHER = 64  # histograms that one is compared with at once
ALPHAS = (0.0, 0.05, 0.2, 0.5, 1.0, 5.0)  # nats of information
ALONE = 3  # of them, one by one: exactly, and by Algorithm 1


class Scaled(NamedTuple):
    """Where Algorithm 1 stopped: <P, M> and a lower bound of exact transport, (n,) each, and how soon, (n,)."""

    distance: Tensor
    lower: Tensor
    steps: Tensor


def algorithm_1(
    r: Tensor, C: Tensor, M: Tensor, lam: float, *, steps: int | None = None, tol: float = 1e-4, limit: int = 10_000
) -> Scaled:
    """The dual-Sinkhorn divergences <P, M> of one histogram to n others, by products of matrices.

        P = argmin over couplings of <P, M> - H(P) / lam = diag(u) K diag(v),   K = exp(-lam M)
        repeat  u <- r / (K v),  v <- c / (K' u)

    All n are scaled at once. As P has the columns' sums exactly, no entry of it is above 1, and (log u, log v) / lam is
    feasible for the exact dual, wherever the iteration stops: the lower bound.

    Args:
        r: (d,).
        C: (n, d), of the same mass, 1.
        M: (d, d).
        lam: one over epsilon.
        steps: how many times, for all; None is until every distance has once changed by less than the share ``tol``.
        tol: see there.
        limit: steps at most.

    >>> M = 1 - torch.eye(2, dtype=torch.float64)
    >>> r, C = torch.tensor([0.5, 0.5]).double(), torch.tensor([[1.0, 0.0], [0.5, 0.5]]).double()
    >>> algorithm_1(r, C, M, 9.0).distance
    tensor([5.0000e-01, 1.2339e-04], dtype=torch.float64)

    Source: Cuturi 2013, Algorithm 1 and section 5.3.
    """
    some = r > 0
    r, M = r[some], M[some]
    K = torch.exp(-lam * M)
    transposed = (K / r[:, None]).mT.contiguous()
    KM = (K * M).mT
    u = torch.full((len(C), len(r)), 1 / len(r), dtype=C.dtype)
    last = torch.full((len(C),), torch.inf, dtype=C.dtype)
    at = torch.zeros(len(C), dtype=torch.long)
    for step in range(1, (limit if steps is None else steps) + 1):
        u = torch.mm((C / (u @ K)), transposed).reciprocal_()
        if steps is None:
            v = C / (u @ K)
            now = (u * (v @ KM)).sum(1)
            settled = (now / last - 1).abs() < tol
            at[settled & (at == 0)] = step
            last = now
            if bool((at > 0).all()):
                break
    v = C / (u @ K)
    at[at == 0] = step
    return Scaled((u * (v @ KM)).sum(1), ((r * u.log()).sum(1) + torch.xlogy(C, v).sum(1)) / lam, at)


# -- random metrics ----------------------------------------------------------------------------------------------------


def random_metric(d: int, generator: torch.Generator) -> Tensor:
    """Lengths of shortest paths in a random graph, scaled to unit median, (d, d).

    Each two of d vertices have an edge with probability 1/2, of a length uniform in [0, 1]. Graphs in pieces are drawn
    again.

    >>> M = random_metric(9, torch.Generator().manual_seed(0))
    >>> float(M.median()), bool((M[:, None] <= M[..., None] + M + 1e-12).all())
    (1.0, True)

    Source: Cuturi 2013, section 5.3; Floyd 1962, Warshall 1962.
    """
    M = torch.full((d, d), torch.inf, dtype=torch.float64)
    while not bool(M.isfinite().all()):
        length = torch.rand(d, d, generator=generator, dtype=torch.float64)
        edge = torch.rand(d, d, generator=generator) < 0.5
        M = torch.where(edge, length, torch.inf).triu(1)
        M = torch.where(M > 0, M, torch.inf)
        M = torch.minimum(M, M.mT).fill_diagonal_(0)
        for k in range(d):
            torch.minimum(M, M[:, k : k + 1] + M[k], out=M)
    return M / M.median()


def uniform_histograms(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Points of the simplex, uniform, (n, d)."""
    X = torch.empty(n, d, dtype=torch.float64).exponential_(generator=generator)
    return X / X.sum(1, keepdim=True)


def measure(d: int, seed: int) -> dict[str, Any]:
    """One metric of d bins: how many iterations, how far from exact, and how many seconds a distance takes, at best.

    Both kinds of Sinkhorn, one against one and one against many, stop as the paper's do, when no distance changes by
    1e-4 of itself. By the name of who did it: "seconds"; by lambda: "steps" of each pair and its "gaps", relative.
    """
    generator = torch.Generator().manual_seed(seed)
    M = random_metric(d, generator)
    r, *others = uniform_histograms(1 + TOGETHER, d, generator)
    C = torch.stack(others)
    seconds: dict[str, float] = {}

    def timed(name: str, one: Callable[[Tensor], Any], *, many: bool = False) -> list[Any]:
        found, times = [], []
        if not many:
            one(C[0])  # the first call of its kind pays for more than itself
        for c in [C] if many else C[:ALONE]:
            start = time.perf_counter()
            found.append(one(c))
            times.append(time.perf_counter() - start)
        seconds[name] = min(times) / (len(C) if many else 1)
        return found

    def exact(solver: barrow.Solver) -> Callable[[Tensor], float]:
        return lambda c: float(barrow.solve(barrow.Problem(barrow.Dense(M), r, c), solver).value)

    truth = torch.tensor(timed("exact: barrow.Simplex", exact(barrow.Simplex())), dtype=torch.float64)
    timed("exact: barrow.Auto", exact(barrow.Auto()))
    if importlib.util.find_spec("ot") is not None:
        import ot

        timed("exact: ot.emd2", lambda c: ot.emd2(r.numpy(), c.numpy(), M.numpy()))
    steps, gaps = {}, {}
    for lam in LAMBDAS:

        def scaled(c: Tensor, lam: float = lam) -> Scaled:
            return algorithm_1(r, torch.atleast_2d(c), M, lam)

        timed(f"Sinkhorn, λ = {lam:g}", scaled)
        (found,) = timed(f"Sinkhorn, λ = {lam:g}, {TOGETHER} at once", scaled, many=True)
        steps[f"{lam:g}"] = found.steps.tolist()
        gaps[f"{lam:g}"] = (found.distance[:ALONE] / truth - 1).tolist()
    return {"seconds": seconds, "steps": steps, "gaps": gaps}


# -- against exact transport -------------------------------------------------------------------------------------------


def brackets(A: Tensor, B: Tensor, M: Tensor, lam: float) -> dict[str, list[float]]:
    """What a plan of :class:`barrow.Sinkhorn` costs and what its potentials prove of exact transport, pair by pair.

    For an infinite lambda, exact transport itself.
    """
    found = []
    for a, b in zip(A, B, strict=True):
        exact = barrow.Problem(barrow.Dense(M), a, b)
        if math.isinf(lam):
            found.append(barrow.solve(exact, barrow.Simplex()).bounds)
        else:
            entropic = barrow.Problem(barrow.Dense(M), a, b, epsilon=1 / lam)
            s = barrow.solve(entropic, barrow.Sinkhorn(tol=1e-4))
            found.append(barrow.certify(exact, plan=s.plan, f=s.f, g=s.g))
    return {"lower": [float(c.lower) for c in found], "upper": [float(c.upper) for c in found]}


def laws(X: Tensor, side: int, seed: int, triples: int) -> dict[str, float]:
    """How far off, at worst: columns of a batch from themselves alone, d_{M, 0} from r' M c, triangles from their law.

    X are images of ``side``^2 pixels. The triangles are on a random metric; every other one is as tight as it can be
    for exact transport: its middle is the mean of its ends.
    """
    from barrow.sklearn import sinkhorn_distances

    generator = torch.Generator().manual_seed(seed)
    one, others = X[:1].numpy(), X[1:33].numpy()
    together = sinkhorn_distances(one, others, cost=(side, side), lam=9)[0]
    alone = [float(sinkhorn_distances(one, c[None], cost=(side, side), lam=9)[0, 0]) for c in others]
    M = random_metric(16, generator)
    x, y, z = uniform_histograms(3 * triples, 16, generator).unflatten(0, (3, triples))
    y[::2] = (x + z)[::2] / 2
    beyond = []
    for alpha in ALPHAS:
        xy, yz, xz = (barrow.sinkhorn_ball(p, q, M, alpha=alpha, tol=1e-6) for p, q in ((x, y), (y, z), (x, z)))
        beyond.append(float((xz / (xy + yz) - 1).max()))
    product = (x @ M * y).sum(1)
    return {
        "batch": max(abs(b / a - 1) for a, b in zip(alone, together.tolist(), strict=True)),
        "independence": float((barrow.sinkhorn_ball(x, y, M, alpha=0.0) / product - 1).abs().max()),
        "triangle": max(beyond),
        "triangles": triples * len(ALPHAS),
    }
