"""Labels of classifiers, checked and brought to one form, and the weights that make a mean a Kantorovich-Rubinstein."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from barrow import check
from barrow.check import shape

__all__ = ["kr_weights"]


def outputs(f: object, *, classes: bool) -> Tensor:
    """Refuse anything but outputs (B, C), or (B,) too where classes are not needed; half precision becomes single."""
    f = check.real_tensor("f", f, what="the outputs of a classifier")
    if classes and (f.dim() != 2 or f.shape[1] < 2):
        raise ValueError(
            f"f has shape {shape(f)}, but one output a class is needed, (B, C) with C >= 2: for one output a sample "
            "use the binary losses, such as binary_kr or hkr"
        )
    if f.dim() not in (1, 2):
        raise ValueError(f"f has shape {shape(f)}, but outputs have shape (B,) or (B, C): use f.flatten(1)")
    if f.numel() == 0:
        raise ValueError(f"f has shape {shape(f)}, but a mean needs at least one sample and one output")
    return f.to(check.compute_dtype(f.dtype))


def _tensor(labels: object) -> Tensor:
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels is a {type(labels).__name__}, but labels must be a torch.Tensor: use torch.as_tensor")
    if labels.is_complex():
        raise ValueError(f"labels has dtype {labels.dtype}, but labels must be real or bool: use labels.real > 0")
    return labels


def _placed(labels: Tensor, f: Tensor) -> None:
    if labels.device != f.device:
        raise ValueError(f"f is on {f.device} but labels is on {labels.device}: use labels.to(f.device)")


def _positive(labels: Tensor) -> Tensor:
    """Where labels of 0/1, -1/1 or bool say yes."""
    if labels.dtype == torch.bool:
        return labels
    # Unsigned integers compare equal to -1 by wrapping round.
    exact = labels if labels.is_floating_point() else labels.long()
    one, zero, minus = exact == 1, exact == 0, exact == -1
    known = one | zero | minus
    # Both are read at once, so that a GPU is waited for once.
    wrong, mixed = torch.stack([~known.all(), zero.any() & minus.any()]).tolist()
    if wrong:
        raise ValueError(
            f"labels contains {exact[~known][0].item():g}, but binary labels are 0 and 1, -1 and 1, or bool: use "
            "labels > threshold"
        )
    if mixed:
        raise ValueError("labels contains 0 and -1, but binary labels are 0 and 1 or -1 and 1: use labels > 0")
    return one


def binary(f: Tensor, labels: object) -> Tensor:
    """Which outputs should be high, in the shape of f; labels (B,) or (B, 1) hold for every output of a sample."""
    labels = _tensor(labels)
    if labels.shape != f.shape:
        if labels.shape not in ((len(f),), (len(f), 1)):
            raise ValueError(
                f"f has shape {shape(f)} but labels has shape {shape(labels)}: give one label a sample, ({len(f)},), "
                f"or one an output, {shape(f)}"
            )
        labels = labels.reshape(f.shape[:1] + (1,) * (f.dim() - 1))
    _placed(labels, f)
    return _positive(labels).expand(f.shape)


def one_hot(f: Tensor, labels: object) -> Tensor:
    """Which output (B, C) is that of the true class, from one-hot labels (B, C) or class indices (B,)."""
    labels = _tensor(labels)
    B, C = f.shape
    if labels.shape == f.shape:
        _placed(labels, f)
        return _single(_positive(labels))
    if labels.shape != (B,):
        raise ValueError(
            f"f has shape {shape(f)} but labels has shape {shape(labels)}: give class indices ({B},) or one-hot labels "
            f"({B}, {C})"
        )
    _placed(labels, f)
    return _columns(labels, C)


def _single(positive: Tensor) -> Tensor:
    wrong = positive.sum(1) != 1
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} of the one-hot labels names {int(positive[row].sum())} classes, but a sample has exactly one: "
            "give class indices, or use the binary losses for several labels a sample"
        )
    return positive


def _columns(labels: Tensor, classes: int) -> Tensor:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels has dtype {labels.dtype}, but class indices are integers: use labels.long()")
    indices = labels.long()
    wrong = (indices < 0) | (indices >= classes)
    if bool(wrong.any()):
        raise ValueError(
            f"labels contains {int(indices[wrong][0])}, but with {classes} classes the indices are 0 to {classes - 1}: "
            "leave out samples of other classes"
        )
    return indices[:, None] == torch.arange(classes, device=labels.device)


def missing(positive: Tensor, total: int) -> ValueError:
    """The complaint about a batch that lacks a class, from the number of positive labels a column."""
    side = "positive" if bool((positive == 0).any()) else "negative"
    return ValueError(
        f"no label of this batch of {total} is {side}, but Kantorovich-Rubinstein compares two classes: draw batches "
        "that hold both"
    )


def weights_from_counts(positive: Tensor, counts: Tensor, total: int, scale: int, dtype: torch.dtype) -> Tensor:
    """Scale / (number of positives) or -scale / (number of negatives), a column; 0 where either is missing."""
    both = (counts > 0) & (counts < total)
    high = torch.where(both, scale / counts.clamp(min=1).to(dtype), 0)
    low = torch.where(both, -scale / (total - counts).clamp(min=1).to(dtype), 0)
    return torch.where(positive, high, low)


def kr_weights(
    labels: Tensor,
    *,
    classes: int | None = None,
    group: distributed.ProcessGroup | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Weights w whose mean with a critic's outputs is the Kantorovich-Rubinstein of the batch of all processes:

        w_i = 1 / (share of positives) if y_i is positive, else -1 / (share of negatives);     KR(f) = mean_i w_i f_i

    Shares are of the whole batch, all processes together, and a process that holds B of N samples scales its weights
    by B / (N / number of processes), so the mean over processes of each one's mean of w f is exactly the KR of the
    whole, also where the last batch is uneven. Choose it for data-parallel training, where a process may hold a single
    class and gradients are averaged over processes; in one process :func:`binary_kr` and :func:`multiclass_kr` say the
    same. When `torch.distributed` is initialised every process of the group must call it, as it waits for the others.

    Args:
        labels: (B,) or (B, 1), binary: 0/1, -1/1 or bool; or (B, C), a column a class; or with `classes` (B,), indices.
        classes: how many classes the indices count; None for labels that are not indices.
        group: the processes among which the batch is shared; None is all.
        dtype: of the weights; None is torch's default.

    Returns:
        The shape of labels, or (B, classes). A column of several that lacks a class has weights 0.

    Raises:
        ValueError: labels are not of these kinds, empty, or binary with a class missing from the whole batch (then
            in every process).

    >>> import torch
    >>> w = kr_weights(torch.tensor([1, 1, 0, 0]))
    >>> (w * torch.tensor([5.0, 1.0, 2.0, 0.0])).mean()
    tensor(2.)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", whose expectations these weights estimate.
    """
    labels = _tensor(labels)
    if labels.dim() not in (1, 2) or labels.numel() == 0:
        raise ValueError(f"labels has shape {shape(labels)}, but one label a sample is needed: (B,) or (B, C), B >= 1")
    if classes is None:
        positive = _positive(labels)
    elif labels.dim() != 1:
        raise ValueError(f"labels has shape {shape(labels)}, but class indices have shape (B,): leave out classes")
    else:
        positive = _columns(labels, check.whole("classes", classes, least=2))
    columns = positive.reshape(len(positive), -1)
    tally = torch.cat([columns.sum(0), columns.new_full((1,), len(columns), dtype=torch.int64)])
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(tally, group=group)
        processes = distributed.get_world_size(group)
    counts, total = tally[:-1], int(tally[-1])
    if len(counts) == 1 and int(counts) in (0, total):
        raise missing(counts, total)
    weights = weights_from_counts(columns, counts, total, len(columns) * processes, dtype or torch.get_default_dtype())
    return weights.reshape(positive.shape)
