"""Entropic transport on a CUDA device, against FlashSinkhorn and GeomLoss: `python -m benchmarks.gpu --help`.

Two questions a setting, each answered for everybody on the same points and weights:

* sweep: the time of one full iteration (both potentials) at a fixed epsilon, from the difference between a long and a
  short run, so that neither compilation nor preparation counts;
* solve: the least effort whose potentials `barrow.certify` (float64) brackets within the goal, and its time. A peer's
  potentials are certified as ours are; the certificate's own time is not counted for anybody.

Times are medians of device events over whole runs. Lines go to gpu.csv beside the other results.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import barrow
from benchmarks.harness import ABSENT, version_of

HERE = Path(__file__).parent
SHORT, LONG = 8, 40  # iterations of the two runs whose difference tells what one costs
LIMIT = 30.0  # seconds beyond which no more effort is tried


class Setting(NamedTuple):
    n: int
    m: int
    d: int
    batch: int = 1
    blur: float = 0.01  # epsilon in units of the mean cost
    cost: str = "squared"

    def __str__(self) -> str:
        return (
            f"n={self.n} m={self.m} d={self.d} batch={self.batch} epsilon={self.blur:g} of the mean cost, {self.cost}"
        )


SETTINGS = (
    Setting(50_000, 50_000, 64),
    Setting(50_000, 50_000, 3),
    Setting(10_000, 10_000, 3),
    Setting(10_000, 10_000, 3, cost="euclidean"),
    Setting(100_000, 100_000, 16),
    Setting(9_973, 20_011, 256),
    Setting(1_000, 1_000, 3, batch=64),
    Setting(64, 64, 3, batch=2048),
)


class Data(NamedTuple):
    x: Tensor  # (B, n, d)
    y: Tensor
    a: Tensor
    b: Tensor
    epsilon: float
    p: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of gpu.csv."""

    date: str
    commit: str
    device: str
    torch: str
    question: str
    contender: str
    version: str
    n: int
    m: int
    d: int
    batch: int
    epsilon: float
    cost: str
    median_s: float
    peak_mb: float
    effort: float
    gap: float
    note: str


@dataclasses.dataclass(frozen=True)
class Contender:
    """``sweeps(data, count)`` prepares and returns what runs so many iterations; ``solve(data, effort)`` potentials.

    ``efforts`` rise. What a contender cannot do is None.
    """

    name: str
    package: str
    sweeps: Callable[[Data, int], Callable[[], object]] | None
    solve: Callable[[Data, float], tuple[Tensor, Tensor]] | None
    efforts: tuple[float, ...] = ()
    takes: Callable[[Setting], bool] = lambda setting: True

    @property
    def version(self) -> str:
        return version_of(self.package)


# -- contenders --------------------------------------------------------------------------------------------------------


def _kernels(product: str | None) -> Contender:
    def sweeps(data: Data, count: int) -> Callable[[], object]:
        from barrow.ops.triton.sinkhorn import Effort, Entropic, Sweeps

        start = torch.zeros_like(data.a), torch.zeros_like(data.b)
        asked = Entropic(data.x, data.y, data.a, data.b, data.epsilon, data.p)
        state = Sweeps(asked, Effort(start, max_steps=1 << 30, product=product))
        state.goal.fill_(-1.0)  # never
        state.omega.fill_(1.0)
        return lambda: state.advance(count)

    def solve(data: Data, effort: float) -> tuple[Tensor, Tensor]:
        from barrow.ops.triton.sinkhorn import Effort, Entropic, sinkhorn_on_device

        asked = Entropic(data.x, data.y, data.a, data.b, data.epsilon, data.p)
        found = sinkhorn_on_device(asked, Effort(settle=1 / effort, product=product))
        return found.f, found.g

    def takes(setting: Setting) -> bool:
        return product in (None, "direct") or (setting.cost == "squared" and setting.d > 16)

    efforts = tuple(10 ** (k / 2) for k in range(1, 11)) if product is None else ()
    return Contender(f"barrow kernels {product or ''}".strip(), "barrow", sweeps, solve, efforts, takes)


def barrow_solve(data: Data, effort: float) -> tuple[Tensor, Tensor]:
    cost = barrow.Points(data.x, data.y, p=data.p)
    solution = barrow.solve(barrow.Problem(cost, data.a, data.b, epsilon=data.epsilon), barrow.Sinkhorn(tol=1 / effort))
    return solution.f, solution.g


def _flash(data: Data, backend: str, tf32: bool, **options: Any) -> Callable[[], Any]:
    from flash_sinkhorn import SamplesLoss

    loss = SamplesLoss(backend=backend, potentials=True, normalize=False, allow_tf32=tf32, eps=data.epsilon, **options)
    if len(data.x) == 1:
        return lambda: loss(data.a[0], data.x[0], data.b[0], data.y[0])
    return lambda: loss(data.a, data.x, data.b, data.y)


def _flash_contender(backend: str, tf32: bool) -> Contender:
    def plain(count: int) -> dict[str, Any]:
        return {"n_iters": count, "use_epsilon_scaling": False}

    def sweeps(data: Data, count: int) -> Callable[[], object]:
        return _flash(data, backend, tf32, **plain(count))

    def solve(data: Data, effort: float) -> tuple[Tensor, Tensor]:
        options = plain(int(effort))
        if backend == "symmetric":  # annealed as it is meant to be, then `effort` iterations at the end
            schedule, epsilon = [], float((data.x.amax((0, 1)) - data.y.amin((0, 1))).square().sum())
            while epsilon > data.epsilon:
                schedule.append(epsilon)
                epsilon /= 2
            options = {"eps_list": schedule + [data.epsilon] * int(effort)}
        f, g = _flash(data, backend, tf32, **options)()
        return f.reshape(data.a.shape), g.reshape(data.b.shape)

    efforts = tuple(float(2**k) for k in range(2, 13))
    name = f"FlashSinkhorn {backend}{'' if tf32 else ', float32'}"
    return Contender(name, "flash-sinkhorn", sweeps, solve, efforts, lambda setting: setting.cost == "squared")


def geomloss_solve(data: Data, effort: float) -> tuple[Tensor, Tensor]:
    """Its cost is |x - y|^p / p: of the squared one it is a half, and so is its epsilon. scaling = 1 - 1 / effort."""
    from geomloss import SamplesLoss

    half = data.p  # 2 for squared costs, 1 for distances
    blur = (data.epsilon / half) ** (1 / data.p)
    loss = SamplesLoss(
        "sinkhorn", p=int(data.p), blur=blur, scaling=1 - 1 / effort, debias=False, potentials=True, backend="online"
    )
    f, g = loss(data.a, data.x, data.b, data.y) if len(data.x) > 1 else loss(data.a[0], data.x[0], data.b[0], data.y[0])
    return (half * f).reshape(data.a.shape), (half * g).reshape(data.b.shape)


CONTENDERS = (
    _kernels(None),
    _kernels("direct"),
    _kernels("ieee"),
    _kernels("tf32x3"),
    Contender("barrow solve", "barrow", None, barrow_solve, (10.0, 100.0, 1000.0)),
    _flash_contender("alternating", tf32=True),
    _flash_contender("alternating", tf32=False),
    _flash_contender("symmetric", tf32=True),
    _flash_contender("symmetric", tf32=False),
    Contender("GeomLoss online", "geomloss", None, geomloss_solve, (2.0, 4.0, 10.0, 40.0, 200.0, 1000.0)),
)


# -- measuring ---------------------------------------------------------------------------------------------------------


def draw(setting: Setting) -> Data:
    """Two Gaussian clouds half a unit apart in every coordinate, with uniform weights."""
    B, n, m, d = setting.batch, setting.n, setting.m, setting.d
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(B, n, d, generator=g).cuda(), torch.randn(B, m, d, generator=g).cuda() + 0.5
    p = 2.0 if setting.cost == "squared" else 1.0
    mean = 2.25 * d if p == 2 else math.sqrt(2.25 * d)
    a, b = torch.full((B, n), 1 / n, device="cuda"), torch.full((B, m), 1 / m, device="cuda")
    return Data(x, y, a, b, setting.blur * mean, p)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median time on the device."""
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def peak_megabytes(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def gap_of(data: Data, f: Tensor, g: Tensor) -> float:
    """The largest certified relative gap of a batch: for at most eight problems of it, which stand for the rest."""
    k = slice(0, 8)
    problem = barrow.Problem(barrow.Points(data.x[k], data.y[k], p=data.p), epsilon=data.epsilon)
    bounds = barrow.certify(problem, f=f[k].double(), g=g[k].double())
    return float(bounds.relative_gap.max())


def measure_sweep(contender: Contender, data: Data, repeats: int) -> tuple[float, float, float, float, str]:
    assert contender.sweeps is not None
    began = time.perf_counter()
    short, long = (contender.sweeps(data, count) for count in (SHORT, LONG))
    short()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    long()
    one = (seconds(long, repeats) - seconds(short, repeats)) / (LONG - SHORT)
    pairs = data.a.numel() * data.b.shape[1]
    note = f"first call {first:.2g} s; {2e-9 * pairs / one:.3g} billion pairs a second"
    return one, peak_megabytes(short), math.nan, math.nan, note


def measure_solve(
    contender: Contender, data: Data, repeats: int, goal: float
) -> tuple[float, float, float, float, str]:
    """The first of the rising efforts that reaches the goal; where none does, the last that was tried."""
    assert contender.solve is not None
    solve, effort, gap, note = contender.solve, math.nan, math.inf, ""
    for effort in contender.efforts:
        solve(data, effort)  # compiles
        began = time.perf_counter()
        f, g = solve(data, effort)
        torch.cuda.synchronize()
        spent = time.perf_counter() - began
        gap = gap_of(data, f, g)
        if gap <= goal:
            break
        if spent > LIMIT:
            note = f"no gap of {goal:g} in {LIMIT:g} s"
            break
    else:
        note = f"no gap of {goal:g}: more effort does not help"

    def once() -> object:
        return solve(data, effort)

    return seconds(once, repeats), peak_megabytes(once), effort, gap, note


def rows(setting: Setting, chosen: str, repeats: int, goal: float) -> Iterator[Row]:
    data = draw(setting)
    commit = ("git", "rev-parse", "--short", "HEAD")
    here = (
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        subprocess.run(commit, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
        torch.cuda.get_device_name(),
        torch.__version__,
    )
    for question in ("sweep", "solve"):
        for contender in CONTENDERS:
            can = contender.sweeps is not None if question == "sweep" else bool(contender.efforts)
            if not (can and contender.takes(setting) and chosen.lower() in contender.name.lower()):
                continue
            found: tuple[float, float, float, float, str] = (math.nan, math.nan, math.nan, math.nan, ABSENT)
            if contender.version != ABSENT:
                try:
                    if question == "sweep":
                        found = measure_sweep(contender, data, repeats)
                    else:
                        found = measure_solve(contender, data, repeats, goal)
                except Exception as error:  # who cannot do it is a row, not an end
                    lines = str(error).strip().splitlines() or [""]
                    found = (*found[:4], f"{type(error).__name__}: {lines[0][:100]}")
            size = setting.n, setting.m, setting.d, setting.batch
            name = question, contender.name, contender.version
            yield Row(*here, *name, *size, data.epsilon, setting.cost, *found)


def show(found: list[Row], setting: Setting, console: Console) -> None:
    table = Table(title=str(setting), title_justify="left")
    for name in ("question", "contender"):
        table.add_column(name)
    for name in ("median", "peak", "effort", "gap"):
        table.add_column(name, justify="right")
    table.add_column("note")
    for row in found:
        table.add_row(
            row.question,
            f"{row.contender} {row.version}",
            f"{1e3 * row.median_s:.3f} ms",
            f"{row.peak_mb:.0f} MB",
            f"{row.effort:.4g}",
            f"{row.gap:.1e}",
            row.note,
        )
    console.print(table)


def main(
    only: Annotated[str, typer.Option(help="Contenders whose name holds this.")] = "",
    settings: Annotated[str, typer.Option(help="Numbers of the settings, separated by commas; all by default.")] = "",
    goal: Annotated[float, typer.Option(help="The certified relative gap that is asked for.")] = 1e-2,
    repeats: Annotated[int, typer.Option(min=1, help="How often each run is timed.")] = 5,
    output: Annotated[Path, typer.Option(help="The CSV file to append to.")] = HERE / "gpu.csv",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the tables and append nothing.")] = False,
) -> None:
    """Time entropic transport on a CUDA device, here and elsewhere."""
    console = Console()
    if not torch.cuda.is_available():
        console.print("There is no CUDA device here, and nothing to measure without one.")
        raise typer.Exit(1)
    chosen = [int(k) for k in settings.split(",") if k] or range(len(SETTINGS))
    for k in chosen:
        found = list(rows(SETTINGS[k], only, repeats, goal))
        show(found, SETTINGS[k], console)
        if dry_run:
            continue
        new = not output.exists()
        with output.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(field.name for field in dataclasses.fields(Row))
            for row in found:
                writer.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in dataclasses.astuple(row))


if __name__ == "__main__":
    typer.run(main)
