"""A module is its function with the options stored."""

import copy
import math
import pickle

import pytest
import torch

import barrow
from barrow import Tree, nn

x, y = torch.randn(3, 6, 2), torch.randn(3, 5, 2)
a, b = torch.full((6,), 1 / 6), torch.full((5,), 0.2)
u, v = x[..., 0], y[..., 0]
h, t = torch.softmax(torch.randn(3, 4), -1), torch.softmax(torch.randn(3, 4), -1)
C = 1 - torch.eye(4)
TREE = Tree(torch.tensor([-1, 0, 0, 0, 0]), torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
WIDTHS = torch.tensor([1.0, 2.0, 0.5])

# A module, the call that it stands for, and how it reads.
PAIRS = [
    (
        nn.TransportCost(p=1, norm=math.inf),
        lambda: barrow.transport_cost(x, y, a, b, p=1, norm=math.inf),
        "TransportCost(p=1, norm=inf)",
    ),
    (nn.Wasserstein(p=1), lambda: barrow.wasserstein(x, y, a, b, p=1), "Wasserstein(p=1, norm=2)"),
    (
        nn.SinkhornCost(epsilon=0.5, rho=2.0),
        lambda: barrow.sinkhorn_cost(x, y, a, b, epsilon=0.5, rho=2.0),
        "SinkhornCost(epsilon=0.5, p=2, norm=2, rho=2.0, tol=0.001, max_steps=10000)",
    ),
    (
        nn.SinkhornDivergence(p=1, epsilon=0.5),
        lambda: barrow.sinkhorn_divergence(x, y, a, b, p=1, epsilon=0.5),
        "SinkhornDivergence(epsilon=0.5, p=1, norm=2, rho=inf, tol=0.001, max_steps=10000)",
    ),
    (nn.Wasserstein1d(p=1), lambda: barrow.wasserstein_1d(u, v, a, b, p=1), "Wasserstein1d(p=1)"),
    (nn.Emd1d(2, spacing=0.5), lambda: barrow.emd_1d(h, t, 2, 0.5), "Emd1d(exponent=2, spacing=0.5, normalise=False)"),
    (
        nn.Emd1d(spacing=WIDTHS),
        lambda: barrow.emd_1d(h, t, 1, WIDTHS),
        "Emd1d(exponent=1, spacing=(3,), normalise=False)",
    ),
    (
        nn.TreeEmd(TREE, 2),
        lambda: barrow.tree_emd(h, t, TREE, 2),
        "TreeEmd(tree=Tree(4 x 4), exponent=2, normalise=False)",
    ),
    (
        nn.LabelWasserstein(C, epsilon=0.1),
        lambda: barrow.label_wasserstein(h, t, C, epsilon=0.1),
        "LabelWasserstein(C=(4, 4), epsilon=0.1, rho=inf, tol=0.001, max_steps=10000)",
    ),
]
every_module = pytest.mark.parametrize(("module", "call", "words"), PAIRS, ids=[type(p[0]).__name__ for p in PAIRS])


def apply(module):
    if isinstance(module, nn.Wasserstein1d):
        return module(u, v, a, b)
    if isinstance(module, nn.Emd1d | nn.TreeEmd | nn.LabelWasserstein):
        return module(h, t)
    return module(x, y, a, b)


@every_module
def test_the_same_number(module, call, words):
    value = apply(module)
    assert value.shape == (3,)
    assert torch.equal(value, call())


@every_module
def test_repr_shows_the_options(module, call, words):
    assert repr(module) == words


@every_module
def test_copies_and_pickles(module, call, words):
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(again) == words
        assert torch.equal(apply(again), call())
        for one, other in zip(module.buffers(), again.buffers(), strict=True):
            assert one is not other


def test_a_sliced_loss_repeats_with_its_generator():
    def drawn(seed):
        return nn.SlicedWasserstein(n_projections=8, generator=torch.Generator().manual_seed(seed))

    value = drawn(0)(x, y)
    assert torch.equal(value, drawn(0)(x, y))
    assert not torch.equal(value, drawn(1)(x, y))
    expected = barrow.sliced_wasserstein(x, y, n_projections=8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(value, expected)
    assert torch.equal(copy.deepcopy(drawn(0))(x, y), value)
    assert repr(nn.SlicedWasserstein()) == "SlicedWasserstein(p=2, n_projections=64, generator=None)"


def test_tensors_are_buffers_and_nothing_is_a_parameter():
    named = {type(m).__name__: set(m.state_dict()) for m, _, _ in PAIRS if list(m.buffers())}
    assert named == {"Emd1d": {"spacing"}, "TreeEmd": {"length"}, "LabelWasserstein": {"C"}}
    assert not any(list(m.parameters()) for m, _, _ in PAIRS)


@pytest.mark.parametrize("k", [5, 6, 7, 8])
def test_precision_moves_with_the_module(k):
    module = copy.deepcopy(PAIRS[k][0])
    module.double()
    value = module(*(w.double() / w.double().sum(-1, keepdim=True) for w in (h, t)))
    assert value.dtype == torch.float64
    assert torch.allclose(value.float(), apply(PAIRS[k][0]), rtol=1e-3)


def test_lengths_that_are_loaded_are_used():
    other = nn.TreeEmd(Tree(TREE.parent, 2 * TREE.length))
    module = nn.TreeEmd(Tree(TREE.parent, TREE.length.clone()))
    before = module(h, t)
    module.load_state_dict(other.state_dict())
    assert torch.allclose(module(h, t), 2 * before)
    assert torch.equal(other(h, t), module(h, t))


def test_a_matrix_that_is_loaded_is_used():
    module = nn.LabelWasserstein(torch.ones(4, 4), epsilon=0.1)
    module.load_state_dict(PAIRS[8][0].state_dict())
    assert torch.equal(module(h, t), apply(PAIRS[8][0]))


def test_gradients_flow_through_modules():
    for module, _, _ in PAIRS:
        wanted = h if isinstance(module, nn.Emd1d | nn.TreeEmd | nn.LabelWasserstein) else x
        wanted.requires_grad_()
        source = u if isinstance(module, nn.Wasserstein1d) else None
        value = module(wanted[..., 0], v) if source is not None else apply(module)
        (gradient,) = torch.autograd.grad(value.sum(), wanted)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        wanted.requires_grad_(False)


def test_an_entropy_has_no_default():
    for kind in (nn.SinkhornCost, nn.SinkhornDivergence):
        with pytest.raises(TypeError, match="epsilon"):
            kind()
    with pytest.raises(TypeError, match="epsilon"):
        nn.LabelWasserstein(C)
