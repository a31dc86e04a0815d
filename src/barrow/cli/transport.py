"""``barrow distance``."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import barrow
from barrow.cli import files, images, plots, report
from barrow.cli.complaint import CONVERGED, NOT_CERTIFIED, Complaint, one_line

X = Annotated[Path, typer.Argument(metavar="X", help="The first measure: .npy, .npz or .csv.", show_default=False)]
Y = Annotated[Path, typer.Argument(metavar="Y", help="The second measure.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON and nothing else.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="P.png", help="Write a figure.", show_default=False)]


def distance(
    x: X,
    y: Y,
    p: Annotated[float, typer.Option(help="Exponent of the cost |x - y|^p, at least 1.")] = 2.0,
    norm: Annotated[str, typer.Option(help="Ground norm: 1, 2 or inf.")] = "2",
    epsilon: Annotated[float, typer.Option(help="Entropy, in units of |x - y|^p; 0 is exact transport.")] = 0.0,
    rho: Annotated[float, typer.Option(help="Marginal penalty in the same units; inf keeps all mass.")] = math.inf,
    tol: Annotated[float | None, typer.Option(help="Relative gap to certify.  \\[1e-9 exact, 1e-3 entropic]")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Pivots or iterations at most.", show_default=False)] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="End the pivots or iterations after so long.", show_default=False),
    ] = None,
    json: Json = False,
    plot: Plot = None,
) -> None:
    """The transport distance between two clouds of points, with a proof of how far it can be from the truth.

    With epsilon 0 and rho inf this is the Wasserstein distance W_p (rooted), otherwise the cost V, the minimum of
    <C, P> + epsilon KL(P | a x b) + rho KL(P 1 | a) + rho KL(P' 1 | b).

    FILES. .npy: (n, d), or (n,) for points on a line. .npz: points in 'x' or 'points' (or the only array), weights in
    'weights' or 'a'. .csv: one point a line, numbers between commas, at most one header line; a column named 'weight'
    holds the weights. Without weights all points weigh 1/n. Integers are read as float64, float32 stays float32. Two
    images of one size, .png or .jpg: the mass of a pixel is its luminance times its opacity, 1 in all; neighbouring
    pixels are 1 apart.

    JSON KEYS. quantity ("W_p" or "V"); value, lower, upper: it and its bracket; cost, cost_lower, cost_upper: the same
    without the root; p, norm, epsilon, rho; solver, status, steps; n, m, d; seconds. Infinities are null.

    EXIT CODES. 0: certified to tol; 2: bad input; 3: not certified to tol (a limit was reached), value and bracket are
    printed all the same; 130: interrupted.
    """
    if plot is not None:
        plots.plottable(plot)
    left, right = images.read_images(x, y) if images.are_images(x, y) else files.read_clouds(x, y)
    if math.isinf(rho) and abs(left.mass - right.mass) > 1e-6 * max(left.mass, right.mass):
        raise Complaint(
            f"the weights of {x} sum to {left.mass:.9g} but those of {y} to {right.mass:.9g}: "
            "scale them to one sum, or allow mass to vanish with --rho and --epsilon"
        )
    if epsilon == 0 and not math.isinf(rho):
        raise Complaint(f"--rho {rho:g} needs an entropy: add --epsilon, in units of |x - y|^p")
    problem, solver = _posed(left, right, p, norm, epsilon, rho, tol, max_steps, time_limit)
    start = time.perf_counter()
    with report.bar(silent=json) as progress:
        progress(f"{len(left.points)} x {len(right.points)} points, {type(solver).__name__}", 0, 0)
        solution = _solve(problem, solver, lambda now: progress(_spelled(now), now.done, now.total or 0))
    seconds = time.perf_counter() - start

    rooted = epsilon == 0 and math.isinf(rho)
    lower, upper = (float(t) for t in solution.bounds)
    cost = max(float(solution.value), lower)  # both are at most the truth
    value, low, high = (_root(c, p, way) if rooted else c for c, way in ((cost, 0), (lower, -1), (upper, 1)))
    quantity = f"W_{p:g}" if rooted else "V"
    (n, m), d = problem.shape, left.points.shape[1]
    if plot is not None:
        title = f"{quantity} = {report.number(value)}, truth in [{report.number(low)}, {report.number(high)}]"
        plots.save(plots.draw_plan(left, right, solution.plan, title), plot)
    if json:
        report.one_line_json({
            "quantity": quantity, "value": value, "lower": low, "upper": high,
            "cost": cost, "cost_lower": lower, "cost_upper": upper,
            "p": p, "norm": float(norm), "epsilon": epsilon, "rho": rho,
            "solver": solution.solver, "status": solution.status.name, "steps": int(solution.steps),
            "n": n, "m": m, "d": d, "seconds": seconds,
        })  # fmt: skip
    else:
        rows = {quantity: report.number(value), "truth in": report.bracket(low, high)}
        if rooted:
            rows["cost"] = f"{report.number(cost)} in {report.bracket(lower, upper)}"
        rows |= {
            "solver": f"{solution.solver}, {int(solution.steps)} {'step' if solution.steps == 1 else 'steps'}",
            "status": solution.status.name if solution.converged else f"{solution.status.name}: {solution.status}",
            "points": f"{n} and {m} in dimension {d}",
            "seconds": f"{seconds:.3f}",
        }
        report.pairs(rows)
    raise typer.Exit(CONVERGED if solution.converged else NOT_CERTIFIED)


def _posed(
    x: files.Measure,
    y: files.Measure,
    p: float,
    norm: str,
    epsilon: float,
    rho: float,
    tol: float | None,
    max_steps: int | None,
    time_limit: float | None,
) -> tuple[barrow.Problem, barrow.Solver]:
    """The problem and the solver that the options describe."""
    if norm not in ("1", "2", "inf"):
        raise Complaint(f"--norm is {norm!r}, but the ground norms are 1, 2 and inf")
    try:
        cost: barrow.Cost = barrow.Points(x.points, y.points, p=p, norm=float(norm))
        if x.sides is not None and norm == "2":
            cost = barrow.Grid(x.sides, p)
        problem = barrow.Problem(cost, x.weights, y.weights, epsilon=epsilon, rho=rho)
        solver = barrow.Auto(tol, time_limit).select(problem)
        # A closed form takes no steps, so it has no limit of them.
        if max_steps is not None and any(field.name == "max_steps" for field in dataclasses.fields(solver)):
            changed: dict[str, Any] = {"max_steps": max_steps}
            solver = dataclasses.replace(solver, **changed)
    except ValueError as error:
        raise Complaint(one_line(error)) from None
    if not bool(problem.cost.limits()[1].isfinite()):
        raise Complaint(
            f"{x.path} and {y.path} are so far apart that |x - y|^{p:g} is no {problem.dtype} number: divide both by a "
            "large constant"
        )
    _refuse_excess(problem, solver)
    return problem, solver


def _refuse_excess(problem: barrow.Problem, solver: barrow.Solver) -> None:
    """These solvers store the cost matrix: better to say so than to be killed for it."""
    n, m = problem.shape
    need = 2 * 8 * n * m
    free = files.free_memory()
    if isinstance(solver, barrow.Simplex | barrow.Assignment) and free is not None and need > free:
        raise Complaint(
            f"exact transport between {n} and {m} points needs about {need / 2**30:.1f} GiB of memory, but "
            f"{free / 2**30:.1f} GiB are free: take --epsilon, or fewer points"
        )


def _spelled(now: barrow.Progress) -> str:
    """One line on how far a solve is, for the bar."""
    if now.stage == "proof":
        return "proof"
    gap = "" if now.gap is None or math.isinf(now.gap) else f", relative gap {now.gap:.1e}"
    return f"{now.stage}: {now.done}{gap}"


def _solve(
    problem: barrow.Problem, solver: barrow.Solver, progress: Callable[[barrow.Progress], object]
) -> barrow.Solution:
    try:
        return barrow.solve(problem, solver, progress=progress)
    except barrow.SolveError as error:
        if error.solution is None:
            raise Complaint(one_line(error)) from None
        return error.solution


def _root(cost: float, p: float, way: int) -> float:
    """The p-th root, rounded down (way -1), to nearest (0) or up (1)."""
    if p == 1 or cost <= 0 or math.isinf(cost):
        return max(cost, 0.0)
    root: float = cost ** (1 / p)
    # The power is off by a unit roundoff, and 1/p by another, which the logarithm of the cost magnifies.
    error = sys.float_info.epsilon * (2 + abs(math.log(cost)) / p)
    return root * (1 + way * error)
