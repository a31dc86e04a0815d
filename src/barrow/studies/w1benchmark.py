"""Twenty-eight pairs of laws whose W_1 is known, and how near certified critics come to it.

The optimal critic of these pairs is a least of cones, so a critic of cones has the form of the truth, and it is given
twice as many cones as there are funnels: its numbers say what the form is worth, and stand apart from those of the
orthogonal network, which knows neither. Both are trained on samples alone.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor, nn

from barrow.nn import lipschitz_bound
from barrow.studies import palette
from barrow.studies.funnel_critics import SPLIT_FROM, Budget, cones, independent, network
from barrow.studies.funnels import BOX, Funnels
from barrow.studies.study import BadData, Claim, Outcome, Progress, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)
COUNTS = (4, 16, 64, 256)
SEED = 987  # of pairs of our own
PUBLISHED_SAMPLES = 4096
PART = 4096
FLOOR = 0.01  # percent of error that a figure tells from nothing

# Mean, median and greatest absolute relative error in percent, mean and least cosine over the 28 pairs, certified.
PUBLISHED = {
    "WGAN-LP": (15.8, 8.8, 46.0, 0.770, 0.494, False),
    "WGAN-GP": (21.0, 13.5, 69.0, 0.727, 0.192, False),
    "3P-WGAN (MM)": (28.0, 12.8, 118.0, 0.617, 0.241, False),
    "SO (orthogonal, FullSort)": (32.7, 34.0, 81.0, 0.713, 0.256, True),
    "CoWGAN": (79.0, 41.0, 531.0, 0.630, 0.421, False),
    "spectral normalisation": (82.0, 83.0, 101.0, 0.208, 0.037, True),
    "c-transform": (89.0, 102.0, 135.0, 0.089, -0.574, False),
    "weight clipping": (108.0, 79.0, 726.0, 0.179, 0.014, False),
    "exact transport, 4096 points": (432.0, 144.0, 1718.0, 0.165, -0.359, False),
}
LP, PEER = PUBLISHED["WGAN-LP"], PUBLISHED["SO (orthogonal, FullSort)"]
HINDSIGHT = (5.5, 32.0)  # mean and greatest error of whichever method is best on each pair
# W_1 of the published pairs from 4096 samples, by count and dimension.
PUBLISHED_TRUTH = {
    4: (0.8174, 1.3853, 1.8817, 1.9405, 1.8217, 1.4113, 1.1424),
    16: (0.4662, 1.0035, 1.5850, 1.7375, 1.6697, 1.3595, 1.0720),
    64: (0.2303, 0.7098, 1.2593, 1.5536, 1.5429, 1.3173, 1.0448),
    256: (0.1336, 0.4916, 1.0080, 1.3989, 1.4123, 1.2826, 1.0415),
}


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


@final
@dataclasses.dataclass(frozen=True)
class Score:
    """A critic f judged on fresh samples: mean f(x) - mean f(y) over its certified bound, and its gradients.

    ``error`` is relative to the truth and signed, ``stderr`` its standard error; ``cosine`` is between grad f and
    -grad u at samples of x, ``l2`` the mean length of their difference.
    """

    value: float
    bound: float
    error: float
    stderr: float
    cosine: float
    l2: float
    seconds: float


@final
@dataclasses.dataclass(frozen=True)
class Row:
    """A pair and what both critics made of it.

    ``spread`` is the standard deviation of a move's length, ``residual`` the greatest | u(y) - u(x) - |x - y| | seen.
    """

    d: int
    count: int
    truth: float
    stderr: float
    spread: float
    residual: float
    cones: Score
    network: Score


def pairs(data: Path | None) -> dict[tuple[int, int], Funnels]:
    """The published pairs, where their file is given; otherwise pairs drawn by the same recipe with a seed of ours."""
    keys = [(d, count) for d in DIMENSIONS for count in COUNTS]
    if data is None:
        return {
            (d, count): Funnels.drawn(d, count, torch.Generator().manual_seed(SEED + 1000 * d + count))
            for d, count in keys
        }
    path = data / "funnels.npz" if data.is_dir() else data
    try:
        with np.load(path) as file:
            arrays = {key: torch.from_numpy(file[key]).double() for key in file.files}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} is no .npz archive of the benchmark's parameters") from error
    found = {}
    for d, count in keys:
        name = f"d{d}_n{count}_net"
        centers, offsets = (arrays.get(f"{name}.{part}") for part in ("centers", "bias"))
        if centers is None or offsets is None or centers.shape != (count, d) or offsets.numel() != count:
            raise BadData(f"{path} does not hold {name}.centers of shape ({count}, {d}) and {name}.bias of {count}")
        found[d, count] = Funnels(centers, offsets.flatten())
    return found


def judge(
    funnels: Funnels, truth: float, critic: nn.Module, n: int, generator: torch.Generator, seconds: float, sign: float
) -> Score:
    """Judge f = sign * critic on n fresh samples.

    Coupled samples make the error exact to more digits: f(x) - f(y) is compared with |x - y| move by move, and the
    truth takes the place of the mean of |x - y|.
    """
    bound = lipschitz_bound(critic)
    critic = _wide(critic)
    short, cosines, apart = [], [], []
    for start in range(0, n, PART):
        x, y = funnels.sample(min(PART, n - start), generator)
        x.requires_grad_()
        f_x = sign * critic(x)
        (slope,) = torch.autograd.grad(f_x.sum(), x)
        with torch.no_grad():
            short.append((f_x - sign * critic(y)) / bound - (x - y).norm(dim=-1))
            best = -funnels.slope(x)
            cosines.append(nn.functional.cosine_similarity(slope, best, dim=-1))
            apart.append((slope - best).norm(dim=-1))
    lost, cosine, l2 = (torch.cat(t) for t in (short, cosines, apart))
    return Score(
        value=truth + float(lost.mean()),
        bound=bound,
        error=float(lost.mean()) / truth,
        stderr=float(lost.std()) / math.sqrt(n) / truth,
        cosine=float(cosine.mean()),
        l2=float(l2.mean()),
        seconds=seconds,
    )


def _wide(critic: nn.Module) -> nn.Module:
    """The stored weights, which the certificate is about, in double precision."""
    if not isinstance(critic, nn.Sequential):
        return critic.double()
    return nn.Sequential(*(getattr(layer, "to_linear", lambda layer=layer: layer)() for layer in critic)).double()


def measure(
    d: int, count: int, funnels: Funnels, *, seed: int, effort: Effort, progress: Progress
) -> tuple[Row, tuple[nn.Module, nn.Module]]:
    """Train both critics on samples of a pair and judge them on others; every part has a source of its own."""
    name = f"{d} dimensions, {count} funnels"
    for_truth, for_samples, for_cones, for_network = (torch.Generator().manual_seed(seed + k) for k in range(4))
    progress(f"{name}: samples", 0, 1)
    truth, stderr = funnels.truth(effort.truth, for_truth)
    x, y = funnels.sample(PART, for_truth)
    residual = float((funnels.potential(y) - funnels.potential(x) - (x - y).norm(dim=-1)).abs().max())
    samples = independent(funnels, effort.train, for_samples)
    start = time.perf_counter()
    made = cones(samples, 2 * count, for_cones, effort.cones, lambda k, n: progress(f"{name}: cones", k, 2 * n))
    middle = time.perf_counter()
    net = network(
        samples,
        effort.widths,
        for_network,
        steps=effort.steps,
        rate=effort.rate,
        notice=lambda k, n: progress(f"{name}: network", n + k, 2 * n),
    )
    end = time.perf_counter()
    progress(f"{name}: judged", 0, 1)
    scores = [
        judge(funnels, truth, critic, effort.judge, torch.Generator().manual_seed(seed + 4), seconds, sign)
        for critic, seconds, sign in ((made, middle - start, -1.0), (net, end - middle, 1.0))
    ]
    row = Row(d, count, truth, stderr, stderr * math.sqrt(effort.truth), residual, *scores)
    progress(f"{name}: cones {100 * row.cones.error:+.1f} %, network {100 * row.network.error:+.1f} %", 1, 1)
    return row, (made, net)


def run(*, seed: int, quick: bool, progress: Progress, data: Path | None = None) -> Outcome:
    """The study: every pair, both critics; ``quick`` takes four pairs."""
    laws = pairs(data)
    chosen = [(2, 4), (2, 16), (8, 4), (32, 4)] if quick else list(laws)
    rows, drawn = [], None
    for k, (d, count) in enumerate(chosen):
        progress("pairs", k, len(chosen))
        row, critics = measure(
            d, count, laws[d, count], seed=seed + 100 * k, effort=effort(d, quick), progress=progress
        )
        rows.append(row)
        if (d, count) == (2, 16):
            drawn = (laws[d, count], *critics)
    progress("pairs", len(chosen), len(chosen))
    return outcome(rows, published=data is not None, plane=drawn)


# -- what follows from the rows ----------------------------------------------------------------------------------------


def outcome(rows: Sequence[Row], *, published: bool, plane: tuple[Funnels, nn.Module, nn.Module] | None) -> Outcome:
    """Claims, tables, figure and numbers of measured rows."""
    totals = {kind: summary([getattr(row, kind) for row in rows]) for kind in ("cones", "network")}
    return Outcome(
        claims=tuple(_claims(rows, totals, published)),
        figures={"w1benchmark": _figure(rows, plane)},
        numbers={
            "pairs": "published" if published else f"drawn by the published recipe with seed {SEED}",
            "rows": [dataclasses.asdict(row) for row in rows],
            "totals": totals,
            "published": {name: list(numbers) for name, numbers in PUBLISHED.items()},
        },
        durations={kind: sum(getattr(row, kind).seconds for row in rows) for kind in ("cones", "network")},
        tables={"every pair": _by_pair(rows), "all pairs": _by_method(totals, len(rows))},
    )


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Absolute errors in percent, cosines and l2 over the pairs."""
    errors = [100 * abs(score.error) for score in scores]
    return {
        "mean": statistics.fmean(errors),
        "median": statistics.median(errors),
        "max": max(errors),
        "cosine": statistics.fmean(score.cosine for score in scores),
        "least cosine": min(score.cosine for score in scores),
        "l2": statistics.fmean(score.l2 for score in scores),
    }


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
            f"mean error < {HINDSIGHT[0]} % (WGAN-LP alone: {LP[0]} %)",
            f"{cone['mean']:.2f} %",
            cone["mean"] < HINDSIGHT[0],
        ),
        Claim(
            "cones: no pair is far off",
            f"greatest error < {HINDSIGHT[1]:g} %",
            f"{cone['max']:.2f} %",
            cone["max"] < HINDSIGHT[1],
        ),
        Claim(
            "cones: gradients point where mass goes",
            f"mean cosine > 0.85 (WGAN-LP: {LP[3]})",
            f"{cone['cosine']:.3f}",
            cone["cosine"] > 0.85,
        ),
        Claim(
            "an orthogonal network beats the best certified network published, SO",
            f"mean error < {PEER[0]} %",
            f"{net['mean']:.2f} %",
            net["mean"] < PEER[0],
        ),
        Claim(
            "the form is what helps: an orthogonal network, as certified, stays further from the truth",
            f"mean error > {cone['mean']:.2f} %",
            f"{net['mean']:.2f} %",
            net["mean"] > cone["mean"],
        ),
    ]


# -- figure ------------------------------------------------------------------------------------------------------------


def _figure(rows: Sequence[Row], plane: tuple[Funnels, nn.Module, nn.Module] | None) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), dpi=130, layout="constrained", facecolor="white")
    figure.suptitle(
        "Certified critics against known W₁", fontsize=15, fontweight="bold", color=palette.TRUTH, x=0.01, ha="left"
    )
    grid = figure.add_gridspec(2, 6)
    errors, cosines = (figure.add_subplot(grid[0, part]) for part in (slice(0, 3), slice(3, 6)))
    draw_dots(
        errors, rows, lambda score: max(100 * abs(score.error), FLOOR), LP[0], "Error of the estimate", "percent of W₁"
    )
    draw_dots(cosines, rows, lambda score: score.cosine, LP[3], "Cosine with the optimal gradient", "")
    errors.set_yscale("log")
    errors.set_ylim(FLOOR / 2, 200)
    errors.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    errors.legend(frameon=False, fontsize=9, loc="lower right")
    if plane is not None:
        funnels, made, net = plane
        panels: dict[str, Callable[[Tensor], Tensor]] = {
            "The optimal critic": lambda z: -funnels.potential(z),
            "Cones, from samples": lambda z: -_wide(made)(z),
            "Orthogonal network, from samples": _wide(net),
        }
        for k, (title, critic) in enumerate(panels.items()):
            draw_levels(figure.add_subplot(grid[1, 2 * k : 2 * k + 2]), critic, funnels, title)
    return figure


def draw_dots(
    ax: Axes, rows: Sequence[Row], value: Callable[[Score], float], published: float, title: str, label: str
) -> None:
    """One dot a pair and critic, larger where there are more funnels."""
    for kind, colour, shift in (("cones", palette.SOURCE, -0.15), ("network", palette.TARGET, 0.15)):
        places = [math.log2(row.d) + shift for row in rows]
        sizes = [14 + 22 * math.log2(row.count) / 2 for row in rows]
        ax.scatter(places, [value(getattr(row, kind)) for row in rows], sizes, color=colour, alpha=0.75, label=kind)
    ax.axhline(published, color=palette.TRUTH, linewidth=1, linestyle=(0, (5, 2)), label="WGAN-LP, mean (no proof)")
    palette.dress(ax, title, "dimensions (larger dots: 4, 16, 64, 256 funnels)", label)
    ax.set_xticks([math.log2(d) for d in DIMENSIONS], [str(d) for d in DIMENSIONS])


def draw_levels(ax: Axes, critic: Callable[[Tensor], Tensor], funnels: Funnels, title: str) -> None:
    """Level sets in the plane, and samples of x."""
    ticks = torch.linspace(-BOX, BOX, 201, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    with torch.no_grad():
        heights = critic(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    ax.contourf(ticks, ticks, heights - heights.mean(), levels=16, cmap="Blues")
    x, _ = funnels.sample(400, torch.Generator().manual_seed(0))
    ax.scatter(x[:, 0], x[:, 1], 3, color=palette.TARGET, linewidths=0)
    ax.set_aspect("equal")
    ax.axis("off")
    palette.entitle(ax, title)
