"""Every loss of the field on the simplest picture there is: a bump that should stand elsewhere on a line.

A bump of a hundred bins is moved away from its target, bin by bin. Losses that compare bins one by one (cross-entropy,
KL, L1, MSE) see only whether the two overlap; losses that move mass (EMD, its relaxation EMD², Sinkhorn, W₂²) see how
far apart they are. Values, slopes and gradients are shown side by side, then two descents: of the bump's position,
where all that a model can do is to move it, and of free logits behind a softmax, where mass may vanish here and appear
there.

No data and no chance are involved. After Martinez, Haurilet, Al-Halah, Tapaswi and Stiefelhagen 2016 (EMD and its
relaxation) and Cuturi 2013 (Sinkhorn).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import barrow
from barrow.studies import palette
from barrow.studies.study import Claim, Outcome, Table
from barrow.studies.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS, TARGET, WIDTH = 100, 70.0, 3.0
FLOOR = 1e-6  # mass that a prediction spreads over all bins, as a softmax does; without it KL of far bumps is infinite
EPSILON = 1.0  # in bins
SHIFTS = tuple(range(-60, 1))
FAR = 41  # bins between bumps that have nothing to do with one another
STARTS = (10.0, 25.0, 40.0, 55.0)
RATES = tuple(10.0**k for k in torch.linspace(-3, 4, 29).tolist())
POINTWISE = ("cross-entropy", "KL", "L1", "MSE")
TRANSPORT = ("EMD", "EMD²", "Sinkhorn", "W₂²")
State = dict[str, Any]

# -- losses ------------------------------------------------------------------------------------------------------------

BIN = torch.arange(BINS, dtype=torch.float64)
LINE = BIN[:, None]


def bump(centre: Tensor) -> Tensor:
    """Histograms (..., BINS) around ``centre`` (...), with a floor."""
    peak = (-0.5 * ((BIN - centre[..., None]) / WIDTH) ** 2).exp()
    return (1 - FLOOR) * peak / peak.sum(-1, keepdim=True) + FLOOR / BINS


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": lambda h, t: -(t * h.log()).sum(-1),
    "KL": lambda h, t: (t * (t / h).log()).sum(-1),
    "L1": lambda h, t: (h - t).abs().sum(-1),
    "MSE": lambda h, t: ((h - t) ** 2).mean(-1),
    "EMD": lambda h, t: barrow.emd_1d(h, t),
    "EMD²": lambda h, t: barrow.emd_1d(h, t, exponent=2),
    "Sinkhorn": lambda h, t: barrow.sinkhorn_cost(LINE, LINE, h, t, p=1, epsilon=EPSILON),
    "W₂²": lambda h, t: barrow.transport_cost(LINE, LINE, h, t, p=2),
}


def target(batch: int) -> Tensor:
    """The same bump for every row."""
    return bump(torch.full((batch,), TARGET, dtype=torch.float64))


def sweep(loss: str) -> State:
    """Value, slope in the shift, and gradient in the histogram (projected to constant mass), for every shift."""
    centre = (TARGET + torch.tensor(SHIFTS, dtype=torch.float64)).requires_grad_()
    h = bump(centre)
    value = LOSSES[loss](h, target(len(h)))
    grad, slope = torch.autograd.grad(value.sum(), (h, centre))
    return {"value": value.detach(), "slope": slope, "grad": grad - grad.mean(-1, keepdim=True)}


# -- descents ----------------------------------------------------------------------------------------------------------


def slide(loss: str, steps: int, tried: Sequence[float] = RATES) -> State:
    """Gradient descent of the bump's position from every start, at the rate that ends nearest on the whole."""
    rates = torch.tensor(tried, dtype=torch.float64)[:, None]
    centre = torch.tensor(STARTS, dtype=torch.float64).expand(len(tried), -1)
    goal = target(1).expand(*centre.shape, -1)
    path = [centre]
    for _ in range(steps):
        centre = centre.clone().requires_grad_()
        (slope,) = torch.autograd.grad(LOSSES[loss](bump(centre), goal).sum(), centre)
        # Who leaves the line is kept at its end: a rate may be far too large.
        centre = (centre.detach() - rates * slope).clamp(0, BINS - 1)
        path.append(centre)
    best = int((centre - TARGET).abs().mean(-1).argmin())
    return {"rate": tried[best], "path": torch.stack(path)[:, best]}


def reshape(loss: str, steps: int) -> State:
    """Adam on free logits behind a softmax, from the bump at 25, at the rate that ends nearest in EMD."""
    rates = (0.01, 0.03, 0.1, 0.3, 1.0)
    logits = [bump(torch.tensor(STARTS[1], dtype=torch.float64)).log().requires_grad_() for _ in rates]
    adam = torch.optim.Adam([{"params": [z], "lr": rate} for z, rate in zip(logits, rates, strict=True)])
    goal = target(len(rates))
    frames = []
    for step in range(steps + 1):
        h = torch.stack(logits).softmax(-1)
        frames.append(h.detach())
        if step < steps:
            adam.zero_grad()
            LOSSES[loss](h, goal).sum().backward()
            adam.step()
    left = barrow.emd_1d(torch.stack(frames), goal)
    best = int(left[-1].argmin())
    return {"rate": rates[best], "left": left[:, best].tolist(), "frames": torch.stack(frames)[:, best]}


def arrival(left: Sequence[float], within: float = 1.0) -> int | None:
    """The first step from which on the distance is below ``within``."""
    above = [step for step, distance in enumerate(left) if distance >= within]
    arrived = above[-1] + 1 if above else 0
    return arrived if arrived < len(left) else None


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work) -> Outcome:
    """Every loss: a sweep over shifts, and two descents."""
    steps, tried = (60, RATES[::2]) if work.quick else (200, RATES)
    sweeps = {loss: sweep(loss) for loss in LOSSES}
    slides = work.parts({f"slide, {loss}": partial(slide, loss, steps, tried) for loss in LOSSES}, "position")
    shapes = work.parts({f"logits, {loss}": partial(reshape, loss, steps) for loss in LOSSES}, "logits")
    slid = {loss: slides[f"slide, {loss}"] for loss in LOSSES}
    shaped = {loss: shapes[f"logits, {loss}"] for loss in LOSSES}
    return Outcome(
        claims=tuple(claims(sweeps, slid, shaped)),
        figures={"values": _values(sweeps), "gradients": _gradients(sweeps), "descents": _descents(slid, shaped)},
        captions={
            "values": "Each loss against the distance that the bump still has to go (grey: its slope). What compares "
            "bin by bin is flat as soon as the bumps do not overlap; what moves mass falls all the way.",
            "gradients": "The gradient over the bins when the bump stands at 40 and should stand at 70. Bin by bin "
            "it is confined to the two bumps; EMD gives a ramp, a push in the right direction everywhere between them.",
            "descents": "Left: the bump's position under gradient descent from four starts. Right: free logits "
            "behind a softmax; brightness is mass. Each loss at its best rate.",
        },
        numbers={
            "sweep": {loss: {k: sweeps[loss][k].tolist() for k in ("value", "slope")} for loss in LOSSES},
            "slide": {loss: {"rate": s["rate"], "end": s["path"][-1].tolist()} for loss, s in slid.items()},
            "logits": {loss: {"rate": s["rate"], "left": s["left"][-1]} for loss, s in shaped.items()},
        },
        tables={"descents": _table(slid, shaped)},
        sources=("bumps on a line: no data",),
    )


def _table(slid: dict[str, State], shaped: dict[str, State]) -> Table:
    rows = []
    for loss in LOSSES:
        ends = slid[loss]["path"][-1] - TARGET
        step = arrival(shaped[loss]["left"])
        cells = (f"{slid[loss]['rate']:.2g}", *(f"{float(end):+.2f}" for end in ends))
        rows.append((loss, *cells, "never" if step is None else str(step), f"{shaped[loss]['left'][-1]:.3f}"))
    starts = tuple(f"left from {TARGET - start:g}" for start in STARTS)
    return Table(("loss", "rate", *starts, "logits: steps to EMD < 1", "logits: EMD at the end"), tuple(rows))


def claims(sweeps: dict[str, State], slid: dict[str, State], shaped: dict[str, State]) -> list[Claim]:
    """What the pictures show, in numbers that could refute it."""
    distance = -torch.tensor(SHIFTS, dtype=torch.float64)
    off = {loss: float((sweeps[loss]["value"] - (1 - FLOOR) * distance).abs().max()) for loss in ("EMD", "Sinkhorn")}
    far = SHIFTS.index(-FAR)
    share = {loss: float(s["slope"][far].abs() / s["slope"].abs().max()) for loss, s in sweeps.items()}
    between = slice(int(TARGET) - FAR + 12, int(TARGET) - 12)  # four widths away from either centre
    reach = {
        loss: float((s["grad"][far][between].diff().abs() > 1e-3 * s["grad"][far].abs().max()).sum())
        for loss, s in sweeps.items()
    }
    bins = between.stop - between.start - 1
    ends = {loss: float((s["path"][-1] - TARGET).abs()[0]) for loss, s in slid.items()}
    moves = {loss: float((s["path"][-1] - s["path"][-2]).abs().max()) for loss, s in slid.items()}
    steps = {loss: arrival(s["left"]) for loss, s in shaped.items()}
    first = min((step for step in steps.values() if step is not None), default=None)

    def show(of: dict[str, float], names: Sequence[str], spec: str = ".2g") -> str:
        return ", ".join(f"{name} {of[name]:{spec}}" for name in names)

    return [
        Claim(
            "EMD of a moved bump is the distance moved, at every distance (less the floor, which does not move)",
            "within 0.1 bins from 0 to 60 (the line ends)",
            f"off by {off['EMD']:.2g} at most",
            off["EMD"] < 0.1,
        ),
        Claim(
            f"bin by bin, the slope is gone {FAR} bins away",
            "< 0.001 of the steepest",
            show(share, POINTWISE),
            max(share[loss] for loss in POINTWISE) < 1e-3,
        ),
        Claim(
            "what moves mass still pulls there",
            "> 0.5 of the steepest",
            show(share, TRANSPORT),
            min(share[loss] for loss in TRANSPORT) > 0.5,
        ),
        Claim(
            "between the bumps, the gradient of what moves mass is a ramp, that of the others flat but for one jump",
            f"bins with an incline: {bins} of {bins} against 1 at most",
            f"{show(reach, TRANSPORT)}; {show(reach, POINTWISE)}",
            min(reach[loss] for loss in TRANSPORT) == bins and max(reach[loss] for loss in POINTWISE) <= 1,
        ),
        Claim(
            "descent of the position from 60 bins away: what moves mass arrives",
            "within half a bin",
            show(ends, TRANSPORT),
            max(ends[loss] for loss in TRANSPORT) < 0.5,
        ),
        Claim(
            "and what compares bin by bin does not",
            "> 10 bins left",
            show(ends, POINTWISE),
            min(ends[loss] for loss in POINTWISE) > 10,
        ),
        Claim(
            "with a fixed step EMD hops about the target, EMD² comes to rest",
            "last move: EMD > 10 times that of EMD²",
            show(moves, ("EMD", "EMD²")),
            moves["EMD"] > 10 * moves["EMD²"],
            paper="EMD² converges faster",
        ),
        Claim(
            "free logits need no metric: there cross-entropy arrives first, for mass may jump",
            "in the fewest steps",
            ", ".join(f"{loss} {'never' if step is None else step}" for loss, step in steps.items()),
            first is not None and steps["cross-entropy"] == first,
        ),
    ]


# -- figures -----------------------------------------------------------------------------------------------------------


def _colour(loss: str) -> str:
    return palette.TARGET if loss in POINTWISE else palette.SOURCE


def _values(sweeps: dict[str, State]) -> Figure:
    figure = palette.sheet(13, 6, dpi=120)
    distance = [-shift for shift in SHIFTS]
    for ax, (loss, found) in zip(figure.subplots(2, 4).flat, sweeps.items(), strict=True):
        slope = (found["slope"].abs() / found["slope"].abs().max() * found["value"].max()).tolist()
        ax.fill_between(distance, slope, color=palette.PLAN, alpha=0.25, linewidth=0)
        ax.plot(distance, found["value"].tolist(), color=_colour(loss), linewidth=2.4)
        palette.dress(ax, loss, "bins to go")
        ax.set_ylim(bottom=0)
    return figure


def _gradients(sweeps: dict[str, State]) -> Figure:
    figure = palette.sheet(13, 6, dpi=120)
    at = SHIFTS.index(-30)
    here, there = bump(torch.tensor([TARGET - 30, TARGET], dtype=torch.float64))
    for ax, (loss, found) in zip(figure.subplots(2, 4).flat, sweeps.items(), strict=True):
        push = -found["grad"][at] / found["grad"][at].abs().max()
        for mass, colour in ((here, palette.PLAN), (there, palette.PROVED)):
            ax.fill_between(BIN.tolist(), (mass / mass.max()).tolist(), color=colour, alpha=0.35, linewidth=0)
        ax.plot(BIN.tolist(), push.tolist(), color=_colour(loss), linewidth=2)
        palette.dress(ax, loss, "bin")
        ax.set_ylim(-1.08, 1.08)
        ax.set_yticks([-1, 0, 1], ["less mass", "0", "more mass"])
    return figure


def _descents(slid: dict[str, State], shaped: dict[str, State]) -> Figure:
    figure = palette.sheet(13, 15, dpi=110)
    grid = figure.subplots(4, 4)
    for k, loss in enumerate(LOSSES):
        row, left = k % 4, 2 * (k // 4)
        position, mass = grid[row, left], grid[row, left + 1]
        position.axhline(TARGET, color=palette.PROVED, linewidth=1.6, linestyle=(0, (4, 2)))
        position.plot(slid[loss]["path"].numpy(), color=_colour(loss), linewidth=1.6)
        palette.dress(position, f"{loss}: position", "step", "bin")
        position.set_ylim(0, BINS)
        frames = shaped[loss]["frames"].T.numpy()
        mass.imshow(frames**0.5, origin="lower", aspect="auto", cmap="magma", extent=(0, frames.shape[1], 0, BINS))
        palette.dress(mass, f"{loss}: logits", "step")
        mass.grid(False)
    return figure
