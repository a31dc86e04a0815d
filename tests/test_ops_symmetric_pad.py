"""Mirror images at the borders: as numpy has them, differentiable, refused beyond the image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from barrow.ops.symmetric_pad import symmetric_pad


@pytest.mark.parametrize("n", [1, 2, 5])
def test_as_numpy(n: int) -> None:
    x = torch.randn(2, 3, n, n + 1, generator=torch.Generator().manual_seed(n))
    for before, after in itertools.product(range(n + 1), repeat=2):
        pads = [(before, after), (after, before)]
        known = np.pad(x.numpy(), [(0, 0), (0, 0), *pads], mode="symmetric")
        assert torch.equal(symmetric_pad(x, pads), torch.from_numpy(known))


def test_by_one_pixel_it_replicates() -> None:
    x = torch.randn(1, 2, 4, 5)
    assert torch.equal(symmetric_pad(x, [(1, 1), (1, 1)]), torch.nn.functional.pad(x, (1, 1, 1, 1), "replicate"))


def test_gradients_add_up_over_copies() -> None:
    x = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: symmetric_pad(t, [(3, 2)]), x)
    symmetric_pad(x, [(3, 2)]).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 2.0, 3.0, 2.0]]


@pytest.mark.parametrize("pad", [(3, 0), (0, 3), (-1, 0)])
def test_refusals(pad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"does not fit axis 1 of an input of shape \(4, 2\): pad by 0 to 2 pixels"):
        symmetric_pad(torch.zeros(4, 2), [pad])
    with pytest.raises(ValueError, match=r"the last 2 axes, but the input has shape \(4,\)"):
        symmetric_pad(torch.zeros(4), [(0, 0), pad])
