"""What keeps a free critic near the 1-Lipschitz functions, at the points where one looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from barrow import check
from barrow.check import compute_dtype, real_tensor, same_kind, shape
from barrow.generative.common import critic_values, distances, samples, two_batches

__all__ = ["clip_parameters_", "consistency_penalty", "gradient_penalty", "interpolates", "pairwise_penalty"]


def interpolates(x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One point between each pair of samples, drawn uniformly on the segment:

        t_i ~ U(0, 1),     t_i x_i + (1 - t_i) y_i

    Choose it for the points of :func:`gradient_penalty`. One number is drawn a *sample*, so every point lies on its
    segment; one a pixel would fill the box between x_i and y_i. Not for a critic that knows the pairs: x_i and y_i are
    paired as they happen to come.

    Args:
        x: (B, ...), data.
        y: (B, ...), what the generator made.
        generator: where the numbers come from; torch's own unless given.

    Returns:
        (B, ...), in the dtype and on the device of x.

    Raises:
        ValueError: shapes, dtypes or devices that differ, NaN or infinity, an empty batch.

    >>> x, y = torch.ones(3, 2), torch.zeros(3, 2)
    >>> points = interpolates(x, y, torch.Generator().manual_seed(0))
    >>> bool((points[:, 0] == points[:, 1]).all()), points.shape
    (True, torch.Size([3, 2]))

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs", NeurIPS 2017,
    algorithm 1.
    """
    x, y = two_batches(x, y)
    if len(x) != len(y):
        raise ValueError(
            f"x has shape {shape(x)} but y has shape {shape(y)}: points between pairs need as many x as y, "
            "cut the larger batch"
        )
    dtype = compute_dtype(x.dtype)
    # A generator draws on its own device, and the same numbers are wanted wherever the samples are.
    device = x.device if generator is None else generator.device
    t = torch.rand(len(x), generator=generator, dtype=dtype, device=device).to(x.device)
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return (t * x.to(dtype) + (1 - t) * y.to(dtype)).to(x.dtype)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], points: Tensor, *, target: float = 1.0, one_sided: bool = False
) -> Tensor:
    """How far the slope of a critic is from one, at given points:

        mean_i (|grad f(p_i)| - target)^2                 WGAN-GP
        mean_i relu(|grad f(p_i)| - target)^2             WGAN-LP, one_sided=True

    Choose it to train a free critic, with ten times the penalty added to :func:`wgan_critic_loss`; one_sided where the
    target is a bound rather than an aim, which is what 1-Lipschitz means. Not as a proof: it holds at the sampled
    points and certifies nothing, and the estimate of W_1 may be far off on either side. For a certificate build the
    critic of :class:`barrow.nn.OrthogonalLinear` and ask :func:`barrow.nn.lipschitz_bound`.

    The points are constants, so nothing flows to the generator. The penalty costs one extra backward; where grad f = 0
    its gradient is zero, not NaN. Under `torch.no_grad` it still has a value, and no gradient.

    Args:
        critic: maps (B, ...) to (B,) or (B, 1), sample by sample. What normalises over the batch mixes samples, so that
            the gradient at one is no longer that of a function of it: such layers are refused in a torch.nn.Module; a
            plain function cannot be looked into.
        points: (B, ...), as from :func:`interpolates`.
        target: the slope asked for, at least 0.
        one_sided: whether slopes below the target are free.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: a critic with BatchNorm on batch statistics, values of another shape or without a graph, NaN or
            infinity in the points, an empty batch, target < 0.

    >>> critic = nn.Linear(2, 1)
    >>> _ = critic.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> penalty = gradient_penalty(critic, torch.zeros(7, 2))
    >>> round(penalty.item(), 4)
    16.0

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs", NeurIPS 2017,
    equation (3); one-sided: Petzka, Fischer, Lukovnikov, "On the regularization of Wasserstein GANs", ICLR 2018.
    """
    _refuse_mixing(critic)
    points = samples("points", points)
    target = check.number("target", target)
    if not 0 <= target < math.inf:
        raise ValueError(f"target is {target}, but a slope is finite and at least 0: WGAN-GP asks for 1")
    trained = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        values = critic_values("critic(points)", critic(points), points)
        if not values.requires_grad:
            raise ValueError(
                "critic(points) carries no graph, but its gradient in the points is needed: the critic detaches its "
                "input, or runs under torch.no_grad or torch.inference_mode; remove that"
            )
        # autograd.grad, never backward: that would fill the weights' .grad, and with create_graph it makes a cycle of
        # references that keeps every step's graph alive.
        (slope,) = torch.autograd.grad(values.sum(), points, create_graph=trained, materialize_grads=True)
        square = slope.flatten(1).to(compute_dtype(slope.dtype)).square().sum(1)
        # The double where keeps the root's infinite slope at zero out of the backward pass.
        steep = square > 0
        norm = torch.where(steep, torch.where(steep, square, 1).sqrt(), 0)
        excess = norm - target
        return (torch.relu(excess) if one_sided else excess).square().mean()


def _refuse_mixing(critic: object) -> None:
    """Refuse a critic that normalises over the batch."""
    if not callable(critic):
        raise ValueError(
            f"critic is a {type(critic).__name__}, but a gradient is needed: pass the critic itself, not its values"
        )
    # A bound method of a module, such as critic.forward, is that module.
    module = critic if isinstance(critic, nn.Module) else getattr(critic, "__self__", None)
    if not isinstance(module, nn.Module):
        return
    for path, layer in module.named_modules():
        # On running statistics it is an affine map of each sample, which mixes nothing.
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            name = f"layer {path!r} of the critic" if path else "the critic"
            raise ValueError(
                f"{name} is a {type(layer).__name__}, which mixes the samples of a batch, but the penalty is on the "
                "gradient of each sample's value: use torch.nn.LayerNorm or torch.nn.GroupNorm, or no normalisation"
            )


def consistency_penalty(
    values1: Tensor,
    values2: Tensor,
    features1: Tensor,
    features2: Tensor,
    *,
    weight: float = 2.0,
    feature_weight: float = 0.1,
    margin: float = 0.0,
) -> Tensor:
    """How much a critic with dropout changes its mind about the same data, between two passes:

        mean_i relu(weight [(f'(x_i) - f''(x_i))^2 + feature_weight mean_k (h'_k(x_i) - h''_k(x_i))^2] - margin)

    Choose it beside :func:`gradient_penalty` where data are few: it looks at the data themselves, where points between
    x and y never come, and keeps the critic's values on data and on fresh data together. Not without dropout or other
    noise, where it is zero; not as a certificate.

    Args:
        values1: (B,) or (B, 1), f' on the data x in one pass.
        values2: (B,) or (B, 1), f'' on the same x in another.
        features1: (B, ...), h', the second-to-last layer in the first pass.
        features2: (B, ...), h'' in the second.
        weight: lambda_2 of the paper.
        feature_weight: weight of the features against the values.
        margin: M', what is forgiven.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: shapes that differ, not floating point, an empty batch, a negative weight or margin.

    >>> f, h = torch.tensor([1.0]), torch.tensor([[0.0, 0.0]])
    >>> round(consistency_penalty(f, f + 2, h, h + 1).item(), 4)
    8.2

    Source: Wei, Gong, Liu, Lu, Wang, "Improving the improved training of Wasserstein GANs: a consistency term and its
    dual effect", ICLR 2018, equations (4), (5), with squares as in its authors' experiments.
    """
    first, second = critic_values("values1", values1), critic_values("values2", values2)
    same_kind("values1", first, "values2", second)
    if len(first) != len(second):
        raise ValueError(
            f"values1 has shape {shape(values1)} but values2 has shape {shape(values2)}: both are values on the same "
            "batch, run the critic twice on it"
        )
    h1, h2 = (
        real_tensor(name, h, what="the features of a critic")
        for name, h in (("features1", features1), ("features2", features2))
    )
    if h1.shape != h2.shape or h1.ndim < 2 or len(h1) != len(first) or h1.numel() == 0:
        raise ValueError(
            f"features1 has shape {shape(h1)} and features2 has shape {shape(h2)}, but both must be "
            f"({len(first)}, ...) with at least one feature: the second-to-last layer in two passes over one batch"
        )
    same_kind("features1", h1, "features2", h2)
    for name, number in (("weight", weight), ("feature_weight", feature_weight), ("margin", margin)):
        if not 0 <= check.number(name, number) < math.inf:
            raise ValueError(f"{name} is {number}, but it must be finite and at least 0")
    dtype = compute_dtype(h1.dtype)
    far = (h1.to(dtype) - h2.to(dtype)).flatten(1).square().mean(1)
    change = (first - second).square() + feature_weight * far
    return torch.relu(weight * change - margin).mean()


def pairwise_penalty(f_x: Tensor, f_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How much a critic falls from x to y beyond their distance, over all pairs:

        mean_ij relu(f(x_i) - f(y_j) - |x_i - y_j|)^2

    Choose it where a gradient of a gradient is too dear or does not exist: it needs values only, and it is exactly the
    constraint that the dual of W_1 needs on the two batches. It certifies nothing: the critic may be
    steep between the samples, and fresh samples will tell.

    Args:
        f_x: (n,) or (n, 1), the critic's values on x.
        f_y: (m,) or (m, 1), its values on y.
        x: (n, ...), data.
        y: (m, ...), what the generator made.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, NaN or infinity in x or y, an empty batch.

    >>> pairwise_penalty(torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    tensor(9.)

    Source: Petzka, Fischer, Lukovnikov, "On the regularization of Wasserstein GANs", ICLR 2018.
    """
    x, y = two_batches(x, y)
    f, h = critic_values("f_x", f_x, x), critic_values("f_y", f_y, y)
    return torch.relu(f[:, None] - h - distances(x, y)).square().mean()


@torch.no_grad()
def clip_parameters_(module: nn.Module, c: float) -> None:
    """Clip every parameter of a critic to [-c, c], in place, after each of its steps.

        w <- min(max(w, -c), c)

    Choose it to reproduce the first Wasserstein GAN (c = 0.01). Not otherwise: the critic becomes Lipschitz with a
    constant that nobody asked for, gradients vanish or explode with depth, and normalisations undo it.

    Args:
        module: the critic.
        c: the largest absolute value that a weight may have.

    Raises:
        ValueError: c is not positive and finite, or the module is none or has no parameters.

    >>> critic = nn.Linear(3, 1)
    >>> clip_parameters_(critic, 0.01)
    >>> bool(critic.weight.abs().max() <= 0.01)
    True

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, algorithm 1.
    """
    c = check.positive("c", c)
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}, but clipping needs a torch.nn.Module: pass the critic")
    weights = [p for p in module.parameters() if p.is_floating_point()]
    if not weights:
        raise ValueError(f"module ({type(module).__name__}) has no parameters to clip: pass the critic")
    for weight in weights:
        weight.clamp_(-c, c)
