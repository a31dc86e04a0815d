"""Module forms of the named quantities: they store options and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from barrow import check, functional
from barrow.cost import Tree

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "p": check.exponent,
    "exponent": check.exponent,
    "norm": check.ground_norm,
    "epsilon": check.positive,
    "rho": check.penalties,
    "tol": check.positive,
    "max_steps": check.whole,
    "n_projections": check.whole,
    "alpha": check.information,
}


class _Stored(nn.Module):
    """Options, shown by repr and handed to a function; tensors among them are buffers, which move with the module."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.names = tuple(options)
        for name, value in options.items():
            if name in _CHECKS:
                _CHECKS[name](name, value)
            if isinstance(value, Tensor):
                self.register_buffer(name, value.detach().clone())
            else:
                setattr(self, name, value)

    @property
    def options(self) -> dict[str, Any]:
        """What the function is called with."""
        return {name: getattr(self, name) for name in self.names}

    def extra_repr(self) -> str:
        """The options as they were written, tensors as their shapes."""
        shown = ((name, tuple(v.shape) if isinstance(v, Tensor) else v) for name, v in self.options.items())
        return ", ".join(f"{name}={value}" for name, value in shown)


@final
class TransportCost(_Stored):
    """Module form of :func:`barrow.transport_cost`."""

    def __init__(self, *, p: float = 2, norm: float = 2) -> None:
        super().__init__(p=p, norm=norm)

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """See :func:`barrow.transport_cost`."""
        return functional.transport_cost(x, y, a, b, **self.options)


@final
class Wasserstein(_Stored):
    """Module form of :func:`barrow.wasserstein`."""

    def __init__(self, *, p: float = 2, norm: float = 2) -> None:
        super().__init__(p=p, norm=norm)

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """See :func:`barrow.wasserstein`."""
        return functional.wasserstein(x, y, a, b, **self.options)


@final
class SinkhornCost(_Stored):
    """Module form of :func:`barrow.sinkhorn_cost`."""

    def __init__(
        self,
        *,
        epsilon: float,
        p: float = 2,
        norm: float = 2,
        rho: float | tuple[float, float] = math.inf,
        tol: float = 1e-3,
        max_steps: int = 10_000,
    ) -> None:
        super().__init__(epsilon=epsilon, p=p, norm=norm, rho=rho, tol=tol, max_steps=max_steps)

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """See :func:`barrow.sinkhorn_cost`."""
        return functional.sinkhorn_cost(x, y, a, b, **self.options)


@final
class SinkhornDivergence(_Stored):
    """Module form of :func:`barrow.sinkhorn_divergence`."""

    def __init__(
        self,
        *,
        epsilon: float,
        p: float = 2,
        norm: float = 2,
        rho: float = math.inf,
        tol: float = 1e-3,
        max_steps: int = 10_000,
    ) -> None:
        super().__init__(epsilon=epsilon, p=p, norm=norm, rho=rho, tol=tol, max_steps=max_steps)

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """See :func:`barrow.sinkhorn_divergence`."""
        return functional.sinkhorn_divergence(x, y, a, b, **self.options)


@final
class SlicedWasserstein(_Stored):
    """Module form of :func:`barrow.sliced_wasserstein`."""

    def __init__(self, *, p: float = 2, n_projections: int = 64, generator: torch.Generator | None = None) -> None:
        super().__init__(p=p, n_projections=n_projections, generator=generator)

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """See :func:`barrow.sliced_wasserstein`."""
        return functional.sliced_wasserstein(x, y, a, b, **self.options)


@final
class Wasserstein1d(_Stored):
    """Module form of :func:`barrow.wasserstein_1d`."""

    def __init__(self, *, p: float = 2) -> None:
        super().__init__(p=p)

    def forward(self, u: Tensor, v: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """See :func:`barrow.wasserstein_1d`."""
        return functional.wasserstein_1d(u, v, a, b, **self.options)


@final
class Emd1d(_Stored):
    """Module form of :func:`barrow.emd_1d`."""

    def __init__(self, exponent: float = 1, spacing: float | Tensor = 1.0, *, normalise: bool = False) -> None:
        super().__init__(exponent=exponent, spacing=spacing, normalise=normalise)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """See :func:`barrow.emd_1d`."""
        return functional.emd_1d(h, t, **self.options)


@final
class TreeEmd(_Stored):
    """Module form of :func:`barrow.tree_emd`; the edge lengths are a buffer."""

    tree: Tree
    length: Tensor

    def __init__(self, tree: Tree, exponent: float = 1, *, normalise: bool = False) -> None:
        super().__init__(tree=tree, exponent=exponent, normalise=normalise)
        self.register_buffer("length", tree.length)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """See :func:`barrow.tree_emd`."""
        if self.tree.length is not self.length:  # the module was moved or loaded
            self.tree = Tree(self.tree.parent, self.length)
        return functional.tree_emd(h, t, **self.options)


@final
class LabelWasserstein(_Stored):
    """Module form of :func:`barrow.label_wasserstein`; the cost matrix is a buffer."""

    def __init__(
        self,
        C: Tensor,
        *,
        epsilon: float,
        rho: float | tuple[float, float] = math.inf,
        tol: float = 1e-3,
        max_steps: int = 10_000,
    ) -> None:
        super().__init__(C=C, epsilon=epsilon, rho=rho, tol=tol, max_steps=max_steps)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """See :func:`barrow.label_wasserstein`."""
        return functional.label_wasserstein(h, t, **self.options)


@final
class SinkhornTransport(_Stored):
    """Module form of :func:`barrow.sinkhorn_transport`; the cost matrix is a buffer."""

    def __init__(self, C: Tensor, *, epsilon: float, tol: float = 1e-3, max_steps: int = 10_000) -> None:
        super().__init__(C=C, epsilon=epsilon, tol=tol, max_steps=max_steps)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """See :func:`barrow.sinkhorn_transport`."""
        return functional.sinkhorn_transport(h, t, **self.options)


@final
class SinkhornBall(_Stored):
    """Module form of :func:`barrow.sinkhorn_ball`; the cost matrix is a buffer."""

    def __init__(self, C: Tensor, *, alpha: float, tol: float = 1e-3, max_steps: int = 200) -> None:
        super().__init__(C=C, alpha=alpha, tol=tol, max_steps=max_steps)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """See :func:`barrow.sinkhorn_ball`."""
        return functional.sinkhorn_ball(h, t, **self.options)
