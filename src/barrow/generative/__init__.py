"""The WGAN family: critic objectives and penalties as functions that compose by addition, and their training.

One sign everywhere: the critic is high on x (the data) and low on y (what the generator made), whatever is returned is
to be minimised, and the estimate mean f(x) - mean f(y) is never negative at the optimum.
"""

from barrow.generative.game import Diverged, Wgan
from barrow.generative.methods import (
    Method,
    Round,
    c_transform_gan,
    cowgan,
    ct_gan,
    hinge_gan,
    lipschitz_gan,
    lsot_gan,
    wgan,
    wgan_gp,
    wgan_lp,
)
from barrow.generative.models import digit_critic, digit_generator, perceptron
from barrow.generative.objectives import (
    c_transform,
    c_transform_critic_loss,
    cowgan_critic_loss,
    hinge_critic_loss,
    hinge_generator_loss,
    lsot_critic_loss,
    wgan_critic_loss,
    wgan_generator_loss,
)
from barrow.generative.penalties import (
    clip_parameters_,
    consistency_penalty,
    gradient_penalty,
    interpolates,
    pairwise_penalty,
)
from barrow.generative.training import train

__all__ = [
    "wgan_critic_loss",
    "wgan_generator_loss",
    "hinge_critic_loss",
    "hinge_generator_loss",
    "c_transform",
    "c_transform_critic_loss",
    "cowgan_critic_loss",
    "lsot_critic_loss",
    "interpolates",
    "gradient_penalty",
    "consistency_penalty",
    "pairwise_penalty",
    "clip_parameters_",
    "Method",
    "Round",
    "wgan",
    "wgan_gp",
    "wgan_lp",
    "ct_gan",
    "lipschitz_gan",
    "hinge_gan",
    "c_transform_gan",
    "cowgan",
    "lsot_gan",
    "Wgan",
    "train",
    "Diverged",
    "perceptron",
    "digit_generator",
    "digit_critic",
]
