"""A container that takes 1-Lipschitz layers only."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from barrow.nn.lipschitz import layer_bound, register, sequential

__all__ = ["LipschitzSequential"]

# What a bound proved in floating point may exceed 1 by; half precision rounds weights by more.
_SLACK = 1e-4


class LipschitzSequential(nn.Sequential):
    """Layers in a row, each of them 1-Lipschitz when it is put in: a :class:`torch.nn.Sequential` that refuses.

        |f(x) - f(y)| <= |x - y|,   f = f_k o ... o f_1,   each f_i with a proved bound of at most 1 + 1e-4

    Choose it to hear of a layer without a bound when the network is written rather than when it is certified. A layer
    of :mod:`barrow.nn` keeps its bound whatever training does to it; one of torch's own, such as a linear layer of
    small norm, keeps it until it is trained, so :func:`lipschitz_bound` has the last word.

    Args:
        layers: modules, or one OrderedDict of them, as for :class:`torch.nn.Sequential`.

    Raises:
        ValueError: a layer has no bound (BatchNorm, attention, Dropout in training, unknown types) or one above 1; it
            is named, with what to use instead. append, insert, extend and item assignment refuse too.

    >>> from barrow.nn import GroupSort, OrthogonalLinear
    >>> model = LipschitzSequential(OrthogonalLinear(4, 8), GroupSort(2), OrthogonalLinear(8, 2))
    >>> model.append(nn.BatchNorm1d(2))
    Traceback (most recent call last):
    ValueError: layer '3' (BatchNorm1d) has no Lipschitz bound: ...

    Source: Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019, section 3.
    """

    def __init__(self, *layers: nn.Module | OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], OrderedDict) else None
        for name, layer in named.items() if named is not None else enumerate(layers):
            self.add_module(str(name), layer)  # type: ignore[arg-type]

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Take a layer, or refuse it."""
        if module is not None:
            _check(module, name)
        super().add_module(name, module)

    def insert(self, index: int, module: nn.Module) -> LipschitzSequential:
        """Put a layer in front of another, or refuse it."""
        _check(module, str(index))
        super().insert(index, module)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        # Item assignment ends here.
        if isinstance(value, nn.Module):
            _check(value, name)
        super().__setattr__(name, value)


def _check(module: nn.Module, name: str) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"layer {name!r} is a {type(module).__name__}, but layers are torch.nn.Module")
    bound = layer_bound(module, name)
    if bound > 1 + _SLACK:
        raise ValueError(
            f"layer {name!r} ({type(module).__name__}) has the Lipschitz bound {bound:.6g}, but at most 1 is needed: "
            "use OrthogonalLinear, OrthogonalConv2d, ..., or nn.Sequential and lipschitz_bound for the product"
        )


register(LipschitzSequential)(sequential)
