"""What every cost answers, against its own matrix."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from barrow import Dense, DensePlan, GibbsPlan, Points, SparsePlan, Tree
from barrow.cost import points
from problems import cloud

F64 = torch.float64
# Root 0; inner nodes 3 and 5; leaves 1, 2, 4, 6, 7.
PARENT = torch.tensor([-1, 0, 3, 0, 5, 3, 5, 0])


def rand(*shape):
    return torch.rand(shape, dtype=F64)


COSTS = {
    "points": lambda *batch: Points(torch.randn(*batch, 5, 3, dtype=F64), torch.randn(*batch, 4, 3, dtype=F64), 2),
    "points-p1": lambda *batch: Points(torch.randn(*batch, 5, 2, dtype=F64), torch.randn(*batch, 4, 2, dtype=F64), 1),
    "points-inf": lambda *batch: Points(
        torch.randn(*batch, 5, 2, dtype=F64), torch.randn(*batch, 4, 2, dtype=F64), 1.5, math.inf
    ),
    "line": lambda *batch: Points(torch.randn(*batch, 5, 1, dtype=F64), torch.randn(*batch, 4, 1, dtype=F64), 1.3),
    "dense": lambda *batch: Dense(torch.randn(*batch, 5, 4, dtype=F64)),
    "tree": lambda *batch: Tree(PARENT, rand(*batch, 8)),
}
every_cost = pytest.mark.parametrize("make", COSTS.values(), ids=COSTS.keys())
every_batch = pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)


@every_cost
@every_batch
def test_shapes_blocks_and_the_way_back(make, batch):
    cost = make(*batch)
    n, m = cost.shape
    C = cost.dense()
    assert C.shape == (*batch, n, m)
    assert cost.batch_shape == batch
    assert cost.dtype == F64
    assert torch.equal(cost.block(1, 3), C[..., 1:3, :])
    assert cost.T.shape == (m, n)
    assert torch.allclose(cost.T.dense(), C.mT, rtol=1e-14)
    low, high = cost.limits()
    assert low.shape == high.shape == batch
    assert (low <= C.amin((-2, -1))).all()
    assert (high >= C.amax((-2, -1))).all()


@every_cost
@every_batch
def test_pairs(make, batch):
    cost = make(*batch)
    n, m = cost.shape
    for k in ((), (3,), (2, 3), (4, 1, 1)):
        try:
            joint = torch.broadcast_shapes(batch, k)
        except RuntimeError:
            continue
        rows, cols = torch.randint(n, (*k, 7)), torch.randint(m, (*k, 7))
        found = cost.pairs(rows, cols)
        assert found.shape == (*joint, 7)
        index = (rows * m + cols).expand(*joint, 7)
        expected = cost.dense().flatten(-2).expand(*joint, n * m).gather(-1, index)
        assert torch.allclose(found, expected, rtol=1e-13, atol=1e-15)


@every_cost
@every_batch
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("epsilon", [0, 0.5, "one a problem"])
def test_softmin(make, batch, axis, epsilon):
    cost = make(*batch)
    if epsilon == "one a problem":
        epsilon = 0.1 + rand(*batch)
    C = cost.dense() if axis == -1 else cost.dense().mT
    h = torch.randn(*batch, C.shape[-1], dtype=F64)
    h[..., 1] = -torch.inf
    found = cost.softmin(h, epsilon, axis)
    assert found.shape == (*batch, C.shape[-2])
    shifted = h[..., None, :] - C
    if isinstance(epsilon, torch.Tensor):
        scale = epsilon[..., None]
        expected = -scale * torch.logsumexp(shifted / scale[..., None], -1)
    else:
        expected = -shifted.amax(-1) if epsilon == 0 else -epsilon * torch.logsumexp(shifted / epsilon, -1)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-13)


@every_cost
def test_a_shared_cost_serves_a_batch_of_potentials(make):
    cost = make()
    h = torch.randn(3, cost.shape[1], dtype=F64)
    for epsilon in (0, 0.2, torch.tensor([0.1, 0.2, 0.3], dtype=F64)):
        together = cost.softmin(h, epsilon, -1)
        for k in range(3):
            alone = cost.softmin(h[k], float(epsilon[k]) if isinstance(epsilon, torch.Tensor) else epsilon, -1)
            assert torch.allclose(together[k], alone, rtol=1e-13)


@every_cost
@every_batch
def test_chunks_change_nothing(make, batch, monkeypatch):
    cost = make(*batch)
    n, m = cost.shape
    h, plan = torch.randn(*batch, m, dtype=F64), DensePlan(rand(*batch, n, m))
    whole = [cost.softmin(h, epsilon, -1) for epsilon in (0, 0.3)]
    for t in cost.tensors:
        t.requires_grad_()
    gradient = cost.vjp(plan, torch.ones(batch, dtype=F64))
    monkeypatch.setattr("barrow.ops.chunks.ENTRIES", 2 * m)
    assert len(list(cost.chunks())) == math.ceil(n / 2)
    assert len(list(plan.chunks())) >= math.ceil(n / 2)
    pieces = [cost.softmin(h, epsilon, -1) for epsilon in (0, 0.3)]
    # With a gradient to be recorded torch computes the entries, the core otherwise: the last bit may differ.
    assert all(torch.allclose(a, b, rtol=1e-13, atol=1e-14) for a, b in zip(whole, pieces, strict=True))
    for a, b in zip(gradient, cost.vjp(plan, torch.ones(batch, dtype=F64)), strict=True):
        assert torch.allclose(a, b, rtol=1e-13)


# -- gradients ---------------------------------------------------------------------------------------------------------


def random_plan(kind, batch, cost):
    n, m = cost.shape
    if kind == "dense":
        return DensePlan(rand(*batch, n, m))
    if kind == "sparse":
        return SparsePlan(torch.randint(n, (*batch, 9)), torch.randint(m, (*batch, 9)), rand(*batch, 9), (n, m))
    return GibbsPlan(cost.detach(), torch.randn(*batch, n, dtype=F64), torch.randn(*batch, m, dtype=F64), 0.7)


@every_cost
@pytest.mark.parametrize("kind", ["sparse", "dense", "gibbs"])
@pytest.mark.parametrize(
    ("batch", "plan_batch"),
    [((), ()), ((3,), (3,)), ((), (3,)), ((3, 1), (3, 2)), ((2,), (3, 2)), ((1,), (3,))],
    ids=str,
)
def test_vjp_is_the_gradient_of_the_matrix(make, kind, batch, plan_batch):
    cost = make(*batch)
    for t in cost.tensors:
        t.requires_grad_()
    plan, cotangent = random_plan(kind, plan_batch, cost), torch.randn(plan_batch, dtype=F64)
    inner = (plan.dense() * cost.dense()).sum((-2, -1))
    expected = torch.autograd.grad((inner * cotangent).sum(), cost.tensors)
    found = cost.vjp(plan, cotangent)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize(("x_batch", "y_batch"), [((3, 1), (2,)), ((), (3, 2)), ((3, 1), (1, 2))])
def test_vjp_of_clouds_with_batches_of_their_own(kind, x_batch, y_batch):
    x, y = torch.randn(*x_batch, 5, 2, dtype=F64), torch.randn(*y_batch, 4, 2, dtype=F64)
    cost = Points(x.requires_grad_(), y.requires_grad_(), 1)
    plan = random_plan(kind, (3, 2), cost)
    expected = torch.autograd.grad((plan.dense() * cost.dense()).sum(), (x, y))
    for a, b in zip(cost.vjp(plan, torch.ones(3, 2, dtype=F64)), expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_vjp_only_where_it_is_wanted():
    cost = Points(torch.randn(3, 2), torch.randn(4, 2).requires_grad_())
    left, right = cost.vjp(DensePlan(torch.rand(3, 4)), torch.tensor(1.0))
    assert left is None
    assert right.shape == (4, 2)


# -- the same cost, otherwise stored -----------------------------------------------------------------------------------


@every_cost
def test_reshape_batch_and_select(make):
    cost = make(2, 3)
    flat = cost.reshape_batch((2, 3), (6,))
    assert type(flat) is type(cost)
    assert torch.equal(flat.dense(), cost.dense().flatten(0, 1))
    some = torch.tensor([4, 0])
    assert torch.equal(flat.select(some).dense(), flat.dense()[some])
    wide = make(3).reshape_batch((2, 3), (6,))
    assert wide.batch_shape == (6,)
    assert torch.allclose(wide.dense()[:3], wide.dense()[3:], rtol=1e-15)


@every_cost
def test_a_shared_cost_stays_shared(make):
    cost = make()
    assert cost.reshape_batch((2, 3), (6,)).batch_shape == ()
    assert cost.select(torch.tensor([5, 1])).batch_shape == ()


def test_one_batched_cloud_pairs_with_a_shared_one():
    x, y = torch.randn(3, 5, 2), torch.randn(4, 2)
    flat = Points(x, y).reshape_batch((2, 3), (6,))
    assert torch.equal(flat.dense(), Points(x, y).dense().expand(2, 3, 5, 4).flatten(0, 1))


@every_cost
def test_precision_and_graph(make):
    cost = make(3)
    for t in cost.tensors:
        t.requires_grad_()
    assert cost.to(torch.float32).dtype == torch.float32
    assert not any(t.requires_grad for t in cost.detach().tensors)
    assert torch.allclose(cost.detach().dense(), cost.dense(), rtol=1e-14, atol=0)
    assert all(a is b for a, b in zip(cost.replace(*cost.tensors).tensors, cost.tensors, strict=True))


def test_repr():
    assert repr(COSTS["points"]()) == "Points(5 x 4)"
    assert repr(COSTS["dense"](2, 3)) == "Dense(5 x 4, batch (2, 3))"
    assert repr(COSTS["tree"](2)) == "Tree(5 x 5, batch (2,))"


# -- c-transforms with structure ---------------------------------------------------------------------------------------


def assert_same_minimum(cost, h):
    got, expected = cost.c_transform(h), (cost.dense() - h[..., None, :]).amin(-1)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [1, 1.3, 2, 3])
@pytest.mark.parametrize(
    ("x_batch", "y_batch", "h_batch"), [((), (), ()), ((2, 1), (3,), ()), ((), (), (4,)), ((4,), (), (4,))]
)
def test_c_transform_on_a_line(p, x_batch, y_batch, h_batch):
    x = torch.randint(-3, 4, (*x_batch, 30, 1)).double()  # unsorted, with duplicates and ties
    y = torch.randint(-3, 4, (*y_batch, 20, 1)).double()
    h = torch.randint(-5, 5, (*h_batch, 20)).double()
    assert_same_minimum(Points(x, y, p), h)
    assert_same_minimum(Points(x + torch.randn_like(x), y, p), h)
    h[..., ::3] = -torch.inf
    assert_same_minimum(Points(x, y, p), h)
    for norm in (1, math.inf):  # all one on a line
        assert_same_minimum(Points(x, y, p, norm), h)


@given(st.integers(1, 30), st.booleans())
def test_c_transform_on_a_tree(nodes, ties):
    parent = torch.tensor([-1] + [int(torch.randint(v, ())) for v in range(1, nodes)])
    length = torch.randint(0, 3, (nodes,)).double() if ties else rand(nodes)
    tree = Tree(parent, length)
    h = torch.randint(-3, 3, (2, tree.shape[0])).double()
    assert_same_minimum(tree, h)
    h[0, ::2] = -torch.inf
    if h[0].isfinite().any():
        assert_same_minimum(tree, h)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_points_refuse():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"norm is 3.0, but the ground norms are 1, 2 and inf"):
        Points(x, x, norm=3)
    with pytest.raises(ValueError, match=r"p is 0.5, but it must be a finite real number of at least 1"):
        Points(x, x, p=0.5)
    with pytest.raises(ValueError, match="the last dimension must agree"):
        Points(x, torch.ones(3, 4))


@pytest.mark.parametrize("C", [torch.ones(3), torch.ones(0, 3), torch.ones(3, 0), torch.ones(2, 2, dtype=torch.long)])
def test_dense_refuses(C):
    with pytest.raises(ValueError, match="a cost matrix"):
        Dense(C)


@pytest.mark.parametrize(
    ("parent", "length", "words"),
    [
        ([-1, 2, 1], [0.0, 1.0, 1.0], "parent has a cycle"),
        ([-1, -1], [0.0, 0.0], "parent names 2 roots"),
        ([1, 0], [1.0, 1.0], "parent names 0 roots"),
        ([-1, 7], [0.0, 1.0], r"parent\[1\] is 7, but the nodes are numbered 0 to 1"),
        ([-1.0, 0.0], [0.0, 1.0], "must be a vector of integers"),
        ([-1, 0], [0.0, 1.0, 1.0], r"length has shape \(3,\) but parent has shape \(2,\)"),
        ([-1, 0], [0.0, -1.0], "length contains -1, but edge lengths must be numbers of at least 0"),
        ([-1, 0], [0.0, math.nan], "length contains nan"),
        ([-1, 0], 1.0, "there must be one length a node"),
        ([-1, 0], [0, 1], "length has dtype torch.int64"),
    ],
)
def test_malformed_trees(parent, length, words):
    with pytest.raises(ValueError, match=words):
        Tree(torch.tensor(parent), torch.tensor(length))


def test_a_parent_that_is_a_list_is_told():
    with pytest.raises(ValueError, match=r"parent is a list, but it must be a torch.Tensor of integers"):
        Tree([-1, 0], torch.ones(2))


# -- trees at the limits -----------------------------------------------------------------------------------------------


def test_a_single_node():
    tree = Tree(torch.tensor([-1]), torch.tensor([5.0]))
    assert torch.equal(tree.dense(), torch.zeros(1, 1))
    assert torch.equal(tree.c_transform(torch.tensor([2.0])), torch.tensor([-2.0]))


def test_a_star():
    length = rand(2001)
    tree = Tree(torch.cat((torch.tensor([-1]), torch.zeros(2000, dtype=torch.long))), length)
    w = length[1:]
    expected = (w[:, None] + w).fill_diagonal_(0)
    assert torch.allclose(tree.dense(), expected)


def test_a_deep_caterpillar():
    """A spine of 2000 nodes, one leg each: deeper than Python would recurse."""
    spine = torch.arange(-1, 1999)
    tree = Tree(torch.cat((spine, torch.arange(2000))), torch.ones(4000, dtype=F64))
    place = torch.arange(2000, dtype=F64)
    expected = ((place[:, None] - place).abs() + 2).fill_diagonal_(0)
    assert torch.allclose(tree.dense()[:, :-1], expected[:, :-1])
    h = torch.randn(2000, dtype=F64)
    assert_same_minimum(tree, h)


def test_the_root_may_have_any_length():
    finite = Tree(PARENT, torch.ones(8))
    odd = torch.ones(8)
    odd[0] = -7
    assert torch.equal(Tree(PARENT, odd).dense(), finite.dense())
    assert torch.equal(Tree(PARENT, odd).limits()[1], finite.limits()[1])


def test_lengths_are_learnable():
    length = rand(2, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: Tree(PARENT, w).dense(), (length,))
    (gradient,) = torch.autograd.grad(Tree(PARENT, length).dense().sum(), length)
    assert (gradient[:, 0] == 0).all()


@pytest.mark.parametrize(("p", "norm"), [(2, 2), (1, 2), (1.5, 2), (1, 1), (2, math.inf), (3, 1)])
@pytest.mark.parametrize("d", [1, 3, 40])
def test_single_precision_on_the_cpu_is_the_core_s(p, norm, d, monkeypatch):
    """Points, potentials and answers in float32, moved far from the origin: as near to float64 as float32 is."""

    def never(*_):
        raise AssertionError("a matrix was made")

    monkeypatch.setattr(points, "blockwise_soft_c_transform", never)
    x, y = (cloud(3, n, d, seed=n).float() + 100 for n in (50, 70))
    h = cloud(3, 70, seed=1).float()
    h[:, 3] = -math.inf
    exact = Points(x.double(), y.double(), p, norm)
    for epsilon in (0.5, torch.tensor([0.1, 1.0, 10.0])):
        found = Points(x, y, p, norm).soft_c_transform(h, epsilon)
        wanted = exact.soft_c_transform(h.double(), epsilon.double() if isinstance(epsilon, torch.Tensor) else epsilon)
        assert found.dtype == torch.float32
        size = wanted.abs() + (epsilon[:, None] if isinstance(epsilon, torch.Tensor) else epsilon)
        assert ((found - wanted).abs() <= 4e-6 * size).all()
    hard = Points(x, y, p, norm).c_transform(h)
    assert hard.dtype == torch.float32
    wanted = exact.c_transform(h.double())
    assert ((hard - wanted).abs() <= (1e-6 if d > 1 else 1e-4) * (1 + wanted.abs())).all()


def test_single_precision_still_has_gradients():
    x = cloud(5, 2, seed=0).float().requires_grad_()
    y, h = cloud(6, 2, seed=1).float(), cloud(6, seed=2).float()
    (slope,) = torch.autograd.grad(Points(x, y).softmin(h, 0.5, -1).sum(), x)
    double = x.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(Points(double, y.double()).softmin(h.double(), 0.5, -1).sum(), double)
    assert torch.allclose(slope.double(), wanted, rtol=1e-5, atol=1e-5)
