"""Laws in the plane: the right modes, and a judge that can count."""

from __future__ import annotations

import math

import pytest
import torch

from barrow.studies.toys import planar as planar


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "modes", "sigma", "radius"), [("ring", 8, 0.014144, 2 / 1.414), ("grid", 25, 0.01768, 4 * 2**0.5 / 2.828)]
)
def test_mixtures_are_those_of_the_papers(name: str, modes: int, sigma: float, radius: float) -> None:
    law = planar.LAWS[name]()
    assert law.centres is not None
    assert law.centres.shape == (modes, 2)
    assert law.sigma == pytest.approx(sigma, rel=1e-3)
    assert float(law.centres.norm(dim=1).max()) == pytest.approx(radius, rel=1e-5)
    x = law.draw(20_000, random())
    near, mode = torch.cdist(x, law.centres).min(1)
    assert float(near.square().mean().sqrt()) == pytest.approx(law.sigma * 2**0.5, rel=0.03)
    assert torch.bincount(mode, minlength=modes).min() > 0.8 * 20_000 / modes
    found, quality = law.judge(x)
    assert found == modes
    # Within three sigma of the centre of a Gaussian in the plane: 1 - exp(-9/2).
    assert quality == pytest.approx(1 - math.exp(-4.5), abs=4e-3)


def test_the_swiss_roll_is_a_spiral() -> None:
    x = planar.roll().draw(5000, random()) * 7.5
    angle = x.norm(dim=1)
    assert float(angle.min()) > 1.5 * math.pi - 1.2
    assert float(angle.max()) < 4.5 * math.pi + 1.2
    spiral = torch.stack((angle * angle.cos(), angle * angle.sin()), 1)
    assert float((x - spiral).norm(dim=1).median()) < 3
    assert torch.equal(planar.roll().draw(9, random(1)), planar.roll().draw(9, random(1)))


def test_judging_by_hand() -> None:
    law = planar.ring()
    assert law.centres is not None
    y = torch.cat((law.centres[:3], law.centres[:1] + 2.9 * law.sigma / 2**0.5, law.centres[4:5] + 4 * law.sigma))
    assert law.judge(y) == (3, 0.8)
    assert law.judge(torch.zeros(5, 2)) == (0, 0.0)
