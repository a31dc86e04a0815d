import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from barrow.ops.network_simplex import network_simplex
from barrow.ops.tree_matching import tree_matching, tree_matching_reference


def drawn(nodes: int, batch: int, seed: int, *, ties: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random tree with its nodes in random order, and pairs of histograms on some of its nodes."""
    r = torch.Generator().manual_seed(seed)
    name = torch.randperm(nodes, generator=r)
    parent = torch.full((nodes,), -1)
    for x in range(1, nodes):
        parent[name[x]] = name[torch.randint(max(0, x - 4), x, (), generator=r)]
    leaves = torch.randperm(nodes, generator=r)[: int(torch.randint(1, nodes + 1, (), generator=r))]
    if ties:
        # Histograms of n equal grains, so that entries cancel exactly.
        grains = torch.randint(len(leaves), (2, batch, 4), generator=r)
        a, b = torch.zeros(2, batch, len(leaves), dtype=torch.float64).scatter_add(
            -1, grains, torch.full(grains.shape, 0.25, dtype=torch.float64)
        )
    else:
        a, b = torch.rand(2, batch, len(leaves), generator=r, dtype=torch.float64) ** 8
        a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    return parent, leaves, a, b


def distances(parent: Tensor, length: Tensor, leaves: Tensor) -> Tensor:
    """Path lengths between leaves, by the definition."""
    below = torch.zeros(len(parent), len(leaves), dtype=torch.float64)  # node x is above leaf i
    for i, x in enumerate(leaves.tolist()):
        while x >= 0:
            below[x, i] = 1
            x = int(parent[x])
    return ((below[:, :, None] - below[:, None, :]).abs() * length[:, None, None]).sum(0)


def dense(rows: Tensor, cols: Tensor, mass: Tensor, count: int) -> Tensor:
    plan = torch.zeros(len(rows), count, count, dtype=torch.float64)
    which = torch.arange(len(rows))[:, None].expand_as(rows)
    return plan.index_put((which, rows, cols), mass, accumulate=True)


trees = st.builds(drawn, st.integers(1, 25), st.integers(0, 4), st.integers(0, 2**31), ties=st.booleans())


@settings(max_examples=150, deadline=None)
@given(trees)
def test_feasible_and_optimal_for_every_choice_of_lengths(problem):
    parent, leaves, a, b = problem
    plan = dense(*tree_matching(parent, leaves, a, b), len(leaves))
    assert torch.allclose(plan.sum(2), a, atol=1e-14)
    assert torch.allclose(plan.sum(1), b, atol=1e-14)
    assert (plan >= 0).all()
    for seed in range(2):
        length = torch.rand(len(parent), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        C = distances(parent, length, leaves)
        best = network_simplex(a, b, C.expand(len(a), *C.shape))
        values = (best.mass * C[best.rows, best.cols]).sum(-1)
        assert torch.allclose((plan * C).sum((1, 2)), values, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_agrees_with_the_reference(problem):
    # Which of several leaves is matched is free; what crosses each edge is not, and neither is what stays.
    parent, leaves, a, b = problem
    ours = dense(*tree_matching(parent, leaves, a, b), len(leaves))
    theirs = dense(*tree_matching_reference(parent, leaves, a, b), len(leaves))
    C = distances(parent, torch.ones(len(parent), dtype=torch.float64), leaves)
    assert torch.allclose((ours * C).sum((1, 2)), (theirs * C).sum((1, 2)), atol=1e-13)
    assert torch.equal(ours.diagonal(dim1=1, dim2=2), theirs.diagonal(dim1=1, dim2=2))


@settings(max_examples=50, deadline=None)
@given(trees)
def test_the_reference_is_a_plan(problem):
    parent, leaves, a, b = problem
    plan = dense(*tree_matching_reference(parent, leaves, a, b), len(leaves))
    assert torch.allclose(plan.sum(2), a, atol=1e-14)
    assert torch.allclose(plan.sum(1), b, atol=1e-14)


def test_several_entries_may_share_a_node():
    leaves = torch.tensor([1, 1, 2])
    a, b = torch.tensor([[[1.0, 0, 0]], [[0, 0.5, 0.5]]], dtype=torch.float64)
    rows, cols, mass = tree_matching(torch.tensor([-1, 0, 0]), leaves, a, b)
    assert dense(rows, cols, mass, 3)[0, 0].tolist() == [0, 0.5, 0.5]


def test_a_long_chain_is_not_recursive():
    nodes = 200_000
    parent = torch.arange(-1, nodes - 1)
    a, b = torch.rand(2, 1, nodes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = b * (a.sum() / b.sum())
    rows, cols, mass = tree_matching(parent, torch.arange(nodes), a, b)
    carried = (rows - cols).abs().double().mul(mass).sum()
    expected = (a - b).flip(-1).cumsum(-1)[:, :-1].abs().sum()
    assert carried.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("parent", "leaves", "words"),
    [
        ([-1, -1], [0, 1], "exactly one root"),
        ([1, 0], [0, 1], "exactly one root"),
        ([-1, 2, 1], [0, 1], "cycle"),
        ([-1, 5], [0, 1], "does not exist"),
        ([-1, -2], [0, 1], "does not exist"),
        ([-1, 0], [0, 2], "does not exist"),
        ([-1, 0], [0, -1], "does not exist"),
        ([-1, 0], [0], "every leaf"),
    ],
)
def test_what_is_not_a_tree_is_refused(parent, leaves, words):
    a = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        tree_matching(torch.tensor(parent), torch.tensor(leaves), a, a)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_garbage_is_survived(bad):
    parent, leaves, a, b = drawn(20, 3, 0, ties=False)
    a[:, ::2] = bad
    for a_, b_ in ((a, b), (b, a), (a, a)):
        rows, cols, _ = tree_matching(parent, leaves, a_, b_)
        assert torch.stack((rows, cols)).max() < len(leaves)


def test_batch_is_a_loop_on_any_number_of_threads():
    parent, leaves, a, b = drawn(40, 9, 1, ties=False)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            batch = tree_matching(parent, leaves, a, b)
            for k in range(len(a)):
                one = tree_matching(parent, leaves, a[k : k + 1], b[k : k + 1])
                assert all(torch.equal(x[0], y[k]) for x, y in zip(one, batch, strict=True))
    finally:
        torch.set_num_threads(before)


def test_operator_registration():
    torch.library.opcheck(torch.ops.barrow.tree_matching.default, drawn(12, 2, 0, ties=False))
