"""Reading images as histograms of grey levels on the grid of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from barrow.cli.complaint import Complaint, one_line
from barrow.cli.files import Measure
from barrow.estimate.images import GREY, LUMINANCE, decode
from barrow.studies import need

SUFFIXES = (".png", ".jpg", ".jpeg")


def are_images(x: Path, y: Path) -> bool:
    """Whether both files are images by their names; one alone is refused."""
    named = [path.suffix.lower() in SUFFIXES for path in (x, y)]
    if named[0] != named[1]:
        image, other = (x, y) if named[0] else (y, x)
        raise Complaint(f"{image} is an image but {other} is none: give two images, or two clouds of points")
    return all(named)


def read_images(x: Path, y: Path) -> tuple[Measure, Measure]:
    """Two histograms of one size and of mass 1; points are the pixels, one apart, column by row upwards."""
    one, two = (_grey(path) for path in (x, y))
    if one.shape != two.shape:
        sizes = [f"{grey.shape[1]} x {grey.shape[0]}" for grey in (one, two)]
        raise Complaint(
            f"{x} is {sizes[0]} pixels but {y} is {sizes[1]}: both must have one size; resize or crop one of them first"
        )
    return _measure(x, one), _measure(y, two)


def _measure(path: Path, grey: npt.NDArray[np.float64]) -> Measure:
    rows, columns = grey.shape
    weights = torch.from_numpy(grey / grey.sum()).flatten()
    places = torch.cartesian_prod(torch.arange(0.0, -rows, -1), torch.arange(float(columns))).flip(-1)
    return Measure(path, places.double(), weights, (rows, columns))


def _grey(path: Path) -> npt.NDArray[np.float64]:
    """Luminance times opacity, pixel by pixel, from 0."""
    need("PIL")
    try:
        return decode(path, _levels)
    except ValueError as error:
        raise Complaint(one_line(error)) from None


def _levels(image: Any) -> npt.NDArray[np.float64]:
    if image.mode in GREY and "transparency" not in image.info:
        levels: npt.NDArray[np.float64] = np.asarray(image, dtype=np.float64)
    else:
        colours = np.asarray(image.convert("RGBA"), dtype=np.float64)
        levels = colours[..., :3] @ np.array(LUMINANCE) * colours[..., 3] / 255
    if not levels.any():
        raise ValueError("is blank, all its pixels are black or transparent: an image must have some mass")
    return levels
