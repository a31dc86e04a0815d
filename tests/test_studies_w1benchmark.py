"""The W_1 benchmark: judges that cannot be fooled, published pairs read or refused, claims that can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from barrow.cli import main
from barrow.nn import McShaneCritic, OrthogonalLinear, UnitLinear
from barrow.studies import STUDIES, Work, w1benchmark
from barrow.studies.w1benchmark import Effort
from barrow.studies.w1benchmark.critics import Budget
from barrow.studies.w1benchmark.figures import TICKS, levels
from barrow.studies.w1benchmark.funnels import Funnels
from barrow.studies.w1benchmark.judge import Row, Score, judge, summary
from barrow.studies.w1benchmark.pairs import COUNTS, DIMENSIONS, PUBLISHED, PUBLISHED_TRUTH, pairs
from resuming import resumed

TINY = Effort(2000, 2000, 20_000, Budget(20, 5, 20, 256), (8, 8), 20, 0.01)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    """A file like the published one, of other numbers."""
    arrays = {}
    for d in DIMENSIONS:
        for count in COUNTS:
            funnels = Funnels.drawn(d, count, generator(d + count))
            arrays[f"d{d}_n{count}_net.centers"] = funnels.centers.float().numpy()
            arrays[f"d{d}_n{count}_net.bias"] = funnels.offsets.float().numpy()[None]
    np.savez(tmp_path / "funnels.npz", **arrays)
    return tmp_path / "funnels.npz"


# -- the judge ---------------------------------------------------------------------------------------------------------


def test_the_truth_is_judged_perfect():
    funnels = Funnels.drawn(3, 5, generator(0))
    critic = McShaneCritic.through(funnels.centers, funnels.offsets)
    score = judge(funnels, 1.25, critic, 5000, generator(1), -1.0)
    assert score.error == pytest.approx(0, abs=1e-12)
    assert score.stderr == pytest.approx(0, abs=1e-12)
    assert (score.value, score.bound) == (pytest.approx(1.25), 1)
    assert score.cosine == pytest.approx(1, abs=1e-6)
    assert score.l2 == pytest.approx(0, abs=1e-6)


def test_the_truth_upside_down_is_judged_worst():
    funnels = Funnels.drawn(3, 5, generator(0))
    truth, _ = funnels.truth(20_000, generator(2))
    score = judge(funnels, truth, McShaneCritic.through(funnels.centers, funnels.offsets), 5000, generator(1), 1.0)
    assert score.error == pytest.approx(-2, abs=0.05)
    assert score.cosine == pytest.approx(-1, abs=1e-6)
    assert score.l2 == pytest.approx(2, abs=1e-6)


def test_a_linear_critic_by_hand():
    """One funnel at the edge of an interval: f(z) = -z is the truth there, f(z) = z / 2 half of it the wrong way."""
    funnels = Funnels(torch.tensor([[-2.5]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    truth, _ = funnels.truth(100_000, generator(0))
    assert truth == pytest.approx(5 * (1 / 2 - 1 / 9), rel=0.01)
    critic = torch.nn.Sequential(OrthogonalLinear(1, 1), UnitLinear(1, 1), torch.nn.Flatten(0))
    with torch.no_grad():
        for layer in critic[:2]:
            layer.raw_weight.fill_(1.0)
    right = judge(funnels, truth, critic, 5000, generator(1), -1.0)
    assert right.error == pytest.approx(0, abs=1e-5)
    assert right.cosine > 0.99  # some x are at the tip to the last digit, where there is no direction
    wrong = judge(funnels, truth, critic, 5000, generator(1), 1.0)
    assert wrong.error == pytest.approx(-2, abs=0.05)


def test_a_larger_bound_is_divided_out():
    funnels = Funnels.drawn(2, 3, generator(0))
    plain = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
    with torch.no_grad():
        plain[0].weight.copy_(torch.tensor([[300.0, 400.0]]))
    score = judge(funnels, 1.0, plain, 5000, generator(1), 1.0)
    assert score.bound == pytest.approx(500, rel=1e-4)
    assert abs(score.error) < 3
    assert score.error < 0


# -- the pairs ---------------------------------------------------------------------------------------------------------


def test_pairs_of_our_own():
    first, second = pairs(None), pairs(None)
    assert list(first) == [(d, count) for d in DIMENSIONS for count in COUNTS]
    assert all(torch.equal(first[key].centers, second[key].centers) for key in first)
    assert all(funnels.centers.shape == (count, d) for (d, count), funnels in first.items())


def test_pairs_of_a_file(parameters):
    for place in (parameters, parameters.parent):
        found = pairs(place)
        assert len(found) == 28
        assert found[8, 16].centers.dtype == torch.float64
        assert torch.equal(found[8, 16].centers.float(), Funnels.drawn(8, 16, generator(24)).centers.float())
        assert found[8, 16].offsets.shape == (16,)


def test_files_that_are_not_the_pairs(tmp_path, parameters):
    with pytest.raises(ValueError, match=r"is no \.npz archive"):
        pairs(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"is no \.npz archive"):
        pairs(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"is no \.npz archive"):
        pairs(tmp_path / "one.npy")
    with np.load(parameters) as file:
        arrays = dict(file)
    np.savez(tmp_path / "short.npz", **{key: value for key, value in arrays.items() if "d128_n256" not in key})
    with pytest.raises(ValueError, match=r"does not hold d128_n256_net.centers of shape \(256, 128\)"):
        pairs(tmp_path / "short.npz")
    np.savez(tmp_path / "other.npz", **{**arrays, "d2_n4_net.centers": np.zeros((2, 4))})
    with pytest.raises(ValueError, match=r"does not hold d2_n4_net.centers of shape \(4, 2\)"):
        pairs(tmp_path / "other.npz")


def test_published_numbers_are_whole():
    assert set(PUBLISHED_TRUTH) == set(COUNTS)
    assert all(len(row) == len(DIMENSIONS) for row in PUBLISHED_TRUTH.values())
    assert [name for name, numbers in PUBLISHED.items() if numbers[5]] == [
        "SO (orthogonal, FullSort)",
        "spectral normalisation",
    ]


# -- the study ---------------------------------------------------------------------------------------------------------


def test_a_small_run_and_the_same_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(w1benchmark, "effort", lambda d, quick: TINY)
    outcome = resumed(w1benchmark.run, tmp_path / "parts", parts=12)
    seen = []
    work = Work(seed=3, quick=True, folder=tmp_path / "parts", resume=True, progress=lambda *told: seen.append(told))
    again = w1benchmark.run(work)
    assert work.resumed == 12
    assert ("pairs", 4, 4) in seen
    rows = outcome.numbers["rows"]
    assert [(row["d"], row["count"]) for row in rows] == [(2, 4), (2, 16), (8, 4), (32, 4)]
    assert again.numbers == outcome.numbers
    for row in rows:
        assert row["truth"] > 0
        for kind in ("cones", "network"):
            assert -1.2 < row[kind]["error"] <= 0
            assert row[kind]["value"] == pytest.approx(row["truth"] * (1 + row[kind]["error"]))
    assert outcome.numbers["pairs"] == "drawn by the published recipe with seed 987"
    every, methods = outcome.tables.values()
    assert len(every.rows) == 4
    assert len(methods.rows) == 2 + len(PUBLISHED)
    assert all(len(row) == len(table.columns) for table in (every, methods) for row in table.rows)
    assert "WGAN-LP" in methods.rows[2][0]
    assert "funnels.npz" in outcome.sources[0]
    assert len(outcome.figures["w1benchmark"].axes) == 5


def test_levels_are_those_of_the_plane():
    heights = levels(lambda z: z[:, 0] + 10 * z[:, 1])
    assert heights.shape == (201, 201)
    assert heights[3, 50] == pytest.approx(TICKS[50] + 10 * TICKS[3])


def score(error: float, *, cosine: float = 0.9, bound: float = 1.0) -> Score:
    return Score(1 + error, bound, error, 0.001, cosine, 0.1)


def test_summary_by_hand():
    total = summary([score(-0.1, cosine=0.5), score(0.2), score(-0.6)])
    assert total["mean"] == pytest.approx(30)
    assert total["median"] == pytest.approx(20)
    assert total["max"] == pytest.approx(60)
    assert total["cosine"] == pytest.approx(2.3 / 3)
    assert total["least cosine"] == 0.5


def test_wrong_measurements_refute_claims():
    good = Row(2, 4, 0.8174, 0.0005, 0.5, 1e-12, score(-0.01), score(-0.1))

    def failed(row: Row, published: bool = True) -> int:
        claims = w1benchmark.outcome([row], published=published, plane=None).claims
        return [claim.holds for claim in claims].count(False)

    assert failed(good) == failed(good, published=False) == 0
    assert failed(dataclasses.replace(good, truth=0.9)) == 1
    assert failed(dataclasses.replace(good, truth=0.9), published=False) == 0
    assert failed(dataclasses.replace(good, stderr=0.1), published=False) == 1
    assert failed(dataclasses.replace(good, residual=1e-3)) == 1
    assert failed(dataclasses.replace(good, cones=score(-0.01, bound=1.1))) == 1
    assert failed(dataclasses.replace(good, network=score(0.1))) == 1
    assert failed(dataclasses.replace(good, cones=score(-0.01, cosine=0.84))) == 1
    assert failed(dataclasses.replace(good, cones=score(-0.06))) == 1
    assert failed(dataclasses.replace(good, cones=score(-0.5))) >= 2
    assert failed(dataclasses.replace(good, network=score(-0.001))) == 1
    assert failed(dataclasses.replace(good, network=score(-0.4))) == 1


def test_data_is_refused_where_none_is_taken(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "squares", "--data", "."]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "squares takes no --data" in err
    assert "w1benchmark" in err
    with pytest.raises(ValueError, match="squares takes no data"):
        STUDIES["squares"].run(Work(quick=True, data=tmp_path))
    assert main(["study", "w1benchmark", "--data", "nowhere"]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "does not exist" in err
    Path("text.npz").write_text("no archive")
    assert main(["study", "w1benchmark", "--data", "text.npz"]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "is no .npz archive" in err
