"""What studies are made of: spreads and their differences, descents whose rates fall."""

from __future__ import annotations

import math

import pytest
import torch

from barrow.studies.study import Spread, descent


def test_differences_are_within_seeds() -> None:
    ours, theirs = Spread.of([1.0, 2.0, 3.0]), Spread.of([1.5, 2.5, 3.5])
    assert (theirs - ours).values == (0.5, 0.5, 0.5)
    assert (theirs - ours).stderr == 0
    assert (ours - theirs).mean == -0.5
    with pytest.raises(ValueError, match="shorter"):
        ours - Spread.of([1.0, 2.0])


def test_the_standard_error_is_that_of_the_mean() -> None:
    assert Spread.of([0.0, 2.0, 4.0, 6.0]).stderr == pytest.approx(math.sqrt(20 / 3) / 2)
    assert Spread.of([5.0]).stderr == 0


def test_a_descent_is_the_loop_written_out() -> None:
    def slope(x: torch.Tensor) -> torch.Tensor:
        return (x**4 + x).sum()

    x, y = (torch.tensor([1.0, -2.0], requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([y], 0.3)
    for step in range(5):
        adam.param_groups[0]["lr"] = 0.3 * (1 - step / 5)
        adam.zero_grad()
        slope(y).backward()
        adam.step()
    steps = []
    for step in descent(torch.optim.Adam([x], 0.3), 5):
        slope(x).backward()
        steps.append(step)
    assert steps == [0, 1, 2, 3, 4]
    assert torch.allclose(x, y, rtol=1e-6)


def test_every_group_has_its_own_rate() -> None:
    x, y = (torch.zeros(1, requires_grad=True) for _ in range(2))
    for _ in descent(torch.optim.SGD([{"params": [x], "lr": 1.0}, {"params": [y], "lr": 0.1}]), 4):
        (x + y).sum().backward()
    assert x.item() == pytest.approx(-2.5)
    assert y.item() == pytest.approx(-0.25)
