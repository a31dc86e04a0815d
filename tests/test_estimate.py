"""The bracket on W_1 between populations, on pairs whose distance is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from barrow.estimate import Estimate, estimate
from barrow.estimate import samples as samples_module
from barrow.estimate.fitting import student
from barrow.estimate.images import Images
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
    assert math.isclose(student(0.95, n), table, rel_tol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_lines(dtype: torch.dtype) -> None:
    x, y = torch.rand(200, generator=seeded(0)).to(dtype), torch.rand(200, generator=seeded(1)).to(dtype) + 1
    e = estimate(x, y, steps=100, widths=(4,), generator=seeded(0))
    assert 0.8 < e.lower < e.upper < 1.3


# -- samples that are not tensors --------------------------------------------------------------------------------------


def same(a: Estimate, b: Estimate) -> bool:
    names = ("value", "lower", "upper", "stderr", "steps", "history", "counts", "shape")
    return all(getattr(a, name) == getattr(b, name) for name in names)


SHORT: dict[str, Any] = {"steps": 20, "widths": (8, 4), "batch_size": 32}


@pytest.mark.parametrize("patience", [None, 3])
def test_samples_by_number_give_the_answer_of_the_tensor(tmp_path: Path, patience: int | None) -> None:
    x, y = torch.randn(200, 3, generator=seeded(0)), torch.randn(150, 3, generator=seeded(1)) + 2
    options = {**SHORT, "patience": patience}
    expected = estimate(x, y, generator=seeded(2), **options)
    assert expected.counts == (200, 150)
    assert expected.shape == (3,)
    np.save(tmp_path / "y.npy", y.numpy())
    labelled = TensorDataset(x, torch.arange(200))
    for other_x, other_y in (
        (x.numpy(), str(tmp_path / "y.npy")),
        (labelled, TensorDataset(y)),
        (DataLoader(labelled, batch_size=7, shuffle=True), DataLoader(TensorDataset(y))),
        (x, np.load(tmp_path / "y.npy", mmap_mode="r")),
    ):
        assert same(estimate(other_x, other_y, generator=seeded(2), **options), expected)


def test_streams_of_batches_bracket_the_truth() -> None:
    g = seeded(3)
    x, y = torch.randn(1000, 2, generator=g), torch.randn(900, 2, generator=g) + torch.tensor([3.0, 4.0])
    pairs = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in y.split(64)]
    options: dict[str, Any] = {"steps": 60, "widths": (16, 8), "confidence": 0.999}
    e = estimate(x.split(100), pairs, generator=seeded(0), **options)
    assert brackets(e, 5, 0)
    assert e.value > 4.8
    assert e.counts == (1000, 900)
    # Other batches of the same samples: the same answer, but for the order of sums.
    assert math.isclose(e.value, estimate(x.split(77), y.split(50), generator=seeded(0), **options).value, rel_tol=1e-4)
    mixed = estimate(x, pairs, generator=seeded(0), patience=3, **options)
    assert brackets(mixed, 5, 0)


class Law:
    """A million samples of which no more than a batch ever exists: uniform on [shift, shift + 1]."""

    def __init__(self, shift: float, most: list[int]) -> None:
        self.shift, self.most = shift, most

    def __iter__(self) -> Iterator[Tensor]:
        alive = 0
        for k in range(100):
            self.most.append(alive := 500)
            yield torch.rand(alive, 4, generator=seeded(k)) + torch.tensor([self.shift, 0, 0, 0])


def test_a_long_stream_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = torch.cat

    def watched(tensors: Any, *args: Any, **options: Any) -> Tensor:
        found = plain(tensors, *args, **options)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(torch, "cat", watched)
    monkeypatch.setattr(samples_module, "_GROUP", 512 * 4)
    e = estimate(Law(0, []), Law(2, []), steps=60, widths=(), batch_size=128, learning_rate=0.1, generator=seeded(0))
    assert e.counts == (50000, 50000)
    assert max(sizes) <= 128 + 500
    assert brackets(e, 2, 0)
    assert e.value > 1.99


class Rows(np.memmap[Any, Any]):
    """A mapped file that remembers how many rows were read at once."""

    most = 0

    def __getitem__(self, index: Any) -> Any:
        found = np.asarray(super().__getitem__(index))
        Rows.most = max(Rows.most, len(found))
        return found


def test_a_mapped_file_is_read_by_the_batch(tmp_path: Path) -> None:
    files = [Rows(tmp_path / name, dtype="f4", mode="w+", shape=(20000, 2)) for name in "xy"]
    for shift, file in enumerate(files):
        file[:] = torch.rand(20000, 2, generator=seeded(shift)).numpy() + shift * np.array([3, 4], dtype="f4")
    Rows.most = 0
    e = estimate(*files, steps=40, widths=(8,), batch_size=600, generator=seeded(0))
    assert Rows.most == 600
    assert e.counts == (20000, 20000)
    assert brackets(e, 5, 0)


def test_folders_of_images(tmp_path: Path) -> None:
    for name, levels in (("black", [0, 0]), ("grey", [51, 102])):
        (tmp_path / name).mkdir()
        for k in range(16):
            Image.fromarray(np.full((6, 6), levels[k % 2], dtype="u1")).save(tmp_path / name / f"{k}.png")
    e = estimate(tmp_path / "black", str(tmp_path / "grey"), steps=60, widths=(8, 4), generator=seeded(0))
    assert e.shape == (3, 6, 6)
    assert brackets(e, 0.3 * math.sqrt(3 * 36), 1e-9)
    grey = [Images(tmp_path / name, size=3, colour=False) for name in ("black", "grey")]
    e = estimate(*grey, steps=60, widths=(8, 4), generator=seeded(0))
    assert e.shape == (3, 3)
    assert brackets(e, 0.3 * 3, 1e-9)


def test_samples_are_put_on_the_device_asked_for() -> None:
    e = estimate(X.numpy(), [X + 1, X], device="cpu", **SHORT)
    assert next(e.critic.parameters()).device.type == "cpu"
    for device in ("cuda:99", "meta2", "nonsense"):
        with pytest.raises(ValueError, match=f"device is '{device}', but nothing can be put there"):
            estimate(X, X, device=device)


# -- stopping early ----------------------------------------------------------------------------------------------------


def test_patience_ends_what_learns_by_heart() -> None:
    g = seeded(1)
    x, y = torch.randn(400, 50, generator=g), torch.randn(400, 50, generator=g) + 2 / math.sqrt(50)
    stubborn = estimate(x, y, steps=200, widths=(64, 16), generator=seeded(0))
    wise = estimate(x, y, steps=200, widths=(64, 16), patience=4, generator=seeded(0))
    assert stubborn.steps == 200
    assert wise.steps < 120
    assert wise.lower > 1.2 * stubborn.lower
    assert wise.lower < 2 < wise.upper
    assert len(wise.history) < len(stubborn.history)


def test_patience_keeps_the_best_critic_and_judges_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from barrow.estimate import fitting

    judges: list[Any] = []

    class Watching(fitting._Judge):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.lowers: list[float] = []
            judges.append(self)

        def has_seen_enough(self, critic: Any) -> bool:
            enough = super().has_seen_enough(critic)
            self.lowers.append(self._best)
            return enough

    monkeypatch.setattr(fitting, "_Judge", Watching)
    g = seeded(1)
    x, y = torch.randn(160, 30, generator=g), torch.randn(160, 30, generator=g) + 0.3
    e = estimate(x, y, steps=100, patience=5, widths=(32,), generator=seeded(0))
    (judge,) = judges
    assert len(judge._x) == len(judge._y) == 20
    assert judge.lowers == sorted(judge.lowers)
    assert judge._waited == 5 or e.steps == 100
    assert len(judge.lowers) == e.steps // 2
    # The critic that came back has the best bound that validation saw: scaling it back changes nothing.
    scale = float(e.critic(x).detach().std() / fitting.exactly(judge.best)(x.double()).detach().std())
    assert math.isclose(scale, 1, rel_tol=1e-4)


def test_one_evaluation_of_patience_and_few_samples() -> None:
    x, y = torch.randn(16, 2, generator=seeded(0)), torch.randn(16, 2, generator=seeded(1)) + 3
    assert estimate(x, y, patience=1, **SHORT).steps <= 20
    for patience in (0, 1.5, True):
        with pytest.raises(ValueError, match="patience is"):
            estimate(x, y, patience=patience, **SHORT)
    with pytest.raises(ValueError, match="y has 15 samples, too few to stop early by: patience needs 16"):
        estimate(x, y[:15], patience=3, **SHORT)


# -- precision ---------------------------------------------------------------------------------------------------------


def test_training_in_bfloat16_is_judged_in_float64() -> None:
    x, y = torch.randn(600, 4, generator=seeded(0)), torch.randn(600, 4, generator=seeded(1)) + 1.5
    plain, half = (estimate(x, y, steps=60, widths=(16, 8), amp=amp, generator=seeded(2)) for amp in (None, True))
    assert half.history != plain.history
    assert half.lipschitz_bound <= 1 + 1e-5
    assert next(half.critic.parameters()).dtype == torch.float32
    assert math.isclose(half.value, plain.value, rel_tol=0.01)
    assert half.lower < 3 < half.upper
    assert same(plain, estimate(x, y, steps=60, widths=(16, 8), amp=False, generator=seeded(2)))


def test_only_the_training_forward_is_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[bool, bool, torch.dtype]] = set()
    plain = torch.nn.functional.linear

    def watched(x: Tensor, *args: Any) -> Tensor:
        found = plain(x, *args)
        seen.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), found.dtype))
        return found

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    estimate(X.repeat(4, 1), X.repeat(4, 1) + 1, amp=True, patience=2, **SHORT)
    training = {(True, True, torch.bfloat16), (True, False, torch.float32)}
    assert seen == {*training, (False, False, torch.float64)}


def test_bfloat16_does_not_push_what_the_objective_does_not_see() -> None:
    # Gradients that are zero but for rounding would send the biases away, and the level of f with them.
    x, y = squares(32, 16, 9)
    e = estimate(x, y, steps=120, widths=(32, 16), amp=True, generator=seeded(1))
    assert abs(e.value - 9) < 1e-2
    assert float(e.critic(torch.cat((x, y))).detach().abs().max()) < 18


def test_bfloat16_of_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="amp is True but the samples are float64"):
        estimate(X.double(), X.double(), amp=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    x, y = squares(64, 16, 9)
    for amp in (None, False):
        e = estimate(x, y, steps=200, device="cuda", amp=amp, generator=seeded(0))
        assert next(e.critic.parameters()).is_cuda
        assert abs(e.value - 9) < 0.02
        assert brackets(e, 9, 1e-6)
    assert estimate(x.split(8), y.split(8), device="cuda", **SHORT).lipschitz_bound <= 1


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
        (X, X / 0, {}, "first in sample 0: drop"),
        (X.numpy(), [X[:, :1]], {}, r"a sample of x has shape \(2,\) but one of y has shape \(1,\)"),
        ([X, X[:, :1]], X, {}, r"batch 1 of x has samples of shape \(1,\)"),
        ((t for t in [X]), X, {}, "x is a generator, which can be read only once"),
        (X, [torch.arange(9)], {}, "look like labels"),
        (None, X, {}, "x is a NoneType"),
        (X, "none.npy", {}, "none.npy does not exist"),
    ],
)
def test_refuses(x: Tensor, y: Tensor, options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        estimate(x, y, **options)  # type: ignore[arg-type]
