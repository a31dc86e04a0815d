"""What a network does to some inputs: Lipschitz constants from below, which certify nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barrow.check import positive, real_tensor, shape, whole

__all__ = ["evaluate_lip_const"]

_OPTIONS = {
    "jacobian_norm": (),
    "noise_norm": ("num_noisy_samples", "epsilon_noise", "generator"),
    "attack": ("num_iterations", "step_size", "double_attack", "generator"),
}


def evaluate_lip_const(
    model: nn.Module,
    x: Tensor | None = None,
    evaluation_type: str | Sequence[str] = "jacobian_norm",
    disjoint_neurons: bool = False,
    input_shape: Iterable[int] | None = None,
    expected_value: float | None = None,
    **kwargs: Any,
) -> float:
    """The steepest that a network was seen to be near some inputs, a *lower* bound of its Lipschitz constant:

        jacobian_norm  max_i |J(x_i)|_2        noise_norm, attack  max_i |f(x_i + d) - f(x_i)| / |d|

    Choose it to see how much of a certificate is used, or to prove that a network is *not* 1-Lipschitz. It says nothing
    about other inputs: the upper bound is :func:`barrow.nn.lipschitz_bound`. The Jacobian is the bound that it claims
    to be where the model is differentiable. The model is evaluated in eval mode, to which it need not be set, and
    nothing is printed.

    Args:
        model: the network; samples, dimension 0, must not mix.
        x: (batch, ...), the inputs.
        evaluation_type: one of the three, several, or "all": the largest counts.
        disjoint_neurons: the steepest single output number instead of the whole output.
        input_shape: without x, the shape (batch, ...) of standard normal inputs that are drawn.
        expected_value: raise AssertionError where it is exceeded.
        kwargs: for the noise `num_noisy_samples` = 10 draws a sample of standard deviation up to `epsilon_noise` = 1;
            for the attack `num_iterations` = 100 steps of `step_size` = 0.01 along the sign of the gradient, and
            `double_attack`, a second one where the first ended; `generator`, the source of randomness of both.

    Returns:
        The number; NaN where the model returns NaN.

    Raises:
        ValueError: neither x nor input_shape, or both; an unknown type or option; an empty batch; or the model does
            not return one floating-point output a sample.
        AssertionError: expected_value is exceeded.

    >>> layer = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> round(evaluate_lip_const(layer, torch.zeros(1, 2)), 5)
    4.0
    """
    kinds = _kinds(evaluation_type)
    known = {option for kind in kinds for option in _OPTIONS[kind]}
    for option in kwargs:
        if option not in known:
            allowed = f"one of {', '.join(sorted(known))}" if known else "none"
            raise ValueError(f"{option} is no option of {', '.join(kinds)}: {allowed} is allowed")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    generator = kwargs.pop("generator", None)
    if (x is None) == (input_shape is None):
        raise ValueError("give x, or input_shape for random inputs, and not both")
    if x is None:
        assert input_shape is not None
        x = _normal(tuple(input_shape), like.dtype, like.device, generator)
    x = real_tensor("x", x, what="inputs").detach().to(like.device)
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"x has shape {shape(x)}, but inputs have shape (batch, ...) with at least one number")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        found = []
        for kind in kinds:
            options = {name: kwargs[name] for name in _OPTIONS[kind] if name in kwargs}
            ratios = _METHODS[kind](model, x, bool(disjoint_neurons), generator, **options)
            found.append(ratios.max().item())
    finally:
        for module, mode in modes.items():
            module.training = mode
    worst = math.nan if any(map(math.isnan, found)) else max(found)
    if expected_value is not None and not worst <= expected_value:
        raise AssertionError(f"the model is at least {worst}-Lipschitz, above the expected {expected_value}")
    return worst


def _kinds(evaluation_type: str | Sequence[str]) -> list[str]:
    if evaluation_type == "all":
        return list(_OPTIONS)
    kinds = [evaluation_type] if isinstance(evaluation_type, str) else list(evaluation_type)
    for kind in kinds:
        if kind not in _OPTIONS:
            raise ValueError(f"evaluation_type is {kind!r}, but it must be 'all' or among {', '.join(_OPTIONS)}")
    if not kinds:
        raise ValueError(f"evaluation_type is empty: choose among {', '.join(_OPTIONS)}")
    return kinds


def _normal(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    where = device if generator is None else generator.device
    return torch.randn(size, dtype=dtype, device=where, generator=generator).to(device)


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    f = model(x)
    if not isinstance(f, Tensor) or not f.is_floating_point() or f.ndim == 0 or len(f) != len(x):
        got = shape(f) if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(
            f"the model maps {shape(x)} to {got}, but floating-point outputs of {len(x)} samples are needed"
        )
    return f.reshape(len(x), -1)


def _jacobian(model: nn.Module, x: Tensor, disjoint: bool, generator: torch.Generator | None) -> Tensor:
    """One backward pass an output, for all samples together: they do not mix."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        f = _outputs(model, x)
        if not f.requires_grad:
            return f.new_zeros(len(x))
        rows = [torch.autograd.grad(f[:, j].sum(), x, retain_graph=True)[0] for j in range(f.shape[1])]
    J = torch.stack([row.reshape(len(x), -1) for row in rows], 1)
    if disjoint:
        norms: Tensor = torch.linalg.vector_norm(J, dim=2).amax(1)
    else:
        norms = torch.linalg.matrix_norm(J.double() if J.device.type != "mps" else J, 2)
    return norms


def _ratio(f: Tensor, g: Tensor, delta: Tensor, disjoint: bool) -> Tensor:
    moved = (f - g).abs().amax(1) if disjoint else torch.linalg.vector_norm(f - g, dim=1)
    length = torch.linalg.vector_norm(delta.reshape(len(delta), -1), dim=1)
    return torch.where(length > 0, moved / torch.where(length > 0, length, 1), 0 * moved)


def _noise(
    model: nn.Module,
    x: Tensor,
    disjoint: bool,
    generator: torch.Generator | None,
    num_noisy_samples: int = 10,
    epsilon_noise: float = 1.0,
) -> Tensor:
    positive("epsilon_noise", epsilon_noise)
    with torch.no_grad():
        f = _outputs(model, x)
        ratios = []
        for _ in range(whole("num_noisy_samples", num_noisy_samples)):
            noisy = x + epsilon_noise * _start(x, generator)
            # The difference as it is after rounding, or noise of far-away inputs would count wrongly.
            ratios.append(_ratio(_outputs(model, noisy), f, noisy - x, disjoint))
    return torch.stack(ratios).amax(0)


def _start(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise of a random size up to one."""
    where = x.device if generator is None else generator.device
    size = torch.rand((), dtype=x.dtype, device=where, generator=generator).to(x.device)
    return _normal(tuple(x.shape), x.dtype, x.device, generator) * size


def _attack(
    model: nn.Module,
    x: Tensor,
    disjoint: bool,
    generator: torch.Generator | None,
    num_iterations: int = 100,
    step_size: float = 1e-2,
    double_attack: bool = False,
) -> Tensor:
    positive("step_size", step_size)
    steps, best = whole("num_iterations", num_iterations), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for _ in range(2 if double_attack else 1):
        with torch.no_grad():
            f = _outputs(model, x)
        noisy = x + _start(x, generator)
        for step in range(steps + 1):
            with torch.enable_grad():
                noisy = noisy.detach().requires_grad_()
                ratio = _ratio(_outputs(model, noisy), f, noisy - x, disjoint)
            best = torch.maximum(best, ratio.detach())
            if step < steps and ratio.requires_grad:
                (slope,) = torch.autograd.grad(ratio.sum(), noisy)
                noisy = noisy + step_size * slope.sign()
        x = noisy.detach()
    return best


_METHODS: dict[str, Callable[..., Tensor]] = {"jacobian_norm": _jacobian, "noise_norm": _noise, "attack": _attack}
