"""How far an input can be moved, provably, before a 1-Lipschitz classifier changes its mind."""

from __future__ import annotations

import abc
import math
from typing import final

import torch
from torch import Tensor, distributed

from barrow import check
from barrow.check import shape
from barrow.nn.labels import binary, one_hot, outputs

__all__ = [
    "AverageCertifiedRadius",
    "BinaryAverageCertifiedRadius",
    "BinaryProvableRobustAccuracy",
    "ProvableRobustAccuracy",
    "average_certified_radius",
    "binary_average_certified_radius",
    "binary_certified_radius",
    "binary_provable_robust_accuracy",
    "certified_radius",
    "provable_robust_accuracy",
]

EPSILON = 36 / 255


def certified_radius(f: Tensor, labels: Tensor, *, lipschitz: float = 1.0, disjoint: bool = False) -> Tensor:
    """The distance within which no change of an input can take the true class from the top:

        r_i = (f_iy - max_{j != y} f_ij) / (sqrt(2) L),     or over 2 L with `disjoint`

    The difference of two outputs of an L-Lipschitz map is sqrt(2) L-Lipschitz, that of two L-Lipschitz functions 2 L.
    Where the prediction is wrong r_i is negative, and no change shorter than -r_i makes it right. Choose it to see
    which inputs are safe; for one number :func:`provable_robust_accuracy` or :func:`average_certified_radius`. It is
    a proof only if L is one: take it from :func:`barrow.nn.lipschitz_bound`. The rounding of the outputs is not in it.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        lipschitz: L, of the map x -> (f_1, ..., f_C) for Euclidean norms; with `disjoint` of each output alone.
        disjoint: the last layer has unit rows rather than an orthogonal matrix (:class:`barrow.nn.UnitLinear`), so that
            only each output alone has constant L.

    Returns:
        (B,), in units of the input, in the dtype of f; half precision becomes single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, an empty batch, or lipschitz not positive and finite.

    >>> import torch
    >>> f = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.5, 1.0]])
    >>> certified_radius(f, torch.tensor([0, 1]), disjoint=True).tolist()
    [1.0, -0.25]

    Source: Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training", NeurIPS 2018, proposition 1; Li, Haque, Anil, Lucas,
    Grosse, Jacobsen, "Preventing gradient attenuation in Lipschitz constrained convolutional networks", NeurIPS 2019.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    lipschitz = check.positive("lipschitz", lipschitz)
    margin = values.masked_fill(~positive, 0).sum(1) - values.masked_fill(positive, -math.inf).amax(1)
    return margin / ((2.0 if disjoint else math.sqrt(2)) * lipschitz)


def binary_certified_radius(f: Tensor, labels: Tensor, *, lipschitz: float = 1.0) -> Tensor:
    """The distance within which no change of an input can take a single output to the other side of zero:

        r_i = s_i f_i / L,     s_i = 1 where y_i is positive, else -1

    Negative where the prediction is wrong. Choose it for a classifier with one output; for one output a class
    :func:`certified_radius`.

    Args:
        f: (B,) or (B, 1), outputs whose sign is the prediction.
        labels: (B,) or (B, 1): 0/1, -1/1 or bool, of any real dtype.
        lipschitz: the Lipschitz constant of f for Euclidean norms.

    Returns:
        (B,), in units of the input, in the dtype of f; half precision becomes single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, an empty batch, or lipschitz not positive and finite.

    >>> import torch
    >>> binary_certified_radius(torch.tensor([2.0, 2.0]), torch.tensor([1, 0]), lipschitz=4.0).tolist()
    [0.5, -0.5]

    Source: Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training", NeurIPS 2018, for one output.
    """
    values = outputs(f, classes=False)
    if values.dim() == 2 and values.shape[1] != 1:
        raise ValueError(
            f"f has shape {shape(f)}, but one output a sample is needed, (B,) or (B, 1): for one output a class use "
            "certified_radius"
        )
    positive = binary(values, labels)
    return torch.where(positive, values, -values).reshape(-1) / check.positive("lipschitz", lipschitz)


def provable_robust_accuracy(
    f: Tensor, labels: Tensor, *, epsilon: float = EPSILON, lipschitz: float = 1.0, disjoint: bool = False
) -> Tensor:
    """The share of inputs that are classified rightly whatever change of length epsilon is made to them:

        (1 / B) #{i : r_i > epsilon},     r = certified_radius

    A lower bound of the accuracy under every attack of that length. Choose it to compare robust classifiers; epsilon =
    0 gives the accuracy, ties counted as wrong. It says nothing about attacks that are longer or not Euclidean.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot.
        epsilon: length of the change in units of the input, at least 0; 36 / 255 is usual for pixels from 0 to 1.
        lipschitz: as in :func:`certified_radius`.
        disjoint: as in :func:`certified_radius`.

    Returns:
        A scalar from 0 to 1, in the dtype of f; half precision becomes single. NaN where an output is NaN.

    Raises:
        ValueError: as :func:`certified_radius`; epsilon is negative or not finite.

    >>> import torch
    >>> f = torch.tensor([[3.0, 1.0], [1.0, 0.9], [0.0, 1.0], [2.0, 1.0]])
    >>> provable_robust_accuracy(f, torch.tensor([0, 0, 0, 0])).item()
    0.5

    Source: Li et al., "Preventing gradient attenuation in Lipschitz constrained convolutional networks", NeurIPS 2019,
    section 5.2.
    """
    return _safe(certified_radius(f, labels, lipschitz=lipschitz, disjoint=disjoint), _length(epsilon)).mean()


def binary_provable_robust_accuracy(
    f: Tensor, labels: Tensor, *, epsilon: float = EPSILON, lipschitz: float = 1.0
) -> Tensor:
    """The share of inputs whose single output keeps the right sign whatever change of length epsilon is made to them.

        (1 / B) #{i : r_i > epsilon},     r = binary_certified_radius

    :func:`provable_robust_accuracy` for one output; arguments are those of :func:`binary_certified_radius`.

    >>> import torch
    >>> binary_provable_robust_accuracy(torch.tensor([2.0, 0.1]), torch.tensor([1, 1])).item()
    0.5
    """
    return _safe(binary_certified_radius(f, labels, lipschitz=lipschitz), _length(epsilon)).mean()


def average_certified_radius(
    f: Tensor, labels: Tensor, *, lipschitz: float = 1.0, disjoint: bool = False, negative: bool = False
) -> Tensor:
    """The mean certified radius, wrong predictions counted as 0:

        (1 / B) sum_i max(r_i, 0),     with `negative` (1 / B) sum_i r_i,     r = certified_radius

    Choose it where one epsilon would be arbitrary. A few inputs far from all borders can make it large, so state
    :func:`provable_robust_accuracy` beside it. Other libraries with an option of that name subtract, for a wrong
    prediction, the lead of the predicted class over the second one; here it is the lead over the true class, which is
    what keeps the prediction wrong.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot.
        lipschitz: as in :func:`certified_radius`.
        disjoint: as in :func:`certified_radius`.
        negative: let wrong predictions count with their negative radius.

    Returns:
        A scalar in units of the input, in the dtype of f; half precision becomes single.

    Raises:
        ValueError: as :func:`certified_radius`.

    >>> import torch
    >>> f = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    >>> average_certified_radius(f, torch.tensor([0, 0]), disjoint=True).item()
    0.5
    >>> average_certified_radius(f, torch.tensor([0, 0]), disjoint=True, negative=True).item()
    0.25

    Source: Zhai et al., "MACER: attack-free and scalable robust training via maximizing certified radius", ICLR 2020,
    section 5, for the average that counts wrong predictions as 0.
    """
    return _counted(certified_radius(f, labels, lipschitz=lipschitz, disjoint=disjoint), negative).mean()


def binary_average_certified_radius(
    f: Tensor, labels: Tensor, *, lipschitz: float = 1.0, negative: bool = False
) -> Tensor:
    """The mean certified radius of a single output, wrong predictions counted as 0, or negatively with `negative`.

        (1 / B) sum_i max(r_i, 0),     with `negative` (1 / B) sum_i r_i,     r = binary_certified_radius

    :func:`average_certified_radius` for one output; arguments are those of :func:`binary_certified_radius`.

    >>> import torch
    >>> binary_average_certified_radius(torch.tensor([2.0, 1.0]), torch.tensor([1, 0])).item()
    1.0
    """
    return _counted(binary_certified_radius(f, labels, lipschitz=lipschitz), negative).mean()


def _length(epsilon: float) -> float:
    value = check.number("epsilon", epsilon)
    if not 0 <= value < math.inf:
        raise ValueError(f"epsilon is {epsilon}, but the length of a change is at least 0 and finite")
    return value


def _safe(radius: Tensor, epsilon: float) -> Tensor:
    # A comparison would count NaN as merely wrong.
    return torch.where(radius.isnan(), radius, (radius > epsilon).to(radius.dtype))


def _counted(radius: Tensor, negative: bool) -> Tensor:
    return radius if negative else radius.clamp(min=0)


class _Average(abc.ABC):
    """A mean over all samples of all batches since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._total: Tensor | None = None
        self._count = 0

    @abc.abstractmethod
    def _terms(self, f: Tensor, labels: Tensor) -> Tensor:
        """What each sample of a batch contributes, (B,)."""

    def update(self, f: Tensor, labels: Tensor) -> None:
        """Take in a batch; the sum stays on its device, in double precision where the device has it."""
        terms = self._terms(f.detach(), labels)
        if terms.device.type != "mps":
            terms = terms.double()
        total = terms.sum()
        self._total = total if self._total is None else self._total.to(total.device) + total
        self._count += len(terms)

    def compute(self, *, group: distributed.ProcessGroup | None = None) -> Tensor:
        """The mean so far, a scalar, over all processes where `torch.distributed` is initialised.

        Then every process of the group must call it, as it waits for the others; one without batches counts nothing.

        Args:
            group: the processes among which the data are shared; None is all.

        Raises:
            ValueError: there was no batch, in any process.
        """
        total = torch.zeros((), dtype=torch.float64) if self._total is None else self._total
        count = self._count
        if distributed.is_available() and distributed.is_initialized():
            if total.device.type == "cpu" and distributed.get_backend(group) == "nccl":
                total = total.cuda()
            both = torch.stack((total, total.new_tensor(count)))
            distributed.all_reduce(both, group=group)
            total, count = both[0], int(both[1])
        if count == 0:
            raise ValueError(f"{type(self).__name__} has seen no batch since its last reset: call update first")
        return total / count


@final
class ProvableRobustAccuracy(_Average):
    """:func:`provable_robust_accuracy` of a whole data set, batch by batch: update(f, labels), compute(), reset().

    >>> import torch
    >>> metric = ProvableRobustAccuracy(epsilon=0.5)
    >>> metric.update(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    >>> metric.update(torch.tensor([[3.0, 1.0], [0.0, 1.0], [0.0, 0.1]]), torch.tensor([0, 0, 1]))
    >>> metric.compute().item()
    0.5
    """

    def __init__(self, *, epsilon: float = EPSILON, lipschitz: float = 1.0, disjoint: bool = False) -> None:
        super().__init__()
        self.epsilon, self.disjoint = _length(epsilon), bool(disjoint)
        self.lipschitz = check.positive("lipschitz", lipschitz)

    def _terms(self, f: Tensor, labels: Tensor) -> Tensor:
        return _safe(certified_radius(f, labels, lipschitz=self.lipschitz, disjoint=self.disjoint), self.epsilon)


@final
class BinaryProvableRobustAccuracy(_Average):
    """:func:`binary_provable_robust_accuracy` of a whole data set: update(f, labels), compute(), reset()."""

    def __init__(self, *, epsilon: float = EPSILON, lipschitz: float = 1.0) -> None:
        super().__init__()
        self.epsilon, self.lipschitz = _length(epsilon), check.positive("lipschitz", lipschitz)

    def _terms(self, f: Tensor, labels: Tensor) -> Tensor:
        return _safe(binary_certified_radius(f, labels, lipschitz=self.lipschitz), self.epsilon)


@final
class AverageCertifiedRadius(_Average):
    """:func:`average_certified_radius` of a whole data set, batch by batch: update(f, labels), compute(), reset()."""

    def __init__(self, *, lipschitz: float = 1.0, disjoint: bool = False, negative: bool = False) -> None:
        super().__init__()
        self.disjoint, self.negative = bool(disjoint), bool(negative)
        self.lipschitz = check.positive("lipschitz", lipschitz)

    def _terms(self, f: Tensor, labels: Tensor) -> Tensor:
        return _counted(certified_radius(f, labels, lipschitz=self.lipschitz, disjoint=self.disjoint), self.negative)


@final
class BinaryAverageCertifiedRadius(_Average):
    """:func:`binary_average_certified_radius` of a whole data set: update(f, labels), compute(), reset()."""

    def __init__(self, *, lipschitz: float = 1.0, negative: bool = False) -> None:
        super().__init__()
        self.negative, self.lipschitz = bool(negative), check.positive("lipschitz", lipschitz)

    def _terms(self, f: Tensor, labels: Tensor) -> Tensor:
        return _counted(binary_certified_radius(f, labels, lipschitz=self.lipschitz), self.negative)
