"""Real data for the studies: found where they are, fetched only at the user's wish (``barrow data NAME``).

Each module declares its data (what, whose, from where, with their SHA-256) and finds them: ``mnist.find()``,
``vader.find()``, ... A path that is given comes first, then an installed package that carries the files, then the
cache. Nothing is ever downloaded by a ``find``.

The cache is the folder that the environment variable ``BARROW_DATA`` names, else ``barrow`` in that of
``XDG_CACHE_HOME``, else ``~/.cache/barrow``.
"""

from __future__ import annotations

from barrow.studies.data import belt, emoji, fashion, glove, hierarchies, mnist, vader, wordnet
from barrow.studies.data.cache import Dataset, MissingData, locate, present, root
from barrow.studies.data.fetch import FetchError, fetch

__all__ = ["DATASETS", "Dataset", "FetchError", "MissingData", "fetch", "locate", "present", "root"]

DATASETS = {
    dataset.name: dataset
    for dataset in (
        mnist.DATASET,
        fashion.DATASET,
        vader.DATASET,
        glove.DATASET,
        *emoji.DATASETS.values(),
        *belt.DATASETS.values(),
        hierarchies.DATASET,
        wordnet.DATASET,
    )
}
