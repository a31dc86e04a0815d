"""The Wasserstein distance between two populations known only through samples, with an error bar on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import SupportsIndex

import torch
from torch import Tensor

from barrow.check import real_tensor, same_kind, shape
from barrow.nn.critic import Critic
from barrow.nn.kantorovich import kantorovich_rubinstein
from barrow.nn.linear import OrthogonalLinear, UnitLinear, positive_integer
from barrow.nn.lipschitz import lipschitz_bound

__all__ = ["Estimate", "estimate"]

# Exact transport between blocks of this size takes milliseconds; larger blocks have less bias.
_BLOCK = 512
_MAX_BLOCKS = 16
_MIN_BLOCKS = 4


@dataclass(frozen=True)
class Estimate:
    """What :func:`estimate` found out about W_1 between two laws.

    Attributes:
        value: mean f(x) - mean f(y) on fresh samples over the Lipschitz bound of f; its expectation is at most W_1.
        lower: value minus its confidence half-width, and at least 0.
        upper: mean exact W_1 between independent minibatches plus its confidence half-width.
        stderr: the standard error of value.
        confidence: the probability, in the limit of many samples, that lower <= W_1 <= upper.
        lipschitz_bound: the certified Lipschitz constant of the critic.
        critic: the trained f, high on x and low on y; takes inputs as they were given.
        steps: optimiser steps taken.
        history: about a hundred values of the training objective from first to last step, in the units of the data.
    """

    value: float
    lower: float
    upper: float
    stderr: float
    confidence: float
    lipschitz_bound: float
    critic: Critic = field(repr=False)
    steps: int
    history: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        return (
            f"Estimate(value={self.value:.6g} ± {self.stderr:.2g}, truth in [{self.lower:.6g}, {self.upper:.6g}] with "
            f"confidence {self.confidence:g}, Lipschitz constant at most {self.lipschitz_bound:.8g})"
        )


def estimate(
    x: Tensor,
    y: Tensor,
    *,
    steps: SupportsIndex = 500,
    batch_size: SupportsIndex = 256,
    learning_rate: float = 0.01,
    widths: Iterable[SupportsIndex] = (128, 64, 32),
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Estimate:
    """Bracket W_1 between the two laws that x and y are drawn from:

        (mean f(x) - mean f(y) - half-width) / L  <=  W_1(P, Q)  <=  mean W_1(minibatch, minibatch) + half-width

    f is a critic with certified Lipschitz constant L, trained on one half of the samples and evaluated on the other,
    so the left side is honest whatever f has learned. The right side holds because W_1 between samples is biased
    upwards. Choose it when the question is about populations and the dimension is high, where the distance between
    the samples themselves is mostly noise. Not for the distance between the given points (`barrow.wasserstein`), nor
    for exponents other than one.

    The bracket assumes independent samples and enough of them for means to be normal (heavy tails need many more).
    Its left side is as tight as the critic is good; its right side shrinks like n^(-1/d) at worst.

    Args:
        x: (n, ...), samples of the first law, n >= 4; images may keep their shape. The device follows x.
        y: (m, ...), samples of the second law, of the same trailing shape.
        steps: optimiser steps, the learning rate going to zero on a cosine.
        batch_size: samples of each law a step.
        learning_rate: of Adam, at the start, on data scaled to unit spread.
        widths: hidden layers of the :class:`barrow.nn.Critic`.
        confidence: probability in (0, 1) that the truth is within [lower, upper].
        generator: source of all randomness; None uses torch's global one.
        progress: called as progress(step, steps, value) about a hundred times, value being the training objective.

    Returns:
        An :class:`Estimate`.

    Raises:
        ValueError: trailing shapes, dtypes or devices differ, fewer than four samples of a law, an integer dtype, NaN
            or infinite entries, or an option out of range.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 2, generator=g), torch.randn(400, 2, generator=g) + torch.tensor([3.0, 4.0])
    >>> e = estimate(x, y, steps=50, widths=(16, 16), generator=g)
    >>> e.lower < 5 < e.upper, e.lipschitz_bound < 1.00001
    (True, True)

    Source: Kantorovich-Rubinstein duality, Villani, "Optimal Transport, Old and New", 2009, equation (5.11); critic
    after Anil, Lucas, Grosse, ICML 2019.
    """
    x, y = _samples(x, y)
    steps, batch_size = positive_integer("steps", steps), positive_integer("batch_size", batch_size)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be a probability between 0 and 1, got {confidence}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    widths = tuple(widths)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x, y = x.detach().clone(), y.detach().clone()
        train_x, fresh_x = _split(x, generator)
        train_y, fresh_y = _split(y, generator)
        critic, history = _train(train_x, train_y, steps, batch_size, learning_rate, widths, generator, progress)
    with torch.no_grad():
        bound = lipschitz_bound(critic)
        f_x, f_y = (_evaluate(critic, _precise(t)) for t in (fresh_x, fresh_y))
        value = kantorovich_rubinstein(f_x, f_y).item() / bound
        stderr = math.sqrt(_variance_of_mean(f_x) + _variance_of_mean(f_y)) / bound
        lower = value - _quantile(confidence, min(len(f_x), len(f_y)) - 1) * stderr
        upper = _upper(x, y, confidence, generator)
    return Estimate(value, max(lower, 0.0), upper, stderr, confidence, bound, critic, steps, history)


def _samples(x: object, y: object) -> tuple[Tensor, Tensor]:
    x, y = real_tensor("x", x, what="samples"), real_tensor("y", y, what="samples")
    same_kind("x", x, "y", y)
    for name, t in (("x", x), ("y", y)):
        if t.ndim == 0 or len(t) < _MIN_BLOCKS or t.numel() == 0:
            raise ValueError(
                f"{name} has shape {shape(t)}, but samples must have shape (n, ...) with n >= {_MIN_BLOCKS}: half of "
                "them train the critic, the others judge it"
            )
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x has shape {shape(x)} but y has shape {shape(y)}: all dimensions but the first must agree")
    for name, t in (("x", x), ("y", y)):
        if not t.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite entries: drop those samples, or clean them with nan_to_num")
    if x.dtype in (torch.float16, torch.bfloat16):
        x, y = x.float(), y.float()
    return x.reshape(len(x), -1), y.reshape(len(y), -1)


def _permutation(n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    where = "cpu" if generator is None else generator.device
    return torch.randperm(n, generator=generator, device=where).to(device)


def _split(t: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    order = _permutation(len(t), generator, t.device)
    half = len(t) // 2
    return t[order[:half]], t[order[half:]]


def _train(
    x: Tensor,
    y: Tensor,
    steps: int,
    batch_size: int,
    learning_rate: float,
    widths: tuple[SupportsIndex, ...],
    generator: torch.Generator | None,
    progress: Callable[[int, int, float], None] | None,
) -> tuple[Critic, tuple[float, ...]]:
    where = torch.device("cpu") if generator is None else generator.device
    # The layers draw from the global generator: give it a seed from the caller's, and its own state back.
    seed = int(torch.randint(2**62, (), generator=generator, device=where))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        critic = Critic(x.shape[1], widths)
    critic = critic.to(x)
    # Scaled in float64 and about the common centre: far-away or huge data must not lose digits.
    wide = [_precise(t) for t in (x, y)]
    centre = (wide[0].mean(0) + wide[1].mean(0)) / 2
    peak = max((t - centre).abs().max() for t in wide).clamp(min=1e-300)
    spread = peak * torch.cat([((t - centre) / peak).square().sum(1) for t in wide]).mean().sqrt()
    spread = torch.where(spread > 0, spread, 1)
    x, y = (((t - centre) / spread).to(x) for t in wide)

    def batch(t: Tensor) -> Tensor:
        if len(t) <= batch_size:
            return t
        return t[torch.randint(len(t), (batch_size,), generator=generator, device=where).to(t.device)]

    optimizer = torch.optim.Adam(critic.parameters(), learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history: list[float] = []
    every = max(1, steps // 100)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        batch_x, batch_y = batch(x), batch(y)
        f = critic(torch.cat((batch_x, batch_y)))
        gain = kantorovich_rubinstein(f[: len(batch_x)], f[len(batch_x) :])
        (-gain).backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step in (1, steps):
            history.append(float(gain.item() * spread))
            if progress is not None:
                progress(step, steps, history[-1])
    _unscale(critic, centre, spread)
    return critic, tuple(history)


def _linears(critic: Critic) -> list[OrthogonalLinear | UnitLinear]:
    return [layer for layer in critic.layers if isinstance(layer, OrthogonalLinear | UnitLinear)]


def _unscale(critic: Critic, centre: Tensor, spread: Tensor) -> None:
    """Turn g into spread * g((x - centre) / spread), which has the same weights: sorting commutes with scaling."""
    with torch.no_grad():
        layers = _linears(critic)
        for layer in layers:
            assert layer.bias is not None
            layer.bias.copy_(layer.bias.to(spread) * spread)
        first = layers[0]
        assert first.bias is not None
        first.bias.sub_((first.weight.to(centre) @ centre).to(first.bias))


def _precise(t: Tensor) -> Tensor:
    """In float64, where a device has it."""
    return t.cpu().double() if t.device.type == "mps" else t.double()


def _evaluate(critic: Critic, x: Tensor) -> Tensor:
    """The critic's values with its stored weights, which the certificate is about, and the arithmetic of x."""
    for layer in critic.layers:
        x = layer.to_linear().to(x)(x) if isinstance(layer, OrthogonalLinear | UnitLinear) else layer(x)
    return x.squeeze(-1)


def _variance_of_mean(f: Tensor) -> float:
    return f.var().item() / len(f)


def _quantile(confidence: float, degrees: int) -> float:
    """Two-sided Student quantile, by the expansion of Abramowitz and Stegun 26.7.5 (within 1 % from 3 degrees on)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = float(max(degrees, 1))
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _upper(x: Tensor, y: Tensor, confidence: float, generator: torch.Generator | None) -> float:
    # All samples serve, those that trained the critic too: nothing here knows the critic.
    fewer = min(len(x), len(y))
    size = min(_BLOCK, fewer // _MIN_BLOCKS)
    blocks = min(_MAX_BLOCKS, fewer // size)
    x = x[_permutation(len(x), generator, x.device)[: size * blocks]]
    y = y[_permutation(len(y), generator, y.device)[: size * blocks]]
    costs = _exact_w1(*(_precise(t).unflatten(0, (blocks, size)) for t in (x, y)))
    return costs.mean().item() + _quantile(confidence, blocks - 1) * math.sqrt(_variance_of_mean(costs))


def _exact_w1(x: Tensor, y: Tensor) -> Tensor:
    from barrow.functional import wasserstein

    return wasserstein(x, y, p=1).cpu()
