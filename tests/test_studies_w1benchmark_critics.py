"""Training of the benchmark's critics: known minima, slopes against autograd, splits, and nothing of the truth seen."""

from __future__ import annotations

import math

import pytest
import torch

from barrow.nn import lipschitz_bound
from barrow.studies.w1benchmark import critics as funnel_critics
from barrow.studies.w1benchmark.critics import Budget, Cones, Samples, ascend, cones, divide, independent, network
from barrow.studies.w1benchmark.funnels import Funnels


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_funnel(d: int) -> Funnels:
    return Funnels(torch.full((1, d), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))


def test_samples_are_independent_and_of_the_right_laws():
    funnels = one_funnel(3)
    x, y = independent(funnels, 40_000, generator(0))
    assert x.shape == y.shape == (40_000, 3)
    assert x.dtype == torch.float32
    there, here = funnels.sample(40_000, generator(1))
    assert torch.allclose(x.mean(0), there.float().mean(0), atol=0.05)
    assert torch.allclose(y.mean(0), here.float().mean(0), atol=0.05)
    # Coupled samples lie on one ray from the tip; these do not.
    rays = torch.nn.functional.cosine_similarity(x - 0.5, y - 0.5, dim=1)
    assert abs(float(rays.mean())) < 0.25
    coupled = torch.nn.functional.cosine_similarity(there - 0.5, here - 0.5, dim=1)
    assert float(coupled.median()) > 0.999


def test_heights_and_gain_by_hand():
    found = Cones(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([0.0, 1.0]))
    points = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    assert torch.allclose(found.heights(points), torch.tensor([[4.0, 6.0], [3.0, 1.0]]), atol=1e-4)
    assert found.gain(Samples(points[1:], points[:1])) == pytest.approx(4 - 1, abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 3.0])
def test_one_tip_is_found(share):
    """One funnel: the critic -|z - tip| is optimal, so the ascent must arrive at the tip."""
    samples = independent(one_funnel(2), 20_000, generator(0))
    start = Cones(torch.tensor([[-1.0, -2.0]]), torch.zeros(1))
    found = ascend(start, samples, generator(1), steps=300, batch=1024, share=share)
    assert torch.allclose(found.centers, torch.tensor([[0.5, 0.5]]), atol=0.05)
    assert torch.equal(start.centers, torch.tensor([[-1.0, -2.0]]))


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_the_first_step_goes_along_the_slope(share, monkeypatch):
    """Against autograd of the written objective, through the direction of Adam's first step."""
    n, k, d = 64, 3, 4
    x, y = torch.randn(n, d, generator=generator(0)), torch.randn(n, d, generator=generator(1)) * 2
    start = Cones(torch.randn(k, d, generator=generator(2)) / 2, 0.1 * torch.randn(k, generator=generator(3)))
    seen = {}
    lerp = torch.Tensor.lerp_

    def spy(self, end, weight):
        if weight == 0.1:
            seen.setdefault(end.ndim, end.clone())
        return lerp(self, end, weight)

    monkeypatch.setattr(torch.Tensor, "lerp_", spy)
    steps = 100
    ascend(start, Samples(x, y), generator(4), steps=steps, batch=n, share=share)

    centers, offsets = (t.double().requires_grad_() for t in start)
    heights = [torch.cdist(z.double(), centers) + offsets for z in (x, y)]
    if share:
        left = 1 - 2 / steps
        reach = float(start.heights(y).amin(1).mean() - start.offsets.mean())
        tau = left * reach / 40 * 0.7
        u_x, u_y = (-tau * torch.logsumexp(-h / tau, 1) for h in heights)
        # The share is asked of offsets alone.
        (of_centers,) = torch.autograd.grad(u_y.mean() - u_x.mean(), centers, retain_graph=True)
        goal = u_y.mean() - u_x.mean() + share * left * (u_y.mean() - offsets.mean())
        (of_offsets,) = torch.autograd.grad(goal, offsets)
    else:
        u_x, u_y = (h.amin(1) for h in heights)
        of_centers, of_offsets = torch.autograd.grad(u_y.mean() - u_x.mean(), (centers, offsets))
    assert torch.allclose(seen[2].double(), of_centers, atol=1e-4)
    assert torch.allclose(seen[1].double(), of_offsets, atol=1e-4)


def test_a_cone_between_two_funnels_is_split_towards_them():
    tips = torch.zeros(2, 8, dtype=torch.float64)
    tips[0, 2], tips[1, 2] = 1.5, -1.5
    samples = independent(Funnels(tips, torch.zeros(2, dtype=torch.float64)), 20_000, generator(0))
    one = Cones(torch.zeros(1, 8), torch.zeros(1))
    two = divide(one, samples, 2)
    way = two.centers[0] - two.centers[1]
    assert abs(float(way[2] / way.norm())) > 0.95
    assert two.gain(samples) > one.gain(samples)
    assert torch.equal(two.offsets, torch.zeros(2))


def test_splitting_respects_the_room_and_drops_the_idle():
    samples = independent(one_funnel(2), 5000, generator(0))
    found = Cones(torch.tensor([[0.0, 0.0], [0.1, 0.0], [50.0, 50.0]]), torch.zeros(3))
    for room, size in ((2, 2), (3, 3), (4, 4), (9, 4)):
        split = divide(found, samples, room)
        assert len(split.centers) == len(split.offsets) <= size
        assert float(split.centers.abs().max()) < 10  # the one far from everything is gone


@pytest.mark.parametrize(("d", "count"), [(2, 4), (32, 3)])
def test_cones_come_near_from_below(d, count):
    funnels = Funnels.drawn(d, count, generator(0))
    samples = independent(funnels, 20_000, generator(1))
    ticks = []
    made = cones(
        samples, 2 * count, generator(2), Budget(150, 40, 150, 1024), lambda done, total: ticks.append((done, total))
    )
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    assert lipschitz_bound(made) == 1
    x, y = funnels.sample(10_000, generator(3))
    with torch.no_grad():
        gain = float((made.double()(y) - made(x)).mean())
    truth = float((x - y).norm(dim=1).mean())
    assert 0.93 * truth < gain <= truth


def test_cones_are_reproducible_and_leave_samples_alone():
    samples = independent(Funnels.drawn(2, 4, generator(0)), 3000, generator(1))
    before = samples.x.clone()
    first, second = (cones(samples, 6, generator(2), Budget(20, 5, 20, 256)) for _ in range(2))
    assert torch.equal(first.centers, second.centers)
    assert torch.equal(samples.x, before)


def test_more_cones_than_samples():
    samples = Samples(torch.zeros(3, 2), torch.ones(3, 2))
    made = cones(samples, 10, generator(0), Budget(5, 2, 5, 16))
    assert made.centers.isfinite().all()
    assert made.offsets.isfinite().all()


def test_a_network_learns_and_is_certified():
    funnels = Funnels.drawn(2, 4, generator(0))
    samples = independent(funnels, 10_000, generator(1))
    steps = []
    state = torch.random.get_rng_state()
    net = network(samples, (32, 32), generator(2), steps=100, notice=lambda done, total: steps.append((done, total)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert steps[-1] == (100, 100)
    assert lipschitz_bound(net) < 1.0001
    x, y = funnels.sample(10_000, generator(3))
    with torch.no_grad():
        gain = float((net(x.float()) - net(y.float())).mean())
    truth = float((x - y).norm(dim=1).mean())
    assert 0.6 * truth < gain < truth


def test_batches_take_every_sample_once():
    samples = Samples(torch.arange(10.0)[:, None], torch.arange(10.0)[:, None] + 100)
    batches = funnel_critics._Batches(samples, 5, generator(0))
    drawn = [batches.draw() for _ in range(4)]
    for first, second in ((0, 1), (2, 3)):
        assert sorted(torch.cat((drawn[first].x, drawn[second].x)).flatten().tolist()) == list(range(10))
    assert not torch.equal(drawn[0].x + 100, drawn[0].y)
    assert math.isclose(float(drawn[0].y.min()) // 100, 1)
