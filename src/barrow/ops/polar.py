"""The orthogonal polar factor of a matrix, with its exact tangent gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["Factors", "factorised", "polar", "polar_gradient"]

_Factors = tuple[Tensor, Tensor, Tensor, Tensor]
Factors = tuple[Tensor, Tensor, Tensor]

# Amsel, Persson, Musco, Gower, "The Polar Express", arXiv 2505.16932: the optimal composition of odd quintics for
# singular values in [1e-3, 1].
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
# Below this ratio the Gram matrix, even in float64, has forgotten the small singular values (it squares the ratio).
_GRAM_IS_BLIND = 1e-5
# A derivative of order 1 / (s_i + s_j) is cut off here, relative to the largest singular value.
_FLOOR = {torch.float32: 1e-6, torch.float64: 1e-14}
# Entries of the gradient are cut off here, so that an optimiser can square them: reached where X is about 1e-19.
_LIMIT = {torch.float32: 2.0**63, torch.float64: 2.0**511}
# The factor is made this much smaller than orthogonal, so that rounding its entries cannot push its norm above one.
_SHRINK = {torch.float32: 2.0**-22, torch.float64: 2.0**-44}


def polar(X: Tensor) -> Tensor:
    """The orthogonal matrix nearest to X: with X = U diag(s) V', it is

        polar(X) = U V' = argmin over W' W = I of |X - W|_F     (W W' = I when X is wide)

    All singular values of the result are within 1e-5 of one and, in float32 and float64, it is a contraction: it is
    made smaller than orthogonal by a few units of rounding. Choose it to keep a weight orthogonal while an optimiser
    moves an unconstrained X. Not a normalisation of the largest singular value only: it lifts the small ones too.

    On the CPU the factor comes from the eigenvectors of the small Gram matrix in float64, and, where that one cannot
    see the small singular values, from a QR and an SVD: every input gives an orthogonal matrix, also a zero, rank
    deficient or huge one (where the nearest matrix is not unique it is one of them). On other devices nothing waits
    for the host: seven quintics of the Polar Express after a certified scaling, then two cubic steps
    W (3 I - W' W) / 2 in float64, which map singular values in [0, 2] into [0, 1]. The result is a contraction for
    every input and orthogonal as soon as the smallest singular value is above 1e-3 of the largest by a small factor.

    Args:
        X: (..., m, n) of a floating dtype; half and bfloat16 are computed in float32 and rounded at the end. NaN counts
            as 0, infinities as the largest number of the dtype.

    Returns:
        (..., m, n). The gradient is the exact derivative, X = W S giving S Y + Y S = W' G - G' W and
        W Y + (I - W W') G / S; where X is rank deficient, and the derivative does not exist, small singular values
        are replaced by 1e-6 (float64: 1e-14) of the largest, and entries are cut off at 2^63 (float64: 2^511), so it
        stays finite. A second derivative raises RuntimeError.

    Raises:
        ValueError: X has fewer than two dimensions or is not real floating.

    >>> X = torch.tensor([[3.0, 0.0], [0.0, 1e-3], [0.0, 0.0]])
    >>> polar(X).round(decimals=5).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]

    Source: Higham, "Functions of Matrices", chapter 8; Amsel et al., arXiv 2505.16932, algorithm 1.
    """
    if not X.is_floating_point():
        raise ValueError(f"polar needs a real floating matrix, got {X.dtype}: convert it, for example with .float()")
    if X.ndim < 2:
        raise ValueError(f"polar needs a matrix (..., m, n), got shape {tuple(X.shape)}: add dimensions with reshape")
    wide = X.shape[-2] < X.shape[-1]
    Z = X.mT if wide else X
    W: Tensor = _polar(Z if Z.dtype in _SHRINK else Z.float())[0]
    return (W.mT if wide else W).to(X.dtype)


def factorised(X: Tensor) -> tuple[Tensor, Factors]:
    """The factor of :func:`polar` without a graph, and what :func:`polar_gradient` is quicker with.

    >>> W, factors = factorised(torch.eye(2))
    >>> polar_gradient(torch.eye(2), W, torch.tensor([[0.0, 1.0], [0.0, 0.0]]), factors).round(decimals=4)
    tensor([[ 0.0000,  0.5000],
            [-0.5000,  0.0000]])
    """
    wide = X.shape[-2] < X.shape[-1]
    with torch.no_grad():
        Z = X.mT if wide else X
        W, *factors = _polar(Z if Z.dtype in _SHRINK else Z.float())
        V, s, scale = factors
        return (W.mT if wide else W).to(X.dtype), (V, s, scale)


def polar_gradient(X: Tensor, W: Tensor, G: Tensor, factors: Factors | None = None) -> Tensor:
    """What :func:`polar` sends back through X for a gradient G, where the factor W of X is known already.

    Without `factors` W is taken for within rounding of the polar factor, whoever found it.

    >>> X = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> polar_gradient(X, torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([[ 0.0000,  0.2500],
            [-0.2500,  0.0000]])
    """
    if X.shape[-2] < X.shape[-1]:
        return polar_gradient(X.mT, W.mT, G.mT, factors).mT
    X, U, H = (t if t.dtype in _SHRINK else t.float() for t in (X, W, G))
    with torch.no_grad(), torch.autocast(X.device.type, enabled=False):
        V, s, scale = _factors_of(X, U) if factors is None else factors
        found: Tensor = _polar_backward(H, X, U, V, s, scale)
        return found.to(G.dtype)


def _factors_of(X: Tensor, W: Tensor) -> Factors:
    Z, scale = _unit_scale(X.double() if X.device.type == "cpu" else X)
    S = W.to(Z).mT @ Z
    S = (S + S.mT) / 2
    if X.device.type == "cpu":
        s, V = torch.linalg.eigh(S)
        return V, s.clamp(min=0), scale
    norm = 1.01 * torch.linalg.matrix_norm(S @ S, keepdim=True).sqrt()
    norm = torch.where(norm > 0, norm, 1)
    return S / norm, norm.squeeze(-1).repeat_interleave(S.shape[-1], -1), scale


@torch.library.custom_op("barrow::polar", mutates_args=())
def _polar(X: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, V, s, scale) of a tall X = scale W V diag(s) V'; away from the CPU X = scale s W V with scalar s."""
    with torch.autocast(X.device.type, enabled=False), torch.no_grad():
        if X.numel() == 0:
            k = X.shape[-1]
            lead = X.shape[:-2]
            return torch.zeros_like(X), X.new_zeros(*lead, k, k), X.new_zeros(*lead, k), X.new_ones(*lead, 1, 1)
        W, V, s, scale = _by_eigenvectors(X) if X.device.type == "cpu" else _by_polynomials(X)
        return W.contiguous(), V.contiguous(), s.contiguous(), scale.contiguous()


@_polar.register_fake
def _(X: Tensor) -> _Factors:
    k, lead = X.shape[-1], X.shape[:-2]
    exact = X.new_empty(0, dtype=torch.float64 if X.device.type == "cpu" and X.numel() else X.dtype)
    W = torch.empty_like(X, memory_format=torch.contiguous_format)
    return W, exact.new_empty(*lead, k, k), exact.new_empty(*lead, k), exact.new_empty(*lead, 1, 1)


def _unit_scale(X: Tensor) -> tuple[Tensor, Tensor]:
    """X with finite entries of size at most one, and the (..., 1, 1) factor that was taken out."""
    X = X.nan_to_num()
    scale = X.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    return X / scale, scale


def _by_eigenvectors(X: Tensor) -> _Factors:
    Z, scale = _unit_scale(X.double())
    if Z.shape[-1] == 1:
        square = Z.square().sum(-2)
        V = torch.ones_like(square).unsqueeze(-1)
    else:
        square, V = torch.linalg.eigh(Z.mT @ Z)
    s = square.clamp(min=0).sqrt()
    shrink = 1 - _SHRINK[X.dtype]
    W = Z @ ((V * (shrink / s.clamp(min=1e-300)).unsqueeze(-2)) @ V.mT)
    blind = ~(s.amin(-1) > _GRAM_IS_BLIND * s.amax(-1))
    if blind.any():
        # Q is orthonormal whatever the rank, which no formula in X alone can promise.
        Q, R = torch.linalg.qr(Z[blind])
        U, s[blind], Vh = torch.linalg.svd(R)
        V[blind] = Vh.mT
        W[blind] = Q @ (U @ (shrink * Vh))
    # What the eigenvectors leave, 1e-16 / ratio^2, is invisible in float32 unless the matrix is badly conditioned.
    if X.dtype == torch.float64 or (s.amin(-1) < 1e-3 * s.amax(-1)).any():
        W = shrink * _cubic(W / shrink)
    return W.to(X.dtype), V, s, scale


def _cubic(W: Tensor) -> Tensor:
    """One step 1.5 s - 0.5 s^3 on the singular values: [0, 2] goes into [-1, 1] and errors near one are squared."""
    return 1.5 * W - 0.5 * (W @ (W.mT @ W))


def _by_polynomials(X: Tensor) -> _Factors:
    Z, scale = _unit_scale(X)
    A = Z.mT @ Z
    # |A^2|_F^(1/4) is a Schatten norm, hence at least the largest singular value; the margin pays for rounding.
    norm = 1.01 * torch.linalg.matrix_norm(A @ A, keepdim=True).sqrt().sqrt()
    norm = torch.where(norm > 0, norm, 1)
    Z = Z / norm
    W = Z
    for a, b, c in _POLAR_EXPRESS:
        A = W.mT @ W
        W = a * W + W @ (b * A + c * (A @ A))
    # float64 because nobody's TF32 setting reaches it; Apple's devices have none.
    W = _cubic(_cubic(W if X.device.type == "mps" else W.double()))
    W = (W * (1 - _SHRINK[X.dtype])).to(X.dtype)
    S = W.mT @ Z
    return W, (S + S.mT) / 2, norm.squeeze(-1).repeat_interleave(X.shape[-1], -1), scale


@torch.library.custom_op("barrow::polar_backward", mutates_args=())
def _polar_backward(G: Tensor, X: Tensor, W: Tensor, V: Tensor, s: Tensor, scale: Tensor) -> Tensor:
    with torch.autocast(X.device.type, enabled=False), torch.no_grad():
        if X.numel() == 0:
            return torch.zeros_like(X)
        # Taken out so that a huge G does not overflow on the way; a NaN or infinity in G stays visible in the result.
        size = G.abs().amax((-2, -1), keepdim=True)
        size = torch.where(size > 0, size, 1)
        G = G / size
        A = W.mT @ G
        K = A - A.mT
        if X.device.type == "cpu":
            peak = s.amax(-1, keepdim=True)
            s = s.maximum(_FLOOR[X.dtype] * torch.where(peak > 0, peak, 1))
            Y = V @ ((V.mT @ K.double() @ V) / (s.unsqueeze(-1) + s.unsqueeze(-2))) @ V.mT
            inverse = (V / s.unsqueeze(-2)) @ V.mT
        else:
            Y, inverse = _sylvester(V, K)
            scale = scale * s[..., :1, None]
        # The same as W Y + (G - W A) inverse with one tall product less.
        gradient = (G @ inverse.to(G.dtype)) + W @ (Y - A.to(Y.dtype) @ inverse).to(G.dtype)
        limit = _LIMIT[X.dtype]
        factor = (size.to(scale.dtype) / scale).clamp(max=torch.finfo(G.dtype).max)
        gradient = (gradient * factor.to(G.dtype)).clamp(-limit, limit)
        return gradient.masked_fill_(~(X.abs() < math.inf), 0).contiguous()


def _sylvester(S: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Y with S Y + Y S = K for antisymmetric K, and the inverse of S, in a fixed number of products.

    The sign of the block matrix [[S, K], [0, -S]] is [[I, 2 Y], [0, -I]] (Roberts 1971), and the quintics of the polar
    factor compute signs: the off-diagonal block is carried along by hand.
    """
    inverse = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device).expand_as(S)
    for a, b, c in (*_POLAR_EXPRESS, (1.875, -1.25, 0.375)):
        B, M = S @ S, S @ K
        C = M + M.mT
        N = B @ C
        P = b * B + c * (B @ B)
        P.diagonal(dim1=-2, dim2=-1).add_(a)
        K = S @ (b * C + c * (N + N.mT)) + K @ P
        K = (K - K.mT) / 2
        inverse = inverse @ P
        S = S @ P
        S = (S + S.mT) / 2
    return K / 2, inverse


@_polar_backward.register_fake
def _(G: Tensor, X: Tensor, W: Tensor, V: Tensor, s: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(X, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor], output: _Factors) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, G: Tensor | None, *_: Tensor | None) -> Tensor | None:
    return None if G is None else _polar_backward(G, *ctx.saved_tensors)


def _save_nothing(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    pass


ONCE = (
    "polar is differentiable once: a second derivative with respect to the matrix (double backward through an "
    "OrthogonalLinear or UnitLinear weight) is not available; detach the weight or use weight-free penalties"
)


def _backward_twice(ctx: Any, *_: Tensor) -> Tensor:
    raise RuntimeError(ONCE)


_polar.register_autograd(_backward, setup_context=_save)
_polar_backward.register_autograd(_backward_twice, setup_context=_save_nothing)


@_polar.register_vmap
def _(info: Any, in_dims: tuple[int], X: Tensor) -> tuple[_Factors, tuple[int, int, int, int]]:
    return _polar(X.movedim(in_dims[0], 0)), (0, 0, 0, 0)


@_polar_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    size = info.batch_size
    moved = [t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims, strict=True)]
    return _polar_backward(*moved), 0
