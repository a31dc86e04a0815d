"""What holds for every measure: symmetry, scaling, shift, permutation, mass, zero weights, batch = loop, gradients."""

import itertools
import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings

import barrow
from barrow import BadInput, ConvergenceWarning, Dense, Points, Problem, Sinkhorn, Tree
from problems import (
    F64,
    KINDS,
    backwards,
    check_gradient,
    cloud,
    dirichlet,
    lp_value,
    permutation,
    random_parents,
    seeds,
    small_chunks,
    small_entropic,
    tree_metric,
    tree_paths,
    tree_value,
    uniform,
)

INF = math.inf
TIGHT = {"tol": 1e-9, "max_steps": 20_000}


# Losses between weighted clouds, all tight enough to be compared: f(x, y, a, b, s) with cost units multiplied by s.
def _exact(p):
    return lambda x, y, a=None, b=None, s=1.0: barrow.transport_cost(x, y, a, b, p=p)


def _entropic(p, rho=INF):
    return lambda x, y, a=None, b=None, s=1.0: barrow.sinkhorn_cost(
        x, y, a, b, p=p, epsilon=0.5 * s, rho=rho if math.isinf(rho) else rho * s, **TIGHT
    )


def _divergence(p, rho=INF):
    return lambda x, y, a=None, b=None, s=1.0: barrow.sinkhorn_divergence(
        x, y, a, b, p=p, epsilon=0.5 * s, rho=rho if math.isinf(rho) else rho * s, **TIGHT
    )


CLOUD_LOSSES = {  # name: (loss, exponent)
    "transport_cost p=1": (_exact(1), 1),
    "transport_cost p=2": (_exact(2), 2),
    "transport_cost p=1.5": (_exact(1.5), 1.5),
    "sinkhorn_cost p=1": (_entropic(1), 1),
    "sinkhorn_cost p=2": (_entropic(2), 2),
    "sinkhorn_cost unbalanced": (_entropic(2, 1.0), 2),
    "divergence p=1": (_divergence(1), 1),
    "divergence p=2": (_divergence(2), 2),
    "divergence unbalanced": (_divergence(2, 1.0), 2),
    "sliced": (
        lambda x, y, a=None, b=None, s=1.0: barrow.sliced_wasserstein(
            x, y, a, b, p=2, n_projections=20, generator=torch.Generator().manual_seed(1)
        ).square(),
        2,
    ),
}
BALANCED = [name for name in CLOUD_LOSSES if "unbalanced" not in name]
losses = pytest.mark.parametrize("name", CLOUD_LOSSES)


def draw(seed=0, n=9, m=7, d=2, batch=()):
    x, y = cloud(*batch, n, d, seed=seed), cloud(*batch, m, d, seed=seed + 1) + 0.5
    return x, y, dirichlet(*batch, n, seed=seed), dirichlet(*batch, m, seed=seed + 1)


def assert_close(one, two, rtol=1e-7, atol=1e-9):
    assert torch.allclose(one, two, rtol=rtol, atol=atol), f"{one} is not {two}"


# -- invariances ------------------------------------------------------------------------------------------------------


@losses
def test_symmetry(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    assert_close(loss(x, y, a, b), loss(y, x, b, a))


@losses
@pytest.mark.parametrize("t", [1e-3, 7.0, 1e4])
def test_scaling_points_and_epsilon(name, t):
    loss, p = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    assert_close(loss(t * x, t * y, a, b, s=t**p), t**p * loss(x, y, a, b), atol=1e-8 * t**p)


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize("t", [1e-6, 1e6])
def test_scaling_costs_and_epsilon(epsilon, t):
    C, a, b = uniform(6, 8, seed=0), dirichlet(6, seed=0), dirichlet(8, seed=1)
    solver = Sinkhorn(tol=1e-9) if epsilon else None
    one = barrow.solve(Problem(Dense(C), a, b, epsilon=epsilon), solver)
    two = barrow.solve(Problem(Dense(t * C), a, b, epsilon=t * epsilon), solver)
    assert_close(t * one.value, two.value, rtol=1e-8, atol=0)
    assert_close(one.plan.dense(), two.plan.dense(), atol=1e-4 if epsilon else 1e-12)


@losses
def test_translation_of_both_clouds_changes_nothing(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    assert_close(loss(x + 1000, y + 1000, a, b), loss(x, y, a, b), rtol=1e-6 if name == "sliced" else 1e-8)
    # In float32 the coordinates themselves lose three digits: round them first, so that only the loss is judged.
    x, y = ((t * 128).round() / 128 for t in (x.float(), y.float()))
    near = loss(x, y, a.float(), b.float())
    far = loss(x + 1000, y + 1000, a.float(), b.float())
    assert_close(far, near, rtol=1e-4, atol=1e-4 if name == "sliced" else 1e-5)


@losses
def test_permutation(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    i, j = permutation(9, 3), permutation(7, 4)
    assert_close(loss(x[i], y[j], a[i], b[j]), loss(x, y, a, b))


@pytest.mark.parametrize("name", ["transport_cost p=1", "transport_cost p=2"])
def test_mass_scales_exact_cost(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    for t in (1e-3, 5.0):
        assert_close(loss(x, y, t * a, t * b), t * loss(x, y, a, b))


@pytest.mark.parametrize("t", [0.01, 5.0])
def test_mass_scales_entropic_cost(t):
    """KL(t P | t a x t b) = t KL(P | a x b) - t^2 ... : the closed form of what doubling both masses does."""
    x, y, a, b = draw()
    one = barrow.sinkhorn_cost(x, y, a, b, epsilon=0.5, **TIGHT)
    two = barrow.sinkhorn_cost(x, y, t * a, t * b, epsilon=0.5, **TIGHT)
    # t P against t^2 a x b: epsilon (t log(1 / t) - t + t^2) more than t times the old value.
    assert_close(two, t * one + 0.5 * (-t * math.log(t) - t + t * t))


@pytest.mark.parametrize("name", [n for n in CLOUD_LOSSES if n != "sliced"])
def test_isometries(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw(d=3)
    Q = torch.linalg.qr(cloud(3, 3, seed=5)).Q
    assert_close(loss(x @ Q, y @ Q, a, b), loss(x, y, a, b))


# -- zero weights ------------------------------------------------------------------------------------------------------


@losses
def test_zero_weights_are_atoms_removed(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    far = 50 * cloud(3, 2, seed=8)
    zero = torch.zeros(3, dtype=F64)
    more = [torch.cat(t).requires_grad_() for t in ((x, far), (far, y), (a, zero), (zero, b))]
    less = [t.clone().requires_grad_() for t in (x, y, a, b)]
    with_, without = loss(*more), loss(*less)
    assert_close(with_, without)
    with_.backward()
    without.backward()
    for full, part, keep in zip(more, less, (slice(9), slice(3, None), slice(9), slice(3, None)), strict=True):
        assert full.grad.isfinite().all()
        got, want = full.grad[keep], part.grad
        if want.dim() == 1 and "unbalanced" not in name:  # on measures of one mass the constant is free
            got, want = got - got.mean(), want - want.mean()
        assert_close(got, want, rtol=1e-3, atol=2e-4)
    assert (more[0].grad[9:].abs() <= 1e-13).all(), "an atom without mass is not moved"
    assert (more[1].grad[:3].abs() <= 1e-13).all()


@losses
def test_ragged_batches_padded_with_zero_weights(name):
    loss, _ = CLOUD_LOSSES[name]
    sizes = [(1, 6), (4, 1), (6, 5)]
    measures = [draw(seed=10 * k, n=n, m=m) for k, (n, m) in enumerate(sizes)]
    x, y, a, b = torch.zeros(3, 6, 2), torch.full((3, 6, 2), 9.0), torch.zeros(3, 6), torch.zeros(3, 6)
    x, y, a, b = (t.double() for t in (x, y, a, b))
    for k, ((n, m), (u, v, s, t)) in enumerate(zip(sizes, measures, strict=True)):
        x[k, :n], y[k, :m], a[k, :n], b[k, :m] = u, v, s, t
    padded = [t.requires_grad_() for t in (x, y, a, b)]
    value = loss(*padded)
    assert_close(value, torch.stack([loss(*one) for one in measures]))
    value.sum().backward()
    assert all(t.grad.isfinite().all() for t in padded)


def test_the_gradient_of_a_zero_weight_is_its_derivative():
    """dV/da at a_k = 0 is one-sided: adding a little mass there and taking it off elsewhere."""
    x, y, a, b = draw()
    a = torch.cat((a[:-1] / a[:-1].sum(), torch.zeros(1, dtype=F64)))
    for loss in (_exact(2), _entropic(2)):
        w = a.clone().requires_grad_()
        loss(x, y, w, b).backward()
        h = torch.zeros_like(a)
        h[-1], h[0] = 1e-6, -1e-6
        told = (w.grad * h).sum() / 1e-6
        seen = (loss(x, y, a + h, b) - loss(x, y, a, b)) / 1e-6
        assert_close(told, seen, rtol=1e-3, atol=1e-4)


# -- batches -----------------------------------------------------------------------------------------------------------


@losses
def test_batch_is_loop_with_gradients(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw(batch=(2, 3))
    x[1, 2] *= 20  # one hard problem among easy ones
    leaves = [t.requires_grad_() for t in (x, y, a, b)]
    value = loss(*leaves)
    assert value.shape == (2, 3)
    value.sum().backward()
    for i in range(2):
        for j in range(3):
            alone = [t[i, j].detach().clone().requires_grad_() for t in leaves]
            one = loss(*alone)
            assert_close(value[i, j], one, rtol=1e-8)
            one.backward()
            for t, u in zip(leaves, alone, strict=True):
                assert_close(t.grad[i, j], u.grad, rtol=1e-3, atol=1e-3 * float(u.grad.abs().max()))


def test_batch_is_loop_for_easy_and_hard_problems():
    hard = [backwards(k, epsilon=0.3) for k in range(3)]
    C = torch.stack([known.problem.cost.C * t for known, t in zip(hard, (1.0, 40.0, 0.01), strict=True)])
    a, b = (torch.stack([w(k.problem) for k in hard]) for w in (lambda q: q.a, lambda q: q.b))
    together = barrow.solve(Problem(Dense(C), a, b, epsilon=0.3), Sinkhorn(tol=1e-6))
    assert len(set(together.steps.tolist())) > 1, "each problem stops by itself"
    for k in range(3):
        alone = barrow.solve(Problem(Dense(C[k]), a[k], b[k], epsilon=0.3), Sinkhorn(tol=1e-6))
        assert_close(alone.value, together.value[k], rtol=2e-6)


def test_broadcast_clouds_share_their_gradient():
    x, _, _, _ = draw()
    many = cloud(4, 7, 2, seed=3)
    one = x.clone().requires_grad_()
    barrow.transport_cost(one, many).sum().backward()
    expected = torch.zeros_like(x)
    for k in range(4):
        z = x.clone().requires_grad_()
        barrow.transport_cost(z, many[k]).backward()
        expected += z.grad
    assert_close(one.grad, expected)


# -- sandwiches --------------------------------------------------------------------------------------------------------


@given(seeds)
@settings(max_examples=15)
def test_sliced_below_exact_below_tree(seed):
    """A star whose arms reach from a centre to each point dominates the distance; every slice is below it."""
    x, y, a, b = draw(seed=seed)
    z = torch.cat((x, y))
    radius = (z - z.mean(0)).norm(dim=-1)
    star = Tree(torch.tensor([-1] + [0] * len(z)), torch.cat((torch.zeros(1, dtype=F64), radius)))
    h, t = torch.cat((a, torch.zeros_like(b))), torch.cat((torch.zeros_like(a), b))
    exact = barrow.wasserstein(x, y, a, b, p=1)
    sliced = barrow.sliced_wasserstein(x, y, a, b, p=1, generator=torch.Generator().manual_seed(seed))
    assert sliced <= exact * (1 + 1e-12)
    assert exact <= barrow.tree_emd(h, t, star) * (1 + 1e-12)
    problem = Problem(Points(x, y, p=1), a, b)
    lower, upper = barrow.solve(problem).bounds
    truth = lp_value(problem)
    assert lower <= truth * (1 + 1e-9)
    assert upper >= truth * (1 - 1e-9)


def test_sliced_of_a_line_is_the_exact_distance():
    x, y, a, b = draw(d=1)
    sliced = barrow.sliced_wasserstein(x, y, a, b, p=2, n_projections=3)
    assert_close(sliced, barrow.wasserstein_1d(x[:, 0], y[:, 0], a, b, p=2))


def test_sliced_of_a_translation():
    """Every slice of a translation by t is |<t, w>|, so the mean of the squares tends to |t|^2 / d."""
    x, t = cloud(30, 4, seed=0), cloud(4, seed=1)
    g = torch.Generator().manual_seed(0)
    sliced = barrow.sliced_wasserstein(x, x + t, p=2, n_projections=20_000, generator=g)
    assert_close(sliced.square(), t.square().sum() / 4, rtol=0.03)


def test_sliced_repeats_with_a_generator_and_in_blocks(monkeypatch):
    x, y, a, b = draw(n=20, m=30)

    def run():
        return barrow.sliced_wasserstein(x, y, a, b, generator=torch.Generator().manual_seed(7))

    once = run()
    assert run() == once
    small_chunks(monkeypatch, 200)
    assert_close(run(), once, rtol=1e-12)


@given(seeds)
@settings(max_examples=15)
def test_triangle_inequality(seed):
    x, y, a, b = draw(seed=seed)
    z, c = cloud(6, 2, seed=seed + 2), dirichlet(6, seed=seed + 2)
    for p in (1, 1.5, 2, 4):
        xz = barrow.wasserstein(x, z, a, c, p=p)
        assert xz <= (barrow.wasserstein(x, y, a, b, p=p) + barrow.wasserstein(y, z, b, c, p=p)) * (1 + 1e-12)
        u, v, w = (t[:, 0] for t in (x, y, z))
        uw = barrow.wasserstein_1d(u, w, a, c, p=p)
        bound = barrow.wasserstein_1d(u, v, a, b, p=p) + barrow.wasserstein_1d(v, w, b, c, p=p)
        assert uw <= bound * (1 + 1e-12)


def test_wasserstein_grows_with_p_and_shrinks_with_the_norm():
    x, y, a, b = draw()
    by_p = [barrow.wasserstein(x, y, a, b, p=p) for p in (1, 1.5, 2, 3, 8)]
    assert sorted(by_p) == by_p
    by_norm = [barrow.wasserstein(x, y, a, b, p=1, norm=norm) for norm in (INF, 2, 1)]
    assert by_norm[0] < by_norm[1] < by_norm[2]


# -- known values of the named quantities -----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_wasserstein_is_the_root_of_the_cost(p):
    x, y, a, b = draw()
    assert_close(barrow.wasserstein(x, y, a, b, p=p).pow(p), barrow.transport_cost(x, y, a, b, p=p))


def test_wasserstein_1d_against_scipy():
    u, v, a, b = cloud(40, seed=0), cloud(30, seed=1), dirichlet(40, seed=0, zeros=4), dirichlet(30, seed=1)
    truth = scipy.stats.wasserstein_distance(u.numpy(), v.numpy(), a.numpy(), b.numpy())
    assert_close(barrow.wasserstein_1d(u, v, a, b, p=1), torch.tensor(truth, dtype=F64), rtol=1e-12)
    truth = scipy.stats.wasserstein_distance(u[:30].numpy(), v.numpy())
    assert_close(barrow.wasserstein_1d(u[:30], v, p=1), torch.tensor(truth, dtype=F64), rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 2.7])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_wasserstein_1d_is_the_exact_distance(p, batch):
    u, v = cloud(*batch, 12, seed=0), cloud(*batch, 9, seed=1)
    a, b = dirichlet(*batch, 12, seed=0, zeros=2), dirichlet(9, seed=1)
    want = barrow.wasserstein(u[..., None], v[..., None], a, b, p=p)
    assert_close(barrow.wasserstein_1d(u, v, a, b, p=p), want, rtol=1e-10)
    assert_close(barrow.wasserstein_1d(u, v, p=p), barrow.wasserstein(u[..., None], v[..., None], p=p), rtol=1e-10)
    assert want.shape == batch


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 2.0, 100.0])
def test_the_divergence_of_a_translation_is_exact_at_every_epsilon(epsilon):
    x, a, t = cloud(10, 3, seed=0), dirichlet(10, seed=0), cloud(3, seed=2)
    got = barrow.sinkhorn_divergence(x, x + t, a, a.clone(), epsilon=epsilon, tol=1e-7, max_steps=50_000)
    assert_close(got, t.square().sum(), rtol=1e-6)


@given(seeds)
@settings(max_examples=10)
def test_divergence_is_nonnegative_and_zero_for_equal_measures(seed):
    x, y, a, b = draw(seed=seed)
    for p in (1, 2):
        for rho in (INF, 0.7):
            options = {"epsilon": 1.0, "p": p, "rho": rho, "tol": 1e-8}
            assert barrow.sinkhorn_divergence(x, y, a, b, **options) > 0
            assert_close(
                barrow.sinkhorn_divergence(x, x.clone(), a, a.clone(), **options), torch.zeros((), dtype=F64), atol=1e-6
            )
            i = permutation(9, seed)
            assert_close(barrow.sinkhorn_divergence(x, x[i], a, a[i], **options), torch.zeros((), dtype=F64), atol=1e-6)
    heavy = barrow.sinkhorn_divergence(x, y, a, 2.5 * b, epsilon=0.3, rho=0.7, tol=1e-8)
    assert heavy > 0


def test_unbalanced_divergence_is_debiased_by_the_masses():
    """S = V(x, y) - V(x, x) / 2 - V(y, y) / 2 + epsilon / 2 (|a| - |b|)^2, each V solved by itself."""
    x, y, a, b = draw()
    b = 2 * b

    def V(x, y, a, b):
        return barrow.solve(Problem(Points(x, y), a, b, epsilon=0.4, rho=0.9), Sinkhorn(tol=1e-9)).value

    want = V(x, y, a, b) - V(x, x.clone(), a, a) / 2 - V(y, y.clone(), b, b) / 2 + 0.2 * (a.sum() - b.sum()) ** 2
    assert_close(barrow.sinkhorn_divergence(x, y, a, b, epsilon=0.4, rho=0.9, **TIGHT), want)


def test_sinkhorn_tends_to_exact_and_grows_with_epsilon():
    x, y, a, b = draw()
    exact = barrow.transport_cost(x, y, a, b)
    path = [
        barrow.sinkhorn_cost(x, y, a, b, epsilon=e, tol=1e-6, max_steps=100_000) for e in (0.01, 0.03, 0.1, 1.0, 10.0)
    ]
    # The value is certified to 1e-6 of itself.
    assert all(one <= two * (1 + 1e-6) for one, two in zip([exact, *path], path, strict=False))
    assert path[0] - exact <= 0.01 * math.log(63)
    assert path[0] - exact <= 0.05 * exact
    independent = (a[:, None] * b * (x[:, None] - y).square().sum(-1)).sum()
    assert path[-1] <= independent
    assert_close(path[-1], independent, rtol=0.2)


def test_unbalanced_tends_to_balanced_and_grows_with_rho():
    x, y, a, b = draw()
    path = [barrow.sinkhorn_cost(x, y, a, b, epsilon=0.3, rho=rho, **TIGHT) for rho in (0.01, 1.0, 100.0, 1e5, INF)]
    assert all(one <= two * (1 + 1e-8) for one, two in itertools.pairwise(path))
    assert_close(path[-2], path[-1], rtol=1e-4)
    pair = barrow.sinkhorn_cost(x, y, a, b, epsilon=0.3, rho=(1.0, INF), **TIGHT)
    assert path[1] <= pair <= path[-1]


# -- histograms: chains, trees, the elephant ---------------------------------------------------------------------------


def softmax_gradient(p, g):
    return p * (g - (p * g).sum())


ELEPHANT = Tree(torch.tensor([-1, 0, 0, 0, 3, 3]), torch.ones(6, dtype=F64))
H = torch.tensor([0.2, 0.4, 0.2, 0.2], dtype=F64)
T = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=F64)
EXACT = {"rtol": 0, "atol": 1e-15}


def tree_gradients(tree, exponent, h=H, t=T):
    """(loss, raw gradient, tangent gradient, gradient to logits)."""
    raw, projected = h.clone().requires_grad_(), h.clone().requires_grad_()
    loss = barrow.tree_emd(raw, t, tree, exponent)
    loss.backward()
    barrow.tree_emd(barrow.tangent(projected), t, tree, exponent).backward()
    logits = h.log().requires_grad_()
    barrow.tree_emd(logits.softmax(-1), t, tree, exponent).backward()
    return loss.detach(), raw.grad, projected.grad, logits.grad


@pytest.mark.parametrize(
    ("exponent", "loss", "tangent", "raw", "logits"),
    [
        (1, 0.9, [1.5, -0.5, -1.5, 0.5], [1.0, -1.0, -2.0, 0.0], [0.32, -0.16, -0.28, 0.12]),
        (2, 0.19, [0.5, -0.1, -0.7, 0.3], [0.4, -0.2, -0.8, 0.2], [0.104, -0.032, -0.136, 0.064]),
    ],
)
def test_elephant(exponent, loss, tangent, raw, logits):
    got = tree_gradients(ELEPHANT, exponent)
    for one, two in zip(got, (loss, raw, tangent, logits), strict=True):
        assert_close(one, torch.tensor(two, dtype=F64), **EXACT)
    # The rooted binary tree with root edges of one half has the same distances and the same projected gradient.
    halves = torch.tensor([0, 0.5, 0.5, 1, 1, 1, 1], dtype=F64)
    binary = Tree(torch.tensor([-1, 0, 0, 1, 1, 2, 2]), halves)
    assert_close(binary.dense(), ELEPHANT.dense(), **EXACT)
    again = tree_gradients(binary, exponent)
    assert_close(again[0], torch.tensor(loss, dtype=F64), **EXACT)
    assert_close(again[2], torch.tensor(tangent, dtype=F64), **EXACT)
    # Two root edges of length one are another tree.
    wrong = tree_gradients(Tree(torch.tensor([-1, 0, 0, 1, 1, 2, 2]), torch.ones(7, dtype=F64)), exponent)
    if exponent == 1:
        assert_close(wrong[2], torch.tensor([2.0, 0, -2, 0], dtype=F64), **EXACT)


def test_elephant_is_the_exact_distance_of_its_metric():
    assert_close(barrow.solve(Problem(ELEPHANT, H, T)).value, torch.tensor(0.9, dtype=F64), rtol=0, atol=1e-14)
    assert_close(lp_value(Problem(ELEPHANT, H, T)), torch.tensor(0.9, dtype=F64))


def test_elephant_is_reproduced_by_no_other_topology():
    chain = H.clone().requires_grad_()
    barrow.emd_1d(barrow.tangent(chain), T).backward()
    assert_close(chain.grad, torch.tensor([1.0, 0, -1, 0], dtype=F64), **EXACT)
    chain.grad = None
    barrow.emd_1d(barrow.tangent(chain), T, exponent=2).backward()
    assert_close(chain.grad, torch.tensor([0.3, -0.1, -0.3, 0.1], dtype=F64), **EXACT)
    star = Tree(torch.tensor([-1, 0, 0, 0, 0]), torch.ones(5, dtype=F64))
    assert_close(tree_gradients(star, 1)[2], torch.tensor([1.0, -1, -1, 1], dtype=F64), **EXACT)
    assert_close(tree_gradients(star, 2)[2], torch.tensor([0.4, -0.2, -0.6, 0.4], dtype=F64), **EXACT)


@pytest.mark.parametrize("exponent", [1, 2, 1.5])
def test_chain_gradients_in_all_conventions(exponent):
    h, t = dirichlet(8, seed=0), dirichlet(8, seed=1)
    w = uniform(7, seed=2)
    phi = [float((h - t)[: i + 1].sum()) for i in range(7)]
    s = [exponent * float(w[i]) * math.copysign(1, phi[i]) * abs(phi[i]) ** (exponent - 1) for i in range(7)]
    raw = torch.tensor([sum(s[k:]) for k in range(8)], dtype=F64)
    leaf = h.clone().requires_grad_()
    loss = barrow.emd_1d(leaf, t, exponent, spacing=w)
    loss.backward()
    assert_close(
        loss, torch.tensor(sum(float(w[i]) * abs(phi[i]) ** exponent for i in range(7)), dtype=F64), rtol=1e-12
    )
    assert_close(leaf.grad, raw, rtol=1e-12)
    projected = h.clone().requires_grad_()
    barrow.emd_1d(barrow.tangent(projected), t, exponent, spacing=w).backward()
    assert_close(projected.grad, raw - raw.mean(), rtol=1e-12)
    assert_close(projected.grad.sum(), torch.zeros((), dtype=F64), atol=1e-14)
    renormalised = (3 * h).clone().requires_grad_()
    barrow.emd_1d(renormalised / renormalised.sum(), t, exponent, spacing=w).backward()
    assert_close(renormalised.grad, (raw - (h * raw).sum()) / 3, rtol=1e-12, atol=1e-14)
    for convention in (raw, raw - raw.mean()):
        logits = h.log().requires_grad_()
        barrow.emd_1d(logits.softmax(-1), t, exponent, spacing=w).backward()
        assert_close(logits.grad, softmax_gradient(h, convention), rtol=1e-12, atol=1e-14)


def test_a_chain_is_a_path_is_a_line():
    h, t = dirichlet(5, 8, seed=0), dirichlet(5, 8, seed=1)
    w = uniform(7, seed=2)
    at = torch.cat((torch.zeros(1, dtype=F64), w.cumsum(0)))
    assert_close(barrow.emd_1d(h, t, spacing=w), barrow.wasserstein_1d(at, at, h, t, p=1), rtol=1e-12)
    assert barrow.emd_1d(h, t).shape == (5,)
    # A caterpillar: the bins hang by edges of length 0 from a path, rooted in its middle.
    parent = torch.tensor([1, 2, 3, -1, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 7])
    length = torch.cat((w[:3], torch.zeros(1, dtype=F64), w[3:], torch.zeros(8, dtype=F64)))
    for exponent in (1, 2):
        assert_close(
            barrow.tree_emd(h, t, Tree(parent, length), exponent), barrow.emd_1d(h, t, exponent, w), rtol=1e-12
        )
    assert_close(barrow.emd_1d(h, t, spacing=2.5), 2.5 * barrow.emd_1d(h, t), rtol=1e-12)


@pytest.mark.parametrize("exponent", [1, 2, 1.3])
def test_tree_emd_against_the_paths(exponent):
    parent, length = random_parents(40, 3), uniform(40, seed=3)
    leaves = len(tree_paths(parent.tolist())[0])
    h, t = dirichlet(leaves, seed=3), dirichlet(leaves, seed=4)
    want = torch.tensor(tree_value(parent, length, h, t, exponent), dtype=F64)
    assert_close(barrow.tree_emd(h, t, Tree(parent, length), exponent), want, rtol=1e-12)
    assert_close(Tree(parent, length).dense(), tree_metric(parent, length), rtol=1e-12)


# -- Frogner's loss, transcribed ---------------------------------------------------------------------------------------


def frogner(h, t, C, lam, gamma=None, steps=20_000):
    """Algorithm 1 of the paper, or its relaxation: (plan, its objective, its gradient to h)."""
    K = torch.exp(-lam * C - 1)
    u, v = torch.ones_like(h), torch.ones_like(t)
    power = 1.0 if gamma is None else gamma * lam / (1 + gamma * lam)
    for _ in range(steps):
        u = (h / (K @ v)) ** power
        v = (t / (K.T @ u)) ** power
    u = (h / (K @ v)) ** power
    P = u[:, None] * K * v
    value = (P * C).sum() + torch.xlogy(P, P).sum() / lam
    if gamma is None:
        gradient = u.log() / lam - u.log().sum() / (lam * len(u))
        return P, value, gradient
    for q, w in ((P.sum(1), h), (P.sum(0), t)):
        value = value + gamma * (torch.xlogy(q, q / torch.where(w > 0, w, 1)) - q + w).sum()
    return P, value, gamma * (1 - P.sum(1) / h)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("lam", [2.0, 10.0])
def test_frogner_balanced(lam, one_hot):
    h, t, C = dirichlet(6, seed=0), dirichlet(5, seed=1), uniform(6, 5, seed=2)
    if one_hot:
        t = torch.eye(5, dtype=F64)[2]
    P, value, gradient = frogner(h, t, C, lam, steps=2000)
    leaf, cost = h.clone().requires_grad_(), C.clone().requires_grad_()
    loss = barrow.label_wasserstein(leaf, t, cost, epsilon=1 / lam, tol=1e-10)
    assert_close(loss, value, rtol=1e-8)
    loss.backward()
    assert_close(cost.grad, P, rtol=1e-4, atol=1e-6)
    # V is homogeneous only up to the mass: on histograms of mass 1 the gradient is known up to a constant.
    assert_close(leaf.grad - leaf.grad.mean(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize(("lam", "gamma"), [(2.0, 1.0), (10.0, 0.3), (1.0, 20.0)])
def test_frogner_relaxed(lam, gamma, one_hot):
    h, t, C = dirichlet(6, seed=0), 1.7 * dirichlet(5, seed=1), uniform(6, 5, seed=2)
    if one_hot:
        t = torch.eye(5, dtype=F64)[2]
    P, value, gradient = frogner(h, t, C, lam, gamma)
    leaf, cost = h.clone().requires_grad_(), C.clone().requires_grad_()
    loss = barrow.label_wasserstein(leaf, t, cost, epsilon=1 / lam, rho=gamma, tol=1e-10)
    assert_close(loss, value, rtol=1e-8, atol=1e-8)
    loss.backward()
    assert_close(cost.grad, P, rtol=1e-4, atol=1e-6)
    assert_close(leaf.grad, gradient, rtol=1e-4, atol=1e-5)


def test_label_wasserstein_in_a_batch_through_a_softmax():
    logits = cloud(4, 6, seed=0).requires_grad_()
    t, C = dirichlet(4, 5, seed=1), uniform(6, 5, seed=2)
    loss = barrow.label_wasserstein(logits.softmax(-1), t, C, epsilon=0.2, tol=1e-9)
    assert loss.shape == (4,)
    loss.sum().backward()
    for k in range(4):
        p = logits[k].detach().softmax(-1)
        _, value, gradient = frogner(p, t[k], C, 5.0, steps=2000)
        assert_close(loss[k], value, rtol=1e-7)
        assert_close(logits.grad[k], softmax_gradient(p, gradient), rtol=1e-4, atol=1e-5)


# -- gradients ---------------------------------------------------------------------------------------------------------


def conserving(kinds):
    """Directions that keep the mass of the weights among the inputs."""
    return lambda d, k: d - d.mean(-1, keepdim=True) if kinds[k] == "w" else d


@losses
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_of_cloud_losses(name, batch):
    loss, _ = CLOUD_LOSSES[name]
    along = None if "unbalanced" in name else conserving("ppww")
    check_gradient(loss, list(draw(batch=batch)), h=1e-5 if "sinkhorn" not in name else 1e-4, tol=2e-5, along=along)


@pytest.mark.parametrize("p", [1, 1.5, 3])
@pytest.mark.parametrize("norm", [1, 2, INF])
def test_gradients_of_all_norms(p, norm):
    check_gradient(
        lambda x, y, a, b: barrow.wasserstein(x, y, a, b, p=p, norm=norm), list(draw(d=3)), along=conserving("ppww")
    )
    check_gradient(
        lambda x, y: barrow.sinkhorn_cost(x, y, p=p, norm=norm, epsilon=0.5, **TIGHT),
        list(draw(d=3)[:2]),
        h=1e-4,
        tol=2e-5,
    )


@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_gradients_on_the_line(p):
    u, v, a, b = cloud(9, seed=0), cloud(7, seed=1), dirichlet(9, seed=0), dirichlet(7, seed=1)
    check_gradient(lambda *z: barrow.wasserstein_1d(*z, p=p), [u, v, a, b], h=1e-6, along=conserving("ppww"))
    check_gradient(lambda u, v: barrow.wasserstein_1d(u, v[:7], p=p), [u[:7], v], h=1e-6)


@pytest.mark.parametrize("exponent", [1, 2, 1.5])
def test_gradients_of_histogram_losses(exponent):
    parent, length = random_parents(24, 5), uniform(24, seed=5)
    leaves = len(tree_paths(parent.tolist())[0])
    h, t = dirichlet(2, leaves, seed=5), dirichlet(2, leaves, seed=6)
    check_gradient(
        lambda h, t, w: barrow.tree_emd(h, t, Tree(parent, w), exponent),
        [h, t, length],
        h=1e-7,
        along=conserving("wwp"),
    )
    spacing = uniform(leaves - 1, seed=7)
    check_gradient(lambda h, t, w: barrow.emd_1d(h, t, exponent, w), [h, t, spacing], h=1e-7, along=conserving("wwp"))


def test_gradcheck_of_what_is_differentiable_throughout():
    h, t = (dirichlet(6, seed=k).requires_grad_() for k in (0, 1))
    logits = cloud(6, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: barrow.emd_1d(z.softmax(-1), t.detach(), 2), logits)
    assert torch.autograd.gradgradcheck(lambda z: barrow.emd_1d(z.softmax(-1), t.detach(), 2), logits)
    x, y, _, _ = draw(n=4, m=4)
    for p in (1, 2):
        assert torch.autograd.gradcheck(lambda x, p=p: barrow.transport_cost(x, y, p=p), x.clone().requires_grad_())
        # Each certified value is a little below the truth, by 1e-12 of itself: no matter for differences of 1e-6.
        assert torch.autograd.gradcheck(
            lambda x, p=p: barrow.sinkhorn_cost(x, y, p=p, epsilon=1.0, tol=1e-12),
            x.clone().requires_grad_(),
            atol=1e-4,
        )
    C = uniform(4, 5, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda C: barrow.solve(Problem(Dense(C))).value, C)
    assert h.grad is None


FAMILY = {
    "balanced": {},
    "unbalanced": {"rho": (1.0, 1.0)},
    "lopsided": {"rho": (0.5, 4.0), "mass": 2.0},
    "semi-relaxed left": {"rho": (1.0, INF)},
    "semi-relaxed right": {"rho": (INF, 1.0)},
    "strong entropy": {"epsilon": 30.0, "rho": (1.0, 1.0)},
}


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("member", FAMILY)
def test_gradients_of_the_whole_family_to_costs_weights_and_reference(member, reference):
    known = backwards(0, n=4, m=5, reference=reference, **FAMILY[member])
    q = known.problem

    def value(C, a, b, *rs):
        problem = Problem(Dense(C), a, b, epsilon=q.epsilon, rho=q.rho, reference=rs or None)
        return barrow.solve(problem, Sinkhorn(tol=1e-12, max_steps=50_000)).value

    def along(d, k):
        # Hard sides: both masses change together, or not at all.
        return d if k == 0 or k > 2 or math.isinf(max(q.rho)) is False else d - d.mean(-1, keepdim=True)

    inputs = [q.cost.C, q.a, q.b, *(q.reference or ())]
    check_gradient(value, inputs, h=1e-4, tol=1e-5, along=along)


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 100.0])
def test_the_unbalanced_gradient_factor_is_rho_plus_epsilon(epsilon):
    """One atom each: P = (a b)^((rho + epsilon) / (2 rho + epsilon)) ..., whose derivatives are written out.

    A library that forgets the entropy of the reference in dV/da is off by epsilon / (2 (rho + epsilon)).
    """
    rho, c = 1.0, 0.3
    a, b = (torch.tensor([w], dtype=F64, requires_grad=True) for w in (0.8, 1.7))
    C = torch.tensor([[c]], dtype=F64)
    value = barrow.solve(Problem(Dense(C), a, b, epsilon=epsilon, rho=rho), Sinkhorn(tol=1e-12)).value
    value.backward()
    A, B = 0.8, 1.7
    # Stationarity in P: c + epsilon log(P / (A B)) + rho log(P / A) + rho log(P / B) = 0.
    P = math.exp((-c + (epsilon + rho) * math.log(A * B)) / (2 * rho + epsilon))
    for w, got in ((A, a.grad), (B, b.grad)):
        want = rho * (1 - P / w) - epsilon * (P / w - A * B / w)
        assert_close(got, torch.tensor([want], dtype=F64), rtol=1e-5)
    truth = (
        c * P
        + epsilon * (P * math.log(P / (A * B)) - P + A * B)
        + rho * (P * math.log(P / A) - P + A)
        + rho * (P * math.log(P / B) - P + B)
    )
    assert_close(value, torch.tensor(truth, dtype=F64))


@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_unbalanced_divergence_gradients_with_a_strong_entropy(rho):
    """epsilon much larger than rho, where a wrong factor is wrong by two."""
    x, y, a, b = draw(n=5, m=4)
    check_gradient(
        lambda *z: barrow.sinkhorn_divergence(*z, epsilon=10.0, rho=rho, tol=1e-11), [x, y, a, 2 * b], h=1e-3, tol=1e-4
    )


@losses
def test_composed_losses(name):
    """The gradient of phi(loss) is phi'(loss) times that of the loss: no factor is forgotten or doubled."""
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw(batch=(2,))
    plain = x.clone().requires_grad_()
    value = loss(plain, y, a, b)
    value.sum().backward()
    for phi, slope in (
        (lambda v: 3.5 * v, lambda v: torch.full_like(v, 3.5)),
        (lambda v: v.square(), lambda v: 2 * v),
        (
            lambda v: (-v).exp() * torch.tensor([1.0, -2.0], dtype=F64),
            lambda v: -(-v).exp() * torch.tensor([1.0, -2.0]),
        ),
    ):
        leaf = x.clone().requires_grad_()
        phi(loss(leaf, y, a, b)).sum().backward()
        factor = slope(value.detach()).double()[:, None, None]
        assert_close(leaf.grad, factor * plain.grad, rtol=1e-9, atol=1e-12)
    both = x.clone().requires_grad_()
    (loss(both, y, a, b) * loss(both, y, a, b)).sum().backward()
    assert_close(both.grad, 2 * value.detach()[:, None, None] * plain.grad, rtol=1e-9, atol=1e-12)


def test_the_same_tensor_twice():
    """Gradients add up where one tensor is used on both sides."""
    x, _, a, _ = draw()
    shift = torch.tensor([1.0, 2.0], dtype=F64)
    leaf = x.clone().requires_grad_()
    barrow.transport_cost(leaf, leaf + shift, a, a).backward()
    assert_close(leaf.grad, torch.zeros_like(leaf), atol=1e-12)
    leaf = x.clone().requires_grad_()
    barrow.transport_cost(leaf, 2 * leaf, a, a).backward()
    assert_close(leaf.grad, 2 * a[:, None] * x, rtol=1e-9)
    leaf = x.clone().requires_grad_()
    barrow.sinkhorn_cost(leaf, leaf, a, a, epsilon=0.3, **TIGHT).backward()
    other = x.clone().requires_grad_()
    barrow.sinkhorn_cost(other, other.clone(), a, a.clone(), epsilon=0.3, **TIGHT).backward()
    assert_close(leaf.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_gradients_to_a_weight_used_on_both_sides():
    x, y, a, _ = draw(n=6, m=6)
    w = a[:6] / a[:6].sum()
    for loss in (_entropic(2), _divergence(2), _exact(2)):
        check_gradient(lambda w, loss=loss: loss(x, y, w, w), [w], along=conserving("w"), h=1e-5, tol=1e-4)


@losses
def test_double_backward_is_refused_in_words(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    for wrap in (lambda v: v, lambda v: v.square()):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(wrap(loss(leaf, y, a, b)), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated again"):
            gradient.square().sum().backward()
        with pytest.raises(RuntimeError, match="differentiated again"):
            torch.autograd.functional.hessian(lambda x, wrap=wrap: wrap(loss(x, y, a, b)), leaf)


def test_no_gradient_where_none_is_needed():
    x, y, a, b = draw()
    assert not barrow.transport_cost(x, y, a, b).requires_grad
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert not barrow.sinkhorn_divergence(leaf, y, a, b, epsilon=0.1).requires_grad
    s = barrow.solve(Problem(Points(leaf, y), a, b))
    assert s.value.requires_grad
    assert not any(t.requires_grad for t in (s.f, s.g, s.bounds.lower, s.bounds.upper, s.plan.dense()))


# -- kinks -------------------------------------------------------------------------------------------------------------


@losses
def test_duplicate_and_coinciding_points_have_finite_subgradients(name):
    loss, p = CLOUD_LOSSES[name]
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]], dtype=F64)
    for y in (x.clone(), x[:3].clone(), torch.zeros(2, 2, dtype=F64)):
        u, v = x.clone().requires_grad_(), y.requires_grad_()
        loss(u, v).backward()
        assert u.grad.isfinite().all()
        assert v.grad.isfinite().all()
        bound = 2 * max(1.0, p) * max(1.0, 2 ** (p / 2)) + 1e-9
        assert u.grad.norm(dim=-1).sum() <= 2 * bound, "no subgradient is longer than the slope of the cost"


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_the_root_at_zero_has_gradient_zero(p):
    x, _, a, _ = draw()
    for loss in (
        lambda z: barrow.wasserstein(z, x, a, a, p=p),
        lambda z: barrow.wasserstein_1d(z[:, 0], x[:, 0], a, a, p=p),
        lambda z: barrow.sliced_wasserstein(z, x, a, a, p=p),
    ):
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        assert_close(value, torch.zeros_like(value), atol=1e-6)
        assert leaf.grad.isfinite().all()


# -- precision ---------------------------------------------------------------------------------------------------------


@losses
def test_single_precision_against_double(name):
    loss, _ = CLOUD_LOSSES[name]
    full = [t.requires_grad_() for t in draw(batch=(3,))]
    single = [t.detach().float().requires_grad_() for t in full]
    one, two = loss(*full), loss(*single)
    assert two.dtype == torch.float32
    assert_close(two.double(), one, rtol=2e-5, atol=2e-5)
    one.sum().backward()
    two.sum().backward()
    for t, u in zip(full[:2], single[:2], strict=True):
        assert u.grad.dtype == torch.float32
        assert_close(u.grad.double(), t.grad, rtol=1e-3, atol=1e-3)


@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_and_out(name, dtype):
    loss, _ = CLOUD_LOSSES[name]
    x, y, _, _ = (t.to(dtype) for t in draw())
    leaf = x.clone().requires_grad_()
    value = loss(leaf, y)
    assert value.dtype == dtype
    value.backward()
    assert leaf.grad.dtype == dtype
    assert leaf.grad.isfinite().all()
    want = loss(x.double(), y.double())
    assert_close(value.double(), want, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_histograms_in_low_precision(dtype):
    h, t = dirichlet(50, seed=0), dirichlet(50, seed=1)
    low_h, low_t = torch.full((50,), 1 / 64).to(dtype), torch.full((50,), 1 / 64).flip(0).to(dtype)
    low_h[0] += 0.5
    low_t[-1] += 0.5
    assert_close(barrow.emd_1d(low_h, low_t).double(), torch.tensor(24.5, dtype=F64), rtol=0.01)
    if dtype == torch.float32:
        assert_close(barrow.emd_1d(h.float(), t.float()).double(), barrow.emd_1d(h, t), rtol=1e-5)


# -- complaints --------------------------------------------------------------------------------------------------------


def test_a_loss_that_does_not_converge_warns_once_and_is_still_a_lower_bound():
    x, y, a, b = draw()
    with pytest.warns(ConvergenceWarning, match="certified only truth in") as caught:
        value = barrow.sinkhorn_cost(x, y, a, b, epsilon=1e-3, tol=1e-9, max_steps=12)
    assert len(caught) == 1
    assert value <= barrow.sinkhorn_cost(x, y, a, b, epsilon=1e-3, tol=1e-4, max_steps=100_000) * (1 + 1e-4)


@pytest.mark.parametrize("name", BALANCED)
def test_bad_values_are_refused(name):
    loss, _ = CLOUD_LOSSES[name]
    x, y, a, b = draw()
    bad = x.clone()
    bad[3, 1] = torch.nan
    for arguments in ((bad, y, a, b), (x, y, -a, b), (x, y, 2 * a, b), (x, y, a, 0 * b)):
        with pytest.raises(BadInput):
            loss(*arguments)


@given(small_entropic())
@settings(max_examples=15)
def test_the_value_of_the_whole_family_is_symmetric_in_its_sides(known):
    q = known.problem
    reference = None if q.reference is None else q.reference[::-1]
    swapped = Problem(Dense(q.cost.C.mT), q.b, q.a, epsilon=q.epsilon, rho=q.rho[::-1], reference=reference)
    value = barrow.solve(swapped, Sinkhorn(tol=1e-8)).value
    scale = float(q.cost.C.abs().max() + q.epsilon) * float(q.a.sum() + q.b.sum())
    assert_close(value, known.value, rtol=1e-7, atol=1e-8 * scale)


def test_every_kind_has_a_value_of_the_shape_of_its_batch():
    for draw_kind in KINDS.values():
        known = draw_kind(4)
        assert known.value.shape == known.problem.batch_shape
        assert known.value.dtype == F64


def gaussian_on_a_grid(side, mean, covariance):
    """Points and weights: the rule of equal weights is exact for densities as smooth as these, to rounding."""
    axes = torch.meshgrid(*(side for _ in mean), indexing="ij")
    z = torch.stack([t.flatten() for t in axes], -1)
    density = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z).exp()
    keep = density > 1e-16 * density.max()
    return z[keep], density[keep] / density[keep].sum()


def root(S):
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.sqrt()) @ vectors.mT


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0, 50.0])
@pytest.mark.parametrize("d", [1, 2])
def test_gaussians_with_entropy(d, epsilon):
    """Janati, Muzellec, Peyre and Cuturi 2020, theorem 1, with sigma^2 = epsilon / 2."""
    side = torch.linspace(-4, 4, 401 if d == 1 else 33, dtype=F64)
    A = torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=F64)[:d, :d]
    B = torch.tensor([[0.3, -0.1], [-0.1, 0.6]], dtype=F64)[:d, :d]
    mean = torch.tensor([0.4, -0.2], dtype=F64)[:d]
    (x, a), (y, b) = gaussian_on_a_grid(side, torch.zeros_like(mean), A), gaussian_on_a_grid(side, mean, B)
    half, s = root(A), epsilon / 2
    D = root(4 * half @ B @ half + s**2 * torch.eye(d, dtype=F64))
    known = mean.square().sum() + (A + B - D).trace() + d * s * (1 - math.log(epsilon))
    known = known + s * torch.logdet(D + s * torch.eye(d, dtype=F64))
    s = barrow.solve(barrow.Problem(barrow.Points(x, y), a, b, epsilon=epsilon), barrow.Sinkhorn(tol=1e-5))
    assert s.bounds.lower - 1e-5 <= known <= s.bounds.upper + 1e-5
    assert abs(s.value - known) <= 2e-5 * known.abs().clamp_min(1)
