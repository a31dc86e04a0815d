"""Upper bounds of the Lipschitz constants of torch's convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.lipschitz import _refuse, register, spectral_norm_bound, times

__all__ = ["convolution_norm", "convolution", "transposed_convolution", "paddings"]

_U = 2.0**-53
# Samples an axis, as multiples of the kernel's degree: overshoot 1 / cos(pi / (2 r)), from 0.05 % to 5 %.
_DENSITIES = (50, 40, 32, 24, 20, 16, 14, 12, 10, 8, 6, 5)
# Multiplications that a bound may take before the grid gets coarser: about a second of one core.
_BUDGET = 5e9
# Above this even the coarsest grid is not tried.
_LIMIT = 1e12
# The grid is left out where the norm is known without it to this relative accuracy.
_CLOSE = 1e-5
# Complex numbers of the symbols that are in memory together, in batches of whole rows of the grid.
_CHUNK = 2**21


def convolution_norm(weight: Tensor, stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1,
                     groups: int = 1) -> float:  # fmt: skip
    """A number that the norm of a convolution on the infinite grid provably does not exceed:

        sup_x |w * x| / |x|  =  sup over theta of |T(theta)|_2,  T(theta) = sum_j w_j exp(i <j, theta>)

    It bounds the layer without padding and with padding by zeros on inputs of every size, since these are compressions
    of that operator, and its adjoint, the transposed convolution. Not the norm of the layer on one given size, which
    can be smaller.

    Why it is an upper bound. The groups act on different channels: the largest counts. With stride s the layer is one
    of stride 1 on the input with pixels unshuffled, whose kernel holds every s-th tap. Dilation by delta moves the taps
    of one residue by multiples of delta / gcd(s, delta), which renames frequencies, so that only s / gcd(s, delta)
    matters. For unit vectors u, v at which the supremum M is attained, exp(-i d theta / 2) u* T v is, up to a phase,
    along each axis a trigonometric polynomial of degree d / 2, d the kernel's width less 1; it stays above
    M cos(d h / 2) at a distance h from its maximum (M. Riesz). The next of N equispaced points is within pi / N, so

        M <= max over the grid of |T|_2 / prod over axes of cos(pi d / (2 N)).

    Where T*T is nearly constant, as for orthogonal kernels, no grid is needed: with T*T = t I + E(theta) for the mean t
    of its diagonal, and the Fourier coefficients E_m of E, which the autocorrelation of the kernel gives,

        M^2 <= t + sup |E(theta)|_F <= t + sqrt(sum_l |sum_m <E_m, E_{m+l}>|),   M^2 >= t.

    The maximum over the grid is proved by Cholesky factorisations of t I - T*T at all its points (Rump 2006), where
    T*T comes from the autocorrelation of the kernel. The norm of the matrix sum_j |w_j| (of absolute values), exact
    for kernels without signs, and those of the unfolded kernel times sqrt of the number of taps serve where they are
    smaller.

    Args:
        weight: (c_out, c_in / groups, k) or (c_out, c_in / groups, k1, k2), of any real dtype; for transposed
            convolutions torch's weight as it is.
        stride: an integer, or one an axis.
        dilation: an integer, or one an axis.
        groups: number of groups, a divisor of c_out.

    Returns:
        The bound: 0 for a weight without entries or of zeros, possibly infinite by overflow.

    Raises:
        ValueError: the weight is complex, not finite, or neither of a 1-D nor of a 2-D convolution.

    >>> blur = torch.ones(1, 1, 3, 3) / 9
    >>> 1 <= convolution_norm(blur) * (1 + 1e-6) <= 1.0001
    True

    Source: Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", ICLR 2019, for the symbol; Pfister and
    Bresler, "Bounding Multivariate Trigonometric Polynomials", IEEE Trans. Signal Process. 67 (2018), for maxima on
    grids; Singla and Feizi, "Fantastic Four", ICLR 2021, for the unfolded kernels; Delattre, Barthelemy, Araujo,
    Allauzen, "Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration", ICML 2023, for
    Gram matrices of symbols; Rump, BIT 46 (2006).
    """
    if weight.ndim not in (3, 4):
        raise ValueError(f"the weight of a 1-D or 2-D convolution has 3 or 4 axes, got shape {shape(weight)}")
    if weight.is_complex():
        raise ValueError("its weight is complex; split it into real and imaginary channels")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups = {groups} does not divide the {weight.shape[0]} channels of the weight")
    if weight.numel() == 0:
        return 0.0
    W = weight.detach().to(device="cpu").to(torch.float64)
    peak = W.abs().max().item()
    if not math.isfinite(peak):
        raise ValueError("its weight is not finite; it has diverged, reload or reinitialise it")
    if peak == 0:
        return 0.0
    # A power of two, so that nothing is rounded, except far below where the margins count it.
    scale = 2.0 ** min(max(math.frexp(peak)[1], -1021), 1023)
    s, delta = _each(stride, W.ndim - 2), _each(dilation, W.ndim - 2)
    steps = [a // math.gcd(a, b) for a, b in zip(s, delta, strict=True)]
    V = _taps(W / scale, steps, groups)
    absolute = V.abs().sum((1, 2))
    majorant = max(spectral_norm_bound(a * (1 + (V.shape[1] * V.shape[2] + 2) * _U)) for a in absolute)
    bound = min(majorant, _unfolded(V))
    if V.shape[1] * V.shape[2] > 1:
        bound = min(bound, _sampled(V, majorant))
    return bound * scale


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _taps(W: Tensor, steps: Sequence[int], groups: int) -> Tensor:
    """The stride-1 kernel on unshuffled pixels, as (groups, k1, k2, rows, columns) with at least as many rows."""
    if W.ndim == 3:
        W, steps = W[..., None], [*steps, 1]
    k1, k2 = W.shape[2:]
    # A stride beyond the kernel leaves out pixels, which are not columns.
    s1, s2 = min(steps[0], k1), min(steps[1], k2)
    W = nn.functional.pad(W, (0, -k2 % s2, 0, -k1 % s1))
    V = W.reshape(groups, W.shape[0] // groups, W.shape[1], W.shape[2] // s1, s1, W.shape[3] // s2, s2)
    V = V.permute(0, 3, 5, 1, 2, 4, 6).flatten(4)
    if V.shape[3] < V.shape[4]:
        V = V.mT
    return V.contiguous()


def _unfolded(V: Tensor) -> float:
    """T is the kernel with its taps below one another (or side by side) times a block column of norm sqrt(taps)."""
    taps = V.shape[1] * V.shape[2]
    below = V.flatten(1, 3)
    beside = V.permute(0, 3, 1, 2, 4).flatten(2)
    # The Gram matrix on the smaller side is cheap for `below`; `beside` costs taps times as many flops.
    norms = [max(spectral_norm_bound(M) for M in below)]
    if taps * V.shape[4] <= 512:
        norms.append(max(spectral_norm_bound(M) for M in beside))
    return min(norms) * math.sqrt(taps) * (1 + 4 * _U)


def _autocorrelation(V: Tensor) -> Tensor:
    """R_m = sum_j V_j^T V_{j+m} for all lags, (lags1, lags2, groups, n, n): T*T = sum_m R_m exp(i m theta)."""
    G, k1, k2, _, n = V.shape
    R = torch.zeros(2 * k1 - 1, 2 * k2 - 1, G, n, n, dtype=torch.float64)
    for m1 in range(k1):
        for m2 in range(-(k2 - 1) if m1 else 0, k2):
            here = V[:, : k1 - m1, max(0, -m2) : k2 - max(0, m2)].flatten(1, 3)
            there = V[:, m1:, max(0, m2) : k2 + min(0, m2)].flatten(1, 3)
            R[k1 - 1 + m1, k2 - 1 + m2] = here.mT @ there
            R[k1 - 1 - m1, k2 - 1 - m2] = R[k1 - 1 + m1, k2 - 1 + m2].mT.clone()
    return R


def _waves(size: int, rows: int, degree: int) -> Tensor:
    """exp(2 pi i j m / size) for j < rows and |m| <= degree; integers are reduced first, so no angle is large."""
    turns = torch.outer(torch.arange(rows), torch.arange(-degree, degree + 1)) % size
    angle = turns.to(torch.float64) * (2 * math.pi / size)
    return torch.complex(angle.cos(), angle.sin())


def _grid(V: Tensor) -> tuple[int, int] | None:
    """The finest grid within the budget; 1 point along an axis of one tap."""
    G, k1, k2, _, n = V.shape
    cost = math.inf
    for r in _DENSITIES:
        N1, N2 = max(1, r * (k1 - 1)), max(1, r * (k2 - 1))
        cost = G * N1 * (N2 / 2 + 1) * n * n * (n + 8 * k1 + 16)
        if cost <= _BUDGET:
            return N1, N2
    return (N1, N2) if cost <= _LIMIT else None


def _sampled(V: Tensor, majorant: float) -> float:
    """The bound by the maximum over a grid of frequencies; infinite where that would take minutes."""
    grid = _grid(V)
    if grid is None:
        return math.inf
    (N1, N2), (G, k1, k2, rows, n) = grid, V.shape
    R = _autocorrelation(V)
    # Some point of the grid has an eigenvalue as large as the mean of a diagonal entry.
    t = R[k1 - 1, k2 - 1].diagonal(dim1=-2, dim2=-1).max().item()
    products = rows * k1 * k2 + 4
    even = _nearly_constant(R) + 2 * products * _U * majorant**2
    bound = math.sqrt(even) * (1 + 4 * _U)
    if bound <= math.sqrt(t) * (1 + _CLOSE):
        return bound
    # T(-theta) is the conjugate of T(theta): one half of one axis is enough.
    half = (N1 // 2 + 1, 1) if N2 == 1 else (N1, N2 // 2 + 1)
    E1, E2 = _waves(N1, half[0], k1 - 1), _waves(N2, half[1], k2 - 1)
    at_once = max(1, _CHUNK // (half[0] * G * n * n))
    for first in range(0, half[1], at_once):
        inner = torch.einsum("am,lmx->lax", E2[first : first + at_once], R.flatten(2).to(E2.dtype))
        A = (E1 @ inner.flatten(1)).reshape(-1, n, n)
        t = _raise_above(A, t)
    # Entries of T*T: the products, the two sums of waves, each wave within 32 u; all majorised by (sum |V_j|)^2.
    relative = (products + 8 * (k1 + k2) + 160) * _U
    cholesky = 4 * (n + 4) * _U / (1 - 8 * (n + 4) * _U) * n * t
    square = t + cholesky + 4 * _U * t + 2 * relative * majorant**2
    overshoot = math.prod(1 / math.cos(math.pi * (k - 1) / (2 * N)) for k, N in ((k1, N1), (k2, N2)))
    return min(bound, math.sqrt(square) * overshoot * (1 + 64 * _U))


def _nearly_constant(R: Tensor) -> float:
    """A bound of |T*T| = |t I + E(theta)| by t + sup |E(theta)|_F, for the autocorrelation as it is stored.

    |E(theta)|_F^2 = sum_l exp(i l theta) sum_m <E_m, E_{m+l}> needs no grid. Where E is the rounding of an orthogonal
    kernel its parts hardly correlate, which makes this smaller than (sum_m |E_m|_F)^2 by about the number of lags.
    """
    L1, L2, G, n, _ = R.shape
    E = R.clone()
    # All groups have a mean of their own.
    diagonal = E[L1 // 2, L2 // 2].diagonal(dim1=-2, dim2=-1)
    t = diagonal.mean(-1)
    diagonal -= t[:, None]
    E = E.permute(2, 0, 1, 3, 4).reshape(G, L1 * L2, n * n)
    gram = (E @ E.mT).reshape(G, L1, L2, L1, L2)
    sup = torch.zeros(G, dtype=torch.float64)
    for l1 in range(L1):
        # (G, m2, m2'): the sum over m1 of products at lag l1.
        lagged = gram.diagonal(l1, 1, 3).sum(-1)
        parts = [lagged.diagonal(l2, 1, 2).sum(-1).abs() for l2 in range(1 - L2, L2)]
        sup += torch.stack(parts).sum(0) * (2 if l1 else 1)
    # n^2 products an entry of the Gram matrix, sums over lags, and t subtracted from the diagonal.
    rounding = (n * n + 4 * L1 * L2 + 8) * _U * E.norm(dim=-1).sum(-1).square()
    return float((t + (sup + rounding).sqrt()).max()) * (1 + (n + 16) * _U)


def _raise_above(A: Tensor, t: float) -> float:
    """A number of at least t at which the Cholesky factorisations of t I - A of all these matrices run to their end."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype)
    margin = 2e-5
    while True:
        failed = torch.linalg.cholesky_ex(t * eye - A)[1] > 0
        if not failed.any():
            return t
        A = A[failed]
        # Any guess is honest, for the proof follows: the eigenvalue of the matrix that looks largest, and more at
        # each failure so that the loop ends.
        v = torch.ones(A.shape[-1], 1, dtype=A.dtype).expand(len(A), -1, -1)
        for _ in range(8):
            v = A @ v
            v = v / v.norm(dim=(1, 2), keepdim=True).clamp_min(1e-300)
        widest = A[(A @ v).norm(dim=(1, 2)).argmax()]
        t = max(t, torch.linalg.eigvalsh(widest)[-1].item()) * (1 + margin)
        margin = min(4 * margin, 1e-2)


def paddings(layer: Any) -> list[tuple[int, int]]:
    """Pixels that torch adds before and after, an axis."""
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same":
        return [(r // 2, r - r // 2) for r in reach]
    if layer.padding == "valid":
        return [(0, 0) for _ in reach]
    return [(int(p), int(p)) for p in layer.padding]


def _copies(mode: str, before: int, after: int) -> int:
    """How often one pixel occurs in the padded input at most, on inputs of every size: the padding's norm squared."""
    if mode == "replicate":
        return 1 + before + after
    # At most one copy from each side: torch pads by no more than the input's size.
    return 1 + (before > 0) + (after > 0)


def _periods(mode: str, before: int, after: int, reach: int, stride: int) -> int:
    """The square of the factor of an axis by periodic extension, for a stride that divides the period.

    Circular: the outputs are those of the periodic convolution, whose symbols are samples of T, each computed once,
    or again where the padding exceeds the kernel's reach. Reflect: the input's extension to period 2 n - 2 has at most
    twice its square, and each output is one of the periodic convolution's, once.
    """
    excess, side = before + after - reach, max(before, after)
    if mode == "circular" and side:
        # ceil((n + excess) / stride) outputs, n / stride of them different, and n >= side.
        return 1 + max(0, -(-excess // stride // -(-side // stride)))
    if mode == "reflect" and excess < side:
        return 2  # n + excess <= 2 n - 2, as n >= side + 1
    return _copies(mode, before, after)


@register(nn.Conv1d, nn.Conv2d)
def convolution(layer: Any, path: str, *, divisible: bool = False) -> float:
    """The norm on the infinite grid times the factor of the padding.

    `divisible` says that the layer refuses inputs whose sizes, along axes of circular padding, are not multiples of the
    stride.
    """
    mode = layer.padding_mode
    if mode not in ("zeros", "circular", "reflect", "replicate"):
        raise _refuse(layer, path, f"padding_mode {mode!r} is not known; use zeros, circular, reflect or replicate")
    pads = paddings(layer)
    kept = _norm(layer, path, layer.stride)
    padded = [pad for pad in pads if any(pad)]
    if mode == "zeros" or not padded:
        return kept
    copies = math.prod(_copies(mode, *pad) for pad in padded)
    bound = times(kept, _root(copies))
    reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    # The wrapped rows of a strided layer lie on another lattice where the stride does not divide the period; those of
    # stride 1 contain them.
    strides = tuple(layer.stride) if divisible and mode == "circular" else (1,) * len(pads)
    periods = math.prod(
        _periods(mode, *pad, reach, s) for pad, reach, s in zip(pads, reaches, strides, strict=True) if any(pad)
    )
    if periods < copies:
        dense = kept if strides == tuple(layer.stride) else _norm(layer, path, strides)
        bound = min(bound, times(dense, _root(periods)))
    return bound


@register(nn.ConvTranspose1d, nn.ConvTranspose2d)
def transposed_convolution(layer: Any, path: str) -> float:
    """The adjoint's norm: padding crops the output, and output_padding shows more of that on the infinite grid."""
    if layer.padding_mode != "zeros":
        raise _refuse(layer, path, f"padding_mode {layer.padding_mode!r} is not known; use zeros")
    return _norm(layer, path, layer.stride)


@register(nn.Conv3d, nn.ConvTranspose3d)
def _volume(layer: nn.Module, path: str) -> float:
    raise _refuse(
        layer,
        path,
        "convolutions are bounded in one and two dimensions only; use Conv2d on slices or teach it with "
        "barrow.nn.lipschitz.register",
    )


def _root(square: int) -> float:
    return 1.0 if square == 1 else math.sqrt(square) * (1 + 2 * _U)


def _norm(layer: Any, path: str, stride: Sequence[int]) -> float:
    try:
        return convolution_norm(layer.weight, stride, layer.dilation, layer.groups)
    except ValueError as error:
        raise _refuse(layer, path, str(error)) from None
