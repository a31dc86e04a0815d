"""The noun hierarchy of WordNet as a tree over given synsets."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from barrow.cost.trees import distinct, gathered, reduced

FILE = "data.noun"
SHARED = Path("/usr/share")
ID = re.compile(r"n(\d{8})")
NOTICE = re.compile(r"WordNet \d+\.\d+")
FETCH = "run `barrow data wordnet` to fetch it"


def from_wordnet(ids: Iterable[str], data: str | os.PathLike[str] | None) -> tuple[Tensor, Tensor]:
    """What :meth:`barrow.Tree.from_wordnet` documents."""
    _, parent, length = _merged(ids, data)
    return parent, length


def nodes(ids: Iterable[str], data: str | os.PathLike[str] | None = None) -> list[str]:
    """The synset at each node of ``Tree.from_wordnet(ids, data)``: first ``ids``, then those where branches meet.

    One of ``ids`` with others below it is there twice, as the leaf and as the fork.

    Raises:
        FileNotFoundError, ValueError: as :meth:`barrow.Tree.from_wordnet`.
    """
    return _merged(ids, data)[0]


def parents(ids: Iterable[str], data: str | os.PathLike[str] | None = None) -> dict[str, str | None]:
    """The hypernym that is chosen for each of ``ids`` and for each synset so reached; None at the root.

    It is the tree with nothing merged: ``Tree.from_parents(parents(ids), leaves=ids)`` is ``Tree.from_wordnet(ids)``.

    Raises:
        FileNotFoundError, ValueError: as :meth:`barrow.Tree.from_wordnet`.
    """
    return _chosen(ids, data)[1]


def words(ids: Iterable[str], data: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What synsets are called, by the first of their words.

    Raises:
        FileNotFoundError, ValueError: as :meth:`barrow.Tree.from_wordnet`.

    >>> import tempfile
    >>> synset = "{} 03 n 01 {} 0 {} | glossary".format
    >>> lines = [
    ...     synset("00000001", "animal", "000"),
    ...     synset("00000002", "pet", "001 @ 00000001 n 0000"),
    ...     synset("00000003", "house_cat", "001 @ 00000002 n 0000"),
    ...     synset("00000004", "puppy", "001 @ 00000002 n 0000"),
    ... ]
    >>> ids = ["n00000004", "n00000003"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "data.noun").write_text("\\n".join(lines))
    ...     called = words(parents(ids, folder), folder)
    ...     [called[node] for node in nodes(ids, folder)]
    ['puppy', 'house cat', 'pet']
    """
    listed, nouns = _known(ids, data)
    return {one: nouns.words[int(one[1:])] for one in listed}


def _merged(ids: Iterable[str], data: str | os.PathLike[str] | None) -> tuple[list[str], Tensor, Tensor]:
    """The synsets of the nodes (N,), their parents and the lengths above them."""
    listed, up = _chosen(ids, data)
    synsets = list(up)
    number = {synset: k for k, synset in enumerate(synsets)}
    above = [-1 if synset is None else number[synset] for synset in up.values()]
    parent, fork, source, target = reduced(above, [number[one] for one in listed], synsets.__getitem__)
    length = gathered(torch.ones(len(up)), source, target, parent.numel())
    return listed + [synsets[k] for k in fork], parent, length


def _chosen(ids: Iterable[str], data: str | os.PathLike[str] | None) -> tuple[list[str], dict[str, str | None]]:
    listed, nouns = _known(ids, data)
    up = one_parent(nouns.hypernyms, [int(one[1:]) for one in listed])
    return listed, {f"n{v:08d}": None if u is None else f"n{u:08d}" for v, u in up.items()}


def _known(ids: Iterable[str], data: str | os.PathLike[str] | None) -> tuple[list[str], Nouns]:
    listed = distinct(
        "ids",
        ids,
        lambda one: isinstance(one, str) and ID.fullmatch(one) is not None,
        "is no noun synset: ids are n and eight digits, such as n02084071",
    )
    nouns = read(find(data))
    lost = [one for one in listed if int(one[1:]) not in nouns.hypernyms]
    if lost:
        raise ValueError(
            f"{len(lost)} of the {len(listed)} ids are no noun synsets of {nouns.source}, the first {lost[0]}: the ids "
            "of ImageNet are those of WordNet 3.0, which `barrow data wordnet` fetches; other versions have other ids"
        )
    return listed, nouns


# -- the file ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Nouns:
    """The hypernyms and the first word of each noun synset, by offset, and where they were read."""

    hypernyms: Mapping[int, tuple[int, ...]]
    words: Mapping[int, str]
    source: str


def find(data: str | os.PathLike[str] | None) -> Path:
    """The file of noun synsets: the one given, or the first of the usual places."""
    if data is not None:
        path = Path(data).expanduser()
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: data must name WordNet's {FILE} or its folder; or {FETCH}")
        return path
    for path in places():
        if os.path.isfile(path):  # False, unlike that of Path, where looking is not allowed
            return path
    raise FileNotFoundError(f"WordNet's {FILE} is nowhere on this machine: {FETCH}, or name it with data")


def places() -> Iterator[Path]:
    """The usual places, the first one first; the file need not be there."""
    home, said = Path.home(), os.environ.get
    if folder := said("WNSEARCHDIR"):
        yield Path(folder, FILE)
    if folder := said("WNHOME"):
        yield Path(folder, "dict", FILE)
    yield SHARED / "wordnet" / FILE
    named = [folder for folder in said("NLTK_DATA", "").split(os.pathsep) if folder]
    for path in (*map(Path, named), home / "nltk_data", SHARED / "nltk_data", Path(sys.prefix, "nltk_data")):
        yield path / "corpora" / "wordnet" / FILE
        yield path / "corpora" / "wordnet.zip"
    cache = said("BARROW_DATA") or Path(said("XDG_CACHE_HOME") or home / ".cache", "barrow")
    yield Path(os.path.expanduser(cache), "wordnet", FILE)


def version(path: Path) -> str:
    """What the notice at its top says, such as "WordNet 3.0"; nothing where there is no notice."""
    notice = re.search(NOTICE, _text(path, 4096))
    return notice[0] if notice else ""


def _text(path: Path, size: int = -1) -> str:
    """Of the file, or of the one in an archive of NLTK's; ``size`` bytes of it."""
    if path.suffix != ".zip":
        with path.open("rb") as file:
            return file.read(size).decode("latin-1")
    name = f"{path.stem}/{FILE}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as member:
            return member.read(size).decode("latin-1")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError):
        raise ValueError(
            f"{path} is no whole archive with {name}: data must name WordNet's {FILE}; or {FETCH}"
        ) from None


def read(path: Path) -> Nouns:
    """Read the hypernyms once, unless the file changes."""
    path = path.resolve()
    seen = path.stat()
    return _read(path, seen.st_mtime_ns, seen.st_size)


@functools.lru_cache(maxsize=2)
def _read(path: Path, changed: int, size: int) -> Nouns:
    # A synset is a line
    #   offset file type w_cnt (hexadecimal) [word lex_id] * w_cnt  p_cnt  [symbol offset part source/target] * p_cnt
    # and hypernyms have the symbols @ and, for instances, @i: the manual page wndb(5WN). Lines of the licence are blank
    # first.
    lines = _text(path).splitlines()
    hypernyms: dict[int, tuple[int, ...]] = {}
    words: dict[int, str] = {}
    version = ""
    for k, line in enumerate(lines, 1):
        if line.startswith(" "):
            named = re.search(NOTICE, line)
            version = version or (f" ({named[0]})" if named else "")
            continue
        try:
            fields = line.partition("|")[0].split()
            first = 5 + 2 * int(fields[3], 16)
            symbols, offsets = fields[first::4], fields[first + 1 :: 4]
            if fields[2] != "n" or len(fields) != first + 4 * int(fields[first - 1]):
                raise ValueError
            above = (int(o) for symbol, o in zip(symbols, offsets, strict=True) if symbol in ("@", "@i"))
            hypernyms[int(fields[0])] = tuple(dict.fromkeys(above))
            words[int(fields[0])] = fields[4].replace("_", " ")
        except (ValueError, IndexError):
            raise ValueError(f"line {k} of {path} is no noun synset of WordNet: data must name its {FILE}") from None
    for synset, parents in hypernyms.items():
        for one in parents:
            if one not in hypernyms:
                raise ValueError(
                    f"{path} is incomplete: n{one:08d}, a hypernym of n{synset:08d}, is not in it; {FETCH}"
                )
    return Nouns(hypernyms, words, f"{path}{version}")


# -- one parent a synset -----------------------------------------------------------------------------------------------


def one_parent(hypernyms: Mapping[int, tuple[int, ...]], wanted: Iterable[int]) -> dict[int, int | None]:
    """Choose one hypernym for each wanted synset and for each synset so reached, None at the root.

    Wanted synsets with a single path to the root go first. Then, again and again, the path that adds the fewest synsets
    to the tree; of several the shortest up to the root; then that of the smallest offsets: the order of ``wanted``
    does not matter.
    """
    order = _from_the_root(hypernyms, wanted)
    paths: dict[int, int] = {}
    for v in order:
        paths[v] = sum(paths[u] for u in hypernyms[v]) if hypernyms[v] else 1

    tree: dict[int, int | None] = {v: None for v in order if not hypernyms[v]}
    # How many synsets the best path from each one adds, and how long that is up to the root.
    best = dict.fromkeys(tree, (0, 0))
    below: dict[int, list[int]] = {v: [] for v in order}
    for v in order:
        for u in hypernyms[v]:
            below[u].append(v)
        if hypernyms[v]:
            best[v] = _one_more(min(best[u] for u in hypernyms[v]))

    left = set(wanted)
    ready = [((0, 0), v) for v in left if paths[v] == 1]  # all of them before all others, in any order
    ready += [(best[v], v) for v in left if paths[v] > 1]
    heapq.heapify(ready)
    while ready:
        _, v = heapq.heappop(ready)
        if v not in left:
            continue
        left.remove(v)
        added = []
        while v not in tree:
            u = min(hypernyms[v], key=lambda u: (best[u], u))
            tree[v] = u
            added.append(v)
            v = u
        depth = best[v][1]
        for w in reversed(added):
            depth += 1
            best[w] = (0, depth)
        while added:  # whoever is below has become nearer
            u = added.pop()
            for w in below[u]:
                if w not in tree and _one_more(best[u]) < best[w]:
                    best[w] = _one_more(best[u])
                    added.append(w)
                    if w in left:
                        heapq.heappush(ready, (best[w], w))
    return tree


def _one_more(path: tuple[int, int]) -> tuple[int, int]:
    return path[0] + 1, path[1] + 1


def _from_the_root(hypernyms: Mapping[int, tuple[int, ...]], wanted: Iterable[int]) -> list[int]:
    """The wanted synsets and all their ancestors, each after its hypernyms."""
    order: list[int] = []
    state: dict[int, int] = {}  # 1 while ancestors are being listed, 2 once they are
    for start in wanted:
        stack = [start]
        while stack:
            v = stack[-1]
            if state.get(v) == 2:
                stack.pop()
                continue
            waiting = [u for u in hypernyms[v] if state.get(u) != 2]
            if state.get(v) == 1 and any(state.get(u) == 1 for u in waiting):
                raise ValueError(f"the hypernyms of n{v:08d} run in a circle: the file is damaged; {FETCH}")
            if waiting:
                state[v] = 1
                stack += waiting
            else:
                state[v] = 2
                order.append(v)
                stack.pop()
    return order
