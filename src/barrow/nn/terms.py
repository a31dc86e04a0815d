"""What each sample contributes to the losses of classifiers: (B,), whose mean is the loss.

`f` are checked outputs in single or double precision, `positive` tells in the same shape which should be high. Where
nothing is to be counted the sum still runs over every output, so a NaN anywhere ends in the loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu

from barrow.nn.labels import missing, weights_from_counts


def over_outputs(values: Tensor) -> Tensor:
    """The mean over a sample's outputs."""
    return values.reshape(len(values), -1).mean(1)


def signed(f: Tensor, positive: Tensor) -> Tensor:
    """Outputs times +1 or -1: high is right."""
    return torch.where(positive, f, -f)


def kr(f: Tensor, positive: Tensor, *, complete: bool) -> Tensor:
    """Kantorovich-Rubinstein, column by column; `complete` refuses columns that lack a class."""
    counts = positive.sum(0)
    if complete and bool(((counts == 0) | (counts == len(f))).any()):
        raise missing(counts, len(f))
    return over_outputs(f * weights_from_counts(positive, counts, len(f), len(f), f.dtype))


def hinge(f: Tensor, positive: Tensor, margin: float) -> Tensor:
    """The hinge at half the margin."""
    return over_outputs(relu(margin / 2 - signed(f, positive)))


def multiclass_hinge(f: Tensor, positive: Tensor, margin: float) -> Tensor:
    """The hinge at half the margin, in which the true class counts as much as all others together."""
    h = relu(margin / 2 - signed(f, positive))
    return over_outputs(torch.where(positive, (f.shape[1] - 1) * h, h))


def mixed(alpha: float, hinge: Tensor, kr: Tensor) -> Tensor:
    """Alpha times the hinge less (1 - alpha) times Kantorovich-Rubinstein."""
    return alpha * hinge - (1 - alpha) * kr


def soft_hkr(f: Tensor, positive: Tensor, alpha: float, margin: float, temperature: float) -> Tensor:
    """HKR with the wrong classes weighted by their softmax."""
    weights = torch.softmax((temperature * f).masked_fill(positive, -math.inf), 1).masked_fill(positive, 1)
    s = signed(f, positive)
    return (weights * mixed(alpha, relu(margin / 2 - s), s)).sum(1)


def true_output(f: Tensor, positive: Tensor) -> Tensor:
    """The output of the true class."""
    return f.masked_fill(~positive, 0).sum(1)


def lse_hkr(f: Tensor, positive: Tensor, alpha: float, margin: float, penalty: float) -> Tensor:
    """HKR of the true class against the smooth maximum of the others."""
    # One other class is its own smooth maximum at any t > 0, and log(1) = 0 would divide by zero.
    t = math.log(max(f.shape[1] - 1, 2)) / (margin * penalty / 2)
    high, low = true_output(f, positive), torch.logsumexp((t * f).masked_fill(positive, -math.inf), 1) / t
    return mixed(alpha, relu(margin / 2 - high) + relu(margin / 2 + low), high - low)


def categorical_hinge(f: Tensor, positive: Tensor, margin: float) -> Tensor:
    """The hinge of the lead over the best wrong class."""
    # The inner maximum with f_y - margin of the published form only repeats what the outer hinge does.
    return relu(margin - (true_output(f, positive) - f.masked_fill(positive, -math.inf).amax(1)))


def tau_cross_entropy(f: Tensor, positive: Tensor, tau: float) -> Tensor:
    """Cross entropy of tau f, over tau."""
    # The index, not the one-hot row: 0 times a logarithm of 0 would be NaN.
    return cross_entropy(tau * f, positive.long().argmax(1), reduction="none") / tau


def tau_binary_cross_entropy(f: Tensor, positive: Tensor, tau: float) -> Tensor:
    """Binary cross entropy of tau f, over tau."""
    return over_outputs(binary_cross_entropy_with_logits(tau * f, positive.to(f.dtype), reduction="none") / tau)
