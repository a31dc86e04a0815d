"""Whether products in bfloat16 are worth asking for."""

from __future__ import annotations

import torch

__all__ = ["has_rough_products"]


def has_rough_products(device: torch.device) -> bool:
    """Whether this CPU has instructions for products of matrices in bfloat16, twice as fast as in single precision."""
    if device.type != "cpu":
        return False
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
