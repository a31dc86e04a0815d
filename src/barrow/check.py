"""Shapes, dtypes, devices, and the words of every complaint.

Only what can be known without reading a tensor's values is checked here (reading would wait for the GPU); values are
judged where they are first read, by :func:`barrow.solve`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsFloat

import torch
from torch import Tensor


class Incompatible(ValueError):
    """A solver was handed a problem that it cannot solve."""


def shape(t: Tensor) -> str:
    """A tensor's shape as a user would type it: ``(8, 256, 3)``."""
    return str(tuple(t.shape))


def real_tensor(name: str, t: object, *, what: str) -> Tensor:
    """Refuse anything but a floating-point tensor."""
    if not isinstance(t, Tensor):
        raise ValueError(f"{name} is a {type(t).__name__}, but {what} must be a torch.Tensor: use torch.as_tensor")
    if not t.is_floating_point():
        raise ValueError(f"{name} has dtype {t.dtype}, but {what} must be floating point: call {name}.float() first")
    return t


def same_kind(first_name: str, first: Tensor, name: str, t: Tensor) -> None:
    """Refuse two tensors of different dtype or on different devices."""
    if t.device != first.device:
        raise ValueError(
            f"{first_name} is on {first.device} but {name} is on {t.device}: "
            f"move one with {name}.to({first_name}.device)"
        )
    if t.dtype != first.dtype:
        raise ValueError(
            f"{first_name} has dtype {first.dtype} but {name} has dtype {t.dtype}: "
            f"convert one with {name}.to({first_name}.dtype)"
        )


def cloud(name: str, t: object) -> Tensor:
    """Refuse anything but a cloud of points (..., n, d) with n, d >= 1."""
    points = real_tensor(name, t, what="a cloud of points")
    if points.dim() < 2:
        raise ValueError(
            f"{name} has shape {shape(points)}, but a cloud of points must have shape (..., n, d): "
            f"for n points on a line use {name}.unsqueeze(-1)"
        )
    if points.shape[-2] == 0 or points.shape[-1] == 0:
        raise ValueError(f"{name} has shape {shape(points)}: a cloud needs at least one point and one coordinate")
    return points


def clouds(x: object, y: object, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """Refuse two clouds that do not live in one space."""
    x, y = cloud(names[0], x), cloud(names[1], y)
    same_kind(names[0], x, names[1], y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{names[0]} has shape {shape(x)} but {names[1]} has shape {shape(y)}: the last dimension must agree"
        )
    batch(**{names[0]: x.shape[:-2], names[1]: y.shape[:-2]})
    return x, y


def batch(**shapes: Sequence[int]) -> torch.Size:
    """Broadcast leading batch shapes, or say which do not fit."""
    try:
        joint: torch.Size = torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        listed = ", ".join(f"{name} {tuple(s)}" for name, s in shapes.items())
        raise ValueError(f"the batch dimensions do not broadcast: {listed}") from None
    return joint


def weights(name: str, w: object, size: int, like: Tensor, like_name: str) -> Tensor:
    """Refuse weights that do not fit a side of ``size`` atoms."""
    w = real_tensor(name, w, what="weights")
    if w.dim() == 0 or w.shape[-1] != size:
        raise ValueError(
            f"{name} has shape {shape(w)}, but there are {size} atoms on that side: expected shape (..., {size})"
        )
    same_kind(like_name, like, name, w)
    return w


def flattened(name: str, w: object, sides: Sequence[int]) -> None:
    """Refuse weights that still have the shape of their grid."""
    if isinstance(w, Tensor) and w.dim() > 1 and tuple(w.shape[-len(sides) :]) == tuple(sides):
        start = "" if w.dim() == len(sides) else -len(sides)
        if w.shape[-1] != math.prod(sides):
            raise ValueError(
                f"{name} has shape {shape(w)}, but weights on a grid are in one row, expected shape "
                f"(..., {math.prod(sides)}): use {name}.flatten({start})"
            )


def sides(name: str, value: object) -> tuple[int, ...]:
    """Refuse what does not list the pixels along each axis of a grid."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but it must list the pixels along each axis, such as (64, 64)")
    if len(value) == 0:
        raise ValueError(f"{name} is empty, but a grid has at least one axis: give its pixels, such as (64, 64)")
    return tuple(whole(f"{name}[{k}]", side) for k, side in enumerate(value))


def one_an_axis(name: str, value: object, axes: int) -> tuple[float, ...]:
    """Refuse what is neither a positive number nor one an axis."""
    if isinstance(value, Sequence) or (isinstance(value, Tensor) and value.dim() == 1):
        if len(value) != axes:
            raise ValueError(f"{name} has {len(value)} numbers for {axes} axes: give one number, or one an axis")
        return tuple(positive(f"{name}[{k}]", number) for k, number in enumerate(value))
    return (positive(name, value),) * axes


def exponent(name: str, p: object) -> float:
    """Refuse an exponent that is not a finite real number of at least 1."""
    p = number(name, p)
    if not 1 <= p < math.inf:
        raise ValueError(f"{name} is {p}, but it must be a finite real number of at least 1")
    return p


def ground_norm(name: str, value: object) -> float:
    """Refuse a norm that is not 1, 2 or inf."""
    value = number(name, value)
    if value not in (1, 2, math.inf):
        raise ValueError(f"{name} is {value}, but the ground norms are 1, 2 and inf")
    return value


def penalties(name: str, value: object) -> tuple[float, float]:
    """Refuse what is neither a positive number (inf is one) nor a pair of them."""
    both = value if isinstance(value, Sequence) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{name} is {value!r}, but it must be a number or a pair ({name}_a, {name}_b)")
    return positive(name, both[0], infinite=True), positive(name, both[1], infinite=True)


def number(name: str, value: object) -> float:
    """Refuse what is not one real number (a 0-dimensional tensor is one)."""
    if isinstance(value, Tensor):
        if value.dim() != 0:
            raise ValueError(f"{name} has shape {shape(value)}, but it must be a single number")
        if value.requires_grad:
            raise ValueError(f"{name} requires grad, but no gradient is given to {name}: pass float({name})")
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise ValueError(f"{name} is {value!r}, but it must be a number")
    try:
        real = float(value)
    except TypeError:  # an array of several
        raise ValueError(f"{name} is {value!r}, but it must be a single number") from None
    if real != real:  # math.isnan would stop a compiler that has made the number a symbol
        raise ValueError(f"{name} is NaN, but it must be a number")
    return real


def positive(name: str, value: object, *, infinite: bool = False) -> float:
    """Refuse what is not a positive number."""
    value = number(name, value)
    if value <= 0 or (value == math.inf and not infinite):
        allowed = "positive" if infinite else "positive and finite"
        raise ValueError(f"{name} is {value}, but it must be {allowed}")
    return value


def information(name: str, value: object) -> float:
    """Refuse what is not a number of nats of at least 0 (inf is one)."""
    value = number(name, value)
    if value < 0:
        raise ValueError(f"{name} is {value}, but the information allowed to a coupling is at least 0")
    return value


def fraction(name: str, value: object) -> float:
    """Refuse what is not a number from 0 to 1."""
    value = number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but it must be a number from 0 to 1")
    return value


def whole(name: str, value: object, *, least: int = 1) -> int:
    """Refuse what is not an integer of at least ``least``."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} is {value!r}, but it must be a whole number") from None
    if isinstance(value, bool) or count < least:
        raise ValueError(f"{name} is {value!r}, but it must be a whole number of at least {least}")
    return count


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half and bfloat16 are computed in float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
