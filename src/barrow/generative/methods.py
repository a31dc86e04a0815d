"""What critic and generator play for: the WGAN family, each a few lines of objectives and penalties."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from barrow import check
from barrow.generative.objectives import (
    c_transform_critic_loss,
    cowgan_critic_loss,
    hinge_critic_loss,
    hinge_generator_loss,
    lsot_critic_loss,
    wgan_critic_loss,
    wgan_generator_loss,
)
from barrow.generative.penalties import clip_parameters_, consistency_penalty, gradient_penalty, interpolates

__all__ = [
    "Method",
    "Round",
    "c_transform_gan",
    "cowgan",
    "ct_gan",
    "hinge_gan",
    "lipschitz_gan",
    "lsot_gan",
    "wgan",
    "wgan_gp",
    "wgan_lp",
]

OptimiserFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@final
@dataclasses.dataclass(frozen=True)
class Round:
    """What one step sees: the critic, a batch of data x, a batch y that the generator made, and where noise is from."""

    critic: nn.Module
    x: Tensor
    y: Tensor
    random: torch.Generator

    def values(self) -> tuple[Tensor, Tensor]:
        """The critic on x and on y, in one pass unless it normalises over the batch."""
        if batch_norms(self.critic):
            return self.critic(self.x), self.critic(self.y)
        f = self.critic(torch.cat((self.x, self.y)))
        return f[: len(self.x)], f[len(self.x) :]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam as WGAN-GP has it: learning rate 1e-4, betas (0.5, 0.9)."""
    return torch.optim.Adam(parameters, 1e-4, betas=(0.5, 0.9))


def rmsprop(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """RMSprop as the first WGAN has it: learning rate 5e-5."""
    return torch.optim.RMSprop(parameters, 5e-5)


def kantorovich_rubinstein(round: Round) -> Tensor:
    """Mean f(x) - mean f(y): what the critic takes W_1 for."""
    return -wgan_critic_loss(*round.values())


def no_penalty(round: Round) -> Tensor:
    """Zero."""
    return round.x.new_zeros(())


def climb(round: Round) -> Tensor:
    """The generator's loss of most: minus the critic's mean on y."""
    return wgan_generator_loss(round.critic(round.y))


@final
@dataclasses.dataclass(frozen=True)
class Method:
    """One member of the family: every part is a function of a :class:`Round`, and all are to be minimised.

    The critic minimises ``critic_loss + penalty``, the generator ``generator_loss``. Choose one of the functions of
    this module, or compose another:

    >>> from barrow.generative import pairwise_penalty
    >>> def steep(r):
    ...     return 10 * pairwise_penalty(*r.values(), r.x, r.y)
    >>> Method("WGAN-pairs", lambda r: wgan_critic_loss(*r.values()), penalty=steep).name
    'WGAN-pairs'

    Attributes:
        name: as people write it.
        critic_loss: of a round.
        generator_loss: of a round, in which y carries the generator's graph.
        penalty: added to the critic's loss, reported apart.
        estimate: what the critic takes W_1 for, never negative at its optimum; reported as ``w1``.
        after: done to the critic before the first and after each of its steps.
        optimiser: from parameters, where the caller names none.
        batch_norm: whether a critic may normalise over the batch, which makes it no function of a sample.
        bounded: whether :func:`barrow.nn.lipschitz_bound` must be at most 1 for the critic.

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, algorithm 1, of which
    these are the exchangeable parts.
    """

    name: str
    critic_loss: Callable[[Round], Tensor]
    generator_loss: Callable[[Round], Tensor] = climb
    penalty: Callable[[Round], Tensor] = no_penalty
    estimate: Callable[[Round], Tensor] = kantorovich_rubinstein
    after: Callable[[nn.Module], None] | None = None
    optimiser: OptimiserFactory = adam
    batch_norm: bool = False
    bounded: bool = False


def _kr_loss(round: Round) -> Tensor:
    return wgan_critic_loss(*round.values())


def wgan(c: float = 0.01) -> Method:
    """The first WGAN: all parameters of the critic clipped to [-c, c].

    Its ``w1`` is in units that nobody asked for; ``w1_lower`` is comparable.

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, algorithm 1.

    >>> wgan().name
    'WGAN'
    """
    c = check.positive("c", c)
    return Method("WGAN", _kr_loss, after=lambda critic: clip_parameters_(critic, c), optimiser=rmsprop)


def wgan_gp(weight: float = 10.0) -> Method:
    """WGAN with a gradient penalty: slopes between data and samples are drawn to one.

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs", NeurIPS 2017;
    the toys there have weight 0.1.

    >>> wgan_gp(0.1).name
    'WGAN-GP'
    """
    weight = check.positive("weight", weight)
    return Method("WGAN-GP", _kr_loss, penalty=lambda r: weight * _slopes(r))


def wgan_lp(weight: float = 10.0) -> Method:
    """WGAN with a one-sided penalty: slopes above one are pushed back, those below are free.

    Source: Petzka, Fischer, Lukovnikov, "On the regularization of Wasserstein GANs", ICLR 2018.

    >>> wgan_lp(0.1).name
    'WGAN-LP'
    """
    weight = check.positive("weight", weight)
    return Method("WGAN-LP", _kr_loss, penalty=lambda r: weight * _slopes(r, one_sided=True))


def _slopes(round: Round, *, one_sided: bool = False) -> Tensor:
    return gradient_penalty(round.critic, interpolates(round.x, round.y, round.random), one_sided=one_sided)


def ct_gan(weight: float = 10.0, consistency: float = 2.0, margin: float = 0.0) -> Method:
    """WGAN-GP with a consistency term between two passes of a critic with dropout over the data.

    The critic must be a `torch.nn.Sequential`; its last layer reads the features that are compared.

    Source: Wei, Gong, Liu, Lu, Wang, "Improving the improved training of Wasserstein GANs: a consistency term and its
    dual effect", ICLR 2018.

    >>> ct_gan().name
    'CT-GAN'
    """
    weight = check.positive("weight", weight)

    def penalty(round: Round) -> Tensor:
        critic = round.critic
        if not isinstance(critic, nn.Sequential) or len(critic) < 2:
            raise ValueError(
                f"the critic is a {type(critic).__name__}, but the consistency term compares what goes into its last "
                "layer: make it a torch.nn.Sequential of at least two layers"
            )
        first, second = critic[:-1](round.x), critic[:-1](round.x)
        change = consistency_penalty(
            critic[-1](first), critic[-1](second), first, second, weight=consistency, margin=margin
        )
        return weight * _slopes(round) + change

    return Method("CT-GAN", _kr_loss, penalty=penalty)


def lipschitz_gan() -> Method:
    """WGAN with a critic that is 1-Lipschitz by construction, and proved so: no penalty, and ``w1`` bounds from below.

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 7.

    >>> lipschitz_gan().bounded
    True
    """
    return Method("1-Lipschitz", _kr_loss, bounded=True)


def hinge_gan() -> Method:
    """Margins of one on either side, for critics with spectral normalisation; ``w1`` is then a number like any other.

    Source: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial networks", ICLR 2018.

    >>> hinge_gan().name
    'hinge'
    """
    return Method(
        "hinge",
        lambda r: hinge_critic_loss(*r.values()),
        lambda r: hinge_generator_loss(r.critic(r.y)),
        batch_norm=True,
    )


def c_transform_gan(epsilon: float = 0.0) -> Method:
    """A free critic on data, its c-transform on samples: ``w1`` is at most W_1 of the two batches.

    Source: Mallasto, Montúfar, Gerolin, "How well do WGANs estimate the Wasserstein metric?", arXiv 1910.03875, 2019.

    >>> c_transform_gan().name
    'c-transform'
    """

    def loss(round: Round) -> Tensor:
        return c_transform_critic_loss(round.critic(round.x), round.x, round.y, epsilon=epsilon)

    return _zero_sum("c-transform", loss)


def cowgan() -> Method:
    """The smallest of three estimates: ``w1`` is at most W_1 of the two batches.

    Source: Kwon, Kim, Montúfar, Yang, "Training Wasserstein GANs without gradient penalties", arXiv 2110.14150, 2021.

    >>> cowgan().name
    'CoWGAN'
    """
    return _zero_sum("CoWGAN", lambda r: cowgan_critic_loss(*r.values(), r.x, r.y))


def lsot_gan(epsilon: float = 0.01) -> Method:
    """Two potentials under regularised transport; the critic is a `torch.nn.ModuleList` of both, first that of x.

    Source: Seguy, Damodaran, Flamary, Courty, Rolet, Blondel, "Large-scale optimal transport and mapping estimation",
    ICLR 2018.

    >>> lsot_gan().name
    'LSOT'
    """
    epsilon = check.positive("epsilon", epsilon)

    def loss(round: Round) -> Tensor:
        if not isinstance(round.critic, nn.ModuleList) or len(round.critic) != 2:
            raise ValueError(
                f"the critic is a {type(round.critic).__name__}, but LSOT trains two potentials: "
                "make it torch.nn.ModuleList([f, g])"
            )
        f, g = round.critic
        return lsot_critic_loss(f(round.x), g(round.y), round.x, round.y, epsilon=epsilon)

    return _zero_sum("LSOT", loss)


def _zero_sum(name: str, loss: Callable[[Round], Tensor]) -> Method:
    """The generator lowers the very number that the critic raises."""
    return Method(name, loss, lambda r: -loss(r), estimate=lambda r: -loss(r))


def batch_norms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and layers that normalise over the batch."""
    # BatchNorm and SyncBatchNorm are told by torch's own base class of both.
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
