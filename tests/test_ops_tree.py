"""Linear-time operations on trees against sums along paths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from barrow.ops.tree import Topology, ancestor_sum, leaf_min_plus, lowest_common_ancestors, subtree_sum


@st.composite
def parents(draw) -> Tensor:
    """Any tree: a random recursive one, a chain, a star, a caterpillar, with its nodes numbered at random."""
    N = draw(st.integers(1, 24))
    reach = draw(st.sampled_from([1, 2, 5, 24]))  # how far back a parent may be: 1 is a chain
    up = [-1] + [draw(st.integers(max(0, v - reach), v - 1)) for v in range(1, N)]
    name = draw(st.permutations(range(N)))
    parent = torch.empty(N, dtype=torch.long)
    for v, u in enumerate(up):
        parent[name[v]] = name[u] if u >= 0 else -1
    return parent


def chain(v: int, parent: Tensor) -> list[int]:
    """The node v and its ancestors, upwards."""
    path = []
    while v >= 0:
        path.append(v)
        v = int(parent[v])
    return path


def path_sums(parent: Tensor, length: Tensor) -> Tensor:
    """The tree metric between leaves, edge by edge."""
    leaves = Topology.of(parent).leaves.tolist()
    paths = [set(chain(v, parent)) for v in leaves]
    D = torch.zeros(len(leaves), len(leaves), dtype=torch.float64)
    for i, one in enumerate(paths):
        for j, other in enumerate(paths):
            D[i, j] = sum(float(length[v]) for v in one ^ other)
    return D


@given(parents())
def test_leaves_and_depth_first_order(parent):
    t = Topology.of(parent)
    childless = sorted(set(range(len(parent))) - set(parent.tolist()))
    assert t.leaves.tolist() == childless
    assert sorted(t.preorder.tolist()) == list(range(len(parent)))
    assert torch.equal(t.leaf_order[t.leaf_rank], torch.arange(len(childless)))
    for v in range(len(parent)):
        below = {w for w in range(len(parent)) if v in chain(w, parent)}
        assert {int(t.preorder[w]) for w in below} == set(range(int(t.preorder[v]), int(t.preorder_stop[v])))
        under = t.leaves[t.leaf_order[t.leaf_start[v] : t.leaf_stop[v]]]
        assert set(under.tolist()) == below & set(childless)
    assert [len(chain(int(level[0]), parent)) - 1 for level in t.levels] == list(range(len(t.levels)))


@given(parents())
def test_sums_over_subtrees_and_ancestors(parent):
    t = Topology.of(parent)
    N, L = len(parent), len(t.leaves)
    values, weights = torch.randn(2, L).double(), torch.randn(2, N).double()
    below, above = subtree_sum(t, values), ancestor_sum(t, weights)
    for v in range(N):
        inside = [k for k, leaf in enumerate(t.leaves.tolist()) if v in chain(leaf, parent)]
        assert torch.allclose(below[:, v], values[:, inside].sum(-1))
        assert torch.allclose(above[:, v], weights[:, chain(v, parent)].sum(-1))


@given(parents())
def test_lowest_common_ancestors(parent):
    t = Topology.of(parent)
    L = len(t.leaves)
    rows, cols = (k.flatten() for k in torch.meshgrid(torch.arange(L), torch.arange(L), indexing="ij"))
    meet = lowest_common_ancestors(t, rows, cols)
    for i, j, at in zip(rows.tolist(), cols.tolist(), meet.tolist(), strict=True):
        one, other = chain(int(t.leaves[i]), parent), chain(int(t.leaves[j]), parent)
        assert at == next(v for v in one if v in other)


@given(parents(), st.booleans())
def test_min_plus(parent, absent):
    t = Topology.of(parent)
    length = torch.rand(len(parent)).double()
    h = torch.randn(3, len(t.leaves)).double()
    if absent:
        h[0, ::2] = -torch.inf
    D = path_sums(parent, torch.where(parent >= 0, length, 0))
    expected = (D - h[:, None, :]).amin(-1)
    assert torch.allclose(leaf_min_plus(t, torch.where(parent >= 0, length, 0), h), expected)


def test_min_plus_broadcasts_lengths_against_potentials():
    parent = torch.tensor([-1, 0, 0, 1, 1])
    t, length, h = Topology.of(parent), torch.rand(4, 1, 5), torch.randn(3, 3)
    together = leaf_min_plus(t, length, h)
    assert together.shape == (4, 3, 3)
    assert torch.equal(together[2, 1], leaf_min_plus(t, length[2, 0], h[1]))


def test_a_small_subtree_beside_a_large_one_keeps_its_digits():
    t = Topology.of(torch.tensor([-1, 0, 0, 2, 2]))
    values = torch.tensor([1e8, 1.0, 0.25])  # the prefix up to the small subtree is 1e8
    assert float(subtree_sum(t, values)[2]) == 1.25


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        ([-1, 2, 1], "parent has a cycle: following it from node 1 never reaches the root 0"),
        ([-1, 1], "parent has a cycle: following it from node 1 never reaches the root 0"),
        ([-1, 0, -1], "parent names 2 roots, but a tree has exactly one"),
        ([1, 0], "parent names 0 roots, but a tree has exactly one"),
        ([], "parent names 0 roots, but a tree has exactly one"),
        ([-1, 2], r"parent\[1\] is 2, but the nodes are numbered 0 to 1"),
        ([-1, -2], r"parent\[1\] is -2, but the nodes are numbered 0 to 1"),
    ],
)
def test_what_is_not_a_tree(parent, words):
    with pytest.raises(ValueError, match=words):
        Topology.of(torch.tensor(parent, dtype=torch.long))


@pytest.mark.parametrize("parent", [torch.tensor([-1.0, 0.0]), torch.tensor([[-1, 0]]), torch.tensor([True, False])])
def test_what_is_not_a_vector_of_integers(parent):
    with pytest.raises(ValueError, match="must be a vector of integers, one per node"):
        Topology.of(parent)
