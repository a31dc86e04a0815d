"""The names of deel-torchlip that estimate a Wasserstein distance or classify with one, on barrow's exact layers.

Differences worth knowing: weights are exact at every moment (in eval mode too, and after `load_state_dict`), the
tolerances `eps_spectral` and `eps_bjorck` are upper limits that are always met, `k_coef_lip` works wherever it is
given, and :func:`barrow.nn.lipschitz_bound` certifies the result.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, SupportsIndex

from torch import Tensor, nn

from barrow.compat.torchlip import functional, init, normalizers, utils
from barrow.compat.torchlip import rounding as rounding  # the import registers its rules
from barrow.compat.torchlip.convolutions import (
    FrobeniusConv2d,
    SpectralConv1d,
    SpectralConv2d,
    SpectralConvTranspose2d,
)
from barrow.compat.torchlip.export import (
    LipschitzModule,
    ScaledLipschitzModule,
    SharedLipFactory,
    WithCoefficient,
    check_tolerances,
    vanilla_model,
)
from barrow.compat.torchlip.export import coefficient as _coefficient
from barrow.compat.torchlip.layers import (
    BatchCentering,
    GroupSort2,
    HouseHolder,
    InvertibleDownSampling,
    InvertibleUpSampling,
    LayerCentering,
    LipResidual,
    LPReLU,
    MaxMin,
    ScaledAdaptativeL2NormPool2d,
    ScaledAdaptiveAvgPool2d,
    ScaledAvgPool2d,
    ScaledL2NormPool2d,
)
from barrow.compat.torchlip.losses import (
    CategoricalHingeLoss,
    HingeMarginLoss,
    HingeMulticlassLoss,
    HKRLoss,
    HKRMulticlassLoss,
    KRLoss,
    KRMulticlassLoss,
    LseHKRMulticlassLoss,
    NegKRLoss,
    SoftHKRMulticlassLoss,
    TauBCEWithLogitsLoss,
    TauCrossEntropyLoss,
    process_labels_for_multi_gpu,
)
from barrow.compat.torchlip.normalization import BatchLipNorm, ScaleBiasLayer
from barrow.compat.torchlip.padded_convolutions import PadConv1d, PadConv2d
from barrow.compat.torchlip.sorting import FullSort, GroupSort
from barrow.nn.export import Scale, register_export
from barrow.nn.linear import OrthogonalLinear, UnitLinear
from barrow.nn.lipschitz import linear, register, sequential, times
from barrow.ops.polar import polar

__all__ = [
    "BatchCentering",
    "BatchLipNorm",
    "CategoricalHingeLoss",
    "FrobeniusConv2d",
    "FrobeniusLinear",
    "FullSort",
    "GroupSort",
    "GroupSort2",
    "HKRLoss",
    "HKRMulticlassLoss",
    "HingeMarginLoss",
    "HingeMulticlassLoss",
    "HouseHolder",
    "InvertibleDownSampling",
    "InvertibleUpSampling",
    "KRLoss",
    "KRMulticlassLoss",
    "LPReLU",
    "LayerCentering",
    "LipResidual",
    "LipschitzModule",
    "LipschitzPReLU",
    "LseHKRMulticlassLoss",
    "MaxMin",
    "NegKRLoss",
    "PadConv1d",
    "PadConv2d",
    "ScaleBiasLayer",
    "ScaledAdaptativeL2NormPool2d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledAvgPool2d",
    "ScaledL2NormPool2d",
    "ScaledL2NormPooling2D",
    "ScaledLipschitzModule",
    "Sequential",
    "SharedLipFactory",
    "SoftHKRMulticlassLoss",
    "SpectralConv1d",
    "SpectralConv2d",
    "SpectralConvTranspose2d",
    "SpectralLinear",
    "TauBCEWithLogitsLoss",
    "TauCrossEntropyLoss",
    "functional",
    "init",
    "normalizers",
    "process_labels_for_multi_gpu",
    "utils",
    "vanilla_model",
]

# Two names that torchlip lists without having them.
LipschitzPReLU = LPReLU
ScaledL2NormPooling2D = ScaledL2NormPool2d


class SpectralLinear(OrthogonalLinear, WithCoefficient):
    """A linear layer whose weight has all singular values equal to k_coef_lip: :class:`barrow.nn.OrthogonalLinear` x k.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: add a learned vector.
        k_coef_lip: the Lipschitz constant of the layer.
        eps_spectral: largest tolerated error of the norm; always met, so any value from 1e-5 up is the same.
        eps_bjorck: largest tolerated error of orthogonality, likewise. None, which in torchlip leaves out the
            orthogonalisation, is refused.

    Raises:
        ValueError: a size or coefficient is not positive, a tolerance is below 1e-5, or eps_bjorck is None.

    >>> import torch
    >>> layer = SpectralLinear(8, 3, k_coef_lip=2.0)
    >>> torch.linalg.svdvals(layer.weight).round(decimals=4).tolist()
    [2.0, 2.0, 2.0]
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        out_features: SupportsIndex,
        bias: bool = True,
        k_coef_lip: float = 1.0,
        eps_spectral: float = 1e-3,
        eps_bjorck: float | None = 1e-3,
    ) -> None:
        check_tolerances(eps_spectral, eps_bjorck)
        super().__init__(in_features, out_features, bias)
        self.k_coef_lip = self.gain = _coefficient(k_coef_lip)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return super().extra_repr() + _shown(self.k_coef_lip)


class FrobeniusLinear(UnitLinear, WithCoefficient):
    """A linear layer whose weight is divided by its Frobenius norm, row by row or as a whole, times k_coef_lip.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: add a learned vector.
        disjoint_neurons: True gives each row norm k_coef_lip (each output alone has that Lipschitz constant, all
            together up to sqrt(out_features) times as much); False gives the whole matrix Frobenius norm k_coef_lip.
        k_coef_lip: the Lipschitz constant, as just said.

    Raises:
        ValueError: a size or the coefficient is not positive.

    >>> FrobeniusLinear(8, 2, disjoint_neurons=False, k_coef_lip=3.0).weight.norm().round(decimals=4)
    tensor(3., grad_fn=<RoundBackward1>)
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        out_features: SupportsIndex,
        bias: bool = True,
        disjoint_neurons: bool = True,
        k_coef_lip: float = 1.0,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.disjoint_neurons = bool(disjoint_neurons)
        self.k_coef_lip = _coefficient(k_coef_lip)

    def derive(self) -> Tensor:
        """The normalised matrix (out_features, in_features)."""
        if self.disjoint_neurons:
            unit = polar(self.raw_weight.unsqueeze(-2)).squeeze(-2)
        else:
            unit = polar(self.raw_weight.reshape(1, -1)).reshape(self.raw_weight.shape)
        return _scaled(unit, self.k_coef_lip)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        disjoint = "" if self.disjoint_neurons else ", disjoint_neurons=False"
        return super().extra_repr() + disjoint + _shown(self.k_coef_lip)


class Sequential(nn.Sequential, WithCoefficient):
    """Layers in a row, times k_coef_lip: the constant of the whole is k_coef_lip times the product of the layers'.

    Args:
        layers: modules, or one OrderedDict of them, as for :class:`torch.nn.Sequential`.
        k_coef_lip: the Lipschitz constant of the whole when the layers have constant 1. The output is multiplied by
            it, so it also works for layers that take no coefficient. Modules without a Lipschitz bound are accepted
            as in torchlip; :func:`barrow.nn.lipschitz_bound` refuses them by name.

    Raises:
        ValueError: k_coef_lip is not positive, or a Sequential with a coefficient is sliced: a part has no
            coefficient of its own.

    >>> from barrow.nn import lipschitz_bound
    >>> model = Sequential(SpectralLinear(4, 4), FullSort(), k_coef_lip=5.0)
    >>> round(lipschitz_bound(model), 4)
    5.0
    """

    def __init__(self, *layers: Any, k_coef_lip: float = 1.0) -> None:
        super().__init__(*layers)
        self.k_coef_lip = _coefficient(k_coef_lip)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and self.k_coef_lip != 1:
            raise ValueError(
                f"a part of a Sequential with k_coef_lip={self.k_coef_lip} has no coefficient of its own: build it "
                "with Sequential(*list(model)[a:b], k_coef_lip=...)"
            )
        return super().__getitem__(index)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers, then the coefficient."""
        y: Tensor = super().forward(x)
        return y if self.k_coef_lip == 1 else y * self.k_coef_lip

    def extra_repr(self) -> str:
        """What stands above the layers of the printed container."""
        return "" if self.k_coef_lip == 1 else f"k_coef_lip={self.k_coef_lip}"


def _scaled(weight: Tensor, k: float) -> Tensor:
    return weight if k == 1 else weight * k


def _shown(k: float) -> str:
    return "" if k == 1 else f", k_coef_lip={k}"


register(SpectralLinear, FrobeniusLinear)(linear)


@register(Sequential)
def _sequential(module: Sequential, path: str) -> float:
    return times(sequential(module, path), module.k_coef_lip)


@register_export(Sequential)
def _plain_sequential(module: Sequential) -> nn.Module:
    parts = OrderedDict((name, part) for name, part in module._modules.items() if part is not None)
    if module.k_coef_lip != 1:
        free = next(str(i) for i in range(len(parts), 2 * len(parts) + 1) if str(i) not in parts)
        parts[free] = Scale(module.k_coef_lip)
    return nn.Sequential(parts)
