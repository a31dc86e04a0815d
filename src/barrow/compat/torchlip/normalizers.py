"""torchlip's normalisations of matrices as functions."""

from __future__ import annotations

import torch
from torch import Tensor

from barrow.check import positive, real_tensor, shape, whole

__all__ = ["bjorck_normalization", "spectral_normalization"]

DEFAULT_EPS_SPECTRAL = 1e-3
DEFAULT_EPS_BJORCK = 1e-3
DEFAULT_MAXITER_BJORCK = 15
DEFAULT_MAXITER_SPECTRAL = 10
DEFAULT_BETA = 0.5


def bjorck_normalization(
    w: Tensor, eps: float = DEFAULT_EPS_BJORCK, beta: float = DEFAULT_BETA, maxiter: int = DEFAULT_MAXITER_BJORCK
) -> Tensor:
    """Bjorck's iteration towards the nearest orthogonal matrix:

        W <- (1 + beta) W - beta W W' W,     until |W_new - W| < eps or maxiter steps

    For singular values in (0, sqrt(3)) and beta = 1/2 it converges to the orthogonal factor, slowly where they are
    small. Choose it to reproduce torchlip's numbers; :class:`barrow.nn.OrthogonalLinear` has the factor itself. Unlike
    torchlip's its gradient is that of the result, all steps included, and nothing waits for the device: steps after
    the last one are computed and dropped.

    Args:
        w: (rows, ...), taken as a matrix of rows.
        eps: how little the last step changes, in the Frobenius norm.
        beta: in (0, 1/2].
        maxiter: steps at most.

    Returns:
        The shape of w.

    Raises:
        ValueError: w is not floating point or a scalar or vector, eps is negative, beta or maxiter out of range.

    >>> bjorck_normalization(torch.tensor([[0.9, 0.0], [0.0, 1.2]])).round(decimals=3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Source: Bjorck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix", SIAM J.
    Numer. Anal. 8, 1971.
    """
    W = _matrix("w", w)
    if not 0 < beta <= 0.5:
        raise ValueError(f"beta must be in (0, 0.5], got {beta}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    wide = W.shape[0] <= W.shape[1]
    done = torch.zeros((), dtype=torch.bool, device=W.device)
    for _ in range(whole("maxiter", maxiter)):
        cubic = (W @ W.mT) @ W if wide else W @ (W.mT @ W)
        following = (1 + beta) * W - beta * cubic
        small = (following - W).detach().square().sum().sqrt() < eps
        W = torch.where(done, W, following)
        done = done | small
    return W.reshape(w.shape)


def spectral_normalization(
    kernel: Tensor,
    u: Tensor | None = None,
    eps: float = DEFAULT_EPS_SPECTRAL,
    maxiter: int = DEFAULT_MAXITER_SPECTRAL,
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide a matrix by its largest singular value.

        W / sigma,     sigma = |W u|,     u the first right singular vector

    torchlip iterates u, whose sigma is too small until it has converged, and adds eps to it; here u comes from a
    singular value decomposition in float64. Choose it to run torchlip code. The norm of the result is one to rounding.

    Args:
        kernel: (rows, ...), taken as a matrix of rows.
        u: where torchlip's iteration starts, (1, columns); its shape is checked and it has no influence.
        eps: largest tolerated error of the norm, always met.
        maxiter: steps of that iteration; without influence.

    Returns:
        The normalised kernel; u, (1, columns), without gradient; and sigma, a scalar. A matrix of zeros stays one.

    Raises:
        ValueError: kernel is not floating point or has fewer than two dimensions, u has another shape, or eps or
            maxiter is not positive.

    >>> spectral_normalization(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))[0].tolist()
    [[0.75, 0.0], [0.0, 1.0]]

    Source: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial networks", ICLR 2018.
    """
    W = _matrix("kernel", kernel)
    positive("eps", eps)
    whole("maxiter", maxiter)
    if u is not None and tuple(u.shape) != (1, W.shape[1]):
        raise ValueError(f"u has shape {shape(u)}, but a kernel of {W.shape[1]} columns needs (1, {W.shape[1]})")
    first = torch.linalg.svd(W.detach().double(), full_matrices=False)[2][:1].to(W.dtype)
    sigma = torch.linalg.vector_norm(W @ first.mT)
    divisor = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    return kernel / divisor, first, sigma


def _matrix(name: str, w: object) -> Tensor:
    w = real_tensor(name, w, what="a weight")
    if w.ndim < 2 or w.numel() == 0:
        raise ValueError(f"{name} has shape {shape(w)}, but a weight has rows and columns: give a shape (rows, ...)")
    return w.reshape(len(w), -1)
