"""What float64 may do to torchlip's layers: rules of :func:`barrow.nn.certify_critic`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from barrow.compat.torchlip.functional import SymmetricPad
from barrow.compat.torchlip.layers import (
    BatchCentering,
    GroupSort2,
    HouseHolder,
    InvertibleDownSampling,
    InvertibleUpSampling,
    LayerCentering,
    LPReLU,
    MaxMin,
    ScaledAdaptativeL2NormPool2d,
    ScaledAdaptiveAvgPool2d,
    ScaledAvgPool2d,
    ScaledL2NormPool2d,
)
from barrow.compat.torchlip.normalization import BatchLipNorm, ScaleBiasLayer
from barrow.compat.torchlip.padded_convolutions import PadConv1d, PadConv2d
from barrow.compat.torchlip.sorting import GroupSort
from barrow.nn import certificate
from barrow.nn.certificate import register_rounding

__all__: list[str] = []

register_rounding(SymmetricPad)(certificate._exact)
register_rounding(PadConv1d, PadConv2d)(certificate._convolution)
register_rounding(ScaledAvgPool2d, ScaledAdaptiveAvgPool2d, ScaledL2NormPool2d, ScaledAdaptativeL2NormPool2d)(
    certificate._pooling
)
register_rounding(LayerCentering, BatchCentering)(certificate._centering)
register_rounding(GroupSort, GroupSort2, MaxMin, LPReLU, HouseHolder, InvertibleDownSampling, InvertibleUpSampling)(
    certificate._elementwise
)


@register_rounding(ScaleBiasLayer, BatchLipNorm)
def _affine(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A product and a sum whose terms are at most the input's multiple and the rest of the output."""
    at_zero = module(torch.zeros_like(x))
    return certificate._gamma(8) * (2 * certificate._norm(y) + 2 * certificate._norm(at_zero))
