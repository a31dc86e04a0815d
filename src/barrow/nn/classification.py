"""Losses of binary classifiers that are 1-Lipschitz, and cross entropies with a temperature.

All are means over the batch, to be minimised, but for `binary_kr`, which like :func:`barrow.nn.kantorovich_rubinstein`
is to be maximised. The positive class is high.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from barrow import check
from barrow.nn import terms
from barrow.nn.labels import binary, one_hot, outputs
from barrow.nn.losses import _Stored

__all__ = [
    "BinaryKr",
    "HingeMargin",
    "Hkr",
    "TauBinaryCrossEntropy",
    "TauCrossEntropy",
    "binary_kr",
    "hinge_margin",
    "hkr",
    "tau_binary_cross_entropy",
    "tau_cross_entropy",
]


def binary_kr(f: Tensor, labels: Tensor) -> Tensor:
    """How much higher a classifier is on the positive class than on the negative, on average; to be *maximised*:

        KR(f, y) = mean of f_i where y_i is positive - mean of f_i where it is negative

    Its largest value over 1-Lipschitz f is W_1 between the two classes. Choose it to measure or train a critic on a
    labelled batch; where the two batches come apart use :func:`kantorovich_rubinstein`. The best critic separates badly
    at its zero, so choose :func:`hkr` for a classifier, and :func:`kr_weights` where several processes share a batch.

    Args:
        f: (B,) or (B, C), outputs; C columns are C classifiers of their own, over which the mean is taken.
        labels: (B,), (B, 1) or the shape of f: 0/1, -1/1 or bool, of any real dtype.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch; or a class is missing, as one
            cannot compare with nobody. Values of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([2.0, 0.0, -1.0, 0.25])
    >>> y = torch.tensor([1, 1, 0, 0])
    >>> binary_kr(f, y)
    tensor(1.3750)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the KR term.
    """
    values = outputs(f, classes=False)
    positive = binary(values, labels)
    return terms.kr(values, positive, complete=True).mean().to(f.dtype)


@final
class BinaryKr(_Stored):
    """Module form of :func:`barrow.nn.binary_kr`."""

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.binary_kr`."""
        return binary_kr(f, labels, **self.options)


def hinge_margin(f: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """The hinge of a classifier that should be at least margin / 2 from zero on the right side:

        mean_i max(0, margin / 2 - s_i f_i),     s_i = 1 where y_i is positive, else -1

    Choose it for accuracy alone, when the margin is known in units of distance (f is 1-Lipschitz); it stops to learn
    from samples beyond the margin, so where robustness matters choose :func:`hkr`.

    Args:
        f: (B,) or (B, C), outputs; C columns are C classifiers of their own, over which the mean is taken.
        labels: (B,), (B, 1) or the shape of f: 0/1, -1/1 or bool, of any real dtype.
        margin: the distance wanted between the classes, in units of f, half of it on each side.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or a margin that is not positive.
            Values of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([2.0, 0.0, -1.0, 0.25])
    >>> y = torch.tensor([1, 1, 0, 0])
    >>> hinge_margin(f, y)
    tensor(0.3125)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the hinge term.
    """
    values = outputs(f, classes=False)
    positive = binary(values, labels)
    margin = check.positive("margin", margin)
    return terms.hinge(values, positive, margin).mean().to(f.dtype)


@final
class HingeMargin(_Stored):
    """Module form of :func:`barrow.nn.hinge_margin`."""

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__(margin=check.positive("margin", margin))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.hinge_margin`."""
        return hinge_margin(f, labels, **self.options)


def hkr(f: Tensor, labels: Tensor, *, alpha: float, margin: float = 1.0) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein, the loss of robust binary classifiers:

        alpha * hinge_margin(f, y) - (1 - alpha) * binary_kr(f, y)

    Choose it with 1-Lipschitz f, whose value is then a certified distance to the decision boundary; without a
    Lipschitz bound it has no minimum. A larger alpha buys accuracy, a smaller one robustness. alpha = 1 is the hinge
    alone and takes batches of one class too.

    Args:
        f: (B,) or (B, C), outputs; C columns are C classifiers of their own, over which the mean is taken.
        labels: (B,), (B, 1) or the shape of f: 0/1, -1/1 or bool, of any real dtype.
        alpha: 0 to 1, the share of the hinge.
        margin: the distance wanted between the classes, in units of f, half of it on each side.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or an option out of range; or a
            class is missing while alpha < 1. Values of labels that are not bool are read, for which a GPU is waited
            for.

    >>> import torch
    >>> f = torch.tensor([2.0, 0.0, -1.0, 0.25])
    >>> y = torch.tensor([1, 1, 0, 0])
    >>> hkr(f, y, alpha=0.5)
    tensor(-0.5312)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the loss hKR.
    """
    values = outputs(f, classes=False)
    positive = binary(values, labels)
    alpha = check.fraction("alpha", alpha)
    margin = check.positive("margin", margin)
    hinge = terms.hinge(values, positive, margin)
    if alpha == 1:
        return hinge.mean().to(f.dtype)
    return terms.mixed(alpha, hinge, terms.kr(values, positive, complete=True)).mean().to(f.dtype)


@final
class Hkr(_Stored):
    """Module form of :func:`barrow.nn.hkr`."""

    def __init__(self, *, alpha: float, margin: float = 1.0) -> None:
        super().__init__(alpha=check.fraction("alpha", alpha), margin=check.positive("margin", margin))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.hkr`."""
        return hkr(f, labels, **self.options)


def tau_cross_entropy(f: Tensor, labels: Tensor, *, tau: float) -> Tensor:
    """Cross entropy with an inverse temperature tau, in units of f:

        mean_i CE(tau f_i, y_i) / tau

    Choose it to train 1-Lipschitz classifiers as others are trained: they cannot grow their outputs, so tau does.
    A large tau is accurate (in the limit only the lead over the best wrong class counts), a small one robust. A network
    without a Lipschitz bound learns tau by itself: there use torch's cross entropy.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        tau: the inverse temperature, in units of 1 / f.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or a tau that is not positive.
            Values of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> tau_cross_entropy(f, y, tau=10.0)
    tensor(0.0039)

    Source: Bethune, Boissin, Serrurier, Mamalet, Friedrich and Gonzalez-Sanz 2022, "Pay attention to your loss:
    understanding misconceptions about 1-Lipschitz neural networks", the temperature of the cross entropy.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    tau = check.positive("tau", tau)
    return terms.tau_cross_entropy(values, positive, tau).mean().to(f.dtype)


@final
class TauCrossEntropy(_Stored):
    """Module form of :func:`barrow.nn.tau_cross_entropy`."""

    def __init__(self, *, tau: float) -> None:
        super().__init__(tau=check.positive("tau", tau))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.tau_cross_entropy`."""
        return tau_cross_entropy(f, labels, **self.options)


def tau_binary_cross_entropy(f: Tensor, labels: Tensor, *, tau: float) -> Tensor:
    """Binary cross entropy of logits with an inverse temperature tau, in units of f:

        mean_i log(1 + exp(-tau s_i f_i)) / tau,     s_i = 1 where y_i is positive, else -1

    Choose it as :func:`tau_cross_entropy`, for one output a sample or several labels a sample; of classes that exclude
    each other choose the latter.

    Args:
        f: (B,) or (B, C), outputs; C columns are C classifiers of their own, over which the mean is taken.
        labels: (B,), (B, 1) or the shape of f: 0/1, -1/1 or bool, of any real dtype.
        tau: the inverse temperature, in units of 1 / f.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or a tau that is not positive.
            Values of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([2.0, 0.0, -1.0, 0.25])
    >>> y = torch.tensor([1, 1, 0, 0])
    >>> tau_binary_cross_entropy(f, y, tau=10.0)
    tensor(0.0818)

    Source: Bethune, Boissin, Serrurier, Mamalet, Friedrich and Gonzalez-Sanz 2022, "Pay attention to your loss:
    understanding misconceptions about 1-Lipschitz neural networks", the temperature of the cross entropy.
    """
    values = outputs(f, classes=False)
    positive = binary(values, labels)
    tau = check.positive("tau", tau)
    return terms.tau_binary_cross_entropy(values, positive, tau).mean().to(f.dtype)


@final
class TauBinaryCrossEntropy(_Stored):
    """Module form of :func:`barrow.nn.tau_binary_cross_entropy`."""

    def __init__(self, *, tau: float) -> None:
        super().__init__(tau=check.positive("tau", tau))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.tau_binary_cross_entropy`."""
        return tau_binary_cross_entropy(f, labels, **self.options)
