"""The bracket on W_1 between populations, on pairs whose distance is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from barrow.estimate import Estimate, _quantile, estimate
from barrow.nn import lipschitz_bound


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squares(n: int, size: int, side: int) -> tuple[Tensor, Tensor]:
    """Black images, and images with a square of -1 or +1 in the middle, at distance `side`."""
    square = torch.zeros(size, size)
    start = (size - side) // 2
    square[start : start + side, start : start + side] = 1
    sign = torch.tensor([-1.0, 1.0]).repeat(n // 2)
    return torch.zeros(n, size, size), sign[:, None, None] * square


def brackets(e: Estimate, truth: float, slack: float) -> bool:
    return e.lower <= truth <= e.upper + slack and e.lower <= e.value


@pytest.mark.parametrize(("size", "side", "seed"), [(64, 35, 0), (16, 9, 1), (16, 9, 2), (16, 9, 3)])
def test_black_images_against_squares(size: int, side: int, seed: int) -> None:
    e = estimate(*squares(32, size, side), steps=200, generator=seeded(seed))
    assert abs(e.value - side) < 1e-3
    assert abs(e.lower - side) < 1e-3
    assert abs(e.upper - side) < 1e-9
    assert e.lipschitz_bound <= 1


@pytest.mark.parametrize("d", [2, 16])
def test_translated_gaussians(d: int) -> None:
    g = seeded(d)
    shift = torch.ones(d) * 3 / math.sqrt(d)
    x, y = torch.randn(2000, d, generator=g), torch.randn(1500, d, generator=g) + shift
    e = estimate(x, y, steps=100, confidence=0.999, generator=g)
    assert brackets(e, 3.0, 0.0)
    assert e.value > 2.9
    assert e.upper < 6


@pytest.mark.parametrize(("d", "truth"), [(2, 1.25331), (16, 3.93803)])
def test_concentric_gaussians(d: int, truth: float) -> None:
    g = seeded(d)
    x, y = torch.randn(2000, d, generator=g), 2 * torch.randn(2000, d, generator=g)
    e = estimate(x, y, steps=150, confidence=0.999, generator=g)
    assert brackets(e, truth, 0.0)
    assert e.value > 0.9 * truth


def test_the_bracket_check_can_fail() -> None:
    g = seeded(0)
    e = estimate(torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g) + 5, steps=5, generator=g)
    assert not brackets(e, 30.0, 0.0)
    assert not brackets(e, -1.0, 0.0)


def test_equal_laws_give_a_small_bracket_from_zero() -> None:
    g = seeded(1)
    e = estimate(torch.rand(1000, 1, generator=g), torch.rand(1000, 1, generator=g), steps=50, generator=g)
    assert e.lower < 0.05
    assert 0 < e.upper < 0.1


def test_the_critic_is_the_one_that_was_judged() -> None:
    g = seeded(2)
    x, y = torch.randn(64, 3, 2, generator=g) + 10, torch.randn(64, 3, 2, generator=g) - 10
    e = estimate(x, y, steps=60, widths=(16, 8), generator=g)
    # Laws far apart: all samples give the value of the fresh ones within their noise.
    assert abs((e.critic(x).mean() - e.critic(y).mean()).item() - e.value) < 5 * e.stderr + 1e-3
    assert lipschitz_bound(e.critic, (3, 2)) == e.lipschitz_bound
    assert e.critic(x).dtype == x.dtype


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_moving_and_scaling_both_laws(shift: float, scale: float) -> None:
    g = seeded(3)
    x, y = torch.randn(200, 2, generator=g).double(), torch.randn(200, 2, generator=g).double() + 3
    a = estimate(x, y, steps=40, widths=(8, 4), generator=seeded(4))
    b = estimate((x + shift) * scale, (y + shift) * scale, steps=40, widths=(8, 4), generator=seeded(4))
    for name in ("value", "lower", "upper", "stderr"):
        assert math.isclose(getattr(a, name) * scale, getattr(b, name), rel_tol=1e-5)


def test_reproducible_and_silent_about_the_global_generator() -> None:
    x, y = torch.randn(40, 2, generator=seeded(5)), torch.randn(30, 2, generator=seeded(6))
    state = torch.random.get_rng_state()
    a, b = (estimate(x, y, steps=5, batch_size=8, widths=(4,), generator=seeded(7)) for _ in range(2))
    assert (a.value, a.lower, a.upper, a.history) == (b.value, b.lower, b.upper, b.history)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(0)
    c = estimate(x, y, steps=5, widths=(4,))
    torch.manual_seed(0)
    assert estimate(x, y, steps=5, widths=(4,)).value == c.value


def test_works_where_gradients_are_off_and_leaves_inputs_alone() -> None:
    x, y = torch.randn(20, 2, generator=seeded(8)), torch.randn(20, 2, generator=seeded(9))
    copies = x.clone(), y.clone()
    plain = estimate(x, y, steps=3, widths=(4,), generator=seeded(0)).value
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert estimate(x, y, steps=3, widths=(4,), generator=seeded(0)).value == plain
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


def test_progress_history_and_printing() -> None:
    seen: list[tuple[int, int, float]] = []
    x, y = torch.randn(20, 2, generator=seeded(8)), torch.randn(20, 2, generator=seeded(9))
    e = estimate(x, y, steps=7, widths=(4,), generator=seeded(0), progress=lambda *args: seen.append(args))
    assert [s[:2] for s in seen] == [(k, 7) for k in range(1, 8)]
    assert tuple(s[2] for s in seen) == e.history
    assert e.steps == 7
    assert "truth in [" in str(e)
    with pytest.raises(AttributeError):
        e.value = 0.0  # type: ignore[misc]


def test_confidence_widens_the_bracket() -> None:
    x, y = torch.randn(80, 2, generator=seeded(8)), torch.randn(80, 2, generator=seeded(9)) + 2
    wide, narrow = (estimate(x, y, steps=5, confidence=c, generator=seeded(0)) for c in (0.99, 0.5))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


@pytest.mark.parametrize(("n", "table"), [(3, 3.182), (7, 2.365), (15, 2.131), (100, 1.984), (10**9, 1.960)])
def test_student_quantile(n: int, table: float) -> None:
    assert math.isclose(_quantile(0.95, n), table, rel_tol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_lines(dtype: torch.dtype) -> None:
    x, y = torch.rand(200, generator=seeded(0)).to(dtype), torch.rand(200, generator=seeded(1)).to(dtype) + 1
    e = estimate(x, y, steps=100, widths=(4,), generator=seeded(0))
    assert 0.8 < e.lower < e.upper < 1.3


X = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (X, X[:, :1], {}, r"x has shape \(10, 2\) but y has shape \(10, 1\): all dimensions but the first"),
        (X[:1], X, {}, r"x has shape \(1, 2\), but samples must have shape \(n, \.\.\.\) with n >= 4"),
        (X, X[:3], {}, r"y has shape \(3, 2\)"),
        (X[:, :0], X[:, :0], {}, r"x has shape \(10, 0\)"),
        (torch.tensor(1.0), X, {}, r"x has shape \(\)"),
        (X.long(), X, {}, r"x has dtype torch\.int64"),
        (X, X.double(), {}, "y has dtype"),
        (X, X / 0, {}, "y has NaN or infinite entries"),
        (X.tolist(), X, {}, "x is a list"),
        (X, X, {"confidence": 1.0}, "confidence must be a probability"),
        (X, X, {"steps": 0}, "steps must be a positive integer"),
        (X, X, {"batch_size": 1.5}, "batch_size must be a positive integer"),
        (X, X, {"learning_rate": float("nan")}, "learning_rate must be positive"),
        (X, X, {"widths": (0,)}, "each of widths"),
    ],
)
def test_refuses(x: Tensor, y: Tensor, options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        estimate(x, y, **options)  # type: ignore[arg-type]
