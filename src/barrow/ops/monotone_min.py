"""The c-transform on a line in O((n + m) log m): its arg-min is monotone, so halving brackets it."""

from __future__ import annotations

import torch
from torch import Tensor


def monotone_min(x: Tensor, y: Tensor, h: Tensor, p: float) -> Tensor:
    """min_j |x_i - y_j|^p - h_j for positions x (B, n), y (B, m) and numbers h (B, m), -inf allowed: (B, n).

    |x - y|^p with p >= 1 is a Monge cost in sorted order whatever h is, so the leftmost minimiser moves right with x.
    The middle query of every interval is solved by scanning the bracket its neighbours left; one level costs one pass.
    Source: Aggarwal, Klawe, Moran, Shor and Wilber 1987 (totally monotone matrices).
    """
    B, n = x.shape
    m = y.shape[-1]
    x, x_order = x.sort(dim=-1)
    y, y_order = y.sort(dim=-1)
    h = h.expand(B, m).gather(-1, y_order)
    arg = x.new_zeros((B, n + 2), dtype=torch.long)  # one sentinel on either side: column 0 and column m - 1
    arg[:, -1] = m - 1
    best = torch.full_like(x, torch.inf)
    width = 1 << max(n.bit_length(), 1)
    while width > 1:
        half = width // 2
        query = torch.arange(half, n + 1, width, device=x.device)  # 1-based, so that the sentinels are 0 and n + 1
        low = arg[:, query - half]
        high = arg[:, (query + half).clamp_max(n + 1)]
        value, where = _scan(x[:, query - 1], y, h, low, high, p)
        best[:, query - 1] = value
        arg[:, query] = where
        width = half
    return torch.empty_like(best).scatter_(-1, x_order, best)


def _scan(x: Tensor, y: Tensor, h: Tensor, low: Tensor, high: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Minimum and leftmost arg-min of |x_q - y_j|^p - h_j over low_q <= j <= high_q, for every query at once."""
    B, queries = x.shape
    count = (high - low + 1).flatten()
    owner = torch.repeat_interleave(torch.arange(B * queries, device=x.device), count)
    first = count.cumsum(0) - count
    j = torch.arange(owner.numel(), device=x.device) - first[owner] + low.flatten()[owner]
    flat = j + (owner // queries) * y.shape[-1]
    value = (x.flatten()[owner] - y.flatten()[flat]).abs().pow(p) - h.flatten()[flat]
    best = value.new_full((B * queries,), torch.inf).scatter_reduce_(0, owner, value, "amin")
    at = torch.where(value == best[owner], j, y.shape[-1] - 1)
    where = torch.full_like(count, y.shape[-1] - 1).scatter_reduce_(0, owner, at, "amin")
    return best.view(B, queries), where.view(B, queries)
