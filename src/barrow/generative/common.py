"""What objectives and penalties ask of a critic's values and of a batch of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from barrow.check import compute_dtype, real_tensor, same_kind, shape
from barrow.ops import distance


def critic_values(name: str, values: object, batch: Tensor | None = None) -> Tensor:
    """A critic's values as (B,), in float32 at least; refuse anything but (B,) or (B, 1), one a sample of the batch."""
    values = real_tensor(name, values, what="the values of a critic")
    size = "B" if batch is None else str(len(batch))
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
        raise ValueError(
            f"{name} has shape {shape(values)}, but a critic gives one number a sample, shape ({size},) or "
            f"({size}, 1): end it with one output, or average over the rest with {name}.flatten(1).mean(1)"
        )
    if values.shape[0] == 0:
        raise ValueError(f"{name} has shape {shape(values)}, but a mean needs at least one sample: skip empty batches")
    if batch is not None and values.shape[0] != len(batch):
        raise ValueError(
            f"{name} has shape {shape(values)}, but there are {size} samples: expected ({size},) or ({size}, 1), "
            "the critic's values on the same batch"
        )
    if batch is not None and values.device != batch.device:
        raise ValueError(f"{name} is on {values.device} but its samples are on {batch.device}: move one of them")
    # Means of many bfloat16 numbers, and differences of near ones, lose what they are made for.
    return values.reshape(-1).to(compute_dtype(values.dtype))


def samples(name: str, t: object) -> Tensor:
    """Refuse anything but a batch (B, ...) of at least one sample, all of whose numbers are finite."""
    points = real_tensor(name, t, what="a batch of samples")
    if points.ndim < 2:
        raise ValueError(
            f"{name} has shape {shape(points)}, but a batch of samples must have shape (B, ...): "
            f"for numbers on a line use {name}.unsqueeze(-1)"
        )
    if points.numel() == 0:
        raise ValueError(
            f"{name} has shape {shape(points)}, but a batch needs at least one sample of at least one number: "
            "skip empty batches"
        )
    finite = torch.isfinite(points.detach()).flatten(1).all(1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise ValueError(
            f"{name} holds NaN or infinity in {bad} of its {len(finite)} samples, but samples must be finite: look at "
            "what made them (a generator that diverged, a division by a zero deviation)"
        )
    return points


def two_batches(x: object, y: object) -> tuple[Tensor, Tensor]:
    """Refuse two batches whose samples are not of one shape; their numbers of samples may differ."""
    x, y = samples("x", x), samples("y", y)
    same_kind("x", x, "y", y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x has shape {shape(x)} but y has shape {shape(y)}: all dimensions but the first must agree, "
            "resize or crop one of them"
        )
    return x, y


def distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| over all numbers of a sample, for (n, ...) and (m, ...): (n, m)."""
    dtype = compute_dtype(x.dtype)
    return distance.all_pairs(x.flatten(1).to(dtype), y.flatten(1).to(dtype), p=1, norm=2)
