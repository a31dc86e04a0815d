"""Copies of networks made of plain torch layers."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from barrow.nn.activations import LipschitzPReLU
from barrow.nn.critic import Critic
from barrow.nn.derived import DerivedWeight
from barrow.nn.linear import OrthogonalLinear, UnitLinear
from barrow.nn.lipschitz import register
from barrow.nn.reshape import InvertibleDownSampling, InvertibleUpSampling

__all__ = ["Scale", "register_export", "to_plain"]

_Rule = Callable[[Any], nn.Module]
_R = TypeVar("_R", bound=_Rule)
_rules: dict[type[nn.Module], _Rule] = {}


def to_plain(model: nn.Module) -> nn.Module:
    """A copy of a network in which every weight is a plain parameter of a plain torch layer.

    The outputs are equal to the last bit on the CPU, in the mode (training or eval) that each layer is in. Choose it
    to deploy a network, to send it through compilers and exporters, or to hand it to code that looks for
    :class:`torch.nn.Linear`. Not before further training: nothing holds the plain weights to their constraint, and a
    certificate must be computed anew (:func:`barrow.nn.lipschitz_bound` knows every layer of the copy).

    Works on whatever tree of modules, also those it does not know, whose children it replaces; a layer that occurs
    twice is one layer in the copy. What becomes of the layers:

    * OrthogonalLinear and UnitLinear become Linear; a :class:`barrow.nn.Critic` becomes a Sequential of Flatten, its
      layers under the name `layers`, and Flatten(0), which takes (batch, ...) of two dimensions or more.
    * LipschitzPReLU becomes PReLU, square InvertibleDownSampling and InvertibleUpSampling become PixelUnshuffle and
      PixelShuffle.
    * Parametrizations of torch (`torch.nn.utils.parametrize`) are removed, the weight of eval mode stays.
    * What plain torch has no layer for stays as it is: sorts (GroupSort, FullSort, MaxMin), Abs and Householder, scaled
      poolings, InvertibleDownSampling of other windows, residuals, centerings, McShaneCritic. They hold no weight that
      is derived from another one, and need barrow when the copy is unpickled. So does :class:`Scale`, which stands for
      a coefficient after a container.

    `training` and `requires_grad` are those of the original. The copy's state_dict has `weight` where the original's
    has raw parameters.

    Args:
        model: any module; it is not changed.

    Returns:
        The copy.

    Raises:
        ValueError: a layer derives its weight and has no plain form, or has a forward hook, which would be lost.

    >>> from barrow.nn import GroupSort
    >>> to_plain(nn.Sequential(OrthogonalLinear(4, 8), GroupSort(2), UnitLinear(8, 1)))
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): GroupSort(2)
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"to_plain needs a torch.nn.Module, got {type(model).__name__}")
    return Copier(model).of(model, "")


def register_export(*types: type[nn.Module]) -> Callable[[_R], _R]:
    """Teach :func:`to_plain` about module types: decorate a function module -> plain module, or call it with a method.

    The function must return a new module with the same outputs to the last bit. It may put children of the module into
    it, which are converted afterwards. It serves the types themselves and their subclasses that keep `forward`;
    `training` and `requires_grad` are set afterwards.

    >>> class Doubled(OrthogonalLinear):
    ...     def forward(self, x):
    ...         return super().forward(x) * 2
    >>> @register_export(Doubled)
    ... def doubled(module):
    ...     return nn.Sequential(module.to_linear(), Scale(2.0))
    >>> to_plain(Doubled(2, 2))[1]
    Scale(2.0)
    """

    def keep(rule: _R) -> _R:
        for kind in types:
            _rules[kind] = rule
        return rule

    return keep


class Scale(nn.Module):
    """Multiply by a constant: what stands in a plain copy for the coefficient of a container.

        y = factor x

    Choose it to change the Lipschitz constant of a Sequential. Not for a factor that is learned.

    Args:
        factor: a finite number.

    Raises:
        ValueError: factor is not finite.

    >>> import torch
    >>> Scale(3.0)(torch.ones(2)).tolist()
    [3.0, 3.0]
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = float(factor)
        if not math.isfinite(self.factor):
            raise ValueError(f"factor must be finite, got {factor}")

    def forward(self, x: Tensor) -> Tensor:
        """Multiply; the output has the shape of the input."""
        return x * self.factor

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed layer."""
        return f"{self.factor}"


@register(Scale)
def _scale(module: Scale, path: str) -> float:
    return abs(module.factor)


def rule_of(module: nn.Module) -> _Rule | None:
    """How a module becomes plain, None where it is not known; a subclass keeps its parent's as long as `forward`."""
    kind = type(module)
    return next((_rules[k] for k in kind.__mro__ if k in _rules and kind.forward is k.forward), None)


class Copier:
    """One conversion: what was converted already, so that shared layers stay shared."""

    def __init__(self, model: nn.Module) -> None:
        self.originals = {id(module) for module in model.modules()}
        self.done: dict[int, Any] = {}  # the memo of deepcopy

    def of(self, module: nn.Module, path: str) -> nn.Module:
        """The copy of a module of the network, always the same; `path` names it in errors."""
        if id(module) not in self.done:
            self.done[id(module)] = self._made(module, path)
        made: nn.Module = self.done[id(module)]
        return made

    def _made(self, module: nn.Module, path: str) -> nn.Module:
        rule = rule_of(module)
        if rule is not None:
            self._refuse_changed(module, path)
            plain = rule(module)
            if plain is not module:
                self._adopt(plain, module, path)
                return plain
        elif isinstance(module, DerivedWeight):
            raise ValueError(
                f"{_place(module, path)} has no plain form: its type derives a weight and is not known; teach it with "
                "barrow.nn.export.register_export"
            )
        for name, child in module._modules.items():
            if child is not None:
                self.of(child, _join(path, name))
        twin = copy.deepcopy(module, self.done)
        if is_parametrized(twin):
            fold(twin)
        return twin

    def _adopt(self, plain: nn.Module, source: nn.Module, path: str) -> None:
        """Convert the children that a rule has taken over, and give what it has made the flags of its source."""
        plain.training = source.training
        raw = [p.requires_grad for name, p in source.named_parameters() if name.rpartition(".")[2] != "bias"]
        for name, parameter in plain._parameters.items():
            if parameter is not None:
                twin = source._parameters.get(name)
                parameter.requires_grad_(any(raw) if twin is None else twin.requires_grad)
        for name, child in plain._modules.items():
            if child is None:
                continue
            if id(child) in self.originals:
                plain._modules[name] = self.of(child, _join(path, name))
            else:
                self._adopt(child, source, path)

    def _refuse_changed(self, module: nn.Module, path: str) -> None:
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(f"{_place(module, path)} has a forward hook, which its plain form would lose: remove it")
        if "forward" in vars(module):
            raise ValueError(
                f"{_place(module, path)} had its forward replaced on the instance: make it a class and teach it with "
                "barrow.nn.export.register_export"
            )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _place(module: nn.Module, path: str) -> str:
    return f"layer {path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"


def fold(module: Any) -> None:
    """Make plain tensors of parametrized ones, of their values in eval mode, in which reading one changes nothing."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    with torch.no_grad():
        values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    for part, mode in modes.items():
        part.training = mode
    rows = module._modules.pop("parametrizations")
    # torch's own removal would take the properties from a class that copies of the module share.
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        raw = list(rows[name].parameters(recurse=False))
        if raw:
            module.register_parameter(name, nn.Parameter(value, any(p.requires_grad for p in raw)))
        else:
            module.register_buffer(name, value)


# Each layer knows its plain form; a new one joins by a line like this.
register_export(OrthogonalLinear)(OrthogonalLinear.to_linear)
register_export(UnitLinear)(UnitLinear.to_linear)


@register_export(Critic)
def _critic(module: Critic) -> nn.Module:
    parts = OrderedDict(flatten=nn.Flatten(), layers=module.layers, squeeze=nn.Flatten(0))
    return nn.Sequential(parts)


@register_export(LipschitzPReLU)
def _prelu(module: LipschitzPReLU) -> nn.Module:
    plain = nn.PReLU(module.num_parameters, device="meta")
    plain.weight = nn.Parameter(module.weight.detach().clone())
    return plain


@register_export(InvertibleDownSampling, InvertibleUpSampling)
def _shuffle(module: InvertibleDownSampling | InvertibleUpSampling) -> nn.Module:
    k, l = module.kernel_size
    if k != l:
        return module
    return nn.PixelUnshuffle(k) if isinstance(module, InvertibleDownSampling) else nn.PixelShuffle(k)
