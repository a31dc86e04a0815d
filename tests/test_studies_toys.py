"""The toys: runs that measure what they say, claims that can fail."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import barrow
from barrow.studies import STUDIES, planar, toys
from barrow.studies.toys import ALL, Asked, Run, Size

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
    r = toys.play("ring", "1-Lipschitz", 4, size, lambda what, done, total: ticks.append((what, done, total)))
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
    assert r.bound == barrow.nn.lipschitz_bound(r.critic)
    assert [done for _, done, _ in ticks] == list(range(1, 21))
    again = toys.play("ring", "1-Lipschitz", 4, size, lambda *_: None)
    assert torch.equal(again.samples, r.samples)
    assert {k: v for k, v in again.numbers().items() if k != "seconds"} == {
        k: v for k, v in r.numbers().items() if k != "seconds"
    }


def test_the_study_on_a_small_scale() -> None:
    seen: list[str] = []
    outcome = toys.run(seed=1, quick=True, progress=lambda what, *_: seen.append(what), size=TINY)
    assert len(outcome.numbers["runs"]) == 7
    assert set(outcome.numbers["summary"]) == {*(f"ring, {m}" for m in ALL), "grid, WGAN-LP", "roll, 1-Lipschitz"}
    assert outcome.numbers["summary"]["ring, WGAN"]["w1"] == [outcome.numbers["runs"][0]["w1"], 0.0]
    assert set(outcome.durations) == set(ALL)
    assert len(outcome.claims) >= 6
    assert not outcome.holds  # six steps teach nobody anything
    assert set(outcome.figures) == {"toys"}
    assert sum(ax.axison for ax in outcome.figures["toys"].axes) == 7 + len(ALL)
    assert any(what.startswith("8 Gaussians, WGAN-GP, seed 1: ") for what in seen)
    assert "toys" in STUDIES


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
                    bound, 0.1, 1.0, x, torch.nn.Linear(2, 1))
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
