"""Fetching a set of data into the cache: checked against its SHA-256, written aside, moved when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import barrow
from barrow.studies.data import cache
from barrow.studies.data.cache import ABOUT, Dataset, Source
from barrow.studies.work import Progress

CHUNK = 1 << 18  # bytes between two reports of progress
PATIENCE = 30.0  # seconds without a byte
DAY = 86400.0  # seconds


class FetchError(Exception):
    """A set of data could not be fetched: one sentence that says why and what to do instead."""


def fetch(dataset: Dataset, progress: Progress) -> Path:
    """Download ``dataset``, keep what is needed of it, and return its folder in the cache.

    An older copy is replaced once the new one is whole; whatever goes wrong, it stays.

    Raises:
        FetchError: no network, other bytes than the pinned ones, no room, no permission.
    """
    folder = dataset.folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(dataset)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{dataset.name}.") as aside:
            _fill(dataset, Path(aside), progress)
            if folder.exists():
                os.rename(folder, Path(aside) / "old")
            os.rename(Path(aside) / "new", folder)
    except OSError as error:
        raise FetchError(f"{dataset.name} cannot be kept in {folder}: {error.strerror or error}") from error
    return folder


def _sweep(dataset: Dataset) -> None:
    """Remove what a fetch left that was killed a day ago or earlier; a younger one may still be at work."""
    for aside in dataset.folder.parent.glob(f".{dataset.name}.*"):
        if time.time() - aside.stat().st_mtime > DAY:
            shutil.rmtree(aside, ignore_errors=True)


def _fill(dataset: Dataset, aside: Path, progress: Progress) -> None:
    raw: dict[str, bytes] = {}
    before = 0
    for source in dataset.sources:

        def tell(done: int, before: int = before) -> None:
            megabytes = f"{(before + done) / 1e6:.1f} of {dataset.size / 1e6:.1f} MB"
            progress(f"{dataset.name}: {megabytes}", before + done, dataset.size)

        archive = aside / source.archive
        _download(dataset, source, archive, tell)
        try:
            raw |= cache.unpacked(source, archive)
        except ValueError as error:
            raise FetchError(f"{dataset.name}: {source.archive} is not as expected: {error}") from error
        before += source.size
    progress(f"{dataset.name}: unpacking", dataset.size, dataset.size)
    new = aside / "new"
    new.mkdir()
    for name, content in cache.reduced(dataset, raw).items():
        (new / name).write_bytes(content)
    (new / ABOUT).write_text(_about(dataset), encoding="utf-8")


def _about(dataset: Dataset) -> str:
    origins = [f"{source.urls[0]}\n  SHA-256 {source.sha256}" for source in dataset.sources]
    return "\n".join(
        [dataset.summary, f"Licence: {dataset.licence}", f"Cite: {dataset.citation}", "From:", *origins, ""]
    )


def _download(dataset: Dataset, source: Source, archive: Path, tell: Callable[[int], None]) -> None:
    failures: list[str] = []
    for url in source.urls:
        try:
            _pull(url, source, archive, tell)
        except _FailedError as error:
            failures.append(f"{url} {error}")
        else:
            return
    otherwise = f"(with {source.archive} from elsewhere, give the study --data)"
    raise FetchError(f"{dataset.name} cannot be fetched: {'; '.join(failures)} {otherwise}")


class _FailedError(Exception):
    """What one address did, as the rest of a sentence; another may do better."""


def _pull(url: str, source: Source, archive: Path, tell: Callable[[int], None]) -> None:
    digest, done = hashlib.sha256(), 0
    with archive.open("wb") as file:
        for chunk in _chunks(url):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if done > source.size:
                break
            tell(done)
    if done < source.size:
        raise _FailedError(f"was cut off after {done} of {source.size} bytes")
    if done > source.size or digest.hexdigest() != source.sha256:
        raise _FailedError(f"is not the file it was: its SHA-256 is not {source.sha256}")


def _chunks(url: str) -> Iterator[bytes]:
    """The bytes as they come; what goes wrong here is the network's fault, not the disk's."""
    request = urllib.request.Request(url, headers={"User-Agent": f"barrow/{barrow.__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            while chunk := answer.read(CHUNK):
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        raise _FailedError(f"answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _FailedError(f"is out of reach: {getattr(error, 'reason', None) or error}") from error
