"""The bump on a line: known values, and measurements that refute each claim."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from barrow.studies import losses
from barrow.studies.work import STAMP, Work


def cheap() -> dict[str, dict[str, dict[str, object]]]:
    """Everything that the claims are made of, from a few steps."""
    tried = losses.RATES[::2]
    return {
        "sweeps": {loss: losses.sweep(loss) for loss in losses.LOSSES},
        "slid": {loss: losses.slide(loss, 60, tried) for loss in losses.LOSSES},
        "shaped": {loss: losses.reshape(loss, 50) for loss in losses.LOSSES},
    }


@pytest.fixture(scope="module")
def found():
    return cheap()


def test_bumps_are_histograms_where_they_should_be() -> None:
    h = losses.bump(torch.tensor([30.0, 55.5], dtype=torch.float64))
    assert h.shape == (2, losses.BINS)
    assert torch.allclose(h.sum(-1), torch.ones(2).double())
    assert torch.allclose((h * losses.BIN).sum(-1), torch.tensor([30.0, 55.5]).double(), atol=1e-4)
    assert float(h.min()) >= losses.FLOOR / losses.BINS


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_slopes_are_those_of_the_values(loss: str) -> None:
    found = losses.sweep(loss)
    # Between whole shifts the mean of the slopes is the difference of the values, to second order.
    rise = found["value"].diff()
    mean = (found["slope"][1:] + found["slope"][:-1]) / 2
    far = slice(0, 50)  # nearer, L1 and EMD have their kink
    assert torch.allclose(rise[far], mean[far], atol=0.1 * float(rise.abs().max()))
    assert float(found["grad"].sum(-1).abs().max()) < 1e-6 * float(found["grad"].abs().max())


def test_losses_of_the_target_itself() -> None:
    zero = {loss: float(losses.sweep(loss)["value"][-1]) for loss in losses.LOSSES}
    for loss in ("KL", "L1", "MSE", "EMD", "EMD²", "W₂²"):
        assert abs(zero[loss]) < 1e-9
    entropy = -(losses.target(1) * losses.target(1).log()).sum()
    assert zero["cross-entropy"] == pytest.approx(float(entropy))
    assert zero["Sinkhorn"] > 0  # the cost of blur


def test_arrival_is_for_good() -> None:
    assert losses.arrival([3, 2, 0.5, 1.5, 0.2, 0.1]) == 4
    assert losses.arrival([0.5, 0.2]) == 0
    assert losses.arrival([3, 0.5, 2]) is None


def test_the_claims_hold_and_each_can_fail(found) -> None:
    def verdicts(**changes: object) -> list[bool]:
        given = {**found, **changes}
        return [claim.holds for claim in losses.claims(given["sweeps"], given["slid"], given["shaped"])]

    assert verdicts() == [True] * 8
    half = {**found["sweeps"]["EMD"], "value": found["sweeps"]["EMD"]["value"] / 2}
    assert verdicts(sweeps={**found["sweeps"], "EMD": half}) == [False] + [True] * 7
    steep = {**found["sweeps"]["MSE"], "slope": torch.ones(len(losses.SHIFTS)).double()}
    assert verdicts(sweeps={**found["sweeps"], "MSE": steep}) == [True, False] + [True] * 6
    flat = {**found["sweeps"]["EMD²"], "slope": found["sweeps"]["MSE"]["slope"]}
    assert verdicts(sweeps={**found["sweeps"], "EMD²": flat}) == [True, True, False] + [True] * 5
    bent = {**found["sweeps"]["KL"], "grad": found["sweeps"]["EMD"]["grad"]}
    assert verdicts(sweeps={**found["sweeps"], "KL": bent}) == [True] * 3 + [False] + [True] * 4
    stuck = {**found["slid"]["EMD²"], "path": found["slid"]["MSE"]["path"]}
    assert verdicts(slid={**found["slid"], "EMD²": stuck})[4] is False
    there = {**found["slid"]["KL"], "path": found["slid"]["Sinkhorn"]["path"]}
    assert verdicts(slid={**found["slid"], "KL": there}) == [True] * 5 + [False, True, True]
    resting = {**found["slid"]["EMD"], "path": found["slid"]["EMD²"]["path"]}
    assert verdicts(slid={**found["slid"], "EMD": resting}) == [True] * 6 + [False, True]
    slow = {**found["shaped"]["cross-entropy"], "left": [9.0] * 51}
    assert verdicts(shaped={**found["shaped"], "cross-entropy": slow}) == [True] * 7 + [False]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "RATES", losses.RATES[::7])
    monkeypatch.setattr(losses, "LOSSES", {name: losses.LOSSES[name] for name in losses.LOSSES if name != "Sinkhorn"})
    monkeypatch.setattr(losses, "TRANSPORT", ("EMD", "EMD²", "W₂²"))
    monkeypatch.setattr(losses, "claims", lambda *_: [])
    monkeypatch.setattr(losses, "_values", lambda *_: None)
    monkeypatch.setattr(losses, "_gradients", lambda *_: None)
    monkeypatch.setattr(losses, "_descents", lambda *_: None)
    whole = losses.run(Work(quick=True, folder=tmp_path / "parts", study="losses"))
    kept = sorted(path for path in (tmp_path / "parts").iterdir() if path.name != STAMP)
    for path in kept[::2]:
        path.unlink()
    work = Work(quick=True, folder=tmp_path / "parts", study="losses", resume=True)
    again = losses.run(work)
    assert work.resumed == len(kept) // 2
    assert again.numbers == whole.numbers
    assert again.tables == whole.tables
    assert all(math.isfinite(number) for s in whole.numbers["sweep"].values() for number in s["value"])
