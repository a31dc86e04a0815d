"""A generator and a critic in training: all that one step depends on, and the step."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from barrow import check
from barrow.check import shape
from barrow.generative.common import samples
from barrow.generative.methods import Method, OptimiserFactory, Round, batch_norms, no_penalty, wgan_gp
from barrow.nn.kantorovich import kantorovich_rubinstein
from barrow.nn.lipschitz import lipschitz_bound

__all__ = ["Diverged", "Row", "Wgan"]

Draw = Callable[[int, torch.Generator], Tensor]
Row = dict[str, float]


class Diverged(RuntimeError):
    """A loss, a sample or a weight is no finite number any more.

    Attributes:
        step: the generator's step, from 1, at which it was seen.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}; lower the learning rates, or raise the penalty")
        self.step = step


@final
class Wgan:
    """A generator and a critic in training, with all that one step depends on.

        critic:    minimise critic_loss + penalty, n_critic times, each on fresh batches
        generator: minimise generator_loss, once
        average:   m <- e m + (1 - e) theta,   e = min(ema, (1 + t) / (10 + t)) after step t

    Choose it, with :func:`barrow.generative.train`, for every member of the WGAN family
    (:mod:`barrow.generative.methods`). The critic is high on data. All chance is drawn from ``seed``: batches, latents
    and the points of penalties from one generator on the CPU, dropout from torch's global ones (CPU and CUDA), which
    are lent for a step and given back as they were. The networks' first weights are the caller's.

    Args:
        generator: maps latents (B, ...) to samples.
        critic: maps samples to (B,) or (B, 1).
        data: (N, ...), drawn with replacement, or a function (n, torch.Generator) -> (n, ...), which must draw from
            that generator alone.
        latent: numbers in a standard normal latent, or a function as for data.
        method: what is played for.
        batch_size: samples of either side in one step.
        n_critic: the critic's steps for one of the generator.
        ema: weight of the past in the average of generators that :meth:`sample` uses; None for no average.
        seed: of all chance.
        generator_optimiser: makes an optimiser from parameters; that of the method unless given.
        critic_optimiser: likewise.

    Attributes:
        steps: how many steps of the generator are done.
        history: one row of scalars for each look: ``step``; ``w1``, the critic's estimate on a batch, in eval mode;
            ``penalty`` where there is one; and ``lipschitz_bound`` and ``w1_lower`` where the critic has a bound:
            (mean f(x) - mean f(y)) / bound never exceeds the exact W_1 of the two batches, but for the rounding of
            the critic's values. Batches are further apart than their laws.
        averaged: the average of generators, or None.

    Raises:
        ValueError: a critic with BatchNorm where the method needs a function of each sample, one without a Lipschitz
            bound of 1 where the method needs that, or an argument out of its range.

    >>> data = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> game = Wgan(nn.Linear(3, 2), nn.Linear(2, 1), data, latent=3, n_critic=2)
    >>> for _ in range(3):
    ...     game.step()
    >>> game.look()["step"], game.sample(5, torch.Generator().manual_seed(1)).shape
    (3, torch.Size([5, 2]))

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, algorithm 1.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        data: Tensor | Draw,
        latent: int | Draw,
        *,
        method: Method | None = None,
        batch_size: int = 64,
        n_critic: int = 5,
        ema: float | None = None,
        seed: int = 0,
        generator_optimiser: OptimiserFactory | None = None,
        critic_optimiser: OptimiserFactory | None = None,
    ) -> None:
        self.generator, self.critic = generator, critic
        self.method = wgan_gp() if method is None else method
        self.batch_size, self.n_critic = check.whole("batch_size", batch_size), check.whole("n_critic", n_critic)
        self.ema = None if ema is None else check.fraction("ema", ema)
        self.seed = check.whole("seed", seed, least=0)
        self._parameters = {"generator": _trainable("generator", generator), "critic": _trainable("critic", critic)}
        self._device = self._parameters["generator"][0].device
        self._bounded = self._check_critic()
        self._data = _drawing_from(data)
        self._latent = _normal(latent, self._parameters["generator"][0]) if isinstance(latent, int) else latent
        self._optimisers = {
            "generator": (generator_optimiser or self.method.optimiser)(self._parameters["generator"]),
            "critic": (critic_optimiser or self.method.optimiser)(self._parameters["critic"]),
        }
        self._rates = {name: [g["lr"] for g in o.param_groups] for name, o in self._optimisers.items()}
        self.averaged = None if ema is None else copy.deepcopy(generator).requires_grad_(False)
        self.steps = 0
        self.history: list[Row] = []
        self._random = torch.Generator().manual_seed(self.seed)
        # Not the same seed again: dropout would draw the very numbers that choose the batch.
        self._noise = self._noise_from(int(torch.randint(2**62, (), generator=self._random)))
        if self.method.after is not None:
            self.method.after(critic)

    # -- one step ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """The critic's steps, one of the generator, and the average.

        Raises:
            Diverged: a loss or a sample is not finite; the networks are as before the step that would have spoilt them.
        """
        with self._own_noise():
            for _ in range(self.n_critic):
                with torch.no_grad():
                    y = self._generate()
                round = self._round(y)
                penalty = self.method.penalty(round)
                self._descend("critic", self.method.critic_loss(round) + penalty)
                if self.method.after is not None:
                    self.method.after(self.critic)
            self._last, self._penalty = round, penalty.detach()
            self._descend("generator", self.method.generator_loss(self._round(self._generate())))
        self.steps += 1
        if self.averaged is not None:
            self._average()

    def _generate(self) -> Tensor:
        y: Tensor = self.generator(self._latent(self.batch_size, self._random))
        if not bool(y.detach().isfinite().all()):
            raise Diverged(self.steps + 1, "the generator made samples that are NaN or infinite")
        return y

    def _round(self, y: Tensor) -> Round:
        x = self._data(self.batch_size, self._random).to(y.device)
        if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype:
            raise ValueError(
                f"a batch of data has shape {shape(x)} in {x.dtype} but the generator made {shape(y)} in {y.dtype}: "
                "all but the number of samples must agree"
            )
        return Round(self.critic, x, y, self._random)

    def _descend(self, who: str, loss: Tensor) -> None:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(self.steps + 1, f"the loss of the {who} is {value}")
        optimiser = self._optimisers[who]
        optimiser.zero_grad()
        loss.backward(inputs=self._parameters[who])  # the other network's weights get no gradient, and cost none
        optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        assert self.averaged is not None
        assert self.ema is not None
        keep = min(self.ema, (1 + self.steps) / (10 + self.steps))  # at first there is little to remember
        for mean, now in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
        for kept, buffer in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    def scale_rates(self, factor: float) -> None:
        """Set all learning rates to ``factor`` times what they were in the beginning."""
        for name, optimiser in self._optimisers.items():
            for group, rate in zip(optimiser.param_groups, self._rates[name], strict=True):
                group["lr"] = rate * factor

    # -- looks ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def look(self) -> Row:
        """Append a row of scalars about the last step to the history, and return it."""
        with self._own_noise(), _evaluating(self.critic):
            row: Row = {"step": self.steps, "w1": float(self.method.estimate(self._last))}
            if self.method.penalty is not no_penalty:
                row["penalty"] = float(self._penalty)
            if self._bounded:
                row["lipschitz_bound"] = bound = lipschitz_bound(self.critic)
                gain = float(kantorovich_rubinstein(*(v.flatten() for v in self._last.values())))
                row["w1_lower"] = max(gain, 0.0) / bound if bound > 0 else 0.0
        self.history.append(row)
        return row

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n samples, from the average of generators if there is one; training does not notice."""
        model = self.generator if self.averaged is None else self.averaged
        with _evaluating(model):
            drawn: Tensor = model(self._latent(n, generator))
        return drawn

    # -- states --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, and the history; ready for :func:`barrow.checkpoint.save`."""
        return {
            "settings": self._settings(),
            "steps": self.steps,
            "history": [dict(row) for row in self.history],
            "random": self._random.get_state(),
            "noise": list(self._noise),
            **{name: model.state_dict() for name, model in self._models().items()},
            **{f"{name}_optimiser": optimiser.state_dict() for name, optimiser in self._optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` gave.

        Raises:
            ValueError: it is that of another training: other settings, or other networks; nothing is changed then.
        """
        for name, mine in self._settings().items():
            if "settings" in state and state["settings"].get(name) != mine:
                raise ValueError(
                    f"the state is of a training with {name} = {state['settings'].get(name)!r}, but here it is "
                    f"{mine!r}: use that value, or another checkpoint"
                )
        missing = set(self.state_dict()) - set(state)
        if missing:
            raise ValueError(f"the state has no {', '.join(sorted(missing))}: it is not that of such a training")
        for name, model in self._models().items():
            _check_fit(name, model.state_dict(), state[name])
        for name, model in self._models().items():
            model.load_state_dict(state[name])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state[f"{name}_optimiser"])
        self.steps, self.history = state["steps"], [dict(row) for row in state["history"]]
        self._random.set_state(state["random"])
        self._noise = tuple(state["noise"])

    def finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(p.isfinite().all()) for parameters in self._parameters.values() for p in parameters)

    def _settings(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "batch_size": self.batch_size,
            "n_critic": self.n_critic,
            "ema": self.ema,
            "seed": self.seed,
            "device": self._device.type,
            **{f"{name}_optimiser": type(o).__name__ for name, o in self._optimisers.items()},
        }

    def _models(self) -> dict[str, nn.Module]:
        models = {"generator": self.generator, "critic": self.critic}
        return models if self.averaged is None else {**models, "averaged": self.averaged}

    # -- chance --------------------------------------------------------------------------------------------------------

    def _noise_from(self, seed: int) -> tuple[Tensor, ...]:
        with self._forked():
            torch.default_generator.manual_seed(seed)
            if self._device.type == "cuda":
                torch.cuda.manual_seed(seed)
            return self._global_states()

    @contextlib.contextmanager
    def _own_noise(self) -> Iterator[None]:
        """Lend the global generators the states that dropout was left with."""
        with self._forked():
            torch.set_rng_state(self._noise[0])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(self._noise[1], self._device)
            yield
            self._noise = self._global_states()

    def _forked(self) -> contextlib.AbstractContextManager[None]:
        return torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])

    def _global_states(self) -> tuple[Tensor, ...]:
        cuda = (torch.cuda.get_rng_state(self._device),) if self._device.type == "cuda" else ()
        return (torch.get_rng_state(), *cuda)

    # -- what is refused -----------------------------------------------------------------------------------------------

    def _check_critic(self) -> bool:
        """Refuse a critic that the method cannot use; whether it has a Lipschitz bound."""
        for path, layer in () if self.method.batch_norm else batch_norms(self.critic):
            raise ValueError(
                f"layer {path!r} of the critic is a {type(layer).__name__}, which mixes the samples of a batch, but "
                f"{self.method.name} needs a function of each sample: use torch.nn.LayerNorm or torch.nn.GroupNorm, or "
                "no normalisation"
            )
        try:
            with _evaluating(self.critic):
                bound = lipschitz_bound(self.critic)
        except ValueError as error:
            if self.method.bounded:
                raise ValueError(f"{self.method.name} needs a critic with a proved constant, but {error}") from None
            return False
        if self.method.bounded and bound > 1 + 1e-3:
            raise ValueError(
                f"the critic's Lipschitz constant is only proved to be at most {bound:g}, but {self.method.name} needs "
                "1: build it as barrow.nn.Critic, or of barrow.nn.OrthogonalLinear"
            )
        return True


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every layer in eval mode, and back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _trainable(name: str, model: object) -> list[nn.Parameter]:
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} is a {type(model).__name__}, but it must be a torch.nn.Module")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"{name} ({type(model).__name__}) has no parameters that require grad: nothing to train")
    return parameters


def _drawing_from(data: Tensor | Draw) -> Draw:
    if callable(data):
        return data
    kept = samples("data", data)
    return lambda n, random: kept[torch.randint(len(kept), (n,), generator=random).to(kept.device)]


def _normal(size: int, like: Tensor) -> Draw:
    size = check.whole("latent", size)
    return lambda n, random: torch.randn(n, size, generator=random).to(like)


def _check_fit(name: str, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for key in [*mine, *theirs]:
        sizes = [shape(s[key]) if key in s else "nothing" for s in (mine, theirs)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the state is of another {name}: {key} has shape {sizes[1]} there and {sizes[0]} here; build the same "
                "networks, or use another checkpoint"
            )
