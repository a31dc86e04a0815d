"""Batch normalization with one divisor for all features, and what it is exported to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, SupportsIndex

import torch
from torch import Tensor, distributed, nn

from barrow.check import number, shape
from barrow.compat.torchlip.export import ScaledLipschitzModule, SharedLipFactory
from barrow.nn.centering import _dims, _several, _SumOverProcesses
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import _refuse, register

__all__ = ["BatchLipNorm", "ScaleBiasLayer"]


class ScaleBiasLayer(nn.Module):
    """Multiply by a fixed number and add a vector along dimension 1: y = scalar x + bias.

    Args:
        scalar: a finite number, which is not learned.
        num_features: entries of the bias, the size of dimension 1, or 1.
        bias: add a learned vector, initially 0.

    Raises:
        ValueError: scalar is not a finite number, num_features is not positive or does not fit the input.

    >>> ScaleBiasLayer(2.0, 3)(torch.ones(1, 3)).tolist()
    [[2.0, 2.0, 2.0]]
    """

    scalar: Tensor
    bias: nn.Parameter | None

    def __init__(self, scalar: float | Tensor = 1.0, num_features: SupportsIndex = 1, bias: bool = True) -> None:
        super().__init__()
        if not math.isfinite(number("scalar", scalar)):
            raise ValueError(f"scalar must be finite, got {scalar}")
        self.num_features = positive_integer("num_features", num_features)
        kept = scalar.detach().clone() if isinstance(scalar, Tensor) else torch.tensor(float(scalar))
        self.register_buffer("scalar", kept)
        self.register_parameter("bias", nn.Parameter(torch.zeros(self.num_features)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift; the output has the shape of the input."""
        if self.bias is None:
            return x * self.scalar
        if x.ndim < 2 or self.num_features not in (1, x.shape[1]):
            raise ValueError(
                f"x has shape {shape(x)}, but ScaleBiasLayer has num_features={self.num_features}: (samples, features, "
                "...) are expected"
            )
        return x * self.scalar + self.bias.reshape(-1, *[1] * (x.ndim - 2))

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"scalar={self.scalar.item():.6g}, num_features={self.num_features}, bias={self.bias is not None}"


class _Last:
    """The coefficient of the last training batch, with its graph; copies begin without."""

    value: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> _Last:
        return _Last()

    def __reduce__(self) -> tuple[type[_Last], tuple[()]]:
        return _Last, ()


class BatchLipNorm(nn.Module, ScaledLipschitzModule):
    """Subtract the mean of each feature, divide all by the largest standard deviation of any, and add a bias.

        y = (x - mean_c) s + bias_c,     s = 1 / sqrt(max_c var_c),     var_c = unbiased variance

    In training mode mean and variance are those of the batch, in eval mode those of all samples of the epoch, which
    begins with the change from eval to training mode. Not 1-Lipschitz: in eval mode the constant is s, which is what
    `factory` collects, for the network's output to be divided by the product. Choose it where BatchNorm trains and the
    certificate is to be known; where the constant must be one :class:`BatchCentering`.

    torchlip averages the batches' means and mean squares; here the samples of a short last batch count as much as
    others, and means far from zero do not cancel against mean squares. Features of constant value do not raise the
    divisor. Under `torch.distributed` statistics are those of all processes, in training mode too; inside `torch.func`
    transforms no buffer moves.

    Args:
        num_features: the size of the dimensions that are not averaged.
        dim: the dimensions to average over, dimension 0 among them; None is every one but dimension 1 (channels).
        centering: subtract the mean; False takes mean squares times n / (n - 1) for variances.
        bias: add a learned vector, initially 0.
        normalize: divide; False leaves the centering alone.
        factory: where s joins a product.
        eps: where no variance reaches it, s is 1.

    Raises:
        ValueError: num_features does not fit the input, dim leaves out the batch or does not exist, a factory without
            normalize, eps negative, or a training batch of fewer than two numbers a feature.

    >>> layer = BatchLipNorm(2)
    >>> layer(torch.tensor([[0.0, 1.0], [0.0, 5.0], [3.0, 3.0]])).tolist()
    [[-0.5, -1.0], [-0.5, 1.0], [1.0, 0.0]]

    Source: Ioffe, Szegedy, "Batch normalization", ICML 2015, with one divisor.
    """

    bias: nn.Parameter | None
    running_mean: Tensor
    running_variance: Tensor
    num_samples: Tensor

    def __init__(
        self,
        num_features: SupportsIndex = 1,
        dim: int | Iterable[int] | None = None,
        centering: bool = True,
        bias: bool = True,
        normalize: bool = True,
        factory: SharedLipFactory | None = None,
        eps: float = 1e-5,
    ) -> None:
        nn.Module.__init__(self)
        ScaledLipschitzModule.__init__(self, bool(normalize), factory)
        self.num_features = positive_integer("num_features", num_features)
        self.dim = None if dim is None else _several(dim)
        self.centering, self.normalize = bool(centering), bool(normalize)
        self.eps = number("eps", eps)
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
        self.register_parameter("bias", nn.Parameter(torch.zeros(self.num_features)) if bias else None)
        self.register_buffer("running_mean", torch.zeros(self.num_features))
        self.register_buffer("running_variance", torch.ones(self.num_features))
        self.register_buffer("num_samples", torch.zeros((), dtype=torch.int64))
        self._last = _Last()

    def reset_states(self) -> None:
        """Let the next training batch replace the statistics, which stay in force until then."""
        self.num_samples.zero_()

    def train(self, mode: bool = True) -> BatchLipNorm:
        """Change the mode; from eval to training a new epoch begins."""
        if mode and not self.training:
            self.reset_states()
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the output has the shape of the input."""
        kept, dims = self._layout(x)
        if self.training:
            mean, variance = self._batch(x, dims, kept)
            scale = self._scale(variance)
            if not torch._C._are_functorch_transforms_active():
                self._last.value = scale
            y = (x - mean.reshape(kept)) * scale
            return y if self.bias is None else y + self.bias.reshape(kept)
        # As ScaleBiasLayer does it, so that the export is equal to the last bit.
        return x * self.get_scaling().to(x.dtype) + self._shift().to(x.dtype).reshape(kept)

    def get_scaling(self, training: bool = False) -> Tensor:
        """s, of the last training batch (differentiable) or of eval mode."""
        if not training:
            return self._scale(self.running_variance)
        if self._last.value is None:
            raise ValueError("BatchLipNorm has seen no training batch yet: run one, or ask with training=False")
        return self._last.value

    def vanilla_export(self) -> ScaleBiasLayer:
        """What the layer does in eval mode, as one multiplication and one addition."""
        if self.dim is not None and 1 in self.dim:
            raise ValueError(f"dim = {self.dim} averages over dimension 1, along which ScaleBiasLayer has its bias")
        layer = ScaleBiasLayer(self.get_scaling(), self.num_features)
        layer.bias = nn.Parameter(self._shift().detach())
        return layer.train(self.training)

    def _shift(self) -> Tensor:
        shift = -self.running_mean * self.get_scaling()
        return shift if self.bias is None else shift + self.bias

    def _scale(self, variance: Tensor) -> Tensor:
        if not self.normalize:
            return torch.ones_like(variance[0])
        largest = variance.max()
        return torch.where(largest < self.eps, 1, torch.where(largest < self.eps, 1, largest).rsqrt())

    def _layout(self, x: Tensor) -> tuple[list[int], list[int]]:
        if x.ndim == 0 or (self.dim is None and x.ndim < 2):
            raise ValueError(f"x has shape {shape(x)}, but BatchLipNorm needs (samples, features, ...)")
        dims = [0, *range(2, x.ndim)] if self.dim is None else _dims(x, self.dim, "BatchLipNorm")
        if 0 not in dims:
            raise ValueError(f"BatchLipNorm over dim = {self.dim} leaves out dimension 0, the samples: add it")
        kept = [1 if d in dims else size for d, size in enumerate(x.shape)]
        if math.prod(kept) != self.num_features:
            raise ValueError(
                f"BatchLipNorm has num_features={self.num_features}, but an input of shape {shape(x)} has "
                f"{math.prod(kept)} features beside dimensions {tuple(dims)}"
            )
        return kept, dims

    def _batch(self, x: Tensor, dims: list[int], kept: list[int]) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of the batch of all processes; the statistics of the epoch take it in."""
        exact = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        n = _count(x.numel() // self.num_features, x.device)
        if n < 2 and self.normalize:
            raise ValueError(f"x has shape {shape(x)}: a variance needs at least two numbers a feature")
        total = _summed(exact.sum(dims).flatten())
        mean = total / n if self.centering else torch.zeros_like(total)
        variance = _summed((exact - mean.reshape(kept)).square().sum(dims).flatten()) / max(n - 1, 1)
        if torch._C._are_functorch_transforms_active():
            return mean.to(x.dtype), variance.to(x.dtype)
        with torch.no_grad():
            before = int(self.num_samples)
            share = n / (before + n)
            apart = mean.to(self.running_mean.dtype) - self.running_mean
            # Sums of squares add up, and those between the two means join them.
            squares = self.running_variance * max(before - 1, 0) + variance.to(self.running_variance.dtype) * (n - 1)
            if before:
                squares += apart.square() * (before * share)
            self.running_variance.copy_(squares / max(before + n - 1, 1))
            self.running_mean.add_(apart, alpha=share)
            self.num_samples += n
        return mean.to(x.dtype), variance.to(x.dtype)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return (
            f"{self.num_features}, dim={self.dim}, centering={self.centering}, bias={self.bias is not None}, "
            f"normalize={self.normalize}, eps={self.eps}"
        )


def _count(n: int, device: torch.device) -> int:
    """Over all processes."""
    if distributed.is_available() and distributed.is_initialized():
        total = torch.tensor(n, device=device)
        distributed.all_reduce(total)
        return int(total)
    return n


def _summed(t: Tensor) -> Tensor:
    """Over all processes, gradients too."""
    if distributed.is_available() and distributed.is_initialized():
        total: Tensor = _SumOverProcesses.apply(t)
        return total
    return t


def _finite(value: Tensor, module: nn.Module, path: str) -> float:
    scalar = abs(value.detach().double().item())
    if not math.isfinite(scalar):
        raise _refuse(module, path, "its coefficient is not finite; it has diverged, reload or reinitialise it")
    return scalar


@register(ScaleBiasLayer)
def _scale_bias(module: ScaleBiasLayer, path: str) -> float:
    return _finite(module.scalar, module, path)


@register(BatchLipNorm)
def _batch_lip_norm(module: BatchLipNorm, path: str) -> float:
    if module.training and module.normalize:
        raise _refuse(module, path, "in training mode it divides by the batch's own spread; call model.eval() first")
    return _finite(module.get_scaling(), module, path)
