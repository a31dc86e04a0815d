"""Transport on a tree."""

from __future__ import annotations

import dataclasses
from typing import final

import torch

from barrow.cost import Tree
from barrow.ops.tree import ancestor_sum, subtree_sum
from barrow.ops.tree_matching import match_now
from barrow.plan import SparsePlan
from barrow.problem import Problem
from barrow.solution import Witness
from barrow.solvers.base import Solver, Start, Watch, inexact


@final
@dataclasses.dataclass(frozen=True)
class TreeFlow(Solver):
    """Exact transport between histograms on the leaves of a tree, in linear time.

    The flow on an edge is what its subtree has too much: phi = sum of a - b below it. Its sign is the slope of the
    potential along the edge; surpluses meet deficits in the smallest subtree that holds both, which is an optimal plan
    for all edge lengths at once. A start is ignored.

    >>> tree = barrow.Tree(torch.tensor([-1, 0, 0]), torch.tensor([0.0, 1.0, 2.0]))
    >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> float(barrow.solve(barrow.Problem(tree, a, b), barrow.TreeFlow()).value)
    3.0

    Source: Evans and Matsen 2012, equation (5); Le, Yamada, Fukumizu and Cuturi 2019, section 3.
    """

    @property
    def on_host(self) -> bool:
        return True

    def rejects(self, problem: Problem) -> str | None:
        if not isinstance(problem.cost, Tree):
            return f"TreeFlow needs a Tree cost, got {type(problem.cost).__name__}; use Simplex() or Sinkhorn()"
        return inexact(problem, "TreeFlow")

    def run(self, problem: Problem, start: Start | None, watch: Watch) -> Witness:
        cost = problem.cost
        assert isinstance(cost, Tree)
        tree = cost.topology
        phi = subtree_sum(tree, problem.a - problem.b)
        f = ancestor_sum(tree, phi.sign() * cost.edge_length)[..., tree.leaves]
        rows, cols, mass = match_now(tree.parent.cpu(), tree.leaves.cpu(), problem.a.cpu(), problem.b.cpu())
        device = f.device
        plan = SparsePlan(rows.to(device), cols.to(device), mass.to(device), problem.shape)
        done = torch.zeros(f.shape[0], dtype=torch.long, device=device)
        return Witness(plan, f, -f, done, torch.ones_like(done))
