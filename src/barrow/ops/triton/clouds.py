"""Clouds as the kernels want them, and the fixed table of their configurations."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

DIRECT = 16  # dimensions up to which differences are no dearer than a matrix product
UNROLLED = 4  # dimensions up to which differences are unrolled: more rows than that fill the registers
HELD = 64  # dimensions up to which the rows of a block stay where they are while columns pass
INDEX = 2**31  # the kernels count within one problem in 32 bits


@dataclasses.dataclass(frozen=True, eq=False)
class Clouds:
    """Two clouds laid out for the kernels, with the constants that these are compiled for.

    x and y are (B or 1, d, n) for differences, and (B or 1, n, D) with xx, yy (B or 1, n) for products.
    """

    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    d: int
    n: int
    m: int
    p: float
    norm: float
    product: str
    dtype: torch.dtype  # what is computed in: float32 or float64

    @property
    def T(self) -> Clouds:
        """The same clouds with their roles exchanged."""
        return dataclasses.replace(self, x=self.y, y=self.x, xx=self.yy, yy=self.xx, n=self.m, m=self.n)

    @property
    def rows(self) -> int:
        """Rows in a block."""
        return self.block[0]

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of a tile, and warps. Fixed, so that nothing is tuned at the first call.

        A thread keeps 16 or 32 entries of a tile: more spill the registers that the cost needs beside them.
        """
        if self.dtype == torch.float64:
            return 32, 32, 4
        if self.product == "direct":
            return 32, 64, 4
        return 64, 64, 4 if self.product == "tf32x3" else 8

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The tensors and strides that every kernel takes first."""
        direct = self.product == "direct"
        x, y = self.x, self.y
        return (
            x,
            y,
            self.xx,
            self.yy,
            self.n,
            self.m,
            self.d,
            *(0 if t.shape[0] == 1 else t.stride(0) for t in (x, y, self.xx, self.yy)),
            1 if direct else x.stride(1),
            x.stride(1) if direct else 1,
            y.stride(1) if direct else 1,
        )

    @property
    def constants(self) -> dict[str, Any]:
        """The constants that every kernel is compiled for."""
        BN, BM, warps = self.block
        direct = self.product == "direct"
        return {
            "D": (self.d if self.d <= UNROLLED else 0) if direct else self.x.shape[-1],
            "DK": 16 if direct else self.x.shape[-1] if self.x.shape[-1] <= HELD else 32,
            "PRODUCT": self.product,
            "NORM": 0 if math.isinf(self.norm) else int(self.norm),
            "P": int(self.p) if self.p == int(self.p) else self.p,
            "BN": BN,
            "BM": BM,
            "F": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "num_warps": warps,
        }


def choose_product(d: int, p: float, norm: float, dtype: torch.dtype) -> str:
    """How squared distances are found: ``direct`` or ``ieee``.

    Differences have a small relative error and cost two instructions a coordinate. Products have an absolute error of
    about 2^-23 (|x|^2 + |y|^2) around the centre of the clouds, and are worth it from 17 dimensions on. ``tf32x3``
    errs four times as much and runs on tensor cores: it is for callers who know the size of their clouds in units of
    epsilon (see :func:`affordable`), and is never chosen here. Plain TF32 is not offered at all.
    """
    return "ieee" if dtype == torch.float32 and d > DIRECT and p == 2 and norm == 2 else "direct"


def affordable(x: Tensor, p: float, norm: float, dtype: torch.dtype, units: Tensor, share: float = 0.01) -> str:
    """The fastest way whose error in a squared distance stays below a ``share`` of epsilon.

    ``units`` is the largest cost in units of epsilon: about their centre the points are no farther than its root. The
    number is read only where it matters.
    """
    if choose_product(x.shape[-1], p, norm, dtype) == "direct":
        return "direct"
    # Expanded squares round the sum of two norms, each at most a quarter of the square of the box's diagonal.
    error = float(units) * 2.0**-23
    if 4 * error <= share and _has_tensor_cores(x):
        return "tf32x3"
    return "ieee" if error <= share else "direct"


def _has_tensor_cores(x: Tensor) -> bool:
    """Whether split products run on this device, or in the interpreter."""
    if not x.is_cuda:
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= (8, 0)


def lay_out(
    x: Tensor,
    y: Tensor,
    p: float = 2,
    norm: float = 2,
    *,
    dtype: torch.dtype = torch.float32,
    product: str | None = None,
    seen: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Clouds:
    """Clouds x (B or 1, n, d) and y (B or 1, m, d), or unbatched ones, for kernels that compute in ``dtype``.

    Differences of points that are stored in the precision of the arithmetic are as good as they can be wherever the
    origin is. Whatever is rounded or multiplied is centred first, in float64, on the middle of the points ``seen``
    (B or 1, n), (B or 1, m): padding may lie anywhere.

    Raises:
        ValueError: more than 2^31 numbers in one cloud, or a product for costs that have none.
    """
    same = x is y
    x, y = (t[None] if t.dim() == 2 else t for t in (x, y))
    n, d = x.shape[-2:]
    m = y.shape[-2]
    product = choose_product(d, p, norm, dtype) if product is None else product
    if product != "direct" and not (p == 2 and norm == 2 and dtype == torch.float32):
        raise ValueError(f"product is {product!r}, but only squared Euclidean costs in float32 are products")
    if max(n, m) * (d + 32) >= INDEX:
        raise ValueError(f"a cloud of {max(n, m)} points in dimension {d} is too large for one device")
    if product != "direct" or torch.promote_types(x.dtype, dtype) != dtype:
        x, y = _centred(x, y, seen)
    if product == "direct":
        x = x.to(dtype).mT.contiguous()
        y = x if same else y.to(dtype).mT.contiguous()
        return Clouds(x, y, x, y, d, n, m, p, norm, product, dtype)
    # Whole steps of a product: zeros change no distance.
    # A width that is held is a power of two, as every side of a tile is.
    extra = (max(16, 1 << (d - 1).bit_length()) if d <= HELD else d + -d % 32) - d
    x = torch.nn.functional.pad(x.to(dtype), (0, extra)).contiguous()
    y = x if same else torch.nn.functional.pad(y.to(dtype), (0, extra)).contiguous()
    xx = _squares(x)
    return Clouds(x, y, xx, xx if same else _squares(y), d, n, m, p, norm, product, dtype)


def _squares(x: Tensor) -> Tensor:
    # In float64: the error of a norm would be that of a whole row.
    return x.double().square().sum(-1).to(x.dtype)


def _centred(x: Tensor, y: Tensor, seen: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor]:
    x, y = x.double(), y.double()
    low, high = box(x, y, seen)
    middle = (low + high) / 2
    middle = torch.where(middle.isfinite(), middle, 0)
    return x - middle, y - middle


def box(x: Tensor, y: Tensor, seen: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor]:
    """The least and the largest coordinates of the points seen, (..., 1, d) both."""
    low, high = [], []
    for t, where in zip((x, y), seen, strict=True):
        hide = torch.zeros((), dtype=torch.bool, device=t.device) if where is None else ~where[..., None]
        low.append(t.masked_fill(hide, torch.inf).amin(-2, keepdim=True))
        high.append(t.masked_fill(hide, -torch.inf).amax(-2, keepdim=True))
    return torch.minimum(*low), torch.maximum(*high)


def guard(t: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The device of a tensor as the current one, which is where Triton launches."""
    return torch.cuda.device_of(t) if t.is_cuda else contextlib.nullcontext()
