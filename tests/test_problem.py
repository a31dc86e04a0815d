"""The one equation: what is asked, and both of its objectives."""

import math

import pytest
import torch

from barrow import Dense, Points, Problem, Tree
from barrow.problem import log_ratio, marginal_dual, marginal_penalty, marginal_slope, step

F64 = torch.float64
x, y = torch.randn(5, 2), torch.randn(4, 2)
cost = Points(x, y)


def test_defaults():
    problem = Problem(cost)
    assert torch.equal(problem.a, torch.full((5,), 1 / 5))
    assert torch.equal(problem.b, torch.full((4,), 1 / 4))
    assert (problem.epsilon, problem.rho, problem.reference) == (0.0, (math.inf, math.inf), None)
    assert problem.balanced
    assert problem.shape == (5, 4)
    assert problem.batch_shape == ()
    assert problem.dtype == torch.float32
    assert problem.measures == (problem.a, problem.b)


def test_rho_is_one_number_or_two():
    assert Problem(cost, epsilon=1, rho=2).rho == (2.0, 2.0)
    semi = Problem(cost, epsilon=1, rho=(math.inf, torch.tensor(3.0)))
    assert semi.rho == (math.inf, 3.0)
    assert not semi.balanced
    assert Problem(cost, rho=[math.inf, math.inf]).balanced


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"a": torch.ones(4)}, r"a has shape \(4,\), but there are 5 atoms on that side: expected shape \(..., 5\)"),
        ({"b": torch.ones(3, 5)}, r"b has shape \(3, 5\), but there are 4 atoms on that side"),
        ({"a": torch.ones(5).double()}, r"the cost's data has dtype torch.float32 but a has dtype torch.float64"),
        ({"a": [0.2] * 5}, r"a is a list, but weights must be a torch.Tensor"),
        ({"a": torch.ones(5, dtype=torch.long)}, r"a has dtype torch.int64, but weights must be floating point"),
        ({"epsilon": -1}, r"epsilon is -1.0, but it must be finite and at least 0 \(0 is exact transport\)"),
        ({"epsilon": math.inf}, r"epsilon is inf, but it must be finite"),
        ({"epsilon": math.nan}, r"epsilon is NaN"),
        ({"epsilon": None}, r"epsilon is None, but it must be a number"),
        ({"rho": 0}, r"rho is 0.0, but it must be positive"),
        ({"rho": (1, -1)}, r"rho is -1.0, but it must be positive"),
        ({"rho": (1, 2, 3)}, r"rho is \(1, 2, 3\), but it must be a number or a pair"),
        ({"rho": math.nan}, r"rho is NaN"),
        ({"reference": (torch.ones(5), torch.ones(4))}, r"reference is given but epsilon is 0"),
        ({"epsilon": 1, "reference": (torch.ones(4), torch.ones(4))}, r"r has shape \(4,\), but there are 5 atoms"),
        ({"epsilon": 1, "reference": (torch.ones(5), torch.ones(5))}, r"s has shape \(5,\), but there are 4 atoms"),
        (
            {"a": torch.ones(2, 5), "b": torch.ones(3, 4)},
            r"do not broadcast: of the cost \(\), of a \(2,\), of b \(3,\)",
        ),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Problem(cost, **options)


def test_a_matrix_is_not_a_cost():
    with pytest.raises(ValueError, match=r"cost is a Tensor, but it must be Points\(x, y\), Dense\(C\), Tree"):
        Problem(torch.ones(5, 4))


def test_batches_broadcast():
    problem = Problem(
        Points(torch.randn(3, 1, 5, 2), y), torch.rand(2, 5), epsilon=1, reference=(torch.ones(5), torch.ones(3, 2, 4))
    )
    assert problem.batch_shape == (3, 2)
    flat = problem.flatten()
    assert flat.a.shape == (6, 5)
    assert flat.b.shape == (6, 4)
    assert flat.cost.batch_shape == (6,)
    assert torch.equal(flat.a.reshape(3, 2, 5)[1], problem.a)
    assert torch.equal(flat.cost.dense().reshape(3, 2, 5, 4)[:, 0], problem.cost.dense()[:, 0])
    r, s = flat.reference
    assert r.shape == (6, 5)
    assert s.shape == (6, 4)
    some = flat.select(torch.tensor([4, 0]))
    assert torch.equal(some.a, flat.a[[4, 0]])
    assert torch.equal(some.cost.dense(), flat.cost.dense()[[4, 0]])
    assert some.reference[0].shape == (2, 5)
    assert some.epsilon == 1


def test_a_shared_cost_stays_shared():
    flat = Problem(cost, torch.rand(2, 3, 5)).flatten()
    assert flat.cost is cost or flat.cost.batch_shape == ()
    assert flat.a.shape == (6, 5)
    assert Problem(cost).flatten().a.shape == (1, 5)


def test_symmetric():
    own = Problem(Points(x, x), epsilon=1)
    assert own.symmetric
    for same in (own.flatten(), own.detach(F64), own.flatten().select(torch.tensor([0])), own.detach()):
        assert same.symmetric
    w = torch.rand(5)
    assert Problem(Points(x, x), w, w, epsilon=1).symmetric
    assert not Problem(Points(x, x), w, w.clone(), epsilon=1).symmetric
    assert not Problem(Points(x, x.clone()), epsilon=1).symmetric
    assert not Problem(Points(x, x), w, w, epsilon=1, rho=(1.0, 2.0)).symmetric
    assert not Problem(Dense(torch.ones(3, 3))).symmetric


def test_detach_and_precision():
    C = torch.rand(5, 4, requires_grad=True)
    problem = Problem(Dense(C), torch.rand(5, requires_grad=True), torch.rand(4), epsilon=1, rho=(2.0, math.inf))
    other = problem.detach(F64)
    assert other.dtype == other.a.dtype == other.b.dtype == F64
    assert not other.cost.C.requires_grad
    assert not other.a.requires_grad
    assert (other.epsilon, other.rho) == (problem.epsilon, problem.rho)


def test_uniform_weights_are_exact_in_every_precision():
    problem = Problem(Points(torch.randn(3, 2), torch.randn(7, 2))).detach(F64)
    assert torch.equal(problem.a, torch.full((3,), 1 / 3, dtype=F64))
    assert torch.equal(problem.b, torch.full((7,), 1 / 7, dtype=F64))


def test_replace():
    problem = Problem(cost, epsilon=1, rho=2.0)
    b = torch.rand(4)
    assert problem.replace(b=b).b is b
    assert problem.replace(b=b).rho == (2.0, 2.0)
    assert problem.replace(cost=Dense(torch.ones(5, 4))).shape == (5, 4)


def test_repr():
    assert repr(Problem(cost)) == "Problem(Points(5 x 4))"
    assert repr(Problem(cost, epsilon=0.1, rho=2)) == "Problem(Points(5 x 4), epsilon=0.1, rho=2.0)"
    assert repr(Problem(cost, epsilon=0.1, rho=(2, math.inf))) == "Problem(Points(5 x 4), epsilon=0.1, rho=(2.0, inf))"
    given = Problem(cost, epsilon=0.1, reference=(torch.ones(5), torch.ones(4)))
    assert repr(given) == "Problem(Points(5 x 4), epsilon=0.1, reference given)"
    tree = Tree(torch.tensor([-1, 0, 0]), torch.ones(3))
    assert repr(Problem(tree, torch.ones(2, 2))) == "Problem(Tree(2 x 2))"


# -- the terms of the objectives ---------------------------------------------------------------------------------------


def test_marginal_penalty_is_the_divergence():
    q, a = torch.rand(6, dtype=F64), torch.rand(6, dtype=F64)
    assert torch.allclose(marginal_penalty(3.0, q, a), 3 * (q * (q / a).log() - q + a))
    assert (marginal_penalty(math.inf, q, a) == 0).all()
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    assert marginal_penalty(3.0, zero, one) == 3
    assert marginal_penalty(3.0, zero, zero) == 0
    assert marginal_penalty(3.0, one, zero) == torch.inf


def test_marginal_dual_is_its_conjugate():
    """-rho a (exp(-f / rho) - 1) = min over q of rho KL(q | a) + f q."""
    a, f, rho = torch.tensor(0.7, dtype=F64), torch.tensor(0.4, dtype=F64), 2.0
    q = torch.linspace(1e-6, 3, 300_001, dtype=F64)
    least = (marginal_penalty(rho, q, a.expand_as(q)) + f * q).min()
    assert torch.allclose(marginal_dual(rho, f, a), least, atol=1e-9)
    assert marginal_dual(math.inf, f, a) == f * a


def test_absent_atoms_say_nothing():
    f = torch.tensor([torch.inf, -torch.inf, torch.nan])
    for rho in (1.0, math.inf):
        assert (marginal_dual(rho, f, torch.zeros(3)) == 0).all()


def test_marginal_slope_is_the_derivative():
    a = torch.rand(4, dtype=F64, requires_grad=True)
    f = torch.randn(4, dtype=F64)
    for rho in (0.5, math.inf):
        (slope,) = torch.autograd.grad(marginal_dual(rho, f, a).sum(), a)
        assert torch.allclose(slope, marginal_slope(rho, f))


@pytest.mark.parametrize("rho", [0.5, math.inf])
def test_step_is_the_best_potential(rho):
    """The derivative of the dual in f vanishes: the marginal of the plan is a exp(-f / rho)."""
    a, r, epsilon = torch.rand(5, dtype=F64), torch.rand(5, dtype=F64), 0.3
    h, C = torch.randn(4, dtype=F64), torch.rand(5, 4, dtype=F64)
    soft = -epsilon * torch.logsumexp((h - C) / epsilon, -1)
    f = step(rho, epsilon, soft, log_ratio(a, r))
    marginal = (r[:, None] * ((f[:, None] + h - C) / epsilon).exp()).sum(-1)
    assert torch.allclose(marginal, a if math.isinf(rho) else a * torch.exp(-f / rho))


def test_log_ratio():
    a, r = torch.tensor([0.2, 0.0]), torch.tensor([0.4, 1.0])
    assert log_ratio(a, a) == 0.0
    ratio = log_ratio(a, r)
    assert torch.allclose(ratio[0], torch.tensor(0.5).log())
    assert ratio.isfinite().all()
