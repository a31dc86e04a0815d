"""Losses of flows in plain torch: the documentation of `barrow.ops.flows`, and what it does where the core cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from barrow.ops.tree import Topology, ancestor_sum, subtree_sum


class Loss(NamedTuple):
    """What is summed over the edges: unit w_i |phi_i|^exponent, histograms divided by their masses if ``normalise``."""

    exponent: float
    unit: float = 1.0
    normalise: bool = False
    tolerance: float = 4e-6  # by how much masses may differ, relatively


def flow_loss_reference(h: Tensor, t: Tensor, w: Tensor | None, tree: Topology | None, loss: Loss) -> Tensor:
    """What :func:`flow_loss` computes, in plain torch on any device, without judging the histograms."""
    phi = _phi(h, t, tree, loss)[0]
    size = _size(phi, loss.exponent)
    w = _edges(w, tree)
    return (loss.unit * (size if w is None else w.to(phi.dtype) * size).sum(-1)).to(h.dtype)


def flow_pull_reference(
    seed: Tensor, h: Tensor, t: Tensor, w: Tensor | None, tree: Topology | None, loss: Loss, wants: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of sum(seed loss) to h, t and w, where wanted, in plain torch, to be differentiated further.

    With s_i = unit exponent w_i sign(phi_i) |phi_i|^(exponent - 1), g_k is the sum of s_i over the edges whose flow has
    bin k in it; to h it is g, and (g - sum_j p_j g_j) / sum(h) for p = h / sum(h) where that was divided inside.
    """
    phi, p, q, mass_h, mass_t = _phi(h, t, tree, loss)
    edges = _edges(w, tree)
    to_h = to_t = to_w = None
    seed = seed[..., None].to(phi.dtype)
    if wants[0] or wants[1]:
        s = loss.unit * _slope(phi, loss.exponent)
        s = (s if edges is None else edges.to(phi.dtype) * s).double()
        if tree is None:
            g = torch.nn.functional.pad(s.flip(-1).cumsum(-1).flip(-1), (0, 1))
        else:
            g = ancestor_sum(tree, s)[..., tree.leaves]
        if wants[0]:
            to_h = (g - (p * g).sum(-1, keepdim=True)) / mass_h if loss.normalise else g
            to_h = (seed * to_h).sum_to_size(h.shape).to(h.dtype)
        if wants[1]:
            to_t = (g - (q * g).sum(-1, keepdim=True)) / mass_t if loss.normalise else g
            to_t = (-seed * to_t).sum_to_size(t.shape).to(h.dtype)
    if wants[2] and w is not None:
        to_w = seed * loss.unit * _size(phi, loss.exponent)
        if tree is not None:
            to_w = torch.where(tree.parent >= 0, to_w, 0)
        to_w = to_w.sum_to_size(w.shape).to(w.dtype)
    return to_h, to_t, to_w


def _phi(h: Tensor, t: Tensor, tree: Topology | None, loss: Loss) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The flows, and histograms and masses in float64.

    Sums are kept in float64, so that a small flow is not lost beside a large prefix.
    """
    p = h.double()
    q = t.double() if t.is_floating_point() else _one_hot(t, h.shape[-1])
    mass_h, mass_t = p.sum(-1, keepdim=True), q.sum(-1, keepdim=True)
    if loss.normalise:
        p, q = p / mass_h, q / mass_t
    phi = (p - q).cumsum(-1)[..., :-1] if tree is None else subtree_sum(tree, p - q)
    return phi.to(torch.float64 if h.dtype == torch.float64 else torch.float32), p, q, mass_h, mass_t


def _one_hot(t: Tensor, size: int) -> Tensor:
    return (t[..., None] == torch.arange(size, device=t.device)).double()


def _edges(w: Tensor | None, tree: Topology | None) -> Tensor | None:
    return w if w is None or tree is None else torch.where(tree.parent >= 0, w, 0)


def _size(phi: Tensor, p: float) -> Tensor:
    return phi.abs() if p == 1 else phi.square() if p == 2 else phi.abs().pow(p)


def _slope(phi: Tensor, p: float) -> Tensor:
    """The slope p sign(phi) |phi|^(p - 1), which is 0 at 0 and has no infinite slope there itself."""
    if p == 1:
        return phi.sign()
    if p == 2:
        return 2 * phi
    flowing = phi != 0
    return torch.where(flowing, p * phi.sign() * torch.where(flowing, phi.abs(), 1).pow(p - 1), 0)
