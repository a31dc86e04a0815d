"""Digits as histograms, kernels of the distances between them, and how well these tell the digits apart."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from barrow.studies.data import mnist
from barrow.studies.study import BadData
from barrow.studies.work import Work

SINKHORN, EMD, INDEPENDENCE = "Sinkhorn", "exact transport", "independence"
TV, EUCLID = "total variation", "squared Euclidean"
LAMBDAS, POWERS = (5, 7, 9, 11), (0.01, 0.1, 1.0)  # λ in units of one over the median of M
WIDTHS, PENALTIES = (0.0, 0.1, 0.2, 0.5), (1e-2, 1.0, 1e4)  # quantiles of the distances; 0 stands for t = 1
PLAIN = {"Hellinger": "hellinger", "χ²": "chi_squared", TV: "total_variation", EUCLID: "squared_euclidean"}
FAMILIES: dict[str, tuple[str, ...]] = {
    SINKHORN: tuple(f"{SINKHORN}, λ = {lam}" for lam in LAMBDAS),
    f"{SINKHORN}, λ = 9": (f"{SINKHORN}, λ = 9",),
    EMD: (EMD,),
    INDEPENDENCE: tuple(f"{INDEPENDENCE}, a = {power:g}" for power in POWERS),
    **{name: (name,) for name in PLAIN},
}


# -- data --------------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class Digits:
    """Histograms (n, side^2) of mass 1 and what they show, (n,), as many of each digit in any first 10 k of them."""

    X: Tensor
    y: Tensor
    side: int
    source: str

    @property
    def metric(self) -> Tensor:
        """Euclidean distances between pixels, scaled to unit median."""
        grid = torch.cartesian_prod(*[torch.arange(self.side, dtype=torch.float64)] * 2)
        # Not by products of matrices, which leave 1e-8 where there should be 0.
        M = torch.cdist(grid, grid, compute_mode="donot_use_mm_for_euclid_dist")
        return M / M.median()


def digits(work: Work, count: int) -> Digits:
    """MNIST without its frames, or else scikit-learn's small digits, which a quick run always has."""
    images = None if work.quick and work.data is None else mnist.find(work.data)
    if images is None or images.advice:
        from sklearn.datasets import load_digits

        small = load_digits()
        grey, labels = torch.as_tensor(small.images), torch.as_tensor(small.target)
        source = f"scikit-learn's digits, 8 x 8; {mnist.ADVICE}"
    else:
        grey, labels, source = (
            images.cropped[:, 0].double(),
            images.labels,
            f"{images.source}, without their frames: 20 x 20",
        )
    generator = torch.Generator().manual_seed(work.seed)
    each = [torch.randperm(int((labels == k).sum()), generator=generator) for k in range(10)]
    if min(len(order) for order in each) < count // 10:
        raise BadData(f"{source} holds fewer than {count // 10} images of some digit: give more")
    chosen = torch.stack(
        [(labels == k).nonzero()[order[: count // 10], 0] for k, order in enumerate(each)], 1
    ).flatten()
    X = grey[chosen].flatten(1).double()
    return Digits(X / X.sum(1, keepdim=True), labels[chosen], grey.shape[-1], source)


def distances(work: Work, data: Digits, exact: int, groups: int) -> dict[str, Tensor]:
    """The matrix of every distance, in units of the median of the metric; of exact transport among the first images.

    Distances that take long are found a group of images against another at a time.
    """
    import barrow.sklearn as own

    M = data.metric.numpy()
    # Single precision is far below what a kernel notices.
    single, double = data.X.float(), data.X[:exact]
    jobs: dict[str, tuple[Tensor, Callable[..., Any]]] = {
        name: (single, functools.partial(own.sinkhorn_distances, cost=M, lam=lam))
        for name, lam in zip(FAMILIES[SINKHORN], LAMBDAS, strict=True)
    }
    jobs[EMD] = double, functools.partial(own.transport_distances, cost=M)
    found = {}
    for name, (X, measure) in jobs.items():
        parts = X.chunk(groups)
        pairs = list(itertools.combinations_with_replacement(range(len(parts)), 2))
        cells = {
            f"{name}, groups {i + 1} and {j + 1} of {groups}": functools.partial(_measured, measure, parts[i], parts[j])
            for i, j in pairs
        }
        done = dict(zip(pairs, work.parts(cells, f"distances: {name}").values(), strict=True))
        found[name] = torch.cat(
            [
                torch.cat([done[i, j] if i <= j else done[j, i].mT for j in range(len(parts))], 1)
                for i in range(len(parts))
            ]
        )
    rows = data.X.numpy()
    for name, function in PLAIN.items():
        found[name] = torch.from_numpy(getattr(own, function)(rows))
    for name, power in zip(FAMILIES[INDEPENDENCE], POWERS, strict=True):
        found[name] = torch.from_numpy(own.independence(rows, cost=M, power=power))
    return found


def _measured(measure: Callable[..., Any], X: Tensor, Y: Tensor) -> Tensor:
    """Distances between two groups, or within one."""
    return torch.from_numpy(measure(X.numpy()) if X is Y else measure(X.numpy(), Y.numpy()))


# -- the protocol ------------------------------------------------------------------------------------------------------


def gram(D: Tensor, t: float) -> Tensor:
    """exp(-D / t), with as much added to its diagonal as makes it positive semidefinite."""
    G = torch.exp(-D / t)
    least = float(torch.linalg.eigvalsh(G)[0])
    return G + max(0.0, -least) * torch.eye(len(G), dtype=G.dtype)


def widths(D: Tensor) -> list[float]:
    """1, and quantiles of the distances between different images."""
    between = D[~torch.eye(len(D), dtype=torch.bool)]
    return [float(between.quantile(q)) if q > 0 else 1.0 for q in WIDTHS]


def fold_errors(matrices: Mapping[str, Tensor], y: Tensor, train: Tensor, test: Tensor, seed: int) -> dict[str, Any]:
    """Test errors of every family after training on one fold, and what was chosen there: (matrix, t, C)."""
    from sklearn.model_selection import RepeatedStratifiedKFold
    from sklearn.svm import SVC

    def error(K: Tensor, labels: Tensor, across: Tensor, truth: Tensor, C: float) -> float:
        model = SVC(C=C, kernel="precomputed").fit(K.numpy(), labels.numpy())
        return float((model.predict(across.numpy()) != truth.numpy()).mean())

    halves = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=seed).split(train, y[train]))
    scores: dict[tuple[str, float, float], float] = {}
    for name, D in matrices.items():
        near, own = D[train][:, train], y[train]
        for t in widths(near):
            K = gram(near, t)
            for C in PENALTIES:
                scores[name, t, C] = statistics.fmean(
                    error(K[a][:, a], own[a], K[b][:, a], own[b], C) for a, b in halves
                )
    errors, chosen = {}, {}
    for family, members in FAMILIES.items():
        candidates = [key for key in scores if key[0] in members]
        if candidates:
            name, t, C = chosen[family] = min(candidates, key=lambda key: scores[key])
            D = matrices[name]
            errors[family] = error(gram(D[train][:, train], t), y[train], torch.exp(-D[test][:, train] / t), y[test], C)
    return {"errors": errors, "chosen": chosen}


def repeat(matrices: Mapping[str, Tensor], y: Tensor, seed: int) -> list[dict[str, Any]]:
    """Four folds, each trained on once and the other three tested."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(4, shuffle=True, random_state=seed).split(y, y)
    return [fold_errors(matrices, y, torch.as_tensor(one), torch.as_tensor(rest), seed) for rest, one in folds]


def classify(
    work: Work, data: Digits, matrices: Mapping[str, Tensor], images: Sequence[int], repeats: int
) -> dict[int, list[dict[str, Any]]]:
    """All folds of all repetitions, by the number of images."""
    found = {}
    for n in images:
        some = {name: D[:n, :n] for name, D in matrices.items() if len(D) >= n}
        seeds = [1000 * work.seed + k for k in range(repeats)]
        cells = {
            f"{n} images, repetition {k + 1}": functools.partial(repeat, some, data.y[:n], s)
            for k, s in enumerate(seeds)
        }
        found[n] = list(itertools.chain(*work.parts(cells, f"kernels on {n} images").values()))
    return found
