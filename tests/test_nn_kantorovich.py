"""The Kantorovich-Rubinstein quantity."""

from __future__ import annotations

import pytest
import torch

from barrow.nn import KantorovichRubinstein, kantorovich_rubinstein


def test_value_sign_and_batches() -> None:
    f_x, f_y = torch.tensor([[2.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    assert kantorovich_rubinstein(f_x, f_y).tolist() == [2.0, -2.0]
    assert torch.equal(KantorovichRubinstein()(f_x, f_y), kantorovich_rubinstein(f_x, f_y))
    assert kantorovich_rubinstein(f_x[0], f_y[0]).shape == ()
    assert torch.equal(kantorovich_rubinstein(f_x, f_x * 0 + f_x.flip(1)), torch.zeros(2))


def test_gradient() -> None:
    f_x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    f_y = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kantorovich_rubinstein, (f_x, f_y))


@pytest.mark.parametrize(
    ("f_x", "f_y", "words"),
    [
        (torch.zeros(0), torch.zeros(3), r"f_x has shape \(0,\)"),
        (torch.zeros(3), torch.zeros(2, 0), r"f_y has shape \(2, 0\)"),
        (torch.tensor(1.0), torch.zeros(3), r"f_x has shape \(\)"),
        (torch.zeros(3), torch.zeros(3).long(), "f_y has dtype"),
    ],
)
def test_refuses(f_x: torch.Tensor, f_y: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kantorovich_rubinstein(f_x, f_y)
