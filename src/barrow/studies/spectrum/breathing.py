"""Breathing in windows of a minute, as it is and as a belt would record it, with its spectrum and its rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from barrow.studies.data.belt import RATE, Recording

LENGTH = 60 * RATE  # samples of a window
SEGMENT = 30 * RATE  # of Welch's average
BINS = 64
SLOWEST, FASTEST = 8.0, 30.0  # simulated breaths a minute
CLIPPED = 10.0  # deviations (of the middle half) from the median at which a belt has left its range
SIMULATED = torch.arange(BINS) / BINS  # Hz
RECORDED = torch.linspace(0.05, 0.8, BINS)


@final
@dataclasses.dataclass(frozen=True)
class Windows:
    """What is given, noisy (n, 600) of mean 0 and deviation 1, and what is asked, spectra (n, 64) of sum 1.

    ``hertz`` (64,) are the frequencies of the bins, evenly apart.
    """

    noisy: Tensor
    spectra: Tensor
    hertz: Tensor

    def __len__(self) -> int:
        return len(self.noisy)

    @property
    def spacing(self) -> float:
        """Of the bins, in breaths a minute."""
        return 60 * float(self.hertz[1] - self.hertz[0])


# -- spectra -----------------------------------------------------------------------------------------------------------


def spectrum(x: Tensor, hertz: Tensor) -> Tensor:
    """Welch's power spectrum of windows x (..., n) at the frequencies ``hertz`` (k,), of sum 1: (..., k).

        P_k ~ sum over segments s of  |sum_n w_n (x_{s + n} - mean) e^{-2 pi i f_k n / 10}|^2,   w_n Hann's

    Segments last 30 s and overlap by half; a single breath rate becomes a peak of about 4 breaths a minute.

    >>> t = torch.arange(600) / 10
    >>> P = spectrum(torch.sin(2 * torch.pi * 0.25 * t), SIMULATED)
    >>> int(P.argmax()), round(float(P.sum()), 6)
    (16, 1.0)
    """
    segments = x.double().unfold(-1, SEGMENT, SEGMENT // 2)
    segments = (segments - segments.mean(-1, keepdim=True)) * torch.hann_window(SEGMENT, dtype=torch.float64)
    angle = 2 * torch.pi * torch.arange(SEGMENT)[:, None] * hertz.double() / RATE
    power = ((segments @ angle.cos()) ** 2 + (segments @ angle.sin()) ** 2).sum(-2)
    return (power / power.sum(-1, keepdim=True).clamp_min(1e-30)).float()


def peak_rate(spectra: Tensor, hertz: Tensor) -> Tensor:
    """Where spectra (..., k) are largest, in breaths a minute: the top of a parabola through a bin and its neighbours.

    >>> spectra = torch.tensor([0.1, 0.4, 0.4, 0.1])
    >>> peak_rate(spectra, torch.tensor([0.0, 0.1, 0.2, 0.3]))  # between 6 and 12
    tensor(9.)
    """
    at = spectra.argmax(-1, keepdim=True).clamp(1, spectra.shape[-1] - 2)
    below, top, above = (spectra.gather(-1, at + k)[..., 0] for k in (-1, 0, 1))
    bend = 2 * top - below - above
    shift = torch.where(bend > 0, (above - below) / (2 * bend.clamp_min(1e-30)), torch.zeros_like(bend)).clamp(-1, 1)
    return 60 * (hertz[0] + (at[..., 0] + shift) * (hertz[1] - hertz[0]))


def median_rate(spectra: Tensor, hertz: Tensor) -> Tensor:
    """The rate with half of the power of spectra (..., k) below it, in breaths a minute, along straight lines.

    >>> median_rate(torch.tensor([0.1, 0.4, 0.4, 0.1]), torch.tensor([0.0, 0.1, 0.2, 0.3]))
    tensor(9.)
    """
    # A bin's power is spread evenly from half a bin before it to half a bin behind.
    total = spectra.cumsum(-1)
    half = total[..., -1:] / 2
    at = (total < half).sum(-1, keepdim=True).clamp_max(spectra.shape[-1] - 1)
    own, upto = spectra.gather(-1, at), total.gather(-1, at)
    share = (half - upto + own) / own.clamp_min(1e-30)
    return 60 * (hertz[0] + (at + share - 0.5)[..., 0] * (hertz[1] - hertz[0]))


# -- signals -----------------------------------------------------------------------------------------------------------


def breaths(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clean breathing A(t) sin(phase) (count, 600), and its mean rate in breaths a minute (count,).

    Rates are even between 8 and 30; within a window they drift by about a tenth, amplitudes by about three.
    """
    rate = SLOWEST + (FASTEST - SLOWEST) * torch.rand((count, 1), generator=random)
    rates = rate * (1 + 0.1 * _slow(count, random))
    start = torch.rand((count, 1), generator=random)
    phase = 2 * torch.pi * (start + rates.double().cumsum(-1) / (60 * RATE))
    height = (1 + 0.3 * _slow(count, random)).clamp_min(0.2)
    return height * phase.sin().float(), rates.mean(-1)


def disturbed(x: Tensor, random: torch.Generator) -> Tensor:
    """Windows x (n, 600) as a poor belt would give them, with mean 0 and deviation 1.

    Against breathing of deviation 0.7: the heart (50 to 90 beats a minute, height 0.1 to 0.3), drift with a spectrum
    1/f (deviation 0.2 to 0.8), white noise (0.1 to 0.5), up to four movements (some seconds of swaying, one to three
    times the height of a breath) and up to two gaps of 2 to 10 s without signal.
    """
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((n, 1), generator=random)

    t = torch.arange(LENGTH) / RATE
    y = x / (math.sqrt(2) * x.std(-1, keepdim=True)).clamp_min(1e-6)
    noise = uniform(0.1, 0.3) * (2 * torch.pi * (uniform(50, 90) / 60 * t + uniform(0, 1))).sin()
    noise += uniform(0.2, 0.8) * _pink(n, random) + uniform(0.1, 0.5) * torch.randn((n, LENGTH), generator=random)
    for _ in range(4):
        envelope = (-0.5 * ((t - uniform(0, 60)) / uniform(0.5, 3.0)) ** 2).exp()
        sway = (2 * torch.pi * (uniform(0.1, 0.8) * t + uniform(0, 1))).sin()
        noise += (uniform(0, 1) < 0.5) * uniform(1, 3) * envelope * sway
    y = y + noise
    for _ in range(2):
        start, seconds = uniform(0, 60), uniform(2, 10)
        y = torch.where((uniform(0, 1) < 0.3) & (t >= start) & (t < start + seconds), 0, y)
    return _standard(y)


def _standard(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / x.std(-1, keepdim=True).clamp_min(1e-6)


def _slow(count: int, random: torch.Generator) -> Tensor:
    """Values of deviation about 1 every ten seconds, and straight lines between them."""
    knots = torch.randn((count, 1, 7), generator=random)
    return functional.interpolate(knots, LENGTH, mode="linear", align_corners=True)[:, 0]


def _pink(count: int, random: torch.Generator) -> Tensor:
    """Noise with power 1/f, of deviation 1."""
    waves = torch.fft.rfft(torch.randn((count, LENGTH), generator=random))
    f = torch.arange(waves.shape[-1]).clamp_min(1)
    return _standard(torch.fft.irfft(waves / f.sqrt(), LENGTH))


# -- windows -----------------------------------------------------------------------------------------------------------


def simulated(count: int, seed: int) -> Windows:
    """Breathing made here; the spectrum is that of the clean signal from 0 to 1 Hz."""
    random = torch.Generator().manual_seed(seed)
    clean, _ = breaths(count, random)
    return Windows(disturbed(clean, random), spectrum(clean, SIMULATED), SIMULATED)


def recorded(belt: Tensor, seconds: float, seed: int) -> Windows:
    """Windows of a belt (m,) that begin ``seconds`` apart, made noisier; the spectrum is its own, 0.05 to 0.8 Hz.

    Windows in which the belt left its range or stood still are left out.
    """
    random = torch.Generator().manual_seed(seed)
    step, deviation = round(seconds * RATE), _deviation(belt)
    raw = belt.unfold(0, LENGTH, step)
    kept = ((raw - belt.median()).abs() <= CLIPPED * deviation).all(-1) & (raw.std(-1) > 1e-3 * deviation)
    windows = band(belt).unfold(0, LENGTH, step)[kept]
    return Windows(disturbed(windows, random), spectrum(windows, RECORDED), RECORDED)


def band(x: Tensor, low: float = 0.05, high: float = 1.0) -> Tensor:
    """A signal x (m,) without what is slower than ``low`` or faster than ``high`` Hz; flanks are a tenth wide."""
    m = len(x)
    f = torch.arange(m // 2 + 1) * RATE / m
    keep = ((f / low - 0.95) / 0.1).clamp(0, 1) * ((1.05 - f / high) / 0.1).clamp(0, 1)
    waves = torch.fft.rfft(x.double() - x.double().mean())
    kept: Tensor = torch.fft.irfft(waves * keep, m)
    return kept.float()


def parts(recording: Recording, shares: Sequence[float]) -> tuple[Tensor, ...]:
    """The belt cut in time, in shares of its length: windows of one part and of another have nothing in common."""
    cuts = [round(share * len(recording.belt)) for share in shares]
    return tuple(recording.belt[: sum(cuts)].split(cuts))


def _deviation(x: Tensor) -> float:
    low, high = x.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return float((high - low) / 1.349)
