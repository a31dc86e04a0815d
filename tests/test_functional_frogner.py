"""label_wasserstein against the paper: the regularised value, its gradient, both of its fixed points."""

import math

import pytest
import torch

from barrow import emd_1d, label_wasserstein
from problems import F64, check_gradient, dirichlet, uniform


def balanced(h, t, C, lam, sweeps=5000):
    """Algorithm 1: u = h / (K (t / K' u)), K = exp(-lambda M - 1); the plan and u."""
    K = torch.exp(-lam * C - 1)
    u = torch.ones_like(h)
    for _ in range(sweeps):
        u = h / ((t / (u @ K)) @ K.mT)
    v = t / (u @ K)
    return u[..., None] * K * v[..., None, :], u


def relaxed(h, t, C, lam, gamma, sweeps=5000):
    """The generalised scaling: u = (h / K v)^(gamma lambda / (1 + gamma lambda)), and v likewise."""
    K, power = torch.exp(-lam * C - 1), gamma * lam / (1 + gamma * lam)
    u, v = torch.ones_like(h), torch.ones_like(t)
    for _ in range(sweeps):
        u = (h / (v @ K.mT)) ** power
        v = (t / (u @ K)) ** power
    return u[..., None] * K * v[..., None, :]


def entropy(T):
    return -torch.xlogy(T, T).sum((-2, -1))


def penalty(w, z):
    """The generalised KL, w' log(w / z) - 1' w + 1' z."""
    return (torch.xlogy(w, w / z) - w + z).sum(-1)


def drawn(batch=3, K=6, L=5):
    return dirichlet(batch, K, seed=0), dirichlet(batch, L, seed=1), uniform(K, L, seed=2)


@pytest.mark.parametrize("lam", [1.0, 10.0, 50.0])
def test_the_balanced_value_is_the_regularised_one(lam):
    h, t, C = drawn()
    T, _ = balanced(h, t, C, lam)
    expected = (T * C).sum((-2, -1)) - entropy(T) / lam
    assert torch.allclose(label_wasserstein(h, t, C, epsilon=1 / lam, tol=1e-10), expected, atol=1e-9)


@pytest.mark.parametrize("lam", [1.0, 10.0, 50.0])
def test_the_balanced_gradient_is_log_u_without_its_mean(lam):
    h, t, C = drawn()
    _, u = balanced(h, t, C, lam)
    told = u.log() / lam - u.log().mean(-1, keepdim=True) / lam
    leaf = h.clone().requires_grad_()
    (slope,) = torch.autograd.grad(label_wasserstein(leaf, t, C, epsilon=1 / lam, tol=1e-10).sum(), leaf)
    assert torch.allclose(slope - slope.mean(-1, keepdim=True), told, atol=1e-6)
    # Through a softmax the mean is nothing.
    z = h.log().requires_grad_()
    loss = label_wasserstein(torch.softmax(z, -1), t, C, epsilon=1 / lam, tol=1e-10)
    (to_logits,) = torch.autograd.grad(loss.sum(), z)
    assert torch.allclose(to_logits, h * (told - (h * told).sum(-1, keepdim=True)), atol=1e-6)


@pytest.mark.parametrize(("lam", "gamma"), [(10.0, 0.1), (10.0, 1.0), (2.0, 5.0), (50.0, 0.02)])
@pytest.mark.parametrize("mass", [1.0, 0.3])
def test_the_relaxed_value_and_gradient(lam, gamma, mass):
    h, t, C = drawn()
    h = mass * h  # the two masses need not agree
    T = relaxed(h, t, C, lam, gamma)
    q, s = T.sum(-1), T.sum(-2)
    expected = (T * C).sum((-2, -1)) - entropy(T) / lam + gamma * (penalty(q, h) + penalty(s, t))
    leaves = [w.clone().requires_grad_() for w in (h, t, C)]
    value = label_wasserstein(*leaves, epsilon=1 / lam, rho=gamma, tol=1e-11)
    assert torch.allclose(value, expected, atol=1e-9)
    to_h, to_t, to_C = torch.autograd.grad(value.sum(), leaves)
    assert torch.allclose(to_h, gamma * (1 - q / h), atol=1e-5)
    assert torch.allclose(to_t, gamma * (1 - s / t), atol=1e-5)
    assert torch.allclose(to_C, T.sum(0), atol=1e-5)


@pytest.mark.parametrize("rho", [math.inf, 0.5, (0.5, math.inf), (math.inf, 2.0)])
def test_finite_differences(rho):
    h, t, C = drawn(batch=2)
    h, t = (0.9 * w + 0.1 / w.shape[-1] for w in (h, t))
    hard = [rho == math.inf or (isinstance(rho, tuple) and rho[k] == math.inf) for k in (0, 1)]

    def along(d, k):
        return d - d.mean(-1, keepdim=True) if k < 2 and hard[k] else d

    check_gradient(lambda *w: label_wasserstein(*w, epsilon=0.1, rho=rho, tol=1e-12), [h, t, C], tol=1e-5, along=along)


def test_a_hard_penalty_is_the_limit():
    h, t, C = drawn()
    hard = label_wasserstein(h, t, C, epsilon=0.1, tol=1e-9)
    soft = label_wasserstein(h, t, C, epsilon=0.1, rho=1e5, tol=1e-9)
    assert torch.allclose(hard, soft, atol=1e-4)


def test_one_hot_targets_have_a_closed_form():
    # All mass goes to one class: T is its column, and the value sum_i h_i C_ik + epsilon sum h log h.
    h, _, C = drawn()
    t = torch.nn.functional.one_hot(torch.tensor([0, 4, 2]), 5).to(F64)
    expected = (h * C[:, [0, 4, 2]].mT).sum(-1) + 0.1 * torch.xlogy(h, h).sum(-1)
    leaf = h.clone().requires_grad_()
    value = label_wasserstein(leaf, t, C, epsilon=0.1, tol=1e-9)
    assert torch.allclose(value, expected, atol=1e-9)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    told = C[:, [0, 4, 2]].mT + 0.1 * h.log()
    assert torch.allclose(slope - slope.mean(-1, keepdim=True), told - told.mean(-1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 1.0])
def test_the_best_prediction_is_a_blurred_target(epsilon):
    """h = softmax(-C / epsilon) t: the slope along each direction of constant mass is 0 there, and it is the least."""
    _, t, C = drawn()
    best = ((-C / epsilon).softmax(-2) @ t[..., None])[..., 0]
    h = best.clone().requires_grad_()
    value = label_wasserstein(h, t, C, epsilon=epsilon, tol=1e-11)
    (slope,) = torch.autograd.grad(value.sum(), h)
    assert torch.allclose(slope - slope.mean(-1, keepdim=True), torch.zeros_like(slope), atol=1e-5)
    for other in dirichlet(3, 6, seed=5):
        assert (label_wasserstein(0.9 * best + 0.1 * other, t, C, epsilon=epsilon, tol=1e-11) > value).all()


def line(K=5):
    z = torch.linspace(0, 1, K, dtype=F64)
    return (z[:, None] - z).abs()


def test_a_small_epsilon_or_the_closed_form_keeps_the_target():
    """Blur vanishes with epsilon, as exp(-cost / epsilon); EMD on the line is 0 at the target, positive beside it."""
    t, C = dirichlet(1, 5, seed=3)[0], line()
    apart = [float(((-C / epsilon).softmax(-2) @ t - t).abs().sum()) for epsilon in (1.0, 0.1, 0.02)]
    assert apart[0] > 0.3
    assert apart[1] > 0.05
    assert apart[2] < 1e-4
    for exponent in (1, 2):
        assert emd_1d(t, t, exponent) == 0
        assert (emd_1d(dirichlet(3, 5, seed=4), t.expand(3, -1), exponent) > 0).all()


def test_for_one_class_the_entropy_is_what_lets_a_softmax_learn_again():
    """The exact loss is linear: a softmax sinks into a corner, from which it needs as long as it took to get there."""
    C, first, last = line(), torch.tensor(0), torch.tensor(4)
    x, y = dirichlet(2, 5, seed=2)
    exact = lambda h, k: (h * C[:, k]).sum(-1)  # noqa: E731
    assert exact(0.3 * x + 0.7 * y, first) == pytest.approx(float(0.3 * exact(x, first) + 0.7 * exact(y, first)))
    assert exact(x, first) == pytest.approx(float(label_wasserstein(x, first, C, epsilon=1e-9)), abs=1e-8)
    assert exact(x, first) == pytest.approx(float(emd_1d(x, first, spacing=0.25)))

    def learn(loss):
        """500 steps towards the first class; the size of the gradient for the last, and the steps until that leads."""
        z = torch.zeros(5, dtype=F64)
        slopes, steps = [], 0
        while steps < 500 or z.argmax() != last:
            z.requires_grad_()
            (slope,) = torch.autograd.grad(loss(z.softmax(-1), first if steps < 500 else last), z)
            slopes.append(float(slope.norm()))
            z, steps = z.detach() - slope, steps + 1
        return slopes[500], steps - 500

    slope, steps = learn(exact)
    assert slope < 0.003
    assert steps > 490
    slope, steps = learn(lambda h, k: label_wasserstein(h, k, C, epsilon=0.3))
    assert slope > 0.1
    assert steps < 100
    assert learn(lambda h, k: emd_1d(h, k, 1, spacing=0.25))[1] > 490
    assert learn(lambda h, k: emd_1d(h, k, 2, spacing=0.25))[1] < 100


def test_thousands_of_histograms_in_one_call():
    h, t, C = dirichlet(3000, 10, seed=0).float(), dirichlet(3000, 10, seed=1).float(), uniform(10, 10, seed=2).float()
    h.requires_grad_()
    values = label_wasserstein(h, t, C, epsilon=0.02)
    assert values.shape == (3000,)
    (slopes,) = torch.autograd.grad(values.sum(), h)
    assert slopes.isfinite().all()
    for k in (0, 1500, 2999):
        alone = label_wasserstein(h.detach()[k], t[k], C, epsilon=0.02)
        assert torch.allclose(values.detach()[k], alone, atol=1e-4)


@pytest.mark.parametrize("rho", [math.inf, 1.0])
def test_many_classes_in_single_precision(rho):
    # A reference that makes the generalised KL the plain entropy adds epsilon K L / e to the value: 600 here.
    h, t, C = dirichlet(2, 300, seed=0), dirichlet(2, 300, seed=1), uniform(300, 300, seed=2)
    exact = label_wasserstein(h, t, C, epsilon=0.02, rho=rho, tol=1e-8)
    single = label_wasserstein(h.float(), t.float(), C.float(), epsilon=0.02, rho=rho, tol=1e-6)
    assert torch.allclose(single.double(), exact, atol=2e-6)
    rough = label_wasserstein(h, t, C, epsilon=0.02, rho=rho, tol=1e-3)
    assert ((exact - rough).abs() <= 1e-3 * (exact.abs() + 0.5)).all()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_class_indices_have_one_plan(batched, dtype):
    generator = torch.Generator().manual_seed(0)
    C = torch.rand(*([3] if batched else []), 5, 4, dtype=F64, generator=generator).requires_grad_()
    z = torch.randn(3, 5, dtype=F64, generator=generator).requires_grad_()
    t = torch.tensor([0, 3, 2])
    one_hot = torch.nn.functional.one_hot(t, 4).to(F64)
    direct = label_wasserstein(z.softmax(-1), t.to(dtype), C, epsilon=0.3)
    solved = label_wasserstein(z.softmax(-1), one_hot, C, epsilon=0.3, tol=1e-12)
    assert torch.allclose(direct, solved, atol=1e-11)
    for one, two in zip(
        torch.autograd.grad(direct.sum(), (z, C)), torch.autograd.grad(solved.sum(), (z, C)), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-9)
    h = z.detach().softmax(-1)
    relaxed = label_wasserstein(h, t.to(dtype), C.detach(), epsilon=0.3, rho=1.0)
    assert torch.equal(relaxed, label_wasserstein(h, one_hot, C.detach(), epsilon=0.3, rho=1.0))


def test_class_indices_that_are_none():
    h, C = torch.full((2, 3), 1 / 3), 1 - torch.eye(3)
    with pytest.raises(ValueError, match=r"t contains the class index 3, but the columns of C are 0 to 2"):
        label_wasserstein(h, torch.tensor([0, 3]), C, epsilon=0.1)
    with pytest.raises(ValueError, match=r"t has shape \(2, 3\) and dtype torch.int64.*expected shape \(2,\)"):
        label_wasserstein(h, torch.ones(2, 3).long(), C, epsilon=0.1)
    with pytest.raises(ValueError, match=r"h sums to 2.* but t sums to 1"):
        label_wasserstein(2 * h, torch.tensor([0, 1]), C, epsilon=0.1)
    with pytest.raises(ValueError, match="h contains a value that is not finite"):
        label_wasserstein(h * torch.nan, torch.tensor([0, 1]), C, epsilon=0.1)
