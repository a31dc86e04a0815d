"""Transposed orthogonal convolutions against their adjoints and torch's layers.

What all orthogonal convolutions share is tested with :mod:`test_nn_orthogonal_convolution`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from barrow.nn import lipschitz_bound
from barrow.nn.orthogonal_transposed import OrthogonalConvTranspose1d, OrthogonalConvTranspose2d
from test_nn_orthogonal_convolution import F64, FORWARD, PLAIN, check_spectrum, drawn, matrix

ADJOINT: dict[int, Any] = {1: OrthogonalConvTranspose1d, 2: OrthogonalConvTranspose2d}


@pytest.mark.parametrize("axes", [1, 2])
def test_transposed_is_the_adjoint(axes: int) -> None:
    for seed in range(25):
        torch.manual_seed(seed)
        c_in, c_out, k, s, d, groups = drawn(axes, seed, 2)
        padding = tuple(min(1, e * (n - 1) // 2) for n, e in zip(k, d, strict=True))
        layer = FORWARD[axes](c_in, c_out, k, s, padding, d, groups, bias=False, dtype=F64)
        back = ADJOINT[axes](c_out, c_in, k, s, padding, 0, groups, False, d, dtype=F64)
        back.load_state_dict(layer.state_dict())
        assert torch.equal(back.weight, layer.weight)
        x = torch.randn(2, c_in, *(e * (n - 1) + 4 for n, e in zip(k, d, strict=True)), dtype=F64)
        y = layer(x)
        z = torch.randn_like(y)
        adjoint = back(z, output_size=x.shape[2:])
        assert adjoint.shape == x.shape
        assert math.isclose((y * z).sum().item(), (x * adjoint).sum().item(), rel_tol=1e-10, abs_tol=1e-10)
        assert lipschitz_bound(back) <= 1 + 1e-7


def test_transposed_preserves_norms_on_every_size() -> None:
    for a, b, k, s, d, groups in [
        (4, 1, 3, 2, 1, 1),
        (8, 6, 4, 2, 1, 2),
        (5, 5, 3, 1, 2, 1),
        (3, 2, (3, 2), (2, 3), 1, 1),
    ]:
        layer = OrthogonalConvTranspose2d(a, b, k, s, groups=groups, dilation=d, bias=False, dtype=F64)
        for size in ((1, 1), (3, 2)):
            M = matrix(layer, a, size)
            check_spectrum(M, len(M), 1e-11)


@pytest.mark.parametrize("axes", [1, 2])
def test_transposed_forward_is_torch_s(axes: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, *(5, 4)[:axes])
    for extra in (
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 3, "groups": 2, "bias": False},
        {"dilation": 3, "output_padding": 2, "kernel_size": (2, 4)[:axes]},
    ):
        arguments: dict[str, Any] = {"kernel_size": 3} | extra
        layer = ADJOINT[axes](6, 4, **arguments)
        plain = layer.to_conv()
        assert type(plain) is PLAIN[type(layer)]
        y = layer(x)
        assert torch.equal(y, plain(x))
        assert repr(layer) == "Orthogonal" + repr(type(plain)(6, 4, **arguments))
        room = max(plain.stride[0], plain.dilation[0])
        least = [n - p for n, p in zip(y.shape[2:], plain.output_padding, strict=True)]
        for more in range(room):
            size = [n + more for n in least]
            assert layer(x, size).shape[2:] == tuple(size)
            if more < plain.stride[0]:  # torch allows as much as the dilation for output_padding, but not here
                assert torch.equal(layer(x, size), plain(x, size))
                assert torch.equal(layer(x[0], size), plain(x[0], size))
        with pytest.raises(ValueError, match=r"output_size is .*sizes from"):
            layer(x, [n + room for n in least])
        with pytest.raises(ValueError, match=r"output_size is .*sizes from"):
            layer(x, [3] * (axes - 1))


def test_bad_arguments_of_transposed_layers() -> None:
    with pytest.raises(ValueError, match="output_padding must be smaller"):
        OrthogonalConvTranspose2d(2, 2, 3, 2, 0, 2)
    with pytest.raises(ValueError, match="must be zeros, got 'circular'"):
        OrthogonalConvTranspose2d(2, 2, 3, padding_mode="circular")
