"""The check that runs resume to the same numbers: it passes those that do, and sees each way in which one does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from barrow.studies import Claim, Outcome, Work
from barrow.studies.study import Table
from resuming import resumed


def study(throw: Callable[[], float], captions: dict[str, str]) -> Callable[[Work], Outcome]:
    def run(work: Work) -> Outcome:
        numbers = work.parts(dict.fromkeys("abcd", throw))
        claim = Claim("the first throw is one", "1", f"{numbers['a']}", numbers["a"] == 1)
        table = Table(("part", "number"), tuple((name, str(number)) for name, number in numbers.items()))
        return Outcome(
            (claim,), {"throws": Figure()}, numbers, tables={"all": table}, captions=captions, sources=("dice",)
        )

    return run


def test_a_run_of_the_seed_alone_is_passed(tmp_path: Path) -> None:
    outcome = resumed(study(lambda: torch.rand(()).item(), {"throws": "nothing"}), tmp_path, parts=4)
    assert len(set(outcome.numbers.values())) == 1


def test_a_run_that_knows_what_was_done_before_is_seen(tmp_path: Path) -> None:
    count = itertools.count()
    with pytest.raises(AssertionError):
        resumed(study(lambda: float(next(count)), {"throws": "nothing"}), tmp_path, parts=4)


@pytest.mark.parametrize(("parts", "captions"), [(5, {"throws": "nothing"}), (4, {})])
def test_lost_parts_and_captions_are_seen(tmp_path: Path, parts: int, captions: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        resumed(study(lambda: 1.0, captions), tmp_path, parts=parts)
