"""Two laws of images 35 apart: three roads, claims that can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import barrow
from barrow.estimate import estimate
from barrow.studies import squares
from barrow.studies.study import Answer
from resuming import resumed

Trained = tuple[squares.Critic, list[tuple[str, int, int]]]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A critic of the quick study, and what was told on the way."""
    ticks: list[tuple[str, int, int]] = []
    return squares.train(squares.Laws.draw(), 5, quick=True, progress=lambda *told: ticks.append(told)), ticks


@pytest.mark.parametrize(("size", "side"), [(64, 35), (32, 17), (16, 8)])
def test_the_laws_are_as_far_apart_as_they_say(size: int, side: int) -> None:
    laws = squares.Laws.draw(size)
    assert laws.truth == side
    assert (laws.squares != 0).sum() == 2 * side**2
    x, y = laws.samples(6)
    assert x.shape == y.shape == (6, size, size)
    assert float(y.sum()) == 0
    assert float(barrow.wasserstein(x.flatten(1), y.flatten(1), p=1)) == pytest.approx(side, rel=1e-6)
    assert squares.exact(laws).contains(side)


@pytest.mark.parametrize("epsilon", squares.EPSILONS)
def test_entropy_does_not_matter_where_all_costs_are_equal(epsilon: float) -> None:
    answer = squares.entropic(squares.Laws.draw(16), epsilon)
    assert answer.contains(8)
    assert answer.upper - answer.lower < 1e-6


def test_the_critic_finds_the_distance(trained: Trained) -> None:
    critic, ticks = trained
    assert critic.answer.value == pytest.approx(35, abs=1e-3)
    assert critic.answer.lower <= critic.answer.value <= 35 <= critic.answer.upper + 1e-9
    assert critic.curve[-1][0] == ticks[-1][1] == ticks[-1][2]
    assert len({what.partition(":")[0] for what, _, _ in ticks}) == 1
    black, minus, plus = critic.heights
    assert black - minus == pytest.approx(35, abs=1e-2)
    assert black - plus == pytest.approx(35, abs=1e-2)


def test_wrong_measurements_refute_claims(trained: Trained) -> None:
    laws = squares.Laws.draw()
    good = Answer("exact", 35.0, 35.0, 35.0, "by hand", 0.0)
    critic, _ = trained

    def verdicts(reference: Answer, smooth: list[Answer], critic: squares.Critic) -> list[bool]:
        return [claim.holds for claim in squares._claims(laws, reference, smooth, [critic])]

    assert all(verdicts(good, [good], critic))
    off = dataclasses.replace(good, value=34.9, lower=34.9, upper=34.9)
    assert verdicts(off, [good], critic).count(False) == 1
    assert verdicts(good, [off], critic).count(False) == 1
    low = dataclasses.replace(critic, answer=dataclasses.replace(critic.answer, value=34.99, lower=34.99))
    assert verdicts(good, [good], low).count(False) == 2
    cheat = dataclasses.replace(critic, bound=1.1)
    assert verdicts(good, [good], cheat).count(False) == 1
    flat = dataclasses.replace(critic, heights=(0.0, 0.0, 0.0))
    assert verdicts(good, [good], flat).count(False) == 1


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*clouds: object, steps: int, widths: tuple[int, ...], **options: object) -> object:
        return estimate(*clouds, steps=20, widths=(8,), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(squares, "estimate", short)
    outcome = resumed(squares.run, tmp_path, parts=2)
    assert list(outcome.numbers["answers"])[-2:] == ["critic, seed 3", "critic, seed 4"]
    assert len({curve[-1] for curve in outcome.numbers["curves"]}) == 2
    rows = outcome.tables["answers"].rows
    assert rows[0][:2] == ("exact", "35.000000")
    assert rows[-1][0] == "critics, mean ± std"
    assert not outcome.holds  # twenty steps find nothing
