"""Small generators and critics: points of the plane, and images of 28 x 28."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from barrow import check

__all__ = ["digit_critic", "digit_generator", "perceptron"]


def perceptron(in_features: int, out_features: int, widths: Sequence[int] = (512, 512, 512)) -> nn.Sequential:
    """Linear layers with ReLU between them.

        W_k o relu o ... o relu o W_1

    Choose it for points of the plane; three layers of 512 are what the papers' toys have, on both sides.

    Raises:
        ValueError: a size is not a positive whole number.

    >>> perceptron(2, 1, (64, 64))(torch.zeros(5, 2)).shape
    torch.Size([5, 1])

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs", NeurIPS 2017, the
    toy experiments.
    """
    sizes = [check.whole("in_features", in_features), *(check.whole("each of widths", w) for w in widths)]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], check.whole("out_features", out_features)))


def digit_generator(latent: int = 64, width: int = 32) -> nn.Sequential:
    """Latents (B, latent) to images (B, 1, 28, 28) in [0, 1], by transposed convolutions.

    Raises:
        ValueError: a size is not a positive whole number.

    >>> digit_generator(8, 4)(torch.zeros(5, 8)).shape
    torch.Size([5, 1, 28, 28])

    Source: Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional generative
    adversarial networks", ICLR 2016, whose layers these are without normalisation.
    """
    latent, width = check.whole("latent", latent), check.whole("width", width)
    return nn.Sequential(
        nn.Linear(latent, 2 * width * 49), nn.ReLU(), nn.Unflatten(1, (2 * width, 7, 7)),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def digit_critic(width: int = 32, dropout: float = 0.0) -> nn.Sequential:
    """Images (B, 1, 28, 28) to (B, 1), by convolutions without normalisation; the last layer reads the features.

    Args:
        width: channels of the first layer.
        dropout: share of the features dropped after each convolution, as the consistency term of CT-GAN needs it.

    Raises:
        ValueError: width is not a positive whole number, or dropout not a number from 0 to 1.

    >>> digit_critic(4, 0.5)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 1])

    Source: Radford, Metz, Chintala, ICLR 2016, without normalisation; dropout as in Wei, Gong, Liu, Lu, Wang,
    "Improving the improved training of Wasserstein GANs", ICLR 2018, section 4.1.
    """
    width, dropout = check.whole("width", width), check.fraction("dropout", dropout)
    return nn.Sequential(
        nn.Conv2d(1, width, 5, 2, 2), nn.LeakyReLU(0.2), nn.Dropout(dropout),
        nn.Conv2d(width, 2 * width, 5, 2, 2), nn.LeakyReLU(0.2), nn.Dropout(dropout),
        nn.Flatten(), nn.Linear(2 * width * 49, 1),
    )  # fmt: skip
