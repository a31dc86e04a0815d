"""How fast does someone breathe, if the belt around the chest slips, drifts and picks up the heart?

A network sees a minute of a noisy belt and predicts the power spectrum of the breathing behind it, a histogram over 64
frequencies. Losses that compare bin by bin (MSE, L1, KL) know whether the mass is in the right bins; losses that move
mass along the axis (EMD, its relaxation EMD², a Sinkhorn divergence) also know how far it is from them. Asked is how
many steps it takes until the rate, where the spectrum has its peak, and the spectrum itself, in EMD, are right to
within half the error of the best constant guess; and how good both are at the end, on windows never seen.

The breathing is simulated: 8 to 30 breaths a minute that drift, under heartbeats, 1/f drift, movements and gaps. It is
learned with Adam, which makes up for the scale of a loss, and with SGD. Where the recordings are at hand there is a
second task: the belts of two people, made noisier in the same way, whose own spectrum is to be found. It is trained on
one person's first 51 minutes and judged on the last 24 and on the other person. Two recordings say nothing of people
at large.

Every loss has the same network, initial weights, windows in the same order, and number of steps; its learning rate is
the one of a common grid with the least errors on validation windows, a mean over the training of the first seed. After
Martinez, Haurilet, Al-Halah, Tapaswi and Stiefelhagen 2016, whose recordings of sleepers are not public.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from barrow.studies.data import belt, cache
from barrow.studies.data.cache import MissingData
from barrow.studies.spectrum import breathing
from barrow.studies.spectrum import figures as spectrum_figures
from barrow.studies.spectrum.breathing import Windows
from barrow.studies.spectrum.training import (
    ADAM,
    EMD,
    LOSSES,
    MEDIAN,
    RATE,
    SGD,
    Found,
    Length,
    Task,
    arrivals,
    chosen,
    guesses,
    looks,
    train,
    way,
)
from barrow.studies.study import Claim, Outcome, Spread, Table
from barrow.studies.work import Work

HALF = 0.5  # of the constant guess's error: where the clock is stopped
WAY = 0.9  # from the constant guess to the end: what counts as converged
WHAT = {EMD: "an EMD", RATE: "a rate error"}
ADVICE = "for the belts of two people as a second task: barrow data biopeaks systole"
Known = Mapping[str, Mapping[str, Sequence[float]]]


@final
@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    windows: int = 8192  # simulated ones to train on: an epoch
    held: int = 128
    test: int = 512
    steps: int = 256
    batch: int = 32
    adam: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)
    sgd: tuple[float, ...] = (0.003, 0.01, 0.03)
    seeds: int = 5
    fewer: int = 3  # seeds with SGD, and on the recordings
    whole: bool = True  # SGD and the recordings too

    @property
    def length(self) -> Length:
        """Of every training."""
        return Length(self.steps, self.batch)


FULL = Size()
QUICK = Size(1536, 96, 256, 96, 16, adam=(0.001, 0.003), seeds=2, whole=False)


# -- tasks -------------------------------------------------------------------------------------------------------------


def simulated(size: Size, seed: int) -> list[Task]:
    """Breathing made here, learned in one way or in two."""
    many, held, test = (
        breathing.simulated(count, 10 * seed + k) for k, count in enumerate((size.windows, size.held, size.test))
    )
    task = Task("simulated", many, held, {"simulated": test}, ADAM, size.adam, size.seeds)
    few = ("MSE", "KL", "EMD", "EMD²")
    slow = dataclasses.replace(task, name="simulated, SGD", descent=SGD, rates=size.sgd, seeds=size.fewer, losses=few)
    return [task, slow] if size.whole else [task]


def recorded(data: Path | None, size: Size, seed: int) -> tuple[Task, tuple[str, ...]]:
    """Two belts, made noisier, and what they are: one is cut in time, the other only judges."""
    person, other = (belt.find(name, cache.within(data, name)) for name in ("biopeaks", "systole"))
    first, middle, last = breathing.parts(person, (0.6, 0.12, 0.28))
    early, held, later, second = (
        breathing.recorded(signal, seconds, 10 * seed + k)
        for k, (signal, seconds) in enumerate(((first, 1), (middle, 3), (last, 3), (other.belt, 3)))
    )
    tests = {"same person, later": later, "another person": second}
    return Task("recorded", early, held, tests, ADAM, size.adam, size.fewer), (
        f"{person.source}: {len(early)} windows to train on, {len(held)} and {len(later)} later ones",
        f"{other.source}: {len(second)} windows, without those in which the belt left its range",
    )


def _tasks(work: Work, size: Size) -> tuple[list[Task], tuple[str, ...]]:
    made = simulated(size, work.seed)
    source = f"simulated breathing: {len(made[0].train)} windows to train on, made here"
    if work.data is not None or size.whole:
        try:
            real, sources = recorded(work.data, size, work.seed)
        except MissingData:
            return made, (f"{source}; {ADVICE}",)
        return [*made, real], (source, *sources)
    return made, (source,)


# -- the study ---------------------------------------------------------------------------------------------------------


def run(work: Work, size: Size | None = None) -> Outcome:
    """Every task and loss: all rates with the first seed, then the chosen one with the others."""
    size = size or (QUICK if work.quick else FULL)
    tasks, sources = _tasks(work, size)
    known = {task.name: guesses(task) for task in tasks}
    found = {t.name: _trained(work, t, size.length, known[t.name]["validation"]["constant"]) for t in tasks}
    goal = {task.name: goals(known[task.name]) for task in tasks}
    return Outcome(
        claims=(
            *(claim for t in tasks for claim in claims(t, found[t.name], known[t.name], size.length)),
            farther(tasks[0].held),
        ),
        figures={
            "training": spectrum_figures.training(found, goal, looks(size.length.steps)),
            "gradients": spectrum_figures.gradients(tasks[0].held),
            "examples": spectrum_figures.examples(tasks, found),
        },
        captions={
            "training": "Errors on validation windows against steps, a mean over seeds with a band of one standard "
            "deviation; dashed, half the error of the best constant guess, where the clock is stopped.",
            "gradients": "A prediction that is ten bins too fast, and the push of three losses on it, bin by bin: that "
            "of MSE is confined to the two peaks, that of EMD is a ramp over the whole axis, that of EMD² one between "
            "the peaks. Last, the losses as the prediction is moved along the axis.",
            "examples": "Windows that no network has seen, and below them the spectrum of the breathing (grey) with "
            "what networks under three losses make of the window.",
        },
        numbers={t.name: _numbers(t, found[t.name], known[t.name], size.length) for t in tasks},
        tables={
            f"{t.name}: errors in breaths/min": _table(t, found[t.name], known[t.name], size.length) for t in tasks
        },
        sources=sources,
    )


def _trained(work: Work, task: Task, length: Length, constant: Sequence[float]) -> dict[str, list[Found]]:
    """By loss, a run for each seed, at the rate that the first seed chose."""

    def name(how: str, rate: float, k: int) -> str:
        return f"{task.name}, {how}, rate {rate:g}, seed {k}"

    def cell(how: str, rate: float, k: int) -> Callable[[], Found]:
        return functools.partial(train, how, rate, task, length, 1000 * work.seed + k)

    first = [(how, rate, 0) for how in task.losses for rate in task.rates]
    runs = work.parts({name(*at): cell(*at) for at in first}, task.name)
    best = {how: chosen({rate: runs[name(how, rate, 0)] for rate in task.rates}, constant) for how in task.losses}
    more = [(how, best[how], k) for how in task.losses for k in range(1, task.seeds)]
    runs |= work.parts({name(*at): cell(*at) for at in more}, f"{task.name}, more seeds")
    return {
        how: [{**runs[name(how, best[how], k)], "rate": best[how]} for k in range(task.seeds)] for how in task.losses
    }


def goals(known: Known) -> dict[int, float]:
    """Half the errors of the constant guess on validation windows."""
    return {which: HALF * known["validation"]["constant"][which] for which in (RATE, EMD)}


def counted(steps: Sequence[int | None], length: Length) -> list[int]:
    """Never counts as the end."""
    return [length.steps if step is None else step for step in steps]


def shown(steps: Sequence[int | None], length: Length) -> str:
    """A mean, and how often it was never."""
    never = sum(step is None for step in steps)
    if never == len(steps):
        return "never"
    return f"{Spread.of(counted(steps, length)):.0f}" + (f" ({never} of {len(steps)} never)" if never else "")


def claims(task: Task, found: Mapping[str, list[Found]], known: Known, length: Length) -> list[Claim]:
    """What the paper says of EMD², for one task."""
    goal, made = goals(known), []
    for other, sign in (("MSE", "<"), ("EMD", "<=")):
        for which, what in WHAT.items():
            mine, theirs = (arrivals(found[how], which, goal[which], length.steps) for how in ("EMD²", other))
            early, late = sum(counted(mine, length)), sum(counted(theirs, length))
            made.append(
                Claim(
                    f"{task.name}: EMD² gets to {what} of {goal[which]:.2f} breaths/min in fewer steps than {other}"
                    + (", or as many" if sign == "<=" else ""),
                    f"always, and {sign} {shown(theirs, length)}",
                    shown(mine, length),
                    None not in mine and (early < late or (sign == "<=" and early == late)),
                    "EMD² converges faster",
                )
            )
    for test in task.tests:
        ours, others = (Spread.of(run["tests"][test][RATE] for run in found[how]) for how in ("EMD²", "MSE"))
        where = f"{task.name}, {test}" if len(task.tests) > 1 else task.name
        made.append(
            Claim(
                f"{where}: at the end the rate is no worse under EMD² than under MSE",
                f"<= {others:.2f} breaths/min, the error of MSE",
                f"{ours:.2f}",
                ours.mean <= others.mean,
            )
        )
    quarter = len(task.train) / length.batch / 4
    constant = known["validation"]["constant"][EMD]
    ways = Spread.of(
        way([look[EMD] for look in run["curve"]], constant, quarter, length.steps) for run in found["EMD²"]
    )
    made.append(
        Claim(
            f"{task.name}: EMD² has converged within a quarter of the first epoch, {quarter:.0f} steps",
            f"EMD has come >= {100 * WAY:.0f} % of its way from the constant guess to the end",
            f"{100 * ways.mean:.0f} %",
            ways.mean >= WAY,
            "EMD² converges within the first quarter of the first epoch",
        )
    )
    return made


def farther(windows: Windows) -> Claim:
    """Whether losses tell twenty bins off from ten, on spectra as they are; peaks are four bins wide at half height."""
    ten, twenty = (windows.spectra.roll(bins, -1) for bins in (10, 20))
    ratio = {
        how: float((LOSSES[how](twenty, windows.spectra) / LOSSES[how](ten, windows.spectra)).mean())
        for how in ("MSE", "EMD²")
    }
    return Claim(
        "a spectrum moved by twenty bins is hardly worse than one moved by ten under MSE, and much worse under EMD²",
        "loss at twenty over loss at ten: MSE < 1.1, EMD² > 1.8",
        ", ".join(f"{how} {value:.2f}" for how, value in ratio.items()),
        ratio["MSE"] < 1.1 and ratio["EMD²"] > 1.8,
        "the gradient of MSE is local, that of EMD is not",
    )


def _numbers(task: Task, found: Mapping[str, list[Found]], known: Known, length: Length) -> dict[str, Any]:
    return {
        "guesses": known,
        "looks": looks(length.steps),
        "losses": {
            how: {
                "rate": runs[0]["rate"],
                "curves": {
                    title: [[look[which] for look in run["curve"]] for run in runs]
                    for title, which in (("rate", RATE), ("EMD", EMD), ("rate by median", MEDIAN))
                },
                "steps": {
                    title: arrivals(runs, which, goals(known)[which], length.steps)
                    for title, which in (("rate", RATE), ("EMD", EMD))
                },
                "tests": {test: [list(run["tests"][test]) for run in runs] for test in task.tests},
            }
            for how, runs in found.items()
        },
    }


def _table(task: Task, found: Mapping[str, list[Found]], known: Known, length: Length) -> Table:
    goal, errors = goals(known), [(test, which) for test in task.tests for which in (RATE, MEDIAN, EMD)]
    rows = []
    for how, runs in found.items():
        steps = (shown(arrivals(runs, which, goal[which], length.steps), length) for which in (RATE, EMD))
        ends = (f"{Spread.of(run['tests'][test][which] for run in runs):.2f}" for test, which in errors)
        rows.append((how, f"{runs[0]['rate']:g}", *steps, *ends))
    for guess, title in (("constant", "the best constant guess"), ("as it is", "the noisy belt's own spectrum")):
        rows.append((title, "", "", "", *(f"{known[test][guess][which]:.2f}" for test, which in errors)))
    titles = {RATE: "rate", MEDIAN: "rate by median", EMD: "EMD"}
    ends = (
        f"{titles[which]}, {test}" if len(task.tests) > 1 else f"{titles[which]} at the end" for test, which in errors
    )
    return Table(
        ("loss", "learning rate", f"steps to a rate within {goal[RATE]:.2f}", f"steps to EMD {goal[EMD]:.2f}", *ends),
        tuple(rows),
    )
