"""The soft minimum of costs between points, without a matrix."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from barrow.ops.triton.clouds import Clouds
from barrow.ops.triton.tile import LN2, LOG2E, cost_tile, held_rows

BUSY = 256  # blocks of rows from which on a device is busy with one piece of the columns
PIECE = 1024  # columns that a piece has at least

# Sums relative to an expected size are trusted within these powers of two; beyond, a block starts again.
LEAST = tl.constexpr(-60)
MOST = tl.constexpr(100)


@triton.jit
def softmin_kernel(
    x, y, xx, yy, n, m, d, sxb, syb, sxxb, syyb, sxi, sxk, syk,
    h, other_h, pick, weight, shift, stretch, epsilon, active, out,
    shb, swb, ssb, pieces, width,
    D: tl.constexpr, DK: tl.constexpr, PRODUCT: tl.constexpr, NORM: tl.constexpr, P: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, F: tl.constexpr,
    PICKED: tl.constexpr, WEIGHTED: tl.constexpr, SHIFTED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Rows of one block against one piece of the columns.

    h_j is h or, where ``pick`` says so for a problem, other_h; with WEIGHTED, epsilon * weight_j is added. ``out`` is
    (B, pieces, n): the soft minimum itself where there is one piece, else log2 of the sum.
    """
    blocks = tl.cdiv(n, BN)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active + b) != 0:
        piece = tl.program_id(1)
        i = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
        in_i = i < n
        x += b * sxb
        y += b * syb
        xx += b * sxxb
        yy += b * syyb
        weight += b * swb
        source = h + b * shb
        if PICKED:  # noqa: SIM102  (known when compiling, unlike what follows)
            if tl.load(pick + b) != 0:
                source = other_h + b * shb
        eps = tl.load(epsilon + b)
        scale = LOG2E / eps
        begin = piece * width
        end = tl.minimum(begin + width, m)
        rows = held_rows(x, i, in_i, sxi, D, DK, PRODUCT)
        expected = tl.zeros([BN], dtype=F)
        if SHIFTED:
            # A potential of an unbalanced problem is its soft minimum, damped.
            expected = tl.load(shift + b * ssb + i, mask=in_i, other=0.0) * (1 + eps * tl.load(stretch))
            expected = tl.where(tl.abs(expected) < float("inf"), expected, 0.0)
        log_sum = tl.zeros([BN], dtype=F)
        again = True
        if SHIFTED:
            # No maximum to keep: the sum of a row of the plan is of the order of one.
            acc = tl.zeros([BN, BM], dtype=F)
            for start in range(begin, end, BM):
                j = start + tl.arange(0, BM)
                in_j = j < end
                C = cost_tile(
                    x, y, xx, yy, rows, i, j, in_i, in_j, sxi, sxk, syk, d, D, DK, PRODUCT, NORM, P, BN, BM, F
                )
                hj = tl.load(source + j, mask=in_j, other=float("-inf"))
                if WEIGHTED:
                    hj += eps * tl.load(weight + j, mask=in_j, other=0.0)
                acc += tl.exp2(((hj[None, :] - C) + expected[:, None]) * scale)
            log_sum = tl.log2(tl.sum(acc, 1))
            trusted = (log_sum > LEAST) & (log_sum < MOST)
            again = tl.sum((in_i & (trusted == 0)).to(tl.int32), 0) > 0
        if again:
            expected = tl.zeros([BN], dtype=F)  # a number that is far off would swallow digits
            top = tl.full([BN], float("-inf"), dtype=F)
            total = tl.zeros([BN], dtype=F)
            for start in range(begin, end, BM):
                j = start + tl.arange(0, BM)
                in_j = j < end
                C = cost_tile(
                    x, y, xx, yy, rows, i, j, in_i, in_j, sxi, sxk, syk, d, D, DK, PRODUCT, NORM, P, BN, BM, F
                )
                hj = tl.load(source + j, mask=in_j, other=float("-inf"))
                if WEIGHTED:
                    hj += eps * tl.load(weight + j, mask=in_j, other=0.0)
                e = (hj[None, :] - C) * scale
                higher = tl.maximum(top, tl.max(e, 1))
                base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen so far
                total = total * tl.exp2(top - base) + tl.sum(tl.exp2(e - base[:, None]), 1)
                top = higher
            log_sum = tl.where(top == float("-inf"), float("-inf"), tl.log2(total) + top)
        result = log_sum
        if WHOLE:
            result = expected - (eps * LN2) * log_sum
        tl.store(out + (b * pieces + piece) * n + i, result, mask=in_i)


def pieces_of(clouds: Clouds) -> tuple[int, int]:
    """How many pieces the columns are cut into, and how long they are.

    Few rows leave a device idle. It depends on one problem's size only: a problem's rounding is the same in any batch.
    """
    blocks = triton.cdiv(clouds.n, clouds.rows)
    wanted = min(triton.cdiv(BUSY, blocks), max(1, clouds.m // PIECE))
    step = clouds.block[1]
    width = triton.cdiv(triton.cdiv(clouds.m, wanted), step) * step
    return triton.cdiv(clouds.m, width), width


def launch(
    clouds: Clouds,
    h: Tensor,
    epsilon: Tensor,
    active: Tensor,
    out: Tensor,
    *,
    other: tuple[Tensor, Tensor] | None = None,
    weight: Tensor | None = None,
    shift: tuple[Tensor, Tensor] | None = None,
) -> None:
    """One launch over (B, n, m): see :func:`softmin_kernel`. h (B, m), epsilon (B,), active (B,) int32.

    ``other`` is a second h with the choice (B,) int32; ``weight`` (B, m) or (1, m); ``shift`` is what the soft minimum
    is expected to be (B, n), and 1 / rho (1,). Sums that differ much from it are computed again within the launch.
    """
    B = h.shape[0]
    pieces, width = pieces_of(clouds)
    second, pick = (h, active) if other is None else other
    expected, stretch = (h, epsilon) if shift is None else shift
    weights = h if weight is None else weight
    blocks = triton.cdiv(clouds.n, clouds.rows)
    softmin_kernel[(B * blocks, pieces)](
        *clouds.arguments,
        h,
        second,
        pick,
        weights,
        expected,
        stretch,
        epsilon,
        active,
        out,
        h.stride(0),
        0 if weights.shape[0] == 1 else weights.stride(0),
        expected.stride(0),
        pieces,
        width,
        PICKED=other is not None,
        WEIGHTED=weight is not None,
        # Some piece of the columns is nearly always far away: its sum is small for no fault of the shift.
        SHIFTED=shift is not None and pieces == 1,
        WHOLE=pieces == 1,
        **clouds.constants,
    )


def room(clouds: Clouds, B: int) -> Tensor:
    """What :func:`launch` writes into: (B, pieces, n)."""
    return torch.empty(B, pieces_of(clouds)[0], clouds.n, dtype=clouds.dtype, device=clouds.x.device)


def finish(found: Tensor, epsilon: Tensor) -> Tensor:
    """The soft minima (B, n) from what :func:`launch` wrote."""
    if found.shape[1] == 1:
        return found[:, 0]
    return -epsilon[:, None] * torch.logsumexp(found * 0.6931471805599453, 1)


def softmin(clouds: Clouds, h: Tensor, epsilon: Tensor) -> Tensor:
    """-epsilon log sum_j exp((h_j - C_ij) / epsilon) for h (B, m) and epsilon (B,): (B, n)."""
    h, epsilon = h.to(clouds.dtype).contiguous(), epsilon.to(clouds.dtype).contiguous()
    out = room(clouds, h.shape[0])
    launch(clouds, h, epsilon, torch.ones(h.shape[0], dtype=torch.int32, device=h.device), out)
    return finish(out, epsilon)
