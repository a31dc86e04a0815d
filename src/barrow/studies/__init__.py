"""The experiments that the library is for, one file each: claims against measurements, figures.

A study returns data and figures and prints nothing; progress goes through a callback. A new study is one file with a
``run`` and one line in :data:`STUDIES`.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import final

from barrow.studies.study import Claim, MissingExtra, Outcome, Progress, need, one_thread

__all__ = ["STUDIES", "Claim", "MissingExtra", "Outcome", "Progress", "Study", "need"]


@final
@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment: where it comes from, and how to run it."""

    name: str
    paper: str
    summary: str

    def run(self, *, seed: int, quick: bool, progress: Progress) -> Outcome:
        """Do the experiment; ``quick`` is a smaller one with the same claims."""
        need("matplotlib", "sklearn")
        module = importlib.import_module(f"barrow.studies.{self.name}")
        with one_thread():
            outcome: Outcome = module.run(seed=seed, quick=quick, progress=progress)
        return outcome


STUDIES = {
    study.name: study
    for study in (
        Study(
            "squares",
            "Anil, Lucas, Grosse 2019; the Kantorovich-Rubinstein dual",
            "two laws of images 35 apart: exact, entropic, by critics",
        ),
        Study(
            "digits",
            "Feydy et al. 2019; Peyre and Cuturi 2019",
            "handwritten threes moved onto eights by gradient descent",
        ),
    )
}
