"""Builders of trees: every metric against walks on the graph that was given, point by point, and against SciPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.spatial.distance import pdist, squareform

import barrow
from barrow import Dense, Points, Problem, Tree
from problems import F64, check_gradient, cloud, dirichlet, generator, lp, random_parents, uniform

LINKAGES = ("complete", "average", "single", "spanning")
UPPER = ("complete", "spanning")
every_linkage = pytest.mark.parametrize("linkage", LINKAGES)


def walks(edges, names):
    """Path lengths between names, by walking away from each over edges (one, other, length) of a graph."""
    beside = {}
    for one, other, length in edges:
        beside.setdefault(one, []).append((other, length))
        beside.setdefault(other, []).append((one, length))
    D = torch.zeros(len(names), len(names), dtype=F64)
    for i, start in enumerate(names):
        away, front = {start: 0.0}, [start]
        while front:
            here = front.pop()
            for other, length in beside.get(here, []):
                if other not in away:
                    away[other] = away[here] + length
                    front.append(other)
        for j, end in enumerate(names):
            D[i, j] = away[end]
    return D


def assert_same_metric(tree, D):
    assert torch.equal(tree.leaves, torch.arange(len(D)))  # node k is leaf k
    torch.testing.assert_close(tree.dense().to(F64), D.to(F64), rtol=1e-12, atol=1e-12)


def assert_no_unary_node(tree):
    children = torch.bincount(tree.parent[tree.parent >= 0], minlength=tree.parent.numel())
    assert not bool((children == 1).any())


def test_wrong_trees_are_seen():
    line = torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert_same_metric(Tree.chain(3), line)
    for wrong in (line + 1e-9, line[[1, 0, 2]][:, [1, 0, 2]]):
        with pytest.raises(AssertionError):
            assert_same_metric(Tree.chain(3), wrong)
    with pytest.raises(AssertionError):  # leaves that are not the first nodes
        assert_same_metric(Tree(torch.tensor([-1, 0, 0]), torch.ones(3)), torch.tensor([[0.0, 2], [2, 0]]))
    with pytest.raises(AssertionError):
        assert_no_unary_node(Tree(torch.tensor([1, 2, -1]), torch.ones(3)))


# -- from a list of parents --------------------------------------------------------------------------------------------

ZOO = {
    "poodle": ("dog", 1.0),
    "dog": ("mammal", 2.0),
    "puppet": ("toy", 7.0),
    "mammal": ("animal", 4.0),
    "eagle": ("bird", 8.0),
    "penguin": ("bird", 16.0),
    "bird": ("vertebrate", 32.0),
    "vertebrate": ("animal", 64.0),
    "animal": ("thing", 128.0),
    "toy": ("thing", 256.0),
}
EDGES = [(child, parent, length) for child, (parent, length) in ZOO.items()]


@pytest.mark.parametrize(
    "leaves",
    [
        None,
        ["penguin", "poodle", "eagle"],
        ["dog", "poodle", "bird", "eagle"],
        ["thing", "animal", "dog"],
        ["animal", "thing"],
        ["dog", "mammal", "animal", "bird", "penguin", "thing", "toy", "puppet", "vertebrate", "eagle", "poodle"],
        ["mammal"],
        ["thing"],
    ],
)
def test_distances_are_those_of_walks_between_names(leaves):
    tree = Tree.from_parents(ZOO, leaves=leaves)
    assert_same_metric(tree, walks(EDGES, leaves or ["poodle", "puppet", "eagle", "penguin"]))
    assert_no_unary_node(tree)


def test_leaves_come_in_the_order_in_which_parents_lists_them():
    tree = Tree.from_parents({"b": "x", "x": "r", "a": "r", "c": "x"})
    assert_same_metric(tree, walks([("b", "x", 1), ("x", "r", 1), ("a", "r", 1), ("c", "x", 1)], ["b", "a", "c"]))


def test_every_way_to_say_a_tree_says_the_same():
    names = {child: parent for child, (parent, _) in ZOO.items()}
    lengths = {child: length for child, (_, length) in ZOO.items()}
    leaves = ["dog", "eagle", "toy", "poodle"]
    ways = [
        (EDGES, None),
        ([list(row) for row in EDGES], None),
        (iter(EDGES), None),
        ({child: list(pair) for child, pair in ZOO.items()}, None),
        (ZOO | {"thing": None}, None),
        ([*EDGES, ("thing", None, math.nan)], None),  # the root has no edge
        (names, lengths),
        (names, list(lengths.values())),
        (names, torch.tensor(list(lengths.values()))),
        (names | {"thing": None}, lengths),
        (names | {"thing": None}, lengths | {"thing": -1.0}),
        (list(names.items()), lengths),
        (list(names.items()), tuple(lengths.values())),
    ]
    D = walks(EDGES, leaves)
    for parents, length in ways:
        assert_same_metric(Tree.from_parents(parents, length, leaves=leaves), D)
    twos = walks([(child, parent, 2) for child, parent in names.items()], leaves)
    for length in (2, 2.0, torch.tensor(2.0, dtype=F64), torch.full((len(names),), 2.0)):
        assert_same_metric(Tree.from_parents(names, length, leaves=leaves), twos)
    ones = walks([(child, parent, 1) for child, parent in names.items()], leaves)
    assert_same_metric(Tree.from_parents(names, leaves=leaves), ones)


def test_names_may_be_any_hashable_thing_and_tuples_among_children_are_names():
    quad = {(1, 0): (0, 0), (1, 1): (0, 0), (2, 0): (1, 0), (2, 1): (1, 0)}
    assert_same_metric(
        Tree.from_parents(quad, leaves=[(2, 1), (1, 1), (2, 0)]),
        torch.tensor([[0.0, 3, 2], [3, 0, 3], [2, 3, 0]]),
    )
    length = {(1, 0): 5, (1, 1): 1, (2, 0): 1, (2, 1): 1}
    assert_same_metric(Tree.from_parents(quad, length), torch.tensor([[0.0, 7, 7], [7, 0, 2], [7, 2, 0]]))
    # A tuple that does not end in a number is a name, and with `length` every tuple is.
    assert_same_metric(Tree.from_parents({"a": ("r", "s"), "b": ("r", "s")}), torch.tensor([[0.0, 2], [2, 0]]))
    assert_same_metric(Tree.from_parents({"a": ("r", 3), "b": ("r", 3)}, 1), torch.tensor([[0.0, 2], [2, 0]]))
    assert_same_metric(Tree.from_parents({1: frozenset("r"), int: frozenset("r")}), torch.tensor([[0.0, 2], [2, 0]]))


def test_a_root_alone_is_a_tree():
    for parents in ({"r": None}, [("r", None)], [("r", None, 1.0)]):
        assert_same_metric(Tree.from_parents(parents), torch.zeros(1, 1))
    assert_same_metric(Tree.from_parents({"r": None}, {}), torch.zeros(1, 1))
    assert barrow.tree_emd(torch.ones(1), torch.ones(1), Tree.from_parents({"r": None})) == 0


@given(st.integers(2, 30), st.integers(0, 1000))
def test_random_trees_with_random_leaves(N, seed):
    parent = random_parents(N, seed)
    length = uniform(N, seed=seed)
    edges = [(v, u, float(length[v])) for v, u in enumerate(parent.tolist()) if u >= 0]
    draw = torch.randperm(N, generator=generator(seed))
    wanted = draw[: 1 + seed % N].tolist()
    given_ = {v: None if u < 0 else u for v, u in enumerate(parent.tolist())}
    tree = Tree.from_parents(given_, length, leaves=wanted)
    assert_same_metric(tree, walks(edges, wanted))
    assert_no_unary_node(tree)
    assert tree.dtype == F64
    # Merging changes no loss of any exponent: against all nodes as they were given, mass on the wanted ones only.
    h, t = (dirichlet(len(wanted), seed=seed + k) for k in (1, 2))
    whole = Tree(torch.cat((parent, torch.arange(N))), torch.cat((length, torch.zeros(N, dtype=F64))))
    on = torch.zeros(2, N, dtype=F64)
    on[:, wanted] = torch.stack((h, t))
    for exponent in (1, 1.5, 2):
        same = barrow.tree_emd(h, t, tree, exponent), barrow.tree_emd(*on, whole, exponent)
        torch.testing.assert_close(*same, rtol=1e-12, atol=1e-14)


def test_renaming_and_reordering_change_nothing():
    leaves = ["poodle", "eagle", "penguin", "puppet"]
    D = Tree.from_parents(ZOO, leaves=leaves).dense()
    for seed in range(3):
        p = torch.randperm(len(EDGES), generator=generator(seed)).tolist()
        q = torch.randperm(len(leaves), generator=generator(seed))
        new = {name: hash(name) for name in [*ZOO, "thing"]}
        rows = [(new[EDGES[k][0]], new[EDGES[k][1]], EDGES[k][2]) for k in p]
        assert torch.equal(Tree.from_parents(rows, leaves=[new[leaves[k]] for k in q]).dense(), D[q][:, q])


def test_lengths_receive_gradients_and_may_be_a_batch():
    parents = {child: parent for child, (parent, _) in ZOO.items()}
    h, t = dirichlet(3, seed=1), dirichlet(3, seed=2)

    def loss(length):
        return barrow.tree_emd(h, t, Tree.from_parents(parents, length, leaves=["poodle", "eagle", "dog"]), 2)

    length = uniform(len(parents), seed=3)
    check_gradient(loss, [length])
    batch = torch.stack((length, 2 * length))
    torch.testing.assert_close(loss(batch), torch.stack((loss(length), 2 * loss(length))))
    assert Tree.from_parents(parents, batch).batch_shape == (2,)


@pytest.mark.parametrize(
    ("parents", "length", "leaves", "words"),
    [
        ({}, None, None, "parents is empty"),
        ([], None, None, "parents is empty"),
        ("abc", None, None, "it must list names"),
        (3, None, None, "it must list names"),
        ([-1, 0, 0], None, None, r"row 0 of parents is \(-1,\).*use Tree\(parent, length\)"),
        (["ab", "cb"], None, None, "row 0 of parents"),
        ([("a", "r"), ("b", "r", 1.0)], None, None, "row 1 of parents is .*all"),
        ([("a", "r"), ("a", "s")], None, None, "'a' is a child twice"),
        ([(None, "r")], None, None, "None is no name of a child"),
        ([(["a"], "r")], None, None, "is no name of a child"),
        ({"a": ["r", "s"], "b": "r"}, None, None, r"the parent of 'a' is \['r', 's'\], but names must be hashable"),
        ({"a": "r", "b": "s"}, None, None, "'a' is under the root 'r' but 'b' is under the root 's'.*all 2 roots"),
        ({"a": "r", "b": None}, None, ["b", "r"], "'b' is under the root 'b' but 'r' is under the root 'r'"),
        ({"a": "b", "b": "c", "c": "a"}, None, None, "has a cycle: 'a' is its own ancestor"),
        ({"x": "r", "a": "b", "b": "a"}, None, ["x"], "has a cycle"),
        ({"r": "r", "a": "r"}, None, None, "has a cycle: 'r' is its own ancestor; the root's parent is None"),
        ({"a": "r"}, None, [], "leaves is empty"),
        ({"a": "r"}, None, "a", "it must list names"),
        ({"a": "r"}, None, ["a", "z"], "leaves: 'z' is no name in parents"),
        ({"a": "r"}, None, [["a"]], "is no name in parents"),
        ({"a": "r", "b": "r"}, None, ["a", "b", "a"], "leaves: 'a' is listed twice"),
        ({"a": ("r", 1.0), "b": ("r", -2.0)}, None, None, "the edge above 'b' has length -2"),
        ({"a": ("r", 1.0), "b": ("r", math.inf)}, None, None, "the edge above 'b' has length inf"),
        ({"a": ("r", 1.0), "b": ("r", math.nan)}, None, None, "the length of the edge above 'b' is NaN"),
        ([("a", "r", "far")], None, None, "the length of the edge above 'a' is 'far', but it must be a number"),
        ([("a", "r", 1.0)], 2.0, None, "lengths are given twice"),
        ({"a": "r", "b": "r"}, {"a": 1.0}, None, "length has no entry for 'b'"),
        ({"a": "r"}, {"a": 1.0, "z": 1.0}, None, "length has an entry for 'z', which is no name"),
        ({"a": "r"}, {"a": -1.0}, None, "the edge above 'a' has length -1"),
        ({"a": "r", "b": "r"}, [1.0], None, "length has 1 numbers for 2 children"),
        ({"a": "r", "b": "r"}, [1.0, 2.0, 3.0], None, "length has 3 numbers for 2 children"),
        ({"a": "r", "b": "r"}, torch.ones(3), None, "length has 3 numbers for 2 children"),
        ({"a": "r", "b": "r"}, torch.tensor([1.0, math.nan]), None, "the edge above 'b' has length nan"),
        ({"a": "r", "b": "r"}, torch.ones(2, dtype=torch.long), None, "edge lengths must be floating point"),
        ({"a": "r"}, -1, None, "the edge above 'a' has length -1"),
        ({"a": "r"}, "far", None, "length is 'far'"),
        ({"a": "r"}, object(), None, "length is <object"),
    ],
)
def test_what_is_no_tree_is_refused(parents, length, leaves, words):
    with pytest.raises(ValueError, match=words):
        Tree.from_parents(parents, length, leaves=leaves)


def test_a_forest_is_a_tree_to_leaves_of_one_of_its_trees():
    two = [("a", "r"), ("b", "r"), ("c", "s")]
    assert_same_metric(Tree.from_parents(two, leaves=["b", "a"]), torch.tensor([[0.0, 2], [2, 0]]))


# -- on a line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_chain_is_the_distance_of_bins(n):
    i = torch.arange(n, dtype=F64)
    assert_same_metric(Tree.chain(n), (i[:, None] - i).abs())
    assert_same_metric(Tree.chain(n, 0.5), (i[:, None] - i).abs() / 2)
    z = torch.cat((torch.zeros(1, dtype=F64), uniform(n - 1, seed=n).cumsum(-1)))
    assert_same_metric(Tree.chain(n, z.diff()), (z[:, None] - z).abs())
    assert Tree.chain(n, torch.tensor(2.0, dtype=F64)).dtype == F64


@pytest.mark.parametrize("exponent", [1, 1.5, 2, 3])
def test_tree_emd_on_a_chain_is_emd_1d_with_its_gradients(exponent):
    n = 9
    h, t = (dirichlet(4, n, seed=k).requires_grad_() for k in (1, 2))
    spacing = uniform(4, n - 1, seed=3).requires_grad_()
    tree = barrow.tree_emd(h, t, Tree.chain(n, spacing), exponent)
    line = barrow.emd_1d(h, t, exponent, spacing)
    torch.testing.assert_close(tree, line, rtol=1e-13, atol=1e-15)
    for one, two in zip(*(torch.autograd.grad(v.sum(), (h, t, spacing)) for v in (tree, line)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)
    shared = barrow.tree_emd(h, t, Tree.chain(n, 0.3).to(F64), exponent)
    torch.testing.assert_close(shared, barrow.emd_1d(h, t, exponent, 0.3), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("n", "spacing", "words"),
    [
        (0, 1.0, "n is 0"),
        (2.5, 1.0, "n is 2.5, but it must be a whole number"),
        (3, 0.0, "spacing is 0.0"),
        (3, -1, "spacing is -1"),
        (3, math.inf, "spacing is inf"),
        (3, torch.ones(3), r"spacing has shape \(3,\), but 3 bins have 2 gaps"),
        (3, torch.tensor([1.0, -1.0]), "negative or not finite"),
        (3, torch.tensor([1.0, math.nan]), "negative or not finite"),
        (3, torch.ones(2, dtype=torch.int64), "must be floating point"),
    ],
)
def test_what_is_no_chain_is_refused(n, spacing, words):
    with pytest.raises(ValueError, match=words):
        Tree.chain(n, spacing)


# -- from points -------------------------------------------------------------------------------------------------------


def distances(x, norm=2):
    return torch.from_numpy(squareform(pdist(x.numpy(), METRICS[norm])))


METRICS = {1: "cityblock", 2: "euclidean", math.inf: "chebyshev"}


def witness(x, linkage, norm):
    """The metric by SciPy."""
    if len(x) == 1:
        return torch.zeros(1, 1, dtype=F64)
    if linkage == "spanning":
        D = distances(x, norm).numpy()
        return torch.from_numpy(shortest_path(minimum_spanning_tree(D), directed=False))
    return torch.from_numpy(squareform(cophenet(scipy_linkage(x.numpy(), linkage, METRICS[norm]))))


@every_linkage
@pytest.mark.parametrize("norm", METRICS)
@pytest.mark.parametrize(("n", "d"), [(1, 2), (2, 1), (3, 2), (40, 1), (40, 2), (60, 5)])
def test_the_metric_is_that_of_scipy(n, d, norm, linkage):
    x = cloud(n, d, seed=n + d)
    tree = Tree.from_points(x, linkage=linkage, norm=norm)
    assert_same_metric(tree, witness(x, linkage, norm))


def test_four_points_by_hand():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 3.0]], dtype=F64)
    # Merges: {0, 1} at 1, {2, 3} at 3, then all: nearest 4, farthest 5 (from 0 to 3), mean below.
    last = {"single": 4.0, "complete": 5.0, "average": (9 + 17**0.5 + 20**0.5) / 4}
    for linkage, h in last.items():
        assert_same_metric(
            Tree.from_points(x, linkage=linkage),
            torch.tensor([[0, 1, h, h], [1, 0, h, h], [h, h, 0, 3], [h, h, 3, 0]], dtype=F64),
        )
    assert_same_metric(
        Tree.from_points(x, linkage="spanning"),
        torch.tensor([[0.0, 1, 4, 7], [1, 0, 5, 8], [4, 5, 0, 3], [7, 8, 3, 0]]),
    )


@pytest.mark.parametrize("norm", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_metrics_dominate_or_are_dominated_and_so_are_their_transports(seed, norm):
    x = cloud(14, 1 + seed, seed=seed)
    C = distances(x, norm)
    a, b = dirichlet(14, seed=seed), dirichlet(14, seed=seed + 1, zeros=3)
    exact, _ = lp(C, a, b)
    slack = 1 + 1e-12
    for linkage in LINKAGES:
        tree = Tree.from_points(x, linkage=linkage, norm=norm)
        D, value = tree.dense(), float(barrow.tree_emd(a, b, tree))
        assert value == pytest.approx(lp(D, a, b)[0], rel=1e-9)
        if linkage in UPPER:
            assert bool((D * slack >= C).all())
            assert exact <= value * slack
        if linkage == "single":
            assert bool((C * slack >= D).all())
            assert value <= exact * slack


def test_average_is_no_bound():
    C, D = (distances(x := cloud(14, 2, seed=0)), Tree.from_points(x, linkage="average").dense())
    assert bool((C > 1.01 * D).any())
    assert bool((D > 1.01 * C).any())


@given(st.integers(1, 12), st.integers(0, 1000))
def test_points_with_ties_and_duplicates(n, seed):
    x = torch.randint(0, 3, (n, 2), generator=generator(seed)).to(F64)
    C = distances(x) if n > 1 else torch.zeros(1, 1, dtype=F64)
    D = {linkage: Tree.from_points(x, linkage=linkage).dense() for linkage in LINKAGES}
    for linkage in UPPER:
        assert bool((D[linkage] + 1e-12 >= C).all())
    # These two are unique whatever the ties; so is the distance 0 of duplicates in every one.
    torch.testing.assert_close(D["single"], witness(x, "single", 2), rtol=1e-12, atol=1e-12)
    one = [[max_step(C, i, j) for j in range(n)] for i in range(n)]
    torch.testing.assert_close(D["single"], torch.tensor(one, dtype=F64), rtol=1e-12, atol=1e-12)
    for metric in D.values():
        assert bool(((metric <= 1e-12) == (C == 0)).all())


def max_step(C, i, j):
    """The smallest step with which one gets from i to j."""
    for step in sorted(set(C.flatten().tolist())):
        seen, front = {i}, [i]
        while front:
            v = front.pop()
            new = [w for w in range(len(C)) if w not in seen and float(C[v, w]) <= step]
            seen.update(new)
            front += new
        if j in seen:
            return step
    raise AssertionError


@every_linkage
def test_moving_scaling_and_reordering_the_points(linkage):
    x = cloud(25, 3, seed=1)
    D = Tree.from_points(x, linkage=linkage).dense()
    p = torch.randperm(25, generator=generator(2))
    torch.testing.assert_close(Tree.from_points(x[p], linkage=linkage).dense(), D[p][:, p], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(Tree.from_points(x + 1000, linkage=linkage).dense(), D, rtol=1e-10, atol=1e-10)
    for size in (2.0**-700, 2.0**700, 2.0**1020):  # squares of these are beyond float64
        assert torch.equal(Tree.from_points(x * size, linkage=linkage).dense(), D * size)
    same = Tree.from_points(torch.ones(5, 2), linkage=linkage)
    assert torch.equal(same.dense(), torch.zeros(5, 5))


@every_linkage
def test_precision_and_gradients(linkage):
    x = cloud(25, 3, seed=1)
    D = Tree.from_points(x.float().double(), linkage=linkage).dense()
    tree = Tree.from_points(x.float().requires_grad_(), linkage=linkage)
    assert tree.dtype == torch.float32
    assert not tree.length.requires_grad
    torch.testing.assert_close(tree.dense().double(), D, rtol=1e-5, atol=1e-5)


def test_a_tree_of_points_is_a_cost():
    x = cloud(8, 2, seed=1)
    a, b = dirichlet(8, seed=1), dirichlet(8, seed=2)
    tree = Tree.from_points(x)
    found = barrow.solve(Problem(tree, a, b)).value
    torch.testing.assert_close(found, barrow.solve(Problem(Dense(tree.dense()), a, b)).value)
    assert float(barrow.solve(Problem(Points(x, x, p=1), a, b)).value) <= float(found)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros((3, 2)), {}, "x is a ndarray"),
        (torch.zeros(3), {}, r"x has shape \(3,\)"),
        (torch.zeros(0, 2), {}, "at least one point"),
        (torch.zeros(2, 3, 2), {}, r"x has shape \(2, 3, 2\), but a tree is built on one cloud"),
        (torch.zeros(3, 2, dtype=torch.long), {}, "must be floating point"),
        (torch.tensor([[0.0], [math.nan]]), {}, "NaN or infinity"),
        (torch.tensor([[0.0], [math.inf]]), {}, "NaN or infinity"),
        (
            torch.zeros(3, 2),
            {"linkage": "ward"},
            "linkage is 'ward', but the linkages are complete, average, single, sp",
        ),
        (torch.zeros(3, 2), {"norm": 3}, "norm is 3"),
        (torch.tensor([[-3e38], [3e38]]), {"linkage": "spanning"}, "distances that torch.float32 cannot hold"),
    ],
)
def test_what_is_no_cloud_is_refused(x, options, words):
    with pytest.raises(ValueError, match=words):
        Tree.from_points(x, **options)


# -- all ---------------------------------------------------------------------------------------------------------------


def test_four_point_condition_of_every_builder():
    """Of the three sums of opposite distances between four points of a tree the largest two are equal (Buneman)."""
    for D in (
        Tree.from_parents(ZOO, leaves=list(ZOO)).dense(),
        Tree.chain(6, 0.5).dense(),
        *(Tree.from_points(cloud(9, 2, seed=3), linkage=linkage).dense() for linkage in LINKAGES),
    ):
        for i, j, k, m in itertools.combinations(range(len(D)), 4):
            sums = sorted(float(s) for s in (D[i, j] + D[k, m], D[i, k] + D[j, m], D[i, m] + D[j, k]))
            assert sums[2] == pytest.approx(sums[1], rel=1e-12)
