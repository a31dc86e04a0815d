"""Pictures with tags: scores by hand, losses with known values, claims that can fail."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from barrow.studies import BadData, Work, tags
from barrow.studies.data.cache import MissingData
from barrow.studies.tags import HARD, KL, SOFT, Scores, Size
from barrow.studies.tags import sets as tag_sets
from barrow.studies.tags.sets import TagSet, synthetic

TINY = Size(alphas=(0.0, 0.5), seeds=2, steps=4, batch=6, rates=(0.01, 0.1), real=False)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- sets --------------------------------------------------------------------------------------------------------------


def test_a_synthetic_picture_shows_tags_of_one_cluster() -> None:
    data = synthetic(random(), count=300, clusters=4, each=3)
    assert data.x.shape == (300, 20)
    assert data.tags.shape == (300, 12)
    assert set(data.tags.unique().tolist()) == {0, 1}
    shown = data.tags.unflatten(1, (4, 3)).sum(2)
    assert bool(((shown > 0).sum(1) == 1).all())
    # Every one of the seven subsets is as likely.
    assert torch.bincount(shown.sum(1).long())[1:].div(300).tolist() == pytest.approx([3 / 7, 3 / 7, 1 / 7], abs=0.09)
    assert torch.allclose(torch.linalg.vector_norm(data.vectors, dim=1), torch.ones(12))
    blocks = data.distance.unflatten(0, (4, 3)).unflatten(2, (4, 3)).mean((1, 3))
    assert blocks.diagonal().max() < blocks[~torch.eye(4, dtype=torch.bool)].min()


def test_redundant_tags_go_and_pictures_without_any() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.995, 0.0999], [0.0, 1.0]])
    shown = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    data = TagSet("all", torch.arange(3.0)[:, None], shown, vectors, ("cat", "kitten", "tree"), "here").reduced(0.5)
    assert data.words == ("cat", "tree")
    assert data.tags.tolist() == [[1, 0], [0, 1]]
    assert data.x.flatten().tolist() == [0, 2]
    assert data.distance[0, 1] == pytest.approx(2**0.5)


def test_features_are_pixels_and_colours() -> None:
    white = tag_sets.features(torch.ones(1, 3, 16, 16))
    assert white.shape == (1, 256)
    assert white[0, :192].unique().tolist() == [1]
    assert white[0, 192:].nonzero().flatten().tolist() == [63]
    half = torch.ones(1, 3, 16, 16)
    half[..., :8] = 0
    assert tag_sets.features(half)[0, 192:][[0, 63]].tolist() == pytest.approx([0.5**0.5] * 2)


# -- losses and scores -------------------------------------------------------------------------------------------------


def test_top_costs_by_hand() -> None:
    distance = (torch.arange(6.0)[:, None] - torch.arange(6.0)).abs()
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4], [4, 5, 6, 7, 8, 9]])
    shown = torch.tensor([[0.0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]])
    # First picture: 0 1 2 3 4 are 1 0 1 2 3 away from 1; second: 5 4 3 2 1 are 0 1 1 0 1 away from 2 or 5.
    want = [(1 + 0) / 2, (1 / 2 + 1 / 2) / 2, (2 / 3 + 2 / 3) / 2, (4 / 4 + 2 / 4) / 2, (7 / 5 + 3 / 5) / 2]
    assert tags.top_costs(logits, shown, distance).tolist() == pytest.approx(want)
    stacked = tags.top_costs(torch.stack((logits, -logits)), shown, distance)
    assert stacked.shape == (2, 5)
    assert stacked[0].tolist() == pytest.approx(want)


def test_auc_by_hand() -> None:
    shown = torch.tensor([[1.0, 0, 0, 1]])
    assert float(tags.auc(torch.tensor([[4.0, 2, 1, 3]]), shown)) == 1
    assert float(tags.auc(torch.tensor([[1.0, 2, 3, 0]]), shown)) == 0
    assert float(tags.auc(torch.tensor([[4.0, 2, 3, 1]]), shown)) == 0.5
    assert float(tags.auc(torch.zeros(1, 4), shown)) == 0.5


def test_losses_are_what_they_say() -> None:
    logits = torch.randn((2, 3, 4), generator=random())
    t = torch.tensor([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    C, alpha = 1 - torch.eye(4), torch.tensor([0.0, 2.0])[:, None]
    h = logits.softmax(-1)
    divergence = (torch.xlogy(t, t) - torch.xlogy(t, h)).sum(-1)
    assert torch.allclose(tags.loss(KL, alpha, logits, t, C), divergence, atol=1e-6)
    hard, soft = (tags.loss(how, alpha, logits, t, C) for how in (HARD, SOFT))
    W = hard - alpha * divergence
    # With one true tag there is one plan.
    single = (h[:, 1] * C[:, 1]).sum(-1) + tags.EPSILON * torch.xlogy(h[:, 1], h[:, 1]).sum(-1)
    assert W[:, 1].tolist() == pytest.approx(single.tolist(), abs=1e-3)
    assert bool((soft < hard + 1e-6).all())  # it may do what the hard one must
    assert not torch.allclose(soft, hard, atol=1e-3)


def test_splits_share_nothing_and_differ_by_seed() -> None:
    data = synthetic(random(), count=101)
    data = TagSet(data.name, torch.arange(101.0)[:, None], data.tags, data.vectors, data.words, data.source)
    parts = tags.split(data, 5, 3)
    assert [p[0].shape[1] for p in parts] == [60, 15, 26]
    for s in range(3):
        assert len(torch.cat([x[s] for x, _ in parts]).unique()) == 101
    assert not torch.equal(parts[0][0][0], parts[0][0][1])


def test_training_learns_clusters() -> None:
    data = synthetic(random(), count=400, clusters=4, each=3)
    size = Size(alphas=(0.0, 0.5), seeds=2, steps=60, batch=20)
    start = tags.train(KL, 0.0, data, size, 0)
    for how, models in ((KL, 1), (HARD, 2), (SOFT, 2)):
        found = tags.train(how, 0.03, data, size, 0)
        assert found["test"].shape == (models, 2, tags.TOP)
        assert float(found["test"][..., 0].max()) < 0.8 * float(start["test"][..., 0].min())
        assert float(found["auc"].min()) > 0.8


# -- claims ------------------------------------------------------------------------------------------------------------


def scored(costs: list[float], areas: list[float]) -> Scores:
    test = torch.tensor(costs)[:, None, None].expand(-1, 2, tags.TOP)
    return Scores(test, test, torch.tensor(areas)[:, None].expand(-1, 2), (0.1,) * len(costs), 0.0)


def held(costs: list[float], areas: list[float], alone: tuple[float, float] = (0.5, 0.9)) -> list[bool]:
    scores = {HARD: scored(costs, areas), KL: scored([alone[0]], [alone[1]])}
    return [claim.holds for claim in tags.claims("set", scores, (0.0, 0.5))]


def test_every_claim_can_fail() -> None:
    assert held([0.4, 0.45], [0.8, 0.85]) == [True, True]
    assert held([0.6, 0.55], [0.8, 0.85]) == [False, False]  # KL alone is best by cost and by area
    assert held([0.45, 0.4], [0.95, 0.8])[1] is False  # the best area is at the smaller alpha
    assert held([0.4, 0.45], [0.95, 0.8])[1] is False  # both at one


def test_alpha_and_rates_are_chosen_on_held_out_pictures() -> None:
    def tried(held: list[float], test: list[float]) -> dict[str, Tensor]:
        costs = {k: torch.tensor(v)[:, None, None].expand(-1, 2, 5) for k, v in (("held", held), ("test", test))}
        return {**costs, "auc": torch.tensor(test)[:, None].expand(-1, 2), "missed": torch.tensor(0.1)}

    best = Scores.best([tried([1.0, 4.0], [7.0, 8.0]), tried([2.0, 3.0], [5.0, 6.0])], (0.1, 0.2))
    assert best.rates == (0.1, 0.2)
    assert best.test[:, 0, 0].tolist() == [7, 6]
    assert best.auc[:, 0].tolist() == [7, 6]
    assert best.missed == pytest.approx(0.1)


# -- the study ---------------------------------------------------------------------------------------------------------


def test_a_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    whole = tags.run(Work(folder=tmp_path, study="tags"), TINY)
    for path in sorted(tmp_path.glob("synthetic*.ckpt"))[::2]:
        path.unlink()
    work = Work(folder=tmp_path, study="tags", resume=True)
    again = tags.run(work, TINY)
    assert 0 < work.resumed < len(work.seconds) == 6
    assert again.numbers == whole.numbers


def test_the_outcome_is_whole() -> None:
    outcome = tags.run(Work(), TINY)
    assert len(outcome.claims) == 2
    (table,) = outcome.tables.values()
    assert len(table.rows) == 1 + 2 * 2
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert outcome.captions.keys() == outcome.figures.keys()
    for scores in outcome.numbers["sets"]["synthetic"].values():
        assert torch.tensor(scores["costs"]).isfinite().all()
        assert torch.tensor(scores["auc"]).isfinite().all()
    (figure,) = outcome.figures.values()
    assert len(figure.axes) == 3


def test_without_emoji_the_synthetic_set_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere(data: Path | None = None) -> TagSet:
        raise MissingData("nowhere")

    monkeypatch.setattr(tags, "pictures", nowhere)
    sets, sources = tags._sets(Work(), tags.FULL)
    assert [data.name for data in sets] == ["synthetic"]
    assert "barrow data" in sources[0]


def test_data_that_are_no_emoji_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(BadData, match="cannot be read as the emoji"):
        tags.run(Work(data=tmp_path), TINY)


def test_emoji_and_word_vectors_become_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from barrow.studies.data import emoji, glove

    words = (("sun", "Zzz"), ("sun", "moon"), ("moon",), ("country",), ())
    found = emoji.Emoji(
        images=torch.rand((5, 3, 16, 16), generator=random()), codes=tuple("abcde"), names=tuple("abcde"),
        keywords=words, labels=torch.tensor([0, 0, 0, 1, 0]), sublabels=torch.zeros(5, dtype=torch.long),
        groups=("Nature", emoji.FLAGS), subgroups=("sky",), parents=(0,), source="5 emoji",
    )  # fmt: skip
    vectors = glove.Glove(("sun", "moon", "country"), torch.tensor([[3.0, 0], [0, 2], [1, 1]]), "3 words")
    monkeypatch.setattr(emoji, "find", lambda data=None: found)
    monkeypatch.setattr(glove, "find", lambda data=None: vectors)
    data = tag_sets.pictures(at_least=1)
    assert set(data.words) == {"sun", "moon"}  # no flag, no word that GloVe does not know
    assert len(data.x) == 3
    assert data.tags.sum(1).tolist() == [1, 2, 1]
    assert float(data.distance[0, 1]) == pytest.approx(math.sqrt(2))
