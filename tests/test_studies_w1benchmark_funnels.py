"""Funnels: what they claim of themselves, against exact transport and published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import barrow
from barrow.studies.w1benchmark.funnels import BOX, Funnels

PARAMETERS = Path(__file__).parents[2] / "shared" / "data" / "w1benchmark" / "funnels.npz"
# Published, from 4096 samples: a percent or two of noise in few dimensions.
PUBLISHED = {(2, 4): 0.8174, (2, 256): 0.1336, (16, 16): 1.7375, (64, 64): 1.3173, (128, 4): 1.1424}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("d", "count"), [(1, 3), (2, 4), (3, 30), (16, 8), (64, 100)])
def test_mass_slides_down_rays_of_slope_one(d, count):
    funnels = Funnels.drawn(d, count, generator(d))
    x, y = funnels.sample(5000, generator(1))
    length = (x - y).norm(dim=-1)
    assert torch.allclose(funnels.potential(y) - funnels.potential(x), length, atol=1e-9)
    assert (y.abs() <= BOX).all()
    assert (x.abs() <= BOX + 1e-9).all()
    assert torch.allclose(funnels.slope(y) * length[:, None], y - x, atol=1e-7)


@pytest.mark.parametrize(("d", "count"), [(2, 4), (5, 10)])
def test_the_coupling_is_optimal_on_every_sample(d, count):
    """The pairs of a sample are an optimal matching of it: W_1 of the two point sets is the mean length."""
    x, y = Funnels.drawn(d, count, generator(3)).sample(300, generator(4))
    shuffled = y[torch.randperm(300, generator=generator(5))]
    assert torch.allclose(barrow.wasserstein(x, shuffled, p=1), (x - y).norm(dim=-1).mean(), rtol=1e-9)


def test_one_funnel_in_one_dimension_by_hand():
    """One tip at 0: |y| uniform on [0, 2.5], t = |y| / 2.5, length = 2.5 (t - t^8), of mean 2.5 (1/2 - 1/9)."""
    funnels = Funnels(torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    value, stderr = funnels.truth(100_000, generator(0))
    assert 0 < stderr < 0.01
    assert abs(value - 2.5 * (1 / 2 - 1 / 9)) < 5 * stderr


@pytest.mark.skipif(not PARAMETERS.exists(), reason="the parameters of the published pairs are not here")
@pytest.mark.parametrize(("d", "count"), PUBLISHED)
def test_published_values(d, count):
    with np.load(PARAMETERS) as file:
        centers, offsets = (torch.from_numpy(file[f"d{d}_n{count}_net.{key}"]).double() for key in ("centers", "bias"))
    value, stderr = Funnels(centers, offsets.flatten()).truth(20_000, generator(0))
    assert abs(value - PUBLISHED[d, count]) < 0.02 * value + 5 * stderr


def test_nothing_is_drawn_of_nothing():
    x, y = Funnels.drawn(2, 3, generator(0)).sample(0, generator(0))
    assert x.shape == y.shape == (0, 2)
