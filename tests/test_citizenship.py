"""Good citizens of torch: compilers, transforms, autocast, copies, processes, devices."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch

import barrow
from barrow import nn
from barrow.functional import traced
from problems import dirichlet, uniform

C = torch.cdist(uniform(6, 2, seed=0), uniform(6, 2, seed=0)).float()
MODULES = {
    "sinkhorn_cost": nn.SinkhornCost(epsilon=0.1),
    "unbalanced": nn.SinkhornCost(epsilon=0.1, rho=1.0),
    "sinkhorn_divergence": nn.SinkhornDivergence(epsilon=0.1, p=1),
    "transport_cost": nn.TransportCost(),
    "wasserstein": nn.Wasserstein(p=1, norm=1),
    "label_wasserstein": nn.LabelWasserstein(C, epsilon=0.1),
    "relaxed_label_wasserstein": nn.LabelWasserstein(C, epsilon=0.1, rho=1.0),
    "sinkhorn_transport": nn.SinkhornTransport(C, epsilon=0.1),
    "sinkhorn_ball": nn.SinkhornBall(C, alpha=0.2),
}
HISTOGRAMS = (nn.LabelWasserstein, nn.SinkhornTransport, nn.SinkhornBall)
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
every = pytest.mark.parametrize("loss", MODULES.values(), ids=MODULES.keys())


def data(loss):
    """What a loss is called with: two batches of clouds, or of histograms."""
    if isinstance(loss, HISTOGRAMS):
        return dirichlet(3, 6, seed=0).float(), dirichlet(3, 6, seed=1).float()
    return uniform(3, 6, 2, seed=0).float(), uniform(3, 5, 2, seed=1).float() + 0.5


def model(loss, seed=0):
    """A net whose outputs such a loss takes."""
    torch.manual_seed(seed)
    d = 6 if isinstance(loss, HISTOGRAMS) else 2
    layers = [torch.nn.Linear(d, d)] + ([torch.nn.Softmax(-1)] if isinstance(loss, HISTOGRAMS) else [])
    return torch.nn.Sequential(*layers)


@pytest.fixture(autouse=True)
def _compiled_afresh():
    torch._dynamo.reset()


# -- compilers and transforms ------------------------------------------------------------------------------------------


@every
def test_a_training_step_compiles_in_one_graph(loss):
    x, y = data(loss)
    net = model(loss)
    twin = copy.deepcopy(net)
    loss(net(x), y).mean().backward()
    compiled = torch.compile(lambda x, y: loss(twin(x), y).mean(), fullgraph=True, backend="aot_eager")
    value = compiled(x, y)
    value.backward()
    assert torch.allclose(value, loss(net(x), y).mean(), rtol=1e-5)
    for one, other in zip(twin.parameters(), net.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-6)


@every
def test_vmap_is_a_batch(loss):
    x, y = data(loss)
    assert torch.allclose(torch.vmap(loss)(x, y), loss(x, y), rtol=2e-3)
    assert torch.allclose(torch.vmap(loss, (0, None))(x, y[0]), loss(x, y[0]), rtol=2e-3)
    assert torch.allclose(torch.vmap(loss, (None, 1), 0)(x[0], y.transpose(0, 1)), loss(x[0], y), rtol=2e-3)
    # Leading dimensions of their own broadcast under the mapped one.
    several = torch.vmap(loss)(x[:, None].expand(3, 2, *x.shape[1:]), y)
    assert torch.allclose(several, loss(x, y)[:, None].expand(3, 2), rtol=2e-3)


@every
def test_func_grad(loss):
    x, y = data(loss)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, y).sum(), leaf)
    for seen in (
        torch.func.grad(lambda x: loss(x, y).sum())(x),
        torch.vmap(torch.func.grad(loss))(x, y),
        torch.func.vjp(lambda x: loss(x, y), x)[1](torch.ones(3))[0],
    ):
        assert torch.allclose(seen, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


@every
def test_a_second_derivative_is_refused_there_too(loss):
    x, y = (t[0] for t in data(loss))
    with pytest.raises(RuntimeError, match="differentiated again"):
        torch.func.grad(lambda x: torch.func.grad(loss)(x, y).square().sum())(x)


def test_weights_and_costs_under_transforms():
    x, y = data(nn.TransportCost())
    a, b = (dirichlet(n, seed=n).float() for n in (6, 5))

    def loss(a, b):
        return barrow.sinkhorn_cost(x, y, a, b, epsilon=0.1, rho=(1.0, 2.0))

    leaves = [w.clone().requires_grad_() for w in (a, b)]
    expected = torch.autograd.grad(loss(*leaves).sum(), leaves)
    for one, other in zip(torch.func.grad(lambda w: loss(*w).sum())((a, b)), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4)
    h, t = data(MODULES["label_wasserstein"])
    jacobian = torch.func.jacrev(lambda C: barrow.label_wasserstein(h, t, C, epsilon=0.1))(C)
    assert jacobian.shape == (3, 6, 6)
    assert torch.allclose(jacobian.sum((-2, -1)), torch.ones(3), rtol=1e-3)


@pytest.mark.parametrize("norm", [1, 2, float("inf")])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_the_closed_slopes_of_the_operators(p, norm):
    x, y = uniform(6, 3, seed=0), uniform(5, 3, seed=1)
    y[0] = x[0]
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    for call in (
        lambda x, y: barrow.transport_cost(x, y, p=p, norm=norm),
        lambda x, y: barrow.sinkhorn_cost(x, y, epsilon=0.1, p=p, norm=norm),
    ):
        expected = torch.autograd.grad(call(*leaves), leaves)
        seen = torch.func.grad(lambda xy, call=call: call(*xy))((x, y))
        for one, other in zip(seen, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-12)


def test_the_operators_keep_their_word():
    x, y = data(nn.TransportCost())
    numbers = [2.0, 2.0, 0.1, float("inf"), float("inf"), 1e-3, 1000.0]
    ours = (x, y, None, dirichlet(5, seed=0).float(), False, numbers, [True, False, False, True])
    torch.library.opcheck(traced._points, ours)
    h, t = data(MODULES["label_wasserstein"])
    torch.library.opcheck(traced._matrix, (C, h, t, "sinkhorn_transport", [0.1, 1e-3, 1000.0], [True, True, True]))


def test_data_that_make_no_problem_are_refused_inside_of_a_graph():
    x, y = data(nn.TransportCost())
    compiled = torch.compile(lambda x, y: barrow.sinkhorn_cost(x, y, epsilon=0.1), fullgraph=True, backend="aot_eager")
    compiled(x, y)
    with pytest.raises(ValueError, match="NaN or infinity"):
        compiled(x / 0, y)
    with pytest.raises(ValueError, match="different masses"):
        torch.vmap(lambda h: barrow.label_wasserstein(h, torch.ones(6) / 3, C, epsilon=0.1))(torch.ones(2, 6) / 6)


# -- precision ---------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(loss, dtype):
    x, y = data(loss)
    x.requires_grad_()
    value = loss(x, y)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    with torch.autocast("cpu", dtype):
        inside = loss(x, y)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, value)
    assert torch.equal(torch.autograd.grad(inside.sum(), x)[0], gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_single_is_computed(dtype):
    x, y = (t.to(dtype) for t in data(nn.TransportCost()))
    for loss in (MODULES["sinkhorn_cost"], MODULES["sinkhorn_divergence"], MODULES["transport_cost"]):
        leaf = x.clone().requires_grad_()
        value = loss(leaf, y)
        assert value.dtype == dtype
        assert torch.allclose(value.float(), loss(x.float(), y.float()), rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
        value.sum().backward()
        assert leaf.grad.dtype == dtype


# -- copies ------------------------------------------------------------------------------------------------------------


@every
def test_copies(loss):
    x, y = data(loss)
    stream = io.BytesIO()
    torch.save(loss.state_dict(), stream)
    stream.seek(0)
    fresh = copy.deepcopy(loss)
    fresh.load_state_dict(torch.load(stream))
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), fresh):
        assert torch.equal(again(x, y), loss(x, y))


@every
def test_the_same_every_time(loss):
    x, y = data(loss)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            first = loss(x, y)
            assert all(torch.equal(loss(x, y), first) for _ in range(3))
    finally:
        torch.set_num_threads(before)


# -- processes and devices ---------------------------------------------------------------------------------------------

WORKER = """
import sys, torch, torch.distributed as dist
import barrow
rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
torch.manual_seed(0)
net, x, y = torch.nn.Linear(2, 2), torch.rand(4, 6, 2), torch.rand(4, 5, 2)
loss = barrow.nn.SinkhornDivergence(epsilon=0.1)
both = torch.nn.parallel.DistributedDataParallel(net)
half = slice(2 * rank, 2 * rank + 2)
loss(both(x[half]), y[half]).mean().backward()
told = [p.grad.clone() for p in net.parameters()]
net.zero_grad()
loss(net(x), y).mean().backward()
assert all(torch.allclose(one, p.grad, rtol=1e-4, atol=1e-6) for one, p in zip(told, net.parameters()))
dist.destroy_process_group()
"""


def test_two_processes_share_a_gradient(tmp_path):
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    try:
        said = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said


@every
def test_mixtures_are_refused(loss):
    x, y = data(loss)
    for other in (x.double(), x.half()):
        with pytest.raises(ValueError, match=r"has dtype .* convert one with"):
            loss(other, y)
    with pytest.raises(ValueError, match=r"is on .* move one with"):
        loss(x.to("meta"), y)


def test_a_schedule_of_epsilon_does_not_break_the_graph():
    x, y = data(nn.SinkhornDivergence(epsilon=1))
    loss = nn.SinkhornDivergence(epsilon=1.0)
    compiled = torch.compile(lambda x, y: loss(x, y), fullgraph=True, backend="aot_eager")
    for epsilon, rho in ((1.0, float("inf")), (0.5, float("inf")), (0.25, 2.0), (0.125, 1.0)):
        loss.epsilon, loss.rho = epsilon, rho
        assert torch.allclose(compiled(x, y), loss(x, y), rtol=1e-5, atol=1e-6)
