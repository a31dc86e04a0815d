"""Weights derived once a step: when again, what flows back, and that no copy or transform sees an old one."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from barrow.nn import Critic, GroupSort, OrthogonalLinear, UnitLinear, batch_weights
from barrow.nn import linear as module
from barrow.nn.derived import DerivedWeight
from barrow.ops.polar import polar


class Doubled(DerivedWeight):
    """A weight that counts how often it was derived."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(3, 2))
        self.bias = nn.Parameter(torch.zeros(3))
        self.times = 0

    def derive(self) -> Tensor:
        self.times += 1
        return 2 * self.raw.exp()

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def is_current(layer: Doubled) -> bool:
    return torch.equal(layer.weight, 2 * layer.raw.exp())


def test_is_derived_once_a_step() -> None:
    layer = Doubled()
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    for step in range(1, 4):
        optimiser.zero_grad()
        (layer(torch.ones(1, 2)).sum() + layer(torch.ones(4, 2)).sum()).backward()
        with torch.no_grad():
            layer(torch.ones(1, 2))
        optimiser.step()
        assert layer.times == step
    with torch.no_grad():
        layer.bias.add_(1)
        layer.weight  # noqa: B018  # the access is what is counted
        assert layer.times == 4
        layer.bias.add_(1)
        layer.weight  # noqa: B018
    assert layer.times == 4


def test_several_passes_go_back_through_one_derivation() -> None:
    layer = Doubled()
    one, other = layer(torch.ones(1, 2)).sum(), layer(torch.ones(1, 2)).square().sum()
    one.backward()
    other.backward()
    raw = layer.raw.detach().clone().requires_grad_()
    y = torch.ones(1, 2) @ (2 * raw.exp()).T
    (y.sum() + y.square().sum()).backward()
    assert layer.times == 1
    assert torch.allclose(layer.raw.grad, raw.grad)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.raw.data.add_(1e-6),
        lambda layer: layer.raw.data.copy_(layer.raw.data.flip(1)),
        lambda layer: layer.raw.data.copy_(layer.raw.data.flip(0)),
        lambda layer: layer.raw.data[1].neg_(),
        lambda layer: layer.raw.data[2, 1].nextafter_(torch.tensor(9.0)),
        lambda layer: layer.raw.detach().numpy().__setitem__((0, 0), 0.5),
        lambda layer: setattr(layer.raw, "data", torch.randn(3, 2)),
        lambda layer: setattr(layer, "raw", nn.Parameter(torch.randn(3, 2))),
        lambda layer: layer.load_state_dict(Doubled().state_dict()),
        lambda layer: layer.load_state_dict(Doubled().state_dict(), assign=True),
        lambda layer: layer.double(),
        lambda layer: nn.init.normal_(layer.raw),
        lambda layer: torch.optim.swa_utils.AveragedModel(layer),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_no_change_is_missed(change: Callable[[Doubled], object], training: bool) -> None:
    torch.manual_seed(0)
    layer = Doubled().train(training)
    with torch.no_grad():
        layer.weight  # noqa: B018
    layer.weight  # noqa: B018
    change(layer)
    assert is_current(layer)
    with torch.no_grad():
        assert is_current(layer)


def test_a_cache_that_looks_away_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barrow.nn.derived._look", lambda raws: b"")
    layer = Doubled()
    layer.weight  # noqa: B018
    layer.raw.data.add_(1)
    assert not is_current(layer)


def test_averages_and_copies_are_their_own() -> None:
    layer = Doubled()
    layer(torch.ones(1, 2)).sum().backward()
    average = torch.optim.swa_utils.AveragedModel(layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        with torch.no_grad():
            layer.raw.add_(torch.randn(3, 2))
        average.update_parameters(layer)
        assert is_current(average.module)
        assert is_current(layer)
        assert is_current(copy.deepcopy(layer))


def test_transforms_and_compilers_derive_for_themselves() -> None:
    layer = OrthogonalLinear(4, 3)
    x = torch.randn(5, 4)
    other = {"raw_weight": torch.randn(3, 4), "bias": torch.zeros(3)}
    assert torch.allclose(torch.func.functional_call(layer, other, (x,)), x @ polar(other["raw_weight"]).T, atol=1e-6)
    raws = torch.randn(2, 3, 4)
    several = torch.vmap(lambda raw: torch.func.functional_call(layer, {"raw_weight": raw}, (x,)))(raws)
    assert torch.allclose(several, torch.stack([x @ polar(raw).T + layer.bias for raw in raws]), atol=1e-5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert torch.allclose(compiled(x), layer(x), atol=1e-5)
        with torch.no_grad():
            layer.raw_weight.add_(torch.randn(3, 4))
    with torch.inference_mode():
        assert torch.equal(layer(x), layer.eval()(x))
    layer.train()(x).sum().backward()


# -- orthogonal layers -------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 99], ids=["moved", "left alone"])
def moved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Small layers as if they were large, and as they are."""
    monkeypatch.setattr(module, "_MOVED_FROM", request.param)
    return request.param == 1


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    return (net(x) - 1).square().mean()


@pytest.mark.parametrize(("inputs", "outputs"), [(9, 9), (9, 5), (5, 9)])
@pytest.mark.parametrize("batch", [(2,), (2, 2), (64,), ()])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_polar_factor(inputs: int, outputs: int, batch: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    layer = OrthogonalLinear(inputs, outputs, bias, dtype=torch.float64)
    with torch.no_grad():
        layer.raw_weight.add_(0.3 * torch.randn(outputs, inputs)).mul_(1.7)
    x = torch.randn(*batch, inputs, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    out.pow(3).sum().backward()
    # The layer has moved its raw weight: that is where the derivative is taken.
    raw, z = layer.raw_weight.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    expected = nn.functional.linear(z, polar(raw), layer.bias)
    assert torch.allclose(out, expected, atol=1e-10)
    expected.pow(3).sum().backward()
    assert torch.allclose(layer.raw_weight.grad, raw.grad, atol=1e-8)
    assert torch.allclose(x.grad, z.grad, atol=1e-8)


def test_the_raw_weight_moves_onto_multiples_of_orthogonal_matrices_in_training_only(moved: bool) -> None:
    torch.manual_seed(2)
    layer = OrthogonalLinear(6, 4)
    with torch.no_grad():
        layer.raw_weight.copy_(torch.randn(4, 6))
    raw = layer.raw_weight.detach().clone()
    x = torch.randn(3, 6)
    layer.eval()(x)
    with torch.no_grad():
        y = layer.train()(x)
    assert torch.equal(layer.raw_weight, raw)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.raw_weight, raw) != moved
    if moved:
        s = torch.linalg.svdvals(layer.raw_weight.detach())
        assert torch.allclose(s, torch.linalg.svdvals(raw).mean().expand(4), rtol=1e-5)
    fresh = OrthogonalLinear(6, 4)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))


def test_eval_mode_has_the_same_gradient() -> None:
    torch.manual_seed(3)
    layer = OrthogonalLinear(6, 4, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.raw_weight.copy_(torch.randn(4, 6))
    raw = layer.raw_weight.detach().clone().requires_grad_()
    x = torch.randn(3, 6, dtype=torch.float64)
    layer(x).pow(3).sum().backward()
    nn.functional.linear(x, polar(raw), layer.bias).pow(3).sum().backward()
    assert torch.allclose(layer.raw_weight.grad, raw.grad, atol=1e-10)
    y = layer(x).sum()
    with torch.no_grad():
        layer.raw_weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified in place"):
        y.backward()


def test_the_gradient_of_a_gradient_penalty_and_nothing_further(moved: bool) -> None:
    torch.manual_seed(4)
    net = nn.Sequential(OrthogonalLinear(6, 8), GroupSort(2), OrthogonalLinear(8, 8), GroupSort(2), UnitLinear(8, 1))
    plain = nn.Sequential(nn.Linear(6, 8), GroupSort(2), nn.Linear(8, 8), GroupSort(2), nn.Linear(8, 1))
    with torch.no_grad():
        for mine, theirs in zip(net, plain, strict=True):
            if isinstance(theirs, nn.Linear):
                theirs.weight.copy_(mine.weight)
                theirs.bias.copy_(mine.bias)
    x = torch.randn(3, 6)
    grads = []
    for model in (net, plain):
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(z).square().sum(), z, create_graph=True)
        slope.square().sum().backward()
        grads.append(slope.detach())
    assert torch.allclose(*grads, atol=1e-5)
    for mine, theirs in zip(net, plain, strict=True):
        if isinstance(mine, OrthogonalLinear):
            (expected,) = torch.autograd.grad(polar(raw := mine.raw_weight.detach().requires_grad_()), raw,
                                              theirs.weight.grad)  # fmt: skip
            assert torch.allclose(mine.raw_weight.grad, expected, atol=1e-4)
    layer = OrthogonalLinear(4, 4)
    (gradient,) = torch.autograd.grad(layer(torch.randn(2, 4)).pow(3).sum(), layer.raw_weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.square().sum().backward()


def test_what_diverges_stays_visible(moved: bool) -> None:
    layer = OrthogonalLinear(4, 4)
    with torch.no_grad():
        layer.raw_weight[0, 0] = float("nan")
    layer(torch.ones(1, 4)).sum().backward()
    assert layer.raw_weight.isnan().any()


# -- together ----------------------------------------------------------------------------------------------------------


def test_layers_of_one_shape_are_derived_together(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    name = "retract" if moved else "factorised"
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda X: (shapes.append(tuple(X.shape)), function(X))[1])
    torch.manual_seed(5)
    alone = nn.Sequential(*(OrthogonalLinear(6, 6) for _ in range(3)), OrthogonalLinear(6, 4))
    together = batch_weights(copy.deepcopy(alone))
    x = torch.randn(5, 6)
    for net, expected in ((alone, [(6, 6)] * 3 + [(4, 6)]), (together, [(3, 6, 6), (4, 6)])):
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(3):
            shapes.clear()
            optimiser.zero_grad()
            loss_of(net, x).backward()
            optimiser.step()
            assert shapes == expected
    for one, other in zip(alone.parameters(), together.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_run_goes_on_from_its_state_to_the_last_bit(moved: bool) -> None:
    def train(cut: int | None) -> list[Tensor]:
        torch.manual_seed(6)
        net, g = Critic(7, (8, 8, 5)), torch.Generator().manual_seed(7)
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        for step in range(9):
            if step == cut:
                states = copy.deepcopy((net.state_dict(), optimiser.state_dict()))
                net = Critic(7, (8, 8, 5))
                net.load_state_dict(states[0])
                optimiser = torch.optim.Adam(net.parameters(), 0.01)
                optimiser.load_state_dict(states[1])
            x = torch.randn(6, 7, generator=g)
            optimiser.zero_grad()
            loss_of(net, x).backward()
            optimiser.step()
            net(x)  # moves the raw weights before the state is taken
        return [p.detach() for p in net.parameters()]

    for whole, resumed in zip(train(None), train(5), strict=True):
        assert torch.equal(whole, resumed)


def test_groups_survive_copies_and_lost_members() -> None:
    net = batch_weights(nn.Sequential(*(OrthogonalLinear(6, 6) for _ in range(3))))
    x = torch.randn(5, 6)
    twin = copy.deepcopy(net)
    assert torch.equal(net(x), twin(x))
    del net[1]
    with torch.no_grad():
        for layer in net:
            layer.raw_weight.add_(0.1)
    net(x).sum().backward()
    assert twin[1].raw_weight.grad is None
    assert twin[0].group is not net[0].group
    assert twin[0].group is not None
    critic = Critic(6, (8, 8, 8))
    assert critic(x).shape == (5,)


# -- processes ---------------------------------------------------------------------------------------------------------

WORKER = """
import os, sys, copy, torch, torch.distributed as dist
from barrow.nn import Critic, linear
rank, path = int(sys.argv[1]), sys.argv[2]
linear._MOVED_FROM = int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
torch.manual_seed(0)
net, x = Critic(6, (8, 8, 8)), torch.randn(8, 6)
alone = copy.deepcopy(net)
both = torch.nn.parallel.DistributedDataParallel(net)
for model, part in ((both, x[4 * rank : 4 * rank + 4]), (alone, x)):
    optimiser = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(4):
        optimiser.zero_grad()
        model(part).square().mean().backward()
        optimiser.step()
assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(net.parameters(), alone.parameters()))
told = [torch.empty_like(net.layers[2].weight) for _ in range(2)]
dist.all_gather(told, net.layers[2].weight.detach())
assert torch.equal(*told)
dist.barrier()
os._exit(0)  # threads of gloo may outlive the interpreter, which then aborts
"""


def test_two_processes_train_one_network(moved: bool, tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meet"), "1" if moved else "99"],
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    try:
        said = [worker.communicate(timeout=300)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
