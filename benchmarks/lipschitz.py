"""Training steps of 1-Lipschitz networks: linear and convolutional, against torchlip, orthogonium and plain torch."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barrow.nn import GroupSort, OrthogonalConv2d, OrthogonalLinear, UnitLinear
from benchmarks.harness import Case, Contender, Judged, Setting

Build = Callable[[Setting], nn.Module]
RATE = 1e-3


class Training:
    """One input for everybody, and a network in training for each contender, built on its first step."""

    def __init__(self, setting: Setting, x: Tensor) -> None:
        self.setting, self.x = setting, x
        self._running: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}

    def step(self, name: str, build: Build) -> nn.Module:
        """Forward, Kantorovich-Rubinstein on two halves, backward, Adam."""
        if name not in self._running:
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                net = build(self.setting)
            self._running[name] = net, torch.optim.Adam(net.parameters(), RATE)
        net, optimiser = self._running[name]
        optimiser.zero_grad()
        high, low = net(self.x).flatten(1).mean(1).chunk(2)
        (low.mean() - high.mean()).backward()
        optimiser.step()
        return net


def contender(name: str, package: str, build: Build) -> Contender:
    return Contender(name, package, lambda data: (data.step(name, build), data.x), lambda found: found)


def judge(known: None, found: tuple[nn.Module, Tensor]) -> Judged:
    """The largest singular value of hidden layers, and how far any of theirs is from one."""
    net, x = found
    net(x[:2])  # the weights after the last step
    values = torch.cat([spectrum(layer) for layer in net.modules() if hidden(layer)])
    low, high = float(values.min()), float(values.max())
    return Judged(high, max(high - 1, 1 - low), f"singular values {low:.6f} to {high:.6f}")


def hidden(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim in (2, 4) and weight.shape[0] > 1


def spectrum(layer: Any, grid: int = 8) -> Tensor:
    """Singular values of a matrix, or of a kernel's symbol at grid x grid frequencies."""
    weight: Tensor = layer.weight.detach().double()
    if weight.ndim == 2:
        return torch.linalg.svdvals(weight)
    # A stride is a convolution of stride one on unshuffled pixels.
    s1, s2 = layer.stride
    weight = nn.functional.pad(weight, (0, -weight.shape[3] % s2, 0, -weight.shape[2] % s1))
    taps = nn.functional.pixel_unshuffle(weight, s1) if s1 > 1 else weight
    assert s1 == s2
    symbol = torch.fft.fft2(taps, (grid, grid)).permute(2, 3, 0, 1)
    return torch.linalg.svdvals(symbol).flatten()


# -- linear layers -----------------------------------------------------------------------------------------------------


def linear_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (1024,):
        yield Setting(256, n, n, "orthogonal", "3 layers")


def stacked(
    linear: Callable[[int, int], nn.Module], sort: Callable[[], nn.Module], last: Callable[[int, int], nn.Module]
) -> Build:
    def build(setting: Setting) -> nn.Module:
        width = setting.d
        layers = [module for _ in range(3) for module in (linear(width, width), sort())]
        return nn.Sequential(*layers, last(width, 1))

    return build


def peer(module: str, name: str) -> Callable[..., nn.Module]:
    """A layer of a library that is imported when it is built."""

    def make(*arguments: Any, **options: Any) -> nn.Module:
        layer: nn.Module = getattr(importlib.import_module(module), name)(*arguments, **options)
        return layer

    return make


TORCHLIP, ORTHOGONIUM = "deel.torchlip", "orthogonium.layers"

LINEAR_STEP = Case(
    "lipschitz-linear",
    (
        contender("barrow OrthogonalLinear", "barrow", stacked(OrthogonalLinear, lambda: GroupSort(2), UnitLinear)),
        contender(
            "torchlip SpectralLinear",
            "deel-torchlip",
            stacked(peer(TORCHLIP, "SpectralLinear"), peer(TORCHLIP, "GroupSort2"), peer(TORCHLIP, "FrobeniusLinear")),
        ),
        contender(
            "orthogonium OrthoLinear",
            "orthogonium",
            stacked(peer(ORTHOGONIUM, "OrthoLinear"), peer(ORTHOGONIUM, "MaxMin"), peer(ORTHOGONIUM, "UnitNormLinear")),
        ),
        contender("torch Linear, not orthogonal", "torch", stacked(nn.Linear, lambda: GroupSort(2), nn.Linear)),
    ),
    linear_settings,
    lambda setting: Training(setting, torch.randn(setting.n, setting.d, generator=torch.Generator().manual_seed(0))),
    lambda data: None,
    judge,
)

# -- convolutions ------------------------------------------------------------------------------------------------------


def convolution_settings(sizes: Sequence[int]) -> Iterable[Setting]:
    for n in sizes or (128,):
        yield Setting(n, 3, 32, "orthogonal", "4 convolutions")


def convolutions(
    convolution: Callable[..., nn.Module], sort: Callable[[], nn.Module], last: Callable[[int, int], nn.Module]
) -> Build:
    """3 -> 32 -> 64 (stride 2) -> 64 -> 128 (stride 2) channels, 3 x 3, on 32 x 32 pixels."""

    def build(setting: Setting) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
            layers += [convolution(before, after, 3, stride=stride, padding=1, padding_mode="zeros"), sort()]
        return nn.Sequential(*layers, nn.Flatten(), last(128 * (setting.d // 4) ** 2, 1))

    return build


CONVOLUTION_STEP = Case(
    "lipschitz-convolution",
    (
        contender(
            "barrow OrthogonalConv2d", "barrow", convolutions(OrthogonalConv2d, lambda: GroupSort(2), UnitLinear)
        ),
        contender(
            "torchlip SpectralConv2d",
            "deel-torchlip",
            convolutions(
                peer(TORCHLIP, "SpectralConv2d"), peer(TORCHLIP, "GroupSort2"), peer(TORCHLIP, "FrobeniusLinear")
            ),
        ),
        contender(
            "orthogonium AdaptiveOrthoConv2d",
            "orthogonium",
            convolutions(
                peer(ORTHOGONIUM, "AdaptiveOrthoConv2d"),
                peer(ORTHOGONIUM, "MaxMin"),
                peer(ORTHOGONIUM, "UnitNormLinear"),
            ),
        ),
        contender("torch Conv2d, not orthogonal", "torch", convolutions(nn.Conv2d, lambda: GroupSort(2), nn.Linear)),
    ),
    convolution_settings,
    lambda setting: Training(
        setting, torch.randn(setting.n, setting.m, setting.d, setting.d, generator=torch.Generator().manual_seed(0))
    ),
    lambda data: None,
    judge,
)
