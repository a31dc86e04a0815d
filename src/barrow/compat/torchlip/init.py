"""torchlip's initialisers. New code takes :func:`torch.nn.init.orthogonal_`."""

from __future__ import annotations

import torch
from torch import Tensor

from barrow.check import positive, whole
from barrow.compat.torchlip.normalizers import (
    DEFAULT_BETA,
    DEFAULT_EPS_BJORCK,
    DEFAULT_EPS_SPECTRAL,
    DEFAULT_MAXITER_BJORCK,
    DEFAULT_MAXITER_SPECTRAL,
    _matrix,
    spectral_normalization,
)
from barrow.ops.polar import polar

__all__ = ["bjorck_", "spectral_"]


def spectral_(
    tensor: Tensor, eps_spectral: float = DEFAULT_EPS_SPECTRAL, maxiter_spectral: int = DEFAULT_MAXITER_SPECTRAL
) -> Tensor:
    """Divide a weight (rows, ...) by its largest singular value, in place.

    Args:
        tensor: the weight.
        eps_spectral: largest tolerated error of the norm, always met.
        maxiter_spectral: steps of torchlip's iteration; without influence.

    Returns:
        The tensor.

    Raises:
        ValueError: as :func:`barrow.compat.torchlip.normalizers.spectral_normalization`.

    >>> spectral_(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.75, 0.0], [0.0, 1.0]]
    """
    with torch.no_grad():
        return tensor.copy_(spectral_normalization(tensor, None, eps_spectral, maxiter_spectral)[0])


def bjorck_(
    tensor: Tensor,
    eps_spectral: float = DEFAULT_EPS_SPECTRAL,
    maxiter_spectral: int = DEFAULT_MAXITER_SPECTRAL,
    eps_bjorck: float = DEFAULT_EPS_BJORCK,
    maxiter_bjorck: int = DEFAULT_MAXITER_BJORCK,
    beta: float = DEFAULT_BETA,
) -> Tensor:
    """Replace a weight (rows, ...) by its orthogonal factor, in place: what Bjorck's iteration converges to.

    Args:
        tensor: the weight.
        eps_spectral: largest tolerated error of the norm, always met.
        maxiter_spectral: steps of torchlip's iteration; without influence.
        eps_bjorck: largest tolerated error of orthogonality, always met from 1e-6 up.
        maxiter_bjorck: steps of torchlip's iteration; without influence on its limit.
        beta: its step, in (0, 1/2]; without influence on its limit.

    Returns:
        The tensor.

    Raises:
        ValueError: tensor is no weight, a tolerance or number of steps is not positive, or beta is out of range.

    >>> W = bjorck_(torch.tensor([[3.0, 0.0, 1.0], [0.0, 4.0, 0.0]]))
    >>> (W @ W.T).round(decimals=5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    for name, eps in (("eps_spectral", eps_spectral), ("eps_bjorck", eps_bjorck)):
        positive(name, eps)
    for name, steps in (("maxiter_spectral", maxiter_spectral), ("maxiter_bjorck", maxiter_bjorck)):
        whole(name, steps)
    if not 0 < beta <= 0.5:
        raise ValueError(f"beta must be in (0, 0.5], got {beta}")
    with torch.no_grad():
        return tensor.copy_(polar(_matrix("tensor", tensor)).reshape(tensor.shape))
