"""The toys: runs that measure what they say, claims that can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import barrow
from barrow.studies import STUDIES, Work, toys
from barrow.studies.study import Spread
from barrow.studies.toys import ALL, Asked
from barrow.studies.toys import planar as planar
from barrow.studies.toys.games import LINE, Run, Size, play
from resuming import resumed

TINY = Size(
    6, dict.fromkeys(planar.LAWS, 1), 200, {"ring": ALL, "grid": ("WGAN-LP",), "roll": ("1-Lipschitz",)}, width=8
)
EASY = Asked(ring_modes=8, grid_modes=20, quality=0.5, w1=0.2)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- one game ----------------------------------------------------------------------------------------------------------


def test_a_run_measures_what_it_says() -> None:
    ticks: list[tuple[str, int, int]] = []
    size = dataclasses.replace(TINY, steps=20)
    r, critic = play("ring", "1-Lipschitz", 4, size, lambda what, done, total: ticks.append((what, done, total)))
    chance = random(4 + 2**32)
    assert r.samples.shape == (2500, 2)
    torch.randn(2500, 2, generator=chance)  # the latents
    law = planar.ring()
    x, other = law.draw(200, chance), law.draw(200, chance)
    assert r.w1 == pytest.approx(float(barrow.wasserstein(x.double(), r.samples[:200].double(), p=1)), rel=1e-9)
    assert r.floor == pytest.approx(float(barrow.wasserstein(x.double(), other.double(), p=1)), rel=1e-9)
    assert r.excess == pytest.approx(r.w1 / r.floor)
    assert (r.modes, r.quality) == law.judge(r.samples)
    assert 0 < r.slope <= r.steepest <= 1 + 1e-5
    assert r.bound == barrow.nn.lipschitz_bound(critic)
    assert [done for _, done, _ in ticks] == list(range(1, 21))
    there = critic(torch.stack((LINE[30], LINE[7]))[None]).item()
    assert float(r.heights[7, 30]) == pytest.approx(there, abs=1e-6)
    again, _ = play("ring", "1-Lipschitz", 4, size)
    assert torch.equal(again.samples, r.samples)
    assert again.numbers() == r.numbers()


def test_the_study_on_a_small_scale() -> None:
    seen: list[str] = []
    outcome = toys.run(Work(seed=1, quick=True, progress=lambda what, *_: seen.append(what)), TINY)
    assert len(outcome.numbers["runs"]) == 7
    assert set(outcome.numbers["summary"]) == {*(f"ring, {m}" for m in ALL), "grid, WGAN-LP", "roll, 1-Lipschitz"}
    assert outcome.numbers["summary"]["ring, WGAN"]["w1"] == [outcome.numbers["runs"][0]["w1"], 0.0]
    (table,) = outcome.tables.values()
    assert [row[:3] for row in table.rows][:2] == [("8 Gaussians", "WGAN", "1"), ("8 Gaussians", "WGAN-GP", "1")]
    assert table.rows[-1][5:7] == ("-", "-")  # a roll has no modes
    assert table.rows[0][3] == f"{Spread.of([outcome.numbers['runs'][0]['w1']]):.3f}"
    assert len(outcome.claims) >= 6
    assert not outcome.holds  # six steps teach nobody anything
    assert set(outcome.figures) == {"toys"}
    assert sum(ax.axison for ax in outcome.figures["toys"].axes) == 7 + len(ALL)
    assert any(what.startswith("8 Gaussians, WGAN-GP, seed 1: ") for what in seen)
    assert "toys" in STUDIES


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    size = dataclasses.replace(TINY, seeds={"ring": 2, "grid": 1, "roll": 1}, exact=50)
    outcome = resumed(lambda work: toys.run(work, size), tmp_path, parts=12)
    first, second = (r["w1"] for r in outcome.numbers["runs"][:2])
    mean, std = outcome.numbers["summary"]["ring, WGAN"]["w1"]
    assert mean == pytest.approx((first + second) / 2)
    assert std == pytest.approx(abs(first - second) / 2**0.5)


# -- the claims --------------------------------------------------------------------------------------------------------


def ideal() -> list[Run]:
    """Runs of which every claim holds."""
    x = torch.zeros(3, 2)
    made = []
    for law, modes in (("ring", 8), ("grid", 25), ("roll", 0)):
        for how in ALL:
            clipped = how == "WGAN"
            bound = 1.0 if how == "1-Lipschitz" else 20.0
            made.append(
                Run(law, how, 0, 1.0 if clipped else 0.05, 0.04, modes, 0.9, 0.9, bound / 20 if bound > 1 else 1.0,
                    bound, 0.1, x, torch.zeros(120, 120))
            )  # fmt: skip
    return made


def test_ideal_runs_satisfy_all_claims() -> None:
    assert all(claim.holds for claim in toys.claims(ideal(), EASY))


@pytest.mark.parametrize(
    ("law", "how", "change", "fallen"),
    [
        ("ring", "c-transform", {"modes": 7}, [0]),
        ("grid", "WGAN-LP", {"modes": 19}, [1]),
        ("ring", "WGAN-LP", {"quality": 0.4}, [2]),
        ("roll", "1-Lipschitz", {"w1": 0.3}, [3]),
        ("grid", "WGAN-GP", {"w1": 0.03}, [4]),
        ("roll", "WGAN", {"w1": 0.04}, [5]),
        ("roll", "WGAN-LP", {"slope": 1.1}, [6]),
        ("ring", "1-Lipschitz", {"steepest": 1.001}, [7]),
        ("grid", "1-Lipschitz", {"bound": 1.01}, [7]),
        ("ring", "c-transform", {"bound": 1.5}, [8]),
    ],
)
def test_wrong_measurements_refute_claims(law: str, how: str, change: dict[str, float], fallen: list[int]) -> None:
    runs = [dataclasses.replace(r, **change) if (r.law, r.method) == (law, how) else r for r in ideal()]
    assert [k for k, claim in enumerate(toys.claims(runs, EASY)) if not claim.holds] == fallen
