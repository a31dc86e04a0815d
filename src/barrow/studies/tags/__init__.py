"""Pictures with several tags, where tags have meanings: is a wrong tag less wrong if it is a near one?

A linear softmax predicts the tags of a picture. The Kullback-Leibler loss asks for the true tags and knows no others;
the Wasserstein loss pays for moving mass to the true tags from where it was put, and the metric between tags is that of
word vectors. Trained are the sum W + alpha KL for several alpha, and KL alone. Two scores are taken on pictures not
seen: the top-K cost, how far the K first predictions are from the nearest true tag, and the AUC, how often a true tag
of a picture is ranked above another one.

The pictures are emoji and the tags their keywords, far apart or near by GloVe, once all of them and once without tags
that have a near neighbour; and a synthetic set, where each picture shows some of the tags of one cluster. All losses
have the same pictures, order, start and number of steps. Learning rates are chosen on a validation split, for each loss
and alpha, by the top-K cost. In the relaxed loss the mass of the prediction may differ from that of the true tags, at a
price. A gradient needs no exact solution, so a gap of a hundredth is allowed; batches that miss it are counted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

import barrow
from barrow.studies import palette
from barrow.studies.data.cache import MissingData
from barrow.studies.study import Claim, Outcome, Spread, Table, descent
from barrow.studies.tags.sets import ADVICE, TagSet, pictures, synthetic
from barrow.studies.work import Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPSILON = 0.1  # 1 / lambda; costs are at most 1
RHO = 1.0  # the penalty of the relaxed loss
GAP, SWEEPS = 1e-2, 300  # of the solver: what a gradient needs, and when to give up
TOP = 5  # K
KL, HARD, SOFT = "KL", "W", "W relaxed"
COLOURS = {KL: palette.TARGET, HARD: palette.SOURCE, SOFT: palette.PROVED}
NEAR = 0.75  # tags nearer than this to a more frequent one are redundant


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    alphas: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0)
    seeds: int = 3
    steps: int = 150
    batch: int = 20
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    real: bool = True


FULL = Size()
QUICK = Size(alphas=(0.0, 0.1, 0.5), steps=100, rates=(0.03,), real=False)


# -- losses and scores -------------------------------------------------------------------------------------------------


def kl(t: Tensor, logits: Tensor) -> Tensor:
    """KL(t | softmax)."""
    return (torch.xlogy(t, t) - t * logits.log_softmax(-1)).sum(-1)


def loss(how: str, alpha: Tensor, logits: Tensor, t: Tensor, C: Tensor) -> Tensor:
    """W + alpha KL, or KL alone, of predictions (..., K), before their softmax, and histograms of tags (..., K)."""
    if how == KL:
        return kl(t, logits)
    rho = RHO if how == SOFT else math.inf
    h, t = logits.softmax(-1), t.expand_as(logits)
    W = barrow.label_wasserstein(h, t, C, epsilon=EPSILON, rho=rho, tol=GAP, max_steps=SWEEPS)
    return W + alpha * kl(t, logits)


def top_costs(logits: Tensor, tags: Tensor, distance: Tensor) -> Tensor:
    """C_K = 1/K sum over the K first predictions of their distance to the nearest true tag, a mean over pictures.

    For predictions (..., n, tags) the costs are (..., TOP), for K = 1 ... TOP.
    """
    nearest = torch.where(tags[..., None, :] > 0, distance, torch.inf).amin(-1)
    first = logits.topk(TOP, -1).indices
    costs = nearest.expand_as(logits).gather(-1, first).double()
    return (costs.cumsum(-1) / torch.arange(1, TOP + 1)).mean(-2)


def auc(logits: Tensor, tags: Tensor) -> Tensor:
    """The chance that a true tag of a picture is ranked above one that is not, ties half, a mean over pictures."""
    above = (logits[..., :, None] - logits[..., None, :]).sign().add(1).div(2)
    pairs = tags[..., :, None] * (1 - tags[..., None, :])
    return ((above * pairs).sum((-2, -1)) / pairs.sum((-2, -1))).double().mean(-1)


# -- training ----------------------------------------------------------------------------------------------------------


def split(data: TagSet, seed: int, seeds: int) -> list[tuple[Tensor, Tensor]]:
    """Features and tags to train on (60 %), to choose by (15 %), to judge by: (seeds, n, ...) each.

    Features have mean 0 and deviation 1 over all pictures.
    """
    x = (data.x - data.x.mean(0)) / data.x.std(0).clamp_min(1e-3)
    n = len(x)
    orders = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(seed + s)) for s in range(seeds)])
    return [
        (x[rows], data.tags[rows])
        for rows in orders.split([6 * n // 10, 15 * n // 100, n - 6 * n // 10 - 15 * n // 100], 1)
    ]


def train(how: str, rate: float, data: TagSet, size: Size, seed: int) -> dict[str, Tensor]:
    """One model for each alpha and seed, all at once; scores by (alpha, seed), costs with K last."""
    (x, tags), held, test = split(data, seed, size.seeds)
    alphas = torch.tensor([math.inf] if how == KL else size.alphas)[:, None, None]
    C = data.distance / data.distance.max()
    shape = (len(alphas), size.seeds)
    weight = torch.zeros((*shape, x.shape[-1], len(C)), requires_grad=True)
    bias = torch.zeros((*shape, 1, len(C)), requires_grad=True)
    optimiser = torch.optim.Adam((weight, bias), rate)
    random, each = torch.Generator().manual_seed(seed), torch.arange(size.seeds)[:, None]
    missed = 0
    for _ in descent(optimiser, size.steps):
        rows = torch.randint(x.shape[1], (size.seeds, size.batch), generator=random)
        t = tags[each, rows]
        logits = x[each, rows] @ weight + bias
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", barrow.ConvergenceWarning)
            total = loss(how, alphas, logits, t / t.sum(-1, keepdim=True), C).mean(-1).sum()
        missed += len(caught)
        total.backward()
    with torch.no_grad():
        predicted = [z @ weight + bias for z in (held[0], test[0])]
        return {
            "held": top_costs(predicted[0], held[1], data.distance),
            "test": top_costs(predicted[1], test[1], data.distance),
            "auc": torch.stack([auc(logits, test[1]) for logits in predicted[1]]),
            "missed": torch.tensor(missed / size.steps),
        }


# -- the study ---------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class Scores:
    """Of one loss at its best rates: costs (alphas, seeds, TOP), AUC (alphas, seeds), which rates."""

    held: Tensor
    test: Tensor
    auc: Tensor
    rates: tuple[float, ...]
    missed: float  # share of batches that were not solved to the gap allowed

    @staticmethod
    def best(tried: list[dict[str, Tensor]], rates: tuple[float, ...]) -> Scores:
        """For each alpha the rate with the least top-K cost on the validation split."""
        picked = torch.stack([run["held"].mean((1, 2)) for run in tried]).argmin(0)
        alphas = torch.arange(len(picked))
        held, test, found = (
            torch.stack([run[name] for run in tried])[picked, alphas] for name in ("held", "test", "auc")
        )
        missed = max(float(run["missed"]) for run in tried)
        return Scores(held, test, found, tuple(rates[int(k)] for k in picked), missed)


def run(work: Work, size: Size | None = None) -> Outcome:
    """Every set, loss and learning rate."""
    size = size or (QUICK if work.quick else FULL)
    sets, sources = _sets(work, size)
    cells: dict[str, Callable[[], dict[str, Tensor]]] = {
        f"{data.name}, {how}, rate {rate:g}": functools.partial(train, how, rate, data, size, work.seed)
        for data in sets
        for how in COLOURS
        for rate in size.rates
    }
    done = work.parts(cells, "tags")
    found = {
        data.name: {
            how: Scores.best([done[f"{data.name}, {how}, rate {rate:g}"] for rate in size.rates], size.rates)
            for how in COLOURS
        }
        for data in sets
    }
    return Outcome(
        claims=tuple(claim for name in found for claim in claims(name, found[name], size.alphas)),
        figures={name.replace(", ", "-").replace(" ", "-"): _figure(found[name], size.alphas) for name in found},
        numbers={
            "alphas": list(size.alphas),
            "sets": {
                name: {
                    how: {"costs": s.test.tolist(), "auc": s.auc.tolist(), "rates": list(s.rates), "missed": s.missed}
                    for how, s in scores.items()
                }
                for name, scores in found.items()
            },
        },
        tables={f"{name}: test scores": _table(found[name], size.alphas) for name in found},
        captions={
            name.replace(", ", "-").replace(" ", "-"): f"{name}: how far the K first predictions are from a true tag; "
            "this cost, a mean over K, against the weight alpha of KL; and the AUC. Bars are one standard deviation "
            "over seeds, which differ in the split."
            for name in found
        },
        sources=sources,
    )


def _sets(work: Work, size: Size) -> tuple[list[TagSet], tuple[str, ...]]:
    made = synthetic(torch.Generator().manual_seed(work.seed))
    if work.data is not None or size.real:
        try:
            real = pictures(work.data)
        except MissingData:
            return [made], (f"{made.source}; {ADVICE}",)
        return [real, real.reduced(NEAR), made], (real.source, made.source)
    return [made], (made.source,)


def claims(name: str, scores: Mapping[str, Scores], alphas: tuple[float, ...]) -> list[Claim]:
    """What the paper shows, for one set."""
    hard, alone = scores[HARD], scores[KL]
    chosen = int(hard.held.mean((1, 2)).argmin())
    gains = (alone.test[0] - hard.test[chosen]).mean(0)  # over seeds, for each K
    means = Spread.of((alone.test[0] - hard.test[chosen]).mean(1).tolist())
    every = (*alphas, math.inf)
    cost = torch.cat((hard.test, alone.test)).mean((1, 2))
    area = torch.cat((hard.auc, alone.auc)).mean(1)
    by_cost, by_area = every[int(cost.argmin())], every[int(area.argmax())]
    return [
        Claim(
            f"{name}: W + alpha KL, alpha by validation, puts nearer tags first than KL alone, for each K up to {TOP}",
            "C_K(KL) minus C_K(W + alpha KL) > 0",
            f"{float(gains.min()):.4f} to {float(gains.max()):.4f} at alpha = {alphas[chosen]:g}; mean {means:.4f}",
            bool((gains > 0).all()),
            "lower top-K cost on both tag sets (figures)",
        ),
        Claim(
            f"{name}: the best top-K cost is at a smaller alpha than the best AUC",
            f"below that of the best AUC, {by_area:g}" if math.isfinite(by_area) else "below KL alone, the best AUC",
            f"{by_cost:g}",
            by_cost < by_area,
            "it is (figures)",
        ),
    ]


def _table(scores: Mapping[str, Scores], alphas: tuple[float, ...]) -> Table:
    rows = []
    for how, found in scores.items():
        for k in range(len(found.auc)):
            costs = [Spread.of(found.test[k, :, top].tolist()) for top in (0, TOP - 1)]
            area = Spread.of(found.auc[k].tolist())
            name = how if how == KL else f"{how} + {alphas[k]:g} KL"
            rows.append((name, f"{found.rates[k]:g}", *(f"{c:.4f}" for c in costs), f"{area:.4f}"))
    return Table(("loss", "rate", "C_1", f"C_{TOP}", "AUC"), tuple(rows))


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_costs(ax: Axes, scores: Mapping[str, Scores], alphas: tuple[float, ...]) -> None:
    """C_K against K."""
    K = range(1, TOP + 1)
    shown = range(0, len(alphas), max(1, len(alphas) // 3))
    for place, k in enumerate(shown):
        colour = palette.blend(palette.SOURCE, "#9cc3e6", place / len(shown))
        ax.plot(K, scores[HARD].test[k].mean(0), color=colour, linewidth=2, marker="o", label=f"W + {alphas[k]:g} KL")
    ax.plot(K, scores[KL].test[0].mean(0), color=palette.TARGET, linewidth=2.2, marker="o", label="KL alone")
    palette.dress(ax, "Top-K cost", "K", "distance from the nearest true tag")
    ax.set_xticks(list(K))
    ax.legend(frameon=False, fontsize=9)


def draw_alpha(ax: Axes, alphas: tuple[float, ...], values: Mapping[str, Tensor], title: str, what: str) -> None:
    """A score (alphas, seeds) of each loss against alpha; KL alone is a line."""
    places = range(len(alphas))
    for how, score in values.items():
        spreads = [Spread.of(row.tolist()) for row in score]
        if how == KL:
            ax.axhspan(
                spreads[0].mean - spreads[0].std, spreads[0].mean + spreads[0].std, color=COLOURS[how], alpha=0.12
            )
            ax.axhline(spreads[0].mean, color=COLOURS[how], linewidth=2, label="KL alone")
            continue
        ax.errorbar(
            places, [s.mean for s in spreads], [s.std for s in spreads], color=COLOURS[how], linewidth=2, marker="o",
            markersize=4.5, capsize=2, label=f"{how} + alpha KL",
        )  # fmt: skip
    palette.dress(ax, title, "alpha", what)
    ax.set_xticks(list(places), [f"{alpha:g}" for alpha in alphas])
    ax.legend(frameon=False, fontsize=9)


def _figure(scores: Mapping[str, Scores], alphas: tuple[float, ...]) -> Figure:
    figure = palette.sheet(14, 4.2)
    costs, mean, area = figure.subplots(1, 3)
    draw_costs(costs, scores, alphas)
    draw_alpha(mean, alphas, {how: s.test.mean(-1) for how, s in scores.items()}, "Its mean over K", "distance")
    draw_alpha(area, alphas, {how: s.auc for how, s in scores.items()}, "AUC", "true above false, share")
    return figure
