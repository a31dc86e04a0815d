"""What all kernels share: the costs between a block of rows and a block of columns.

``direct`` takes differences coordinate by coordinate, in any norm; coordinates lie axis by axis, (d, n). The other two
expand the squared Euclidean distance, |x|^2 + |y|^2 - 2 x.y, of centred points that lie row by row, (n, D) with D a
multiple of ``DK``: ``ieee`` multiplies in float32, ``tf32x3`` on tensor cores with three products of split operands.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def held_rows(x, i, inside, sxi, D: tl.constexpr, DK: tl.constexpr, PRODUCT: tl.constexpr):
    """The rows of a block, where they fit in one step of a product; else a placeholder."""
    k = tl.arange(0, DK)
    if PRODUCT != "direct" and D == DK:
        return tl.load(x + i[:, None] * sxi + k[None, :], mask=inside[:, None], other=0.0)
    else:
        return k


@triton.jit
def base_distance(
    x, y, i, j, in_i, in_j, sxk, syk, d, D: tl.constexpr, NORM: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    F: tl.constexpr,
):  # fmt: skip
    """|x_i - y_j| in the norms 1 and inf (0 here), |x_i - y_j|^2 in the norm 2, from differences."""
    acc = tl.zeros([BN, BM], dtype=F)
    if D > 0:  # few coordinates: unrolled
        for k in tl.static_range(D):
            acc = _one_more(acc, x + k * sxk, y + k * syk, i, j, in_i, in_j, NORM, F)
    else:
        for k in range(d):
            acc = _one_more(acc, x + k * sxk, y + k * syk, i, j, in_i, in_j, NORM, F)
    return acc


@triton.jit
def _one_more(acc, x, y, i, j, in_i, in_j, NORM: tl.constexpr, F: tl.constexpr):
    u = tl.load(x + i, mask=in_i, other=0.0).to(F)
    v = tl.load(y + j, mask=in_j, other=0.0).to(F)
    t = u[:, None] - v[None, :]
    if NORM == 2:
        acc += t * t
    elif NORM == 1:
        acc += tl.abs(t)
    else:
        acc = tl.maximum(acc, tl.abs(t))
    return acc


@triton.jit
def power(t, NORM: tl.constexpr, P: tl.constexpr):
    """The p-th power of a distance, from what :func:`base_distance` gives."""
    if NORM == 2:
        if P == 2:
            return t
        elif P == 1:
            return tl.sqrt(t)
        else:
            return tl.where(t > 0, tl.exp2((P * 0.5) * tl.log2(t)), 0.0)
    elif P == 1:
        return t
    elif P == 2:
        return t * t
    else:
        return tl.where(t > 0, tl.exp2(P * tl.log2(t)), 0.0)


@triton.jit
def cost_tile(
    x, y, xx, yy, rows, i, j, in_i, in_j, sxi, sxk, syk, d, D: tl.constexpr, DK: tl.constexpr, PRODUCT: tl.constexpr,
    NORM: tl.constexpr, P: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """|x_i - y_j|^p for a block of rows i and a block of columns j."""
    if PRODUCT == "direct":
        t = base_distance(x, y, i, j, in_i, in_j, sxk, syk, d, D, NORM, BN, BM, F)
        return power(t, NORM, P)
    else:
        k = tl.arange(0, DK)
        acc = tl.zeros([BN, BM], dtype=F)
        if D == DK:
            v = tl.load(y + j[:, None] * sxi + k[None, :], mask=in_j[:, None], other=0.0)
            acc = tl.dot(rows, tl.trans(v), acc, input_precision=PRODUCT)
        else:
            for k0 in range(0, D, DK):
                u = tl.load(x + i[:, None] * sxi + (k0 + k)[None, :], mask=in_i[:, None], other=0.0)
                v = tl.load(y + j[:, None] * sxi + (k0 + k)[None, :], mask=in_j[:, None], other=0.0)
                acc = tl.dot(u, tl.trans(v), acc, input_precision=PRODUCT)
        u2 = tl.load(xx + i, mask=in_i, other=0.0)
        v2 = tl.load(yy + j, mask=in_j, other=0.0)
        return tl.maximum((u2[:, None] + v2[None, :]) - 2.0 * acc, 0.0)
