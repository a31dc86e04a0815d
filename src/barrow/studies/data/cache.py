"""What a set of data is, where it lies, and how to get it: the given path, an installed copy, the cache, in this order.

Nothing here is downloaded: :mod:`barrow.studies.data.fetch` does that, at the user's wish (``barrow data``).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import final

from barrow.studies.data.archives import members
from barrow.studies.study import BadData

Contents = Mapping[str, bytes]
ABOUT = "ABOUT.txt"


class MissingData(BadData):
    """Data that this machine does not have; the message names the command that fetches them."""


@final
@dataclasses.dataclass(frozen=True)
class Source:
    """An archive of a package registry, and which files of it are taken under which names."""

    urls: tuple[str, ...]  # mirrors of the same bytes, tried in order
    sha256: str
    size: int  # bytes
    members: Mapping[str, str]  # path in the archive -> name in the cache

    @property
    def archive(self) -> str:
        """The file name of the archive."""
        return PurePosixPath(self.urls[0]).name


@final
@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set of data: what it is, whose it is, where it comes from and what is kept of it."""

    name: str
    title: str  # completes "this machine does not have ..."
    summary: str
    licence: str
    citation: str
    sources: tuple[Source, ...]
    files: tuple[str, ...] = ()  # of the cache; empty: the members under their names
    reduce: Callable[[Contents], Contents] | None = None  # from the members, by name, to the files
    packages: tuple[str, ...] = ()  # Python packages that carry the members, all in one folder, where archives do
    folders: tuple[str, ...] = ()  # where a system's package puts the members
    search: Callable[[], Path | None] | None = None  # where other software has them, for a finder of its own

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(source.size for source in self.sources)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the files in the cache."""
        return self.files or tuple(name for source in self.sources for name in source.members.values())

    @property
    def folder(self) -> Path:
        """Where the cache has it, or would."""
        return root() / self.name

    def missing(self) -> MissingData:
        """What to raise where it is nowhere."""
        return MissingData(f"this machine does not have {self.title}: run `barrow data {self.name}`, or give --data")


def root() -> Path:
    """The cache: ``$BARROW_DATA``, else ``$XDG_CACHE_HOME/barrow``, else ``~/.cache/barrow``."""
    if chosen := os.environ.get("BARROW_DATA"):
        return Path(os.path.expanduser(chosen))  # unlike that of Path, it leaves the home of nobody as it is
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "barrow"


# -- finding -----------------------------------------------------------------------------------------------------------


def locate(dataset: Dataset, data: Path | None = None) -> Path:
    """The file or folder that holds ``dataset``: ``data`` if it is given, else installed, else in the cache.

    Raises:
        BadData: ``data`` does not exist.
        MissingData: it is nowhere.
    """
    if data is not None:
        if not data.exists():
            raise BadData(f"{data} does not exist: give {_wanted(dataset)}, or leave it out")
        return data
    if dataset.search is not None and (place := dataset.search()) is not None:
        return place
    for folder in _installed(dataset):
        if all(
            os.path.isfile(folder / PurePosixPath(path).name) for source in dataset.sources for path in source.members
        ):
            return folder
    # Unlike that of Path, this isfile is False for what may not be looked at or cannot be: no such data are here.
    if all(os.path.isfile(dataset.folder / name) for name in dataset.kept):
        return dataset.folder
    raise dataset.missing()


def within(data: Path | None, name: str) -> Path | None:
    """Where in ``data`` to look for one set of several: in what is called ``name`` there, else in ``data`` itself."""
    return data / name if data is not None and (data / name).exists() else data


def present(dataset: Dataset) -> Path | None:
    """Where :func:`locate` finds it, or None."""
    try:
        return locate(dataset)
    except MissingData:
        return None


def load(dataset: Dataset, data: Path | None = None) -> tuple[Contents, str]:
    """The files of ``dataset`` by their names in the cache, and a line that says where they come from.

    ``data`` may be a folder laid out as the cache, an unpacked package at any level, the package itself or a folder
    of several; or, where there is but one, the file.

    Raises:
        BadData: they are not there, or damaged.
        MissingData: they are nowhere.
    """
    place = locate(dataset, data)
    try:
        return _read(dataset, place), str(place)
    except (OSError, ValueError) as error:
        raise unreadable(place, dataset, error) from error


def unreadable(place: Path, dataset: Dataset, error: Exception) -> BadData:
    """The complaint about a file that is damaged or something else."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    where = "" if place != dataset.folder else f"; fetch it again: barrow data --again {dataset.name}"
    return BadData(f"{place} cannot be read as {dataset.title}: {reason.rstrip('.')}{where}")


def _read(dataset: Dataset, place: Path) -> Contents:
    if place.is_dir():
        if all((place / name).is_file() for name in dataset.kept):
            return {name: (place / name).read_bytes() for name in dataset.kept}
        raw = _from_folder(dataset, place)
    elif place.name in dataset.kept and len(dataset.kept) == 1:
        return {place.name: place.read_bytes()}
    else:
        raw = _from_file(dataset, place)
    return reduced(dataset, raw)


def reduced(dataset: Dataset, raw: Contents) -> Contents:
    """From the members as they are in the archive to what the cache keeps."""
    return raw if dataset.reduce is None else dataset.reduce(raw)


def _from_folder(dataset: Dataset, folder: Path) -> Contents:
    raw: dict[str, bytes] = {}
    for source in dataset.sources:
        paths = {name: _member(folder, path) for path, name in source.members.items()}
        if all(paths.values()):
            raw |= {name: path.read_bytes() for name, path in paths.items() if path}
        elif (folder / source.archive).is_file():
            raw |= unpacked(source, folder / source.archive)
        else:
            lacking = next(path for path, name in source.members.items() if not paths[name])
            raise ValueError(f"it holds neither {PurePosixPath(lacking).name} nor {source.archive}")
    return raw


def _from_file(dataset: Dataset, file: Path) -> Contents:
    if len(dataset.sources) > 1:
        raise ValueError(f"it is one file: give a folder with {_wanted(dataset)}")
    (source,) = dataset.sources
    for path, name in source.members.items():
        if file.name == PurePosixPath(path).name and len(source.members) == 1:
            return {name: file.read_bytes()}
    return unpacked(source, file)


def unpacked(source: Source, archive: Path) -> Contents:
    """The members by the names of the cache."""
    return {source.members[path]: content for path, content in members(archive, list(source.members)).items()}


def _member(folder: Path, path: str) -> Path | None:
    """``path`` from its archive's root, or any tail of it: a package may have been unpacked at any level."""
    parts = PurePosixPath(path).parts
    tails = (folder.joinpath(*parts[k:]) for k in range(len(parts)))
    return next((tail for tail in tails if tail.is_file()), None)


def _installed(dataset: Dataset) -> Iterator[Path]:
    """Folders that could hold the members; a package is looked up, never imported."""
    parts = PurePosixPath(next(iter(dataset.sources[0].members))).parts
    for package in dataset.packages:
        within = parts[parts.index(package) + 1 : -1]
        spec = importlib.util.find_spec(package)
        yield from (Path(place).joinpath(*within) for place in (spec and spec.submodule_search_locations) or ())
    yield from map(Path, dataset.folders)


def _wanted(dataset: Dataset) -> str:
    return _listed([source.archive for source in dataset.sources])


def _listed(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)
