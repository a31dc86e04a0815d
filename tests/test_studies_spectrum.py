"""Spectra of breathing: known errors and arrivals, trainings alike in all but the loss, claims that can fail."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import barrow
from barrow.studies import BadData, Work, spectrum
from barrow.studies.spectrum import Size, breathing, claims, recorded, simulated
from barrow.studies.spectrum import training as spectrum_training
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
    errors,
    guesses,
    looks,
    train,
)
from resuming import resumed

TINY = Size(windows=24, held=6, test=8, steps=6, batch=4, adam=(0.001, 0.003), sgd=(0.01,), seeds=2, fewer=1)


@pytest.fixture(scope="module")
def task() -> Task:
    return simulated(TINY, 0)[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keep(folder: Path) -> None:
    """Recordings of 15 and 10 minutes, 15 and 20 breaths a minute."""
    for name, minutes, rate in (("biopeaks", 15, 15), ("systole", 10, 20)):
        t = np.arange(600 * minutes) / 10
        (folder / name).mkdir(parents=True)
        belt = np.sin(2 * np.pi * rate / 60 * t).astype(np.float32)
        np.savez(folder / name / f"{name}.npz", belt=belt, ecg=np.zeros(25 * len(t), dtype=np.float32))


# -- training ----------------------------------------------------------------------------------------------------------


def test_errors_are_zero_at_the_truth_and_a_bin_next_to_it(task: Task) -> None:
    windows = task.held
    peak, emd, _ = errors(windows.spectra, windows)
    assert peak == 0
    assert emd < 1e-12
    moved = errors(windows.spectra.roll(1, -1), windows)
    assert moved[RATE] == pytest.approx(windows.spacing, rel=1e-4)
    assert moved[EMD] == pytest.approx(windows.spacing, rel=1e-3)
    assert moved[MEDIAN] == pytest.approx(windows.spacing, abs=0.6)


def test_looks_end_at_the_last_step() -> None:
    for steps in (1, 6, 96, 255, 256):
        at = looks(steps)
        assert at[0] == 0
        assert at[-1] == steps
        assert at == sorted(set(at))


def test_arrivals_and_rates_by_hand() -> None:
    def curve(*values: float) -> Found:
        return {"curve": [(value, value / 2, 9.0) for value in values]}

    runs = [curve(9, 1, 9, 1), curve(9, 9, 2, 2), curve(9, 9, 9, 1)]
    assert arrivals(runs, RATE, 2.5, 6) == [None, 4, None]
    assert arrivals(runs, EMD, 4.5, 6) == [0, 0, 0]
    assert chosen({0.1: runs[0], 0.01: curve(9, 1, 1, 1), 0.3: runs[2]}, (1.0, 1.0)) == 0.01
    stuck, learning = {"curve": [(2.0, 8.0, 9.0)] * 4}, {"curve": [(3.0, 4.0, 9.0)] * 4}
    assert chosen({0.1: stuck, 0.01: learning}, (4.0, 4.0)) == 0.01
    assert chosen({0.1: stuck, 0.01: learning}, (4.0, 400.0)) == 0.1
    assert spectrum.counted([4, None], Length(6, 1)) == [4, 6]
    assert spectrum.shown([4, None], Length(6, 1)) == "5 ± 1 (1 of 2 never)"
    assert spectrum.shown([None, None], Length(6, 1)) == "never"


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_least_at_the_truth_and_finite_in_the_corners(loss: str, task: Task) -> None:
    truth = task.held.spectra
    at, near, far = (LOSSES[loss](truth.roll(k, -1), truth) for k in (0, 1, 20))
    assert at.abs().max() < 1e-4
    assert (near > at).all()
    assert (far > near).all()
    logits = torch.tensor([[200.0] + [-200.0] * 63], requires_grad=True)
    LOSSES[loss](logits.softmax(-1), truth[:1]).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_trainings_differ_in_the_loss_alone(task: Task) -> None:
    length = Length(4, 4)
    runs = {how: train(how, 0.001, task, length, 7) for how in LOSSES}
    assert len({run["curve"][0] for run in runs.values()}) == 1  # the same initial weights
    assert len({run["curve"][-1] for run in runs.values()}) == len(LOSSES)
    torch.manual_seed(1)
    again = train("KL", 0.001, task, length, 7)
    assert again["curve"] == runs["KL"]["curve"]
    assert again["tests"] == runs["KL"]["tests"]
    assert train("KL", 0.001, task, length, 8)["curve"] != again["curve"]


def test_windows_come_in_the_same_order_for_all(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    for how in ("MSE", "EMD²"):
        seen[how] = []
        known = LOSSES[how]
        monkeypatch.setitem(LOSSES, how, lambda h, t, how=how, known=known: (seen[how].append(t), known(h, t))[1])
        train(how, 0.001, task, Length(8, 4), 0)
    assert all(torch.equal(one, two) for one, two in zip(seen["MSE"], seen["EMD²"], strict=True))
    first = torch.cat(seen["MSE"][:6])  # an epoch of 24: each once
    assert len({tuple(row.tolist()) for row in first}) == 24


def test_sgd_takes_no_notice_of_the_scale(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = dataclasses.replace(task, descent=SGD)
    one = train("KL", 0.01, slow, Length(6, 4), 0)
    known = LOSSES["KL"]
    monkeypatch.setitem(LOSSES, "KL", lambda h, t: 1000 * known(h, t))
    two = train("KL", 0.01, slow, Length(6, 4), 0)
    assert two["curve"][-1] == pytest.approx(one["curve"][-1], rel=1e-3)
    assert one["curve"] != train("KL", 0.01, task, Length(6, 4), 0)["curve"]


def test_a_network_learns(task: Task) -> None:
    found = train("KL", 0.003, dataclasses.replace(task, held=task.train), Length(60, 8), 0)
    assert found["curve"][-1][EMD] < 0.5 * guesses(task)["validation"]["constant"][EMD]
    assert found["examples"]["simulated"].shape == (4, 64)


def test_the_constant_guess_is_the_best_one(task: Task) -> None:
    own = dataclasses.replace(task, held=task.train)
    known = guesses(own)["validation"]
    rates = breathing.peak_rate(task.train.spectra, task.train.hertz)
    for other in (-1.0, 1.0):
        assert float((rates - rates.median() + other).abs().mean()) >= known["constant"][RATE]
    mean = task.train.spectra.mean(0).expand_as(task.train.spectra)
    of_mean = barrow.emd_1d(mean, task.train.spectra, spacing=task.train.spacing, normalise=True).mean()
    assert known["constant"][EMD] < float(of_mean)
    assert known["as it is"][RATE] < known["constant"][RATE]


# -- the study ---------------------------------------------------------------------------------------------------------


def made(rate: list[float], emd: list[float], end: float = 1.0) -> list[Found]:
    return [{"curve": [(r, e, r) for r, e in zip(rate, emd, strict=True)], "tests": {"simulated": (end, end, end)}}] * 2


def test_each_claim_can_fail(task: Task) -> None:
    length = Length(6, 4)  # looks at 0, 2, 4, 6; a quarter of an epoch is 1.5 steps
    known = {"validation": {"constant": (8.0, 8.0, 8.0)}}  # half is 4
    fast, slow, never = [3.0, 2.0, 2.0, 2.0], [9.0, 9.0, 3.0, 2.0], [9.0, 9.0, 9.0, 9.0]
    quarter = [2.0, 2.0, 2.0, 2.0]

    def verdicts(**changes: list[Found]) -> list[bool]:
        found = {"MSE": made(slow, slow, 1.5), "EMD": made(fast, quarter), "EMD²": made(fast, quarter), **changes}
        return [claim.holds for claim in claims(task, found, known, length)]

    assert verdicts() == [True] * 6
    assert verdicts(MSE=made(slow, quarter, 1.5)) == [False] + [True] * 5
    assert verdicts(MSE=made(fast, slow, 1.5)) == [True, False] + [True] * 4
    assert verdicts(**{"EMD²": made(fast, slow)}) == [False, True, False, True, True, False]
    assert verdicts(**{"EMD²": made(slow, quarter)}) == [True, False, True, False, True, True]
    assert verdicts(**{"EMD²": made(never, quarter)}, MSE=made(never, slow, 2), EMD=made(never, quarter)) == [
        True, False, True, False, True, True,
    ]  # fmt: skip
    assert verdicts(MSE=made(slow, slow, 0.9)) == [True] * 4 + [False, True]
    assert verdicts(**{"EMD²": made(fast, [3.0, 2.0, 2.0, 2.0])}) == [True] * 5 + [False]


def test_wide_spectra_refute_that_twenty_bins_are_like_ten(task: Task) -> None:
    assert spectrum.farther(task.held).holds
    wide = torch.exp(-0.5 * ((torch.arange(64) - 20) / 12.0) ** 2).expand(3, -1)
    assert not spectrum.farther(dataclasses.replace(task.held, spectra=wide / wide.sum(-1, keepdim=True))).holds


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    size = dataclasses.replace(TINY, whole=False)
    outcome = resumed(lambda work: spectrum.run(work, size), tmp_path, parts=6 * 3)
    assert set(outcome.figures) == {"training", "gradients", "examples"}
    assert len(outcome.claims) == 6 + 1


def test_the_whole_run_has_sgd_and_the_recordings(cache: Path) -> None:
    keep(cache)
    outcome = spectrum.run(Work(seed=1), TINY)
    assert [name.partition(":")[0] for name in outcome.tables] == ["simulated", "simulated, SGD", "recorded"]
    assert len(outcome.claims) == 6 + 6 + 7 + 1
    assert len(outcome.sources) == 3
    assert "systole, 10.0 minutes" in outcome.sources[2]
    json.dumps(outcome.numbers, allow_nan=False)
    assert set(outcome.numbers["recorded"]["losses"]["EMD²"]["tests"]) == {"same person, later", "another person"}


def test_recordings_are_cut_in_time_and_keep_their_rates(cache: Path, tmp_path: Path) -> None:
    keep(tmp_path / "mine")
    task, sources = recorded(tmp_path / "mine", TINY, 0)
    # 9, 1.8 and 4.2 minutes, a window a second and every third second
    assert [len(task.train), len(task.held), len(task.tests["same person, later"])] == [481, 17, 65]
    for windows, rate in ((task.train, 15), (task.tests["same person, later"], 15), (task.tests["another person"], 20)):
        assert float((breathing.peak_rate(windows.spectra, windows.hertz) - rate).abs().max()) < 0.5
    assert "481 windows to train on" in sources[0]


def test_without_recordings_the_way_to_them_is_told(cache: Path, tmp_path: Path) -> None:
    tasks, sources = spectrum._tasks(Work(), TINY)
    assert [task.name for task in tasks] == ["simulated", "simulated, SGD"]
    assert [task.descent for task in tasks] == [ADAM, SGD]
    assert "barrow data biopeaks systole" in sources[0]
    with pytest.raises(BadData, match="does not exist"):
        spectrum._tasks(Work(data=tmp_path / "nowhere"), TINY)
    assert [task.name for task in spectrum._tasks(Work(quick=True), spectrum.QUICK)[0]] == ["simulated"]


def test_the_network_takes_windows_of_a_minute() -> None:
    model = spectrum_training.network(0)
    assert model(torch.zeros(2, 600)).shape == (2, 64)
    same, other = spectrum_training.network(0), spectrum_training.network(1)
    assert torch.equal(model[1].weight, same[1].weight)
    assert not torch.equal(model[1].weight, other[1].weight)
