"""What the critic and the generator of a WGAN minimise, from the critic's values and, for some, the samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barrow import check
from barrow.generative.common import critic_values, distances, two_batches
from barrow.nn.kantorovich import kantorovich_rubinstein

__all__ = [
    "c_transform",
    "c_transform_critic_loss",
    "cowgan_critic_loss",
    "hinge_critic_loss",
    "hinge_generator_loss",
    "lsot_critic_loss",
    "wgan_critic_loss",
    "wgan_generator_loss",
]


def wgan_critic_loss(f_x: Tensor, f_y: Tensor) -> Tensor:
    """The critic's loss of the Wasserstein GAN, the negative Kantorovich-Rubinstein quantity:

        loss = mean_j f(y_j) - mean_i f(x_i) = -KR(f)

    Minus the loss is the estimate of W_1; it means that only if f is 1-Lipschitz. Choose it with a critic that is so by
    construction (:class:`barrow.nn.Critic`, :class:`barrow.nn.OrthogonalLinear`), which is certified, or add
    :func:`gradient_penalty`, which is not. Not alone with a free critic: it has no minimum.

    Args:
        f_x: (n,) or (n, 1), the critic's values on data.
        f_y: (m,) or (m, 1), its values on what the generator made.

    Returns:
        A scalar.

    Raises:
        ValueError: values of another shape, not floating point, or an empty batch.

    >>> wgan_critic_loss(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0, 1.0]))
    tensor(-2.)

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, equations (2), (3);
    code in circulation has the opposite sign, which is the critic -f.
    """
    return -kantorovich_rubinstein(critic_values("f_x", f_x), critic_values("f_y", f_y))


def wgan_generator_loss(f_y: Tensor) -> Tensor:
    """The generator's loss of the Wasserstein GAN: it climbs the critic.

        loss = -mean_j f(y_j)

    Choose it with every critic loss of this package that sees f on both sides. Its value alone says nothing about
    progress, since f is only defined up to a constant: plot minus the critic's loss instead.

    Args:
        f_y: (m,) or (m, 1), the critic's values on what the generator made, not detached.

    Returns:
        A scalar.

    Raises:
        ValueError: values of another shape, not floating point, or an empty batch.

    >>> wgan_generator_loss(torch.tensor([1.0, 3.0]))
    tensor(-2.)

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, algorithm 1.
    """
    return -critic_values("f_y", f_y).mean()


def hinge_critic_loss(f_x: Tensor, f_y: Tensor) -> Tensor:
    """The critic's loss of a hinge GAN: margins of one on either side.

        loss = mean_i relu(1 - f(x_i)) + mean_j relu(1 + f(y_j))

    Choose it with spectrally normalised critics, for pictures rather than for distances. Not to estimate W_1: beyond
    the margins it is flat, and minus the loss is no distance.

    Args:
        f_x: (n,) or (n, 1), the critic's values on data.
        f_y: (m,) or (m, 1), its values on what the generator made.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: values of another shape, not floating point, or an empty batch.

    >>> hinge_critic_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5]))
    tensor(1.2500)

    Source: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial networks", ICLR 2018.
    """
    high, low = critic_values("f_x", f_x), critic_values("f_y", f_y)
    return torch.relu(1 - high).mean() + torch.relu(1 + low).mean()


def hinge_generator_loss(f_y: Tensor) -> Tensor:
    """The generator's loss of a hinge GAN, which has no hinge:

        loss = -mean_j f(y_j)

    Choose it with :func:`hinge_critic_loss`. It is :func:`wgan_generator_loss` under the name that belongs there; a
    hinge here would take the gradient from the samples that the critic likes.

    Args:
        f_y: (m,) or (m, 1), the critic's values on what the generator made, not detached.

    Returns:
        A scalar.

    Raises:
        ValueError: values of another shape, not floating point, or an empty batch.

    >>> hinge_generator_loss(torch.tensor([1.0, 3.0]))
    tensor(-2.)

    Source: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial networks", ICLR 2018.
    """
    return wgan_generator_loss(f_y)


def c_transform(f_x: Tensor, x: Tensor, y: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """The largest values on y that go with a potential on x, over the batch:

        epsilon = 0:  f^c(y_j) = min_i |x_i - y_j| - f(x_i)
        epsilon > 0:  f^c(y_j) = -epsilon log mean_i exp((f(x_i) - |x_i - y_j|) / epsilon)

    Choose it to make any critic feasible for the two batches, without a Lipschitz condition; epsilon > 0 spreads the
    gradient over many x_i. Not for the population: the minimum over a batch is larger than that over all x. For clouds
    of thousands of points, where no gradient is needed, `barrow.Points(...).c_transform` stores no matrix.

    Args:
        f_x: (n,) or (n, 1), the critic's values on x.
        x: (n, ...), data.
        y: (m, ...), what the generator made. |x_i - y_j| runs over all numbers of a sample.
        epsilon: how soft the minimum is, in units of distance, at least 0.

    Returns:
        (m,), differentiable once in f_x, x and y.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, NaN or infinity in x or y, epsilon < 0, an empty batch.

    >>> x, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [5.0]])
    >>> c_transform(torch.tensor([0.0, 1.0]), x, y)
    tensor([1., 1.])

    Source: Villani, "Optimal Transport, Old and New", 2009, definition 5.2; softly: Genevay, Cuturi, Peyré, Bach,
    "Stochastic optimization for large-scale optimal transport", NeurIPS 2016.
    """
    x, y = two_batches(x, y)
    f = critic_values("f_x", f_x, x)
    epsilon = check.number("epsilon", epsilon)
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}, but it must be finite and at least 0 (0 is the minimum itself)")
    return _transform(f, distances(x, y), epsilon)


def _transform(f: Tensor, C: Tensor, epsilon: float = 0.0) -> Tensor:
    slack = C - f[:, None]
    if epsilon == 0:
        # Gathered at one index, a tie sends the whole gradient one way: a subgradient, whatever version of torch.
        return slack.gather(0, slack.detach().argmin(0, keepdim=True))[0]
    return epsilon * (math.log(len(f)) - torch.logsumexp(-slack / epsilon, 0))


def c_transform_critic_loss(f_x: Tensor, x: Tensor, y: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """The critic's loss of the c-transform GAN, a potential on x and its transform on y:

        loss = -(mean_i f(x_i) + mean_j f^c(y_j)),     -loss <= W_1 of the two batches at epsilon = 0

    Choose it where the number should be close to W_1: it needs no Lipschitz condition, and for epsilon = 0 minus the
    loss is a lower bound of the exact W_1 between the two batches, which is itself biased upwards. With epsilon > 0 it
    bounds the entropic cost (relative entropy against the product), which is larger. Not for pretty pictures:
    generators trained on it tend to the centroids of the data.

    Args:
        f_x: (n,) or (n, 1), the critic's values on x.
        x: (n, ...), data.
        y: (m, ...), what the generator made; it learns through these distances, not through f.
        epsilon: how soft the minimum is, in units of distance, at least 0.

    Returns:
        A scalar, differentiable once in f_x, x and y.

    Raises:
        ValueError: as :func:`c_transform`.

    >>> x, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [5.0]])
    >>> c_transform_critic_loss(torch.tensor([0.0, 1.0]), x, y)
    tensor(-1.5000)

    Source: Mallasto, Montúfar, Gerolin, "How well do WGANs estimate the Wasserstein metric?", arXiv 1910.03875, 2019.
    """
    transformed = c_transform(f_x, x, y, epsilon=epsilon)
    return -(critic_values("f_x", f_x).mean() + transformed.mean())


def cowgan_critic_loss(f_x: Tensor, f_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The critic's loss of CoWGAN, minus the smallest of three estimates of W_1:

        KR = mean_i f(x_i) - mean_j f(y_j)
        L2 = mean_i f(x_i) + mean_j min_i (|x_i - y_j| - f(x_i))
        L3 = mean_i min_j (|x_i - y_j| + f(y_j)) - mean_j f(y_j)
        loss = -min(KR, L2, L3),     -loss <= W_1 of the two batches

    Choose it to train on KR, whose gradient is good, without leaving what the batch proves: where f is too steep, a
    c-transform takes over. Not with a critic that is 1-Lipschitz by construction: KR is then the smallest already.

    Args:
        f_x: (n,) or (n, 1), the critic's values on x.
        f_y: (m,) or (m, 1), its values on y.
        x: (n, ...), data.
        y: (m, ...), what the generator made.

    Returns:
        A scalar, differentiable once; the gradient is that of the smallest estimate.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, NaN or infinity in x or y, an empty batch.

    >>> x, y = torch.tensor([[4.0]]), torch.tensor([[1.0]])
    >>> cowgan_critic_loss(torch.tensor([2.0]), torch.tensor([0.0]), x, y)
    tensor(-2.)
    >>> cowgan_critic_loss(torch.tensor([9.0]), torch.tensor([0.0]), x, y)
    tensor(-3.)

    Source: Kwon, Kim, Montúfar, Yang, "Training Wasserstein GANs without gradient penalties", arXiv 2110.14150, 2021.
    """
    x, y = two_batches(x, y)
    f, h = critic_values("f_x", f_x, x), critic_values("f_y", f_y, y)
    C = distances(x, y)
    estimates = (f.mean() - h.mean(), f.mean() + _transform(f, C).mean(), _transform(-h, C.T).mean() - h.mean())
    return -torch.stack(estimates).min(0).values  # at a tie the gradient of one, not of a mixture


def lsot_critic_loss(f_x: Tensor, g_y: Tensor, x: Tensor, y: Tensor, *, epsilon: float = 0.01) -> Tensor:
    """The loss of two potentials of regularised transport, each a network of its own:

        loss = -(mean_i f(x_i) + mean_j g(y_j)) + 1 / (4 epsilon) mean_ij relu(f(x_i) + g(y_j) - |x_i - y_j|)^2

    Choose it where neither potential should be bound to be Lipschitz, or to read a plan from them: it has the density
    relu(f + g - |x - y|) / (2 epsilon). All n m pairs of the two batches are used. Minus the loss, at the optimum, is
    at least W_1 (the cost plus epsilon times the mean square of the plan's density). Mind the sign of g: it is high
    where y is *far* from x, and the generator minimises g on y. Not where a lower bound is wanted.

    Args:
        f_x: (n,) or (n, 1), the first potential on x.
        g_y: (m,) or (m, 1), the second on y.
        x: (n, ...), data.
        y: (m, ...), what the generator made.
        epsilon: weight of the regulariser in units of distance; smaller is sharper and stiffer.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, NaN or infinity in x or y, epsilon <= 0, an empty batch.

    >>> x, y = torch.tensor([[0.0]]), torch.tensor([[2.0]])
    >>> lsot_critic_loss(torch.tensor([2.0]), torch.tensor([1.0]), x, y, epsilon=0.5)
    tensor(-2.5000)

    Source: Seguy, Damodaran, Flamary, Courty, Rolet, Blondel, "Large-scale optimal transport and mapping estimation",
    ICLR 2018, the dual with the L2 regulariser.
    """
    x, y = two_batches(x, y)
    f, g = critic_values("f_x", f_x, x), critic_values("g_y", g_y, y)
    epsilon = check.positive("epsilon", epsilon)
    excess = torch.relu(f[:, None] + g - distances(x, y)).square().mean()
    return -(f.mean() + g.mean()) + excess / (4 * epsilon)
