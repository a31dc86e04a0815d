"""How near predicted histograms of grades are to the raters', what no predictor can pass, and what needs no text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

import barrow
from barrow.studies.ratings.texts import GRADES, Corpus, Split
from barrow.studies.study import Spread, Table

FLOOR = 1e-6  # of a predicted share, where its logarithm is taken
MEAN, MEDIAN = "constant, mean", "constant, median"
NOISE = "raters themselves"

Scores = Mapping[str, Sequence[float]]  # by measure: a value a seed


def measures(h: Tensor, t: Tensor) -> dict[str, float]:
    """How near predicted shares (n, 9) are to true ones.

    The distances EMD and EMD², KL(t | h); of the mean grades the mean absolute error and Pearson's r; how often the
    first of h is a first of t; the mean deviation of the grades under h, over that under t, and r of the deviations.
    """
    h, t, grades = h.double(), t.double(), GRADES.double()
    centre, spread = (h @ grades, t @ grades), (_deviation(h), _deviation(t))
    return {
        "EMD": float(barrow.emd_1d(h, t).mean()),
        "EMD²": float(barrow.emd_1d(h, t, 2).mean()),
        "KL": float((torch.xlogy(t, t) - torch.xlogy(t, h.clamp_min(FLOOR))).sum(-1).mean()),
        "MAE": float((centre[0] - centre[1]).abs().mean()),
        "r": _correlation(*centre),
        "mode": float((t.gather(1, h.argmax(1, keepdim=True))[:, 0] >= t.amax(1) - 1e-9).double().mean()),
        "spread": float(spread[0].mean() / spread[1].mean()),
        "r, spread": _correlation(*spread),
    }


def _deviation(h: Tensor) -> Tensor:
    grades = GRADES.to(h)
    return ((h @ grades.square()) - (h @ grades).square()).clamp_min(0).sqrt()


def _correlation(u: Tensor, v: Tensor) -> float:
    """Pearson's; 0 where one does not vary."""
    u, v = u - u.mean(), v - v.mean()
    scale = float(u.norm() * v.norm())
    return float(u @ v) / scale if scale > 1e-9 * len(u) else 0.0


def noise(histograms: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Measures of the best predictor that there could be, which knows the law of each text's grades.

    The law is taken to be the observed histogram (n, 9), and the truth to be as many raters drawn from it.
    """
    raters = histograms.sum(1)
    grades = torch.multinomial(histograms, int(raters.max()), replacement=True, generator=generator)
    counted = (torch.arange(grades.shape[1]) < raters[:, None]).to(histograms)
    drawn = torch.zeros_like(histograms).scatter_add(1, grades, counted)
    return measures(histograms / raters[:, None], drawn / raters[:, None])


def constants(shares: Tensor) -> dict[str, Tensor]:
    """Histograms (9,) that need no text: the mean of the shares (n, 9), and the best for EMD, medians of their sums."""
    median = shares.cumsum(1).median(0).values
    return {MEAN: shares.mean(0), MEDIAN: median.diff(prepend=torch.zeros(1)).clamp_min(0)}


def by_kind(h: Tensor, t: Tensor) -> list[list[float]]:
    """Means of h (n, 9) over six kinds of texts, by their raters' shares t (n, 9): six histograms, or zeros.

    First come the texts whose raters agree more than half of the texts' do, then the others; of each, those with a mean
    grade up to -1, up to 1, above.
    """
    mean, spread = t @ GRADES, _deviation(t)
    kind = (mean > -1).long() + (mean > 1).long() + 3 * (spread > spread.median()).long()
    member = torch.nn.functional.one_hot(kind, 6).to(h)
    return ((member / member.sum(0).clamp_min(1)).T @ h).tolist()


def bounds(corpus: Corpus, splits: Sequence[Split], seed: int) -> dict[str, Scores]:
    """What needs no text, and what no predictor can pass, on the test rows of every seed."""
    found: dict[str, list[dict[str, float]]] = {MEAN: [], MEDIAN: [], NOISE: []}
    for train, _, test in splits:
        for how, h in constants(corpus.shares[train]).items():
            found[how].append(measures(h.expand(len(test), -1), corpus.shares[test]))
        found[NOISE].append(noise(corpus.histograms[test], torch.Generator().manual_seed(seed)))
    return {how: listed(judged) for how, judged in found.items()}


def listed(judged: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Measures of several seeds, by measure."""
    return {name: [seen[name] for seen in judged] for name in judged[0]}


# -- all of them -------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured.

    ``scores`` are by loss, domain and number of texts to train on, and then by the domain of the test; ``whole`` is the
    number of all texts to train on of each domain; ``bounds`` are by domain the constants and the raters themselves.
    ``raters`` are mean histograms (6, 9) of the kinds of texts in the first domain, ``predicted`` by loss the same.
    """

    scores: Mapping[tuple[str, str, int], Mapping[str, Scores]]
    whole: Mapping[str, int]
    bounds: Mapping[str, Mapping[str, Scores]]
    raters: Sequence[Sequence[float]]
    predicted: Mapping[str, Sequence[Sequence[float]]]

    def losses(self, name: str, n: int | None = None) -> list[str]:
        """Those that were trained on ``n`` texts, or all, of a domain."""
        return [how for how, where, count in self.scores if (where, count) == (name, n or self.whole[name])]

    @property
    def curves(self) -> dict[str, list[int]]:
        """Numbers of texts by domain, where there are several, from few to all."""
        counts = {name: sorted({n for _, where, n in self.scores if where == name}) for name in self.whole}
        return {name: found for name, found in counts.items() if len(found) > 1}

    def of(self, how: str, name: str, measure: str = "EMD", n: int | None = None, target: str | None = None) -> Spread:
        """Over the seeds, of a loss, a constant or the raters."""
        if how in self.bounds[name]:
            return Spread.of(self.bounds[name][how][measure])
        return Spread.of(self.scores[how, name, n or self.whole[name]][target or name][measure])

    def lead(
        self, how: str, other: str, name: str, measure: str = "EMD", n: int | None = None, target: str | None = None
    ) -> Spread:
        """By how much ``how`` is below ``other``, from the same seeds."""
        return self.of(other, name, measure, n, target) - self.of(how, name, measure, n, target)

    def pairs(self) -> list[tuple[str, str]]:
        """Domains to train on, and others to judge by."""
        return [(name, target) for name in self.whole for target in self.whole if target != name]

    def tables(self) -> dict[str, Table]:
        """Tests at home by domain, tests abroad, and tests by the number of texts."""
        made = {}
        for name in self.whole:
            rows = []
            for how in (*self.losses(name), *self.bounds[name]):
                spreads = [self.of(how, name, measure) for measure in PLACES]
                rows.append((how, *(f"{s:.{k}f}" for s, k in zip(spreads, PLACES.values(), strict=True))))
            made[f"{name}: trained on {self.whole[name]} texts"] = Table(("loss", *PLACES), tuple(rows))
        home = next(iter(self.whole))
        abroad = [target for name, target in self.pairs() if name == home]
        made[f"EMD on other domains, trained on {home}"] = Table(
            ("loss", *abroad, "mean of all pairs"),
            tuple(
                (
                    how,
                    *(f"{self.of(how, home, target=target):.3f}" for target in abroad),
                    f"{self.abroad(how):.3f}",
                )
                for how in self.losses(home)
                if all(how in self.losses(name) for name in self.whole)
            ),
        )
        for name, counts in self.curves.items():
            rows = [(how, *(f"{self.of(how, name, n=n):.3f}" for n in counts)) for how in self.losses(name, counts[0])]
            made[f"EMD by the number of texts, {name}"] = Table(("loss", *map(str, counts)), tuple(rows))
        return made

    def abroad(self, how: str) -> Spread:
        """The distance on domains not trained on, a mean over all pairs, by seeds."""
        each = torch.tensor([self.of(how, name, target=target).values for name, target in self.pairs()])
        return Spread.of(each.double().mean(0).tolist())


PLACES = {"EMD": 3, "EMD²": 3, "KL": 3, "MAE": 3, "r": 3, "mode": 3, "spread": 2, "r, spread": 2}
