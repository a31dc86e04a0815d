"""Centering: normalisation without the division that would break the Lipschitz bound."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, SupportsIndex

import torch
from torch import Tensor, distributed, nn

from barrow.check import shape
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register

__all__ = ["BatchCentering", "LayerCentering"]


def _dims(x: Tensor, dim: tuple[int, ...], name: str) -> list[int]:
    for d in dim:
        if not -x.ndim <= d < x.ndim:
            raise ValueError(f"dim = {d} of {name} does not exist in an input of shape {shape(x)}")
    return sorted({d % x.ndim for d in dim})


def _several(dim: int | Iterable[int]) -> tuple[int, ...]:
    several = (dim,) if isinstance(dim, int) else tuple(dim)
    if not several:
        raise ValueError("dim is empty: name the dimensions to average over")
    return several


class LayerCentering(nn.Module):
    """Subtract the mean of each sample over some dimensions and add a learned bias.

        y = x - mean(x over dim) + bias

    An orthogonal projection and a translation: 1-Lipschitz, with norm exactly 1 wherever more than one number is
    averaged. Choose it in place of LayerNorm or InstanceNorm in 1-Lipschitz networks. Not where the mean of a channel
    carries what is to be learned: it is removed.

    Args:
        num_features: entries of the bias: 1, or the size of dimension 1 (channels).
        dim: the dimensions within a sample to average over; (-2, -1) are the pixels of each channel.
        bias: add a learned vector, initially 0.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ValueError: num_features does not fit the input; dim is empty, does not exist or reaches dimension 0, the
            samples, which would mix them.

    >>> LayerCentering(dim=-1)(torch.tensor([[1.0, 2.0, 6.0]])).tolist()
    [[-2.0, -1.0, 3.0]]

    Source: Ba, Kiros, Hinton, "Layer normalization", arXiv 1607.06450 (2016), without the division.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: SupportsIndex = 1,
        dim: int | Iterable[int] = (-2, -1),
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = positive_integer("num_features", num_features)
        self.dim = _several(dim)
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(self.num_features, device=device, dtype=dtype)) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Centre; the output has the shape of the input."""
        dims = _dims(x, self.dim, "LayerCentering")
        if 0 in dims:
            raise ValueError(
                f"LayerCentering over dim = {self.dim} of shape {shape(x)} would average over dimension 0, the "
                "samples: choose other dimensions, or BatchCentering"
            )
        y = x - x.mean(dims, keepdim=True)
        if self.bias is None:
            return y
        if self.num_features == 1:
            return y + self.bias
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"LayerCentering has num_features={self.num_features}, but dimension 1 of {shape(x)} has size "
                f"{x.shape[1]}"
            )
        return y + self.bias.reshape(-1, *[1] * (x.ndim - 2))

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.num_features}, dim={self.dim}, bias={self.bias is not None}"


class BatchCentering(nn.Module):
    """Subtract the mean of the batch, in eval mode a running mean, and add a learned bias.

        training:  y = x - mean(x over dim) + bias          eval:  y = x - running_mean + bias

    In eval mode a translation: each sample is mapped with Lipschitz constant 1. In training mode samples mix: the map
    of the whole batch is an orthogonal projection (norm 1), but one output moves also when another sample does.
    Choose it in place of BatchNorm in 1-Lipschitz networks. Not for batches of one sample, of which nothing is left.

    Under `torch.distributed` the mean is that of all processes' samples, and so is its gradient. Inside `torch.func`
    transforms, which are of functions, training mode moves no buffer.

    Args:
        num_features: the number of means: the product of the sizes of the dimensions that are not averaged.
        dim: the dimensions to average over, dimension 0 among them; None is every one but dimension 1 (channels).
        bias: add a learned vector, initially 0, one entry a mean.
        momentum: the weight of a new batch in the running mean, an exponential average. The first 1 / momentum batches
            are averaged equally, so that the start at 0 leaves no trace. None averages all batches equally.
        device: where parameters and buffers live.
        dtype: of parameters and buffers.

    Attributes:
        running_mean: (num_features,), what eval mode subtracts; a buffer that only training moves.
        num_batches_tracked: batches seen in training since the last :meth:`reset_running_mean`.

    Raises:
        ValueError: num_features does not fit the input, dim leaves out the batch or does not exist, momentum is not in
            (0, 1], or a training batch is empty.

    >>> layer = BatchCentering(2)
    >>> layer(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
    >>> layer.eval()(torch.tensor([[1.0, 2.0]])).tolist()
    [[-1.0, -2.0]]

    Source: Ioffe, Szegedy, "Batch normalization", ICML 2015, without the division.
    """

    bias: nn.Parameter | None
    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: SupportsIndex,
        dim: int | Iterable[int] | None = None,
        bias: bool = True,
        *,
        momentum: float | None = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = positive_integer("num_features", num_features)
        self.dim = None if dim is None else _several(dim)
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1] or None, got {momentum}")
        self.momentum = momentum
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(self.num_features, device=device, dtype=dtype)) if bias else None
        )
        self.register_buffer("running_mean", torch.zeros(self.num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.zeros((), device=device, dtype=torch.int64))

    def reset_running_mean(self) -> None:
        """Let the next training batch replace the running mean, which stays in force until then."""
        self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Centre; the output has the shape of the input."""
        if x.ndim == 0 or (self.dim is None and x.ndim < 2):
            raise ValueError(f"x has shape {shape(x)}, but BatchCentering needs (samples, features, ...)")
        if self.dim is None:
            dims = [0, *range(2, x.ndim)]
        else:
            dims = _dims(x, self.dim, "BatchCentering")
        if 0 not in dims:
            raise ValueError(
                f"BatchCentering over dim = {self.dim} leaves out dimension 0, the samples: add it, or use "
                "LayerCentering"
            )
        kept = [1 if d in dims else size for d, size in enumerate(x.shape)]
        if math.prod(kept) != self.num_features:
            raise ValueError(
                f"BatchCentering has num_features={self.num_features}, but an input of shape {shape(x)} has "
                f"{math.prod(kept)} means over dimensions {tuple(dims)}"
            )
        if self.training:
            mean = self._batch_mean(x, dims)
        else:
            mean = self.running_mean.to(x.dtype)
        y = x - mean.reshape(kept)
        return y if self.bias is None else y + self.bias.reshape(kept)

    def _batch_mean(self, x: Tensor, dims: list[int]) -> Tensor:
        mean: Tensor
        several = distributed.is_available() and distributed.is_initialized()
        if several:
            # Totals and counts rather than means: processes may hold batches of different sizes. Half precision
            # would overflow in a total.
            exact = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            total = exact.sum(dims).flatten()
            count = total.new_full((1,), x.numel() // self.num_features)
            both = _SumOverProcesses.apply(torch.cat((total, count)))
            mean = (both[:-1] / both[-1]).to(x.dtype)
        else:
            if x.numel() == 0:
                raise ValueError(f"x has shape {shape(x)}: an empty batch has no mean")
            mean = x.mean(dims).flatten()
        if torch._C._are_functorch_transforms_active():
            return mean
        with torch.no_grad():
            self.num_batches_tracked += 1
            # Tensor arithmetic, so that nothing waits for the device and torch.compile sees one graph.
            share = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
            if self.momentum is not None:
                share = share.clamp(min=self.momentum)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        return mean

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.num_features}, dim={self.dim}, bias={self.bias is not None}, momentum={self.momentum}"


class _SumOverProcesses(torch.autograd.Function):
    """A sum over all processes; every process's loss depends on every process's input, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        total = t.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        distributed.all_reduce(total)
        return total


@register(LayerCentering)
def _layer_centering(module: LayerCentering, path: str) -> float:
    # Over whichever dimensions, which the input decides: identity minus mean is an orthogonal projection.
    return 1.0


@register(BatchCentering)
def _batch_centering(module: BatchCentering, path: str) -> float:
    # In eval mode a translation of each sample. In training mode a projection of the whole batch, which is what the
    # bound speaks of where samples mix.
    return 1.0
