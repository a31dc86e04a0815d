"""Gibbs plans P_ij = exp((u_i + v_j - C_ij) / epsilon) without a matrix: marginals, products, gradients of <P, C>."""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl
from torch import Tensor

from barrow.ops.triton.clouds import Clouds
from barrow.ops.triton.softmin import pieces_of
from barrow.ops.triton.tile import LOG2E, base_distance, cost_tile, held_rows, power

SPLIT = 1 << 26  # numbers in the split buffer of column sums
WIDE = tl.constexpr(16)  # coordinates of a gradient, columns of a product, that a program holds


@dataclasses.dataclass(frozen=True, eq=False)
class Gibbs:
    """B plans between ``clouds``: u (B, n), v (B, m) and epsilon (B,), in the dtype that is computed in."""

    clouds: Clouds
    u: Tensor
    v: Tensor
    epsilon: Tensor

    @staticmethod
    def of(clouds: Clouds, u: Tensor, v: Tensor, epsilon: Tensor) -> Gibbs:
        """The same numbers as the kernels want them."""
        return Gibbs(clouds, *(t.to(clouds.dtype).contiguous() for t in (u, v, epsilon)))

    @property
    def T(self) -> Gibbs:
        """The plans read backwards."""
        return Gibbs(self.clouds.T, self.v, self.u, self.epsilon)

    @property
    def size(self) -> int:
        """B."""
        return self.u.shape[0]

    @property
    def blocks(self) -> int:
        """Blocks of rows in all plans."""
        return self.size * -(-self.clouds.n // self.clouds.rows)


@triton.jit
def marginals_kernel(
    x, y, xx, yy, n, m, d, sxb, syb, sxxb, syyb, sxi, sxk, syk,
    u, v, epsilon, row_sums, column_sums, first, last, pieces, width,
    D: tl.constexpr, DK: tl.constexpr, PRODUCT: tl.constexpr, NORM: tl.constexpr, P: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Both sums of a block of rows [first + ..., last) and a piece of the columns, every entry computed once."""
    blocks = tl.cdiv(last - first, BN)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    piece = tl.program_id(1)
    i = first + block * BN + tl.arange(0, BN)
    in_i = i < last
    x += b * sxb
    y += b * syb
    xx += b * sxxb
    yy += b * syyb
    scale = LOG2E / tl.load(epsilon + b)
    begin = piece * width
    end = tl.minimum(begin + width, m)
    rows = held_rows(x, i, in_i, sxi, D, DK, PRODUCT)
    ui = tl.load(u + b * n + i, mask=in_i, other=float("-inf"))
    acc = tl.zeros([BN, BM], dtype=F)
    for start in range(begin, end, BM):
        j = start + tl.arange(0, BM)
        in_j = j < end
        C = cost_tile(x, y, xx, yy, rows, i, j, in_i, in_j, sxi, sxk, syk, d, D, DK, PRODUCT, NORM, P, BN, BM, F)
        vj = tl.load(v + b * m + j, mask=in_j, other=float("-inf"))
        entries = tl.exp2(((ui[:, None] - C) + vj[None, :]) * scale)
        acc += entries
        tl.store(column_sums + (b * blocks + block) * m + j, tl.sum(entries, 0), mask=in_j)
    tl.store(row_sums + (b * pieces + piece) * n + i, tl.sum(acc, 1), mask=in_i)


def marginals(P: Gibbs) -> tuple[Tensor, Tensor]:
    """(P 1, P' 1): (B, n), (B, m), each entry of P computed once.

    Column sums go through a buffer of one line a block of rows, so that they are the same every time; it has at most
    2^26 numbers, beyond which the rows are taken in bands.
    """
    clouds, B, n, m = P.clouds, P.size, P.clouds.n, P.clouds.m
    pieces, width = pieces_of(clouds)
    row_sums = P.u.new_empty(B, pieces, n)
    columns = P.u.new_zeros(B, m)
    band = max(1, SPLIT // (B * m)) * clouds.rows
    for first in range(0, n, band):
        last = min(first + band, n)
        blocks = triton.cdiv(last - first, clouds.rows)
        split = P.u.new_empty(B, blocks, m)
        marginals_kernel[(B * blocks, pieces)](
            *clouds.arguments, P.u, P.v, P.epsilon, row_sums, split, first, last, pieces, width, **clouds.constants
        )
        columns += split.sum(1)
    return row_sums.sum(1), columns


@triton.jit
def product_kernel(
    x, y, xx, yy, n, m, d, sxb, syb, sxxb, syyb, sxi, sxk, syk,
    u, v, epsilon, factor, out, svb, columns,
    D: tl.constexpr, DK: tl.constexpr, PRODUCT: tl.constexpr, NORM: tl.constexpr, P: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, F: tl.constexpr, ONE: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Rows of P V for up to WIDE columns of V, or for its only one."""
    blocks = tl.cdiv(n, BN)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    in_i = i < n
    x += b * sxb
    y += b * syb
    xx += b * sxxb
    yy += b * syyb
    factor += b * svb
    scale = LOG2E / tl.load(epsilon + b)
    rows = held_rows(x, i, in_i, sxi, D, DK, PRODUCT)
    ui = tl.load(u + b * n + i, mask=in_i, other=float("-inf"))
    first = tl.program_id(1) * WIDE
    count = tl.minimum(columns - first, WIDE)
    c = tl.arange(0, WIDE)
    line = tl.zeros([BN, BM], dtype=F)
    acc = tl.zeros([BN, WIDE], dtype=F)
    for start in range(0, m, BM):
        j = start + tl.arange(0, BM)
        in_j = j < m
        C = cost_tile(x, y, xx, yy, rows, i, j, in_i, in_j, sxi, sxk, syk, d, D, DK, PRODUCT, NORM, P, BN, BM, F)
        vj = tl.load(v + b * m + j, mask=in_j, other=float("-inf"))
        entries = tl.exp2(((ui[:, None] - C) + vj[None, :]) * scale)
        if ONE:
            line += entries * tl.load(factor + j, mask=in_j, other=0.0)[None, :]
        elif DOTS:
            place = j[:, None] * columns + (first + c)[None, :]
            w = tl.load(factor + place, mask=in_j[:, None] & (c < count)[None, :], other=0.0)
            acc = tl.dot(entries, w, acc, input_precision="ieee")
        else:
            for k in range(count):
                w = tl.load(factor + j * columns + first + k, mask=in_j, other=0.0)
                sums = tl.sum(entries * w[None, :], 1)
                acc += tl.where(c[None, :] == k, sums[:, None], 0.0)
    if ONE:
        tl.store(out + b * n + i, tl.sum(line, 1), mask=in_i)
    else:
        to = (b * n + i)[:, None] * columns + (first + c)[None, :]
        tl.store(out + to, acc, mask=in_i[:, None] & (c < count)[None, :])


def product(P: Gibbs, V: Tensor) -> Tensor:
    """P V for V (B or 1, m, k): (B, n, k)."""
    clouds, k = P.clouds, V.shape[-1]
    V = V.to(clouds.dtype).contiguous()
    out = P.u.new_empty(P.size, clouds.n, k)
    if k:
        product_kernel[(P.blocks, triton.cdiv(k, WIDE.value))](
            *clouds.arguments,
            P.u,
            P.v,
            P.epsilon,
            V,
            out,
            0 if V.shape[0] == 1 else V.stride(0),
            k,
            ONE=k == 1,
            DOTS=clouds.dtype == torch.float32,  # matrix units of float64 are not everywhere
            **clouds.constants,
        )
    return out


@triton.jit
def gradient_kernel(
    x, y, xx, yy, n, m, d, sxb, syb, sxxb, syyb, sxi, sxk, syk,
    u, v, epsilon, alpha, beta, out,
    D: tl.constexpr, DK: tl.constexpr, PRODUCT: tl.constexpr, NORM: tl.constexpr, P: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Up to WIDE coordinates of sum_j alpha_i P_ij beta_j dC_ij / dx_i, from differences."""
    blocks = tl.cdiv(n, BN)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    in_i = i < n
    x += b * sxb
    y += b * syb
    scale = LOG2E / tl.load(epsilon + b)
    ui = tl.load(u + b * n + i, mask=in_i, other=float("-inf"))
    first = tl.program_id(1) * WIDE
    count = tl.minimum(d - first, WIDE)
    c = tl.arange(0, WIDE)
    acc = tl.zeros([BN, WIDE], dtype=F)
    for start in range(0, m, BM):
        j = start + tl.arange(0, BM)
        in_j = j < m
        t = base_distance(x, y, i, j, in_i, in_j, sxk, syk, d, D, NORM, BN, BM, F)
        vj = tl.load(v + b * m + j, mask=in_j, other=float("-inf"))
        mass = tl.exp2(((ui[:, None] - power(t, NORM, P)) + vj[None, :]) * scale)
        if SCALED:
            mass *= tl.load(beta + b * m + j, mask=in_j, other=0.0)[None, :]
        # The derivative of t^p, of t^(p/2) for squares, without the factor that belongs to the coordinate.
        if NORM == 2:
            if P == 2:
                mass *= 2
            else:
                mass *= tl.where(t > 0, P * tl.exp2((P * 0.5 - 1) * tl.log2(t)), 0.0)
        elif P != 1:
            mass *= tl.where(t > 0, P * tl.exp2((P - 1) * tl.log2(t)), 0.0)
        if NORM == 0:
            # Coordinates that share the maximum share the slope.
            ties = tl.zeros([BN, BM], dtype=F)
            for k in range(d):
                a = tl.load(x + k * sxk + i, mask=in_i, other=0.0)
                e = tl.load(y + k * syk + j, mask=in_j, other=0.0)
                ties += (tl.abs(a[:, None] - e[None, :]) == t).to(F)
            mass /= tl.maximum(ties, 1.0)
        for k in range(count):
            a = tl.load(x + (first + k) * sxk + i, mask=in_i, other=0.0)
            e = tl.load(y + (first + k) * syk + j, mask=in_j, other=0.0)
            difference = a[:, None] - e[None, :]
            if NORM != 2:
                sign = (difference > 0).to(F) - (difference < 0).to(F)
                if NORM == 0:
                    sign *= (tl.abs(difference) == t).to(F)
                difference = sign
            sums = tl.sum(mass * difference, 1)
            acc += tl.where(c[None, :] == k, sums[:, None], 0.0)
    if SCALED:
        acc *= tl.load(alpha + b * n + i, mask=in_i, other=0.0)[:, None]
    place = (b * n + i)[:, None] * d + (first + c)[None, :]
    tl.store(out + place, acc, mask=in_i[:, None] & (c < count)[None, :])


def gradient(P: Gibbs, alpha: Tensor | None = None, beta: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The gradient of <diag(alpha) P diag(beta), C>, P held fixed, to both clouds: (B, n, d), (B, m, d).

    alpha (B, n) and beta (B, m) may have any sign. Sides are one launch each, over rows that nobody else writes:
    the result is the same every time. The clouds must be laid out for differences.
    """
    clouds = P.clouds
    if clouds.product != "direct":
        raise ValueError(f"the clouds are laid out for {clouds.product!r} products, but gradients take differences")
    scaled = alpha is not None or beta is not None
    alpha, beta = (
        torch.ones_like(w) if t is None else t.to(clouds.dtype).contiguous() for t, w in ((alpha, P.u), (beta, P.v))
    )
    sides = []
    for one, left, right in ((P, alpha, beta), (P.T, beta, alpha)):
        out = one.u.new_empty(one.size, one.clouds.n, one.clouds.d)
        grid = one.blocks, triton.cdiv(one.clouds.d, WIDE.value)
        gradient_kernel[grid](
            *one.clouds.arguments,
            one.u,
            one.v,
            one.epsilon,
            left,
            right,
            out,
            SCALED=scaled,
            **one.clouds.constants,
        )
        sides.append(out)
    return sides[0], sides[1]
