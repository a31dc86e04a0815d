"""Coefficients that layers declare, their product over a network, and copies made of plain layers."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from barrow.nn.derived import DerivedWeight
from barrow.nn.export import Copier, fold, rule_of, to_plain

__all__ = ["LipschitzModule", "ScaledLipschitzModule", "SharedLipFactory", "vanilla_model"]

# What an orthogonal factor is always within; a tighter request cannot be honoured.
_ACCURACY = 1e-5


def coefficient(k_coef_lip: float) -> float:
    """Accept a positive finite coefficient and refuse the rest."""
    k = float(k_coef_lip)
    if not (math.isfinite(k) and k > 0):
        raise ValueError(f"k_coef_lip must be positive and finite, got {k_coef_lip}")
    return k


def vanilla_model(model: nn.Module, in_place: bool = True, new_module: None = None) -> nn.Module:
    """Make a network of plain torch layers, whose weights are plain parameters: :func:`barrow.nn.to_plain`.

    Args:
        model: any module.
        in_place: replace the layers inside the model, which is returned; the modules that need no replacement stay the
            same objects. False returns a copy in eval mode and, unlike torchlip, leaves the model's mode alone.
        new_module: None; torchlip's own recursion uses it.

    Raises:
        ValueError: as :func:`barrow.nn.to_plain`; new_module is given; or the model is itself a layer to be replaced,
            which cannot be done in place.

    >>> from barrow.compat.torchlip import GroupSort2, Sequential, SpectralLinear
    >>> vanilla_model(nn.Sequential(Sequential(SpectralLinear(4, 4), GroupSort2())))[0][0]
    Linear(in_features=4, out_features=4, bias=True)
    """
    if new_module is not None:
        raise ValueError("new_module belongs to torchlip's own recursion: leave it out")
    if not in_place:
        return to_plain(model).eval()
    if isinstance(model, DerivedWeight):
        raise ValueError(
            f"a {type(model).__name__} cannot become another layer in place: use in_place=False or vanilla_export()"
        )
    _replace(model, Copier(model), "")
    return model


def _replace(module: nn.Module, copier: Copier, path: str) -> None:
    for name, child in module._modules.items():
        if child is None:
            continue
        place = f"{path}.{name}" if path else name
        if rule_of(child) is not None or isinstance(child, DerivedWeight):
            module._modules[name] = copier.of(child, place)
            continue
        if parametrize.is_parametrized(child):
            fold(child)
        _replace(child, copier, place)


class SharedLipFactory:
    """The product of the coefficients of the layers that were registered, for a sequential network.

    >>> factory = SharedLipFactory()
    >>> factory.get_current_product_value(training=False)
    tensor(1.)
    """

    def __init__(self) -> None:
        self.modules: list[ScaledLipschitzModule] = []

    def register(self, module: ScaledLipschitzModule) -> None:
        """Count one more layer."""
        self.modules.append(module)

    def get_current_product_value(self, training: bool) -> Tensor:
        """The product of all coefficients, those of the last training batch or those of eval mode."""
        if not self.modules:
            return torch.ones(())
        return torch.stack([torch.as_tensor(m.get_scaling_factor(training)).reshape(()) for m in self.modules]).prod()


class ScaledLipschitzModule(abc.ABC):
    """A layer that declares its Lipschitz coefficient, to itself and to a :class:`SharedLipFactory`.

    To be inherited beside :class:`torch.nn.Module`. It proves nothing: that is what :func:`barrow.nn.lipschitz_bound`
    does.

    Args:
        scaling: the layer has a coefficient other than 1.
        factory: where the coefficient joins a product.

    Raises:
        ValueError: a factory without scaling.
    """

    def __init__(self, scaling: bool = False, factory: SharedLipFactory | None = None) -> None:
        if factory is not None and not scaling:
            raise ValueError("a factory multiplies coefficients, but scaling=False has none: leave factory out")
        self.scaling = bool(scaling)
        self.factory = factory
        if factory is not None:
            factory.register(self)

    def get_scaling_factor(self, training: bool = False) -> Tensor:
        """The coefficient, 1 without scaling."""
        return torch.as_tensor(self.get_scaling(training)) if self.scaling else torch.ones(())

    @abc.abstractmethod
    def get_scaling(self, training: bool = False) -> Any:
        """The coefficient, of the last training batch or of eval mode."""

    @abc.abstractmethod
    def vanilla_export(self) -> nn.Module:
        """The layer as a plain torch layer."""


class LipschitzModule(ScaledLipschitzModule):
    """A layer with a fixed coefficient, 1 unless given.

    Args:
        coefficient_lip: what :meth:`apply_lipschitz_factor` multiplies the weight by.
        factory: where the coefficient joins a product.

    Raises:
        ValueError: coefficient_lip is not positive and finite.
    """

    def __init__(self, coefficient_lip: float = 1.0, factory: SharedLipFactory | None = None) -> None:
        self._coefficient_lip = coefficient(coefficient_lip)
        super().__init__(self._coefficient_lip != 1 or factory is not None, factory)

    def apply_lipschitz_factor(self) -> None:
        """Multiply the parameter `weight` by the coefficient, by a parametrization."""
        if self._coefficient_lip == 1:
            return
        if not isinstance(self, nn.Module):
            raise ValueError(f"{type(self).__name__} has no weight: inherit from a layer of torch.nn beside it")
        parametrize.register_parametrization(self, "weight", _Factor(self._coefficient_lip))

    def get_scaling(self, training: bool = False) -> Any:
        """The coefficient."""
        return self._coefficient_lip


class _Factor(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


def check_tolerances(eps_spectral: float, eps_bjorck: float | None) -> None:
    """Accept tolerances that are always met, and refuse the rest."""
    if eps_bjorck is None:
        raise ValueError(
            "eps_bjorck=None (a weight of norm 1 that is not orthogonal) does not exist here: leave it out, "
            "orthogonal weights also have norm 1"
        )
    for name, eps in (("eps_spectral", eps_spectral), ("eps_bjorck", eps_bjorck)):
        if not eps >= _ACCURACY:
            raise ValueError(f"{name} = {eps} cannot be met: weights are accurate to {_ACCURACY}; leave it out")


class WithCoefficient(LipschitzModule):
    """What torchlip's layers share: a coefficient `k_coef_lip`, and a plain form."""

    k_coef_lip: float
    factory = None

    @property
    def scaling(self) -> bool:  # type: ignore[override]
        return self.k_coef_lip != 1

    @property
    def _coefficient_lip(self) -> float:  # type: ignore[override]
        return self.k_coef_lip

    def vanilla_export(self) -> nn.Module:
        """A plain copy: :func:`barrow.nn.to_plain`, a copy of itself where torch has no such layer."""
        assert isinstance(self, nn.Module)
        return to_plain(self)
