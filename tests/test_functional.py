"""Named quantities: shapes, closed forms, and one clear line for every bad input."""

import inspect
import math

import pytest
import scipy.stats
import torch

import barrow
from barrow import ConvergenceWarning, Points, Problem, Tree

F64 = torch.float64
TREE = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.ones(6, dtype=F64))


def rand(*shape):
    return torch.rand(shape, dtype=F64)


def randn(*shape):
    return torch.randn(shape, dtype=F64)


def weights(*shape):
    w = rand(*shape) + 0.05
    return w / w.sum(-1, keepdim=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


CLOUDS = {
    "wasserstein": lambda *args: barrow.wasserstein(*args, p=1),
    "transport_cost": lambda *args: barrow.transport_cost(*args, p=2),
    "sinkhorn_cost": lambda *args: barrow.sinkhorn_cost(*args, epsilon=0.5),
    "sinkhorn_divergence": lambda *args: barrow.sinkhorn_divergence(*args, epsilon=0.5),
    "sliced_wasserstein": lambda *args: barrow.sliced_wasserstein(*args, n_projections=8, generator=generator()),
}
every_cloud = pytest.mark.parametrize("loss", CLOUDS.values(), ids=CLOUDS.keys())
HISTOGRAMS = {
    "emd_1d": lambda h, t: barrow.emd_1d(h, t),
    "tree_emd": lambda h, t: barrow.tree_emd(h, t, TREE),
    "label_wasserstein": lambda h, t: barrow.label_wasserstein(h, t, TREE.dense(), epsilon=0.5),
}
every_histogram = pytest.mark.parametrize("loss", HISTOGRAMS.values(), ids=HISTOGRAMS.keys())


# -- signatures and shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "signature"),
    [
        ("wasserstein", "x, y, a=None, b=None, *, p=2, norm=2"),
        ("transport_cost", "x, y, a=None, b=None, *, p=2, norm=2"),
        ("sinkhorn_cost", "x, y, a=None, b=None, *, epsilon, p=2, norm=2, rho=inf, tol=0.001, max_steps=10000"),
        ("sinkhorn_divergence", "x, y, a=None, b=None, *, epsilon, p=2, norm=2, rho=inf, tol=0.001, max_steps=10000"),
        ("sliced_wasserstein", "x, y, a=None, b=None, *, p=2, n_projections=64, generator=None"),
        ("wasserstein_1d", "u, v, a=None, b=None, *, p=2"),
        ("emd_1d", "h, t, exponent=1, spacing=1.0, *, normalise=False"),
        ("tree_emd", "h, t, tree, exponent=1, *, normalise=False"),
        ("label_wasserstein", "h, t, C, *, epsilon, rho=inf, tol=0.001, max_steps=10000"),
        ("tangent", "h, *, scale=1.0"),
        ("sinkhorn_transport", "h, t, C, *, epsilon, tol=0.001, max_steps=10000"),
        ("sinkhorn_ball", "h, t, C, *, alpha, tol=0.001, max_steps=200"),
        ("barycenter", "histograms, C, weights=None, *, epsilon, tol=1e-05, max_steps=10000, progress=None"),
        ("debiased_barycenter", "histograms, C, weights=None, *, epsilon, tol=1e-05, max_steps=10000, progress=None"),
        (
            "free_barycenter",
            "clouds, weights=None, masses=None, *, n, p=2, epsilon=0.0, start=None, tol=1e-06, max_steps=100, "
            "progress=None",
        ),
    ],
)
def test_signatures(quantity, signature):
    found = inspect.signature(getattr(barrow, quantity))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    assert str(found.replace(parameters=bare, return_annotation=found.empty)) == f"({signature})"


@pytest.mark.parametrize("name", ["sinkhorn_divergence", "sliced_wasserstein"])
def test_the_shapes_of_the_readme(name):
    x, y = torch.randn(8, 256, 3, requires_grad=True), torch.randn(8, 300, 3)
    value = CLOUDS[name](x, y)
    assert value.shape == (8,)
    value.mean().backward()
    assert x.grad.isfinite().all()


@every_cloud
def test_batch_shapes(loss):
    assert loss(randn(4, 2), randn(3, 2)).shape == ()
    assert loss(randn(2, 1, 4, 2), randn(5, 3, 2)).shape == (2, 5)
    assert loss(randn(4, 2), randn(3, 2), weights(6, 4)).shape == (6,)
    assert loss(randn(4, 2), randn(3, 2), weights(2, 1, 4), weights(6, 3)).shape == (2, 6)
    assert loss(randn(0, 4, 2), randn(3, 2)).shape == (0,)


@every_cloud
def test_batches_are_loops(loss):
    x, y, a = randn(3, 4, 2), randn(5, 2), weights(3, 4)
    together = loss(x, y, a)
    for k in range(3):
        assert torch.allclose(together[k], loss(x[k], y, a[k]), rtol=1e-2 if together[k] < 1e-1 else 2e-3)


@every_cloud
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_precision(loss, dtype):
    x, y = randn(6, 2).to(dtype).requires_grad_(), (randn(5, 2) + 2).to(dtype)
    value = loss(x, y)
    assert value.dtype == dtype
    exact = loss(x.detach().double(), y.double())
    if loss is not CLOUDS["sliced_wasserstein"]:  # whose directions depend on the precision
        assert torch.allclose(value.double(), exact, rtol=4e-3 + 4 * torch.finfo(dtype).eps)
    value.backward()
    assert x.grad.dtype == dtype


@every_histogram
def test_histogram_shapes(loss):
    assert loss(weights(4), weights(4)).shape == ()
    assert loss(weights(2, 1, 4), weights(3, 4)).shape == (2, 3)


# -- what the numbers are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_roots(p):
    x, y = randn(5, 2), randn(4, 2)
    cost = barrow.transport_cost(x, y, p=p)
    assert torch.allclose(barrow.wasserstein(x, y, p=p), cost ** (1 / p))
    assert torch.allclose(barrow.wasserstein(x, x + torch.tensor([3.0, 4.0]), p=p), torch.tensor(5.0, dtype=F64))


def test_the_gradient_of_no_distance_is_zero():
    x = randn(5, 2).requires_grad_()
    for value in (barrow.wasserstein(x, x.detach()), barrow.sliced_wasserstein(x, x.detach()),
                  barrow.wasserstein_1d(x[:, 0], x[:, 0].detach())):  # fmt: skip
        assert value == 0
        (gradient,) = torch.autograd.grad(value, x)
        assert (gradient == 0).all()


def test_the_divergence_is_its_formula():
    x, y, a, b = randn(6, 2), randn(5, 2), weights(6), 1.5 * weights(5)
    options = {"epsilon": 0.3, "rho": 2.0, "tol": 1e-9}

    def V(x, y, a, b):
        return barrow.sinkhorn_cost(x, y, a, b, **options)

    expected = V(x, y, a, b) - (V(x, x, a, a) + V(y, y, b, b)) / 2 + 0.15 * (a.sum() - b.sum()) ** 2
    assert torch.allclose(barrow.sinkhorn_divergence(x, y, a, b, **options), expected, atol=1e-7)
    assert barrow.sinkhorn_divergence(x, x, a, a, **options).abs() < 1e-7
    assert expected > 0


def frogner(T, C, h, t, epsilon, rho):
    """<T, C> - epsilon H(T) + rho KL(T 1 | h) + rho KL(T' 1 | t), as the paper has it."""
    value = (T * C).sum() + epsilon * (T * T.log()).sum()
    if rho < math.inf:
        for q, w in ((T.sum(1), h), (T.sum(0), t)):
            value = value + rho * (q * (q / w).log() - q + w).sum()
    return value


def test_label_wasserstein_with_hard_marginals_is_frogners():
    C, h, t, epsilon = rand(4, 3), weights(4), weights(3), 0.2
    # The mass of a balanced plan is given, so that every reference measure leads to the same plan.
    T = barrow.solve(Problem(barrow.Dense(C), h, t, epsilon=epsilon), barrow.Sinkhorn(tol=1e-11)).plan.dense()
    value = barrow.label_wasserstein(h, t, C, epsilon=epsilon, tol=1e-11)
    assert torch.allclose(value, frogner(T, C, h, t, epsilon, math.inf), atol=1e-7)


def test_label_wasserstein_with_penalties_is_frogners():
    C, h, t, epsilon, rho = rand(4, 3), weights(4), weights(3), 0.2, 1.5
    log_T = torch.full((4, 3), -3.0, dtype=F64, requires_grad=True)
    descent = torch.optim.LBFGS([log_T], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def loss():
        descent.zero_grad()
        value = frogner(log_T.exp(), C, h, t, epsilon, rho)
        value.backward()
        return value

    descent.step(loss)
    value = barrow.label_wasserstein(h, t, C, epsilon=epsilon, rho=rho, tol=1e-11)
    assert torch.allclose(value, loss().detach(), atol=1e-8)


# -- on a line -------------------------------------------------------------------------------------------------------


def test_the_line_against_scipy():
    u, v, a, b = randn(30), randn(20), weights(30), weights(20)
    expected = scipy.stats.wasserstein_distance(u, v, a, b)
    assert float(barrow.wasserstein_1d(u, v, a, b, p=1)) == pytest.approx(expected, rel=1e-12)
    expected = scipy.stats.wasserstein_distance(u, v)
    assert float(barrow.wasserstein_1d(u, v, p=1)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", [1, 1.3, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_line_against_solve(p, weighted):
    u, v = torch.randint(-4, 5, (3, 7)).double(), randn(3, 6)
    a, b = (weights(3, 7), weights(3, 6)) if weighted else (None, None)
    exact = barrow.solve(Problem(Points(u[..., None], v[..., None], p), a, b)).value ** (1 / p)
    assert torch.allclose(barrow.wasserstein_1d(u, v, a, b, p=p), exact, rtol=1e-10)
    uniform = barrow.wasserstein_1d(u, u + 2, p=p)
    assert torch.allclose(uniform, torch.full((3,), 2.0, dtype=F64))


def test_gradients_on_a_line():
    u, v, a, b = randn(5), randn(4), weights(5), weights(4)

    def value(u, v, a, b):
        a, b = (w - (w.sum() - 1) / len(w) for w in (a, b))
        return barrow.wasserstein_1d(u, v, a, b, p=2)

    assert torch.autograd.gradcheck(value, [t.requires_grad_() for t in (u, v, a, b)])
    w = randn(5)
    assert torch.autograd.gradcheck(lambda u: barrow.wasserstein_1d(u, w, p=3), (u,))


def test_half_precision_on_a_line_does_not_overflow():
    u = torch.tensor([0.0, 1000.0], dtype=torch.float16)
    assert barrow.wasserstein_1d(u, u + 1000, p=2) == 1000
    assert barrow.wasserstein_1d(u, u + 1000, torch.tensor([0.5, 0.5]).half(), p=2) == 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_against_none(dtype):
    # 7 weights of 1/7 do not sum to 1 in half precision; the side without weights has exactly mass 1.
    u, b = torch.arange(7).to(dtype), torch.full((7,), 1 / 7).to(dtype)
    assert barrow.wasserstein_1d(u, u + 2, None, b, p=1) == 2
    assert float(barrow.wasserstein_1d(u, u + 2, b, None, p=1)) == pytest.approx(2, rel=4e-3)


def test_gradients_to_weights_carry_half_of_the_value_each():
    u, v, a, b = randn(5), randn(4), weights(5).requires_grad_(), weights(4).requires_grad_()
    cost = barrow.wasserstein_1d(u, v, a, b, p=2).square()
    f, g = torch.autograd.grad(cost, (a, b))
    assert torch.allclose(a @ f, cost / 2)
    assert torch.allclose(b @ g, cost / 2)
    s = barrow.solve(Problem(Points(u[:, None], v[:, None]), a, b))
    assert torch.allclose(f, s.f)
    assert torch.allclose(g, s.g)


def on_the_line(x, y, *w):
    return barrow.wasserstein_1d(x[..., 0], y[..., 0], *w, p=1.5)


@pytest.mark.parametrize("loss", [on_the_line, CLOUDS["sliced_wasserstein"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_sorts_are_differentiable_once(loss, weighted):
    x, y = randn(5, 2).requires_grad_(), randn(5, 2)
    w = (weights(5), weights(5)) if weighted else ()
    assert torch.autograd.gradcheck(lambda x: loss(x, y, *w), (x,))
    (gradient,) = torch.autograd.grad(loss(x, y, *w), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated again"):
        gradient.sum().backward()


# -- slices ----------------------------------------------------------------------------------------------------------


def test_slices_repeat_with_a_generator():
    x, y = randn(6, 3), randn(5, 3)
    one, same, other = (barrow.sliced_wasserstein(x, y, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    first = barrow.sliced_wasserstein(x, y)
    torch.manual_seed(5)
    assert torch.equal(barrow.sliced_wasserstein(x, y), first)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_of_directions_change_nothing(monkeypatch, weighted):
    x, y = randn(2, 6, 3).requires_grad_(), randn(6, 3)
    a = weights(2, 6) if weighted else None
    whole = barrow.sliced_wasserstein(x, y, a, n_projections=10, generator=generator())
    (gradient,) = torch.autograd.grad(whole.sum(), x)
    monkeypatch.setattr("barrow.ops.chunks.ENTRIES", 3 * 2 * 12)
    pieces = barrow.sliced_wasserstein(x, y, a, n_projections=10, generator=generator())
    assert torch.allclose(pieces, whole, rtol=1e-12)
    assert torch.allclose(torch.autograd.grad(pieces.sum(), x)[0], gradient, rtol=1e-10)


@pytest.mark.parametrize("batch", [((), ()), ((2, 1), (3,)), ((2,), ())])
def test_slices_are_lines(batch):
    n, m, d, L = 6, 5, 3, 10
    x, y = (randn(*s, k, d).requires_grad_() for s, k in zip(batch, (n, m), strict=True))
    a, b = weights(*batch[0], n).requires_grad_(), weights(m).requires_grad_()
    w = torch.randn(d, L, generator=generator(1)).double()
    w = w / w.norm(dim=0)
    lines = [barrow.wasserstein_1d(x @ w[:, k], y @ w[:, k], a, b, p=3) ** 3 for k in range(L)]
    expected = (sum(lines) / L) ** (1 / 3)
    value = barrow.sliced_wasserstein(x, y, a, b, p=3, n_projections=L, generator=generator(1))
    assert torch.allclose(value, expected, rtol=1e-12)
    upstream = randn(*value.shape)
    for one, two in zip(
        torch.autograd.grad(value, (x, y, a, b), upstream),
        torch.autograd.grad(expected, (x, y, a, b), upstream),
        strict=True,
    ):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12)


def test_the_graph_of_slices_does_not_grow_with_their_number():
    x, y = randn(30, 3).requires_grad_(), randn(30, 3)
    kept = []

    def pack(t):
        kept.append(t.numel())
        return t

    for n_projections in (10, 1000):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            value = barrow.sliced_wasserstein(x, y, n_projections=n_projections)
        assert 0 < sum(kept) <= 10 * x.numel()
        kept.clear()
        seen, todo = 0, [value.grad_fn]
        while todo:
            node = todo.pop()
            seen += sum(t.numel() for t in getattr(node, "slopes", ()))
            todo += [above for above, _ in node.next_functions if above is not None]
        assert 0 < seen <= x.numel()


def test_a_projection_that_overflows_is_told():
    x = torch.full((5, 64), 3e38)
    assert_refuses("a projection of x or y overflows torch.float32", barrow.sliced_wasserstein, x, x)


def test_slices_are_lower_bounds_and_exact_on_a_line():
    x, y = randn(7, 3), randn(5, 3)
    assert barrow.sliced_wasserstein(x, y) <= barrow.wasserstein(x, y)
    u, v = randn(7, 1), randn(5, 1)
    assert torch.allclose(barrow.sliced_wasserstein(u, v), barrow.wasserstein(u, v), rtol=1e-6)


# -- histograms ------------------------------------------------------------------------------------------------------


def test_emd_1d_spacings():
    h, t, w = weights(3, 5), weights(5), rand(4)
    phi = (h - t).cumsum(-1)[..., :-1]
    for exponent in (1, 1.5, 2):
        assert torch.allclose(barrow.emd_1d(h, t, exponent), (phi.abs() ** exponent).sum(-1))
        assert torch.allclose(barrow.emd_1d(h, t, exponent, 2.5), 2.5 * (phi.abs() ** exponent).sum(-1))
        assert torch.allclose(barrow.emd_1d(h, t, exponent, w), (w * phi.abs() ** exponent).sum(-1))
    each = rand(3, 4)
    assert torch.allclose(barrow.emd_1d(h, t, 1, each), (each * phi.abs()).sum(-1))
    assert torch.allclose(barrow.emd_1d(h, t, 1, torch.tensor(2.0)), 2 * phi.abs().sum(-1))
    place = torch.cat((torch.zeros(1, dtype=F64), w.cumsum(0)))
    line = barrow.wasserstein_1d(place, place, h, t, p=1)
    assert torch.allclose(barrow.emd_1d(h, t, 1, w), line)
    assert barrow.emd_1d(weights(1), weights(1)) == 0


def test_histogram_gradients_as_often_as_you_like():
    h, t, w = weights(4).requires_grad_(), weights(4), rand(3).requires_grad_()

    def value(h, w):
        return barrow.emd_1d(h - (h.sum() - 1) / 4, t, 2, w)

    assert torch.autograd.gradcheck(value, (h, w))
    assert torch.autograd.gradgradcheck(value, (h, w))
    length = rand(6).requires_grad_()

    def on_a_tree(h, length):
        return barrow.tree_emd(h - (h.sum() - 1) / 4, t, Tree(TREE.parent, length), 2)

    assert torch.autograd.gradcheck(on_a_tree, (h, length))
    assert torch.autograd.gradgradcheck(on_a_tree, (h, length))


def test_tree_emd_is_transport_on_the_tree():
    h, t = weights(3, 4), weights(3, 4)
    tree = Tree(TREE.parent, rand(6))
    assert torch.allclose(barrow.tree_emd(h, t, tree), barrow.solve(Problem(tree, h, t)).value, rtol=1e-12)
    chain = Tree(torch.tensor([-1, 0, 0]), torch.tensor([0.0, 0.25, 0.75], dtype=F64))
    h, t = weights(2), weights(2)
    assert torch.allclose(barrow.tree_emd(h, t, chain), barrow.emd_1d(h, t))


@every_histogram
def test_the_tangent_keeps_the_value_and_projects_the_gradient(loss):
    h, t = weights(3, 4).requires_grad_(), weights(4)
    assert torch.equal(loss(barrow.tangent(h), t), loss(h, t))
    (plain,) = torch.autograd.grad(loss(h, t).sum(), h)
    (projected,) = torch.autograd.grad(loss(barrow.tangent(h), t).sum(), h)
    assert torch.allclose(projected, plain - plain.mean(-1, keepdim=True))


# -- complaints ------------------------------------------------------------------------------------------------------


def test_too_few_steps_warn_once_and_still_give_a_lower_bound():
    x, y = randn(40, 2), randn(40, 2)
    with pytest.warns(
        ConvergenceWarning, match=r"^Sinkhorn certified only truth in .* after 2 steps: max_steps"
    ) as seen:
        value = barrow.sinkhorn_cost(x, y, epsilon=1e-3, max_steps=2)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    exact = barrow.sinkhorn_cost(x, y, epsilon=1e-3, tol=1e-2)
    assert value <= exact * 1.02


def assert_refuses(words, call, *args, **options):
    with pytest.raises(ValueError, match=words) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)


@every_cloud
def test_bad_clouds(loss):
    x, y = randn(5, 2), randn(4, 2)
    for bad in (math.nan, math.inf):
        spoiled = x.clone()
        spoiled[2, 1] = bad
        assert_refuses("NaN or infinity", loss, spoiled, y)
        assert_refuses("NaN or infinity", loss, y, spoiled)
        a = weights(5)
        a[1] = bad
        assert_refuses("NaN or infinity", loss, x, y, a)
    a = weights(5)
    a[0] = -a[0]
    assert_refuses("weights must not be negative", loss, x, y, a)
    assert_refuses("different masses", loss, x, y, 2 * weights(5))
    assert_refuses("no mass", loss, x, y, torch.zeros(5, dtype=F64))
    assert_refuses("at least one point", loss, x[:0], y)
    assert_refuses("the last dimension must agree", loss, x, randn(4, 3))
    assert_refuses(r"use x\.unsqueeze\(-1\)", loss, randn(5), y)
    assert_refuses(r"expected shape \(\.\.\., 5\)", loss, x, y, weights(4))
    assert_refuses("must be floating point", loss, x.long(), y)
    assert_refuses("convert one with", loss, x, y.float())
    assert_refuses("convert one with", loss, x, y, weights(5).float())
    assert_refuses("x is a list", loss, [[0.0, 1.0]], y)
    assert_refuses("do not broadcast", loss, randn(2, 5, 2), randn(3, 4, 2))


@every_histogram
def test_bad_histograms(loss):
    h, t = weights(4), weights(4)
    for bad in (math.nan, math.inf):
        spoiled = h.clone()
        spoiled[1] = bad
        assert_refuses("NaN or infinity", loss, spoiled, t)
    assert_refuses("weights must not be negative", loss, torch.tensor([1.5, -0.5, 0, 0], dtype=F64), t)
    assert_refuses("different masses", loss, 2 * h, t)
    assert_refuses("no mass", loss, torch.zeros(4, dtype=F64), torch.zeros(4, dtype=F64))
    assert_refuses(r"^h has shape|^t has shape", loss, h[:3], t)
    assert_refuses(r"^h has shape|^t has shape", loss, h[:0], t[:0])
    assert_refuses("must be floating point", loss, h.long(), t)
    assert_refuses("has dtype", loss, h.float(), t)
    assert_refuses("do not broadcast", loss, weights(2, 4), weights(3, 4))


def test_bad_positions():
    u, v = randn(5), randn(4)
    spoiled = u.clone()
    spoiled[0] = math.nan
    assert_refuses("NaN or infinity", barrow.wasserstein_1d, spoiled, v)
    assert_refuses("positions must have shape", barrow.wasserstein_1d, u[:0], v)
    assert_refuses("positions must have shape", barrow.wasserstein_1d, torch.tensor(1.0, dtype=F64), v)
    assert_refuses("must be floating point", barrow.wasserstein_1d, u.long(), v)
    assert_refuses("different masses", barrow.wasserstein_1d, u, v, torch.ones(5, dtype=F64))
    assert_refuses(r"expected shape \(\.\.\., 5\)", barrow.wasserstein_1d, u, v, weights(4))


def test_the_mismatch_that_is_told_is_one():
    # The first pair differs by more, but only by rounding.
    a, b = 1e9 * weights(2, 4), 1e9 * weights(2, 4)
    a[1] *= 1e-9
    b[1] *= 1.5e-9
    assert_refuses(r"a sums to 1 but b sums to 1\.5:", barrow.wasserstein_1d, randn(4), randn(4), a, b)


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, None, "small", torch.ones(2)])
def test_bad_epsilon(epsilon):
    for loss in (barrow.sinkhorn_cost, barrow.sinkhorn_divergence):
        assert_refuses("^epsilon ", loss, randn(3, 2), randn(3, 2), epsilon=epsilon)
    assert_refuses("^epsilon ", barrow.label_wasserstein, weights(3), weights(3), rand(3, 3), epsilon=epsilon)


@pytest.mark.parametrize("rho", [0, -1, math.nan, (1, 2, 3), "inf"])
def test_bad_rho(rho):
    for loss in (barrow.sinkhorn_cost, barrow.sinkhorn_divergence):
        assert_refuses("^rho ", loss, randn(3, 2), randn(3, 2), epsilon=1, rho=rho)
    assert_refuses("^rho ", barrow.label_wasserstein, weights(3), weights(3), rand(3, 3), epsilon=1, rho=rho)


@pytest.mark.parametrize("p", [0.5, 0, -1, math.nan, math.inf, None])
def test_bad_exponents(p):
    x = randn(3, 2)
    for loss in (barrow.wasserstein, barrow.transport_cost, barrow.sliced_wasserstein):
        assert_refuses("^p is ", loss, x, x, p=p)
    assert_refuses("^p is ", barrow.sinkhorn_divergence, x, x, p=p, epsilon=1)
    assert_refuses("^p is ", barrow.wasserstein_1d, x[:, 0], x[:, 0], p=p)
    assert_refuses("^exponent is ", barrow.emd_1d, weights(3), weights(3), p)
    assert_refuses("^exponent is ", barrow.tree_emd, weights(4), weights(4), TREE, p)


def test_other_bad_options():
    x, h = randn(3, 2), weights(4)
    assert_refuses("^n_projections is 0", barrow.sliced_wasserstein, x, x, n_projections=0)
    assert_refuses("^n_projections is 2.5", barrow.sliced_wasserstein, x, x, n_projections=2.5)
    assert_refuses("^tol is 0", barrow.sinkhorn_cost, x, x, epsilon=1, tol=0)
    assert_refuses("^max_steps is 0", barrow.sinkhorn_cost, x, x, epsilon=1, max_steps=0)
    assert_refuses("^norm is 3", barrow.wasserstein, x, x, norm=3)
    assert_refuses("^tree is a Tensor", barrow.tree_emd, h, h, TREE.length)
    assert_refuses("the tree has 4 leaves", barrow.tree_emd, weights(3), weights(3), TREE)
    for spacing in (0, -1.0, math.nan, math.inf, "wide"):
        assert_refuses("^spacing is ", barrow.emd_1d, h, h, 1, spacing)
    assert_refuses("^spacing has shape", barrow.emd_1d, h, h, 1, rand(4))
    assert_refuses("^spacing contains -1", barrow.emd_1d, h, h, 1, torch.tensor([1.0, -1.0, 1.0], dtype=F64))
    assert_refuses("^spacing contains", barrow.emd_1d, h, h, 1, torch.tensor([1.0, math.nan, 1.0], dtype=F64))
    assert_refuses("^spacing contains", barrow.emd_1d, h, h, 1, torch.tensor([1.0, math.inf, 1.0], dtype=F64))
    assert_refuses("^C has shape", barrow.label_wasserstein, h, h, rand(4), epsilon=1)
