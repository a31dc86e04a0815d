"""The benchmark's twenty-eight pairs of laws, and what has been published about them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from barrow.studies.study import BadData
from barrow.studies.w1benchmark.funnels import Funnels

DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)
COUNTS = (4, 16, 64, 256)
SEED = 987  # of pairs of our own
PUBLISHED_SAMPLES = 4096

# Mean, median and greatest absolute relative error in percent, mean and least cosine over the 28 pairs, certified.
PUBLISHED = {
    "WGAN-LP": (15.8, 8.8, 46.0, 0.770, 0.494, False),
    "WGAN-GP": (21.0, 13.5, 69.0, 0.727, 0.192, False),
    "3P-WGAN (MM)": (28.0, 12.8, 118.0, 0.617, 0.241, False),
    "SO (orthogonal, FullSort)": (32.7, 34.0, 81.0, 0.713, 0.256, True),
    "CoWGAN": (79.0, 41.0, 531.0, 0.630, 0.421, False),
    "spectral normalisation": (82.0, 83.0, 101.0, 0.208, 0.037, True),
    "c-transform": (89.0, 102.0, 135.0, 0.089, -0.574, False),
    "weight clipping": (108.0, 79.0, 726.0, 0.179, 0.014, False),
    "exact transport, 4096 points": (432.0, 144.0, 1718.0, 0.165, -0.359, False),
}
LP, PEER = PUBLISHED["WGAN-LP"], PUBLISHED["SO (orthogonal, FullSort)"]
HINDSIGHT = (5.5, 32.0)  # mean and greatest error of whichever method is best on each pair
# W_1 of the published pairs from 4096 samples, by count and dimension.
PUBLISHED_TRUTH = {
    4: (0.8174, 1.3853, 1.8817, 1.9405, 1.8217, 1.4113, 1.1424),
    16: (0.4662, 1.0035, 1.5850, 1.7375, 1.6697, 1.3595, 1.0720),
    64: (0.2303, 0.7098, 1.2593, 1.5536, 1.5429, 1.3173, 1.0448),
    256: (0.1336, 0.4916, 1.0080, 1.3989, 1.4123, 1.2826, 1.0415),
}


def pairs(data: Path | None) -> dict[tuple[int, int], Funnels]:
    """The published pairs, where their file is given; otherwise pairs drawn by the same recipe with a seed of ours."""
    keys = [(d, count) for d in DIMENSIONS for count in COUNTS]
    if data is None:
        return {
            (d, count): Funnels.drawn(d, count, torch.Generator().manual_seed(SEED + 1000 * d + count))
            for d, count in keys
        }
    path = data / "funnels.npz" if data.is_dir() else data
    try:
        with np.load(path) as file:
            arrays = {key: torch.from_numpy(file[key]).double() for key in file.files}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} is no .npz archive of the benchmark's parameters") from error
    found = {}
    for d, count in keys:
        name = f"d{d}_n{count}_net"
        centers, offsets = (arrays.get(f"{name}.{part}") for part in ("centers", "bias"))
        if centers is None or offsets is None or centers.shape != (count, d) or offsets.numel() != count:
            raise BadData(f"{path} does not hold {name}.centers of shape ({count}, {d}) and {name}.bias of {count}")
        found[d, count] = Funnels(centers, offsets.flatten())
    return found
