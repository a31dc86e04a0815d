"""Training of a certified critic on samples of two laws."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import SupportsIndex, final

import torch
from torch import Tensor

from barrow.estimate.samples import Moments, Source, precise
from barrow.nn.critic import Critic
from barrow.nn.kantorovich import kantorovich_rubinstein
from barrow.nn.linear import OrthogonalLinear, UnitLinear

__all__ = ["Recipe", "exactly", "fit", "student"]

# A short memory: what a gradient says is soon out of date while orthogonal weights turn. On laws with and without noise
# it ends nearer to the truth than (0.9, 0.99); a running mean of the weights on top of it lags and ends further away.
_BETAS = (0.5, 0.9)
_COARSE = 0.8  # of the steps may be in bfloat16; the last ones, which are small, see the digits that it has not
_EVALUATIONS = 50
_LOOK = 512  # samples of a law at most that validate
_FEWEST_TO_VALIDATE = 16

Progress = Callable[[int, int, float], None]


@final
@dataclass(frozen=True)
class Recipe:
    """How a critic is trained; the words are those of `barrow.estimate`."""

    steps: int
    batch_size: int
    learning_rate: float
    widths: tuple[SupportsIndex, ...]
    patience: int | None
    amp: bool
    confidence: float


def fit(
    x: Source, y: Source, recipe: Recipe, generator: torch.Generator | None, progress: Progress | None
) -> tuple[Critic, int, tuple[float, ...]]:
    """The critic, the steps it took and its training objective on the way, from what x and y let train."""
    rows = max(recipe.batch_size, _LOOK)
    moments = [source.survey(rows, generator) for source in (x, y)]
    # Scaled in float64 and about the common centre: far-away or huge data must not lose digits.
    centre = (moments[0].mean + moments[1].mean) / 2
    spread = math.hypot(*(m.about(centre) for m in moments)) / math.sqrt(sum(m.count for m in moments))
    spread = spread if spread > 0 else 1.0
    dtype = torch.promote_types(x.dtype, y.dtype)

    def scaled(t: Tensor) -> Tensor:
        return (precise(t) - centre) / spread

    judge = _judge(x, y, recipe, scaled, generator)
    critic = _drawn(len(centre), recipe.widths, generator).to(x.device, dtype)
    batches = [_scaled(s, recipe.batch_size, generator, lambda t: scaled(t).to(x.device, dtype)) for s in (x, y)]
    steps, step, history = recipe.steps, 0, list[float]()
    optimizer = torch.optim.Adam(critic.parameters(), recipe.learning_rate, betas=_BETAS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step / steps))
    every, often = max(1, steps // 100), max(1, steps // _EVALUATIONS)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        batch_x, batch_y = (next(batch) for batch in batches)
        forward = partial(_in_bfloat16, critic) if recipe.amp and step <= _COARSE * steps else critic
        f = forward(torch.cat((batch_x, batch_y)))
        gain = kantorovich_rubinstein(f[: len(batch_x)], f[len(batch_x) :])
        (-gain).backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step in (1, steps):
            history.append(gain.item() * spread)
            if progress is not None:
                progress(step, steps, history[-1])
        if judge is not None and (step % often == 0 or step == steps) and judge.has_seen_enough(critic):
            break
    best = critic if judge is None else judge.best
    _unscale(best, centre, spread)
    return best, step, tuple(history)


def _pace(done: float) -> float:
    """The share of the learning rate when a share of the steps is done: a cosine, and a ramp over the last quarter.

    Adam's steps do not shrink with the gradient: how near it ends depends on how small the last ones are.
    """
    return (1 + math.cos(math.pi * done)) / 2 * min(1.0, 4 * (1 - done))


def _in_bfloat16(critic: Critic, x: Tensor) -> Tensor:
    """The critic with the products of its hidden layers in bfloat16.

    Not its biases and the last layer: the objective does not change when f is shifted, so those gradients are exactly
    zero, and Adam would turn their rounding errors into whole steps.
    """
    for layer in critic.layers:
        if isinstance(layer, OrthogonalLinear):
            weight = layer.weight
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                product = torch.nn.functional.linear(x, weight)
            assert layer.bias is not None
            x = product.to(x.dtype) + layer.bias
        else:
            x = layer(x)
    return x.squeeze(-1)


def _drawn(size: int, widths: tuple[SupportsIndex, ...], generator: torch.Generator | None) -> Critic:
    # The layers draw from the global generator: give it a seed from the caller's, and its own state back.
    where = torch.device("cpu") if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=where))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        return Critic(size, widths)


def _scaled(
    source: Source, size: int, generator: torch.Generator | None, scaled: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    batches = source.minibatches(size, generator)
    if source.learning <= size:
        everything = scaled(next(batches))
        while True:
            yield everything
    for batch in batches:
        yield scaled(batch)


# -- validation --------------------------------------------------------------------------------------------------------


class _Judge:
    """Keeps the critic of the highest lower bound on samples that neither train nor judge in the end."""

    def __init__(self, x: Tensor, y: Tensor, patience: int, confidence: float) -> None:
        self._x, self._y, self._patience, self._waited = x, y, patience, 0
        self._wide = student(confidence, min(len(x), len(y)) - 1)
        self._best, self.best = -math.inf, Critic(1, ())

    def has_seen_enough(self, critic: Critic) -> bool:
        """Compare one more critic; whether patience is spent."""
        with torch.no_grad():
            f = exactly(critic)
            f_x, f_y = f(self._x), f(self._y)
            spread = math.sqrt(f_x.var().item() / len(f_x) + f_y.var().item() / len(f_y))
            lower = kantorovich_rubinstein(f_x, f_y).item() - self._wide * spread
        if lower > self._best or (not self._waited and self._best == -math.inf):  # the first, whatever became of it
            self._best, self.best, self._waited = lower, copy.deepcopy(critic), 0
        else:
            self._waited += 1
        return self._waited >= self._patience


def _judge(
    x: Source, y: Source, recipe: Recipe, scaled: Callable[[Tensor], Tensor], generator: torch.Generator | None
) -> _Judge | None:
    if (patience := recipe.patience) is None:
        return None
    for source in (x, y):
        if source.count < _FEWEST_TO_VALIDATE:
            raise ValueError(
                f"{source.name} has {source.count} samples, too few to stop early by: patience needs "
                f"{_FEWEST_TO_VALIDATE}; leave it out"
            )
    held_x, held_y = (scaled(s.validate(min(s.count // 8, _LOOK), generator)) for s in (x, y))
    return _Judge(held_x, held_y, patience, recipe.confidence)


def student(confidence: float, degrees: int) -> float:
    """Two-sided Student quantile, by the expansion of Abramowitz and Stegun 26.7.5 (within 1 % from 3 degrees on)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = float(max(degrees, 1))
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


# -- the critic in the units of the data -------------------------------------------------------------------------------


def _linears(critic: Critic) -> list[OrthogonalLinear | UnitLinear]:
    return [layer for layer in critic.layers if isinstance(layer, OrthogonalLinear | UnitLinear)]


def _unscale(critic: Critic, centre: Tensor, spread: float) -> None:
    """Turn g into spread * g((x - centre) / spread), which has the same weights: sorting commutes with scaling."""
    with torch.no_grad():
        layers = _linears(critic)
        for layer in layers:
            assert layer.bias is not None
            layer.bias.copy_(precise(layer.bias) * spread)
        first = layers[0]
        assert first.bias is not None
        first.bias.sub_((precise(first.weight) @ centre).to(first.bias))


def exactly(critic: Critic) -> Callable[[Tensor], Tensor]:
    """The critic with its stored weights, which the certificate is about, in float64: (k, d) to (k,)."""
    # Exported once: a layer computes its weight anew at each access.
    layers: list[Callable[[Tensor], Tensor]] = []
    for layer in critic.layers:
        if isinstance(layer, OrthogonalLinear | UnitLinear):
            plain = layer.to_linear()
            weight = precise(plain.weight)
            layers.append(plain.to(weight.device, weight.dtype))
        else:
            layers.append(layer)

    def value(x: Tensor) -> Tensor:
        x = precise(x)
        for layer in layers:
            x = layer(x)
        return x.squeeze(-1)

    return value


def moments_of(f: Callable[[Tensor], Tensor], pieces: Iterator[Tensor]) -> Moments:
    """The moments of f over samples that come in pieces."""
    moments = Moments()
    for piece in pieces:
        moments.add(f(piece))
    return moments
