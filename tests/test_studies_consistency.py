"""Critics with and without a consistency term: runs that measure what they say, claims that can fail."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import barrow
from barrow.cli import main
from barrow.studies import STUDIES, BadData, Claim, Work, consistency
from barrow.studies.consistency import games as consistency_games
from barrow.studies.consistency.games import CERTIFIED, CT, GP, METHODS, PLAIN, Look, Run, Size, networks, play
from barrow.studies.data import mnist
from resuming import resumed

TINY = Size(train=40, held=30, steps=6, looks=3, seeds=2, width=8, latent=4, batch=10)


def noise(n: int, seed: int) -> Tensor:
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def played(how: str, seed: int = 3, size: Size = TINY) -> Run:
    r, _ = play(how, seed, size, (noise(40, 0), noise(30, 1)), 1.5)
    return r


# -- one game ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [GP, CERTIFIED])
def test_a_run_measures_what_it_says(how: str) -> None:
    ticks: list[tuple[str, int, int]] = []
    x, held = noise(40, 0), noise(30, 1)
    r, critic = play(how, 3, TINY, (x, held), 1.5, lambda *told: ticks.append(told))
    assert (r.method, r.seed, r.w1_data) == (how, 3, 1.5)
    assert [look.step for look in r.looks] == [2, 4, 6]
    assert [tick[1:] for tick in ticks] == [(2, 6), (4, 6), (6, 6)]
    assert all(module.training for module in critic.modules())
    f = critic.eval()
    with torch.no_grad():
        values = [f(t).flatten().double() for t in (x, held, r.samples)]
    means = [float(v.mean()) for v in values]
    assert r.last.train == pytest.approx(means[0] - means[2], abs=1e-12)
    assert r.last.held == pytest.approx(means[1] - means[2], abs=1e-12)
    assert r.last.gap == pytest.approx(means[0] - means[1], abs=1e-12)
    assert r.stderr == pytest.approx(float((values[0].var() / 40 + values[1].var() / 30) ** 0.5), rel=1e-9)
    for told, cloud in ((r.w1_train, x), (r.w1_held, held)):
        truth = barrow.wasserstein(cloud.flatten(1).double(), r.samples.flatten(1).double(), p=1)
        assert told == pytest.approx(float(truth), rel=1e-9)
    assert r.samples.shape == (40, 1, 28, 28)
    if how == CERTIFIED:
        assert r.bound is not None
        assert r.slope <= r.bound + 1e-5 <= 1 + 2e-5
        assert r.slope == pytest.approx(1, abs=1e-4)  # all layers are orthogonal and as narrow as the next
    again = played(how)
    assert again.looks == r.looks
    assert torch.equal(again.samples, r.samples)


def test_looking_does_not_disturb_the_game() -> None:
    often, rarely = played(CT), played(CT, size=dataclasses.replace(TINY, looks=1))
    assert len(rarely.looks) == 1
    assert rarely.last == often.last


def test_the_slope_is_that_of_the_critic() -> None:
    critic = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(784, 1))
    with torch.no_grad():
        critic[2].weight.fill_(2.0)
    assert consistency_games._slope(critic, noise(3, 0)) == pytest.approx(2 * 28, rel=1e-5)
    assert critic.training


def test_the_methods_begin_as_one_and_differ_in_what_they_should() -> None:
    made = {}
    for how in METHODS:
        torch.manual_seed(5)
        made[how] = networks(how, TINY)
    rates = {how: [m.p for m in made[how][1].modules() if isinstance(m, nn.Dropout)] for how in METHODS}
    assert rates == {GP: [0.5, 0.5], CT: [0.5, 0.5], PLAIN: [0, 0], CERTIFIED: []}
    for how in (CT, PLAIN):
        for mine, theirs in zip(made[GP], made[how], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(made[GP][0][0][0].weight, made[CERTIFIED][0][0][0].weight)
    assert {how: method().name for how, method in METHODS.items()} == {
        GP: "WGAN-GP", CT: "CT-GAN", PLAIN: "WGAN-GP", CERTIFIED: "1-Lipschitz"
    }  # fmt: skip
    assert len({played(how).last for how in METHODS}) == 4


def test_a_critic_learns_pure_noise_by_heart() -> None:
    """All images are of one law, so whatever the critic sees in those of training, it has learnt by heart."""
    size = Size(train=40, held=30, steps=60, looks=4, width=64, latent=4, batch=20)
    plain, term = played(PLAIN, size=size), played(CT, size=size)
    assert plain.last.gap > 10 * plain.stderr
    assert plain.last.gap > plain.looks[0].gap
    assert term.last.gap < plain.last.gap


def test_growth_and_gap_by_hand() -> None:
    looks = (Look(100, 9, 1), Look(200, 2, 7), Look(300, 2, 1.4), Look(400, 2, 1.3))
    r = dataclasses.replace(ideal()[0], looks=looks, slope=0.5)
    assert r.last.gap == pytest.approx(0.7)
    assert r.last.share == pytest.approx(0.35)
    assert r.steady == pytest.approx(1.4)
    assert r.growth == pytest.approx(1.0)  # 0.1 in 100 steps; the first half is not asked
    assert Look(1, -2.0, -1.0).share == pytest.approx(-0.5)


# -- the study ---------------------------------------------------------------------------------------------------------


def test_the_study_on_a_small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr(mnist, "find", lambda data: mnist.small())
    outcome = consistency.run(Work(seed=1, quick=True, progress=lambda *told: seen.append(told)), TINY)
    assert [(r["method"], r["seed"]) for r in outcome.numbers["runs"]] == [(how, s) for s in (1, 2) for how in METHODS]
    assert len({r["w1_data"] for r in outcome.numbers["runs"]}) == 2
    assert len(outcome.claims) == 9
    assert not outcome.holds  # six steps teach nobody anything
    assert set(outcome.figures) == {"consistency"}
    assert len(outcome.figures["consistency"].axes) == 13
    lines = outcome.figures["consistency"].axes[1].lines
    assert len(lines) == 6  # two curves of two seeds, and their means
    first, second = (r["looks"] for r in outcome.numbers["runs"] if r["method"] == CT)
    mean = [(a["train"] + b["train"]) / 2 for a, b in zip(first, second, strict=True)]
    assert lines[2].get_ydata() == pytest.approx(mean)
    gaps = [(a["train"] - a["held"] + b["train"] - b["held"]) / 2 for a, b in zip(first, second, strict=True)]
    assert outcome.figures["consistency"].axes[5].lines[-1].get_ydata() == pytest.approx(gaps)
    (source,) = outcome.sources
    assert source.startswith("scikit-learn's digits, enlarged from 8 x 8: 40 to train on, 30 held out; for MNIST: ")
    table = outcome.tables["methods"]
    assert [row[0] for row in table.rows] == list(METHODS)
    gp = [100 * r["share"] for r in outcome.numbers["runs"] if r["method"] == GP]
    assert table.rows[0][4] == f"{sum(gp) / 2:.1f} ± {abs(gp[0] - gp[1]) / 2**0.5:.1f}"
    assert seen[0] == ("all games: WGAN-GP, seed 1", 0, 8)
    assert seen[-1] == ("all games", 8, 8)
    assert "consistency" in STUDIES


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    size = dataclasses.replace(TINY, train=70, latent=2)
    outcome = resumed(lambda work: consistency.run(work, size), tmp_path, parts=10)
    kept = [Work(seed=3, quick=True, folder=tmp_path, resume=True).part(f"{CT}, seed {s}", dict) for s in (3, 4)]
    assert [r["samples"].shape for r in kept] == [(64, 1, 28, 28)] * 2
    assert [r["w1_held"] for r in kept] == [r["w1_held"] for r in outcome.numbers["runs"] if r["method"] == CT]


def test_the_study_takes_data(tmp_path: Path) -> None:
    pixels = (noise(20, 0) * 255).round().flatten(1).int()
    text = "\n".join(",".join(map(str, [*row, 7])) for row in pixels.tolist())
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(text.encode()))
    size = dataclasses.replace(TINY, train=12, held=100, seeds=1, steps=4, looks=4)
    outcome = consistency.run(Work(data=tmp_path), size)
    assert outcome.sources == ("MNIST, 20 images of mnist_5k.csv.gz: 12 to train on, 8 held out",)
    (tmp_path / "mnist_5k.csv.gz").write_bytes(b"damaged")
    with pytest.raises(BadData, match="cannot be read as MNIST"):
        STUDIES["consistency"].run(Work(quick=True, data=tmp_path))


def test_the_command_line_refuses_damage_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mnist_5k.csv.gz").write_bytes(b"damaged")
    arguments = ["study", "consistency", "--quick", "--data", str(tmp_path), "--output", str(tmp_path / "made")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- the claims --------------------------------------------------------------------------------------------------------


def ideal() -> list[Run]:
    """Runs of which every claim holds."""
    gaps = {GP: 0.3, CT: 0.05, PLAIN: 0.5, CERTIFIED: 0.2}
    w1_held = {GP: 7.0, CT: 6.5, PLAIN: 7.0, CERTIFIED: 7.0}
    made = []
    for seed in (0, 1):
        for how, gap in gaps.items():
            looks = tuple(Look(k, 2.0, 2.0 - gap * k / 4) for k in range(1, 5))
            bound = 1.0 if how == CERTIFIED else None
            made.append(Run(how, seed, looks, 0.01, 0.9, bound, 6.0, w1_held[how], 5.0, noise(3, 0)))
    return made


def changed(how: str, seed: int, change: dict[str, float], end: tuple[float, float] | None) -> list[Claim]:
    def of(r: Run) -> Run:
        if (r.method, r.seed) != (how, seed):
            return r
        looks = r.looks if end is None else (*r.looks[:-1], Look(4, *end))
        return dataclasses.replace(r, looks=looks, **change)

    return consistency.claims([of(r) for r in ideal()])


def test_ideal_runs_satisfy_all_claims() -> None:
    assert all(claim.holds for claim in consistency.claims(ideal()))


@pytest.mark.parametrize(
    ("how", "seed", "change", "end", "fallen"),
    [
        (GP, 1, {}, (4.0, 3.7), [0]),
        (GP, 0, {}, (2.0, 1.79), [1]),
        (CT, 1, {}, (0.5, 0.44), [2]),
        (CT, 0, {}, (2.0, 1.81), [3]),
        (GP, 0, {"slope": 10.0}, None, []),
        (CT, 0, {"slope": 0.05}, None, [4]),
        (CT, 1, {"w1_held": 7.6}, None, [5]),
        (PLAIN, 1, {}, (6.0, 5.5), [6]),
        (CERTIFIED, 0, {"bound": 1.001}, None, [7]),
        (CERTIFIED, 1, {"w1_train": 1.9}, None, [7]),
        (CERTIFIED, 1, {"w1_held": 1.7}, None, [7]),
        (CERTIFIED, 0, {"w1_data": 0.19}, None, [7]),
        (CERTIFIED, 0, {}, (2.0, 1.2), [8]),
    ],
)
def test_wrong_measurements_refute_claims(
    how: str, seed: int, change: dict[str, float], end: tuple[float, float] | None, fallen: list[int]
) -> None:
    assert [k for k, claim in enumerate(changed(how, seed, change, end)) if not claim.holds] == fallen


def test_a_critic_without_a_bound_is_not_certified() -> None:
    runs = [dataclasses.replace(r, bound=None) if r.method == CERTIFIED else r for r in ideal()]
    assert [k for k, claim in enumerate(consistency.claims(runs)) if not claim.holds] == [7]
