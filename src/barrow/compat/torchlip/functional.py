"""Loss functions under torchlip's names."""

from __future__ import annotations

from torch import Tensor

from barrow.check import real_tensor, shape
from barrow.nn.kantorovich import kantorovich_rubinstein

__all__ = ["kr_loss"]


def kr_loss(output: Tensor, target: Tensor) -> Tensor:
    """The Kantorovich-Rubinstein loss of a batch that holds both laws, to be *minimised*; its minimum is -W_1:

        -(mean of output where target > 0 - mean of output where target <= 0)

    Choose it to run torchlip code; in new code :func:`barrow.nn.kantorovich_rubinstein` takes the two batches
    separately and cannot be given a batch without one class.

    Args:
        output: critic values, one a sample: (batch,) or (batch, 1).
        target: as many labels, above 0 for one law, 0 or below for the other (0/1 or -1/1), of any real dtype.

    Returns:
        A scalar. Its minimum over 1-Lipschitz critics is -W_1, so it is usually negative.

    Raises:
        ValueError: not one label a value, or a class is missing from the batch.

    >>> import torch
    >>> kr_loss(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [0.0]]))
    tensor(-2.)
    """
    real_tensor("output", output, what="critic values")
    if output.ndim == 0 or output.numel() != target.numel() or output.numel() != output.shape[0]:
        raise ValueError(
            f"output has shape {shape(output)} and target {shape(target)}: give one value and one label a sample, "
            "(batch, 1) or (batch,)"
        )
    values, positive = output.reshape(-1), target.reshape(-1) > 0
    count = int(positive.sum())
    if count in (0, len(values)):
        missing = "above 0" if count == 0 else "of 0 or below"
        raise ValueError(
            f"no label of this batch of {len(values)} is {missing}: the loss compares two classes, draw batches that "
            "hold both"
        )
    return -kantorovich_rubinstein(values[positive], values[~positive])
