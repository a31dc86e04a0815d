"""Activations and losses as functions under torchlip's names.

The losses return what each sample contributes, (batch,), whose mean is the loss, as in torchlip 1.0, and refuse the
same data as the classes of :mod:`barrow.compat.torchlip`. The one exception is :func:`kr_loss`, see there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from barrow.check import real_tensor, shape
from barrow.compat.torchlip import losses
from barrow.compat.torchlip.losses import process_labels_for_multi_gpu
from barrow.nn.activations import slopes_for
from barrow.nn.kantorovich import kantorovich_rubinstein
from barrow.nn.lipschitz import register
from barrow.nn.sort import FullSort, GroupSort
from barrow.ops.symmetric_pad import symmetric_pad

__all__ = [
    "SymmetricPad",
    "apply_reduction",
    "full_sort",
    "group_sort",
    "group_sort_2",
    "hinge_margin_loss",
    "hinge_multiclass_loss",
    "hkr_loss",
    "hkr_multiclass_loss",
    "kr_loss",
    "kr_loss_multi_gpu",
    "kr_loss_standard",
    "lipschitz_prelu",
    "max_min",
    "neg_kr_loss",
    "process_labels_for_multi_gpu",
]


# -- activations -------------------------------------------------------------------------------------------------------


def max_min(input: Tensor, dim: int | None = None) -> Tensor:
    """Positive and negative parts side by side along dim (None: 1, or 0 of a vector): twice the width.

    >>> max_min(torch.tensor([2.0, -3.0])).tolist()
    [2.0, 0.0, 0.0, 3.0]
    """
    if dim is None:
        dim = 0 if input.ndim == 1 else 1
    if not -input.ndim <= dim < input.ndim:
        raise ValueError(f"dim = {dim} does not exist in an input of shape {shape(input)}")
    return torch.cat((input.relu(), (-input).relu()), dim)


def group_sort(input: Tensor, group_size: int | None = None, dim: int = 1) -> Tensor:
    """Sort ascending in consecutive groups along dim; None, or a size above the dimension's, sorts all of it.

    >>> group_sort(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), 2).tolist()
    [[1.0, 3.0, 0.0, 2.0]]
    """
    if group_size is None or (-input.ndim <= dim < input.ndim and group_size > input.shape[dim]):
        result: Tensor = FullSort(dim)(input)
        return result
    grouped: Tensor = GroupSort(group_size, dim)(input)
    return grouped


def group_sort_2(input: Tensor) -> Tensor:
    """Sort neighbouring pairs along dimension 1.

    >>> group_sort_2(torch.tensor([[3.0, 1.0]])).tolist()
    [[1.0, 3.0]]
    """
    return group_sort(input, 2)


def full_sort(input: Tensor) -> Tensor:
    """Sort ascending along dimension 1.

    >>> full_sort(torch.tensor([[3.0, 1.0, 2.0]])).tolist()
    [[1.0, 2.0, 3.0]]
    """
    return group_sort(input)


def lipschitz_prelu(input: Tensor, weight: Tensor, k_coef_lip: float = 1.0) -> Tensor:
    """A leaky ReLU with slopes clamped to [-k_coef_lip, k_coef_lip].

    Positive inputs keep slope 1, also where k_coef_lip is smaller: the constant is max(1, k_coef_lip), as in torchlip.
    :class:`barrow.compat.torchlip.LPReLU` honours smaller ones.

    >>> lipschitz_prelu(torch.tensor([-1.0, 1.0]), torch.tensor([3.0]), 2.0).tolist()
    [-2.0, 1.0]
    """
    return nn.functional.prelu(input, slopes_for(input, weight.clamp(-k_coef_lip, k_coef_lip)))


# -- losses ------------------------------------------------------------------------------------------------------------


def apply_reduction(val: Tensor, reduction: str) -> Tensor:
    """The mean ("mean" or "auto"), the sum ("sum"), or the values as they are ("none").

    >>> apply_reduction(torch.tensor([1.0, 2.0]), "auto").item()
    1.5
    """
    if reduction not in ("mean", "sum", "none", "auto"):
        raise ValueError(f"reduction is {reduction!r}, but it must be 'mean', 'sum', 'none' or 'auto' (the mean)")
    if reduction == "none":
        return val
    return val.sum() if reduction == "sum" else val.mean()


def kr_loss(input: Tensor, target: Tensor, multi_gpu: bool = False) -> Tensor:
    """The Kantorovich-Rubinstein loss of a batch that holds both laws, to be *minimised*; its minimum is -W_1:

        -(mean of input where target > 0 - mean of input where target <= 0)

    As the notebooks of torchlip before 1.0 use it: a scalar, to be minimised. In torchlip 1.0 the function of this
    name has the opposite sign and returns what each sample contributes: that is :func:`kr_loss_standard`. Choose it to
    run such notebooks; in new code :func:`barrow.nn.kantorovich_rubinstein` takes the two batches separately and
    cannot be given a batch without one class.

    Args:
        input: critic values, one a sample: (batch,) or (batch, 1).
        target: as many labels, above 0 for one law, 0 or below for the other (0/1 or -1/1), of any real dtype; with
            multi_gpu the weights of :func:`process_labels_for_multi_gpu`.
        multi_gpu: the batch is shared by several processes.

    Returns:
        A scalar. Its minimum over 1-Lipschitz critics is -W_1, so it is usually negative.

    Raises:
        ValueError: not one label a value, or a class is missing from the batch.

    >>> import torch
    >>> kr_loss(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [0.0]]))
    tensor(-2.)
    """
    real_tensor("input", input, what="critic values")
    if input.ndim == 0 or input.numel() != target.numel() or input.numel() != input.shape[0]:
        raise ValueError(
            f"input has shape {shape(input)} and target {shape(target)}: give one value and one label a sample, "
            "(batch, 1) or (batch,)"
        )
    if multi_gpu:
        return -kr_loss_multi_gpu(input, target).mean()
    values, positive = input.reshape(-1), target.reshape(-1) > 0
    count = int(positive.sum())
    if count in (0, len(values)):
        missing = "above 0" if count == 0 else "of 0 or below"
        raise ValueError(
            f"no label of this batch of {len(values)} is {missing}: the loss compares two classes, draw batches that "
            "hold both"
        )
    return -kantorovich_rubinstein(values[positive], values[~positive])


def kr_loss_standard(input: Tensor, target: Tensor) -> Tensor:
    """What each sample contributes to Kantorovich-Rubinstein, to be maximised: (batch,).

    One output a sample is binary; several are a class each, of which the mean is taken.

    >>> kr_loss_standard(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [0.0]])).tolist()
    [6.0, -2.0]
    """
    if _several(input):
        return losses.KRMulticlassLoss(reduction="none")(input, target)  # type: ignore[no-any-return]
    return losses.KRLoss(reduction="none")(input, target)  # type: ignore[no-any-return]


def kr_loss_multi_gpu(input: Tensor, target: Tensor) -> Tensor:
    """:func:`kr_loss_standard` with targets from :func:`process_labels_for_multi_gpu`.

    >>> kr_loss_multi_gpu(torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [-2.0]])).tolist()
    [6.0, -2.0]
    """
    if _several(input):
        return losses.KRMulticlassLoss(True, "none")(input, target)  # type: ignore[no-any-return]
    return losses.KRLoss(True, "none")(input, target)  # type: ignore[no-any-return]


def neg_kr_loss(input: Tensor, target: Tensor, multi_gpu: bool = False) -> Tensor:
    """What each sample contributes to the negative of Kantorovich-Rubinstein, to be minimised: (batch,).

    >>> neg_kr_loss(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [0.0]])).tolist()
    [-6.0, 2.0]
    """
    return -(kr_loss_multi_gpu if multi_gpu else kr_loss_standard)(input, target)


def hinge_margin_loss(input: Tensor, target: Tensor, min_margin: float = 1) -> Tensor:
    """The hinge at half the margin of each sample, (batch,).

    >>> hinge_margin_loss(torch.tensor([[3.0], [0.25]]), torch.tensor([[1.0], [0.0]])).tolist()
    [0.0, 0.75]
    """
    return losses.HingeMarginLoss(min_margin, "none")(input, target)  # type: ignore[no-any-return]


def hkr_loss(input: Tensor, target: Tensor, alpha: float, min_margin: float = 1.0, multi_gpu: bool = False) -> Tensor:
    """The mixture alpha times the hinge less (1 - alpha) times Kantorovich-Rubinstein of each sample, (batch,).

    >>> hkr_loss(torch.tensor([[3.0], [0.25]]), torch.tensor([[1.0], [0.0]]), 0.5).tolist()
    [-3.0, 0.625]
    """
    return losses.HKRLoss(alpha, min_margin, multi_gpu, "none")(input, target)  # type: ignore[no-any-return]


def hinge_multiclass_loss(input: Tensor, target: Tensor, min_margin: float = 1) -> Tensor:
    """The hinge of each class against the rest, the true one counted as much as the others together, (batch,).

    >>> hinge_multiclass_loss(torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])).tolist()
    [0.1666666716337204]
    """
    return losses.HingeMulticlassLoss(min_margin, "none")(input, target)  # type: ignore[no-any-return]


def hkr_multiclass_loss(
    input: Tensor, target: Tensor, alpha: float = 0.0, min_margin: float = 1.0, multi_gpu: bool = False
) -> Tensor:
    """The mixture alpha times the multiclass hinge less (1 - alpha) times multiclass Kantorovich-Rubinstein, (batch,).

    >>> hkr_multiclass_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [-1.0, -1.0]
    """
    return losses.HKRMulticlassLoss(alpha, min_margin, multi_gpu, "none")(input, target)  # type: ignore[no-any-return]


def _several(input: Tensor) -> bool:
    return isinstance(input, Tensor) and input.ndim == 2 and input.shape[1] > 1


# -- padding -----------------------------------------------------------------------------------------------------------


class SymmetricPad(nn.Module):
    """Pad by mirror images that begin with the border pixel itself.

    Args:
        pad: one integer for all sides; or (height, width) of equal padding on both sides, (width,) with onedim.
        onedim: pad the last axis alone.

    Raises:
        ValueError: pad is negative or has another number of entries, or exceeds the image.

    >>> SymmetricPad(2, onedim=True)(torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
    [[[2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 2.0]]]
    """

    def __init__(self, pad: int | Sequence[int], onedim: bool = False) -> None:
        super().__init__()
        self.onedim = bool(onedim)
        axes = 1 if onedim else 2
        sides = [pad] * axes if isinstance(pad, int) else list(pad)
        if len(sides) != axes or any(not isinstance(p, int) or p < 0 for p in sides):
            raise ValueError(f"pad is {pad!r}, but it must be one integer of at least 0, or {axes}, one an axis")
        # As torchlip keeps it: last axis first, both sides.
        self.pad = tuple(p for p in reversed(sides) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Pad the last axis, or the last two."""
        return symmetric_pad(x, [(p, p) for p in reversed(self.pad[::2])])

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.pad}, onedim={self.onedim}"


@register(SymmetricPad)
def _symmetric_pad(module: SymmetricPad, path: str) -> float:
    # A pixel occurs at most once in each border and once inside, on each axis: a square root of three.
    square = 1.0
    for p in module.pad[::2]:
        square *= 3.0 if p else 1.0
    return 1.0 if square == 1 else square**0.5 * (1 + 2.0**-50)
