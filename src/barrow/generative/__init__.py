"""Critic objectives and penalties of the WGAN family, as functions that compose by addition.

One sign everywhere: the critic is high on x (the data) and low on y (what the generator made), whatever is returned is
to be minimised, and the estimate mean f(x) - mean f(y) is never negative at the optimum.
"""

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
]
