"""The Kantorovich-Rubinstein quantity of a critic's values."""

from __future__ import annotations

from torch import Tensor, nn

from barrow.check import real_tensor, shape

__all__ = ["KantorovichRubinstein", "kantorovich_rubinstein"]


def kantorovich_rubinstein(f_x: Tensor, f_y: Tensor) -> Tensor:
    """How much higher a critic f is on x than on y, the quantity whose largest value over 1-Lipschitz f is W_1:

        KR(f) = mean_i f(x_i) - mean_j f(y_j) <= W_1(x, y),     W_1(x, y) = max over |f|_Lip <= 1 of KR(f)

    It is to be *maximised* by the critic, so the loss of a critic is its negative, and it is never negative at the
    optimum: a good critic is high on x and low on y. A generator of y minimises it. Choose it with a
    :class:`Critic`; with a critic that is not 1-Lipschitz it bounds nothing (divide by :func:`lipschitz_bound`).

    Args:
        f_x: (..., n), the critic's values on samples of the first law.
        f_y: (..., m), its values on samples of the second law.

    Returns:
        (...).

    Raises:
        ValueError: a batch is empty, not floating point or a scalar.

    >>> import torch
    >>> kantorovich_rubinstein(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0, 1.0]))
    tensor(2.)

    Source: Villani, "Optimal Transport, Old and New", 2009, equation (5.11).
    """
    for name, values in (("f_x", f_x), ("f_y", f_y)):
        real_tensor(name, values, what="the values of a critic")
        if values.ndim == 0 or values.shape[-1] == 0:
            raise ValueError(
                f"{name} has shape {shape(values)}, but a mean needs at least one value: give a shape (..., n), n >= 1"
            )
    return f_x.mean(-1) - f_y.mean(-1)


class KantorovichRubinstein(nn.Module):
    """Module form of :func:`kantorovich_rubinstein`."""

    def forward(self, f_x: Tensor, f_y: Tensor) -> Tensor:
        """Evaluate on critic values (..., n) and (..., m)."""
        return kantorovich_rubinstein(f_x, f_y)
