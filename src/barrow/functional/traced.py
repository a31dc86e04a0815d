"""Values under torch.compile and torch.func, which cannot look into a solver: one opaque operator a kind of cost.

The operator returns the value with its gradients, which cost little beside the solve; they are attached by an
autograd function that compilers and transforms can follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from barrow.cost import Cost, Dense, Points
from barrow.ops.chunks import row_ranges
from barrow.ops.once import once
from barrow.plan import SparsePlan
from barrow.problem import Problem, marginal_slope
from barrow.solution import Solution
from barrow.solvers.auto import Auto
from barrow.solvers.base import Solver
from barrow.solvers.sinkhorn import Sinkhorn

Solve = Callable[[Problem, Solver], Solution]
Run = Callable[[Tensor, Tensor, Tensor, list[float], list[bool]], list[Tensor]]
_SOLVE: list[Solve] = []  # what checks, solves and warns: it stands in a module that imports this one
_RUN: dict[str, Run] = {}  # quantities of a matrix and two histograms, likewise


def solve_with(solve: Solve) -> Solve:
    """Register what the operators run."""
    _SOLVE[:] = [solve]
    return solve


def matrix_quantity(name: str) -> Callable[[Run], Run]:
    """Register a function of C, h, t, numbers and which slopes are wanted: the values and slopes to C, h and t.

    Problems may be flattened in what it returns.
    """

    def register(run: Run) -> Run:
        _RUN[name] = run
        return run

    return register


def following() -> bool:
    """Whether torch.compile traces, or torch.func transforms, what is being computed."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def matrix(name: str, C: Tensor, h: Tensor, t: Tensor, numbers: list[float]) -> Tensor:
    """A registered quantity, differentiable once in C, h and t."""
    sources = [C, h, t]
    wants = [_wanted(w) for w in sources]
    numbers = [float(number) for number in numbers]
    found = _matrix(C.detach(), h.detach(), t.detach(), name, numbers, wants)
    return _attach(found, sources, wants)


def value(problem: Problem, solver: Solver | None, scale: float = 0.0) -> Tensor:
    """The value of a problem on Points or a Dense matrix, differentiable once in all of its tensors.

    ``scale`` is the one number that a given reference (r, s) holds everywhere.

    Raises:
        ValueError: another cost or solver: they are not known to the operators.
    """
    cost, (rho_a, rho_b) = problem.cost, problem.rho
    solver = Auto() if solver is None else solver
    if not isinstance(cost, Points | Dense) or not isinstance(solver, Sinkhorn | Auto):
        raise ValueError(
            f"{type(cost).__name__} with {type(solver).__name__} was met under torch.compile or torch.func, which "
            "follow Points and Dense with Sinkhorn or the automatic choice: call it outside"
        )
    tol = math.nan if solver.tol is None else solver.tol
    max_steps = solver.max_steps if isinstance(solver, Sinkhorn) else 0
    options = [problem.epsilon, rho_a, rho_b, tol, float(max_steps)]
    # Weights that were left to be uniform are exact in every precision; the operator makes them anew.
    weights = [None if even else w for w, even in zip((problem.a, problem.b), problem.uniform, strict=True)]
    sources = [*cost.tensors, *weights]
    wants = [t is not None and _wanted(t) for t in sources]
    plain: list[Any] = [None if t is None else t.detach() for t in sources]
    if isinstance(cost, Points):
        found = _points(*plain, problem.symmetric, [cost.p, cost.norm, *options], wants)
    else:
        found = _matrix(*plain, "value", [scale, *options], wants)
    return _attach(found, sources, wants)


def _attach(found: Sequence[Tensor], sources: Sequence[Tensor | None], wants: Sequence[bool]) -> Tensor:
    """The value with its gradient; a tensor that is two sources, a cloud against itself, has both slopes."""
    differ: list[Tensor] = []
    slopes: list[Tensor] = []
    for t, slope, wanted in zip(sources, found[1:], wants, strict=True):
        if t is None or not wanted:
            continue
        same = [k for k, other in enumerate(differ) if other is t]
        if same:
            slopes[same[0]] = slopes[same[0]] + slope
        else:
            differ.append(t)
            slopes.append(slope)
    if not differ:
        return found[0]
    attached: Tensor = _Given.apply(found[0], *differ, *slopes)
    return attached


def _wanted(t: Tensor) -> bool:
    """Whether a gradient may be asked for: what requires one at any level of the transforms."""
    if torch.compiler.is_compiling():
        return t.requires_grad
    core = torch._C._functorch
    while core.is_functorch_wrapped_tensor(t):
        if core.is_gradtrackingtensor(t):
            return True
        t = core.get_unwrapped(t)
    return t.requires_grad


# -- the operators -----------------------------------------------------------------------------------------------------

_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
_Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _room(batch: torch.Size, like: Tensor, tails: Sequence[tuple[int, ...]], wants: Sequence[bool]) -> list[Tensor]:
    """A value and slopes of every problem; a slope that is not wanted has one dimension, which is 0."""
    shapes = [(*batch, *tail) if wanted else (*batch, 0) for tail, wanted in zip(tails, wants, strict=True)]
    return [like.new_empty(batch), *(like.new_empty(shape) for shape in shapes)]


def _batch(tensors: Sequence[Tensor | None], keep: Sequence[int]) -> torch.Size:
    shapes = [t.shape[: t.dim() - k] for t, k in zip(tensors, keep, strict=True) if t is not None]
    joint: torch.Size = torch.broadcast_shapes(*shapes)
    return joint


@torch.library.custom_op("barrow::points_value", mutates_args=())
def _points(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    symmetric: bool,
    numbers: list[float],
    wants: list[bool],
) -> _Five:
    if symmetric:
        y, b = x, a
    p, norm, epsilon, rho_a, rho_b, tol, max_steps = numbers
    problem = Problem(Points(x, y, p=p, norm=norm), a, b, epsilon=epsilon, rho=(rho_a, rho_b))
    return tuple(_run(problem, tol, max_steps, wants))  # type: ignore[return-value]


@_points.register_fake
def _(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, *options: Any) -> _Five:
    batch = _batch((x, y, a, b), (2, 2, 1, 1))
    tails = [x.shape[-2:], y.shape[-2:], x.shape[-2:-1], y.shape[-2:-1]]
    return tuple(_room(batch, x, tails, options[-1]))  # type: ignore[return-value]


@torch.library.custom_op("barrow::matrix_value", mutates_args=())
def _matrix(
    C: Tensor, a: Tensor | None, b: Tensor | None, quantity: str, numbers: list[float], wants: list[bool]
) -> _Four:
    if quantity != "value":
        assert a is not None
        assert b is not None
        found = _RUN[quantity](C, a, b, numbers, wants)
        batch = _batch((C, a, b), (2, 1, 1))
        tails = [C.shape[-2:], C.shape[-2:-1], C.shape[-1:]]
        return tuple(_filled(_room(batch, C, tails, wants), found, [True, *wants]))  # type: ignore[return-value]
    scale, epsilon, rho_a, rho_b, tol, max_steps = numbers
    reference = None if scale == 0 else (C.new_full(C.shape[-2:-1], scale), C.new_full(C.shape[-1:], scale))
    problem = Problem(Dense(C), a, b, epsilon=epsilon, rho=(rho_a, rho_b), reference=reference)
    return tuple(_run(problem, tol, max_steps, wants))  # type: ignore[return-value]


@_matrix.register_fake
def _(C: Tensor, a: Tensor | None, b: Tensor | None, *options: Any) -> _Four:
    batch = _batch((C, a, b), (2, 1, 1))
    tails = [C.shape[-2:], C.shape[-2:-1], C.shape[-1:]]
    return tuple(_room(batch, C, tails, options[-1]))  # type: ignore[return-value]


def _filled(room: Sequence[Tensor], found: Sequence[Tensor], wants: Sequence[bool]) -> list[Tensor]:
    """What was found, in the shapes and the precision that were promised, and of its own memory."""
    filled = []
    for place, t, wanted in zip(room, found, wants, strict=True):
        if wanted:
            place.copy_(t.reshape(place.shape) if t.numel() == place.numel() else t.expand(place.shape))
        filled.append(place)
    return filled


def _run(problem: Problem, tol: float, max_steps: float, wants: Sequence[bool]) -> list[Tensor]:
    """The value and the slopes (*batch, ...) of a problem without a graph."""
    tolerance = None if math.isnan(tol) else tol
    solver = Sinkhorn(tolerance or 1e-3, int(max_steps)) if max_steps else Auto(tol=tolerance)
    with torch.no_grad():
        s = _SOLVE[0](problem, solver)
        slopes = (*_of_cost(problem.cost, s, wants), *_of_weights(problem, s))
        tails = [*(t.shape[-2:] for t in problem.cost.tensors), *((size,) for size in problem.shape)]
        room = _room(problem.batch_shape, s.value, tails, wants)
        return _filled(room, (s.value, *slopes), [True, *wants])


def _of_cost(cost: Cost, s: Solution, wants: Sequence[bool]) -> list[Tensor]:
    """d<P, C> / d(the cost's data), problem by problem: an operator runs below autograd, so in closed form."""
    none = s.value.new_empty(*s.value.shape, 0)
    if isinstance(cost, Dense):
        return [s.plan.dense() if wants[0] else none]
    if not any(wants[:2]):
        return [none, none]
    assert isinstance(cost, Points)
    x, y = (t.to(s.f.dtype).expand(*s.value.shape, *t.shape[-2:]) for t in cost.tensors)
    plan = s.plan
    if isinstance(plan, SparsePlan):
        rows, cols = (k[..., None].expand(*k.shape, cost.d) for k in (plan.rows, plan.cols))
        pull = plan.mass[..., None] * _slope(x.gather(-2, rows) - y.gather(-2, cols), cost.p, cost.norm)
        return [torch.zeros_like(x).scatter_add(-2, rows, pull), torch.zeros_like(y).scatter_add(-2, cols, -pull)]
    to_x, to_y = [], torch.zeros_like(y)
    for i, j in row_ranges(x.shape[-2], x[..., 0, 0].numel() * y.shape[-2] * cost.d):
        pull = plan.block(i, j)[..., None] * _slope(x[..., i:j, None, :] - y[..., None, :, :], cost.p, cost.norm)
        to_x.append(pull.sum(-2))
        to_y -= pull.sum(-3)
    return [torch.cat(to_x, -2), to_y]


def _slope(z: Tensor, p: float, norm: float) -> Tensor:
    """The gradient of |z|_norm^p for z (..., d); 0 where z is."""
    if norm == 2:
        square = z.square().sum(-1, keepdim=True)
        return p * torch.where(square > 0, torch.where(square > 0, square, 1).pow(p / 2 - 1), 0) * z
    size = z.abs().amax(-1, keepdim=True) if math.isinf(norm) else z.abs().sum(-1, keepdim=True)
    sign = z.sign()
    if math.isinf(norm):  # coordinates that share the maximum share its slope
        sign = sign * (z.abs() == size)
        sign = sign / sign.abs().sum(-1, keepdim=True).clamp_min(1)
    return p * size.pow(p - 1) * sign


def _of_weights(problem: Problem, s: Solution) -> list[Tensor]:
    """dV/da and dV/db, as solve has them."""
    epsilon, slopes = problem.epsilon, []
    for k, (rho, h) in enumerate(zip(problem.rho, (s.f, s.g), strict=True)):
        slope = marginal_slope(rho, h)
        if epsilon > 0 and problem.reference is None:
            share = torch.ones_like(h) if math.isinf(rho) else torch.exp(-h / rho)
            slope = slope - epsilon * (share - problem.measures[1 - k].to(h.dtype).sum(-1, keepdim=True))
        slopes.append(slope)
    return slopes


# -- torch.vmap --------------------------------------------------------------------------------------------------------


def _front(tensors: Sequence[Tensor | None], dims: Sequence[int | None], keep: Sequence[int]) -> list[Tensor | None]:
    """The mapped dimension first, and ones after it, so that leading dimensions broadcast as they did without it."""
    given = [(t, d, k) for t, d, k in zip(tensors, dims, keep, strict=True) if t is not None]
    rank = max(t.dim() - k - (d is not None) for t, d, k in given)
    out: list[Tensor | None] = []
    for t, d, k in zip(tensors, dims, keep, strict=True):
        if t is not None and d is not None:
            t = t.movedim(d, 0)
            t = t.reshape(t.shape[0], *[1] * (rank - (t.dim() - k - 1)), *t.shape[1:])
        out.append(t)
    return out


def _mapped(op: Any, keep: tuple[int, ...]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        tensors = _front(args[: len(keep)], in_dims[: len(keep)], keep)
        out = op(*tensors, *args[len(keep) :])
        return out, (0,) * len(out)

    return rule


_points.register_vmap(_mapped(_points, (2, 2, 1, 1)))
_matrix.register_vmap(_mapped(_matrix, (2, 1, 1)))


# -- the gradient ------------------------------------------------------------------------------------------------------


class _Given(torch.autograd.Function):
    """A value whose slopes were found along with it; sources first, then as many slopes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *tensors: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        count = len(tensors) // 2
        grads = []
        for source, slope in zip(tensors[:count], tensors[count:], strict=True):
            wide = grad.reshape(grad.shape + (1,) * (slope.dim() - grad.dim()))
            grads.append((wide * slope).sum_to_size(source.shape).to(source.dtype))
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            grads = once([grad, *tensors[:count]], grads)
        return (None, *grads, *[None] * count)
