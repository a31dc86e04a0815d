"""Classes on a lattice, and labels that slip to a neighbour: does it help a loss to know where the classes lie?

A class is a vertex of a D x D lattice, a point x is Gaussian about its vertex, and with probability t the label that
training sees is that of a vertex next to it. A linear softmax is trained on such labels with the Kullback-Leibler loss,
which only knows right and wrong, and with Wasserstein losses, which know how far apart two vertices are. The score is
the mean distance from the predicted vertex to the true one.

The cost between vertices is their Euclidean distance to the power p, for p = 1 and p = 2. A label is one vertex, so
there is one plan only, h times that vertex: the exact loss is <h, C[:, y]>, linear in h, and Frogner's is this plus
epsilon sum h log h, whose best h is the softmax of -E C / epsilon. For p = 2 and a point well inside, E C is linear in
x but for what all vertices share, so a linear softmax can be that h; for p = 1 it cannot. The exact loss is trained
too: it tells what the metric does without the entropy.

Dashed lines are rules that need no training and know the law of x: the most likely label at x, which KL aims at, and
the vertex nearest to the labels on average, which transport at p = 1 aims at. All losses have the same points, labels,
order and start, and a learning rate of their own, chosen for each lattice and noise on held-out points with noisy
labels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional

import barrow
from barrow.studies import palette
from barrow.studies.study import Claim, Outcome, Spread, Table, descent
from barrow.studies.work import Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGMA = 0.3  # of the points about their vertex; neighbours are 1 apart
EPSILON = 0.1  # of the largest distance: 1 / lambda
KL, FIRST, SECOND, EXACT = "KL", "W₁, entropic", "W₂², entropic", "W₁, exact"
POWER = {FIRST: 1, SECOND: 2, EXACT: 1}  # p
COLOURS = {KL: palette.TARGET, FIRST: palette.SOURCE, SECOND: palette.PROVED, EXACT: palette.PLAN}
MODE, MEDIAN = "mode of the labels", "median of the labels"
LOW, HIGH = 0.35, 0.65  # noise below and above


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    sides: tuple[int, ...] = (3, 4, 5, 6, 7)
    noises: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    repeats: int = 10
    train: int = 20  # points a vertex
    held: int = 10
    test: int = 50
    steps: int = 600  # KL on large lattices is the last to arrive
    batch: int = 40
    rates: tuple[float, ...] = (0.1, 0.3, 1.0)


FULL = Size()
# On lattices of few vertices, most of them at the border, the gap is too small for so few repeats.
QUICK = Size(sides=(5, 7), noises=(0.1, 0.5, 0.9), repeats=3, steps=150, rates=(0.3, 1.0))


# -- data --------------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class Lattice:
    """The vertices (K, 2) about the origin, K = side^2, and what follows from them."""

    side: int

    @functools.cached_property
    def vertices(self) -> Tensor:
        ticks = torch.arange(self.side) - (self.side - 1) / 2
        return torch.cartesian_prod(ticks, ticks)

    @functools.cached_property
    def distance(self) -> Tensor:
        """Euclidean, (K, K)."""
        apart: Tensor = torch.linalg.vector_norm(self.vertices[:, None] - self.vertices, dim=-1)
        return apart

    def cost(self, p: float) -> Tensor:
        """Its power p, as a share of the largest."""
        return (self.distance / self.distance.max()) ** p

    def slips(self, t: float) -> Tensor:
        """The probability (K, K) that the label of a row's vertex is given as a column's."""
        near = ((self.distance - 1).abs() < 0.1).float()
        return (1 - t) * torch.eye(len(near)) + t * near / near.sum(1, keepdim=True)

    def points(self, count: int, repeats: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (repeats, n, 2) and their true vertices (n,), in one random order."""
        true = torch.arange(self.side**2).repeat(count)
        true = true[torch.randperm(len(true), generator=generator)]
        noise = torch.randn((repeats, len(true), 2), generator=generator)
        return self.vertices[true] + SIGMA * noise, true

    def labels(self, true: Tensor, noises: Sequence[float], repeats: int, generator: torch.Generator) -> Tensor:
        """Labels (noises, repeats, n); with more noise, more of the same ones slip, and to the same neighbours."""
        u = torch.rand((repeats, len(true)), generator=generator)
        weights = self.slips(1.0)[true]
        slipped = torch.multinomial(weights, repeats, replacement=True, generator=generator).mT
        return torch.stack([torch.where(u < t, slipped, true) for t in noises])

    def rules(self, x: Tensor, t: float) -> dict[str, Tensor]:
        """What is best at x (..., 2) if labels slip: the mode of the label, and its median."""
        share = (-(x[..., None, :] - self.vertices).square().sum(-1) / (2 * SIGMA**2)).softmax(-1) @ self.slips(t)
        return {MODE: share.argmax(-1), MEDIAN: (share @ self.distance).argmin(-1)}

    def score(self, predicted: Tensor, true: Tensor) -> Tensor:
        """The mean distance of what is predicted (..., n) from the truth."""
        return self.distance[predicted, true].mean(-1)


# -- losses and training -----------------------------------------------------------------------------------------------


def loss(how: str, logits: Tensor, y: Tensor, lattice: Lattice) -> Tensor:
    """Between predictions (..., K), before their softmax, and labels (...)."""
    if how == KL:
        return -logits.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    h, C = logits.softmax(-1), lattice.cost(POWER[how])
    if how == EXACT:
        return (h * C[y]).sum(-1)  # C is symmetric
    return barrow.label_wasserstein(h, y, C, epsilon=EPSILON)


def train(how: str, side: int, rate: float, size: Size, seed: int) -> dict[str, Tensor]:
    """All noise levels and repeats at once, one linear softmax each: scores (noises, repeats).

    ``held`` is against the noisy labels of held-out points, ``test`` against the true vertices of others.
    """
    lattice, random = Lattice(side), torch.Generator().manual_seed(1000 * seed + side)
    T, R, K = len(size.noises), size.repeats, side**2
    (x, true), (x_held, true_held), (x_test, true_test) = (
        lattice.points(count, R, random) for count in (size.train, size.held, size.test)
    )
    y, y_held = (lattice.labels(truth, size.noises, R, random) for truth in (true, true_held))
    weight, bias = (torch.zeros((T, R, n, K), requires_grad=True) for n in (2, 1))
    optimiser = torch.optim.Adam((weight, bias), rate)
    order = torch.empty(0, dtype=torch.long)
    for _ in descent(optimiser, size.steps):
        if len(order) < size.batch:
            order = torch.randperm(x.shape[1], generator=random)
        rows, order = order[: size.batch], order[size.batch :]
        logits = x[:, rows] @ weight + bias
        loss(how, logits, y[..., rows], lattice).mean(-1).sum().backward()
    with torch.no_grad():
        held, test = ((z @ weight + bias).argmax(-1) for z in (x_held, x_test))
    known = [lattice.rules(x_test, t) for t in size.noises]
    return {
        "held": lattice.score(held, y_held),
        "test": lattice.score(test, true_test),
        "accuracy": (test == true_test).float().mean(-1),
        **{name: torch.stack([lattice.score(rules[name], true_test) for rules in known]) for name in (MODE, MEDIAN)},
    }


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work, size: Size | None = None) -> Outcome:
    """Every lattice, loss and learning rate."""
    size = size or (QUICK if work.quick else FULL)
    cells: dict[str, Callable[[], dict[str, Tensor]]] = {
        f"{side} x {side}, {how}, rate {rate:g}": functools.partial(train, how, side, rate, size, work.seed)
        for side in size.sides
        for how in COLOURS
        for rate in size.rates
    }
    done = work.parts(cells, "lattices")
    scores, rates = {}, {}
    for side in size.sides:
        for how in COLOURS:
            tried = [done[f"{side} x {side}, {how}, rate {rate:g}"] for rate in size.rates]
            scores[side, how], rates[side, how] = chosen(tried, size.rates)
        for name in (MODE, MEDIAN):
            scores[side, name] = tried[0][name].double()
    return Outcome(
        claims=tuple(claims(scores, size)),
        figures={"label-noise": _figure(scores, size)},
        numbers={
            "noise": list(size.noises),
            "scores": {f"{side} x {side}, {how}": s.tolist() for (side, how), s in scores.items()},
            "rates": {f"{side} x {side}, {how}": r for (side, how), r in rates.items()},
            "sigma": SIGMA,
            "epsilon": EPSILON,
        },
        tables={"mean distance from the truth": _table(scores, size)},
        captions={
            "label-noise": "How far predictions are from the true vertex as more labels slip, for each lattice, with a "
            "band of one standard deviation over repeats; dashed, two rules that know the law. Last, how much nearer "
            "the entropic Wasserstein losses are than KL, for little noise and for much."
        },
        sources=("points about the vertices of a lattice, made here: nothing is read",),
    )


def chosen(tried: Sequence[dict[str, Tensor]], rates: Sequence[float]) -> tuple[Tensor, list[float]]:
    """The test scores (noises, repeats) at the rate with the best held-out score, for each noise, and these rates."""
    best = torch.stack([found["held"].double().mean(-1) for found in tried]).argmin(0)
    test = torch.stack([found["test"].double() for found in tried])
    return test[best, torch.arange(len(best))], [rates[int(k)] for k in best]


def gap(scores: dict[tuple[int, str], Tensor], side: int, how: str) -> Tensor:
    """How much nearer to the truth than KL, (noises, repeats)."""
    return scores[side, KL] - scores[side, how]


def linearity() -> float:
    """How far label_wasserstein with a one-hot target is from <h, C[:, y]> + epsilon sum h log h, at most."""
    C = Lattice(5).cost(1).double()
    y = torch.arange(len(C))
    h = torch.randn((len(y), len(y)), generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    found = barrow.label_wasserstein(h, functional.one_hot(y).to(h), C, epsilon=EPSILON, tol=1e-9)
    return float((found - (h * C[y]).sum(-1) - EPSILON * (h * h.log()).sum(-1)).abs().max())


def claims(scores: dict[tuple[int, str], Tensor], size: Size) -> list[Claim]:
    """What the paper shows, as sentences that the scores can refute."""
    rules = torch.stack([(scores[side, MODE] - scores[side, MEDIAN]).mean() for side in size.sides])
    off = linearity()
    return [
        *_of_power(scores, size, FIRST),
        *_of_power(scores, size, SECOND),
        Claim(
            "the rule that transport aims at is the better one: the median of the labels against their mode",
            "mode minus median > 0 for each D, over all noise",
            ", ".join(f"{float(r):.3f}" for r in rules),
            bool((rules > 0).all()),
        ),
        Claim(
            "for a single true label the loss is <h, C[:, y]> + epsilon sum h log h",
            "to within 1e-6",
            f"{off:.0e}",
            off <= 1e-6,
        ),
    ]


def _of_power(scores: dict[tuple[int, str], Tensor], size: Size, how: str) -> list[Claim]:
    noise = torch.tensor(size.noises)
    gaps = torch.stack([gap(scores, side, how) for side in size.sides])  # (sides, noises, repeats)
    few, many = gaps[:, noise < LOW].mean((0, 1)), gaps[:, noise > HIGH].mean((0, 1))
    small, large = gaps[0].mean(0), gaps[-1].mean(0)
    by_noise = gaps.mean((0, 2))
    return [
        Claim(
            f"{how}: nearer to the truth than KL on every lattice, over all noise",
            "KL minus Wasserstein > 0 for each D",
            ", ".join(f"{float(g):.3f}" for g in gaps.mean((1, 2))),
            bool((gaps.mean((1, 2)) > 0).all()),
            "below KL for every number of classes (figure)",
        ),
        Claim(
            f"{how}: nearer at every noise level, over all lattices",
            "KL minus Wasserstein >= 0 for each t",
            ", ".join(f"{float(g):.3f}" for g in by_noise),
            bool((by_noise >= 0).all()),
            "below KL for every noise level (figure)",
        ),
        Claim(
            f"{how}: the gap grows with the noise",
            f"> {Spread.of(few.tolist()):.3f}, the gap below t = {LOW:g}",
            f"{Spread.of(many.tolist()):.3f} above t = {HIGH:g}",
            float(many.mean()) > float(few.mean()),
            "it grows (figure)",
        ),
        Claim(
            f"{how}: the gap grows with the lattice",
            f"> {Spread.of(small.tolist()):.3f}, the gap at D = {size.sides[0]}",
            f"{Spread.of(large.tolist()):.3f} at D = {size.sides[-1]}",
            float(large.mean()) > float(small.mean()),
            "it grows (figure)",
        ),
    ]


def _table(scores: dict[tuple[int, str], Tensor], size: Size) -> Table:
    picked = [min(range(len(size.noises)), key=lambda k: abs(size.noises[k] - t)) for t in (0.1, 0.5, 0.9)]
    rows = []
    for side in size.sides:
        for how in COLOURS:
            found = scores[side, how]
            spreads = [Spread.of(found[k].tolist()) for k in picked] + [Spread.of(found.mean(0).tolist())]
            rows.append((f"{side} x {side}", how, *(f"{spread:.3f}" for spread in spreads)))
    return Table(("lattice", "loss", *(f"t = {size.noises[k]:g}" for k in picked), "all t"), tuple(rows))


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_scores(ax: Axes, scores: dict[tuple[int, str], Tensor], side: int, noises: Sequence[float]) -> None:
    """The score of each loss against the noise, and the rules that need no training."""
    for how, colour in COLOURS.items():
        spreads = [Spread.of(found.tolist()) for found in scores[side, how]]
        palette.trend(ax, noises, spreads, colour, band=0.15, linewidth=2.2, marker="o", markersize=3.5, label=how)
    for name, colour in ((MODE, palette.TARGET), (MEDIAN, palette.SOURCE)):
        rule = scores[side, name].mean(1)
        ax.plot(noises, rule, color=colour, linewidth=1.2, linestyle=(0, (4, 2)), alpha=0.8, label=name)
    palette.dress(ax, f"{side} x {side} lattice", "share t of labels that slip", "distance from the truth")
    ax.set_ylim(bottom=0)


def draw_gap(ax: Axes, scores: dict[tuple[int, str], Tensor], size: Size) -> None:
    """How much the metric is worth against the lattice, for little and for much noise."""
    noise = torch.tensor(size.noises)
    for how in (FIRST, SECOND):
        for name, kept, style in ((f"t < {LOW:g}", noise < LOW, ":"), (f"t > {HIGH:g}", noise > HIGH, "-")):
            each = torch.stack([gap(scores, side, how)[kept].mean(0) for side in size.sides])
            spreads = [Spread.of(gaps.tolist()) for gaps in each]
            label = f"{how.partition(',')[0]}, {name}"
            ax.errorbar(
                size.sides, [s.mean for s in spreads], [s.stderr for s in spreads], color=COLOURS[how], linewidth=2,
                linestyle=style, marker="o", markersize=4, label=label,
            )  # fmt: skip
    ax.axhline(0, color=palette.TRUTH, linewidth=1)
    palette.dress(ax, "Nearer than KL by", "side D of the lattice", "gap, ± standard error")
    ax.set_xticks(size.sides)
    ax.legend(frameon=False, fontsize=9)


def _figure(scores: dict[tuple[int, str], Tensor], size: Size) -> Figure:
    panels = len(size.sides) + 1
    rows, columns = -(-panels // 3), min(panels, 3)
    figure = palette.sheet(4.6 * columns, 3.7 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, side in zip(axes, size.sides, strict=False):
        draw_scores(ax, scores, side, size.noises)
    draw_gap(axes[len(size.sides)], scores, size)
    for ax in axes[panels:]:
        ax.axis("off")
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure
