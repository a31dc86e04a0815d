"""Pairs in order: values and gradients against a sort, ties, NaN, transforms, compilers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from barrow.ops.pair_sort import pair_sort


def by_sorting(first: Tensor, second: Tensor, dim: int) -> Tensor:
    return torch.stack((first, second), dim).sort(dim).values


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64), torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own forward mode
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4, 5)])
def test_values_and_derivatives(shape: tuple[int, ...]) -> None:
    first, second = pair(*shape)
    for dim in range(len(shape) + 1):
        assert torch.equal(pair_sort(first, second, dim), by_sorting(first, second, dim))
        x, y = first.clone().requires_grad_(), second.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, y, dim=dim: pair_sort(x, y, dim), (x, y), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda x, y, dim=dim: pair_sort(x, y, dim) ** 3, (x, y))


def test_a_tie_goes_straight_on_and_nan_spreads() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    pair_sort(x, y, 1)[:, 0].sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.tolist() == [1, 1]
    assert y.grad.tolist() == [0, 0]
    assert pair_sort(torch.tensor([torch.nan]), torch.ones(1), 1).isnan().all()


def test_transforms_and_compilers() -> None:
    first, second = pair(3, 4)
    assert torch.equal(torch.vmap(lambda x, y: pair_sort(x, y, 1))(first, second), by_sorting(first, second, 2))
    slopes = torch.func.grad(lambda x: pair_sort(x, second, 2)[..., 0].sum())(first)
    assert torch.equal(slopes, (first <= second).double())
    rows = torch.func.jacrev(lambda x: pair_sort(x, second, 2).sum((0, 1)))(first)
    assert torch.equal(rows[0], slopes)
    compiled = torch.compile(lambda x, y: pair_sort(x, y, 1), fullgraph=True, backend="aot_eager")
    x = first.clone().requires_grad_()
    compiled(x, second).pow(2).sum().backward()
    assert torch.allclose(x.grad, 2 * first)
