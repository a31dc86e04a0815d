"""Breathing: recordings of a belt around the chest with the electrocardiogram beside it, reduced to 10 and 250 Hz."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from barrow.studies.data import cache
from barrow.studies.data.cache import Contents, Dataset, Source

RAW, RATE, ECG_RATE = 1000, 10, 250  # Hz
Signal = npt.NDArray[np.float32]
_MONTAGE = "OSmontage0J.txt"
_BELT, _ECG = "Task1_Respiration.npy", "Task1_ECG.npy"
_SYSTOLE = "systole-0.3.1/src/systole/datasets"


def slower(signal: npt.NDArray[np.float64] | Signal, step: int) -> Signal:
    """Every ``step``-th value of ``signal`` (n,), free of what is too fast for that: (ceil(n / step),).

        y_k = sum_j h_j x_(step k + j),   h_j ~ sinc(0.8 j / step) hamming(j),   |j| <= 10 step,   sum_j h_j = 1

    The cut is at 0.4 of the new rate (4 Hz at 10 Hz): waves of up to 0.3 of it stay to within 0.4 %, and those of 0.5
    or more lose 50 dB. Before its beginning and after its end the signal goes on as if mirrored there.

    >>> t = torch.arange(4000).numpy() / 1000
    >>> kept = slower(np.cos(2 * np.pi * t), 100)  # 1 Hz, from 1 kHz to 10 Hz
    >>> bool(np.abs(kept - np.cos(2 * np.pi * t[::100]))[10:-10].max() < 2e-3)
    True
    """
    reach = 10 * step
    offsets = np.arange(-reach, reach + 1)
    taps = np.sinc(0.8 * offsets / step) * np.hamming(len(offsets))
    taps /= taps.sum()
    around = np.pad(np.asarray(signal, dtype=np.float64), reach, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(around, len(taps))[::step]
    # In parts: windows overlap, and a product of all of them would first be copied apart.
    parts = [windows[k : k + 1024] @ taps for k in range(0, len(windows), 1024)]
    return np.concatenate(parts).astype(np.float32)


def _pack(belt: npt.NDArray[np.float64], ecg: npt.NDArray[np.float64]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, belt=slower(belt, RAW // RATE), ecg=slower(ecg, RAW // ECG_RATE))
    return file.getvalue()


def _from_text(raw: Contents) -> Contents:
    """Columns of a text file of OpenSignals: number, four digital ones, belt, ECG."""
    lines = [line for line in raw[_MONTAGE].split(b"\n") if line.strip() and not line.startswith(b"#")]
    table = np.loadtxt(lines, usecols=(5, 6), ndmin=2)
    return {"biopeaks.npz": _pack(table[:, 0], table[:, 1])}


def _from_arrays(raw: Contents) -> Contents:
    belt, ecg = (np.load(io.BytesIO(raw[name])) for name in (_BELT, _ECG))
    return {"systole.npz": _pack(belt, ecg)}


DATASETS = {
    "biopeaks": Dataset(
        name="biopeaks",
        title="the belt recording of biopeaks",
        summary="85 minutes of one person's breathing (belt) and heart (ECG), kept at 10 and 250 Hz",
        licence="GPL-3.0: for your own experiments; not to be shipped with other software",
        citation="Brammer, biopeaks: a graphical user interface for feature extraction from biosignals, JOSS 2020",
        sources=(
            Source(
                (
                    "https://files.pythonhosted.org/packages/be/a9/"
                    "b4127e2c01393eda06786c0e2d3cfa95040fd0c684047cc2b7c84a24d589/biopeaks-1.4.1-py3-none-any.whl",
                ),
                "2b7b3892903ad1491f2fdb8b207188344ea10178dc9e2de196e56dd4e5b42d96",
                17733907,
                {f"biopeaks/tests/testdata/{_MONTAGE}": _MONTAGE},
            ),
        ),
        files=("biopeaks.npz",),
        reduce=_from_text,
        packages=("biopeaks",),
    ),
    "systole": Dataset(
        name="systole",
        title="the belt recording of systole",
        summary="26 minutes of another's breathing and heart, kept at 10 and 250 Hz; the belt drifts and clips at -10",
        licence="GPL-3.0: for your own experiments; not to be shipped with other software",
        citation="Legrand and Allen, Systole: a Python package for cardiac signal synchrony and analysis, JOSS 2022",
        sources=(
            Source(
                (
                    "https://files.pythonhosted.org/packages/db/f1/"
                    "91738b0927b1055f2efc7afbac8233493b32d7c3dd943eb80a7e715c21d0/systole-0.3.1.tar.gz",
                ),
                "9bc145f7b87caa57b53e45f34276bcfefec101bc1c662e4e104f53fdfa5a405a",
                5771291,
                {f"{_SYSTOLE}/{name}": name for name in (_BELT, _ECG)},
            ),
        ),
        files=("systole.npz",),
        reduce=_from_arrays,
        packages=("systole",),
    ),
}


@final
@dataclasses.dataclass(frozen=True)
class Recording:
    """One person: the belt (n,) at 10 Hz and the electrocardiogram (m,) at 250 Hz, in the units of the recorder."""

    name: str
    belt: Tensor
    ecg: Tensor
    source: str

    @property
    def minutes(self) -> float:
        """How long it is."""
        return len(self.belt) / RATE / 60

    def windows(self, seconds: float, hop: float) -> Tensor:
        """The belt in windows (k, 10 * seconds) that begin ``hop`` seconds apart."""
        return self.belt.unfold(0, round(seconds * RATE), round(hop * RATE))


def find(name: str = "biopeaks", data: Path | None = None) -> Recording:
    """The recording of biopeaks or of systole.

    From ``data`` (the package, its raw file or files, or the reduced .npz), else from the installed package, else from
    the cache. Reducing the raw file of biopeaks takes many seconds, which fetching spares.

    Raises:
        ValueError: there is no such recording.
        BadData: ``data`` does not hold it, or it is damaged.
        MissingData: it is nowhere.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no recording {name!r}: there are {' and '.join(DATASETS)}")
    dataset = DATASETS[name]
    contents, place = cache.load(dataset, data)
    try:
        with np.load(io.BytesIO(contents[f"{name}.npz"])) as file:
            belt, ecg = file["belt"], file["ecg"]
        if belt.ndim != 1 or len(belt) == 0 or len(belt) != -(-len(ecg) * RATE // ECG_RATE):
            raise ValueError(f"its belt has shape {belt.shape} and its ECG {ecg.shape}: they are not of one length")
        if not (np.isfinite(belt).all() and np.isfinite(ecg).all()):
            raise ValueError("it has values that are no numbers")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise cache.unreadable(Path(place), dataset, ValueError(str(error))) from error
    minutes = len(belt) / RATE / 60
    return Recording(
        name, torch.from_numpy(belt), torch.from_numpy(ecg), f"{name}, {minutes:.1f} minutes of a belt, of {place}"
    )
