"""Sorting activations: isometries almost everywhere, the nonlinearity of 1-Lipschitz networks."""

from __future__ import annotations

from typing import SupportsIndex

from torch import Tensor, nn

from barrow.check import shape
from barrow.nn.linear import positive_integer
from barrow.ops.pair_sort import pair_sort

__all__ = ["FullSort", "GroupSort"]


def feature_dim(x: Tensor, dim: int | None) -> int:
    """The dimension of the features: `dim`, or dimension 1 of images and volumes, or else the last one."""
    if x.ndim == 0:
        raise ValueError("a scalar has no features: give an input of shape (..., features)")
    if dim is None:
        return 1 if x.ndim in (4, 5) else x.ndim - 1
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim = {dim} does not exist in an input of shape {shape(x)}")
    return dim % x.ndim


class GroupSort(nn.Module):
    """Sort the features ascending within consecutive groups of `group_size`.

        (x_1, ..., x_k) -> (x_(1) <= ... <= x_(k)) in each group

    A permutation of its input, hence 1-Lipschitz and norm preserving; group_size 2 is also called MaxMin. Choose a
    small group for deep networks and images, :class:`FullSort` for narrow layers. Not elementwise: features of one
    group should mean comparable things.

    Args:
        group_size: features in a group; must divide the number of features.
        dim: the dimension of the features. None means the last one, except for images (N, C, H, W) and volumes
            (N, C, D, H, W), inputs of four and five dimensions, whose channels (dimension 1) are sorted.

    Raises:
        ValueError: group_size is not a positive integer, does not divide the features, or dim does not exist.

    >>> GroupSort(2)(torch.tensor([3.0, 1.0, 2.0, 4.0]))
    tensor([1., 3., 2., 4.])

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.1.
    """

    def __init__(self, group_size: SupportsIndex, dim: int | None = None) -> None:
        super().__init__()
        self.group_size = positive_integer("group_size", group_size)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Sort; the output has the shape of the input."""
        dim = feature_dim(x, self.dim)
        features = x.shape[dim]
        if features % self.group_size:
            raise ValueError(
                f"GroupSort({self.group_size}) cannot split {features} features (dimension {dim} of {shape(x)}) into "
                f"equal groups: choose a group_size that divides {features}, or FullSort()"
            )
        grouped = x.unflatten(dim, (features // self.group_size, self.group_size))
        if self.group_size == 2:
            # One comparison instead of a sort: several times faster on images.
            first, second = grouped.unbind(dim + 1)
            result = pair_sort(first, second, dim + 1)
        else:
            result = grouped.sort(dim + 1).values
        return result.flatten(dim, dim + 1)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.group_size}" + ("" if self.dim is None else f", dim={self.dim}")


class FullSort(nn.Module):
    """Sort all features ascending.

        (x_1, ..., x_n) -> (x_(1) <= ... <= x_(n))

    A permutation of its input, hence 1-Lipschitz and norm preserving. Choose it for narrow fully connected layers;
    for images and wide layers :class:`GroupSort` costs less and trains as well.

    Args:
        dim: the dimension of the features, as in :class:`GroupSort`.

    Raises:
        ValueError: the input is a scalar, or dim does not exist.

    >>> FullSort()(torch.tensor([3.0, 1.0, 2.0]))
    tensor([1., 2., 3.])

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 4.1.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Sort; the output has the shape of the input."""
        return x.sort(feature_dim(x, self.dim)).values

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return "" if self.dim is None else f"dim={self.dim}"
