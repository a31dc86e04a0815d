"""The noun hierarchy of WordNet as a tree over given synsets."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from barrow.cost.trees import distinct, gathered, reduced

FILE = "data.noun"
SHARED = Path("/usr/share")
ID = re.compile(r"n(\d{8})")
FETCH = "run `barrow data wordnet` to fetch it"


def from_wordnet(ids: Iterable[str], data: str | os.PathLike[str] | None) -> tuple[Tensor, Tensor]:
    """What :meth:`barrow.Tree.from_wordnet` documents."""
    listed = distinct(
        "ids",
        ids,
        lambda one: isinstance(one, str) and ID.fullmatch(one) is not None,
        "is no noun synset: ids are n and eight digits, such as n02084071",
    )
    nouns = read(find(data))
    wanted = [int(one[1:]) for one in listed]
    lost = [one for one, synset in zip(listed, wanted, strict=True) if synset not in nouns.hypernyms]
    if lost:
        raise ValueError(
            f"{len(lost)} of the {len(listed)} ids are no noun synsets of {nouns.source}, the first {lost[0]}: the ids "
            "of ImageNet are those of WordNet 3.0, which `barrow data wordnet` fetches; other versions have other ids"
        )
    up = one_parent(nouns.hypernyms, wanted)
    number = {synset: k for k, synset in enumerate(up)}
    above = [-1 if synset is None else number[synset] for synset in up.values()]
    names = [f"n{synset:08d}" for synset in up]
    parent, source, target = reduced(above, [number[synset] for synset in wanted], names.__getitem__)
    return parent, gathered(torch.ones(len(up)), source, target, parent.numel())


# -- the file ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Nouns:
    """The hypernyms of each noun synset, by offset, and where they were read."""

    hypernyms: Mapping[int, tuple[int, ...]]
    source: str


def find(data: str | os.PathLike[str] | None) -> Path:
    """The file of noun synsets: the one given, or the first of the usual places."""
    if data is not None:
        path = Path(data).expanduser()
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: data must name WordNet's {FILE} or its folder; or {FETCH}")
        return path
    for path in _usual():
        if path.is_file():
            return path
    raise FileNotFoundError(f"WordNet's {FILE} is nowhere on this machine: {FETCH}, or name it with data")


def _usual() -> Iterator[Path]:
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
    yield Path(cache, "wordnet", FILE)


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
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            lines = archive.read(f"{path.stem}/{FILE}").decode("latin-1").splitlines()
    else:
        lines = path.read_text(encoding="latin-1").splitlines()
    hypernyms: dict[int, tuple[int, ...]] = {}
    version = ""
    for k, line in enumerate(lines, 1):
        if line.startswith(" "):
            named = re.search(r"WordNet \d+\.\d+", line)
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
        except (ValueError, IndexError):
            raise ValueError(f"line {k} of {path} is no noun synset of WordNet: data must name its {FILE}") from None
    for synset, parents in hypernyms.items():
        for one in parents:
            if one not in hypernyms:
                raise ValueError(
                    f"{path} is incomplete: n{one:08d}, a hypernym of n{synset:08d}, is not in it; {FETCH}"
                )
    return Nouns(hypernyms, f"{path}{version}")


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
