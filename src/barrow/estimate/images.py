"""Folders of images as samples, and the reading of one image."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from barrow.check import whole

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["GREY", "LUMINANCE", "Images", "decode"]

_Value = TypeVar("_Value")
_Array = npt.NDArray[np.float32]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's "L", but not rounded to whole levels
_HELD = 2**28  # bytes of decoded images that are kept in memory; more go to a temporary file


class Images(Dataset[Tensor]):
    """The images of a folder as samples: numbers from 0 (black) to 1, of one size.

        sample_k = opacity * level / largest level, (3, height, width) in colour, (height, width) in grey

    Every file is decoded once, when the object is made, so that a broken one is known at the start and reading costs
    nothing later; decoded images beyond 256 MiB wait in a temporary file, not in memory. Choose it to hand photographs
    to `barrow.estimate`, which also takes the folder's path alone. Not for training at full size: distances between
    pixels mean little between photographs of different framing.

    Subfolders are searched too, and files are taken in the order of their paths. Files whose suffix is none of .png,
    .jpg, .jpeg, .bmp, .webp, .tif and .tiff are ignored and counted; names that begin with a dot are not seen at all.
    Orientation tags are obeyed. Grey is luminance (ITU-R BT.601).

    Args:
        folder: where the images are.
        size: side in pixels, or (height, width): an image is cut to that shape about its centre and resized by
            averaging. None keeps images as they are, which must then agree in size.
        colour: three channels rather than one grey level.
        skip_broken: leave out files that cannot be decoded instead of refusing them.
        progress: called as progress(done, total) after each file.

    Attributes:
        folder: as given.
        paths: the files of the samples, in order.
        broken: the files that were left out.
        ignored: how many files have another suffix.
        array: (n, ...) float32, the samples; on a disk where they are many.

    Raises:
        ValueError: there is no such folder, it holds no images, one cannot be decoded, or sizes differ without size;
            the sentence names the file.
        ImportError: Pillow is not installed.

    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in range(3):
    ...         Image.new("RGB", (8, 6), (255, 51 * k, 0)).save(f"{folder}/{k}.png")
    ...     images = Images(folder, size=2)
    >>> len(images), images[1].shape, [round(level, 3) for level in images[1][:, 0, 0].tolist()]
    (3, torch.Size([3, 2, 2]), [1.0, 0.2, 0.0])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        size: SupportsIndex | tuple[SupportsIndex, SupportsIndex] | None = None,
        colour: bool = True,
        skip_broken: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._size, self._colour = _sides(size), colour
        files, self.ignored = _files(self.folder)
        paths: list[Path] = []
        broken: list[Path] = []
        array: _Array | None = None
        for k, path in enumerate(files):
            try:
                sample = decode(path, self._levels)
            except ValueError as error:
                if not skip_broken:
                    raise ValueError(f"{error}; mend it, remove it, or skip broken files") from None
                broken.append(path)
            else:
                if array is None:
                    array = _room((len(files), *sample.shape))
                if sample.shape != array.shape[1:]:
                    raise ValueError(
                        f"{path} is {_pixels(sample.shape)} but {paths[0]} is {_pixels(array.shape)}: all images must "
                        "have one size; give a size to resize them to"
                    )
                array[len(paths)] = sample
                paths.append(path)
            if progress is not None:
                progress(k + 1, len(files))
        if array is None:
            raise ValueError(f"{self.folder} has {len(files)} images but none can be decoded: {broken[0]} is the first")
        self.array = array[: len(paths)]
        self.paths, self.broken = tuple(paths), tuple(broken)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.array[index]))

    def _levels(self, picture: Picture) -> _Array:
        if self._size is not None:
            height, width = self._size
        else:
            width, height = picture.size
        levels = _resized(_plain(picture), (width, height))
        if levels.ndim == 2:
            return np.repeat(levels[None], 3, 0) if self._colour else levels
        if self._colour:
            return np.ascontiguousarray(levels.transpose(2, 0, 1))
        grey: _Array = (levels @ np.array(LUMINANCE)).clip(0, 1).astype(np.float32)
        return grey


def decode(path: Path, levels: Callable[[Any], _Value]) -> _Value:
    """What ``levels`` makes of the picture in a file, turned the way it was taken.

    Raises:
        ValueError: there is no such file, it is damaged, no image or several, or ``levels`` refuses it.
        ImportError: Pillow is not installed.
    """
    Image, ImageOps = _pillow()
    if not path.exists():
        raise ValueError(f"{path} does not exist: give the path of an image")
    if path.is_dir():
        raise ValueError(f"{path} is a directory: give the path of an image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                # What a phone adds to a photograph (a depth map, a preview) is no second one.
                count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                picture = ImageOps.exif_transpose(image) if count == 1 else None
        except MemoryError:
            raise
        except Image.UnidentifiedImageError:
            raise ValueError(f"{path} is not an image that Pillow can read") from None
        except Exception as error:  # damaged bytes raise nearly anything: zlib, struct, SyntaxError
            raise ValueError(f"{path} cannot be read as an image: {' '.join(str(error).split())}") from None
    if picture is None:
        raise ValueError(f"{path} holds {count} pictures: save the one that is meant")
    try:
        return levels(picture)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("Pillow is not installed, but images need it: pip install 'barrow[studies]'") from None
    return Image, ImageOps


def _sides(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, tuple):
        if len(size) != 2:
            raise ValueError(f"size is {size}, but it must be a side in pixels or a pair (height, width)")
        return whole("size[0]", size[0]), whole("size[1]", size[1])
    return (side := whole("size", size)), side


def _files(folder: Path) -> tuple[list[Path], int]:
    """The images under a folder in the order of their paths, and how many other files there are."""
    if not folder.is_dir():
        complaint = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {complaint}: give the path of a folder of images")
    images, others = [], 0
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                images.append(Path(place, name))
            else:
                others += 1
    if not images:
        beside = f" ({others} files of other kinds)" if others else ""
        raise ValueError(f"{folder} holds no images{beside}: it must hold files that end in {', '.join(SUFFIXES)}")
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix()), others


def _room(shape: tuple[int, ...]) -> _Array:
    """Zeros in memory, or in a file without a name where they are many."""
    need = 4 * int(np.prod(shape, dtype=np.int64))
    if need <= _HELD:
        return np.zeros(shape, dtype=np.float32)
    place = tempfile.gettempdir()
    if need > (free := shutil.disk_usage(place).free):
        raise ValueError(
            f"the decoded images take {need / 2**30:.1f} GiB but {place} has {free / 2**30:.1f} GiB free: give a "
            "smaller size"
        )
    with tempfile.TemporaryFile() as file:
        file.truncate(need)
        return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)


def _plain(picture: Picture) -> Any:
    """The picture as levels from 0 to 255 (L, RGB) or from 0 to 1 (F), what is transparent being black."""
    Image, _ = _pillow()
    if picture.mode in GREY and "transparency" not in picture.info:
        if picture.mode in ("1", "L"):
            return picture.convert("L")
        levels: _Array = np.asarray(picture, dtype=np.float32)
        if picture.mode != "F":
            levels = levels / np.float32(65535)
        if not (levels.min() >= 0 and levels.max() <= 1):  # NaN is refused as well
            raise ValueError("has levels outside of [0, 1]: save it with 8 or 16 bits a level")
        return Image.fromarray(levels)
    layered = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")


def _resized(picture: Any, sides: tuple[int, int]) -> _Array:
    Image, _ = _pillow()
    top = 1 if picture.mode == "F" else 255
    (width, height), (wide, high) = picture.size, sides
    if picture.size != sides:
        # Cut first: a filter told of the cut only as its box would look beyond it.
        keep = min(width, max(1, round(height * wide / high))), min(height, max(1, round(width * high / wide)))
        left, upper = (width - keep[0]) // 2, (height - keep[1]) // 2
        picture = picture.crop((left, upper, left + keep[0], upper + keep[1]))
        picture = picture.resize(sides, Image.Resampling.BILINEAR)
    return (np.asarray(picture, dtype=np.float32) / np.float32(top)).clip(0, 1).astype(np.float32)


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]} x {shape[-2]} pixels"
