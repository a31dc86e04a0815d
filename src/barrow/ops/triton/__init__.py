"""Kernels for CUDA in Triton: soft minima, marginals, products and gradients of Gibbs plans, and sweeps of Sinkhorn.

Whoever imports a module of this package imports Triton, so one asks :func:`reaches` first and imports then. Under
TRITON_INTERPRET=1 the same kernels run on CPU tensors, which is how they are tested without a device.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from barrow.ops.plain import plain

OLDEST = 8, 0  # compute capability that Triton supports


def reaches(t: Tensor) -> bool:
    """Whether the kernels of this package can be handed ``t``: on CUDA, on a device that the installed Triton knows.

    >>> reaches(torch.zeros(3))
    False
    """
    if t.is_cuda:
        return _installed() and _known(t.device)
    return t.device.type == "cpu" and _interpreted() and _installed()


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels may be handed these tensors: within reach, float32 or float64, on one device, and plain.

    >>> takes(torch.zeros(3), torch.zeros(2).double())
    False
    """
    return reaches(tensors[0]) and (
        all(t.dtype in (torch.float32, torch.float64) and t.device == tensors[0].device for t in tensors)
        and plain(*tensors)
    )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _known(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= OLDEST


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
