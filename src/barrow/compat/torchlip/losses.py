"""Losses of classifiers under torchlip's names: modules of (input, target) with a `reduction`.

Differences worth knowing: a batch without one of the two classes is refused by :class:`KRLoss`, :class:`NegKRLoss` and
:class:`HKRLoss`; a column without one counts as 0 in the multiclass losses, also with `multi_gpu`; the running mean of
:class:`SoftHKRMulticlassLoss` is saved and stands still in eval mode; two classes are finite in
:class:`LseHKRMulticlassLoss`; one-hot targets keep the input's precision in :class:`TauCrossEntropyLoss`.
"""

from __future__ import annotations

import abc
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from barrow import check
from barrow.check import shape
from barrow.nn import SoftHkr, kr_weights, terms
from barrow.nn.labels import binary, one_hot, outputs

__all__ = [
    "CategoricalHingeLoss",
    "HKRLoss",
    "HKRMulticlassLoss",
    "HingeMarginLoss",
    "HingeMulticlassLoss",
    "KRLoss",
    "KRMulticlassLoss",
    "LseHKRMulticlassLoss",
    "NegKRLoss",
    "SoftHKRMulticlassLoss",
    "TauBCEWithLogitsLoss",
    "TauCrossEntropyLoss",
    "process_labels_for_multi_gpu",
]


def process_labels_for_multi_gpu(labels: Tensor) -> Tensor:
    """Targets for `multi_gpu=True`, computed once over all processes: :func:`barrow.nn.kr_weights`.

    Args:
        labels: (B, 1) binary or (B, C) one-hot; above 0 is positive.

    Returns:
        The shape of labels. In a column that lacks a class they are the smallest numbers there are, which carry the
        sign for the hinge and add nothing to the KR.

    Raises:
        ValueError: labels of other shapes, or one column that lacks a class in all processes together.

    >>> import torch
    >>> process_labels_for_multi_gpu(torch.tensor([[1.0], [0.0], [0.0], [1.0]])).flatten().tolist()
    [2.0, -2.0, -2.0, 2.0]
    """
    positive = labels > 0
    weights = kr_weights(positive, dtype=labels.dtype if labels.is_floating_point() else None)
    tiny = torch.finfo(weights.dtype).tiny
    return torch.where(weights == 0, torch.where(positive, tiny, -tiny), weights)


def _alpha(alpha: float) -> float:
    value = check.number("alpha", alpha)
    if value > 1:
        warnings.warn(
            f"alpha = {value:g} is above 1 and becomes alpha / (1 + alpha) = {value / (1 + value):g}: give that number",
            stacklevel=3,
        )
        value = value / (1 + value)
    return check.fraction("alpha", value)


def _sides(target: Tensor) -> Tensor:
    """Above 0 is positive, whatever the numbers; class indices and bool stay."""
    if not isinstance(target, Tensor) or target.is_complex():
        return target
    if bool(target.isnan().any()):
        raise ValueError("target contains NaN, which is neither above 0 nor not: give 0/1 or -1/1")
    return target > 0


class _Loss(nn.Module, abc.ABC):
    """Reduces what the samples contribute."""

    multiclass = False

    def __init__(self, reduction: str = "mean", multi_gpu: bool = False, true_values: None = None) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none", "auto"):
            raise ValueError(f"reduction is {reduction!r}, but it must be 'mean', 'sum', 'none' or 'auto' (the mean)")
        if true_values is not None:
            raise ValueError(f"true_values={true_values!r} has no meaning: leave it out, targets above 0 are positive")
        self.reduction = reduction
        self.multi_gpu = bool(multi_gpu)

    @abc.abstractmethod
    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        """What each sample contributes, (batch,)."""

    def kr(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        """What each sample contributes to Kantorovich-Rubinstein."""
        if not self.multi_gpu:
            return terms.kr(f, positive, complete=not self.multiclass)
        if target.numel() != f.numel() or not target.is_floating_point():
            raise ValueError(
                f"target has shape {shape(target)} and dtype {target.dtype}, but multi_gpu=True needs one weight an "
                f"output, {shape(f)}: use process_labels_for_multi_gpu"
            )
        return terms.over_outputs(f * target.reshape(f.shape).to(f.dtype))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate on outputs (batch, C) and targets of that shape, above 0 for positive."""
        f = outputs(input, classes=self.multiclass)
        if self.multiclass:
            positive = one_hot(f, target if isinstance(target, Tensor) and target.dim() == 1 else _sides(target))
        else:
            positive = binary(f, _sides(target))
        values = self.terms(f, positive, target).to(input.dtype)
        if self.reduction == "none":
            return values
        return values.sum() if self.reduction == "sum" else values.mean()


class KRLoss(_Loss):
    """Kantorovich-Rubinstein of outputs under binary targets, to be maximised: :func:`barrow.nn.binary_kr`.

    >>> import torch
    >>> KRLoss()(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [0.0]]))
    tensor(2.)
    """

    def __init__(self, multi_gpu: bool = False, reduction: str = "mean", true_values: None = None) -> None:
        super().__init__(reduction, multi_gpu, true_values)

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return self.kr(f, positive, target)


class NegKRLoss(KRLoss):
    """The negative of :class:`KRLoss`, to be minimised."""

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return -super().terms(f, positive, target)


class KRMulticlassLoss(_Loss):
    """The mean over classes of Kantorovich-Rubinstein against the rest: :func:`barrow.nn.multiclass_kr`."""

    multiclass = True

    def __init__(self, multi_gpu: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction, multi_gpu)

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return self.kr(f, positive, target)


class HingeMarginLoss(_Loss):
    """The hinge at half the margin: :func:`barrow.nn.hinge_margin`."""

    def __init__(self, min_margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.min_margin = check.positive("min_margin", min_margin)

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return terms.hinge(f, positive, self.min_margin)


class HKRLoss(_Loss):
    """Hinge-regularised Kantorovich-Rubinstein: :func:`barrow.nn.hkr`. An alpha above 1 is alpha / (1 + alpha)."""

    def __init__(
        self,
        alpha: float,
        min_margin: float = 1.0,
        multi_gpu: bool = False,
        reduction: str = "mean",
        true_values: None = None,
    ) -> None:
        super().__init__(reduction, multi_gpu, true_values)
        self.alpha = _alpha(alpha)
        self.min_margin = check.positive("min_margin", min_margin)

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        hinge = terms.multiclass_hinge if self.multiclass else terms.hinge
        h = hinge(f, positive, self.min_margin)
        return h if self.alpha == 1 else terms.mixed(self.alpha, h, self.kr(f, positive, target))


class HingeMulticlassLoss(HingeMarginLoss):
    """The hinge of each class against the rest: :func:`barrow.nn.multiclass_hinge`."""

    multiclass = True

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return terms.multiclass_hinge(f, positive, self.min_margin)


class HKRMulticlassLoss(HKRLoss):
    """HKR of each class against the rest: :func:`barrow.nn.multiclass_hkr`. An alpha above 1 is alpha / (1 + alpha)."""

    multiclass = True

    def __init__(self, alpha: float, min_margin: float = 1.0, multi_gpu: bool = False, reduction: str = "mean") -> None:
        super().__init__(alpha, min_margin, multi_gpu, reduction)


class SoftHKRMulticlassLoss(_Loss):
    """HKR with softmax weights: :class:`barrow.nn.SoftHkr`, whose running mean is saved with the module."""

    multiclass = True

    def __init__(
        self,
        alpha: float = 0.9,
        min_margin: float = 1.0,
        alpha_mean: float = 0.99,
        temperature: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.soft = SoftHkr(alpha=_alpha(alpha), margin=min_margin, sharpness=temperature, decay=alpha_mean)

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        o: dict[str, Any] = self.soft.options
        return terms.soft_hkr(f, positive, o["alpha"], o["margin"], self.soft.temperature(f))


class LseHKRMulticlassLoss(_Loss):
    """HKR against the smooth maximum: :func:`barrow.nn.lse_hkr` of the outputs times `temperature`."""

    multiclass = True

    def __init__(
        self,
        alpha: float = 1.0,
        temperature: float = 1.0,
        penalty: float = 1.0,
        min_margin: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.alpha = _alpha(alpha)
        self.temperature = check.positive("temperature", temperature)
        self.penalty = check.positive("penalty", penalty)
        self.min_margin = check.positive("min_margin", min_margin)

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return terms.lse_hkr(self.temperature * f, positive, self.alpha, self.min_margin, self.penalty)


class CategoricalHingeLoss(HingeMarginLoss):
    """The hinge of the lead over the best wrong class: :func:`barrow.nn.categorical_hinge`."""

    multiclass = True

    def terms(self, f: Tensor, positive: Tensor, target: Tensor) -> Tensor:
        return terms.categorical_hinge(f, positive, self.min_margin)


class TauCrossEntropyLoss(nn.CrossEntropyLoss):
    """Cross entropy of tau times the outputs, over tau: :func:`barrow.nn.tau_cross_entropy` with torch's options.

    As in :class:`torch.nn.CrossEntropyLoss`, targets are class indices or probabilities (one-hot ones too).
    """

    def __init__(self, tau: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tau = check.positive("tau", tau)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate on outputs (batch, C) and class indices (batch,) or probabilities (batch, C)."""
        f = check.real_tensor("input", input, what="the outputs of a classifier")
        f = f.to(check.compute_dtype(f.dtype))
        wanted = f.dtype if target.shape == f.shape else torch.int64
        return (super().forward(self.tau * f, target.to(wanted)) / self.tau).to(input.dtype)


class TauBCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """Binary cross entropy of tau times the outputs, over tau: :func:`barrow.nn.tau_binary_cross_entropy`.

    With the options of :class:`torch.nn.BCEWithLogitsLoss`; targets above 0 are positive.
    """

    def __init__(self, tau: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tau = check.positive("tau", tau)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate on outputs and as many targets."""
        f = outputs(input, classes=False)
        positive = binary(f, _sides(target)).to(f.dtype)
        return (super().forward(self.tau * f, positive) / self.tau).to(input.dtype)
