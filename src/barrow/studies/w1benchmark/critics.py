"""How the critics of the W_1 benchmark are trained, from samples alone: cones, and an orthogonal network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from barrow.nn import MaxMin, McShaneCritic, OrthogonalLinear, UnitLinear
from barrow.nn.kantorovich import kantorovich_rubinstein
from barrow.studies.w1benchmark.funnels import Funnels

PART = 1 << 15  # samples that are drawn at a time
SPLIT_FROM = 32  # dimensions from which on samples of x lie far from every tip

Notice = Callable[[int, int], None]


class Samples(NamedTuple):
    """Independent samples (n, d) of both laws, in single precision; nothing of how they are coupled."""

    x: Tensor
    y: Tensor


def independent(funnels: Funnels, n: int, generator: torch.Generator) -> Samples:
    """Draw x and y from different draws of the pair."""
    sizes = [min(PART, n - start) for start in range(0, n, PART)]
    x = torch.cat([funnels.sample(size, generator).x.float() for size in sizes])
    uniform = Funnels(funnels.centers[:1], funnels.offsets[:1])  # the law of y has no funnels: the cheapest draw
    return Samples(x, torch.cat([uniform.sample(size, generator).y.float() for size in sizes]))


@final
class _Batches:
    """Batches of both laws, each sample once before any comes again."""

    def __init__(self, samples: Samples, size: int, generator: torch.Generator) -> None:
        self.samples = samples
        self.size = min(size, len(samples.x))
        self.generator = generator
        self.place = len(samples.x)

    def draw(self) -> Samples:
        n = len(self.samples.x)
        if self.place + self.size > n:
            self.order = [torch.randperm(n, generator=self.generator) for _ in range(2)]
            self.place = 0
        part = slice(self.place, self.place + self.size)
        self.place += self.size
        return Samples(self.samples.x[self.order[0][part]], self.samples.y[self.order[1][part]])


# -- cones -------------------------------------------------------------------------------------------------------------


class Cones(NamedTuple):
    """Tips (k, d) and offsets (k,) of u = min_k |z - c_k| + b_k; the critic is -u."""

    centers: Tensor
    offsets: Tensor

    def heights(self, points: Tensor) -> Tensor:
        """Every cone at every point, (n, k), by a matrix product: good enough to train, not to judge."""
        square = torch.addmm(self.centers.square().sum(1), points, self.centers.T, alpha=-2)
        return square.add_(points.square().sum(1)[:, None]).clamp_min_(1e-9).sqrt_().add_(self.offsets)

    def gain(self, samples: Samples) -> float:
        """E u(y) - E u(x): what the training makes large, at most W_1."""
        mean_y, mean_x = (
            float(torch.cat([self.heights(part).amin(1) for part in z.split(PART)]).mean())
            for z in (samples.y, samples.x)
        )
        return mean_y - mean_x


@final
@dataclasses.dataclass(frozen=True)
class Budget:
    """Steps of training: ``start`` of each way to begin, ``stage`` after each splitting, ``finish`` of the better."""

    start: int = 400
    stage: int = 40
    finish: int = 500
    batch: int = 2048


def cones(
    samples: Samples, count: int, generator: torch.Generator, budget: Budget, notice: Notice = lambda done, total: None
) -> McShaneCritic:
    """Train u = min_k |z - c_k| + b_k, ``count`` cones at most, to maximise E u(y) - E u(x).

    The objective is not concave in the tips, so the start decides. Two are made: tips at samples of x, which is crowded
    near the true ones in few dimensions, with an even share of y each at first; and, in many dimensions, where no
    sample is near a tip, one cone that is split again and again. The better on the samples is trained on.
    """
    starts = [shared(samples, count, generator, budget)]
    notice(1, 3)
    if samples.x.shape[1] >= SPLIT_FROM:
        starts.append(divided(samples, count, generator, budget))
    notice(2, 3)
    seen = Samples(samples.x[:PART], samples.y[:PART])
    best = max(starts, key=lambda found: found.gain(seen))
    best = ascend(best, samples, generator, steps=budget.finish, batch=2 * budget.batch)
    notice(3, 3)
    return McShaneCritic.through(*best)


def shared(samples: Samples, count: int, generator: torch.Generator, budget: Budget) -> Cones:
    """Begin with tips at samples of x, drawn far apart (k-means++), and ask each for its share of y at first."""
    seen = samples.x[:8192]
    chosen = [int(torch.randint(len(seen), (), generator=generator))]
    nearest = torch.full((len(seen),), math.inf)
    for _ in range(min(count, len(seen)) - 1):
        nearest = torch.minimum(nearest, (seen - seen[chosen[-1]]).square().sum(1))
        if not nearest.any():  # no other points are left
            break
        chosen.append(int(torch.multinomial(nearest, 1, generator=generator)))
    start = Cones(seen[chosen], torch.zeros(len(chosen)))
    return ascend(start, samples, generator, steps=budget.start, batch=budget.batch, share=3.0)


def divided(samples: Samples, count: int, generator: torch.Generator, budget: Budget) -> Cones:
    """Begin with one cone and split those that gain most by it, twice as many each time."""
    found = Cones(samples.x.mean(0, keepdim=True), torch.zeros(1))
    found = ascend(found, samples, generator, steps=budget.stage, batch=budget.batch)
    for _ in range(2 + 2 * math.ceil(math.log2(count))):
        room = min(count, 2 * len(found.offsets))
        split = divide(found, samples, room)
        if len(split.offsets) == len(found.offsets) == room:
            break
        found = ascend(split, samples, generator, steps=budget.stage, batch=budget.batch)
    return found


def divide(found: Cones, samples: Samples, room: int) -> Cones:
    """Replace cones by two, their tips apart along the direction that the objective grows fastest in; drop idle ones.

    Tips at c + e and c - e change u by -|<v, e>| to first order, v the unit vectors from c to the points. The gain is
    E_x |<v, e>| - E_y |<v, e>|, large along the leading eigenvector of E_x v v' - E_y v v' over the cone's points.
    """
    n, d = min(PART * 3, len(samples.x)), samples.x.shape[1]
    parts = []
    for z in (samples.x[:n], samples.y[:n]):
        own = torch.cat([found.heights(part).argmin(1) for part in z.split(PART)])
        members = z[own.argsort()].split(torch.bincount(own, minlength=len(found.offsets)).tolist())
        parts.append(members)
    gains, ways = [], []
    for center, of_x, of_y in zip(found.centers, *parts, strict=True):
        if min(len(of_x), len(of_y)) < 2 * d:  # too few to tell a direction from noise
            gains.append(0.0 if len(of_x) + len(of_y) else -1.0)
            ways.append(center)
            continue
        unit_x, unit_y = (nn.functional.normalize(z - center, dim=1) for z in (of_x, of_y))
        values, vectors = torch.linalg.eigh((unit_x.T @ unit_x - unit_y.T @ unit_y) / n)
        gains.append(float(values[-1]))
        ways.append(0.3 * (of_y - center).norm(dim=1).mean() * vectors[:, -1])
    alive = [k for k, gain in enumerate(gains) if gain >= 0]
    spare = room - len(alive)
    chosen = [k for k in sorted(alive, key=lambda k: -gains[k])[: max(spare, 0)] if gains[k] > 0]
    kept = [k for k in alive if k not in set(chosen)]
    return Cones(
        torch.stack(
            [found.centers[k] for k in kept]
            + [found.centers[k] + sign * ways[k] for k in chosen for sign in (1.0, -1.0)]
        ),
        found.offsets[kept + [k for k in chosen for _ in range(2)]],
    )


def ascend(
    start: Cones, samples: Samples, generator: torch.Generator, *, steps: int, batch: int, share: float = 0.0
) -> Cones:
    """Climb E u(y) - E u(x) by Adam with one scale for all tips and one for all offsets, the rate on a cosine.

    ``share`` asks each cone for an even part of y, less and less until half of the steps: it adds
    share (E u(y) - mean b), so that no cone is out of work before it has found one. Meanwhile the least is softened by
    a temperature that falls to zero.
    """
    batches = _Batches(samples, batch, generator)
    low, high = samples.x.amin(0), samples.x.amax(0)
    found = Cones(start.centers.clone(), start.offsets.clone())
    count = len(found.offsets)
    reach = float(found.heights(samples.y[:4096]).amin(1).mean() - found.offsets.mean())
    rate = max(reach, 1e-3) / 40
    moments = [(torch.zeros_like(t), torch.zeros(count, 1) if share else torch.zeros(1)) for t in found]
    for step in range(1, steps + 1):
        left = max(0.0, 1 - 2 * step / steps)
        slopes = [torch.zeros_like(t) for t in found]
        for z, sign in zip(batches.draw(), (1.0, -1.0), strict=True):
            weight = sign / len(z)
            heights = found.heights(z)
            if share and left:
                tilt = torch.softmax(-heights / (left * rate * 0.7), 1)
                mass = tilt.sum(0) / len(z)
                tilt /= (heights - found.offsets).clamp_min_(1e-4)
                slopes[0] += weight * (tilt.T @ z - tilt.sum(0)[:, None] * found.centers)
            else:
                own = heights.argmin(1)
                mass = torch.bincount(own, minlength=count) / len(z)
                unit = nn.functional.normalize(z - found.centers[own], dim=1)
                slopes[0].index_add_(0, own, unit, alpha=weight)
            slopes[1] -= sign * mass
            if share and sign < 0:
                slopes[1] += share * left * (mass - 1 / count)
        pace = 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, step / 20)
        for t, slope, (mean, square), size in zip(found, slopes, moments, (rate, rate / 6), strict=True):
            mean.lerp_(slope, 0.1)
            flat = slope.reshape(count, -1).square().sum(1, keepdim=True)
            # Where all work, each tip has its own scale; where some hardly do, theirs would be noise.
            square.lerp_(flat if share and t.ndim > 1 else flat.mean().expand_as(square), 0.01)
            scale = (square / (1 - 0.99**step)).sqrt().clamp_min(1e-12)
            t.add_(mean / (scale if t.ndim > 1 else scale.flatten()), alpha=pace * size / (1 - 0.9**step))
        torch.maximum(torch.minimum(found.centers, high, out=found.centers), low, out=found.centers)
    return found


# -- networks ----------------------------------------------------------------------------------------------------------


def network(
    samples: Samples,
    widths: tuple[int, ...],
    generator: torch.Generator,
    *,
    steps: int,
    batch: int = 256,
    rate: float = 0.01,
    notice: Notice = lambda done, total: None,
) -> nn.Sequential:
    """Train orthogonal layers with pairwise sorts to maximise E f(x) - E f(y): Adam, warm-up, the rate on a cosine."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        layers: list[nn.Module] = []
        size = samples.x.shape[1]
        for width in widths:
            layers += [OrthogonalLinear(size, width), MaxMin()]
            size = width
        model = nn.Sequential(*layers, UnitLinear(size, 1), nn.Flatten(0))
    batches = _Batches(samples, batch, generator)
    optimizer = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.99))
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, step / 50)
        drawn = batches.draw()
        values = model(torch.cat(drawn))
        optimizer.zero_grad()
        (-kantorovich_rubinstein(values[: len(drawn.x)], values[len(drawn.x) :])).backward()
        optimizer.step()
        if step % 20 == 0 or step == steps:
            notice(step, steps)
    return model
