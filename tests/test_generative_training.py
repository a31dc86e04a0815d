"""Games of critic and generator: what a step does, what is reported, and that a killed run loses nothing."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import barrow
from barrow import checkpoint
from barrow.generative import (
    Diverged,
    Method,
    Wgan,
    c_transform_gan,
    cowgan,
    ct_gan,
    digit_critic,
    digit_generator,
    gradient_penalty,
    hinge_gan,
    interpolates,
    lipschitz_gan,
    lsot_gan,
    perceptron,
    train,
    wgan,
    wgan_critic_loss,
    wgan_generator_loss,
    wgan_gp,
    wgan_lp,
)
from barrow.nn import Critic, McShaneCritic, lipschitz_bound

DATA = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) + 3
METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        wgan(), wgan_gp(), wgan_lp(), ct_gan(), lipschitz_gan(), hinge_gan(), c_transform_gan(), cowgan(), lsot_gan()
    )
}  # fmt: skip


def critic_for(method: Method) -> nn.Module:
    if method.bounded:
        return Critic(2, (8, 8))
    if method.name == "LSOT":
        return nn.ModuleList([perceptron(2, 1, (8,)), perceptron(2, 1, (8,))])
    if method.name == "CT-GAN":
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    return perceptron(2, 1, (8, 8))


def make(
    method: Method | None = None,
    *,
    networks: int = 0,
    data: Any = DATA,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Wgan:
    torch.manual_seed(networks)
    method = wgan_gp() if method is None else method
    options = {"batch_size": 16, "n_critic": 2, "seed": 5, **options}
    generator, critic = perceptron(2, 2, (8,)).to(dtype), critic_for(method).to(dtype)
    return Wgan(generator, critic, data, 2, method=method, **options)


def everything(state: object) -> list[Any]:
    """All numbers of a state, as bits where they are tensors."""
    if isinstance(state, dict):
        return [item for key in sorted(state, key=str) for item in [key, *everything(state[key])]]
    if isinstance(state, list | tuple):
        return [item for part in state for item in everything(part)]
    if isinstance(state, Tensor):
        return [state.contiguous().numpy().tobytes()]
    return [state]


# -- one step ----------------------------------------------------------------------------------------------------------


def test_a_step_by_hand() -> None:
    """The whole of WGAN-GP, written out with its own optimisers and the same draws."""
    data = DATA.double()  # Adam divides by the size of a gradient, also by that of the rounding of a zero
    game = make(ema=0.5, data=data, dtype=torch.float64)
    generator, critic = copy.deepcopy(game.generator), copy.deepcopy(game.critic)
    average = copy.deepcopy(generator)
    of_g, of_f = (torch.optim.Adam(m.parameters(), 1e-4, betas=(0.5, 0.9)) for m in (generator, critic))
    random = torch.Generator().manual_seed(5)
    torch.randint(2**62, (), generator=random)
    for done in (1, 2, 3):
        game.step()
        for _ in range(2):
            y = generator(torch.randn(16, 2, generator=random).double()).detach()
            x = data[torch.randint(200, (16,), generator=random)]
            penalty = 10 * gradient_penalty(critic, interpolates(x, y, random))
            of_f.zero_grad()
            (wgan_critic_loss(critic(x), critic(y)) + penalty).backward()
            of_f.step()
        y = generator(torch.randn(16, 2, generator=random).double())
        torch.randint(200, (16,), generator=random)
        of_g.zero_grad()
        wgan_generator_loss(critic(y)).backward()
        of_g.step()
        keep = min(0.5, (1 + done) / (10 + done))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), generator.parameters(), strict=True):
                mean.copy_(keep * mean + (1 - keep) * now)
    assert game.averaged is not None
    for mine, theirs in ((generator, game.generator), (critic, game.critic), (average, game.averaged)):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    row = game.look()
    assert row["step"] == 3
    assert row["penalty"] == pytest.approx(float(penalty.detach()))
    with torch.no_grad():
        last = game._last
        assert row["w1"] == pytest.approx(float(critic(last.x).mean() - critic(last.y).mean()))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_brings_the_generator_nearer(name: str) -> None:
    """Data about (3, 3), samples about 0 at first; the critic is high on data, the estimate positive."""

    def fast(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, 5e-3, betas=(0.5, 0.9))

    # A narrow clip makes slopes of millionths; a wide one is the same method in the units of the data.
    method = wgan(0.3) if name == "WGAN" else lsot_gan(0.5) if name == "LSOT" else METHODS[name]
    game = make(method, generator_optimiser=fast, critic_optimiser=fast, batch_size=32, n_critic=3)

    def off() -> float:
        y = game.sample(200, torch.Generator().manual_seed(1))
        return float(barrow.wasserstein(y, DATA, p=1))

    before = off()
    rows = train(game, 250, every=10)
    assert before > 3
    assert off() < 0.5 * before, (before, off())
    assert max(row["w1"] for row in rows) > 0
    assert ("penalty" in rows[0]) == (name in ("WGAN-GP", "WGAN-LP", "CT-GAN"))


def test_clipping_holds_from_the_first_step_on() -> None:
    game = make(wgan(0.01))
    assert max(float(p.detach().abs().max()) for p in game.critic.parameters()) <= 0.01 + 1e-9
    game.step()
    weights = torch.cat([p.detach().flatten().abs() for p in game.critic.parameters()])
    assert float(weights.max()) <= 0.01 + 1e-9
    assert isinstance(game._optimisers["critic"], torch.optim.RMSprop)
    assert game._optimisers["critic"].param_groups[0]["lr"] == 5e-5


def test_neither_step_leaves_gradients_in_the_other_network() -> None:
    game = make()
    game.step()
    last = [p.grad.clone() for p in game.critic.parameters() if p.grad is not None]
    game._descend("generator", game.method.generator_loss(game._round(game._generate())))
    now = [p.grad for p in game.critic.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(last, now, strict=True))


def test_data_may_be_drawn_by_a_function() -> None:
    def draw(n: int, random: torch.Generator) -> Tensor:
        return DATA[torch.randint(200, (n,), generator=random)]

    one, other = make(data=draw), make()
    assert train(one, 5) == train(other, 5)


def test_schedules_scale_the_rates() -> None:
    game, seen = make(), []

    def schedule(share: float) -> float:
        seen.append(share)
        return 1 - share

    train(game, 4, schedule=schedule)
    assert seen == [0, 0.25, 0.5, 0.75]
    assert all(o.param_groups[0]["lr"] == pytest.approx(0.25e-4) for o in game._optimisers.values())


def test_digits() -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 1, 28, 28)
    game = Wgan(digit_generator(8, 4), digit_critic(4, 0.5), images, 8, method=ct_gan(), batch_size=8, n_critic=1)
    row = train(game, 2)[-1]
    assert set(row) >= {"step", "w1", "penalty"}
    assert game.sample(3, torch.Generator()).shape == (3, 1, 28, 28)


# -- what is reported --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", [Critic(2, (16, 16)), McShaneCritic(2, 50)], ids=["orthogonal", "cones"])
def test_the_certified_scalar_is_below_the_truth_of_its_batches(critic: nn.Module) -> None:
    torch.manual_seed(1)
    game = Wgan(
        perceptron(2, 2, (8,)), copy.deepcopy(critic), DATA, 2, method=lipschitz_gan(), n_critic=1,
        critic_optimiser=lambda p: torch.optim.Adam(p, 1e-2),
    )  # fmt: skip
    for _ in range(40):
        game.step()
        row = game.look()
        truth = float(barrow.wasserstein(game._last.x.double(), game._last.y.double(), p=1))
        assert row["w1_lower"] <= truth * (1 + 1e-5)
        assert row["lipschitz_bound"] == lipschitz_bound(game.critic) <= 1 + 1e-6
    assert row["w1"] > 0.8 * truth
    assert row["w1_lower"] == pytest.approx(row["w1"], rel=1e-4)


def test_free_critics_are_bounded_by_the_product_of_their_layers() -> None:
    game = make(wgan(0.5))
    row = train(game, 20)[-1]
    truth = float(barrow.wasserstein(game._last.x.double(), game._last.y.double(), p=1))
    assert row["w1_lower"] == pytest.approx(max(row["w1"], 0) / row["lipschitz_bound"])
    assert row["w1_lower"] <= truth
    assert "w1_lower" not in train(make(lsot_gan()), 1)[-1]


def test_estimates_that_no_batch_exceeds() -> None:
    for method in (cowgan(), c_transform_gan()):
        game = make(method, critic_optimiser=lambda p: torch.optim.Adam(p, 1e-2), n_critic=3)
        for _ in range(20):
            game.step()
            truth = float(barrow.wasserstein(game._last.x.double(), game._last.y.double(), p=1))
            assert game.look()["w1"] <= truth * (1 + 1e-5)


def test_looking_and_sampling_change_nothing() -> None:
    one, other = make(ct_gan(), ema=0.9), make(ct_gan(), ema=0.9)
    for _ in range(4):
        one.step()
        one.look()
        one.sample(10, torch.Generator().manual_seed(0))
        other.step()
    assert other.history == []
    other.look()
    one.history = one.history[-1:]
    one.look()
    one.history, other.history = one.history[-1:], other.history[-1:]
    assert everything(one.state_dict()) == everything(other.state_dict())
    assert all(module.training for module in one.critic.modules())


def test_rows_and_progress() -> None:
    told: list[tuple[int, int, float]] = []
    rows = train(make(), 25, every=10, progress=lambda step, steps, w1: told.append((step, steps, w1)))
    assert [row["step"] for row in rows] == [10, 20, 25]
    assert told == [(row["step"], 25, row["w1"]) for row in rows]


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            written.append((folder, purge_step or 0, -1))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            written.append(("closed", 0, -1))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    game = make()
    train(game, 4, every=2, log=tmp_path / "log")
    assert written[0] == (str(tmp_path / "log"), 0, -1)
    assert written[-1][0] == "closed"
    rows = [{name: value for name, value, k in written if k == step} for step in (2, 4)]
    assert rows == [{k: v for k, v in row.items() if k != "step"} for row in game.history]
    written.clear()
    train(game, 6, every=2, log=tmp_path / "log")
    assert written[0][1] == 5


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    game = make()
    with pytest.raises(ImportError, match="asks for TensorBoard scalars, but tensorboard is not installed: pip"):
        train(game, 4, log=tmp_path / "log")
    assert game.steps == 0
    train(game, 1)


# -- chance ------------------------------------------------------------------------------------------------------------


def test_the_seed_decides_and_the_callers_numbers_are_left_alone() -> None:
    games = [make(ct_gan(), seed=s) for s in (1, 1, 2)]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    rows = [train(games[0], 5)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(456)
    rows += [train(game, 5) for game in games[1:]]
    assert rows[0] == rows[1] != rows[2]


def test_dropout_does_not_see_the_numbers_of_the_batches() -> None:
    game = make(ct_gan())
    assert not torch.equal(game._noise[0], game._random.get_state())
    before = game._noise[0].clone()
    game.step()
    assert not torch.equal(game._noise[0], before)


# -- memory ------------------------------------------------------------------------------------------------------------


def live_tensors() -> int:
    gc.collect()
    return count_tensors()


def count_tensors() -> int:
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), Tensor))  # isinstance wakes lazy modules


@pytest.mark.parametrize(("name", "steps"), [("WGAN-GP", 1000), ("CT-GAN", 200), ("CoWGAN", 200), ("1-Lipschitz", 200)])
def test_memory_does_not_grow_over_many_steps(name: str, steps: int) -> None:
    method = METHODS[name]
    game = make(method, ema=0.9, n_critic=1, batch_size=4)
    train(game, 5, every=10**9)
    before = live_tensors()
    gc.disable()  # what only the collector would free counts
    try:
        for _ in range(steps):
            game.step()
        uncollected = count_tensors()
    finally:
        gc.enable()
    assert live_tensors() <= before + 2
    assert uncollected <= before + 50


def test_the_check_of_memory_sees_a_leak() -> None:
    kept: list[Tensor] = []
    game = make(n_critic=1, batch_size=4)
    before = live_tensors()
    for _ in range(100):
        game.step()
        kept.append(game._penalty)
    assert live_tensors() > before + 50


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    path, calls = tmp_path / "run.ckpt", [0]

    def data(n: int, random: torch.Generator) -> Tensor:
        calls[0] += 1
        batch = DATA[torch.randint(200, (n,), generator=random)]
        return batch / 0 if calls[0] > 3 * 7 else batch  # three draws a step: from the eighth on

    method = Method("plain", lambda r: wgan_critic_loss(*r.values()))
    game = make(method, data=data)
    with pytest.raises(
        Diverged, match=r"^step 8: the loss of the critic is (nan|inf|-inf); lower .*good checkpoint is "
    ):
        train(game, 20, save=path, save_every=3)
    assert checkpoint.load(path)["steps"] == 6
    assert game.finite()
    calls[0] = -(10**9)
    again = make(method, data=data)
    assert train(again, 20, save=path) == train(make(method, data=data), 20)


def test_samples_and_weights_that_are_not_finite(tmp_path: Path) -> None:
    game = make()
    game.step()
    with torch.no_grad():
        next(game.generator.parameters()).fill_(float("nan"))
    with pytest.raises(
        Diverged, match=r"^step 2: the generator made samples that are NaN or infinite; lower"
    ) as caught:
        train(game, 3)
    assert caught.value.step == 2

    def ruinous(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, float("inf"))

    path = tmp_path / "run.ckpt"
    train(make(), 2, save=path)
    game = make(critic_optimiser=lambda p: torch.optim.SGD(p, 1e-3))
    game._optimisers["generator"].param_groups[0]["lr"] = float("inf")
    other = tmp_path / "other.ckpt"
    with pytest.raises(Diverged, match=r"^step 1: a weight is NaN or infinite; lower"):
        train(game, 1, save=other)
    assert not other.exists()
    assert checkpoint.load(path)["steps"] == 2


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.name != "LSOT"], ids=lambda m: m.name)
def test_batch_normalisation_in_the_critic(method: Method) -> None:
    critic = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    if method.batch_norm:
        game = Wgan(perceptron(2, 2, (8,)), critic, DATA, 2, method=method)
        game.step()
        x = torch.randn(16, 2)
        game._last.x.copy_(game._last.x)
        f_x, f_y = game._last.values()
        # Two passes: data are not normalised together with samples.
        assert torch.allclose(f_x, critic(game._last.x), atol=1e-5)
        assert torch.allclose(f_y, critic(game._last.y), atol=1e-5)
        assert not torch.allclose(critic(torch.cat((game._last.x, x)))[: len(f_x)], f_x, atol=1e-3)
        return
    with pytest.raises(ValueError, match=rf"layer '1' of the critic is a BatchNorm1d, .* but {method.name} needs a fu"):
        Wgan(perceptron(2, 2, (8,)), critic, DATA, 2, method=method)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0, but it must be a whole number of at least 1"),
        ({"n_critic": 0.5}, "n_critic is 0.5, but it must be a whole number"),
        ({"ema": 1.5}, "ema is 1.5, but it must be a number from 0 to 1"),
        ({"seed": -1}, "seed is -1"),
        ({"latent": 0}, "latent is 0"),
        ({"generator": 3}, "generator is a int, but it must be a torch.nn.Module"),
        ({"critic": nn.ReLU()}, r"critic \(ReLU\) has no parameters that require grad: nothing to train"),
        ({"data": DATA / 0}, "data holds NaN or infinity"),
        ({"data": DATA[0]}, r"data has shape \(2,\), but a batch of samples must have shape"),
        ({"method": lipschitz_gan()}, r"only proved to be at most .* but 1-Lipschitz needs 1: build it as barrow.nn.C"),
        (
            {"method": lipschitz_gan(), "critic": nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 1))},
            "1-Lipschitz needs a critic with a proved constant, but layer '0'",
        ),
    ],
)
def test_what_is_refused_at_once(change: dict[str, Any], words: str) -> None:
    steep = perceptron(2, 1, (8,))
    nn.init.constant_(steep[0].weight, 2.0)
    given: dict[str, Any] = {
        "generator": perceptron(2, 2, (8,)), "critic": steep, "data": DATA, "latent": 2, **change
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        Wgan(**given)


def test_what_is_refused_at_the_first_step() -> None:
    with pytest.raises(ValueError, match=r"a batch of data has shape \(64, 3\) in .* but the generator made \(64, 2\)"):
        Wgan(perceptron(2, 2, (8,)), perceptron(3, 1, (8,)), torch.ones(9, 3), 2).step()
    with pytest.raises(ValueError, match="the critic is a Linear, but the consistency term compares what goes into"):
        Wgan(perceptron(2, 2, (8,)), nn.Linear(2, 1), DATA, 2, method=ct_gan()).step()
    with pytest.raises(ValueError, match=r"the critic is a Linear, but LSOT trains two potentials: make it torch.nn.M"):
        Wgan(perceptron(2, 2, (8,)), nn.Linear(2, 1), DATA, 2, method=lsot_gan()).step()


# -- killed and started again ------------------------------------------------------------------------------------------


def test_a_state_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for method in METHODS.values():
        path = tmp_path / f"{method.name}.ckpt"
        whole = make(method, ema=0.9)
        train(whole, 12, every=3, save=tmp_path / "whole.ckpt", save_every=6)
        (tmp_path / "whole.ckpt").unlink()
        checkpoint.previous(tmp_path / "whole.ckpt").unlink()
        train(make(method, ema=0.9), 6, every=3, save=path)
        torch.manual_seed(99)
        again = make(method, ema=0.9, networks=3)  # other first weights, which must not matter
        train(again, 12, every=3, save=path)
        assert everything(again.state_dict()) == everything(whole.state_dict()), method.name


def test_a_game_that_has_begun(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    game = make()
    train(game, 4, save=path)
    train(game, 8, save=path)  # it stands where its checkpoint stands
    whole = make()
    train(whole, 8)
    assert [row["step"] for row in game.history] == [4, 8]
    assert everything(game.generator.state_dict()) == everything(whole.generator.state_dict())
    assert train(game, 8, save=path) == game.history
    other = make()
    train(other, 2)
    with pytest.raises(ValueError, match=r"run.ckpt is at step 8 but the game is at step 2: begin with a new game"):
        train(other, 9, save=path)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: make(wgan_lp()), "of a training with method = 'WGAN-GP', but here it is 'WGAN-LP'"),
        (lambda: make(batch_size=8), "with batch_size = 16, but here it is 8"),
        (lambda: make(seed=6), "with seed = 5, but here it is 6"),
        (lambda: make(ema=0.5), "with ema = None, but here it is 0.5"),
        (
            lambda: Wgan(perceptron(2, 2, (9,)), perceptron(2, 1, (8, 8)), DATA, 2, batch_size=16, n_critic=2, seed=5),
            r"another generator: 0.weight has shape \(8, 2\) there and \(9, 2\) here",
        ),
        (
            lambda: Wgan(perceptron(2, 2, (8,)), perceptron(2, 1, (8,)), DATA, 2, batch_size=16, n_critic=2, seed=5),
            r"another critic: 2.weight has shape \(8, 8\) there and \(1, 8\) here",
        ),
    ],
)
def test_a_checkpoint_of_another_training(tmp_path: Path, other: Callable[[], Wgan], words: str) -> None:
    path = tmp_path / "run.ckpt"
    train(make(), 2, save=path)
    game = other()
    before = everything(game.state_dict())
    with pytest.raises(ValueError, match=words):
        train(game, 4, save=path)
    assert everything(game.state_dict()) == before


def test_a_foreign_or_damaged_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    checkpoint.save(path, {"steps": 1})
    with pytest.raises(ValueError, match=r"the state has no critic, .*: it is not that of such a training"):
        train(make(), 4, save=path)
    path.unlink()
    train(make(), 4, save=path, save_every=2)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"is cut off: .*previous: load that one"):
        train(make(), 4, save=path)
    game = make()
    game.load_state_dict(checkpoint.load(checkpoint.previous(path)))
    assert game.steps == 2


RUN = """
import os, signal, sys, time
import torch
import torch._dynamo  # the first step of an optimiser imports it, in every child
from torch import nn
from barrow.generative import Wgan, ct_gan, perceptron, train

torch.set_num_threads(1)
folder, STEPS = sys.argv[1], 12

def play(path, told=None):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    data = torch.randn(50, 2)
    game = Wgan(perceptron(2, 2, (8,)), critic, data, 2, method=ct_gan(), batch_size=8, n_critic=2, ema=0.9)
    train(game, STEPS, every=1, save=path, save_every=3, progress=told)

def child(path, told=None, delay=None):
    pid = os.fork()
    if pid == 0:
        play(path, told)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

assert child(os.path.join(folder, "whole")) == 0
path = os.path.join(folder, "self")
kills = 0
for at in (1, 3, 7, 8, 12):  # killed by itself within a step, at its look
    def told(step, steps, w1):
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)
    kills += child(path, told) == signal.SIGKILL
assert child(path) == 0
assert kills == 5, kills
print("self", kills)
for run in range(2):  # killed from outside, whenever it may be
    path = os.path.join(folder, f"outside{run}")
    kills, delay = 0, 0.05 + 0.02 * run
    while child(path, delay=delay) == signal.SIGKILL:
        kills += 1
        delay *= 2
    print(f"outside{run}", kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_that_are_killed_end_with_the_same_bits(tmp_path: Path) -> None:
    """The last checkpoints agree to the last bit: weights, optimisers, average, chance and every scalar."""
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 3
    expected = checkpoint.load(tmp_path / "whole")
    assert len(expected["history"]) == 12
    for name, kills in rows:
        assert int(kills) >= 1
        assert everything(checkpoint.load(tmp_path / name)) == everything(expected), name
