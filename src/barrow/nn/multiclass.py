"""Losses of classifiers with one 1-Lipschitz output a class.

All are means over the batch, to be minimised, but for `multiclass_kr`, which like
:func:`barrow.nn.kantorovich_rubinstein` is to be maximised. The true class is high.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from barrow import check
from barrow.nn import terms
from barrow.nn.labels import one_hot, outputs
from barrow.nn.losses import _Stored

__all__ = [
    "CategoricalHinge",
    "LseHkr",
    "MulticlassHinge",
    "MulticlassHkr",
    "MulticlassKr",
    "SoftHkr",
    "categorical_hinge",
    "lse_hkr",
    "multiclass_hinge",
    "multiclass_hkr",
    "multiclass_kr",
    "soft_hkr",
]


def multiclass_kr(f: Tensor, labels: Tensor) -> Tensor:
    """Kantorovich-Rubinstein of each class against the rest, averaged over the classes; to be *maximised*:

        (1 / C) sum_c [mean of f_ic where y_i = c - mean of f_ic where y_i != c]

    Choose it to measure how far apart the outputs hold the classes; to train a classifier choose
    :func:`multiclass_hkr`. A class that the batch lacks, or that is the whole batch, contributes 0 to the sum (and gets
    no gradient), while C stays: small batches of many classes are therefore smaller in value. A single sample gives 0.
    For a batch shared by several processes see :func:`kr_weights`.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch. Values of labels that are not
            bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> multiclass_kr(f, y)
    tensor(0.4167)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the extension to several classes.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    return terms.kr(values, positive, complete=False).mean().to(f.dtype)


@final
class MulticlassKr(_Stored):
    """Module form of :func:`barrow.nn.multiclass_kr`."""

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.multiclass_kr`."""
        return multiclass_kr(f, labels, **self.options)


def multiclass_hinge(f: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """The hinge of each class against the rest, in which the true class counts as much as all others together:

        mean_i (1 / C) [(C - 1) max(0, margin / 2 - f_iy) + sum_{j != y} max(0, margin / 2 + f_ij)]

    Choose it for outputs that mean something one by one (each a distance to its class); where only the largest output
    matters :func:`categorical_hinge` asks for less.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        margin: the distance wanted between the classes, in units of f, half of it on each side.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or a margin that is not positive.
            Values of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> multiclass_hinge(f, y)
    tensor(0.2083)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the extension to several classes.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    margin = check.positive("margin", margin)
    return terms.multiclass_hinge(values, positive, margin).mean().to(f.dtype)


@final
class MulticlassHinge(_Stored):
    """Module form of :func:`barrow.nn.multiclass_hinge`."""

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__(margin=check.positive("margin", margin))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.multiclass_hinge`."""
        return multiclass_hinge(f, labels, **self.options)


def multiclass_hkr(f: Tensor, labels: Tensor, *, alpha: float, margin: float = 1.0) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein of each class against the rest:

        alpha * multiclass_hinge(f, y) - (1 - alpha) * multiclass_kr(f, y)

    Choose it for robust classifiers of a few classes with 1-Lipschitz outputs; with many classes most of its gradient
    goes to wrong classes that are far away, and :func:`soft_hkr` or :func:`lse_hkr` learn faster. A class that
    the batch lacks contributes 0 to the KR.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        alpha: 0 to 1, the share of the hinge.
        margin: the distance wanted between the classes, in units of f, half of it on each side.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or an option out of range. Values
            of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> multiclass_hkr(f, y, alpha=0.5)
    tensor(-0.1042)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the extension to several classes.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    alpha = check.fraction("alpha", alpha)
    margin = check.positive("margin", margin)
    return (
        terms.mixed(alpha, terms.multiclass_hinge(values, positive, margin), terms.kr(values, positive, complete=False))
        .mean()
        .to(f.dtype)
    )


@final
class MulticlassHkr(_Stored):
    """Module form of :func:`barrow.nn.multiclass_hkr`."""

    def __init__(self, *, alpha: float, margin: float = 1.0) -> None:
        super().__init__(alpha=check.fraction("alpha", alpha), margin=check.positive("margin", margin))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.multiclass_hkr`."""
        return multiclass_hkr(f, labels, **self.options)


def soft_hkr(f: Tensor, labels: Tensor, *, alpha: float, margin: float = 1.0, temperature: float) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein sample by sample, wrong classes weighted by their softmax:

        mean_i sum_j w_ij [alpha max(0, margin / 2 - s_ij f_ij) - (1 - alpha) s_ij f_ij]
        w_iy = 1,     w_ij = softmax over j != y of temperature * f_ij,     s_iy = 1,     s_ij = -1

    Choose it for many classes: it looks at the wrong classes that come closest. The weights have gradients too.
    :class:`SoftHkr` follows the size of the outputs with the temperature; here it is given. It does not compare samples
    with each other, so a batch may lack classes.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        alpha: 0 to 1, the share of the hinge.
        margin: the distance wanted between the classes, in units of f, half of it on each side.
        temperature: the factor of the softmax, in units of 1 / f; large looks at the closest wrong class only.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or an option out of range. Values
            of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> soft_hkr(f, y, alpha=0.5, temperature=1.0)
    tensor(-0.2212)

    Source: Serrurier, Mamalet, Fel, Bethune and Boissin 2023, "On the explainable properties of 1-Lipschitz neural
    networks: an optimal transport perspective", the loss of its classifiers.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    alpha = check.fraction("alpha", alpha)
    margin = check.positive("margin", margin)
    temperature = check.positive("temperature", temperature)
    return terms.soft_hkr(values, positive, alpha, margin, temperature).mean().to(f.dtype)


class SoftHkr(_Stored):
    """Module form of :func:`barrow.nn.soft_hkr`, whose temperature follows the size of the outputs.

    The temperature is sharpness * margin / max(m, margin) within [0.005, 250], where m is a running mean of |f|: the
    buffer `size`, which begins at the margin, is saved with the module, moves by (1 - decay) at each batch in training
    (first, so the batch counts itself) and stands still in eval mode. A batch with NaN gives NaN and leaves it alone.

    >>> import torch
    >>> loss = SoftHkr(alpha=0.5, decay=0.5)
    >>> value = loss(torch.tensor([[3.0, -3.0]]), torch.tensor([0]))
    >>> loss.state_dict()["size"]
    tensor(2.)
    """

    size: Tensor

    def __init__(self, *, alpha: float, margin: float = 1.0, sharpness: float = 1.0, decay: float = 0.99) -> None:
        super().__init__(
            alpha=check.fraction("alpha", alpha),
            margin=check.positive("margin", margin),
            sharpness=check.positive("sharpness", sharpness),
            decay=check.fraction("decay", decay),
        )
        self.register_buffer("size", torch.tensor(self.options["margin"], dtype=torch.float32))

    def temperature(self, f: Tensor) -> float:
        """The temperature for a batch of outputs, which in training enter the running mean first."""
        o: dict[str, Any] = self.options
        if self.training:
            seen = f.detach().float().abs().mean().to(self.size)
            moved = (o["decay"] * self.size + (1 - o["decay"]) * seen).clamp(0.005, 1000)
            self.size.copy_(torch.where(torch.isfinite(seen), moved, self.size))
        scale: float = o["sharpness"] * o["margin"] / max(float(self.size), o["margin"])
        return min(max(scale, 0.005), 250.0)

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.soft_hkr`."""
        # Labels that are refused must not have moved the mean.
        one_hot(outputs(f, classes=True), labels)
        o = self.options
        return soft_hkr(f, labels, alpha=o["alpha"], margin=o["margin"], temperature=self.temperature(f))


def lse_hkr(f: Tensor, labels: Tensor, *, alpha: float, margin: float = 1.0, penalty: float = 1.0) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein of the true class against the smooth maximum n of the others:

        mean_i alpha [max(0, margin / 2 - f_iy) + max(0, margin / 2 + n_i)] - (1 - alpha) (f_iy - n_i)
        n_i = (1 / t) log sum_{j != y} exp(t f_ij),     t = log(max(C - 1, 2)) / (penalty * margin / 2)

    Choose it for many classes, where one number should speak for all wrong ones: with C > 2, n lies between the largest
    and the largest + penalty * margin / 2. With C = 2 the only wrong class is its own smooth maximum, n = f_ij,
    whatever t > 0. A batch may lack classes.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        alpha: 0 to 1, the share of the hinge.
        margin: the distance wanted between the classes, in units of f, half of it on each side.
        penalty: how far n may lie above the largest wrong output, in units of margin / 2.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or an option out of range. Values
            of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> lse_hkr(f, y, alpha=0.5)
    tensor(0.1897)

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio 2021, "Achieving robustness in
    classification using optimal transport with hinge regularization", the hinge-regularised KR that this smooths
    over classes.
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    alpha = check.fraction("alpha", alpha)
    margin = check.positive("margin", margin)
    penalty = check.positive("penalty", penalty)
    return terms.lse_hkr(values, positive, alpha, margin, penalty).mean().to(f.dtype)


@final
class LseHkr(_Stored):
    """Module form of :func:`barrow.nn.lse_hkr`."""

    def __init__(self, *, alpha: float, margin: float = 1.0, penalty: float = 1.0) -> None:
        super().__init__(
            alpha=check.fraction("alpha", alpha),
            margin=check.positive("margin", margin),
            penalty=check.positive("penalty", penalty),
        )

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.lse_hkr`."""
        return lse_hkr(f, labels, **self.options)


def categorical_hinge(f: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """The hinge of the lead of the true class over the best wrong one:

        mean_i max(0, margin - (f_iy - max(max_{j != y} f_ij, f_iy - margin)))
        = mean_i max(0, margin - (f_iy - max_{j != y} f_ij))

    Choose it for certified accuracy: the lead over sqrt(2) bounds the robustness of a network that is 1-Lipschitz as a
    whole. Each sample teaches two outputs only, so it learns slowly with many classes.

    Args:
        f: (B, C), one output a class, C >= 2.
        labels: (B,), class indices; or (B, C), one-hot in 0/1, -1/1 or bool, of any real dtype.
        margin: the lead that is wanted, in units of f.

    Returns:
        A scalar in the dtype of f; half precision is computed in single.

    Raises:
        ValueError: f or labels of other shapes, dtypes or values, or an empty batch, or a margin that is not positive.
            Values of labels that are not bool are read, for which a GPU is waited for.

    >>> import torch
    >>> f = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
    >>> y = torch.tensor([0, 1])
    >>> categorical_hinge(f, y)
    tensor(0.3750)

    Source: Crammer and Singer 2001, "On the algorithmic implementation of multiclass kernel-based vector machines".
    """
    values = outputs(f, classes=True)
    positive = one_hot(values, labels)
    margin = check.positive("margin", margin)
    return terms.categorical_hinge(values, positive, margin).mean().to(f.dtype)


@final
class CategoricalHinge(_Stored):
    """Module form of :func:`barrow.nn.categorical_hinge`."""

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__(margin=check.positive("margin", margin))

    def forward(self, f: Tensor, labels: Tensor) -> Tensor:
        """See :func:`barrow.nn.categorical_hinge`."""
        return categorical_hinge(f, labels, **self.options)
