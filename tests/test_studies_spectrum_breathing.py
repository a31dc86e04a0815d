"""Breathing in windows: spectra and rates against scipy and by hand, signals with what they should hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal

from barrow.studies.data.belt import Recording
from barrow.studies.spectrum import breathing
from barrow.studies.spectrum.breathing import RECORDED, SIMULATED, Windows, median_rate, peak_rate

T = torch.arange(breathing.LENGTH) / 10


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- spectra -----------------------------------------------------------------------------------------------------------


def test_the_spectrum_is_that_of_scipy() -> None:
    x = torch.randn((3, 600), generator=draw(), dtype=torch.float64).cumsum(-1)
    _, power = signal.welch(x.numpy(), 10, "hann", 300, 150, 640, detrend="constant", return_onesided=False)
    known = torch.from_numpy(power[:, :64] / power[:, :64].sum(-1, keepdims=True))
    assert torch.allclose(breathing.spectrum(x, SIMULATED).double(), known, atol=1e-7)


@pytest.mark.parametrize("hertz", [SIMULATED, RECORDED])
@pytest.mark.parametrize("rate", [8.0, 13.7, 21.3, 30.0])
def test_a_steady_breath_is_a_peak_at_its_rate(hertz: torch.Tensor, rate: float) -> None:
    x = 5 + 3 * (2 * torch.pi * rate / 60 * T + 1).sin()
    spectra = breathing.spectrum(x, hertz)
    assert float(spectra.sum()) == pytest.approx(1, abs=1e-5)
    assert float(peak_rate(spectra, hertz)) == pytest.approx(rate, abs=0.15)
    assert float(median_rate(spectra, hertz)) == pytest.approx(rate, abs=0.15)
    assert torch.allclose(breathing.spectrum(-7 * x + 2, hertz), spectra, atol=1e-5)


def test_nothing_at_all_is_finite() -> None:
    assert breathing.spectrum(torch.zeros(2, 600), SIMULATED).isfinite().all()
    assert breathing.disturbed(torch.zeros(2, 600), draw()).isfinite().all()


def test_peaks_are_tops_of_parabolas() -> None:
    hertz = torch.arange(64) / 60  # a breath a minute each
    for top in (3.0, 20.3, 61.5):
        spectra = 5000 - (torch.arange(64) - top) ** 2
        assert float(peak_rate(spectra, hertz)) == pytest.approx(top, abs=1e-3)
    assert float(peak_rate(torch.ones(64), hertz)) == 1  # flat: the first that has neighbours
    falling = torch.arange(64, 0, -1).float()
    assert 0 <= float(peak_rate(falling, hertz)) <= 1


def test_medians_are_in_the_middle_of_the_mass() -> None:
    hertz = torch.arange(4) / 60
    spectra = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5], [0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.2, 0.8]])
    assert torch.allclose(median_rate(spectra, hertz), torch.tensor([1.0, 0.5, 0.5 + 1 / 3, 2.5 + 3 / 8]), atol=1e-6)


# -- signals -----------------------------------------------------------------------------------------------------------


def test_simulated_breaths_have_their_rates() -> None:
    x, rate = breathing.breaths(400, draw())
    assert x.shape == (400, 600)
    assert rate.min() > 5
    assert rate.max() < 36
    assert 17.5 < rate.mean() < 20.5
    found = peak_rate(breathing.spectrum(x, SIMULATED), SIMULATED)
    assert float((found - rate).abs().mean()) < 0.8
    crossings = ((x[:, 1:] > 0) & (x[:, :-1] <= 0)).sum(1)  # in a minute
    assert float((crossings - rate).abs().max()) <= 1.5


def test_disturbed_windows_are_standard_and_have_gaps() -> None:
    x, _ = breathing.breaths(400, draw())
    y = breathing.disturbed(x, draw(1))
    assert y.mean(1).abs().max() < 1e-5
    assert (y.std(1) - 1).abs().max() < 1e-4
    still = (y.diff(dim=1) == 0).sum(1) > 15
    assert 0.4 < float(still.double().mean()) < 0.6  # 1 - 0.7^2 = 0.51
    match = (x * y).mean(1) / x.std(1)
    assert 0.4 < float(match.mean()) < 0.9  # the breath is there, and so is the noise
    assert torch.allclose(y, breathing.disturbed(10 * x, draw(1)), atol=1e-4)  # noise is as large as the breath


def test_windows_are_drawn_by_their_seed() -> None:
    one, same, other = (breathing.simulated(5, seed) for seed in (1, 1, 2))
    assert torch.equal(one.noisy, same.noisy)
    assert torch.equal(one.spectra, same.spectra)
    assert not torch.equal(one.noisy, other.noisy)
    assert len(one) == 5
    assert one.spacing == pytest.approx(60 / 64)
    assert torch.allclose(one.spectra.sum(-1), torch.ones(5))


# -- recordings --------------------------------------------------------------------------------------------------------


def belt(minutes: int = 4, rate: float = 15.0) -> torch.Tensor:
    t = torch.arange(600 * minutes).double() / 10
    return (500 + 40 * (2 * math.pi * rate / 60 * t).sin() + 0.5 * t).float()


def test_recorded_windows_have_the_rate_of_the_belt() -> None:
    windows = breathing.recorded(belt(), 5, 0)
    assert len(windows) == (4 - 1) * 12 + 1
    rates = peak_rate(windows.spectra, windows.hertz)
    assert float((rates - 15).abs().max()) < 0.5
    assert not torch.allclose(windows.noisy[0], windows.noisy[12])  # each has noise of its own


def test_windows_out_of_range_or_still_are_left_out() -> None:
    x = belt()
    assert len(breathing.recorded(x, 60, 0)) == 4
    x[1500] = 5000.0
    assert len(breathing.recorded(x, 60, 0)) == 3
    still = torch.cat((belt(6), torch.full((2400,), float(belt(6)[-1]))))
    assert len(breathing.recorded(still, 60, 0)) == 6


def test_the_band_keeps_breathing_only() -> None:
    t = torch.arange(6000) / 10
    kept, slow, fast = ((2 * torch.pi * f * t).sin() for f in (0.3, 0.01, 2.0))
    assert torch.allclose(breathing.band(3 + kept + slow + fast), kept, atol=1e-3)


def test_parts_have_nothing_in_common() -> None:
    recording = Recording("x", torch.arange(1000.0), torch.zeros(25000), "made here")
    first, middle, last = breathing.parts(recording, (0.6, 0.12, 0.28))
    assert (len(first), len(middle), len(last)) == (600, 120, 280)
    assert float(first.max()) < float(middle.min())
    assert float(middle.max()) < float(last.min())


def test_windows_say_their_spacing() -> None:
    windows = Windows(torch.zeros(1, 600), torch.ones(1, 64) / 64, RECORDED)
    assert windows.spacing == pytest.approx(60 * 0.75 / 63, rel=1e-5)
    assert np.isclose(float(windows.hertz[-1]), 0.8)
