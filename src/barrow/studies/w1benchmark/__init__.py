"""Twenty-eight pairs of laws whose W_1 is known, and how near certified critics come to it.

A cube in 2 to 128 dimensions, and the law that it becomes when everything slides down 4 to 256 funnels. Mass moves
along rays of a potential of slope one, so W_1 and the optimal critic are known, and a critic that was trained on
samples alone can be held against them: how near does it come, and is what it says below the truth for certain?

Two critics are tried that are proved 1-Lipschitz. The optimal critic of these pairs is a least of cones, so a critic of
cones has the form of the truth, and it is given twice as many cones as there are funnels: its numbers say what the form
is worth, and stand apart from those of the other, a network of orthogonal layers, which knows nothing of it. Errors are
those of E f(x) - E f(y), over the proved Lipschitz bound, on fresh samples; cosines are with the optimal gradient.

The pairs are those of Korotin, Kolesov and Burnaev, "Kantorovich strikes back! Wasserstein GANs are not optimal
transport?", NeurIPS 2022.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch

from barrow.studies.study import Claim, Outcome, Table
from barrow.studies.w1benchmark.critics import SPLIT_FROM, Budget, Samples, cones, independent, network
from barrow.studies.w1benchmark.figures import Plane, figure_of, levels
from barrow.studies.w1benchmark.funnels import Funnels
from barrow.studies.w1benchmark.judge import PART, Row, Score, judge, summary, wide
from barrow.studies.w1benchmark.pairs import (
    DIMENSIONS,
    HINDSIGHT,
    LP,
    PEER,
    PUBLISHED,
    PUBLISHED_SAMPLES,
    PUBLISHED_TRUTH,
    SEED,
    pairs,
)
from barrow.studies.work import Work

KINDS = ("cones", "network")
DRAWN = (2, 16)  # dimensions and funnels of the pair whose critics are drawn


@final
@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is spent on a pair: samples to train on, to judge by, and for the truth; steps."""

    train: int
    judge: int
    truth: int
    cones: Budget
    widths: tuple[int, ...]
    steps: int
    rate: float


def effort(d: int, quick: bool) -> Effort:
    """More samples in many dimensions, where tips are far from all of them."""
    if quick:
        return Effort(20_000, 20_000, 40_000, Budget(200, 30, 200, 1024), (64, 64, 64), 400, 0.01)
    if d < 8:
        return Effort(100_000, 100_000, 1_000_000, Budget(400, 40, 800), (64,) * 6, 2000, 0.003)
    if d < SPLIT_FROM:
        return Effort(100_000, 100_000, 1_000_000, Budget(400, 40, 800), (128,) * 5, 1500, 0.01)
    return Effort(400_000, 100_000, 1_000_000, Budget(500, 40, 800, 4096), (128,) * 5, 1500, 0.01)


def measure(work: Work, d: int, count: int, funnels: Funnels, seed: int) -> tuple[Row, Plane | None]:
    """Train both critics on samples of a pair and judge them on others; whatever is drawn has a seed of its own."""
    size, name = effort(d, work.quick), f"{d} dimensions, {count} funnels"

    def chance(k: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed + k)

    @functools.cache
    def samples() -> Samples:
        return independent(funnels, size.train, chance(1))

    def known() -> dict[str, float]:
        generator = chance(0)
        truth, stderr = funnels.truth(size.truth, generator)
        x, y = funnels.sample(PART, generator)
        off = funnels.potential(y) - funnels.potential(x) - (x - y).norm(dim=-1)
        spread = stderr * math.sqrt(size.truth)
        return {"truth": truth, "stderr": stderr, "spread": spread, "residual": float(off.abs().max())}

    truth = work.part(f"{name}: truth", known)

    def trained(kind: str) -> dict[str, Any]:
        def notice(done: int, total: int) -> None:
            work.progress(f"{name}: {kind}", done, total)

        sign, critic = (
            (-1.0, cones(samples(), 2 * count, chance(2), size.cones, notice))
            if kind == "cones"
            else (1.0, network(samples(), size.widths, chance(3), steps=size.steps, rate=size.rate, notice=notice))
        )
        score = judge(funnels, truth["truth"], critic, size.judge, chance(4), sign)
        heights = levels(lambda z: sign * wide(critic)(z)) if (d, count) == DRAWN else None
        return {"score": dataclasses.asdict(score), "heights": heights}

    kept = {kind: work.part(f"{name}: {kind}", functools.partial(trained, kind)) for kind in KINDS}
    made, net = (Score(**kept[kind]["score"]) for kind in KINDS)
    row = Row(d=d, count=count, **truth, cones=made, network=net)
    plane = Plane(funnels, *(kept[kind]["heights"] for kind in KINDS)) if (d, count) == DRAWN else None
    work.progress(f"{name}: cones {100 * row.cones.error:+.1f} %, network {100 * row.network.error:+.1f} %", 1, 1)
    return row, plane


def run(work: Work) -> Outcome:
    """The study: every pair, both critics; the quick form takes four pairs."""
    laws = pairs(work.data)
    chosen = [(2, 4), (2, 16), (8, 4), (32, 4)] if work.quick else list(laws)
    rows, plane = [], None
    for k, (d, count) in enumerate(chosen):
        work.progress("pairs", k, len(chosen))
        row, seen = measure(work, d, count, laws[d, count], work.seed + 100 * k)
        rows.append(row)
        plane = plane or seen
    work.progress("pairs", len(chosen), len(chosen))
    return outcome(rows, published=work.data is not None, plane=plane)


# -- what follows from the rows ----------------------------------------------------------------------------------------


def outcome(rows: Sequence[Row], *, published: bool, plane: Plane | None) -> Outcome:
    """Claims, tables, figure and numbers of measured rows."""
    totals = {kind: summary([getattr(row, kind) for row in rows]) for kind in KINDS}
    return Outcome(
        claims=tuple(_claims(rows, totals, published)),
        figures={"w1benchmark": figure_of(rows, plane)},
        numbers={
            "pairs": "published" if published else f"drawn by the published recipe with seed {SEED}",
            "rows": [dataclasses.asdict(row) for row in rows],
            "totals": totals,
            "published": {name: list(numbers) for name, numbers in PUBLISHED.items()},
        },
        tables={"every pair": _by_pair(rows), "all pairs": _by_method(totals, len(rows))},
        captions={
            "w1benchmark": "Above, a dot for each pair and critic: how far its estimate is from W₁, and how well its "
            "gradients point where mass goes. Below, one pair in the plane: level sets of the optimal critic and of "
            "both that saw samples alone; orange is the law that slid down the funnels."
        },
        sources=(
            "the parameters of the published pairs"
            if published
            else f"pairs drawn by the published recipe with seed {SEED}; for the published ones: --data with their "
            "parameters in one funnels.npz (keys d2_n4_net.centers, d2_n4_net.bias and so on)",
        ),
    )


def _by_pair(rows: Sequence[Row]) -> Table:
    return Table(
        ("d", "funnels", "W_1", "cones", "error", "cosine", "network", "error", "cosine"),
        tuple(
            (
                f"{row.d}",
                f"{row.count}",
                f"{row.truth:.4f} ± {row.stderr:.4f}",
                *(
                    cell
                    for score in (row.cones, row.network)
                    for cell in (
                        f"{score.value:.4f}",
                        f"{100 * score.error:+.2f} ± {100 * score.stderr:.2f} %",
                        f"{score.cosine:.3f}",
                    )
                ),
            )
            for row in rows
        ),
    )


def _by_method(totals: Mapping[str, Mapping[str, float]], count: int) -> Table:
    ours = [
        (
            f"{name}, {count} pairs",
            *(f"{total[key]:.1f} %" for key in ("mean", "median", "max")),
            f"{total['cosine']:.3f}",
            f"{total['least cosine']:.3f}",
            "yes",
        )
        for name, total in (("cones, as the truth", totals["cones"]), ("orthogonal network", totals["network"]))
    ]
    theirs = [
        (
            f"{name}, published, 28 pairs",
            *(f"{number:.1f} %" for number in numbers[:3]),
            f"{numbers[3]:.3f}",
            f"{numbers[4]:.3f}",
            "yes" if numbers[5] else "-",
        )
        for name, numbers in PUBLISHED.items()
    ]
    return Table(("critic", "mean", "median", "greatest", "cosine", "least", "certified"), (*ours, *theirs))


def _claims(rows: Sequence[Row], totals: Mapping[str, Mapping[str, float]], published: bool) -> list[Claim]:
    cone, net = totals["cones"], totals["network"]
    residual = max(row.residual for row in rows)
    bounds = [score.bound for row in rows for score in (row.cones, row.network)]
    highest = max(score.error for row in rows for score in (row.cones, row.network))
    noise = max(row.stderr / row.truth for row in rows)
    off = max(
        abs(row.truth - PUBLISHED_TRUTH[row.count][DIMENSIONS.index(row.d)])
        / math.hypot(row.stderr, row.spread / math.sqrt(PUBLISHED_SAMPLES))
        for row in rows
    )
    agreement = (
        Claim(
            f"the recomputed distances are the published ones, as far as those of {PUBLISHED_SAMPLES} samples can tell",
            "within 4 standard errors",
            f"{off:.1f} at most",
            off < 4,
            paper=f"W_1 of each pair from {PUBLISHED_SAMPLES} samples",
        )
        if published
        else Claim(
            "the distances of these pairs, drawn anew by the published recipe, are known well",
            "standard error below 1 %",
            f"{100 * noise:.2f} % at most",
            noise < 0.01,
        )
    )
    return [
        Claim(
            "the potential of the recipe is optimal: it falls along each move by its length",
            "0 within 1e-6",
            f"{residual:.0e}",
            residual < 1e-6,
        ),
        agreement,
        Claim(
            "no critic cheats: Lipschitz bounds are certified and no estimate is above the truth",
            "<= 1.0001, <= 0 %",
            f"{max(bounds):.7f}, {100 * highest:+.2f} %",
            max(bounds) <= 1.0001 and highest <= 0,
        ),
        Claim(
            "cones, which have the form of the truth, are nearer than the best of all published methods on each pair",
            f"mean error < {HINDSIGHT[0]} %",
            f"{cone['mean']:.2f} %",
            cone["mean"] < HINDSIGHT[0],
            paper=f"{HINDSIGHT[0]} %, the best of eleven methods on each pair; {LP[0]} %, WGAN-LP alone",
        ),
        Claim(
            "cones: no pair is far off",
            f"greatest error < {HINDSIGHT[1]:g} %",
            f"{cone['max']:.2f} %",
            cone["max"] < HINDSIGHT[1],
            paper=f"{HINDSIGHT[1]:g} %, the best on each pair; {LP[2]:g} %, WGAN-LP alone",
        ),
        Claim(
            "cones: gradients point where mass goes",
            "mean cosine > 0.85",
            f"{cone['cosine']:.3f}",
            cone["cosine"] > 0.85,
            paper=f"{LP[3]}, WGAN-LP",
        ),
        Claim(
            "an orthogonal network beats the best certified network published, SO",
            f"mean error < {PEER[0]} %",
            f"{net['mean']:.2f} %",
            net["mean"] < PEER[0],
            paper=f"{PEER[0]} %, SO",
        ),
        Claim(
            "the form is what helps: an orthogonal network, as certified, stays further from the truth",
            f"mean error > {cone['mean']:.2f} %",
            f"{net['mean']:.2f} %",
            net["mean"] > cone["mean"],
        ),
    ]
