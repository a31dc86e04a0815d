"""Check, choose, run under no_grad, certify, attach the gradient, package."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from barrow import check
from barrow.certify import bracket, gibbs, mended, within
from barrow.ops.hall import stranded
from barrow.ops.once import once
from barrow.plan import DensePlan, GibbsPlan, Plan, SparsePlan
from barrow.primal import forbids
from barrow.problem import Problem, marginal_slope
from barrow.screen import complaint, faults, screen
from barrow.solution import BadInput, Bounds, Bracket, Solution, SolveError, Status
from barrow.solvers.auto import Auto
from barrow.solvers.base import Progress, Solver, Watch
from barrow.warm import begin


def solve(
    problem: Problem,
    solver: Solver | None = None,
    *,
    start: Solution | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Solution:
    """Solve a problem and prove how well.

    Args:
        problem: what is asked.
        solver: how; :class:`barrow.Auto` unless given.
        start: a solution of a similar problem, where the iteration starts: of the same shape, whatever the cost, or of
            other clouds in the same space with the same p and norm, whose potentials are extended to the new points. It
            never changes the answer. Closed forms ignore it.
        progress: called with a :class:`barrow.Progress` a few times a second while the solve runs, on this thread. What
            it raises ends the solve and is raised here; so does Ctrl-C.

    Returns:
        A Solution: value (differentiable), bounds, plan, potentials, status. V is the minimum of
        <C, P> + epsilon KL(P | r x s) + rho_a KL(P 1 | a) + rho_b KL(P' 1 | b) over P >= 0.

    Raises:
        Incompatible: the solver cannot solve this problem.
        BadInput: NaN, negative weights or different masses (a ValueError and a SolveError). The other problems of the
            batch are solved, and in the solution that it carries.
        SolveError: the certified gap did not reach the solver's tol; carries the Solution with its bounds.

    >>> x, y = torch.zeros(4, 2), torch.tensor([[3.0, 4.0]])
    >>> barrow.solve(barrow.Problem(barrow.Points(x, y, p=1)))
    Solution(value=5, truth in [5, 5], converged in 0 steps, Simplex)

    Source: Peyre and Cuturi, Computational Optimal Transport, sections 2.5 and 9.1 (envelope theorem).
    """
    solution = attempt(problem, solver, start=start, progress=progress)
    refuse_faults(problem, solution)
    if not solution.converged:
        raise SolveError(failure(solution, problem), solution)
    return solution


def refuse_faults(problem: Problem, solution: Solution) -> None:
    """Raise BadInput where the data of a problem make no problem."""
    faulty = faults(solution.codes.flatten())
    if bool(faulty.any()):
        raise BadInput(complaint(problem, faulty), solution)


def attempt(
    problem: Problem,
    solver: Solver | None = None,
    *,
    start: Solution | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Solution:
    """:func:`solve`, but what went wrong is told in the status only; a faulty problem has value NaN and no bounds."""
    if not isinstance(problem, Problem):
        raise ValueError(f"problem is a {type(problem).__name__}, but solve takes a barrow.Problem")
    solver = Auto() if solver is None else solver
    if not isinstance(solver, Solver):
        raise ValueError(f"solver is {solver!r}, but it must be a barrow solver such as barrow.Sinkhorn()")
    solver = solver.select(problem)
    if (reason := solver.rejects(problem)) is not None:
        raise check.Incompatible(reason)
    if progress is not None and not callable(progress):
        raise ValueError(f"progress is {progress!r}, but it must be a function of one barrow.Progress")
    if start is not None and not isinstance(start, Solution):
        raise ValueError(f"start is a {type(start).__name__}, but it must be a Solution, such as solve returns")

    watch = Watch(progress)
    batch, dtype = problem.batch_shape, check.compute_dtype(problem.dtype)
    with torch.no_grad():
        flat, fault, defect = screen(problem)
        witness = solver.run(flat, None if start is None else begin(start, problem, flat), watch)
        watch.tell("proof", 0)
        # A Gibbs plan is that of the potentials, which say all about it.
        shown = None if isinstance(witness.plan, GibbsPlan) else witness.plan
        if witness.proof is None:
            proof = bracket(flat, shown, witness.f, witness.g, defect, problem.dtype)
        else:
            proof = mended(witness.proof, flat.cost.limits()[0], defect)
        hopeless = proof.lower == torch.inf
        # The status follows from the certificate alone; the algorithm's own word only names the cause of a failure.
        cause = torch.where(witness.codes == 0, Status.gap.code, witness.codes)
        codes = torch.where(within(proof, solver.tol, dtype), 0, cause)
        codes = torch.where(hopeless, Status.infeasible.code, codes)

        plan: Plan = witness.plan
        if isinstance(plan, GibbsPlan):
            plan = gibbs(flat, proof.f, proof.g)  # of the repaired potentials, so that value and gradient agree
            if bool(hopeless.any()):
                # Potentials of a contradiction run away, and their plan with them: the independent coupling stands in.
                coupling = flat.a[:, :, None] * flat.b[:, None, :] / flat.a.sum(-1)[:, None, None]
                plan = DensePlan(torch.where(hopeless[:, None, None], coupling, plan.dense()))
        elif isinstance(plan, SparsePlan) and forbids(flat.cost):
            # What a plan has on forbidden arcs is rounding where the problem was solved, and a contradiction elsewhere.
            crumbs = (flat.cost.pairs(plan.rows, plan.cols) == torch.inf) & (codes == 0)[:, None]
            plan = SparsePlan(plan.rows, plan.cols, torch.where(crumbs, 0, plan.mass), plan.size)
        if bool(fault.any()):
            codes = torch.where(fault != 0, fault, codes)
            proof, plan = _blank(fault != 0, proof, plan)
        fine = plan.reshape_batch(batch)  # what gradients are computed from
        plan = fine.to(dtype)
        f, g = (h.to(dtype).reshape(*batch, h.shape[-1]) for h in (proof.f, proof.g))
        # The dual objective carries its own rounding; the bracket does not.
        value = torch.minimum(torch.maximum(proof.value, proof.lower), proof.upper)
        value = _round_down(value, problem.dtype).reshape(batch)
    sources = (*problem.cost.tensors, problem.a, problem.b, *(problem.reference or ()))
    if torch.is_grad_enabled() and any(t.requires_grad for t in sources):
        hole = torch.where(hopeless.reshape(*batch, 1), torch.nan, 1.0).to(f)  # inf has no gradient
        whole = (hole.expand_as(f).to(fine.dtype), torch.ones_like(g, dtype=fine.dtype))
        known = fine.scale(*whole) if bool(hopeless.any()) else fine
        value = _Value.apply(value, problem, known, f * hole, g * hole, *sources)
    return Solution(
        value=value,
        bounds=Bounds(proof.lower.reshape(batch), proof.upper.reshape(batch)),
        plan=plan,
        f=f,
        g=g,
        codes=codes.reshape(batch),
        steps=witness.steps.reshape(batch),
        solver=_called(solver, problem),
        problem=problem.detach(),
    )


def _blank(faulty: Tensor, proof: Bracket, plan: Plan) -> tuple[Bracket, Plan]:
    """Nothing is known of faulty problems: NaN everywhere, and bounds that exclude nothing."""
    hole = torch.where(faulty, torch.nan, 1.0).to(proof.value)[:, None]
    proof = proof._replace(
        value=proof.value * hole[:, 0],
        f=proof.f * hole,
        g=proof.g * hole,
        lower=torch.where(faulty, -torch.inf, proof.lower),
        upper=torch.where(faulty, torch.inf, proof.upper),
    )
    return proof, plan.scale(hole.expand_as(proof.f), torch.ones_like(proof.g))


def _called(solver: Solver, problem: Problem) -> str:
    moved = solver.on_host and problem.cost.device.type != "cpu"
    return type(solver).__name__ + (" on the host" if moved else "")


def _round_down(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert, never upwards: a lower bound must stay one."""
    rounded = value.to(dtype)
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.double() > value, below, rounded)


def failure(solution: Solution, problem: Problem) -> str:
    """One line on the first problem of a batch that was not certified."""
    codes = solution.codes.flatten()
    k = int(codes.nonzero()[0, 0])
    lower, upper = (float(t.flatten()[k]) for t in solution.bounds)
    which = f"problem {k} of {codes.numel()}: " if solution.codes.dim() else ""
    count = int((codes != 0).sum())
    others = f" ({count} problems in all)" if count > 1 else ""
    if lower == math.inf:
        return f"{which}{_contradiction(problem, k)}: {Status.infeasible}{others}"
    return (
        f"{which}{solution.solver} certified only truth in [{lower:.6g}, {upper:.6g}] "
        f"after {int(solution.steps.flatten()[k])} steps: {Status.of(int(codes[k]))}{others}"
    )


def _contradiction(problem: Problem, k: int) -> str:
    """Which row of an infeasible problem has mass that no arc can carry, and why."""
    flat = screen(problem).problem
    a, b = flat.a[k].cpu(), flat.b[k].cpu()
    C = flat.cost.dense().cpu()
    allowed = (C[k] if C.dim() == 3 else C) < torch.inf
    for name, other, rho, w, open_ in (
        ("row", "column", problem.rho[0], a, allowed & (b > 0)),
        ("column", "row", problem.rho[1], b, allowed.mT & (a > 0)),
    ):
        alone = (w > 0) & ~open_.any(-1)
        if math.isinf(rho) and bool(alone.any()):
            at = int(torch.where(alone, w, 0).argmax())
            return f"{name} {at} holds {float(w[at]):.6g}, but no arc joins it to a {other} with mass"
    found = stranded(a, b, allowed)
    at = int(found.left.argmax())
    return (
        f"row {at} holds {float(a[at]):.6g}, of which {float(found.left[at]):.6g} has no arc to leave by, as rows "
        f"{_listed(found.rows)} hold {float(a[found.rows].sum()):.6g} and may only go to columns {_listed(found.cols)} "
        f"that want {float(b[found.cols].sum()):.6g}"
    )


def _listed(chosen: Tensor) -> str:
    """The first few of a set."""
    at = chosen.nonzero()[:, 0].tolist()
    return "{" + ", ".join(map(str, at[:4])) + (f", ... {len(at)} in all" if len(at) > 4 else "") + "}"


# -- the gradient --------------------------------------------------------------------------------------------------


class _Value(torch.autograd.Function):
    """The envelope theorem: dV/dC is the plan, dV/da and dV/db are read off the potentials."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, problem: Problem, plan: Plan, f: Tensor, g: Tensor, *sources: Tensor
    ) -> Tensor:
        ctx.problem, ctx.plan, ctx.f, ctx.g = problem.detach(), plan, f, g
        ctx.needs = [t.requires_grad for t in sources]
        # Saved so that torch sees when one is changed in place, and a second derivative finds its way to the refusal.
        ctx.save_for_backward(*sources)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        with torch.no_grad():
            grads = _envelope(ctx.problem, ctx.plan, ctx.f, ctx.g, grad, ctx.needs)
        if torch.is_grad_enabled():
            grads = once([grad, *ctx.saved_tensors], grads)
        return (None, None, None, None, None, *grads)


def _envelope(
    problem: Problem, plan: Plan, f: Tensor, g: Tensor, grad: Tensor, needs: list[bool]
) -> list[Tensor | None]:
    """The products of grad and dV / d(cost's data, a, b, reference), in this order; None where none is needed."""
    epsilon, (rho_a, rho_b), dtype = problem.epsilon, problem.rho, check.compute_dtype(problem.dtype)
    exact = problem.detach(dtype)
    kinds = len(problem.cost.tensors)
    grads: list[Tensor | None] = [None] * kinds
    if any(needs[:kinds]):
        swept = plan.gradient(grad.to(plan.dtype)) if isinstance(plan, GibbsPlan) else None
        if swept is None:
            data = [t.requires_grad_(need) for t, need in zip(exact.cost.tensors, needs, strict=False)]
            grads = list(exact.cost.replace(*data).vjp(plan, grad.to(dtype)))
        else:
            grads = [t if need else None for t, need in zip(swept, needs, strict=False)]

    slopes = []
    for rho, h, w, other in ((rho_a, f, exact.a, 1), (rho_b, g, exact.b, 0)):
        slope = marginal_slope(rho, h)
        if epsilon > 0 and problem.reference is None:
            # The marginal of the plan over the weight, minus the mass of the other side's reference.
            share = torch.ones_like(h) if math.isinf(rho) else torch.exp(-h / rho)
            slope = slope - epsilon * (share - exact.measures[other].sum(-1, keepdim=True))
        slopes.append((slope, w))
    if problem.reference is not None:
        for rho, h, w, side in ((rho_a, f, exact.a, 0), (rho_b, g, exact.b, 1)):
            r, s = exact.measures[side], exact.measures[1 - side]
            marginal = w if math.isinf(rho) else w * torch.exp(-h / rho)
            share = torch.where(marginal > 0, marginal / r, 0)
            slopes.append((-epsilon * (share - s.sum(-1, keepdim=True)), r))
    for (slope, w), need in zip(slopes, needs[kinds:], strict=True):
        grads.append((grad.to(dtype)[..., None] * slope).sum_to_size(w.shape) if need else None)
    originals = (*problem.cost.tensors, problem.a, problem.b, *(problem.reference or ()))
    return [None if t is None else t.to(like.dtype) for t, like in zip(grads, originals, strict=True)]
