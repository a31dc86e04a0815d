"""Histograms of ratings: words, splits, measures with known answers, losses, and claims that can fail."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from barrow.studies import Work, ratings
from barrow.studies.data import glove, vader
from barrow.studies.data.cache import MissingData
from barrow.studies.ratings import figures as rating_figures
from barrow.studies.ratings.scores import (
    MEAN,
    MEDIAN,
    NOISE,
    Results,
    bounds,
    by_kind,
    constants,
    measures,
    noise,
)
from barrow.studies.ratings.texts import GRADES, Corpus, features, hashed, rated, simulated, words
from resuming import resumed

TINY = ratings.Size(seeds=2, steps=3, batch=4, rates=(0.03, 0.1), decays=(0.0,), counts=(50,), few=(0,))


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BARROW_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def dirac(*grades: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(grades) + 4, 9).float()


# -- texts -------------------------------------------------------------------------------------------------------------


def test_words_and_pairs_are_counted() -> None:
    assert words("Don't!! 3 CAFÉ :-)") == ["don't", "!!", "caf", "é", ":-)"]
    one, two, three, none = hashed(["good good", "GOOD good", "good day", ""], 4096)
    assert torch.equal(one, two)
    assert sorted(one[one > 0].tolist()) == pytest.approx(
        [1 / math.sqrt(5), 2 / math.sqrt(5)]
    )  # good twice, a pair once
    assert (three > 0).sum() == 3
    assert float(three.norm()) == pytest.approx(1)
    assert float(one @ three) == pytest.approx(2 / math.sqrt(15))
    assert not none.any()


def test_features_are_words_and_their_mean_vector() -> None:
    texts = ["up up", "down", "up down", "unheard"]
    vectors = glove.Glove(("up", "down"), torch.tensor([[3.0, 0.0], [0.0, 2.0]]), "an example")
    x = features(texts, vectors)
    assert torch.equal(features(texts, None), 2 * hashed(texts))
    assert torch.equal(x[:, 2:], 2 * hashed(texts))
    assert torch.allclose(x[:, :2].mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(x[:, :2].std(0), torch.ones(2), atol=1e-6)
    unit = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3 / math.sqrt(13), 2 / math.sqrt(13)], [0.0, 0.0]])
    assert torch.allclose(x[:, :2], (unit - unit.mean(0)) / unit.std(0), atol=1e-5)


def test_no_source_is_in_two_splits() -> None:
    sources = torch.arange(200) // 4
    corpus = Corpus("a", torch.zeros(200, 1), torch.ones(200, 9), sources)
    split = corpus.split(torch.Generator().manual_seed(0))
    assert [len(rows) for rows in split] == [120, 40, 40]
    assert torch.cat(split).sort().values.tolist() == list(range(200))
    held = [set(sources[rows].tolist()) for rows in split]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    other = corpus.split(torch.Generator().manual_seed(1))
    assert set(sources[other[0]].tolist()) != held[0]


def put(folder: Path, ids: tuple[str, ...], texts: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    for name, stem in vader.DOMAINS.items():
        keys = ids if name in ("amazon", "nyt") else [str(k) for k in range(len(ids))]
        rows = "".join(f"{key}\t0\t{text}\n" for key, text in zip(keys, texts, strict=True))
        marks = "".join(f"{key}\t0\t0\t[{k - 2}, 0, 4]\n" for k, key in enumerate(keys))
        (folder / f"{stem}_GroundTruth.txt").write_text(rows)
        (folder / f"{stem}_anonDataRatings.txt").write_text(marks, encoding="utf-8-sig")


def test_real_texts_know_their_sources(a_cache: Path, tmp_path: Path) -> None:
    ids, texts = ("1_1", "1_2", "7_1", "7_2"), ("one", "two", "one", "three")
    put(a_cache / "vader", ids, texts)
    put(tmp_path / "given/vader", ids, texts)
    for data in (None, tmp_path / "given", tmp_path / "given/vader"):
        corpora, notes = rated(data)
        assert [corpus.name for corpus in corpora] == ["tweets", "amazon", "movie", "nyt"]
        assert "12 of them different" in notes[0]
        assert "barrow data glove" in notes[1]
        for corpus in corpora:
            assert corpus.x.shape == (3, 1024)  # the second "one" is left out
            assert corpus.histograms[:, [2, 3, 5]].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
            assert corpus.sources.tolist() == ([0, 0, 1] if corpus.name in ("amazon", "nyt") else [0, 1, 2])


def test_without_data_the_full_run_refuses_and_says_what_to_do() -> None:
    with pytest.raises(MissingData, match=r"the ratings of VADER: run `barrow data vader`, or give --data$"):
        ratings.run(Work(seed=0), TINY)


def test_simulated_raters_follow_the_words() -> None:
    corpora, again, other = (simulated(seed, count=400) for seed in (0, 0, 1))
    for corpus, same, different in zip(corpora, again, other, strict=True):
        assert corpus.x.shape == (400, 300)
        assert torch.allclose(corpus.x.norm(dim=1), torch.full((400,), 3.0))
        assert corpus.histograms.sum(1).unique().tolist() == [20]
        assert torch.equal(corpus.histograms, same.histograms)
        assert not torch.equal(corpus.histograms, different.histograms)
    assert not torch.equal(corpora[0].x.mean(0), corpora[1].x.mean(0))
    for corpus in simulated(2, count=3000):
        mean = corpus.shares @ GRADES
        unsaid = corpus.x @ torch.linalg.lstsq(corpus.x, mean, driver="gelsd").solution - mean
        assert 0.6 < float(unsaid.std()) < min(0.9, 0.85 * float(mean.std()))


# -- scores ------------------------------------------------------------------------------------------------------------


def test_measures_have_known_answers() -> None:
    t = torch.cat((dirac(1, -2), (dirac(0) + dirac(4)) / 2))
    same = measures(t, t)
    assert [same[name] for name in ("EMD", "EMD²", "KL", "MAE", "mode", "spread")] == pytest.approx([0, 0, 0, 0, 1, 1])
    assert [same[name] for name in ("r", "r, spread")] == pytest.approx([1, 1])
    far = measures(dirac(-1, -4, 2), t)  # two to the left, two to the left, the middle of 0 and 4
    assert far["EMD"] == pytest.approx(2)
    assert far["EMD²"] == pytest.approx((2 + 2 + 4 * 0.25) / 3)
    assert far["KL"] == pytest.approx((2 * math.log(1e6) + math.log(0.5e6)) / 3)
    assert far["MAE"] == pytest.approx(4 / 3)
    assert far["mode"] == 0
    assert far["spread"] == 0
    assert far["r, spread"] == 0
    assert measures((dirac(4, 4) + dirac(3, 3)) / 2, dirac(4, 3))["r"] == 0
    # Of two first grades either counts.
    assert measures(dirac(0), (dirac(0) + dirac(4)) / 2)["mode"] == 1


def test_the_noise_of_raters_is_that_of_binomials() -> None:
    generator = torch.Generator().manual_seed(0)
    histograms = torch.multinomial(torch.rand(2000, 9, generator=generator), 20, True, generator=generator)
    histograms = torch.nn.functional.one_hot(histograms, 9).sum(1).float()
    histograms[1000:] *= 3  # sixty raters
    n = histograms.sum(1, keepdim=True).double()
    F = (histograms.double() / n).cumsum(1)[:, :-1].clamp(1e-12, 1 - 1e-12)
    m = (n * F + 1e-9).floor().clamp_max(n - 1)
    chosen = torch.lgamma(n + 1) - torch.lgamma(m + 1) - torch.lgamma(n - m + 1)
    # De Moivre: E|X - n F| = 2 (m + 1) C(n, m + 1) F^(m + 1) (1 - F)^(n - m), m = floor(n F); here by C(n, m) (n - m).
    absolute = 2 * (n - m) * (chosen + (m + 1) * F.log() + (n - m) * (1 - F).log()).exp() / n
    seen = noise(histograms, torch.Generator().manual_seed(1))
    assert seen["EMD"] == pytest.approx(float(absolute.sum(1).mean()), rel=0.03)
    assert seen["EMD²"] == pytest.approx(float((F * (1 - F) / n).sum(1).mean()), rel=0.05)


def test_the_median_is_the_best_constant() -> None:
    shares = torch.cat((dirac(-4, -4, 1), (dirac(1) + dirac(4)) / 2, dirac(4)))
    found = constants(shares)
    assert torch.allclose(found[MEAN], shares.mean(0))
    assert found[MEDIAN].tolist() == pytest.approx(dirac(1)[0].tolist(), abs=1e-6)
    shares = torch.rand(301, 9, generator=torch.Generator().manual_seed(0)).mul(6).softmax(1)
    best, mean = (measures(found.expand(301, -1), shares)["EMD"] for found in reversed(constants(shares).values()))
    assert best < mean


def test_histograms_are_averaged_by_kind() -> None:
    t = torch.cat(
        (dirac(-3, -1, 1, 2), (dirac(-4) + dirac(0)) / 2, (dirac(-2) + dirac(2)) / 2, (dirac(0) + dirac(4)) / 2)
    )
    seen = torch.tensor(by_kind(t, t))
    assert torch.equal(seen[0], dirac(-3, -1).mean(0))
    assert torch.equal(seen[1], dirac(1)[0])
    assert torch.equal(seen[2:], torch.stack((dirac(2)[0], *t[4:])))
    assert by_kind(t[:1], t[:1])[1:] == [[0.0] * 9] * 5


def test_bounds_are_ordered() -> None:
    corpus = simulated(0, count=300)[0]
    found = bounds(corpus, [corpus.split(torch.Generator().manual_seed(s)) for s in (0, 1)], 0)
    for noisy, best, mean in zip(*(found[how]["EMD"] for how in (NOISE, MEDIAN, MEAN)), strict=True):
        assert noisy < best < mean


# -- losses ------------------------------------------------------------------------------------------------------------


def test_losses_have_known_values() -> None:
    h, t = torch.tensor([[0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]]), dirac(-2)
    z = h.clamp_min(1e-30).log()
    expected = {"EMD": 1.5, "EMD²": 1.25, "MSE": 1.5, "L1": 2.0}
    for how, value in expected.items():
        assert float(ratings.LOSSES[how](z, t)) == pytest.approx(value), how
    # In the wrong order the grades -4, -3, 1 come first, eighth and last.
    assert float(ratings.LOSSES["EMD², shuffled"](z, dirac(1))) == pytest.approx(7 * 0.25 + 1)
    uniform = torch.zeros(1, 9)
    for how in ("cross-entropy", "rounded mean"):
        assert float(ratings.LOSSES[how](uniform, t)) == pytest.approx(math.log(9))
    z = torch.arange(9.0)[None]
    mixed = (dirac(-4) + dirac(0) + 2 * dirac(3)) / 4  # of mean 0.5, rounded to even
    assert float(ratings.LOSSES["rounded mean"](z, mixed)) == pytest.approx(float(-z.log_softmax(-1)[0, 4]))
    assert float(ratings.LOSSES["cross-entropy"](z, mixed)) == pytest.approx(
        float(-(mixed * z.log_softmax(-1)).sum()), rel=1e-5
    )


def test_the_wrong_order_leaves_no_neighbours() -> None:
    order = ratings.PERMUTATION
    assert sorted(order) == list(range(9))
    assert min(abs(one - two) for one, two in itertools.pairwise(order)) >= 4


@pytest.mark.parametrize("how", ratings.LOSSES)
def test_each_loss_is_lowered_and_each_cell_is_trained_alone(how: str) -> None:
    corpus = simulated(0, count=200)[0]
    rows = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(s))[:100] for s in (0, 1)])
    size = ratings.Size(steps=40, batch=16, rates=(0.02, 0.1), decays=(0.0, 0.3))
    weights, biases = ratings.train(how, corpus, rows, size, 0)
    assert weights.shape == (4, 2, 300, 9)
    assert biases.shape == (4, 2, 1, 9)
    for seed in (0, 1):
        x, t = corpus.x[rows[seed]], corpus.shares[rows[seed]]
        start = t.mean(0).clamp_min(1e-3).log().expand_as(t)
        trained = x @ weights[2, seed] + biases[2, seed]
        assert float(ratings.LOSSES[how](trained, t).mean()) < 0.97 * float(ratings.LOSSES[how](start, t).mean())
    alone = ratings.train(how, corpus, rows, ratings.Size(steps=40, batch=16, rates=(0.1,), decays=(0.3,)), 0)
    assert torch.allclose(alone[0][0], weights[3], atol=2e-3)
    assert torch.allclose(alone[1][0], biases[3], atol=2e-3)
    assert float(weights[3].norm()) < float(weights[2].norm())  # decay


# -- the study ---------------------------------------------------------------------------------------------------------

WHOLE = {"a": 500, "b": 400}
BETTER = {
    "EMD": 0.5,
    "EMD²": 0.52,
    "Sinkhorn": 0.6,
    "cross-entropy": 0.55,
    "MSE": 0.57,
    "L1": 0.58,
    "rounded mean": 0.7,
    "EMD², shuffled": 0.6,
}


def results() -> Results:
    """All claims hold."""

    def judged(how: str, worse: float) -> dict[str, list[float]]:
        spread = {"EMD": 1.05, "EMD²": 1.2}.get(how, 1.1)
        values = [BETTER[how] * worse + 0.01 * seed for seed in range(3)]
        return dict.fromkeys(("EMD", "EMD²", "KL", "MAE", "r", "mode", "r, spread"), values) | {"spread": [spread] * 3}

    scores = {}
    for name, n in (*WHOLE.items(), ("a", 100)):
        for how in BETTER:
            if how != "Sinkhorn" or (name, n) == ("a", 500):
                scores[how, name, n] = {target: judged(how, 1.0 + (target != name)) for target in WHOLE}
    for how, value in {"EMD²": 0.7, "cross-entropy": 0.8, "MSE": 0.9, "L1": 0.85}.items():
        scores[how, "a", 100]["a"]["EMD"] = [value] * 3
    ends = {
        name: {
            how: dict.fromkeys(("EMD", "EMD²", "KL", "MAE", "r", "mode", "spread", "r, spread"), [value] * 3)
            for how, value in ((MEAN, 0.9), (MEDIAN, 0.85), (NOISE, 0.2))
        }
        for name in WHOLE
    }
    flat = [[1 / 9] * 9] * 6
    return Results(scores, WHOLE, ends, flat, dict.fromkeys(BETTER, flat))


def put_scores(
    how: str, measure: str, value: float, *names: str, n: int | None = None, target: str | None = None
) -> Callable[[Results], None]:
    def change(found: Results) -> None:
        for name in names:
            found.scores[how, name, n or WHOLE[name]][target or name][measure] = [value] * 3  # type: ignore[index]

    return change


def high_noise(found: Results) -> None:
    found.bounds["b"][NOISE]["EMD"] = [0.55] * 3  # type: ignore[index]


WRONG = {
    0: put_scores("EMD²", "EMD", 0.59, "b"),
    1: put_scores("EMD", "EMD", 0.75, "b"),
    2: put_scores("EMD²", "MAE", 0.8, "a"),
    3: put_scores("EMD", "MAE", 0.8, "b"),
    4: put_scores("EMD², shuffled", "EMD", 0.51, "b"),
    5: put_scores("EMD², shuffled", "EMD", 0.525, "a", "b"),
    6: put_scores("rounded mean", "EMD", 0.95, "a"),
    7: high_noise,
    8: put_scores("cross-entropy", "EMD", 0.69, "a", n=100),
    9: put_scores("MSE", "EMD", 0.71, "a", n=100),
    10: put_scores("EMD", "spread", 0.7, "b"),
    11: put_scores("EMD", "EMD", 3.0, "a", target="b"),
}


def test_claims_hold_where_they_should() -> None:
    found = ratings.claims(results())
    assert len(found) == len(WRONG)
    assert all(claim.holds for claim in found), [claim.sentence for claim in found if not claim.holds]
    assert found[0].measured == "MSE: 0.0500, 0.0500 (6 of 6 > 0); rounded mean: 0.1800, 0.1800 (6 of 6 > 0)"


@pytest.mark.parametrize("which", WRONG)
def test_a_wrong_measurement_refutes_its_claim(which: int) -> None:
    found = copy.deepcopy(results())
    WRONG[which](found)
    assert not ratings.claims(found)[which].holds


def test_no_lead_cannot_vanish() -> None:
    found = copy.deepcopy(results())
    for change in (put_scores("EMD²", "EMD", 0.6, "a", "b"), put_scores("EMD², shuffled", "EMD", 0.9, "a", "b")):
        change(found)
    assert not ratings.claims(found)[5].holds


def test_leads_are_paired_and_tables_have_all_rows() -> None:
    found = results()
    assert found.lead("EMD", "MSE", "a").std == pytest.approx(0, abs=1e-12)  # each seed moves both
    assert found.lead("EMD", MEAN, "b").mean == pytest.approx(0.9 - 0.51)
    assert found.pairs() == [("a", "b"), ("b", "a")]
    assert found.abroad("EMD").mean == pytest.approx(1.01)
    assert found.curves == {"a": [100, 500]}
    tables = found.tables()
    assert [len(table.rows) for table in tables.values()] == [11, 10, 7, 7]
    assert tables["a: trained on 500 texts"].rows[0][:2] == ("EMD", "0.510 ± 0.010")
    assert set(rating_figures.captions(found)) == set(rating_figures.figures(found))


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    outcome = resumed(functools.partial(ratings.run, size=TINY), tmp_path / "parts", parts=22)
    assert list(outcome.figures) == ["distances", "histograms", "texts"]
    assert "simulated" in outcome.sources[0]
    assert "barrow data vader glove" in outcome.sources[0]
    assert all(len(fit["validation"]) == 2 for fit in outcome.numbers["fits"])
    assert all(
        math.isfinite(value)
        for fit in outcome.numbers["fits"]
        for scores in fit["scores"].values()
        for values in scores.values()
        for value in values
    )
    table = outcome.tables["chosen by validation"]
    assert len(table.rows) == 22
    for row, fit in zip(table.rows, outcome.numbers["fits"], strict=True):
        assert float(row[3]) == (0.03, 0.1)[min((0, 1), key=fit["validation"].__getitem__)]
