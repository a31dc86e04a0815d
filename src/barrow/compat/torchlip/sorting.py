"""torchlip's sorts: along dimension 1, times a coefficient."""

from __future__ import annotations

from torch import Tensor, nn

from barrow.compat.torchlip.export import WithCoefficient, coefficient
from barrow.compat.torchlip.functional import group_sort
from barrow.nn.linear import positive_integer
from barrow.nn.lipschitz import register

__all__ = ["FullSort", "GroupSort"]


class GroupSort(nn.Module, WithCoefficient):
    """Sort ascending in consecutive groups along dimension 1, times k_coef_lip: :class:`barrow.nn.GroupSort`.

    Args:
        group_size: features in a group; None, or more than there are, is all of them.
        k_coef_lip: the Lipschitz constant.

    Raises:
        ValueError: group_size is not a positive integer or does not divide the features, k_coef_lip is not positive,
            or the input has no dimension 1.

    >>> import torch
    >>> GroupSort(2, k_coef_lip=2.0)(torch.tensor([[3.0, 1.0, 0.0, 4.0]])).tolist()
    [[2.0, 6.0, 0.0, 8.0]]
    """

    def __init__(self, group_size: int | None = None, k_coef_lip: float = 1.0) -> None:
        super().__init__()
        self.group_size = None if group_size is None else positive_integer("group_size", group_size)
        self.k_coef_lip = coefficient(k_coef_lip)

    def forward(self, x: Tensor) -> Tensor:
        """Sort; the output has the shape of the input."""
        y = group_sort(x, self.group_size)
        return y if self.k_coef_lip == 1 else y * self.k_coef_lip

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"group_size={self.group_size}, k_coef_lip={self.k_coef_lip}"


class FullSort(GroupSort):
    """Sort ascending along dimension 1, times k_coef_lip: :class:`barrow.nn.FullSort`.

    >>> import torch
    >>> FullSort()(torch.tensor([[3.0, 1.0, 2.0]])).tolist()
    [[1.0, 2.0, 3.0]]
    """

    def __init__(self, k_coef_lip: float = 1.0) -> None:
        super().__init__(None, k_coef_lip)


@register(GroupSort)
def _sort(module: GroupSort, path: str) -> float:
    return module.k_coef_lip
