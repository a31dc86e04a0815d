"""What the distance between classes does to a classifier's answer: digits that are |k - l|^p apart.

One network a p is trained on handwritten digits with the Wasserstein loss, the digits 0 to 9 lying on a line and moving
from k to l costing (|k - l| / 10)^p. At p = 0 all digits are equally far apart, which is what cross-entropy assumes;
the larger p, the cheaper it is to be off by one compared with being off by nine. Shown is the mean answer of the
network to test images of one digit.

The theory is short. With a single true label there is one plan only, so the loss is <h, C[:, y]> + epsilon sum h log h,
and the best answer to an image that is surely a y is the softmax of -C[:, y] / epsilon. The exact loss, without
entropy, is linear in h and wants all mass on y whatever the metric; it is trained as well, to see what the entropy
does. Learning rates are chosen for each loss and p on a validation split of the first seed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

import barrow
from barrow.studies import palette
from barrow.studies.data import mnist
from barrow.studies.study import Claim, Outcome, Spread, Table, descent
from barrow.studies.work import Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIGITS = 10
EPSILON = 0.1  # 1 / lambda; all costs are in [0, 1)
CROSS, ENTROPIC, EXACT = "cross-entropy", "Wasserstein, entropic", "Wasserstein, exact"
Found = dict[str, Any]  # posterior (10, 10), rows by the true digit; accuracy, validation, entropy


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    powers: tuple[float, ...] = (0, 0.25, 0.5, 1, 1.5, 2, 3, 4)
    seeds: int = 3
    train: int = 3000
    held: int = 500
    steps: int = 400
    batch: int = 100
    width: int = 64
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)


FULL = Size()
QUICK = Size(powers=(0, 1, 2), seeds=2, train=1000, held=200, steps=400, width=32, rates=(1e-2,))


# -- losses and training -----------------------------------------------------------------------------------------------


def metric(p: float) -> Tensor:
    """(|k - l| / 10)^p, and 0 for k = l."""
    k = torch.arange(DIGITS, dtype=torch.float32)
    return ((k[:, None] - k).abs() / DIGITS) ** p * (1 - torch.eye(DIGITS))


def gibbs(p: float) -> Tensor:
    """The best answers (10, 10) to images that are surely of the row's digit: the softmax of -C / epsilon."""
    return (-metric(p) / EPSILON).softmax(-1)


def loss(how: str, logits: Tensor, y: Tensor, p: float) -> Tensor:
    """The mean over a batch of answers (B, 10), before their softmax, and digits (B,)."""
    if how == CROSS:
        return nn.functional.cross_entropy(logits, y)
    h, C = logits.softmax(-1), metric(p).to(logits)
    if how == EXACT:
        return (h * C[y]).sum(-1).mean()  # C is symmetric
    return barrow.label_wasserstein(h, y, C, epsilon=EPSILON).mean()


def train(how: str, p: float, rate: float, seed: int, size: Size, data: mnist.Images) -> Found:
    """One network, and what it says about test images."""
    x, y = data.cropped.flatten(1), data.labels
    random = torch.Generator().manual_seed(seed)
    shown, held, test = torch.randperm(len(x), generator=random).split(
        [size.train, size.held, len(x) - size.train - size.held]
    )
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(x.shape[1], size.width), nn.ReLU(), nn.Linear(size.width, DIGITS))
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for _ in descent(optimiser, size.steps):
        rows = shown[torch.randint(len(shown), (size.batch,), generator=random)]
        loss(how, network(x[rows]), y[rows], p).backward()
    with torch.no_grad():
        right = [(network(x[rows]).argmax(-1) == y[rows]).float().mean() for rows in (held, test)]
        h = network(x[test]).double().softmax(-1)
    return {
        "posterior": torch.stack([h[y[test] == k].mean(0) for k in range(DIGITS)]),
        "entropy": float(-torch.xlogy(h, h).sum(-1).mean()),
        "confidence": float(h.amax(-1).mean()),
        "validation": float(right[0]),
        "accuracy": float(right[1]),
    }


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work, size: Size | None = None) -> Outcome:
    """Every p and loss, at its best learning rate."""
    size = size or (QUICK if work.quick else FULL)
    data = mnist.find(work.data)
    models = [(CROSS, 0.0), *((how, float(p)) for how in (ENTROPIC, EXACT) for p in size.powers)]

    def cell(how: str, p: float, rate: float, seed: int) -> dict[str, Callable[[], Found]]:
        make = functools.partial(train, how, p, rate, seed, size, data)
        return {f"{how}, p = {p:g}, rate {rate:g}, seed {seed}": make}

    found: dict[tuple[str, float], list[Found]] = {}
    rates: dict[tuple[str, float], float] = {}
    for k, (how, p) in enumerate(models):
        work.progress(f"{how}, p = {p:g}", k, len(models))
        first = [work.parts(cell(how, p, rate, work.seed)).popitem()[1] for rate in size.rates]
        best = max(range(len(first)), key=lambda r: float(first[r]["validation"]))
        rates[how, p] = size.rates[best]
        others = [
            work.parts(cell(how, p, size.rates[best], seed)).popitem()[1]
            for seed in range(work.seed + 1, work.seed + size.seeds)
        ]
        found[how, p] = [first[best], *others]
    work.progress("all networks", len(models), len(models))
    return Outcome(
        claims=tuple(claims(found, size)),
        figures={"digit-metric": _figure(found, size)},
        numbers={
            f"{how}, p = {p:g}": {
                "rate": rates[how, p],
                **{name: [run[name] for run in runs] for name in ("entropy", "confidence", "accuracy")},
                "posterior": sum(run["posterior"] for run in runs).div(len(runs)).tolist(),
            }
            for (how, p), runs in found.items()
        },
        tables={"networks": _table(found, rates)},
        captions={
            "digit-metric": "The mean answer to test images of a 0 and of a 4: with growing p the mass moves from the "
            "digit itself (blue) to its neighbours and beyond (orange); lines are the softmax of the costs. Right, the "
            "entropy of the answers against p."
        },
        sources=(f"{data.source}{'; ' if data.advice else ''}{data.advice}",),
    )


def by_distance(posterior: Tensor) -> Tensor:
    """The mean mass (10,) on a digit that is 0, 1, ... 9 from the true one."""
    k = torch.arange(DIGITS)
    apart = (k[:, None] - k).abs()
    return torch.stack([posterior[apart == d].mean() for d in range(DIGITS)])


def near_to_far(posterior: Tensor) -> float:
    """The mean mass on a digit that is 1 away, by that on one farther away."""
    k = torch.arange(DIGITS)
    apart = (k[:, None] - k).abs()
    return float(posterior[apart == 1].mean() / posterior[apart > 1].mean())


def variation(found: Found, p: float) -> float:
    """The total variation between the answers and what is best, a mean over digits."""
    return float((found["posterior"] - gibbs(p)).abs().sum(-1).mean()) / 2


def linearity() -> float:
    """How far exact transport to a single label is from <h, C[:, y]>, at most, over all digits and several p."""
    h = torch.rand((DIGITS, DIGITS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h, y = h / h.sum(-1, keepdim=True), torch.eye(DIGITS, dtype=torch.float64)
    apart = []
    for p in (0.5, 1, 2):
        C = metric(p).double()
        apart.append((barrow.solve(barrow.Problem(barrow.Dense(C), h, y)).value - (h * C).sum(-1)).abs().max())
    return float(torch.stack(apart).max())


def claims(found: Mapping[tuple[str, float], list[Found]], size: Size) -> list[Claim]:
    """What the paper shows, and what the formula foretells."""
    powers = [float(p) for p in size.powers]
    zero, large = powers[0], [p for p in powers if p >= 1]
    entropies = [[run["entropy"] for run in found[ENTROPIC, p]] for p in powers]
    ratios = [near_to_far(run["posterior"]) for p in large for run in found[ENTROPIC, p]]
    cross, entropic = (Spread.of(run["accuracy"] for run in found[key]) for key in ((CROSS, 0.0), (ENTROPIC, zero)))
    gaps = cross - entropic
    confident = min(run["confidence"] for run in found[ENTROPIC, zero])
    off = [max(variation(run, p) for run in found[ENTROPIC, p]) for p in powers]
    apart = linearity()
    return [
        Claim(
            "the answers spread with p: their entropy grows from each p to the next, for every seed",
            "increasing",
            ", ".join(f"{Spread.of(e).mean:.2f}" for e in entropies),
            all(a < b for low, high in itertools.pairwise(entropies) for a, b in zip(low, high, strict=True)),
            "mass spreads as p grows (figure)",
        ),
        Claim(
            "the mass goes to neighbours: for p >= 1 a digit 1 away has more than one farther away, on average",
            "ratio > 1 for every p and seed",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            min(ratios) > 1,
            "neighbours gain first (figure)",
        ),
        Claim(
            f"at p = {zero:g}, the 0/1 metric, the answers are nearly certain",
            "mean largest probability >= 0.9, for every seed",
            f"{confident:.3f}",
            confident >= 0.9,
            "near one-hot (figure)",
        ),
        Claim(
            f"at p = {zero:g} the network is as often right as with cross-entropy",
            "accuracy within 0.02, of the means",
            f"lower by {gaps:.4f}",
            abs(gaps.mean) <= 0.02,
        ),
        Claim(
            "the form of the answers is known: the softmax of -C / epsilon",
            "total variation <= 0.1 for every p and seed",
            f"{min(off):.3f} to {max(off):.3f}",
            max(off) <= 0.1,
        ),
        Claim(
            "for a single true label exact transport costs <h, C[:, y]>",
            "to within 1e-9",
            f"{apart:.0e}",
            apart <= 1e-9,
        ),
    ]  # fmt: skip


def _table(found: Mapping[tuple[str, float], list[Found]], rates: Mapping[tuple[str, float], float]) -> Table:
    rows = []
    for (how, p), runs in found.items():
        mass = torch.stack([by_distance(run["posterior"]) for run in runs])
        rows.append((
            how, "" if how == CROSS else f"{p:g}", f"{rates[how, p]:g}",
            f"{100 * Spread.of(run['accuracy'] for run in runs).mean:.1f} ± "
            f"{100 * Spread.of(run['accuracy'] for run in runs).std:.1f}",
            f"{Spread.of(run['entropy'] for run in runs):.3f}",
            *(f"{Spread.of(mass[:, d].tolist()):.3f}" for d in range(4)),
        ))  # fmt: skip
    columns = ("loss", "p", "rate", "accuracy, %", "entropy", "on itself", "1 away", "2 away", "3 away")
    return Table(columns, tuple(rows))


# -- figures -----------------------------------------------------------------------------------------------------------


def draw_answer(ax: Axes, found: Mapping[tuple[str, float], list[Found]], powers: list[float], digit: int) -> None:
    """The mean answer to images of one digit against p, one line a class, darker the nearer it is."""
    answers = torch.stack(
        [torch.stack([run["posterior"][digit] for run in found[ENTROPIC, p]]).mean(0) for p in powers]
    )
    fine = [powers[0] + (powers[-1] - powers[0]) * k / 80 for k in range(81)]
    foretold = torch.stack([gibbs(p)[digit] for p in fine])
    farthest = max(digit, DIGITS - 1 - digit)
    for k in range(DIGITS):
        colour = palette.blend(palette.SOURCE, palette.TARGET, abs(k - digit) / farthest)
        ax.plot(fine, foretold[:, k], color=colour, linewidth=1, alpha=0.5)
        ax.plot(powers, answers[:, k], color=colour, linestyle="none", marker="o", markersize=4.5)
    palette.dress(ax, f"Answer to images of a {digit}", "exponent p of the metric", "mean probability")
    ax.set_ylim(-0.02, 1.02)
    for k in sorted({digit, digit + 1, digit + 2, DIGITS - 1}):
        colour = palette.blend(palette.SOURCE, palette.TARGET, abs(k - digit) / farthest)
        ax.plot([], [], color=colour, marker="o", markersize=4.5, linewidth=1, label=f"{k}")
    ax.legend(frameon=False, fontsize=9, title="probability of", title_fontsize=9)


def draw_entropy(ax: Axes, found: Mapping[tuple[str, float], list[Found]], powers: list[float]) -> None:
    """The entropy of the answers, by loss."""
    fine = [powers[0] + (powers[-1] - powers[0]) * k / 80 for k in range(81)]
    best = [float(-torch.xlogy(gibbs(p), gibbs(p)).sum(-1).mean()) for p in fine]
    ax.axhline(math.log(DIGITS), color=palette.PLAN, linewidth=1, linestyle=":")
    ax.text(powers[-1], math.log(DIGITS), "uniform", ha="right", va="bottom", fontsize=9, color=palette.PLAN)
    ax.plot(fine, best, color=palette.TRUTH, linewidth=1.2, linestyle=(0, (4, 2)), label="softmax of the costs")
    for how, colour in ((ENTROPIC, palette.SOURCE), (EXACT, palette.PROVED)):
        spreads = [Spread.of(run["entropy"] for run in found[how, p]) for p in powers]
        ax.errorbar(
            powers, [s.mean for s in spreads], [s.std for s in spreads], color=colour, linewidth=2, marker="o",
            markersize=4.5, label=how,
        )  # fmt: skip
    cross = Spread.of(run["entropy"] for run in found[CROSS, 0.0]).mean
    ax.axhline(cross, color=palette.TARGET, linewidth=1.6, label=CROSS)
    palette.dress(ax, "Entropy of the answers", "exponent p of the metric", "nats")
    ax.legend(frameon=False, fontsize=9, loc="center right")


def _figure(found: Mapping[tuple[str, float], list[Found]], size: Size) -> Figure:
    powers = [float(p) for p in size.powers]
    figure = palette.sheet(14, 4.3)
    zero, four, entropy = figure.subplots(1, 3)
    draw_answer(zero, found, powers, 0)
    draw_answer(four, found, powers, 4)
    draw_entropy(entropy, found, powers)
    return figure
