"""The losses of flows: the core against plain torch and sums by hand; their words, conventions and transforms."""

import math

import pytest
import torch
from torch.autograd import forward_ad

import barrow
from barrow import Tree, _core, nn
from barrow.ops import flows
from barrow.ops.flows import Loss, flow_loss, flow_loss_reference, flow_pull_reference

F64 = torch.float64
EXPONENTS = (1, 1.3, 1.5, 2, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(*shape, seed=0, dtype=F64, mass=1.0):
    w = torch.rand(*shape, generator=generator(seed), dtype=F64) + 0.1
    return (mass * w / w.sum(-1, keepdim=True)).to(dtype)


def random_tree(leaves, inner, seed=0, dtype=F64):
    g = generator(seed)
    up = [-1] + [int(torch.randint(0, v, (), generator=g)) for v in range(1, inner)]
    bare = [v for v in range(inner) if v not in up[1:]]
    up += bare + [int(torch.randint(0, inner, (), generator=g)) for _ in range(leaves - len(bare))]
    name = torch.randperm(len(up), generator=g)
    parent = torch.empty(len(up), dtype=torch.long)
    parent[name] = torch.tensor([-1 if u < 0 else int(name[u]) for u in up])
    return Tree(parent, torch.rand(len(up), generator=g, dtype=F64).to(dtype) + 0.1)


def below(tree, node):
    """Which leaves are under a node, by following every one up."""
    parent, found = tree.parent.tolist(), []
    for leaf in tree.leaves.tolist():
        v = leaf
        while v not in (-1, node):
            v = parent[v]
        found.append(v == node)
    return torch.tensor(found)


def by_hand(h, t, edges, exponent):
    """Value and raw gradient as sums over (weight, mask) of edges."""
    value, g = 0.0, torch.zeros_like(h)
    for w, mask in edges:
        phi = float((h - t)[mask].sum())
        value += w * abs(phi) ** exponent
        slope = exponent * w * math.copysign(1, phi) * abs(phi) ** (exponent - 1)
        g[mask] += slope if abs(phi) > 1e-14 else 0.0
    return value, g


N = 7
SPACING = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.25], dtype=F64)
TREE = random_tree(N, 5, seed=3)
CASES = {
    "chain": (
        lambda h, t, e=1, **o: barrow.emd_1d(h, t, e, SPACING.to(h.dtype), **o),
        [(float(w), torch.arange(N) <= i) for i, w in enumerate(SPACING)],
    ),
    "tree": (
        lambda h, t, e=1, **o: barrow.tree_emd(h, t, TREE.to(h.dtype), e, **o),
        [(float(w), below(TREE, v)) for v, w in enumerate(TREE.length) if TREE.parent[v] >= 0],
    ),
}
every_case = pytest.mark.parametrize(("loss", "edges"), CASES.values(), ids=CASES.keys())


@every_case
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_four_conventions(loss, edges, exponent):
    """RAW, TAN, N-TAN and QUOT by hand, and one gradient to the logits up to the factor N."""
    h, t = weights(N, seed=1), weights(N, seed=2)
    value, g = by_hand(h, t, edges, exponent)

    def gradient(wrap, source=h, **options):
        x = source.clone().requires_grad_()
        found = loss(wrap(x), t, exponent, **options)
        assert torch.allclose(found, torch.tensor(value, dtype=F64), rtol=1e-12)
        return torch.autograd.grad(found, x)[0]

    same = {"rtol": 1e-10, "atol": 1e-13}
    assert torch.allclose(gradient(lambda x: x), g, **same)
    assert torch.allclose(gradient(barrow.tangent), g - g.mean(), **same)
    assert torch.allclose(gradient(lambda x: barrow.tangent(x, scale=N)), N * (g - g.mean()), **same)
    quotient = gradient(lambda x: x, 3 * h, normalise=True)
    assert torch.allclose(quotient, (g - (h * g).sum()) / 3, **same)
    assert abs(float((quotient * h).sum())) < 1e-12
    wanted = h * (g - (h * g).sum())
    for wrap, factor, options in (
        (lambda x: x, 1, {}),
        (barrow.tangent, 1, {}),
        (lambda x: barrow.tangent(x, scale=N), N, {}),
        (lambda x: x, 1, {"normalise": True}),
    ):
        found = gradient(lambda z, wrap=wrap: wrap(z.softmax(-1)), h.log(), **options)
        assert torch.allclose(found, factor * wanted, **same)


@every_case
def test_weights_are_not_raised_to_the_power(loss, edges):
    h, t = weights(N, seed=1), weights(N, seed=2)
    off = sum((w * abs(float((h - t)[mask].sum()))) ** 2 for w, mask in edges)
    assert torch.allclose(loss(h, t, 2), torch.tensor(by_hand(h, t, edges, 2)[0], dtype=F64), rtol=1e-12)
    assert abs(float(loss(h, t, 2)) - off) > 1e-3


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 31, 64, 100, 257])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_core_is_the_reference(size, exponent):
    tree = (
        random_tree(size, max(1, size // 2), seed=size)
        if size > 1
        else Tree(torch.tensor([-1]), torch.ones(1).double())
    )
    for topology, w in ((None, None), (None, torch.rand(size - 1, dtype=F64)), (tree.topology, tree.length)):
        if topology is not None and size < tree.shape[0]:
            continue
        for normalise in (False, True):
            loss = Loss(float(exponent), 1.7, normalise)
            h = weights(3, size, seed=1, mass=2.0 if normalise else 1.0).requires_grad_()
            for t in (
                weights(3, size, seed=2).requires_grad_(),
                weights(size, seed=2),
                torch.tensor([0, size - 1, size // 2]),
            ):
                seed = torch.randn(3, generator=generator(5), dtype=F64)
                wants = (True, t.requires_grad, False)
                found = flow_loss(h, t, w, topology, loss)
                assert torch.allclose(found, flow_loss_reference(h, t, w, topology, loss), rtol=1e-11, atol=1e-14)
                ours = torch.autograd.grad(found, [h, *([t] if wants[1] else [])], seed)
                reference = flow_pull_reference(seed, h, t, w, topology, loss, wants)
                again = torch.autograd.grad(
                    flow_loss_reference(h, t, w, topology, loss), [h, *([t] if wants[1] else [])], seed
                )
                for one, other, third in zip(ours, [r for r in reference if r is not None], again, strict=True):
                    if exponent >= 1.5:  # below, the sign of a flow that is rounding decides
                        assert torch.allclose(one, other, rtol=1e-9, atol=1e-7)
                        assert torch.allclose(one, third, rtol=1e-9, atol=1e-7)


@every_case
@pytest.mark.parametrize("exponent", [1.5, 2, 3])
def test_gradients_to_everything_twice(loss, edges, exponent):
    h, t, w = (
        weights(2, 5, seed=1).requires_grad_(),
        weights(5, seed=2).requires_grad_(),
        torch.rand(4, dtype=F64) + 0.1,
    )
    w.requires_grad_()
    tree = random_tree(5, 3, seed=1)
    length = tree.length.clone().requires_grad_()
    for value in (
        lambda h, t, w: barrow.emd_1d(h, t, exponent, w, normalise=True),
        lambda h, t, w: barrow.tree_emd(h, t, Tree(tree.parent, length * w.sum()), exponent, normalise=True),
    ):
        assert torch.autograd.gradcheck(value, (h, t, w))
        assert torch.autograd.gradgradcheck(value, (h, t, w))
    barrow.tree_emd(h, t, Tree(tree.parent, length), exponent).sum().backward()
    assert length.grad[tree.parent < 0] == 0


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_the_references(loss, edges, dtype):
    h, t = weights(50, N, seed=1, dtype=dtype), weights(50, N, seed=2, dtype=dtype)
    for exponent in (1, 2):
        exact = loss(h.double(), t.double(), exponent, normalise=True)
        found = loss(h, t, exponent, normalise=True)
        assert found.dtype == dtype
        eps = torch.finfo(dtype).eps
        assert torch.allclose(found.double(), exact, rtol=2 * eps, atol=8 * torch.finfo(torch.float32).eps)


def test_long_rows_lose_nothing():
    h, t = weights(4, 20_000, seed=1, dtype=torch.float32), weights(4, 20_000, seed=2, dtype=torch.float32)
    exact = (h.double() - t.double()).cumsum(-1)[:, :-1]
    loss = barrow.emd_1d(h, t, 2, normalise=False)
    assert torch.allclose(loss.double(), exact.square().sum(-1), rtol=2e-7)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("normalise", [False, True])
def test_large_trees_lose_nothing(dense, normalise):
    """The core errs at most twice as much as plain torch of the same precision, in every row of a batch."""
    tree = random_tree(1000, 700, dtype=torch.float32)
    w, loss = tree.length, Loss(2.0, 1.0, normalise, 1e-5)
    h = weights(13, 1000, seed=1, dtype=torch.float32).requires_grad_()
    t = weights(13, 1000, seed=2, dtype=torch.float32) if dense else torch.arange(13) * 70
    exact = flow_loss_reference(h.double(), t.double() if dense else t, w.double(), tree.topology, loss)
    known = torch.autograd.grad(exact.sum(), h)[0], exact.detach()
    errors = []
    for f in (flow_loss, flow_loss_reference):
        found = f(h, t, w, tree.topology, loss)
        pull = torch.autograd.grad(found.sum(), h)[0]
        errors.append(((pull - known[0]).abs().amax(-1), (found.detach() - known[1]).abs()))
    for ours, theirs, size in zip(*errors, known, strict=True):
        assert (ours <= 2 * theirs + 2e-7 * size.abs().amax(-1 if size.dim() > 1 else 0)).all()


# -- class indices -----------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_class_indices_are_one_hot(loss, edges, kind):
    h = weights(2, 3, N, seed=1).requires_grad_()
    t = torch.randint(0, N, (2, 3), generator=generator())
    for exponent in EXPONENTS:
        for normalise in (False, True):
            one = loss(h, t.to(kind), exponent, normalise=normalise)
            other = loss(h, torch.nn.functional.one_hot(t, N).double(), exponent, normalise=normalise)
            assert torch.allclose(one, other, rtol=1e-12)
            pulls = (torch.autograd.grad(value.sum(), h)[0] for value in (one, other))
            assert torch.allclose(*pulls, rtol=1e-9, atol=1e-7)
    assert loss(weights(N), torch.tensor(2)).shape == ()
    assert loss(h[:0], t[:0]).shape == (0, 3)


@every_case
def test_bad_input_is_told(loss, edges):
    h, t = weights(3, N), weights(3, N, seed=2)

    def refuses(words, *args, **options):
        with pytest.raises(ValueError, match=words):
            loss(*args, **options)

    refuses("^t contains the class index 7, but the classes of h are 0 to 6$", h, torch.tensor([0, 7, 1]))
    refuses("^t contains the class index -1", h, torch.tensor([0, 1, -1]))
    refuses(r"^t has shape \(3, 7\) and dtype torch.int64, but integers are class indices", h, t.long())
    refuses(r"expected shape \(3,\); a histogram of counts must be floating point", h, torch.tensor([1, 2]))
    refuses("^t has dtype torch.bool", h, torch.ones(3, N, dtype=torch.bool))
    for x in (math.nan, math.inf):
        bad = h.clone()
        bad[1, 4] = x
        refuses("^h contains a value that is not finite", bad, t)
        refuses("^t contains a value that is not finite", h, bad, normalise=True)
        refuses("^h contains a value that is not finite", bad, torch.tensor([0, 1, 2]), normalise=True)
    bad = h.clone()
    bad[2, 0] -= 0.5
    bad[2, 1] += 0.5
    refuses("^h contains -", bad, t)
    refuses("^t contains -", h, bad, normalise=True)
    refuses("^h contains -", -h, t, normalise=True)
    refuses("^h sums to 2 but t sums to 1: .* pass normalise=True, which divides each by its mass$", 2 * h, t)
    refuses("^h sums to 2 but t sums to 1: ", 2 * h, torch.tensor([0, 1, 2]))
    for normalise in (False, True):
        refuses("no mass", 0 * h, t, normalise=normalise)
        refuses("no mass", h, 0 * t, normalise=normalise)
        refuses("no mass", 0 * h, torch.tensor([0, 1, 2]), normalise=normalise)


@every_case
def test_masses_are_divided_out(loss, edges):
    h, t = weights(3, N), weights(3, N, seed=2)
    for exponent in EXPONENTS:
        assert torch.allclose(loss(3 * h, 5 * t, exponent, normalise=True), loss(h, t, exponent), rtol=1e-12)
    tiny, huge = 1e-310 * h, 1e305 * h
    for extreme in (tiny, huge):
        assert torch.allclose(loss(extreme, t, 2, normalise=True), loss(h, t, 2), rtol=1e-3)
    assert loss(h.float(), t.float()).dtype == torch.float32


def test_modules_normalise():
    h, t = weights(3, N), 2 * weights(3, N, seed=2)
    assert torch.equal(nn.Emd1d(2, normalise=True)(h, t), barrow.emd_1d(h, t, 2, normalise=True))
    assert torch.equal(nn.TreeEmd(TREE, normalise=True)(h, t), barrow.tree_emd(h, t, TREE, normalise=True))
    assert torch.equal(nn.Emd1d()(h, torch.tensor([0, 1, 2])), barrow.emd_1d(h, torch.tensor([0, 1, 2])))


# -- compilers and transforms ------------------------------------------------------------------------------------------


@every_case
def test_opcheck(loss, edges):
    h, t = weights(3, 5, seed=1).requires_grad_(), weights(3, 5, seed=2).requires_grad_()
    tree = random_tree(5, 3)
    op, pull = torch.ops.barrow.flow.default, torch.ops.barrow.flow_pull.default
    for target in (t, torch.tensor([0, 1, 2])):
        for rest in ((torch.rand(4, dtype=F64), None), (tree.length, tree.topology.parent)):
            args = (h, target, *rest, 2.0, 1.0, True, 1e-5)
            torch.library.opcheck(op, args)
            wants = [True, target.requires_grad, True]
            plain = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
            torch.library.opcheck(pull, (torch.ones(3, dtype=F64), *plain, wants))


@every_case
def test_maps(loss, edges):
    h, t = weights(4, 3, N, seed=1), weights(3, N, seed=2)
    at = torch.randint(0, N, (4, 3), generator=generator())
    assert torch.allclose(torch.vmap(loss, (0, None))(h, t), loss(h, t), rtol=1e-12)
    assert torch.allclose(torch.vmap(loss)(h, at), loss(h, at), rtol=1e-12)
    found = torch.vmap(torch.func.grad(lambda x, k: loss(x, k, 2)))(h.flatten(0, 1), at.flatten())
    x = h.flatten(0, 1).requires_grad_()
    assert torch.allclose(found, torch.autograd.grad(loss(x, at.flatten(), 2).sum(), x)[0], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="sums to 2"):
        torch.vmap(loss, (0, None))(2 * h, t)


@every_case
def test_compiled_whole(loss, edges):
    h, t = weights(3, N, seed=1), weights(3, N, seed=2)
    w, length, topology = SPACING, TREE.length, TREE.topology

    def step(z, t):
        return (
            barrow.emd_1d(z.softmax(-1), t, 2, w).sum() + flow_loss(z.softmax(-1), t, length, topology, Loss(2.0)).sum()
        )

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for target in (t, torch.tensor([0, 3, 6])):
        z = h.log().requires_grad_()
        one, other = (torch.autograd.grad(f(z, target), z)[0] for f in (step, compiled))
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # within torch
def test_forward_mode():
    h, t = weights(N, seed=1), weights(N, seed=2)
    v = torch.randn(N, generator=generator(), dtype=F64)
    for loss, _ in CASES.values():
        with forward_ad.dual_level():
            slope = forward_ad.unpack_dual(loss(forward_ad.make_dual(h, v), t, 2)).tangent
        x = h.clone().requires_grad_()
        assert torch.allclose(slope, (torch.autograd.grad(loss(x, t, 2), x)[0] * v).sum(), rtol=1e-9)


def test_threads_do_not_change_numbers():
    h, t = weights(300, 1000, seed=1, dtype=torch.float32), weights(300, 1000, seed=2, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = h.clone().requires_grad_()
            loss = barrow.emd_1d(x, t, 2)
            found.append((loss.detach(), torch.autograd.grad(loss.sum(), x)[0]))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_core_refuses_what_does_not_fit():
    h = weights(2, 4)
    out = torch.empty(2, dtype=F64)
    rest = (1.0, 1.0, False, 1e-5, 1)
    for t, w, tree in (
        (weights(3, 4), None, None),
        (h, torch.ones(1, 4).double(), None),
        (h, None, _core.FlowTree(TREE.topology.parent)),
    ):
        with pytest.raises(ValueError, match="needs"):
            _core.flows(h, t, None, w, tree, *rest, out, None, None, None)
    assert flows._native(torch.nn.Parameter(h), h, None)
