"""What a study is given: a seed, a size, data, someone to tell, and the parts that an earlier run finished."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, final

import torch

import barrow
from barrow import checkpoint
from barrow.studies.study import BadData

T = TypeVar("T")
STAMP = "run.ckpt"


class Progress(Protocol):
    """Told what is being done, and how much of it is done."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@final
class Work:
    """A run of a study, made of parts: each depends on the seed alone, so whichever are done need not be done again.

    Args:
        seed: of all randomness.
        quick: whether the smaller experiment is wanted.
        progress: told what is being done.
        data: a file or a folder of input that the user gave; None is what the machine has.
        folder: where finished parts are kept; None keeps none.
        study: whose run it is.
        resume: take the parts that are in ``folder``; without it the folder is emptied first.

    Raises:
        BadData: ``folder`` holds the parts of another run.

    >>> work = Work(seed=3)
    >>> work.part("two throws", lambda: torch.randint(6, (2,)).tolist()) == work.part(
    ...     "once more", lambda: torch.randint(6, (2,)).tolist()
    ... )
    True
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        quick: bool = False,
        progress: Progress = silent,
        data: Path | None = None,
        folder: Path | None = None,
        study: str = "",
        resume: bool = False,
    ) -> None:
        self.seed = seed
        self.quick = quick
        self.progress = progress
        self.data = data
        self.seconds: dict[str, float] = {}
        self.resumed = 0  # parts that were not done again
        self._folder = folder
        if folder is not None:
            self._open(folder, study, resume)

    def part(self, name: str, make: Callable[[], T]) -> T:
        """The result of ``make()``, or what an interrupted run kept of it.

        ``make`` begins from the random state of the seed, whatever was done before, and its result is kept on the disk
        before it is returned; a kill at any moment loses the part that was under way and no other.

        Args:
            name: says what is made; of one run, each part has its own.
            make: returns tensors, numbers, strings, None, and dicts, lists and tuples of them.

        Raises:
            ValueError: the name was used before, or the result could not be read again.
        """
        if name in self.seconds:
            raise ValueError(f"there are two parts {name!r} in one run: give each its own name")
        path = None if self._folder is None else self._folder / f"{_slug(name)}.ckpt"
        if path is not None and path.exists():
            with contextlib.suppress(ValueError):  # cut off or damaged: it is made again
                kept = checkpoint.load(path)
                self.seconds[name] = kept["seconds"]
                self.resumed += 1
                return kept["result"]  # type: ignore[no-any-return]
            path.unlink()
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            result = make()
        seconds = time.perf_counter() - start
        if path is not None:
            checkpoint.save(path, {"result": result, "seconds": seconds})
        self.seconds[name] = seconds
        return result

    def parts(self, cells: Mapping[str, Callable[[], T]], what: str = "all parts") -> dict[str, T]:
        """Every one of ``cells`` by name, in order, with how many are done told on the way."""
        done: dict[str, T] = {}
        for name, make in cells.items():
            self.progress(f"{what}: {name}", len(done), len(cells))
            done[name] = self.part(name, make)
        self.progress(what, len(cells), len(cells))
        return done

    def _open(self, folder: Path, study: str, resume: bool) -> None:
        stamp = {
            "study": study,
            "seed": self.seed,
            "quick": self.quick,
            "data": None if self.data is None else str(self.data.resolve()),
            "barrow": barrow.__version__,
            "torch": str(torch.__version__),
        }
        path = folder / STAMP
        if resume and path.exists():
            for name, kept in _stamp(path).items():
                if kept != stamp.get(name):
                    raise BadData(
                        f"{folder} holds parts of a run with {name} {kept!r}, but this is one with {name} "
                        f"{stamp.get(name)!r}: leave out --resume to begin anew"
                    )
        elif path.exists():
            shutil.rmtree(folder)
        elif folder.exists() and any(not kept.name.startswith(STAMP) for kept in folder.iterdir()):
            raise BadData(
                f"{folder} holds something else than the parts of a study: choose another output, or remove it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            checkpoint.save(path, stamp)


def _stamp(path: Path) -> dict[str, object]:
    try:
        return checkpoint.load(path)
    except ValueError as error:
        raise BadData(f"{error}; leave out --resume to begin anew") from error


def _slug(name: str) -> str:
    """A file name for a part: readable, and different for different names."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block in one thread.

    The matrices of the studies are small: a second thread brings little on an idle machine, and on a busy one the two
    wait for each other for most of the time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
