"""The peers' entropic solvers, each behind `run(data, effort)`, potentials in our conventions (docs/conventions.md).

They are imported where they are called, so that those that are not installed hurt nobody. Efforts are iterations; of
GeomLoss, which has no such knob but the ratio of its annealing, k stands for ``scaling = 0.5^(1/k)``: k steps for one.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FINE = 2 ** (1 / 4)  # from one effort to the next
BLOCK = 10  # OTT looks at its error, and stops, after so many iterations only


class Clouds(NamedTuple):
    """Two clouds (..., n, d), uniform weights, and the entropy."""

    x: Tensor
    y: Tensor
    epsilon: float


class Potentials(NamedTuple):
    """Of V(C, a, b; epsilon) with the reference a x b and C = |x - y|^2."""

    f: Tensor
    g: Tensor


def ladder(first: int, last: int) -> tuple[int, ...]:
    """Whole numbers from first to last, each a fifth more than the one before, or one more."""
    steps = [first]
    while steps[-1] < last:
        steps.append(max(steps[-1] + 1, round(steps[-1] * FINE)))
    return tuple(steps)


def blocks(efforts: Sequence[int]) -> tuple[int, ...]:
    """The same numbers of iterations in whole blocks of OTT's."""
    return tuple(sorted({k if k < BLOCK else -(-k // BLOCK) * BLOCK for k in efforts}))


def uniform(n: int, like: Tensor) -> Tensor:
    return torch.full((n,), 1 / n, dtype=like.dtype)


def _logs(t: Tensor, epsilon: float) -> Tensor:
    """A potential that carries epsilon log of uniform weights, without them."""
    return t + epsilon * float(np.log(t.shape[-1]))


# -- POT ---------------------------------------------------------------------------------------------------------------


def pot(method: str) -> Callable[[Clouds, int], Potentials]:
    """`ot.sinkhorn` on the matrix that `ot.dist` makes; it minimises <P, C> + epsilon sum P log P."""

    def run(data: Clouds, iterations: int) -> Potentials:
        import ot

        x, y, epsilon = data
        a, b = uniform(len(x), x), uniform(len(y), y)
        options = {"method": method, "numItermax": iterations, "stopThr": 0.0, "log": True, "warn": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of divisions by zero
            _, log = ot.sinkhorn(a, b, ot.dist(x, y), epsilon, **options)
        if method == "sinkhorn":
            log = {"log_u": log["u"].log(), "log_v": log["v"].log()}
        return Potentials(_logs(epsilon * log["log_u"], epsilon), _logs(epsilon * log["log_v"], epsilon))

    return run


def pot_batch(data: Clouds, iterations: int) -> Potentials:
    """`ot.solve_batch`: potentials are logarithms of scalings there."""
    import ot

    x, y, epsilon = data
    M = ot.dist_batch(x, y, metric="sqeuclidean")
    found = ot.solve_batch(M, epsilon, max_iter=iterations, tol=0.0, method="log_sinkhorn", grad="detach")
    u, v = found.potentials
    return Potentials(_logs(epsilon * u, epsilon), _logs(epsilon * v, epsilon))


# -- GeomLoss, KeOps ---------------------------------------------------------------------------------------------------


def samples_loss(epsilon: float, scaling: float, backend: str, **options: Any) -> Any:
    """`SamplesLoss` with p = 2: its cost is |x - y|^2 / 2, its epsilon blur^2, so both are half of ours."""
    import geomloss

    return geomloss.SamplesLoss("sinkhorn", p=2, blur=(epsilon / 2) ** 0.5, scaling=scaling, backend=backend, **options)


def geomloss(backend: str, scaling: float | None = None) -> Callable[..., Potentials]:
    """The biased cost's potentials, at a given scaling or at 0.5^(1/k)."""

    def run(data: Clouds, k: int = 1) -> Potentials:
        loss = samples_loss(data.epsilon, scaling or 0.5 ** (1 / k), backend, debias=False, potentials=True)
        with torch.no_grad():
            f, g = loss(data.x, data.y)
        return Potentials(2 * f.reshape(data.x.shape[:-1]), 2 * g.reshape(data.y.shape[:-1]))

    return run


def keops_softmin(x: Tensor, y: Tensor, h: Tensor, epsilon: float) -> Tensor:
    """One sweep: -epsilon log sum_j exp((h_j - |x_i - y_j|^2) / epsilon)."""
    from pykeops.torch import LazyTensor

    x_i, y_j, h_j = LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :]), LazyTensor(h[None, :, None] / epsilon)
    return -epsilon * (h_j - ((x_i - y_j) ** 2).sum(-1) * (1 / epsilon)).logsumexp(1)[:, 0]


# -- OTT ---------------------------------------------------------------------------------------------------------------


@functools.cache
def _ott_solver(iterations: int, momentum: bool, schedule: float, batched: bool) -> Any:
    """A compiled solver of (x, y, epsilon), whose potentials carry epsilon log of the weights."""
    import jax
    from ott.geometry import epsilon_scheduler, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    def solve(x: Any, y: Any, epsilon: Any) -> Any:
        if schedule:
            epsilon = epsilon_scheduler.Epsilon(epsilon, init=schedule, decay=0.9)
        solver = sinkhorn.Sinkhorn(
            threshold=0.0,
            inner_iterations=min(iterations, BLOCK),
            max_iterations=iterations,
            momentum=acceleration.Momentum(start=20) if momentum else None,
        )
        found = solver(linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=epsilon)))
        return found.f, found.g

    return jax.jit(jax.vmap(solve, (0, 0, None)) if batched else solve)


def ott(*, momentum: bool = False, schedule: float = 0.0) -> Callable[[Clouds, int], Potentials]:
    """`Sinkhorn` on a `PointCloud`, without a stop of its own; the schedule starts at that many times epsilon."""

    def run(data: Clouds, iterations: int) -> Potentials:
        import jax.numpy as jnp

        x, y, epsilon = data
        solve = _ott_solver(iterations, momentum, schedule, x.dim() == 3)
        found = solve(jnp.asarray(x.numpy()), jnp.asarray(y.numpy()), epsilon)
        f, g = (_logs(torch.from_numpy(np.array(t)), epsilon) for t in found)
        return Potentials(f, g)

    return run


@functools.cache
def _ott_sweep() -> Any:
    import jax
    from ott.geometry import pointcloud

    def sweep(x: Any, y: Any, h: Any, epsilon: Any) -> Any:
        geometry = pointcloud.PointCloud(x, y, epsilon=epsilon)
        return -geometry.apply_lse_kernel(jax.numpy.zeros(len(x)), h, epsilon, axis=1)[0]

    return jax.jit(sweep)


def ott_softmin(x: Tensor, y: Tensor, h: Tensor, epsilon: float) -> Tensor:
    """One sweep."""
    import jax.numpy as jnp

    found = _ott_sweep()(*(jnp.asarray(t.numpy()) for t in (x, y, h)), epsilon)
    return torch.from_numpy(np.array(found))
