"""The Wasserstein distance between two populations known only through samples, with an error bar on both sides."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from barrow.check import same_kind, shape, whole
from barrow.estimate.fitting import Recipe, exactly, fit, moments_of, student
from barrow.estimate.samples import Moments, Source
from barrow.estimate.streams import source
from barrow.nn.critic import Critic
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import lipschitz_bound

__all__ = ["Estimate", "estimate"]

# Exact transport between blocks of this size takes milliseconds; larger blocks have less bias.
_BLOCK = 512
_MAX_BLOCKS = 16
_MIN_BLOCKS = 4

Samples = (
    Tensor
    | npt.NDArray[Any]
    | str
    | os.PathLike[str]
    | Dataset[Any]
    | DataLoader[Any]
    | Iterable[Tensor | tuple[Any, ...]]
)


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
        steps: optimiser steps taken, fewer than asked for where patience ended the training.
        history: about a hundred values of the training objective from first to last step, in the units of the data.
        counts: samples of the two laws.
        shape: of one sample.
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
    counts: tuple[int, int] = field(repr=False)
    shape: tuple[int, ...] = field(repr=False)

    def __str__(self) -> str:
        return (
            f"Estimate(value={self.value:.6g} ± {self.stderr:.2g}, truth in [{self.lower:.6g}, {self.upper:.6g}] with "
            f"confidence {self.confidence:g}, Lipschitz constant at most {self.lipschitz_bound:.8g})"
        )


def estimate(
    x: Samples,
    y: Samples,
    *,
    steps: SupportsIndex = 500,
    batch_size: SupportsIndex = 256,
    learning_rate: float = 0.01,
    widths: Iterable[SupportsIndex] = (128, 64, 32),
    confidence: float = 0.95,
    patience: SupportsIndex | None = None,
    amp: bool | None = None,
    device: torch.device | str | None = None,
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

    Samples may be larger than memory. Held at once are batches and blocks of at most 512 samples of each law, and for
    samples that can be had by number 9 bytes a sample. Everything is read once at the start, to see that it is finite
    and how wide it is. Samples are given as

    * a tensor or numpy array (n, ...), which may be a `numpy.memmap`, or the path of a .npy file, which is mapped;
      integers in arrays are read as float64;
    * the path of a folder of images, or a :class:`barrow.estimate.images.Images` of it with a size;
    * a map-style torch Dataset of tensors or of pairs (tensor, label), or a DataLoader that goes through one in order
      or shuffled: its samples are then read by number in this process, and its shuffling, workers and drop_last are not
      used;
    * any other DataLoader, or a list of batches, or any object whose `__iter__` gives the same batches again: tensors
      (k, ...) or pairs (tensor, labels). It is read from its beginning again and again, a pass an epoch of training and
      a few more, and is refused when it changes. Its order should be random: one that is sorted trains slowly, though
      the bracket stays honest.

    Half of the samples judge and never train: a random half of those that can be had by number; else, of samples 2 k
    and 2 k + 1, the one that a hash of k leaves. Both halves enter the right side, which knows nothing of the critic.

    With patience, an eighth of the samples (at most 512 of each law) is taken from the half that trains, the critic of
    the highest lower bound on it is the one that is returned, and training ends after so many evaluations, one every
    fiftieth of steps, without a better one. The half that judges stays untouched, so the bracket remains honest. Choose
    it for few samples of many dimensions, which a critic learns by heart; with many, all samples should train.

    Args:
        x: samples of the first law, at least 4.
        y: samples of the second law, of the same shape; images may keep theirs.
        steps: optimiser steps at most, the learning rate going to zero on a cosine, and faster in the last quarter.
        batch_size: samples of each law a step.
        learning_rate: of Adam, at the start, on data scaled to unit spread.
        widths: hidden layers of the :class:`barrow.nn.Critic`.
        confidence: probability in (0, 1) that the truth is within [lower, upper].
        patience: evaluations without progress that end the training; needs 16 samples of each law. None trains on the
            whole half, for all steps.
        amp: compute the products of hidden layers in bfloat16 in the first four fifths of the steps, under autocast, on
            any device. Biases, weights, the last layer, the last steps, the judging and the certificate keep their
            precision. None means on CUDA devices, for samples that are not float64.
        device: where the critic is trained. None follows a tensor, and is the CPU for everything else.
        generator: source of all randomness; None uses torch's global one.
        progress: called as progress(step, steps, value) about a hundred times, value being the training objective.

    Returns:
        An :class:`Estimate`.

    Raises:
        ValueError: shapes differ between laws or within one, two tensors differ in dtype or device, fewer than four
            samples of a law, an integer tensor, NaN or infinite entries (it names the sample), labels in the place of
            samples, an iterator that can be read only once, batches that change when they are read again, an image
            that cannot be decoded, or an option out of range.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 2, generator=g), torch.randn(400, 2, generator=g) + torch.tensor([3.0, 4.0])
    >>> e = estimate(x, y, steps=50, widths=(16, 16), generator=g)
    >>> e.lower < 5 < e.upper, e.lipschitz_bound < 1.00001
    (True, True)
    >>> e = estimate(x.split(100), y.split(50), steps=50, widths=(16, 16), generator=g)
    >>> e.lower < 5 < e.upper, e.counts
    (True, (400, 400))

    Source: Kantorovich-Rubinstein duality, Villani, "Optimal Transport, Old and New", 2009, equation (5.11); critic
    after Anil, Lucas, Grosse, ICML 2019.
    """
    steps, batch_size = positive_integer("steps", steps), positive_integer("batch_size", batch_size)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be a probability between 0 and 1, got {confidence}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    left, right = _sources(x, y, batch_size, device)
    recipe = Recipe(
        steps,
        batch_size,
        learning_rate,
        tuple(widths),
        None if patience is None else whole("patience", patience),
        _mixed(amp, left, right),
        confidence,
    )
    with torch.inference_mode(False), torch.autocast(left.device.type, enabled=False):
        with torch.enable_grad():
            critic, taken, history = fit(left, right, recipe, generator, progress)
        with torch.no_grad():
            bound = lipschitz_bound(critic)
            f, rows = exactly(critic), max(batch_size, _BLOCK)
            f_x, f_y = (moments_of(f, s.judges(rows)) for s in (left, right))
            value = float(f_x.mean - f_y.mean) / bound
            stderr = math.hypot(f_x.stderr, f_y.stderr) / bound
            lower = value - student(confidence, min(f_x.count, f_y.count) - 1) * stderr
            upper = _upper(left, right, confidence, generator)
    counts = left.count, right.count
    return Estimate(
        value, max(lower, 0.0), upper, stderr, confidence, bound, critic, taken, history, counts, left.shape
    )


def _sources(x: Samples, y: Samples, rows: int, device: torch.device | str | None) -> tuple[Source, Source]:
    place = None if device is None else _device(device)
    if place is None:
        # Everything else follows a tensor.
        place = next((t.device for t in (x, y) if isinstance(t, Tensor)), None)
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.is_floating_point() and y.is_floating_point():
        same_kind("x", x, "y", y if device is None else y.to(x.device))
    left, right = source("x", x, rows=rows, device=place), source("y", y, rows=rows, device=place)
    if left.shape != right.shape:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            raise ValueError(
                f"x has shape {shape(x)} but y has shape {shape(y)}: all dimensions but the first must agree"
            )
        raise ValueError(
            f"a sample of {left.name} has shape {left.shape} but one of {right.name} has shape {right.shape}: both "
            "must agree"
        )
    return left, right


def _device(given: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=given).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(f"device is {str(given)!r}, but nothing can be put there ({reason}): take 'cpu'") from None


def _mixed(amp: bool | None, x: Source, y: Source) -> bool:
    wide = torch.promote_types(x.dtype, y.dtype) == torch.float64
    if amp and wide:
        raise ValueError(
            "amp is True but the samples are float64, which autocast leaves alone: convert them to float32"
        )
    return x.device.type == "cuda" and not wide if amp is None else amp


def _upper(x: Source, y: Source, confidence: float, generator: torch.Generator | None) -> float:
    # All samples serve, those that trained the critic too: nothing here knows the critic.
    fewer = min(x.count, y.count)
    size = min(_BLOCK, fewer // _MIN_BLOCKS)
    blocks = min(_MAX_BLOCKS, fewer // size)
    costs = Moments()
    for block_x, block_y in zip(x.blocks(size, blocks, generator), y.blocks(size, blocks, generator), strict=True):
        costs.add(_exact_w1(block_x, block_y).double())
    return float(costs.mean) + student(confidence, blocks - 1) * costs.stderr


def _exact_w1(x: Tensor, y: Tensor) -> Tensor:
    from barrow.functional import wasserstein

    return wasserstein(x, y, p=1).cpu()
