"""Reading measures, and writing files whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from barrow.cli.complaint import Complaint

Array = npt.NDArray[Any]

SUFFIXES = ".npy, .npz or .csv"
POINTS, WEIGHTS = ("x", "points"), ("weights", "a", "weight")


@final
@dataclasses.dataclass(frozen=True)
class Measure:
    """Points (n, ...) and weights (n,) read from a file; no weights means uniform ones."""

    path: Path
    points: Tensor
    weights: Tensor | None
    sides: tuple[int, int] | None = None  # of an image: the points are its pixels

    def to(self, dtype: torch.dtype) -> Measure:
        """The same measure in another precision."""
        weights = None if self.weights is None else self.weights.to(dtype)
        return dataclasses.replace(self, points=self.points.to(dtype), weights=weights)

    @property
    def mass(self) -> float:
        """The sum of the weights."""
        return 1.0 if self.weights is None else float(self.weights.double().sum())


def read_clouds(x: Path, y: Path) -> tuple[Measure, Measure]:
    """Two clouds (n, d), (m, d) in one space and one precision; one-dimensional arrays are points on a line."""
    one, two = (_as_cloud(read(path)) for path in (x, y))
    if one.points.shape[1] != two.points.shape[1]:
        raise Complaint(
            f"the points of {x} have {one.points.shape[1]} coordinates but those of {y} have {two.points.shape[1]}: "
            "both must live in one space"
        )
    return alike(one, two)


def read_samples(path: Path) -> Measure:
    """Samples (n, ...) of any shape, without weights."""
    measure = read(path)
    if measure.weights is not None:
        raise Complaint(f"{path} has weights, but estimate needs plain samples: resample it by its weights first")
    return measure


def alike(one: Measure, two: Measure) -> tuple[Measure, Measure]:
    """Both in the precision of the finer one."""
    tensors = [t for m in (one, two) for t in (m.points, m.weights) if t is not None]
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return one.to(dtype), two.to(dtype)


def read(path: Path) -> Measure:
    """Read a measure from .npy, .npz or .csv and judge every number of it."""
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    try:
        if not path.exists():
            raise Complaint(f"{path} does not exist: give the path of a {SUFFIXES} file")
        if path.is_dir():
            raise Complaint(f"{path} is a directory: give the path of a {SUFFIXES} file")
        if reader is None:
            raise Complaint(f"{path} has the suffix {path.suffix or '(none)'!r}, but measures are read from {SUFFIXES}")
        if path.is_file() and path.stat().st_size == 0:
            raise Complaint(f"{path} is empty: it must hold an array of points (n, d)")
        points, weights, where = reader(path)
    except OSError as error:
        raise Complaint(f"{path} cannot be read: {error.strerror or error}") from None
    return _judged(path, points, weights, where)


Where = Callable[[tuple[int, ...]], str]


def _judged(path: Path, points: Array, weights: Array | None, where: Where) -> Measure:
    points = _numbers(path, "points", points)
    if points.ndim == 0:
        raise Complaint(f"{path} holds one number, but points must have shape (n, d), or (n,) on a line")
    if points.size == 0:
        raise Complaint(f"{path} has shape {points.shape}: it holds no points")
    _refuse_infinite(path, points, where)
    if weights is not None:
        weights = _numbers(path, "weights", weights)
        if weights.shape != points.shape[:1]:
            raise Complaint(f"{path} has {len(points)} points but weights of shape {weights.shape}: one weight a point")
        _refuse_infinite(path, weights, lambda index: f"weights[{index[0]}]")
        if (weights < 0).any():
            k = int(weights.argmin())
            raise Complaint(f"{path}: weights[{k}] is {weights[k]:g}, but weights must not be negative")
        if not weights.any():
            raise Complaint(f"{path}: all weights are 0, but a measure must have some mass")
    # torch takes neither foreign byte orders nor negative strides.
    tensors = [
        None if t is None else torch.from_numpy(np.array(t, t.dtype.newbyteorder("="))) for t in (points, weights)
    ]
    assert tensors[0] is not None
    return Measure(path, tensors[0], tensors[1])


def _numbers(path: Path, what: str, array: Array) -> Array:
    """float32 and float64 as they are, half in float32, the rest in float64."""
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    if array.dtype.kind != "f":
        raise Complaint(f"{path}: {what} have dtype {array.dtype}, but they must be real numbers")
    if array.dtype.itemsize < 4:
        return array.astype(np.float32)
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def _refuse_infinite(path: Path, array: Array, where: Where) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise Complaint(f"{path}: {where(index)} is {array[index]}{others}, but every number must be finite")


def _as_cloud(measure: Measure) -> Measure:
    points = measure.points
    if points.dim() > 2:
        flat = (len(points), math.prod(points.shape[1:]))
        raise Complaint(
            f"{measure.path} has shape {tuple(points.shape)}, but a cloud must have shape (n, d), or (n,) on a line: "
            f"reshape it to {flat}"
        )
    return dataclasses.replace(measure, points=points[:, None] if points.dim() == 1 else points)


# -- formats -----------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> tuple[Array, None, Where]:
    with path.open("rb") as file:
        magic = file.read(6)
    if magic != b"\x93NUMPY":
        raise Complaint(f"{path} is not a .npy file: write it with numpy.save")
    array = _load(path)
    return array, None, lambda index: f"entry [{', '.join(map(str, index))}]"


def _read_npz(path: Path) -> tuple[Array, Array | None, Where]:
    with path.open("rb") as file:
        if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise Complaint(f"{path} is not a .npz file: write it with numpy.savez")
    arrays = _load(path)
    weight_names = [name for name in WEIGHTS if name in arrays]
    point_names = [name for name in POINTS if name in arrays]
    others = [name for name in arrays if name not in weight_names]
    if len(weight_names) > 1 or len(point_names) > 1:
        doubled = (weight_names if len(weight_names) > 1 else point_names)[:2]
        raise Complaint(f"{path} holds both {doubled[0]!r} and {doubled[1]!r}: keep one of them")
    if not point_names and len(others) != 1:
        held = ", ".join(repr(name) for name in arrays) or "no arrays"
        raise Complaint(f"{path} holds {held}: call the points 'x', and the weights, if any, 'weights'")
    name = (point_names or others)[0]
    weights = arrays[weight_names[0]] if weight_names else None
    return arrays[name], weights, lambda index: f"{name}[{', '.join(map(str, index))}]"


def _load(path: Path) -> Any:
    """What numpy finds, without pickles."""
    try:
        # Opened here, because numpy leaves a damaged archive open.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except MemoryError:
        raise Complaint(f"{path} is too large for this machine's memory") from None
    except OSError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything: zlib, zipfile, struct, tokenizer errors
        if "allow_pickle" in str(error):
            raise Complaint(
                f"{path} holds pickled Python objects, which barrow does not load since they can run code: "
                "save plain numbers, for instance numpy.save(path, array.astype(float))"
            ) from None
        raise Complaint(f"{path} is damaged or cut short: {error}") from None


def _read_csv(path: Path) -> tuple[Array, Array | None, Where]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Complaint(f"{path} is not a text file of comma-separated numbers: {error}") from None
    if not rows:
        raise Complaint(f"{path} is empty: it must hold one point a line, coordinates separated by commas")
    names: list[str] = []
    weighted = [k for k, name in enumerate(rows[0][1]) if name.lower() in ("weight", "weights")]
    if weighted or all(_number(cell) is None for cell in rows[0][1]):
        names = rows.pop(0)[1]
    if len(weighted) > 1:
        raise Complaint(f"{path} has {len(weighted)} columns of weights: keep one of them")
    if not rows:
        raise Complaint(f"{path} has a header but no points: it must hold one point a line")
    width, table = len(names) or len(rows[0][1]), []
    for line, row in rows:
        if len(row) != width:
            raise Complaint(f"{path}, line {line}: {len(row)} cells, but the first line has {width}: lines must agree")
        numbers = [_number(cell) for cell in row]
        if None in numbers:
            k = numbers.index(None)
            given = repr(row[k][:40]) if row[k] else "empty"
            raise Complaint(f"{path}, line {line}, cell {k + 1} is {given}, but cells must be numbers between commas")
        table.append(numbers)
    array = np.array(table, dtype=np.float64)
    columns = [k for k in range(width) if k not in weighted]
    if not columns:
        raise Complaint(f"{path} has weights but no coordinates: add at least one more column")

    def where(index: tuple[int, ...]) -> str:
        return f"line {rows[index[0]][0]}, cell {columns[index[1]] + 1}"

    return array[:, columns], array[:, weighted[0]] if weighted else None, where


def _number(cell: str) -> float | None:
    # float() also takes 1_000, which is no number to anybody else who reads the file.
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


# -- writing -----------------------------------------------------------------------------------------------------------


def writable(path: Path, what: str) -> Path:
    """Refuse, before any work is done, a path that no file can be written to."""
    directory = path.parent
    if path.is_dir():
        raise Complaint(f"{what} {path} is a directory: give the path of a file")
    if not directory.is_dir():
        raise Complaint(f"{what} {path} cannot be written: the directory {directory} does not exist; create it first")
    try:
        # Asking is not enough: a full or read-only disk shows only when it is written to.
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise Complaint(f"{what} {path} cannot be written: {error.strerror or error}") from None
    return path


def directory(path: Path) -> Path:
    """Make a directory for output, or complain."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Complaint(f"the directory {path} cannot be made: {error.strerror or error}") from None
    writable(path / "results.json", "output")
    return path


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Let ``save`` write a temporary sibling, and move it to ``path`` when it is whole."""
    sibling = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        save(sibling)
        os.replace(sibling, path)
    except OSError as error:
        raise Complaint(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        sibling.unlink(missing_ok=True)


def write_json(path: Path, data: object) -> None:
    """Readable JSON, infinities as null."""
    write_text(path, json.dumps(finite(data), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Text in UTF-8."""

    def save(sibling: Path) -> None:
        sibling.write_text(text, encoding="utf-8")

    write(path, save)


def finite(data: object) -> object:
    """The same data with null for what JSON has no number for."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data


def free_memory() -> int | None:
    """Bytes that can be had without swapping, where the system says so."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
