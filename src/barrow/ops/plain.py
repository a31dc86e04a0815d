"""Tensors that may leave torch's sight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def plain(*tensors: Tensor) -> bool:
    """Whether nobody must see what is done to these tensors: no gradient of either mode, no compiler, tracer or vmap.

    >>> plain(torch.zeros(2)), plain(torch.zeros(2, requires_grad=True))
    (True, False)
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    ):
        return False
    return all(
        type(t) is Tensor
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
        and forward_ad.unpack_dual(t).tangent is None
        for t in tensors
    )
