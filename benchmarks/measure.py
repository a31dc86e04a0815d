"""Times the contenders of a case side by side; finds the least effort that reaches a gap; measures memory apart."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.harness import ABSENT, HERE, Case, Contender, Judged, Row, Setting

SLOW = 20.0  # seconds from which on a contender is timed twice only; three times as long, once
STRIDE = 4  # steps on the ladder of efforts between two tries, until one is enough
NAN = float("nan")
NOTHING = Judged(NAN, NAN)


class Try(NamedTuple):
    """One run, judged."""

    effort: float | None
    seconds: float
    judged: Judged


@dataclasses.dataclass
class Entry:
    """A contender with what is known of it so far."""

    contender: Contender
    effort: float | None = None
    judged: Judged = NOTHING
    reached: bool = True
    repeats: int = 0
    times: list[float] = dataclasses.field(default_factory=list)
    peak_mb: float = NAN
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.times) if self.times else NAN


def compare(case: Case, setting: Setting, repeats: int) -> list[Row]:
    """Every contender ``repeats`` times, taking turns, so that a slow spell of the machine hits all of them."""
    data = case.make(setting)
    known = case.known(data)
    entries = []
    for contender in case.contenders:
        if contender.takes(setting):
            enter = _alone if case.alone else _enter
            entries.append(enter(case, setting, data, known, contender, repeats))
    for turn in range(repeats):
        for entry in entries:
            if turn < entry.repeats:
                entry.times.append(_seconds(entry.contender, data, entry.effort))
    for entry in entries:
        if entry.times and not case.alone:
            found = _apart(case, setting, entry.contender, entry.effort)
            entry.peak_mb = found.peak_mb if isinstance(found, Apart) else NAN
    return _rows(case, setting, entries)


def _rows(case: Case, setting: Setting, entries: list[Entry]) -> list[Row]:
    peers = [e for e in entries if e.contender.package != "barrow" and e.times]
    first = (peers or entries)[0].median
    here = (datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), commit(), machine())
    rows = []
    for entry in entries:
        low, high = NAN, NAN
        if entry.times:
            several = entry.times if len(entry.times) > 1 else entry.times * 2
            low, _, high = statistics.quantiles(several, n=4, method="inclusive")
        rows.append(
            Row(
                *here,
                torch.get_num_threads(),
                case.name,
                entry.contender.name,
                entry.contender.version,
                *dataclasses.astuple(setting),
                len(entry.times),
                entry.median,
                low,
                high,
                entry.peak_mb,
                entry.judged.value,
                entry.judged.gap,
                first / entry.median if entry.reached else NAN,
                "; ".join([*entry.notes, *filter(None, [entry.judged.note])]),
            )
        )
    return rows


def use_threads(threads: int) -> None:
    """So many threads for torch, and for peers that are imported later: KeOps reads the one, JAX the other."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["NPROC"] = str(threads)


# -- one contender -----------------------------------------------------------------------------------------------------


def _run(contender: Contender, data: Any, effort: float | None) -> Any:
    return contender.run(data) if effort is None else contender.run(data, effort)


def _seconds(contender: Contender, data: Any, effort: float | None) -> float:
    start = time.perf_counter()
    found = _run(contender, data, effort)
    spent = time.perf_counter() - start
    del found
    return spent


def _try(case: Case, known: Any, contender: Contender, data: Any, effort: float | None) -> Try:
    start = time.perf_counter()
    found = _run(contender, data, effort)
    spent = time.perf_counter() - start
    return Try(effort, spent, Judged(*case.judge(known, contender.answer(found))))


def _enter(case: Case, setting: Setting, data: Any, known: Any, contender: Contender, repeats: int) -> Entry:
    """The first run of a contender, which warms the caches, and those that find its effort: none of them is timed."""
    entry = Entry(contender)
    least = contender.efforts[0] if contender.efforts else None
    if contender.version == ABSENT:
        return entry
    try:
        if contender.efforts or contender.compiles:
            first, again = (_seconds(contender, data, least) for _ in range(2))
            if contender.compiles:
                entry.notes.append(f"compiles in {max(0.0, first - again):.1f} s")
        best, gave_up = least_effort(case, known, contender, data)
    except Exception as error:  # a peer that cannot do it is a row, not an end
        if contender.package == "barrow":
            raise
        entry.notes.append(failure(error))
        return entry
    entry.effort, entry.judged = best.effort, best.judged
    entry.reached = best.judged.gap <= case.goal(known)
    if best.effort is not None:
        entry.notes.append(f"{best.effort:.4g} {contender.unit}")
    if gave_up:
        entry.notes.append(gave_up)
    if best.seconds > case.limit_s:
        entry.times.append(best.seconds)  # once is enough
    else:
        most = repeats if best.seconds < SLOW else 2 if best.seconds < 3 * SLOW else 1
        entry.repeats = min(repeats, 1 if gave_up else most)
    return entry


def least_effort(case: Case, known: Any, contender: Contender, data: Any) -> tuple[Try, str]:
    """The run with the least effort whose gap is small enough, or the last one and why there was no further one.

    By strides up the ladder until an effort is enough, then by halves between that and the last that was not.
    """
    if not contender.efforts:
        return _try(case, known, contender, data, None), ""
    goal, ladder = case.goal(known), contender.efforts
    low, k, past = -1, 0, []
    while True:
        best = _try(case, known, contender, data, ladder[k])
        past.append(best)
        if best.judged.gap <= goal:
            break
        further = min(k + STRIDE, len(ladder) - 1)
        longer = ladder[further] / ladder[k]
        if contender.compiles and best.seconds * longer > case.limit_s:
            # Some compile anew for every number of iterations.
            best = best._replace(seconds=_seconds(contender, data, ladder[k]))
        if k == further or best.seconds * longer > case.limit_s:
            return best, f"no gap of {goal:.2g} in {case.limit_s:g} s"
        if len(past) > 4 and not best.judged.gap <= 0.9 * past[-5].judged.gap:  # sixteen times the effort
            return best, f"no gap of {goal:.2g}: more effort does not help"
        low, k = k, further
    high = k
    while high - low > 1:
        k = (low + high) // 2
        tried = _try(case, known, contender, data, ladder[k])
        if tried.judged.gap <= goal:
            high, best = k, tried
        else:
            low = k
    return best, ""


def failure(error: BaseException) -> str:
    """What to write down of an exception."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:100]}"


# -- in a process of its own -------------------------------------------------------------------------------------------


class Apart(NamedTuple):
    """What a process of its own found."""

    seconds: float
    peak_mb: float  # growth of the resident set during the run
    judged: Judged | None


def _alone(case: Case, setting: Setting, data: Any, known: Any, contender: Contender, repeats: int) -> Entry:
    """One run that is timed, watched and judged apart, and ended at the limit."""
    entry = Entry(contender)
    if contender.version == ABSENT:
        return entry
    found = _apart(case, setting, contender, None, known)
    if isinstance(found, Apart) and found.judged:
        entry.times, entry.peak_mb, entry.judged = [found.seconds], found.peak_mb, found.judged
    else:
        entry.notes.append(f"nothing in {case.limit_s:g} s" if found is None else str(found))
    return entry


def _apart(
    case: Case, setting: Setting, contender: Contender, effort: float | None, known: Any = None
) -> Apart | str | None:
    """Time, memory and, where ``known`` is given, verdict of one run in a fresh process; an exception's text; None."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    names = (case.name, contender.name, setting, effort, known, torch.get_num_threads())
    process = context.Process(target=_child, args=(child, *names))
    process.start()
    child.close()
    try:
        return parent.recv() if parent.poll(5 * case.limit_s if known is None else case.limit_s) else None
    except EOFError:
        return "the process died"
    finally:
        process.join(10)  # peers tidy up behind themselves: KeOps would find half a file next time
        process.kill()
        process.join()


def _child(
    pipe: Connection, case: str, name: str, setting: Setting, effort: float | None, known: Any, threads: int
) -> None:
    from benchmarks.__main__ import CASES, use_threads  # the child builds what cannot be pickled

    use_threads(threads)
    chosen = CASES[case]
    contender = next(c for c in chosen.contenders if c.name == name)
    try:
        # Imports and thread pools must not count, nor what is compiled, which may need more than a few points.
        size = min(500, setting.n) if contender.compiles else 8
        with contextlib.suppress(Exception):
            least = contender.efforts[0] if contender.efforts else None
            _run(contender, chosen.make(dataclasses.replace(setting, n=size, m=min(size, setting.m))), least)
        data = chosen.make(setting)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = _resident()
        start = time.perf_counter()
        found = _run(contender, data, effort)
        spent, peak = time.perf_counter() - start, (_peak() - before) / 2**20
        judged = None if known is None else Judged(*chosen.judge(known, contender.answer(found)))
        pipe.send(Apart(spent, peak, judged))
    except Exception as error:
        pipe.send(failure(error))


def _status(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(field)), None)


def _resident() -> float:
    return _status("VmRSS") or _peak()


def _peak() -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return _status("VmHWM") or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(("git", *arguments), cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "../src", "../csrc")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
