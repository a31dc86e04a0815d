"""How would people rate this sentence, from -4 to +4? They differ: the answer is a histogram, whose bins are ordered.

Twenty people or so graded each of 23,619 short texts: tweets, sentences of Amazon reviews, of film reviews and of
editorials. A linear softmax predicts the histogram of the grades from the words. The usual practice is cross-entropy,
with the rounded mean as the class or with the histogram as a soft target, or the squared error; none of them knows that
+3 is nearer to +2 than to -4. The earth mover's distance between histograms on a line knows, in closed form: EMD sums
|phi|, EMD² sums phi², where phi is the difference of the cumulated histograms. The best answer for a text is the same
for cross-entropy, the squared error and EMD²: the mean of the histograms that its words leave possible; that of EMD is
made of medians.

Every loss has the same network, start, texts, order and steps. Learning rate and weight decay are chosen for each on a
validation split, the same for all numbers of texts, by one score: the distance EMD between predicted and true
histogram. Sentences of one review or editorial are never in two splits. Two ends of the scale are measured too: a
constant, which needs no text, and the noise of the raters, who are a sample of all people: no prediction can come below
it. One loss is a control: EMD² with the bins in a wrong order.

The ratings are those of Hutto and Gilbert, "VADER", ICWSM 2014; squared EMD as a loss for ordered classes is from Hou,
Yu and Samaras, "Squared earth mover's distance-based loss for training deep neural networks", 2016, and Martinez et
al., "Relaxed earth mover's distances", 2016.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

import barrow
from barrow.studies.ratings import figures as rating_figures
from barrow.studies.ratings.scores import MEAN, NOISE, Results, bounds, by_kind, listed, measures
from barrow.studies.ratings.texts import ADVICE, GRADES, Corpus, Split, rated, simulated
from barrow.studies.study import Claim, Outcome, Spread, Table, descent
from barrow.studies.work import Work

EMD, EMD2, MSE, L1, SOFT, HARD = "EMD", "EMD²", "MSE", "L1", "cross-entropy", "rounded mean"
SHUFFLED, SINKHORN = "EMD², shuffled", "Sinkhorn"
PERMUTATION = (0, 4, 8, 3, 7, 2, 6, 1, 5)  # neighbours are at least four grades apart
COST = (GRADES[:, None] - GRADES).abs() / 8


def _emd(exponent: float, logits: Tensor, t: Tensor) -> Tensor:
    return barrow.emd_1d(logits.softmax(-1), t.expand_as(logits), exponent)


def _shuffled(logits: Tensor, t: Tensor) -> Tensor:
    return _emd(2, logits[..., PERMUTATION], t[..., PERMUTATION])


def _hard(logits: Tensor, t: Tensor) -> Tensor:
    grade = (t @ GRADES).round() - GRADES[0]
    return -logits.log_softmax(-1).gather(-1, grade.long()[..., None].expand(*logits.shape[:-1], 1))[..., 0]


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {  # of logits and true shares (..., 9)
    EMD2: functools.partial(_emd, 2),
    EMD: functools.partial(_emd, 1),
    SINKHORN: lambda z, t: barrow.label_wasserstein(z.softmax(-1), t.expand_as(z), COST, epsilon=0.1),
    SOFT: lambda z, t: -(t * z.log_softmax(-1)).sum(-1),  # KL is this less the entropy of t, a constant
    MSE: lambda z, t: (z.softmax(-1) - t).square().sum(-1),
    L1: lambda z, t: (z.softmax(-1) - t).abs().sum(-1),
    HARD: _hard,
    SHUFFLED: _shuffled,
}


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done; the smaller numbers of texts, ``counts``, are tried on the domains ``few``."""

    seeds: int = 5
    steps: int = 400
    batch: int = 64
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    decays: tuple[float, ...] = (0.0, 0.1)
    counts: tuple[int, ...] = (100, 300, 1000)
    few: tuple[int, ...] = (0, 2)

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Learning rates with weight decays."""
        return [(rate, decay) for rate in self.rates for decay in self.decays]


FULL = Size()
QUICK = Size(seeds=3, steps=150, batch=32, decays=(0.0,), counts=(100,), few=(0,))


# -- training ----------------------------------------------------------------------------------------------------------


def train(how: str, corpus: Corpus, rows: Tensor, size: Size, seed: int) -> tuple[Tensor, Tensor]:
    """Weights (grid, seeds, d, 9) and biases of a linear softmax, from 0 and the mean histogram, for the whole grid."""
    grid = size.grid
    mean = corpus.shares[rows].mean(1).clamp_min(1e-3).log()
    weights = [torch.zeros(len(rows), corpus.x.shape[1], len(GRADES), requires_grad=True) for _ in grid]
    biases = [mean[:, None].clone().requires_grad_() for _ in grid]
    optimiser = torch.optim.AdamW(
        [{"params": [w], "lr": r, "weight_decay": d} for w, (r, d) in zip(weights, grid, strict=True)]
        + [{"params": [b], "lr": r, "weight_decay": 0.0} for b, (r, _) in zip(biases, grid, strict=True)]
    )
    random = torch.Generator().manual_seed(seed)
    shares, each = corpus.shares, torch.arange(len(rows))[:, None]
    for _ in descent(optimiser, size.steps):
        batch = rows[each, torch.randint(rows.shape[1], (len(rows), size.batch), generator=random)]
        logits = (corpus.x[batch] @ torch.cat(weights, -1) + torch.cat(biases, -1)).unflatten(-1, (len(grid), -1))
        LOSSES[how](logits, shares[batch][..., None, :]).mean((0, 1)).sum().backward()
    return torch.stack(weights).detach(), torch.stack(biases).detach()


def fit(
    how: str,
    name: str,
    corpora: Mapping[str, Corpus],
    splits: Mapping[str, Sequence[Split]],
    n: int,
    size: Size,
    seed: int,
) -> dict[str, Any]:
    """Train by one loss on ``n`` texts of a domain, choose by validation there, judge on the tests of every domain."""
    corpus, rows = corpora[name], torch.stack([train[:n] for train, _, _ in splits[name]])
    weights, biases = train(how, corpus, rows, size, seed)

    def predict(cell: int, s: int, x: Tensor) -> Tensor:
        return (x @ weights[cell, s] + biases[cell, s]).softmax(-1)

    chosen = [
        statistics.fmean(
            float(barrow.emd_1d(predict(cell, s, corpus.x[held]), corpus.shares[held]).mean())
            for s, (_, held, _) in enumerate(splits[name])
        )
        for cell in range(len(size.grid))
    ]
    best = min(range(len(chosen)), key=chosen.__getitem__)
    scores = {
        target: listed(
            [
                measures(predict(best, s, other.x[test]), other.shares[test])
                for s, (_, _, test) in enumerate(splits[target])
            ]
        )
        for target, other in corpora.items()
    }
    test = splits[name][0][2]
    shown = by_kind(predict(best, 0, corpus.x[test]), corpus.shares[test])
    rate, decay = size.grid[best]
    return {"rate": rate, "decay": decay, "validation": chosen, "scores": scores, "shown": shown}


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work, size: Size | None = None) -> Outcome:
    """Every loss on every domain, and on fewer texts; Sinkhorn's, which takes the most time, on the first one."""
    size = size or (QUICK if work.quick else FULL)
    if work.quick and work.data is None:
        found = simulated(work.seed)
        sources: tuple[str, ...] = (f"{len(found)} x {len(found[0])} texts and raters simulated here; {ADVICE}",)
    else:
        found, sources = rated(work.data)
    corpora = {corpus.name: corpus for corpus in found}
    splits = {
        name: [corpus.split(torch.Generator().manual_seed(work.seed + s)) for s in range(size.seeds)]
        for name, corpus in corpora.items()
    }
    whole = {name: min(len(rows) for rows, _, _ in splits[name]) for name in corpora}
    home, corpus = next(iter(corpora.items()))
    asked = [(how, name, whole[name]) for name in corpora for how in LOSSES if how != SINKHORN or name == home]
    for name in [list(corpora)[k] for k in size.few]:
        asked += [(how, name, n) for n in size.counts if n < whole[name] for how in LOSSES if how != SINKHORN]
    cells = {
        f"{how}, {n} texts of {name}": functools.partial(fit, how, name, corpora, splits, n, size, work.seed)
        for how, name, n in asked
    }
    fits = dict(zip(asked, work.parts(cells, "ratings").values(), strict=True))
    truth = corpus.shares[splits[home][0][2]]
    results = Results(
        scores={key: fitted["scores"] for key, fitted in fits.items()},
        whole=whole,
        bounds={name: bounds(corpora[name], splits[name], work.seed) for name in corpora},
        raters=by_kind(truth, truth),
        predicted={how: fits[how, home, whole[home]]["shown"] for how in LOSSES},
    )
    return Outcome(
        claims=tuple(claims(results)),
        figures=rating_figures.figures(results),
        captions=rating_figures.captions(results),
        numbers={
            "fits": [{"loss": how, "domain": name, "texts": n} | fitted for (how, name, n), fitted in fits.items()],
            "bounds": results.bounds,
            "raters": results.raters,
            "size": dataclasses.asdict(size),
        },
        tables=results.tables() | {"chosen by validation": _chosen(fits)},
        sources=sources,
    )


def _chosen(fits: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> Table:
    rows = [(how, name, str(n), f"{f['rate']:g}", f"{f['decay']:g}") for (how, name, n), f in fits.items()]
    return Table(("loss", "domain", "texts", "learning rate", "weight decay"), tuple(rows))


def claims(results: Results) -> list[Claim]:
    """What is claimed, each a sentence that the results can refute. Differences are between the same seeds."""
    names, curves = list(results.whole), results.curves

    def leads(how: str, other: str, **options: Any) -> list[Spread]:
        return [results.lead(how, other, name, **options) for name in names]

    def shorter(how: str) -> Claim:
        found = {other: leads(how, other) for other in (MSE, HARD)}
        return Claim(
            f"trained by {how}, the distance is less than by {MSE} and than by the rounded mean, in every domain",
            "differences > 0, means over seeds",
            "; ".join(f"{other}: {_each(spreads)}" for other, spreads in found.items()),
            all(lead.mean > 0 for spreads in found.values() for lead in spreads),
        )

    def no_worse(how: str) -> Claim:
        margins = [lead.mean + lead.stderr for lead in leads(how, SOFT, measure="MAE")]
        return Claim(
            f"by {how} the mean grade is predicted no worse than by cross-entropy, in every domain",
            "error not above by more than a standard error",
            f"{SOFT} minus {how}: {_each(leads(how, SOFT, measure='MAE'))}",
            min(margins) >= 0,
        )

    right, wrong = (statistics.fmean(s.mean for s in leads(how, MSE)) for how in (EMD2, SHUFFLED))
    few = {name: counts[0] for name, counts in curves.items()}
    unordered = {other: [results.lead(EMD2, other, name, n=n) for name, n in few.items()] for other in (SOFT, MSE, L1)}
    gains = [
        [results.lead(EMD2, MSE, name, n=n).mean / results.of(MSE, name, n=n).mean for n in (counts[0], counts[-1])]
        for name, counts in curves.items()
    ]
    tried = [(how, name) for name in names for how in results.losses(name)]
    floors = {how: min(results.lead(how, MEAN, name).mean for loss, name in tried if loss == how) for how, _ in tried}
    rest = [results.of(how, name).mean / results.of(NOISE, name).mean for how, name in tried]
    wide = {how: [results.of(how, name, "spread").mean for name in names] for how in (EMD, EMD2)}
    away = {
        (how, other): results.abroad(other).mean - results.abroad(how).mean
        for how in (EMD, EMD2)
        for other in (MSE, HARD)
    }
    return [
        shorter(EMD2),
        shorter(EMD),
        no_worse(EMD2),
        no_worse(EMD),
        Claim(
            f"the order matters: {EMD2} in a wrong order is worse than in the right one, in every domain",
            "differences > 0, means over seeds",
            _each(leads(EMD2, SHUFFLED)),
            all(lead.mean > 0 for lead in leads(EMD2, SHUFFLED)),
        ),
        Claim(
            f"and it is the reason: in a wrong order the lead of {EMD2} over {MSE} is gone, in the mean over domains",
            f"< half of the lead in the right order, {right:.4f}, which is > 0",
            f"{wrong:.4f}",
            wrong < right / 2 and right > 0,
        ),
        Claim(
            "every loss is better than a constant, the mean histogram, in every domain",
            "differences > 0, means over seeds",
            f"least {min(floors.values()):.3f}, of {min(floors, key=floors.__getitem__)}",
            min(floors.values()) > 0,
        ),
        Claim(
            "no loss passes what no predictor can, the noise of the raters",
            ">= 1 times the distance of the histogram to raters drawn from it",
            f"{min(rest):.2f} to {max(rest):.2f} times",
            min(rest) >= 1,
        ),
        Claim(
            f"with the fewest texts {EMD2} is ahead of the losses that know no order",
            "differences > 0, means over seeds",
            "; ".join(f"{other}: {_each(spreads)}" for other, spreads in unordered.items()),
            all(lead.mean > 0 for spreads in unordered.values() for lead in spreads),
        ),
        Claim(
            f"the order helps more when texts are few: the lead of {EMD2} over {MSE}, as a share",
            "larger with the fewest texts than with all",
            "; ".join(f"{100 * first:.1f} % against {100 * last:.1f} %" for first, last in gains),
            all(first > last for first, last in gains),
        ),
        Claim(
            f"medians are sharper than means: {EMD} gets the deviation of a text's grades nearer to right than {EMD2}",
            "predicted deviation over true one nearer to 1, in every domain",
            "; ".join(f"{one:.2f} against {two:.2f}" for one, two in zip(wide[EMD], wide[EMD2], strict=True)),
            all(abs(one - 1) < abs(two - 1) for one, two in zip(wide[EMD], wide[EMD2], strict=True)),
        ),
        Claim(
            f"in other domains too {EMD} and {EMD2} are ahead of {MSE} and of the rounded mean",
            "differences > 0, means over all pairs of domains",
            ", ".join(f"{lead:.3f} ({how}, {other})" for (how, other), lead in away.items()),
            min(away.values()) > 0,
        ),
    ]  # fmt: skip


def _each(leads: Iterable[Spread]) -> str:
    """A difference a domain, and how many of all are positive."""
    leads = list(leads)
    won = [value > 0 for lead in leads for value in lead.values]
    return ", ".join(f"{lead.mean:.4f}" for lead in leads) + f" ({sum(won)} of {len(won)} > 0)"
