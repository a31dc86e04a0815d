"""The kernel of entropic transport, exp((u_i + v_j - C_ij) / epsilon), in the C++ core: never stored, on the CPU.

Points may be stored in float32 or float64; everything else is float64, and is computed in it unless said otherwise.
Matrices may hold +inf. epsilon > 0 is a number, or one a problem.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from barrow import _core
from barrow.ops.pairs import one_batch, threads_for


def soft_c_transform(
    x: Tensor,
    y: Tensor,
    h: Tensor,
    epsilon: Tensor | float,
    p: float,
    norm: float,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """-epsilon log sum_j exp((h_j - |x_i - y_j|_norm^p) / epsilon) for x (..., n, d), y (..., m, d): (..., n).

    h (..., m) may hold -inf. A ``precision`` of float32 is three times as fast; there costs beyond 45,000 epsilon are
    computed in float64 all the same, and powers other than 1 and 2 of the distance are good to five digits only.

    >>> f = soft_c_transform(torch.zeros(1, 2), torch.zeros(2, 2), torch.zeros(2).double(), 1.0, 2, 2)
    >>> float(f.exp())
    0.5
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], h.shape[:-1], _shape(epsilon))
    f = np.empty((math.prod(batch), x.shape[-2]))
    if f.size:
        work = f.size * y.shape[-2] * x.shape[-1]
        clouds = _array(one_batch(x, batch)), _array(one_batch(y, batch))
        single = precision == torch.float32
        _core.soft_c_transform(
            *clouds, _vectors(h, batch), _epsilons(epsilon, batch), p, norm, single, threads_for(work), f
        )
    return torch.from_numpy(f).view(*batch, x.shape[-2])


def gibbs_pass(
    x: Tensor,
    y: Tensor,
    h: Tensor,
    epsilon: Tensor | float,
    p: float,
    norm: float,
    a: Tensor | None = None,
    u: Tensor | None = None,
    power: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Half a step of Sinkhorn's iteration and the sums of the other half at one exponential a pair: f, w, q.

    f (..., n) is the soft c-transform of h: the rows of K_ij = exp((f_i + h_j - C_ij) / epsilon) sum to one. w_i is
    the smaller of those given of a_i and exp((u_i - power f_i) / epsilon), 1 if none is; q = K' w (..., m). A row
    that sees no column has f = inf and w = 0.

    >>> w = torch.tensor([0.25, 0.75]).double()
    >>> f, w, q = gibbs_pass(torch.zeros(2, 1), torch.zeros(4, 1), torch.zeros(4).double(), 1.0, 2, 2, w)
    >>> q
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    others = tuple(t for t in (a, u) if t is not None)
    batch = torch.broadcast_shapes(
        x.shape[:-2], y.shape[:-2], h.shape[:-1], _shape(epsilon), *(t.shape[:-1] for t in others)
    )
    size, n, m = math.prod(batch), x.shape[-2], y.shape[-2]
    f, w, q = np.empty((size, n)), np.empty((size, n)), np.empty((size, m))
    if f.size:
        work = size * n * m * x.shape[-1]
        one, two = (None if t is None else _vectors(t, batch) for t in (a, u))
        clouds = _array(one_batch(x, batch)), _array(one_batch(y, batch))
        _core.gibbs_pass(
            *clouds, _vectors(h, batch), _epsilons(epsilon, batch), p, norm, one, two, power, threads_for(work), f, w, q
        )
    return torch.from_numpy(f).view(*batch, n), torch.from_numpy(w).view(*batch, n), torch.from_numpy(q).view(*batch, m)


def gibbs_times(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, epsilon: Tensor | float, p: float, norm: float, V: Tensor
) -> Tensor:
    """P V for P_ij = exp((u_i + v_j - |x_i - y_j|_norm^p) / epsilon) and V (..., m, k): (..., n, k).

    u (..., n) and v (..., m) may hold -inf, which is no mass. Marginals are products with ones, that of the columns
    with x and y exchanged.

    >>> zero = torch.zeros(2).double()
    >>> gibbs_times(torch.zeros(2, 1), torch.zeros(2, 1), zero, zero, 1.0, 2, 2, torch.ones(2, 1).double()).flatten()
    tensor([2., 2.], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(
        x.shape[:-2], y.shape[:-2], u.shape[:-1], v.shape[:-1], _shape(epsilon), V.shape[:-2]
    )
    size, n, k = math.prod(batch), x.shape[-2], V.shape[-1]
    out = np.empty((size, n, k))
    if out.size:
        work = size * n * y.shape[-2] * (x.shape[-1] + k)
        clouds = _array(one_batch(x, batch)), _array(one_batch(y, batch))
        moved = _array(V.expand(*batch, *V.shape[-2:]).reshape(size, *V.shape[-2:]))
        _core.gibbs_times(
            *clouds,
            _vectors(u, batch),
            _vectors(v, batch),
            _epsilons(epsilon, batch),
            p,
            norm,
            moved,
            threads_for(work),
            out,
        )
    return torch.from_numpy(out).view(*batch, n, k)


def in_range(epsilon: Tensor | float) -> bool:
    """Whether the kernels bear this epsilon: its inverse, squared, must be a number."""
    if isinstance(epsilon, Tensor):
        return bool(((epsilon > 1e-150) & (epsilon < 1e150)).all())
    return 1e-150 < epsilon < 1e150


def gibbs_vjp(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, epsilon: Tensor | float, p: float, norm: float
) -> tuple[Tensor, Tensor]:
    """The gradient of sum_ij P_ij |x_i - y_j|_norm^p at fixed P in both clouds: (..., n, d), (..., m, d).

    P is that of :func:`gibbs_times`. At distance zero the gradient is zero; where several coordinates share the maximum
    of norm inf, the first has it.

    >>> zero = torch.zeros(1).double()
    >>> gibbs_vjp(torch.zeros(1, 1), torch.zeros(1, 1), zero, zero, 1.0, 1, 2)
    (tensor([[0.]], dtype=torch.float64), tensor([[0.]], dtype=torch.float64))
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], u.shape[:-1], v.shape[:-1], _shape(epsilon))
    size, n, m, d = math.prod(batch), x.shape[-2], y.shape[-2], x.shape[-1]
    gx, gy = np.empty((size, n, d)), np.empty((size, m, d))
    if gx.size:
        clouds = _array(one_batch(x, batch)), _array(one_batch(y, batch))
        threads = threads_for(size * n * m * d)
        _core.gibbs_vjp(
            *clouds, _vectors(u, batch), _vectors(v, batch), _epsilons(epsilon, batch), p, norm, threads, gx, gy
        )
    return torch.from_numpy(gx).view(*batch, n, d), torch.from_numpy(gy).view(*batch, m, d)


def matrix_soft_c_transform(
    C: Tensor, h: Tensor, epsilon: Tensor | float, precision: torch.dtype = torch.float64
) -> Tensor:
    """-epsilon log sum_j exp((h_j - C_ij) / epsilon) for C (..., n, m) and h (..., m): (..., n). Nothing is copied.

    >>> float(matrix_soft_c_transform(torch.zeros(1, 2).double(), torch.zeros(2).double(), 1.0).exp())
    0.5
    """
    batch = torch.broadcast_shapes(C.shape[:-2], h.shape[:-1], _shape(epsilon))
    size, n = math.prod(batch), C.shape[-2]
    f = np.empty((size, n))
    if f.size:
        matrix, columns = _matrices(C, batch)
        single, threads = precision == torch.float32, threads_for(f.size * C.shape[-1])
        _core.matrix_soft_c_transform(
            matrix, _vectors(h, batch), _epsilons(epsilon, batch), columns, single, threads, f
        )
    return torch.from_numpy(f).view(*batch, n)


def matrix_gibbs_pass(
    C: Tensor,
    h: Tensor,
    epsilon: Tensor | float,
    a: Tensor | None = None,
    u: Tensor | None = None,
    power: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`gibbs_pass` for a matrix of costs C (..., n, m).

    >>> _, _, q = matrix_gibbs_pass(torch.zeros(3, 2).double(), torch.zeros(2).double(), 1.0)
    >>> q
    tensor([1.5000, 1.5000], dtype=torch.float64)
    """
    others = tuple(t for t in (a, u) if t is not None)
    batch = torch.broadcast_shapes(C.shape[:-2], h.shape[:-1], _shape(epsilon), *(t.shape[:-1] for t in others))
    size, (n, m) = math.prod(batch), C.shape[-2:]
    f, w, q = np.empty((size, n)), np.empty((size, n)), np.empty((size, m))
    if f.size:
        matrix, columns = _matrices(C, batch)
        one, two = (None if t is None else _vectors(t, batch) for t in (a, u))
        threads = threads_for(size * n * m)
        _core.matrix_gibbs_pass(
            matrix, _vectors(h, batch), _epsilons(epsilon, batch), columns, one, two, power, threads, f, w, q
        )
    return torch.from_numpy(f).view(*batch, n), torch.from_numpy(w).view(*batch, n), torch.from_numpy(q).view(*batch, m)


def matrix_gibbs_times(C: Tensor, u: Tensor, v: Tensor, epsilon: Tensor | float, V: Tensor) -> Tensor:
    """P V for P_ij = exp((u_i + v_j - C_ij) / epsilon) and V (..., m, k): (..., n, k).

    >>> zero = torch.zeros(2).double()
    >>> matrix_gibbs_times(torch.zeros(2, 2).double(), zero, zero, 1.0, torch.eye(2).double())
    tensor([[1., 1.],
            [1., 1.]], dtype=torch.float64)
    """
    batch = torch.broadcast_shapes(C.shape[:-2], u.shape[:-1], v.shape[:-1], _shape(epsilon), V.shape[:-2])
    size, (n, m), k = math.prod(batch), C.shape[-2:], V.shape[-1]
    out = np.empty((size, n, k))
    if out.size:
        matrix, columns = _matrices(C, batch)
        moved = _array(V.expand(*batch, *V.shape[-2:]).reshape(size, *V.shape[-2:]))
        threads = threads_for(size * n * m * (1 + k))
        _core.matrix_gibbs_times(
            matrix, _vectors(u, batch), _vectors(v, batch), _epsilons(epsilon, batch), columns, moved, threads, out
        )
    return torch.from_numpy(out).view(*batch, n, k)


def _shape(epsilon: Tensor | float) -> torch.Size:
    return epsilon.shape if isinstance(epsilon, Tensor) else torch.Size()


def _epsilons(epsilon: Tensor | float, batch: torch.Size) -> NDArray[np.float64]:
    if isinstance(epsilon, Tensor):
        return _array(epsilon.to(torch.float64).expand(batch).reshape(math.prod(batch)))
    return np.full(math.prod(batch), float(epsilon))


def _vectors(h: Tensor, batch: torch.Size) -> NDArray[np.float64]:
    return _array(h.expand(*batch, h.shape[-1]).reshape(math.prod(batch), h.shape[-1]))


def _matrices(C: Tensor, batch: torch.Size) -> tuple[NDArray[np.float64], bool]:
    """The same matrices with one batch dimension, of size 1 where one serves all, and whether they are transposed."""
    columns = not C.is_contiguous() and C.mT.is_contiguous()
    C = C.mT if columns else C
    C = C[None] if C.dim() == 2 else C.expand(*batch, *C.shape[-2:]).reshape(math.prod(batch), *C.shape[-2:])
    return _array(C), columns


def _array(t: Tensor) -> NDArray[np.float64]:
    # Arrays of numpy are handed over faster than tensors, which small problems feel.
    return t.detach().contiguous().numpy()
