"""Minima axis by axis, against the whole matrix and against rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch

from barrow.ops import separable
from barrow.ops.separable import grid_min, grid_softmin
from problems import F64, cloud, small_chunks

SIDES = [(1,), (7,), (4, 5), (1, 6), (5, 1), (3, 4, 2), (2, 1, 3, 2)]
every_grid = pytest.mark.parametrize("sides", SIDES, ids=str)


def matrix(sides, weights):
    z = torch.cartesian_prod(*(torch.arange(k, dtype=F64) for k in sides)).reshape(-1, len(sides))
    return ((z[:, None] - z).square() * torch.tensor(weights, dtype=F64)).sum(-1)


def numbers(*shape, seed, holes=True):
    h = 9 * cloud(*shape, seed=seed)
    if holes and shape[-1] > 2:
        h[..., ::3] = -torch.inf
    return h


def weights_of(sides):
    return tuple(0.3 + 0.7 * k for k in range(len(sides)))


@every_grid
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
def test_minima(sides, batch):
    h = numbers(*batch, math.prod(sides), seed=1)
    expected = (matrix(sides, weights_of(sides)) - h[..., None, :]).amin(-1)
    found = grid_min(h, sides, weights_of(sides))
    assert found.shape == h.shape
    assert torch.allclose(found, expected, rtol=1e-14)


@every_grid
def test_minima_of_whole_numbers_are_exact(sides):
    h = numbers(2, math.prod(sides), seed=2).round()
    ones = (1.0,) * len(sides)
    assert torch.equal(grid_min(h, sides, ones), (matrix(sides, ones) - h[..., None, :]).amin(-1))


def test_the_promised_rounding():
    """At most d + 2 units of the largest number, in rational arithmetic; and weights that are off by more are seen."""
    sides, unit = (4, 3, 5), Fraction(2) ** -53
    places = [(i, j, k) for i in range(4) for j in range(3) for k in range(5)]
    steps = (0.1, 1 / 3, 1.7)

    def worst(weights):
        over = Fraction(0)
        for seed in range(3):
            h = numbers(60, seed=seed, holes=False)
            exact_h = [Fraction(v) for v in h.tolist()]
            squares = [[Fraction(s) ** 2 * d * d for d in range(5)] for s in steps]
            for found, z in zip(grid_min(h, sides, weights).tolist(), places, strict=True):
                costs = (
                    sum((squares[k][abs(z[k] - y[k])] for k in range(3)), -v)
                    for y, v in zip(places, exact_h, strict=True)
                )
                size = max(abs(Fraction(found)), *map(abs, exact_h))
                over = max(over, abs(Fraction(found) - min(costs)) / (unit * size))
        return over

    assert 0 < worst([s * s for s in steps]) <= 3 + 2
    assert worst([s * s * (1 + 1e-14) for s in steps]) > 3 + 2


@every_grid
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("epsilon", [1e-4, 0.05, 1.0, 300.0, "one a problem"])
def test_soft_minima(sides, batch, epsilon):
    h = numbers(*batch, math.prod(sides), seed=3)
    if epsilon == "one a problem":
        epsilon = 0.05 + torch.rand(batch, dtype=F64)
    scale = epsilon[..., None] if isinstance(epsilon, torch.Tensor) else epsilon
    shifted = h[..., None, :] - matrix(sides, weights_of(sides))
    expected = -scale * torch.logsumexp(shifted / (scale[..., None] if torch.is_tensor(scale) else scale), -1)
    found = grid_softmin(h, sides, weights_of(sides), epsilon)
    assert found.shape == h.shape
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-12)


def test_one_measure_and_many_epsilons():
    h, epsilon = numbers(12, seed=4), torch.tensor([0.1, 2.0, 30.0], dtype=F64)
    together = grid_softmin(h, (3, 4), (1.0, 1.0), epsilon)
    for k in range(3):
        alone = grid_softmin(h, (3, 4), (1.0, 1.0), float(epsilon[k]))
        assert torch.allclose(together[k], alone, rtol=1e-14)


@pytest.mark.parametrize("epsilon", [0.3, 0.7, 2.0, 7.0, 1e3])
def test_pieces_of_an_axis(epsilon, monkeypatch):
    """Long axes are cut where the kernel would underflow: pieces of every length, with holes as long as pieces."""
    h = 400 * cloud(2, 300, seed=5) - 2000  # so low that what fills up the last piece would be seen
    h[0, 40:200] = -torch.inf
    h[1, :-1] = -torch.inf
    expected = -epsilon * torch.logsumexp((h[:, None] - matrix((300,), (1.0,))) / epsilon, -1)
    length = separable._piece(300, 1.0, epsilon)
    reach = max((300 - 1) ** 2 - (300 - length) ** 2, (length - 1) ** 2)
    assert 1 <= length <= 300
    assert length == 1 or reach <= separable.RANGE * epsilon
    assert torch.allclose(grid_softmin(h, (300,), (1.0,), epsilon), expected, rtol=1e-13)
    monkeypatch.setattr(separable, "SHORT", 0)
    assert torch.allclose(grid_softmin(h, (300,), (1.0,), epsilon), expected, rtol=1e-13)
    # The check sees a kernel that underflows.
    monkeypatch.setattr(separable, "RANGE", 1e9)
    if epsilon < 100:
        assert not torch.allclose(grid_softmin(h, (300,), (1.0,), epsilon), expected, rtol=1e-13)


def test_single_precision_never_goes_through_a_matrix_product(monkeypatch):
    """Settings of torch may reduce the precision of such products."""
    monkeypatch.setattr(separable, "_sum_along", None)
    h = numbers(20, seed=6).float()
    found = grid_softmin(h, (4, 5), (1.0, 1.0), 50.0)
    shifted = (h.double() - matrix((4, 5), (1.0, 1.0))) / 50
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), -50 * shifted.logsumexp(-1), rtol=1e-5, atol=1e-4)
    with pytest.raises(TypeError):
        grid_softmin(h.double(), (4, 5), (1.0, 1.0), 50.0)


def test_nothing_to_minimise_over():
    nothing = torch.full((12,), -torch.inf, dtype=F64)
    for epsilon in (1e-3, 1.0, 1e3):
        assert (grid_softmin(nothing, (3, 4), (1.0, 1.0), epsilon) == torch.inf).all()
    assert (grid_min(nothing, (3, 4), (1.0, 1.0)) == torch.inf).all()


def test_blocks_change_nothing(monkeypatch):
    h = numbers(2, 63, seed=7)
    whole = [grid_min(h, (9, 7), (1.0, 0.5))] + [grid_softmin(h, (9, 7), (1.0, 0.5), e) for e in (0.01, 0.2, 20.0)]
    small_chunks(monkeypatch, 50)
    parts = [grid_min(h, (9, 7), (1.0, 0.5))] + [grid_softmin(h, (9, 7), (1.0, 0.5), e) for e in (0.01, 0.2, 20.0)]
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-14)


def test_the_matrix_would_not_fit():
    """400 x 400 pixels: 160,000 numbers, and a matrix of 205 GB."""
    h = cloud(160_000, seed=8)
    for sides in ((400, 400), (200, 8, 100)):
        soft = grid_softmin(h, sides, (1.0,) * len(sides), 1e4)
        assert (soft <= grid_min(h, sides, (1.0,) * len(sides)) + 1e-9).all()
