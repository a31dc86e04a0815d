"""Problems drawn together with their known answers, and what every answer must satisfy.

A *kind* is a function of a seed that returns a Known: a problem and its true value, from a closed form, from a linear
program solved elsewhere, or because the problem was built backwards from its answer. The product test takes every kind
to every solver: a new kind is one function under ``@kind``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

import barrow
from barrow import Dense, Grid, Points, Problem, Solution, Status, Tree

F64 = torch.float64
EPS = torch.finfo(F64).eps
LIMITS = ("CHUNK", "ENTRIES")


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A problem and its answer; ``trust`` is how far the answer itself may be off, in units of mass times cost."""

    problem: Problem
    value: Tensor
    trust: float = 1e-12
    plan: Tensor | None = None  # only where the optimal plan is unique


KINDS: dict[str, Callable[[int], Known]] = {}


def kind(draw: Callable[[int], Known]) -> Callable[[int], Known]:
    """Enter a kind into the product."""
    KINDS[draw.__name__] = draw
    return draw


# -- drawing -----------------------------------------------------------------------------------------------------------


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


def uniform(*shape: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=F64, generator=generator(seed))


def dirichlet(*shape: int, seed: int, zeros: int = 0) -> Tensor:
    """Weights of sum 1, flat on the simplex, the last ``zeros`` of them 0."""
    w = -torch.log1p(-torch.rand(*shape, dtype=F64, generator=generator(seed)))
    if zeros:
        w[..., -zeros:] = 0
    return w / w.sum(-1, keepdim=True)


def permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed))


def random_parents(nodes: int, seed: int) -> Tensor:
    """A random recursive tree whose nodes are numbered at random, so that nothing can lean on their order."""
    up = [-1] + [int(torch.randint(v, (), generator=generator(1000 * seed + v))) for v in range(1, nodes)]
    name = permutation(nodes, seed).tolist()
    parent = torch.empty(nodes, dtype=torch.long)
    for v, u in enumerate(up):
        parent[name[v]] = name[u] if u >= 0 else -1
    return parent


def small_chunks(monkeypatch: Any, size: int) -> None:
    """Look at ``size`` entries of a cost matrix at a time, and keep none, wherever these limits are read."""
    named = [(module, name) for path, module in sys.modules.items() if path.startswith("barrow.") for name in LIMITS]
    found = [(module, name) for module, name in named if hasattr(module, name)]
    assert found, "nothing reads these limits any more"
    for module, name in found:
        monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(barrow.solvers.ascent, "CACHED", 0)


# -- truths from elsewhere ---------------------------------------------------------------------------------------------


def lp(C: Tensor, a: Tensor, b: Tensor) -> tuple[float, Tensor]:
    """min <C, P> by HiGHS, with a plan, for one problem; one redundant constraint is left out."""
    n, m = C.shape
    A = np.zeros((n + m, n * m))
    for i, j in itertools.product(range(n), range(m)):
        A[i, i * m + j] = A[n + j, i * m + j] = 1
    scale = max(float(C.abs().max()), 1e-300)
    keep = np.delete(np.arange(n + m), n + int(b.argmax()))
    rhs = torch.cat((a, b)).double().numpy()
    found = linprog(C.double().flatten().numpy() / scale, A_eq=A[keep], b_eq=rhs[keep], method="highs")
    assert found.status == 0, found.message
    return found.fun * scale, torch.from_numpy(found.x).reshape(n, m)


def lp_value(problem: Problem) -> Tensor:
    """:func:`lp` for every problem of a batch."""
    batch, (n, m) = problem.batch_shape, problem.shape
    C = problem.cost.dense().detach().double().expand(*batch, n, m).reshape(-1, n, m)
    a, b = (w.detach().double().expand(*batch, w.shape[-1]).reshape(-1, w.shape[-1]) for w in (problem.a, problem.b))
    return torch.tensor([lp(*one)[0] for one in zip(C, a, b, strict=True)], dtype=F64).reshape(batch)


def line_value(u: Tensor, v: Tensor, a: Tensor, b: Tensor, p: float) -> float:
    """W_p^p on a line: the quantile functions, merged breakpoint by breakpoint."""
    left = sorted(zip(u.tolist(), a.tolist(), strict=True))
    right = sorted(zip(v.tolist(), b.tolist(), strict=True))
    i = j = 0
    have, want, total = left[0][1], right[0][1], 0.0
    while True:
        moved = min(have, want)
        total += moved * abs(left[i][0] - right[j][0]) ** p
        have, want = have - moved, want - moved
        if have <= want:
            i += 1
            if i == len(left):
                return total
            have += left[i][1]
        else:
            j += 1
            if j == len(right):
                return total
            want += right[j][1]


def tree_paths(parent: list[int]) -> tuple[list[int], list[list[int]]]:
    """Leaves in index order and, for each, the nodes on its way to the root (edges are named by their lower end)."""
    leaves = [v for v in range(len(parent)) if v not in parent]
    ways = []
    for leaf in leaves:
        way, v = [], leaf
        while parent[v] >= 0:
            way.append(v)
            v = parent[v]
        ways.append(way)
    return leaves, ways


def tree_value(parent: Tensor, length: Tensor, a: Tensor, b: Tensor, exponent: float = 1) -> float:
    """sum of length |flow|^exponent over the edges, the flow summed leaf by leaf along the paths to the root."""
    flow = [0.0] * len(parent)
    for way, d in zip(tree_paths(parent.tolist())[1], (a - b).tolist(), strict=True):
        for v in way:
            flow[v] += d
    return sum(w * abs(phi) ** exponent for w, phi in zip(length.tolist(), flow, strict=True))


def tree_metric(parent: Tensor, length: Tensor) -> Tensor:
    """Path lengths between leaves, edge by edge: an edge counts if it lies on exactly one way to the root."""
    ways = [set(way) for way in tree_paths(parent.tolist())[1]]
    w = length.tolist()
    return torch.tensor([[math.fsum(w[e] for e in one ^ two) for two in ways] for one in ways], dtype=F64)


# -- exact transport ---------------------------------------------------------------------------------------------------


@kind
def diracs(seed: int) -> Known:
    x, y = cloud(1, 3, seed=seed), cloud(1, 3, seed=seed + 1)
    return Known(Problem(Points(x, y, p=1)), (x - y).norm(), plan=torch.ones(1, 1, dtype=F64))


@kind
def one_against_many(seed: int) -> Known:
    x, y, b = cloud(1, 2, seed=seed), cloud(9, 2, seed=seed + 1), dirichlet(9, seed=seed, zeros=2)
    value = (b * (x - y).norm(dim=-1).pow(3)).sum()
    return Known(Problem(Points(x, y, p=3), None, b), value, plan=b[None])


@kind
def one_atom_on_each_side(seed: int) -> Known:
    a = torch.tensor([2.5], dtype=F64)
    C = cloud(1, 1, seed=seed)
    return Known(Problem(Dense(C), a, a.clone()), 2.5 * C[0, 0], plan=a[None])


@kind
def translation(seed: int) -> Known:
    x, t, a = cloud(17, 3, seed=seed), cloud(3, seed=seed + 1), dirichlet(17, seed=seed)
    return Known(Problem(Points(x, x + t, p=2), a, a.clone()), t.square().sum(), plan=a.diag())


@kind
def translation_on_the_line(seed: int) -> Known:
    x, a = cloud(17, 1, seed=seed), dirichlet(17, seed=seed)
    return Known(Problem(Points(x, x - 1.5, p=2), a, a.clone()), torch.tensor(2.25, dtype=F64), plan=a.diag())


@kind
def permuted(seed: int) -> Known:
    x, order = cloud(15, 2, seed=seed), permutation(15, seed)
    plan = torch.zeros(15, 15, dtype=F64)
    plan[order, torch.arange(15)] = 1 / 15
    return Known(Problem(Points(x, x[order], p=1)), torch.zeros((), dtype=F64), plan=plan)


@kind
def perturbed_grid(seed: int) -> Known:
    """Points one apart, each moved by at most 0.15 and then shuffled: everybody goes home, for every p."""
    home = torch.cartesian_prod(torch.arange(4.0, dtype=F64), torch.arange(4.0, dtype=F64))
    moved = home + uniform(16, 2, seed=seed, low=-0.1, high=0.1)
    order, a = permutation(16, seed), dirichlet(16, seed=seed)
    plan = torch.zeros(16, 16, dtype=F64)
    plan[order, torch.arange(16)] = a[order]
    value = (a * (home - moved).norm(dim=-1).pow(1.5)).sum()
    return Known(Problem(Points(home, moved[order], p=1.5), a, a[order]), value, plan=plan)


@kind
def convex_gradient(seed: int) -> Known:
    """y = grad phi(x) with phi convex is the optimal map for p = 2 (Brenier)."""
    x, W, a = cloud(20, 3, seed=seed), cloud(5, 3, seed=seed + 1), dirichlet(20, seed=seed)
    y = 0.3 * x + torch.tanh(x @ W.T + 0.2) @ W
    return Known(Problem(Points(x, y, p=2), a, a.clone()), (a * (x - y).square().sum(-1)).sum(), plan=a.diag())


def line(seed: int, p: float, n: int = 13, m: int = 8, zeros: int = 0, ties: bool = False) -> Known:
    u, v = 3 * cloud(n, seed=seed), 3 * cloud(m, seed=seed + 1) + 0.5
    if ties:
        u, v = u.round(), v.round()
    a, b = dirichlet(n, seed=seed, zeros=zeros), dirichlet(m, seed=seed + 1, zeros=zeros)
    value = torch.tensor(line_value(u, v, a, b, p), dtype=F64)
    return Known(Problem(Points(u[:, None], v[:, None], p=p), a, b), value)


@kind
def line_p1(seed: int) -> Known:
    return line(seed, 1)


@kind
def line_p2_zero_weights(seed: int) -> Known:
    return line(seed, 2, zeros=3)


@kind
def line_p3_ties(seed: int) -> Known:
    return line(seed, 3, ties=True)


@kind
def line_p15_batch(seed: int) -> Known:
    found = [line(seed + k, 1.5, n=6, m=11, zeros=k) for k in range(4)]
    x, y, a, b = (
        torch.stack([t(k.problem) for k in found]).unflatten(0, (2, 2))
        for t in (lambda q: q.cost.x, lambda q: q.cost.y, lambda q: q.a, lambda q: q.b)
    )
    value = torch.stack([k.value for k in found]).unflatten(0, (2, 2))
    return Known(Problem(Points(x, y, p=1.5), a, b), value)


def tree(seed: int, nodes: int = 24, zeros: int = 0, lengths: Callable[[int], Tensor] | None = None) -> Known:
    parent = random_parents(nodes, seed)
    length = uniform(nodes, seed=seed) if lengths is None else lengths(nodes)
    leaves = len(tree_paths(parent.tolist())[0])
    a, b = dirichlet(leaves, seed=seed, zeros=zeros), dirichlet(leaves, seed=seed + 1).flip(0)
    value = torch.tensor(tree_value(parent, length, a, b), dtype=F64)
    return Known(Problem(Tree(parent, length), a, b), value)


@kind
def random_tree(seed: int) -> Known:
    return tree(seed)


@kind
def tree_zero_weights_and_unit_edges(seed: int) -> Known:
    return tree(seed, nodes=30, zeros=3, lengths=lambda nodes: torch.ones(nodes, dtype=F64))


@kind
def tree_batch(seed: int) -> Known:
    parent, length = random_parents(20, seed), uniform(3, 20, seed=seed)
    leaves = len(tree_paths(parent.tolist())[0])
    a, b = dirichlet(3, leaves, seed=seed, zeros=1), dirichlet(3, leaves, seed=seed + 1)
    value = torch.tensor([tree_value(parent, *one) for one in zip(length, a, b, strict=True)], dtype=F64)
    return Known(Problem(Tree(parent, length), a, b), value)


def solved_by_lp(problem: Problem) -> Known:
    return Known(problem, lp_value(problem), trust=1e-9)


@kind
def dense_lp(seed: int) -> Known:
    return solved_by_lp(Problem(Dense(cloud(7, 11, seed=seed)), dirichlet(7, seed=seed), dirichlet(11, seed=seed + 1)))


@kind
def dense_lp_zero_weights(seed: int) -> Known:
    a, b = dirichlet(9, seed=seed, zeros=4), dirichlet(6, seed=seed + 1, zeros=2).flip(0)
    return solved_by_lp(Problem(Dense(uniform(9, 6, seed=seed)), a, b))


@kind
def dense_lp_heavy(seed: int) -> Known:
    """Not a probability: mass 123."""
    a, b = 123 * dirichlet(6, seed=seed), 123 * dirichlet(6, seed=seed + 1)
    return solved_by_lp(Problem(Dense(uniform(6, 6, seed=seed)), a, b))


@kind
def integer_costs(seed: int) -> Known:
    """Full of ties: an assignment problem with few different costs."""
    C = torch.randint(-2, 3, (8, 8), generator=generator(seed)).to(F64)
    return solved_by_lp(Problem(Dense(C)))


@kind
def shared_cost_batch(seed: int) -> Known:
    a, b = dirichlet(4, 6, seed=seed, zeros=1), dirichlet(4, 9, seed=seed + 1)
    return solved_by_lp(Problem(Dense(uniform(6, 9, seed=seed)), a, b))


@kind
def shared_weights_batch(seed: int) -> Known:
    C = uniform(2, 3, 5, 4, seed=seed, low=-1)
    return solved_by_lp(Problem(Dense(C), dirichlet(5, seed=seed), dirichlet(4, seed=seed + 1)))


@kind
def duplicate_points(seed: int) -> Known:
    x = torch.randint(0, 3, (12, 2), generator=generator(seed)).to(F64)
    y = torch.randint(0, 3, (10, 2), generator=generator(seed + 1)).to(F64)
    return solved_by_lp(Problem(Points(x, y, p=1)))


@kind
def points_norm_1(seed: int) -> Known:
    return solved_by_lp(Problem(Points(cloud(8, 3, seed=seed), cloud(10, 3, seed=seed + 1), p=1, norm=1)))


@kind
def points_norm_inf(seed: int) -> Known:
    x, y = cloud(3, 8, 2, seed=seed), cloud(6, 2, seed=seed + 1).expand(3, 6, 2)
    return solved_by_lp(Problem(Points(x, y, p=2.5, norm=math.inf)))


@kind
def points_single_precision(seed: int) -> Known:
    x, y = cloud(8, 3, seed=seed).float(), cloud(8, 3, seed=seed + 1).float()
    known = solved_by_lp(Problem(Points(x.double(), y.double(), p=2)))
    return Known(Problem(Points(x, y, p=2)), known.value, trust=1e-6)


def image(*sides: int, seed: int, share: float = 0.4) -> Tensor:
    """Grey levels of sum 1, a ``share`` of them black, in one row."""
    w = dirichlet(math.prod(sides), seed=seed) * (uniform(math.prod(sides), seed=seed + 9) >= share)
    w[int(permutation(len(w), seed)[0])] += 0.1
    return w / w.sum()


@kind
def images(seed: int) -> Known:
    return solved_by_lp(Problem(Grid((4, 5), 2), image(4, 5, seed=seed), image(4, 5, seed=seed + 1)))


@kind
def images_p1_single_precision(seed: int) -> Known:
    a, b = image(3, 5, seed=seed).float(), image(3, 5, seed=seed + 1).float()
    known = solved_by_lp(Problem(Grid((3, 5), 1), a.double(), b.double()))
    return Known(Problem(Grid((3, 5), 1), a, b), known.value, trust=1e-6)


@kind
def volumes_with_a_spacing(seed: int) -> Known:
    a, b = (torch.stack([image(2, 3, 3, seed=seed + 10 * k + s) for k in range(3)]) for s in (0, 1))
    return solved_by_lp(Problem(Grid((2, 3, 3), 1.5, spacing=(0.3, 2.0, 1.0)), a, b))


@kind
def shifted_image(seed: int) -> Known:
    """Nobody overtakes: all mass moves by one vector, whatever convex cost is paid for it."""
    picture = torch.zeros(7, 8, dtype=F64)
    picture[:4, :5] = image(4, 5, seed=seed).reshape(4, 5)
    a, b = picture.flatten(), picture.roll((3, 2), (0, 1)).flatten()
    value = torch.tensor((3 * 0.5) ** 2 + 2.0**2, dtype=F64)
    plan = torch.zeros(56, 56, dtype=F64)
    plan[torch.arange(56), (torch.arange(56) + 3 * 8 + 2) % 56] = a
    return Known(Problem(Grid((7, 8), 2, spacing=(0.5, 1.0)), a, b), value, plan=plan)


@kind
def histograms_on_one_axis(seed: int) -> Known:
    a, b, places = image(14, seed=seed), image(14, seed=seed + 1), 0.5 * torch.arange(14, dtype=F64)
    value = torch.tensor(line_value(places, places, a, b, 3), dtype=F64)
    return Known(Problem(Grid((14,), 3, spacing=0.5), a, b), value)


@kind
def huge_costs(seed: int) -> Known:
    return solved_by_lp(Problem(Dense(1e12 * uniform(6, 7, seed=seed)), None, dirichlet(7, seed=seed)))


@kind
def tiny_costs(seed: int) -> Known:
    return solved_by_lp(Problem(Dense(1e-12 * uniform(6, 7, seed=seed)), None, dirichlet(7, seed=seed)))


@kind
def backwards_exact(seed: int) -> Known:
    """A plan and potentials that fit each other prove each other optimal: the cost is f + g, and more off the plan."""
    P = sparse_plan(10, 12, seed)
    f, g = cloud(10, seed=seed), cloud(12, seed=seed + 1)
    C = f[:, None] + g + torch.where(P > 0, 0, uniform(10, 12, seed=seed, low=0.1))
    a, b = P.sum(1), P.sum(0)
    return Known(Problem(Dense(C), a, b), (a * f).sum() + (b * g).sum())


def sparse_plan(n: int, m: int, seed: int) -> Tensor:
    P = dirichlet(n, m, seed=seed) * (uniform(n, m, seed=seed + 7) < 0.25)
    k = torch.arange(max(n, m))
    P[k % n, k % m] += 0.1  # no row or column is empty
    return P / P.sum()


# -- entropic and unbalanced transport, built backwards ----------------------------------------------------------------


def backwards(
    seed: int,
    *,
    n: int = 7,
    m: int = 9,
    epsilon: float = 0.3,
    rho: tuple[float, float] = (math.inf, math.inf),
    reference: bool = False,
    mass: float = 1.0,
    zeros: int = 0,
) -> Known:
    """Choose the plan and the potentials; the weights and the cost that they solve follow.

    P = exp((f + g - C) / epsilon) r x s is solved for C, and P 1 = a exp(-f / rho) for a. The value is the dual's.
    """
    P = mass * dirichlet(n * m, seed=seed).reshape(n, m)
    f, g = cloud(n, seed=seed + 1), cloud(m, seed=seed + 2)
    a, b = P.sum(1), P.sum(0)
    a, b = (w if math.isinf(k) else w * torch.exp(h / k) for w, k, h in ((a, rho[0], f), (b, rho[1], g)))
    r, s = (uniform(k, seed=seed + 3, low=0.5, high=2) for k in (n, m)) if reference else (a, b)
    C = f[:, None] + g - epsilon * torch.log(P / (r[:, None] * s))
    value = dual_value(f, g, a, b, epsilon, rho, P.sum(), r.sum() * s.sum())
    if zeros:  # atoms without mass change nothing
        C = torch.nn.functional.pad(C, (0, zeros, 0, zeros), value=-1.0)
        a, b, r, s = (torch.nn.functional.pad(w, (0, zeros)) for w in (a, b, r, s))
        P = torch.nn.functional.pad(P, (0, zeros, 0, zeros))
    problem = Problem(Dense(C), a, b, epsilon=epsilon, rho=rho, reference=(r, s) if reference else None)
    return Known(problem, value, plan=P)


def dual_value(
    f: Tensor, g: Tensor, a: Tensor, b: Tensor, epsilon: float, rho: tuple[float, float], mass: Tensor, room: Tensor
) -> Tensor:
    """The dual objective, written out: ``mass`` is that of the Gibbs plan, ``room`` that of the reference."""
    total = -epsilon * (mass - room)
    for w, k, h in ((a, rho[0], f), (b, rho[1], g)):
        total = total + ((w * h).sum() if math.isinf(k) else -k * (w * (torch.exp(-h / k) - 1)).sum())
    return total


@kind
def entropic(seed: int) -> Known:
    return backwards(seed)


@kind
def entropic_heavy(seed: int) -> Known:
    return backwards(seed, mass=20.0)


@kind
def entropic_zero_weights(seed: int) -> Known:
    return backwards(seed, zeros=2)


@kind
def entropic_reference(seed: int) -> Known:
    return backwards(seed, reference=True)


@kind
def entropic_reference_of_ones(seed: int) -> Known:
    known = backwards(seed, reference=True)
    P, f, g, epsilon = known.plan, cloud(7, seed=seed + 1), cloud(9, seed=seed + 2), 0.3
    C = f[:, None] + g - epsilon * P.log()
    ones = torch.ones(7, dtype=F64), torch.ones(9, dtype=F64)
    value = dual_value(f, g, P.sum(1), P.sum(0), epsilon, (math.inf, math.inf), P.sum(), torch.tensor(63.0))
    return Known(Problem(Dense(C), P.sum(1), P.sum(0), epsilon=epsilon, reference=ones), value, plan=P)


@kind
def unbalanced(seed: int) -> Known:
    return backwards(seed, rho=(1.0, 1.0))


@kind
def unbalanced_lopsided_reference(seed: int) -> Known:
    return backwards(seed, rho=(0.7, 3.0), reference=True, mass=3.0)


@kind
def unbalanced_zero_weights(seed: int) -> Known:
    return backwards(seed, rho=(2.0, 1.0), zeros=3)


@kind
def semi_relaxed_left(seed: int) -> Known:
    return backwards(seed, rho=(1.0, math.inf))


@kind
def semi_relaxed_right(seed: int) -> Known:
    return backwards(seed, rho=(math.inf, 0.5), mass=0.3)


@kind
def entropic_strong(seed: int) -> Known:
    return backwards(seed, epsilon=50.0)


@kind
def entropic_batch(seed: int) -> Known:
    found = [backwards(seed + 10 * k, zeros=2) for k in range(6)]
    C = torch.stack([k.problem.cost.C for k in found]).unflatten(0, (2, 3))
    a, b = (torch.stack([w(k.problem) for k in found]).unflatten(0, (2, 3)) for w in (lambda q: q.a, lambda q: q.b))
    value = torch.stack([k.value for k in found]).unflatten(0, (2, 3))
    plan = torch.stack([k.plan for k in found]).unflatten(0, (2, 3))
    return Known(Problem(Dense(C), a, b, epsilon=0.3), value, plan=plan)


@kind
def entropic_points_reference(seed: int) -> Known:
    """Potentials, reference and points first; the weights follow, so that nothing is built into the cost."""
    x, y = cloud(12, 2, seed=seed), cloud(9, 2, seed=seed + 1)
    f, g = cloud(12, seed=seed + 2), cloud(9, seed=seed + 3)
    r, s, epsilon = dirichlet(12, seed=seed), dirichlet(9, seed=seed + 1), 0.8
    C = (x[:, None] - y).square().sum(-1)
    P = torch.exp((f[:, None] + g - C) / epsilon) * r[:, None] * s
    a, b = P.sum(1), P.sum(0)
    value = dual_value(f, g, a, b, epsilon, (math.inf, math.inf), P.sum(), r.sum() * s.sum())
    return Known(Problem(Points(x, y), a, b, epsilon=epsilon, reference=(r, s)), value, plan=P)


@kind
def entropic_self(seed: int) -> Known:
    """A measure against itself with a chosen potential: the weights that P 1 = a asks for solve a linear system."""
    x, f, epsilon = 2 * cloud(10, 2, seed=seed), uniform(10, seed=seed, high=0.2), 0.2
    K = torch.exp((f[:, None] + f - (x[:, None] - x).norm(dim=-1)) / epsilon)
    a = torch.linalg.solve(K, torch.ones(10, dtype=F64))
    assert (a > 0).all(), "choose a smaller epsilon"
    value = 2 * (a * f).sum() - epsilon * (a.sum() - a.sum().square())
    return Known(Problem(Points(x, x, p=1), a, a, epsilon=epsilon), value, plan=a[:, None] * K * a)


def entropic_image(seed: int, p: float, epsilon: float) -> Known:
    """Potentials and reference first, on a grid: the weights follow."""
    sides, spacing = (4, 3), (1.0, 0.5)
    z = torch.cartesian_prod(*(w * torch.arange(k, dtype=F64) for k, w in zip(sides, spacing, strict=True)))
    f, g = cloud(12, seed=seed + 2), cloud(12, seed=seed + 3)
    r, s = dirichlet(12, seed=seed, zeros=2), dirichlet(12, seed=seed + 1)
    P = torch.exp((f[:, None] + g - (z[:, None] - z).norm(dim=-1).pow(p)) / epsilon) * r[:, None] * s
    a, b = P.sum(1), P.sum(0)
    value = dual_value(f, g, a, b, epsilon, (math.inf, math.inf), P.sum(), r.sum() * s.sum())
    problem = Problem(Grid(sides, p, spacing=spacing), a, b, epsilon=epsilon, reference=(r, s))
    return Known(problem, value, plan=P)


@kind
def entropic_images(seed: int) -> Known:
    return entropic_image(seed, 2, 0.8)


@kind
def entropic_images_p1(seed: int) -> Known:
    return entropic_image(seed, 1, 0.8)


@kind
def entropic_image_against_itself(seed: int) -> Known:
    """As :func:`entropic_self`, in batches that share the grid, and with an epsilon that is no whole kernel's."""
    i, epsilon, values, weights, plans = torch.arange(40, dtype=F64), 0.9, [], [], []
    for k in range(2):
        f = uniform(40, seed=seed + k, high=0.2)
        K = torch.exp((f[:, None] + f - (i[:, None] - i).square()) / epsilon)
        a = torch.linalg.solve(K, torch.ones(40, dtype=F64))
        assert (a > 0).all(), "choose a smaller epsilon"
        values.append(2 * (a * f).sum() - epsilon * (a.sum() - a.sum().square()))
        weights.append(a)
        plans.append(a[:, None] * K * a)
    a = torch.stack(weights)
    return Known(Problem(Grid((40, 1), 2), a, a, epsilon=epsilon), torch.stack(values), plan=torch.stack(plans))


@kind
def entropic_diracs(seed: int) -> Known:
    """One plan only: its cost, no entropy."""
    x, y = cloud(1, 4, seed=seed), cloud(1, 4, seed=seed + 1)
    return Known(Problem(Points(x, y), epsilon=0.01), (x - y).square().sum(), plan=torch.ones(1, 1, dtype=F64))


@kind
def entropic_tree(seed: int) -> Known:
    """A star with equal arms and uniform weights: by symmetry only two entries of the plan differ."""
    k, epsilon = 6, 0.5
    star = Tree(torch.tensor([-1] + [0] * k), torch.ones(k + 1, dtype=F64))
    away = math.exp(-2 / epsilon)
    stay = 1 / (1 + (k - 1) * away)  # the share of each atom that does not move
    P = torch.full((k, k), stay * away / k, dtype=F64)
    P.fill_diagonal_(stay / k)
    # C - 2 f is -epsilon log(P k^2), and <a, f> + <b, g> = 2 f.
    value = torch.tensor(-epsilon * math.log((1 + (k - 1) * away) / k), dtype=F64)
    return Known(Problem(star, epsilon=epsilon), value, plan=P)


def backwards_unbalanced_exact(seed: int, rho: tuple[float, float]) -> Known:
    """epsilon = 0 with soft marginals: f + g <= C, tight on the plan, and P 1 = a exp(-f / rho)."""
    P = sparse_plan(6, 8, seed)
    f, g = cloud(6, seed=seed), cloud(8, seed=seed + 1)
    C = f[:, None] + g + torch.where(P > 0, 0, uniform(6, 8, seed=seed, low=0.1))
    a, b = (w if math.isinf(k) else w * torch.exp(h / k) for w, k, h in ((P.sum(1), rho[0], f), (P.sum(0), rho[1], g)))
    value = dual_value(f, g, a, b, 0.0, rho, P.sum(), torch.zeros(()))
    return Known(Problem(Dense(C), a, b, rho=rho), value)


# -- strategies --------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**20)


@st.composite
def small_lps(draw: st.DrawFn) -> Known:
    """Small exact problems of every awkward sort: ties, zeros, negative costs, n != m."""
    n, m, seed = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(seeds)
    C = torch.randint(-3, 4, (n, m), generator=generator(seed)).to(F64)
    if draw(st.booleans()):
        C = C + cloud(n, m, seed=seed)
    a, b = (
        torch.randint(0, 4, (k,), generator=generator(seed + k)).to(F64) + one
        for k, one in ((n, torch.eye(n, dtype=F64)[0]), (m, torch.eye(m, dtype=F64)[-1]))
    )
    a, b = a / a.sum(), b / b.sum()
    return solved_by_lp(Problem(Dense(C), a, b))


@st.composite
def small_entropic(draw: st.DrawFn) -> Known:
    """Problems of the whole family with epsilon > 0."""
    side = st.sampled_from([math.inf, 0.5, 2.0])
    return backwards(
        draw(seeds),
        n=draw(st.integers(1, 6)),
        m=draw(st.integers(1, 6)),
        epsilon=draw(st.sampled_from([0.1, 1.0, 10.0])),
        rho=(draw(side), draw(side)),
        reference=draw(st.booleans()),
        mass=draw(st.sampled_from([1.0, 0.05, 40.0])),
        zeros=draw(st.integers(0, 2)),
    )


# -- what every answer must satisfy ------------------------------------------------------------------------------------


def scale_of(problem: Problem) -> Tensor:
    """Mass times cost (...): what roundoff is relative to."""
    low, high = problem.cost.detach().to(F64).limits()
    mass = torch.maximum(problem.a.sum(-1), problem.b.sum(-1)).double().detach()
    if problem.epsilon > 0:
        r, s = problem.measures
        mass = torch.maximum(mass, (r.sum(-1) * s.sum(-1)).detach().double())
    return mass * (torch.maximum(low.abs(), high.abs()) + problem.epsilon)


def check_truth_inside(lower: Tensor, upper: Tensor, known: Known) -> None:
    """lower <= truth <= upper."""
    assert lower.dtype == upper.dtype == F64
    assert lower.shape == upper.shape == known.problem.batch_shape
    blur = known.trust * scale_of(known.problem)
    assert not lower.isnan().any()
    assert not upper.isnan().any()
    assert (lower <= known.value + blur).all(), f"lower {lower} above the truth {known.value}"
    assert (upper >= known.value - blur).all(), f"upper {upper} below the truth {known.value}"


def check_value(value: Tensor, known: Known, tol: float) -> None:
    """The value is the truth up to tol, and never above it beyond roundoff."""
    blur = (known.trust + 64 * torch.finfo(value.dtype).eps) * scale_of(known.problem)
    value = value.detach().double()
    assert value.shape == known.value.shape
    assert (value <= known.value + blur).all(), f"{value} above the truth {known.value}"
    assert (value >= known.value - tol * known.value.abs() - blur).all(), f"{value} below the truth {known.value}"


def check_gap(solution: Solution, known: Known, tol: float) -> None:
    """What was certified is what was asked for."""
    lower, upper = solution.bounds
    rounding = (256 * EPS + 16 * torch.finfo(solution.value.dtype).eps) * scale_of(known.problem)
    assert (upper - lower <= tol * upper.abs() + rounding).all(), f"gap {(upper - lower).max()}"


def check_plan(plan: Tensor, problem: Problem, slack: Tensor | float) -> None:
    """Nonnegative, and on the hard sides with the right marginals up to ``slack`` (...) in the sum norm."""
    P = plan.double()
    assert P.shape == (*problem.batch_shape, *problem.shape)
    assert P.isfinite().all()
    assert (P >= 0).all(), f"the plan has an entry {P.min()}"
    for rho, axis, w in ((problem.rho[0], -1, problem.a), (problem.rho[1], -2, problem.b)):
        assert ((w == 0).expand(P.sum(axis).shape) <= (P.sum(axis) == 0)).all(), (
            "an atom without mass sends or receives"
        )
        if math.isinf(rho):
            off = (P.sum(axis) - w.double()).abs().sum(-1)
            assert (off <= slack).all(), f"the marginal along {axis} is off by {off.max()}"


def check_same_plan(plan: Tensor, known: Known, slack: Tensor | float) -> None:
    """The one optimal plan, up to ``slack`` (...) in the sum norm."""
    if known.plan is not None:
        off = (plan.double() - known.plan).abs().sum((-2, -1))
        assert (off <= slack).all(), f"the plan is off by {off.max()}"


def check_potentials(f: Tensor, g: Tensor, value: Tensor, problem: Problem) -> None:
    """Finite; feasible at epsilon = 0, on atoms with and without mass; and their dual objective is the value."""
    eps = torch.finfo(f.dtype).eps
    f, g, C = f.double(), g.double(), problem.cost.dense().detach().double()
    a, b = (w.detach().double() for w in (problem.a, problem.b))
    assert f.shape == (*problem.batch_shape, problem.shape[0])
    assert g.shape == (*problem.batch_shape, problem.shape[1])
    assert f.isfinite().all()
    assert g.isfinite().all()
    size = C.abs().amax((-2, -1)) + f.abs().amax(-1) + g.abs().amax(-1)
    over = f[..., :, None] + g[..., None, :] - C
    if problem.epsilon == 0:
        binding = (a[..., :, None] > 0) | (b[..., None, :] > 0)
        worst = torch.where(binding, over, -torch.inf).amax((-2, -1))
        assert (worst <= 64 * eps * size).all(), f"infeasible by {worst.max()}"
        room = mass = torch.zeros(())
    else:
        r, s = (w.detach().double() for w in problem.measures)
        gibbs = torch.exp(over / problem.epsilon) * r[..., :, None] * s[..., None, :]
        mass, room = gibbs.sum((-2, -1)), r.sum(-1) * s.sum(-1)
    total = -problem.epsilon * (mass - room)
    for rho, w, h in ((problem.rho[0], a, f), (problem.rho[1], b, g)):
        held = torch.where(w > 0, h, 0)
        total = total + (w * (held if math.isinf(rho) else -rho * torch.expm1(-held / rho))).sum(-1)
    off = (total - value.detach().double()).abs()
    # The plan of potentials stored in single precision is known to eps * size / epsilon.
    roundoff = 256 * eps * (scale_of(problem) + size * torch.maximum(a.sum(-1), b.sum(-1)) + mass * size)
    assert (off <= roundoff).all(), f"the dual objective at (f, g) differs from the value by {off.max()}"


def check_complementary(plan: Tensor, f: Tensor, g: Tensor, value: Tensor, problem: Problem, slack: Tensor) -> None:
    """The primal objective at the plan is the value, up to ``slack``, plus the price of what the marginals are off."""
    P, C = plan.double(), problem.cost.dense().detach().double()
    a, b = (w.detach().double() for w in (problem.a, problem.b))
    total = torch.where(P > 0, C * P, 0).sum((-2, -1))
    if problem.epsilon > 0:
        r, s = (w.detach().double() for w in problem.measures)
        total = total + problem.epsilon * kl(P.flatten(-2), (r[..., :, None] * s[..., None, :]).flatten(-2))
    price = torch.zeros_like(total)
    for rho, q, w, h in ((problem.rho[0], P.sum(-1), a, f), (problem.rho[1], P.sum(-2), b, g)):
        if math.isinf(rho):
            price = price + ((q - w).abs() * torch.where(w > 0, h.double().abs(), 0)).sum(-1)
        else:
            total = total + rho * kl(q, w)
    off = (total - value.detach().double()).abs()
    roundoff = 256 * torch.finfo(f.dtype).eps * (scale_of(problem) + a.sum(-1) * (f.abs().amax(-1) + g.abs().amax(-1)))
    assert (off <= slack + price + roundoff).all(), f"the primal objective differs from the value by {off.max()}"


def kl(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q) - p + q over the last dimension, with 0 log 0 = 0."""
    return (torch.xlogy(p, p / torch.where(q > 0, q, 1)) - p + q).sum(-1)


def check_solution(solution: Solution, known: Known, tol: float) -> None:
    """Everything that a Solution promises."""
    problem = known.problem
    assert solution.converged
    assert all(code == Status.converged.code for code in solution.codes.flatten().tolist())
    assert solution.value.dtype == problem.dtype
    check_truth_inside(*solution.bounds, known)
    check_value(solution.value, known, tol)
    check_gap(solution, known, tol)
    check_potentials(solution.f, solution.g, solution.value, problem)

    plan = solution.plan.dense()
    roundoff = 256 * torch.finfo(solution.f.dtype).eps
    scale, gap = scale_of(problem), tol * known.value.abs() + roundoff * scale_of(problem)
    mass = torch.maximum(plan.double().sum((-2, -1)), torch.maximum(problem.a.sum(-1), problem.b.sum(-1)))
    if problem.epsilon > 0:
        # The dual is epsilon KL away from its maximum (Pinsker), on a Gibbs plan of potentials rounded to their dtype.
        stored = roundoff * (1 + (solution.f.abs().amax(-1) + solution.g.abs().amax(-1) + scale) / problem.epsilon)
        slack = (4 * mass * gap / problem.epsilon).sqrt() + stored * mass
    else:
        slack = roundoff * mass
    check_plan(plan, problem, slack)
    if problem.epsilon > 0 or known.plan is not None:
        check_same_plan(plan, known, 2 * slack + 1e-9 * mass)
    check_complementary(plan, solution.f, solution.g, solution.value, problem, gap + slack * problem.epsilon)
    rows, cols = solution.plan.marginals()
    assert torch.allclose(rows, plan.sum(-1), rtol=1e-5, atol=1e-6 * float(mass.max()))
    assert torch.allclose(cols, plan.sum(-2), rtol=1e-5, atol=1e-6 * float(mass.max()))


# -- gradients ---------------------------------------------------------------------------------------------------------


def central_difference(function: Callable[..., Tensor], inputs: list[Tensor], toward: list[Tensor], h: float) -> float:
    """(F(z + h d) - F(z - h d)) / 2 h, summed over the batch."""
    with torch.no_grad():
        plus = function(*(t + h * d for t, d in zip(inputs, toward, strict=True))).sum()
        minus = function(*(t - h * d for t, d in zip(inputs, toward, strict=True))).sum()
    return float((plus - minus) / (2 * h))


def check_gradient(
    function: Callable[..., Tensor],
    inputs: list[Tensor],
    *,
    h: float = 1e-5,
    tol: float = 1e-6,
    directions: int = 3,
    along: Callable[[Tensor, int], Tensor] | None = None,
) -> list[Tensor]:
    """Autograd against central differences along random directions; ``along(d, k)`` may project input k's direction."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    function(*leaves).sum().backward()
    grads = [t.grad for t in leaves]
    assert all(t is not None and t.isfinite().all() for t in grads)
    for trial in range(directions):
        d = [cloud(*t.shape, seed=100 * trial + k) for k, t in enumerate(inputs)]
        if along is not None:
            d = [along(t, k) for k, t in enumerate(d)]
        told = float(sum((t * e).sum() for t, e in zip(grads, d, strict=True)))
        seen = central_difference(function, inputs, d, h)
        size = float(sum((t * e).abs().sum() for t, e in zip(grads, d, strict=True)))
        assert abs(told - seen) <= tol * max(size, 1e-3), f"autograd says {told}, differences say {seen}"
    return grads
