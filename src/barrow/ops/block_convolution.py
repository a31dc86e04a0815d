"""Kernels of orthogonal convolutions, composed of an orthogonal matrix and blocks of two taps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from barrow.ops.polar import polar

__all__ = ["orthogonal_kernel", "compose_blocks"]

# The kernel is made this much smaller than orthogonal, so that rounding its entries cannot push its norm above one.
_SHRINK = {torch.float32: 2.0**-20, torch.float64: 2.0**-44}


def orthogonal_kernel(matrix: Tensor, halves: Tensor, axes: Sequence[int], window: tuple[int, int]) -> Tensor:
    """The kernel of the convolution that first applies a chain of blocks, then an orthogonal matrix to each window:

        T(z) = R(z) A_1(z) ... A_n(z),   A_i(z) = P_i + (I - P_i) z_i,   P_i = U_i U_i',   U_i = polar(halves_i)

    R(z) is polar(matrix), whose columns are c channels times the taps of a window of v1 x v2 pixels. On the unit circle
    each A_i is unitary, for P and I - P are projectors that add up to I; so T(z) is an isometry or a co-isometry
    exactly where R is one, when its windows do not overlap. Choose it for convolutions without stride, with a window
    of one tap, or whose stride is the window: k - v blocks along an axis make a kernel of k taps. Every other block
    of an axis is (I - P) + P z, so that an odd c does not shift the output.

    A contraction for all input, even where U is not quite orthonormal: |p + (1 - p) z| <= 1 for eigenvalues p in
    [0, 1] of U U'. The products are taken in float64, out of reach of TF32 and autocast (Apple's devices have none:
    float32 there), and the result is shrunk by a few units of rounding.

    Args:
        matrix: (g, b, c v1 v2), g independent groups, of a floating dtype; half is computed in float32. With a window
            of one tap and b > c the chain stands behind the matrix instead and acts on its b channels.
        halves: (n, g, w, h) for n blocks on w = c channels (b in the case above); h = 0 gives shifts.
        axes: n times 0 or 1, the axis along which a block has its two taps.
        window: (v1, v2).

    Returns:
        (g, b, c, v1 + count of 0 in axes, v2 + count of 1 in axes) of the matrix's dtype; differentiable once.

    >>> kernel = orthogonal_kernel(torch.randn(1, 4, 4), torch.randn(2, 1, 4, 2), axes=(0, 1), window=(1, 1))
    >>> kernel.shape
    torch.Size([1, 4, 4, 2, 2])
    >>> taps = kernel[0].flatten(2).unbind(-1)
    >>> torch.dist(sum(w @ w.T for w in taps), torch.eye(4)) < 1e-5
    tensor(True)

    Source: Li, Haque, Anil, Lucas, Grosse, Jacobsen, "Preventing gradient attenuation in Lipschitz constrained
    convolutional networks", NeurIPS 2019, section 4, after Xiao et al., ICML 2018; for windows Boissin, Mamalet, Fel,
    Picard, Massena, Serrurier, "An adaptive orthogonal convolution scheme", arXiv 2501.07930, section 3.
    """
    v1, v2 = window
    c = matrix.shape[-1] // (v1 * v2)
    # (P + (I - P) z)' = P + (I - P) z: the transposed kernel is a chain behind a matrix.
    tall = v1 * v2 == 1 and matrix.shape[-2] > c
    dtype = matrix.dtype if matrix.dtype in _SHRINK else torch.float32
    if not axes:
        return polar(matrix).reshape(*matrix.shape[:-1], c, v1, v2)
    R, U = _factor(matrix), _factor(halves)
    R = R.mT if tall else R
    K = R.unflatten(-1, (R.shape[-1] // (v1 * v2), v1, v2)).permute(0, 3, 4, 1, 2)
    K = compose_blocks(K, U, axes) * (1 - _SHRINK[dtype])
    K = K.permute(0, 4, 3, 1, 2) if tall else K.permute(0, 3, 4, 1, 2)
    return K.to(matrix.dtype).contiguous()


def compose_blocks(K: Tensor, U: Tensor, axes: Sequence[int]) -> Tensor:
    """The kernel K multiplied from the right by blocks P + (I - P) z with P = U U', those of odd number flipped.

    The chain is walked from the end where K is thin, as products of all rows of all taps with U and U': a chain of
    full square kernels, however it is bracketed, costs more.

    Args:
        K: (g, k1, k2, b, c), the taps in front.
        U: (n, g, c, h), with orthonormal columns.
        axes: n times 0 or 1, the axis of each block.

    Returns:
        (g, k1 + count of 0, k2 + count of 1, b, c).
    """
    seen = [0, 0]
    for u, axis in zip(U, axes, strict=True):
        near = ((K.flatten(1, 3) @ u) @ u.mT).view(K.shape)
        far = K - near
        if seen[axis] % 2:
            near, far = far, near
        seen[axis] += 1
        # One tap more: nothing behind the near one, nothing in front of the far one.
        rest = (0, 0) * (3 - axis)
        K = torch.nn.functional.pad(near, (*rest, 0, 1)) + torch.nn.functional.pad(far, (*rest, 1, 0))
    return K


def _factor(X: Tensor) -> Tensor:
    """The polar factor in float64; what float32 left, 1e-7, a cubic step squares, and [0, 1] stays in [0, 1]."""
    if X.numel() == 0:
        return X if X.device.type == "mps" else X.double()
    W = polar(X if X.dtype in _SHRINK else X.float())
    W = W if X.device.type == "mps" else W.double()
    if W.shape[-2] < W.shape[-1]:
        return 1.5 * W - 0.5 * ((W @ W.mT) @ W)
    return 1.5 * W - 0.5 * (W @ (W.mT @ W))
