"""Trees of WordNet's synsets: the file in its true format, and the choice of one parent drawn by hand."""

import itertools
import os
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import barrow
from barrow import Tree
from barrow.cost import wordnet
from problems import generator

HEADER = """\
  1 This software and database is being provided to you, the LICENSEE, by
  2 Princeton University under the following license.
  3 WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved.
"""


def synset(offset, hypernyms, words=("entity",), *, symbol="@", others=()):
    """A line of data.noun."""
    pointers = [(symbol, u, "n", "0000") for u in hypernyms] + list(others)
    said = " ".join(f"{w} {k:x}" for k, w in enumerate(words))
    told = " ".join(f"{s} {u:08d} {part} {ends}" for s, u, part, ends in pointers)
    return f"{offset:08d} 03 n {len(words):02x} {said} {len(pointers):03d} {told} | a | glossary; @ 00000001 n 0000  \n"


def write(path, hypernyms, header=HEADER):
    path.write_text(header + "".join(synset(v, above) for v, above in hypernyms.items()))
    return path


def name(*offsets):
    return [f"n{v:08d}" for v in offsets]


def metric(up, wanted):
    """Steps between nodes of a tree, by their ways to the root."""
    ways = []
    for v in wanted:
        way = []
        while v is not None:
            way.append(v)
            v = up[v]
        ways.append(set(way))
    return torch.tensor([[float(len(one ^ two)) for two in ways] for one in ways])


# The root 1 has the children 2 and 3; chains 2 - 4 - 6 - 7 and 3 - 5 below.
#
#   8   below 5               one path
#   9   below 7               one path
#   10  below 7 and 5         either adds one: the shorter way up is by 5
#   11  below 12, 13          12 is below 5 (adds two), 13 below 14 below 2 (adds three)
#   15  below 14 and 13       adds two by 14; three by 13
#   16  below 17 below 18     18 below 4 and 5: the same length; the smaller offset 4
DAG = {
    1: (),
    2: (1,),
    3: (1,),
    4: (2,),
    5: (3,),
    6: (4,),
    7: (6,),
    8: (5,),
    9: (7,),
    10: (7, 5),
    11: (13, 12),
    12: (5,),
    13: (14,),
    14: (2,),
    15: (13, 14),
    16: (17,),
    17: (18,),
    18: (5, 4),
    19: (),
}
BRANCHES = {
    (8, 9): {8: 5, 5: 3, 3: 1, 9: 7, 7: 6, 6: 4, 4: 2, 2: 1, 1: None},
    (8, 9, 10): {10: 5},
    (8, 9, 11): {11: 12, 12: 5},
    (8, 9, 15): {15: 14, 14: 2},
    (8, 9, 16): {16: 17, 17: 18, 18: 4},
}
for _more in list(BRANCHES)[1:]:
    BRANCHES[_more] = BRANCHES[8, 9] | BRANCHES[_more]


# -- one parent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", BRANCHES)
def test_the_choice_drawn_by_hand(wanted):
    for order in itertools.permutations(wanted):
        assert wordnet.one_parent(DAG, order) == BRANCHES[wanted]


def test_what_is_in_the_tree_already_draws_paths_to_itself():
    # Alone, 15 goes by 14. With 13 wanted, one path and so first, both its hypernyms are there: 14 is nearer the root.
    assert wordnet.one_parent(DAG, [15, 13])[15] == 14
    # 11 alone: by 12 it adds 11, 12, 5, 3, by 13 the same number 11, 13, 14, 2: the smaller offset.
    assert wordnet.one_parent(DAG, [11])[11] == 12
    # With 15 there, which adds fewer (15, 14, 2), 14 is: 13 is now one step from the tree, 12 two.
    assert wordnet.one_parent(DAG, [11, 15])[11] == 13
    assert wordnet.one_parent(DAG, [15, 11])[11] == 13
    # 10 takes whatever is there.
    assert wordnet.one_parent(DAG, [10, 9])[10] == 7
    assert wordnet.one_parent(DAG, [10, 5])[10] == 5
    # A wanted synset that is on the way of another keeps the parent chosen there.
    assert wordnet.one_parent(DAG, [16, 18, 8])[18] == wordnet.one_parent(DAG, [18, 8])[18] == 5


@given(st.integers(2, 18), st.integers(0, 10**6))
def test_the_choice_against_all_paths_listed(n, seed):
    """The rule as it reads, with every path written out."""
    draw = generator(seed)
    some = lambda k: int(torch.randint(k, (), generator=draw))  # noqa: E731
    label = [0, *(1 + torch.randperm(n - 1, generator=draw)).tolist()]  # offsets say nothing of the order
    dag = {0: ()}
    for v in range(1, n):
        dag[label[v]] = tuple(dict.fromkeys(label[some(v)] for _ in range(1 + some(2))))
    wanted = sorted({label[some(n)] for _ in range(1 + some(n))})

    def paths(v):
        return [[v, *rest] for u in dag[v] for rest in paths(u)] or [[v]]

    tree = {0: None}

    def depth(v):
        return 0 if tree[v] is None else 1 + depth(tree[v])

    def cheapest(v):
        """(synsets added, length up to the root, offsets by the way) of the best path from v to the tree."""
        best = None
        for path in paths(v):
            stop = next(k for k, u in enumerate(path) if u in tree)
            key = (stop, stop + depth(path[stop]), path[1 : stop + 1])
            best = key if best is None else min(best, key)
        return best

    def add(v):
        chain = [v, *cheapest(v)[2]]
        tree.update({v: u for v, u in itertools.pairwise(chain) if v not in tree})

    left = set(wanted)
    for v in wanted:
        if len(paths(v)) == 1:
            add(v)
            left.remove(v)
    while left:
        v = min(left, key=lambda v: (*cheapest(v)[:2], v))
        add(v)
        left.remove(v)
    assert wordnet.one_parent(dag, wanted) == tree
    assert wordnet.one_parent(dag, wanted[::-1]) == tree


# -- the tree ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [*BRANCHES, (9, 7, 2, 8), (1, 9), (7,), (1,)])
def test_distances_are_steps_in_the_chosen_tree(tmp_path, wanted):
    path = write(tmp_path / "data.noun", DAG)
    up = BRANCHES.get(wanted, BRANCHES[8, 9])
    for data in (path, str(path), tmp_path):
        for order in itertools.islice(itertools.permutations(wanted), 6):
            tree = Tree.from_wordnet(name(*order), data)
            assert torch.equal(tree.leaves, torch.arange(len(order)))
            assert torch.equal(tree.dense(), metric(up, order))
            children = torch.bincount(tree.parent[tree.parent >= 0], minlength=tree.parent.numel())
            assert not bool((children == 1).any())


@pytest.mark.parametrize("wanted", [*BRANCHES, (9, 7, 2, 8), (1, 9), (7,), (1,)])
def test_nodes_are_the_synsets_at_the_nodes(tmp_path, wanted):
    """Seen from below: the leaves under a node are the wanted synsets under its synset."""
    path = write(tmp_path / "data.noun", DAG)
    ids = name(*wanted)
    tree, nodes, up = Tree.from_wordnet(ids, path), wordnet.nodes(ids, path), wordnet.parents(ids, path)
    assert nodes[: len(ids)] == ids
    assert len(nodes) == len(tree.parent)

    def under(synset):
        return {one for one in ids if synset in way(one, up)}

    for k, synset in enumerate(nodes[len(ids) :], len(ids)):
        assert {ids[j] for j in range(len(ids)) if k in way(j, dict(enumerate(tree.parent.tolist())))} == under(synset)
        assert not any(parent == synset and under(child) == under(synset) for child, parent in up.items())
    assert torch.equal(Tree.from_parents(up, leaves=ids).dense(), tree.dense())
    assert up == {f"n{v:08d}": u and f"n{u:08d}" for v, u in wordnet.one_parent(DAG, wanted).items()}


def way(node, up):
    """From a node up to the root."""
    found = []
    while node in up:
        found.append(node)
        node = up[node]
    return found


def test_synsets_are_called_by_their_first_words(tmp_path):
    path = tmp_path / "data.noun"
    path.write_text(synset(1, [], ["entity"]) + synset(2, [1], ["house_cat", "cat"]))
    assert wordnet.words(name(2, 1), tmp_path) == {"n00000002": "house cat", "n00000001": "entity"}
    for ask in (wordnet.words, wordnet.nodes, wordnet.parents):
        with pytest.raises(ValueError, match=r"1 of the 2 ids are no noun synsets of .*, the first n00000003"):
            ask(name(1, 3), path)
        with pytest.raises(ValueError, match="ids is 'n00000001', but it must list names"):
            ask("n00000001", path)


def test_losses_on_the_tree(tmp_path):
    tree = Tree.from_wordnet(name(9, 8, 10), write(tmp_path / "data.noun", DAG))
    h, t = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0.25, 0.75])
    # From 9 up to the root five steps and down two to 5, then one to 8 and to 10.
    assert barrow.tree_emd(h, t, tree) == 8
    assert barrow.tree_emd(h, t, tree, 2) == pytest.approx(5 + 2 + 0.25**2 + 0.75**2)


def test_every_kind_of_line_is_read(tmp_path):
    # Instances have @i; w_cnt is hexadecimal; pointers of other kinds, parts and files stand between.
    words = [f"w{k}" for k in range(18)]
    others = [("~", 4, "n", "0000"), ("+", 7, "v", "0101"), ("#p", 2, "n", "0000"), ("@i", 1, "n", "0000")]
    path = tmp_path / "data.noun"
    lines = [
        synset(1, []),
        synset(2, [1], words),
        synset(3, [2], symbol="@i"),
        synset(4, [2], ["@", "001"], others=others),
    ]
    path.write_text(HEADER + "".join(lines))
    nouns = wordnet.read(path)
    assert nouns.hypernyms == {1: (), 2: (1,), 3: (2,), 4: (2, 1)}
    assert nouns.source == f"{path} (WordNet 3.0)"


def test_the_file_is_read_once_unless_it_changes(tmp_path):
    path = write(tmp_path / "data.noun", DAG)
    first = wordnet.read(path)
    assert wordnet.read(tmp_path / "." / "data.noun") is first
    write(path, {1: (), 2: (1,)})
    assert wordnet.read(path).hypernyms == {1: (), 2: (1,)}


# -- where it is looked for --------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without WordNet."""
    for variable in ("WNHOME", "WNSEARCHDIR", "NLTK_DATA", "BARROW_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(wordnet.sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(wordnet, "SHARED", tmp_path / "share")
    return tmp_path


PLACES = [
    ("WNSEARCHDIR", "set", "set/data.noun"),
    ("WNHOME", "set", "set/dict/data.noun"),
    (None, None, "share/wordnet/data.noun"),
    ("NLTK_DATA", "set", "set/corpora/wordnet/data.noun"),
    ("NLTK_DATA", "set", "set/corpora/wordnet.zip"),
    (None, None, "home/nltk_data/corpora/wordnet/data.noun"),
    (None, None, "share/nltk_data/corpora/wordnet/data.noun"),
    (None, None, "prefix/nltk_data/corpora/wordnet.zip"),
    ("BARROW_DATA", "set", "set/wordnet/data.noun"),
    ("XDG_CACHE_HOME", "set", "set/barrow/wordnet/data.noun"),
    (None, None, "home/.cache/barrow/wordnet/data.noun"),
    ("BARROW_DATA", "~/set", "home/set/wordnet/data.noun"),
]


@pytest.mark.parametrize(("variable", "value", "place"), PLACES)
def test_the_usual_places(nowhere, monkeypatch, variable, value, place):
    if variable == "NLTK_DATA":
        monkeypatch.setenv(variable, os.pathsep.join(("", str(nowhere / "empty"), str(nowhere / value))))
    elif variable:
        monkeypatch.setenv(variable, value if value.startswith("~") else str(nowhere / value))
    path = nowhere / place
    path.parent.mkdir(parents=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(write(nowhere / "data.noun", DAG), "wordnet/data.noun")
    else:
        write(path, DAG)
    assert wordnet.find(None) == path
    assert torch.equal(Tree.from_wordnet(name(8, 9)).dense(), metric(BRANCHES[8, 9], (8, 9)))
    if path.suffix == ".zip":
        assert torch.equal(Tree.from_wordnet(name(8, 9), path).dense(), metric(BRANCHES[8, 9], (8, 9)))


def test_without_the_file_the_command_that_fetches_it_is_named(nowhere):
    with pytest.raises(FileNotFoundError, match=r"data\.noun is nowhere on this machine: run `barrow data wordnet`"):
        Tree.from_wordnet(name(8, 9))
    for data in (nowhere / "data.noun", nowhere, str(nowhere / "there")):
        with pytest.raises(FileNotFoundError, match=r"does not exist: data must name .*`barrow data wordnet`"):
            Tree.from_wordnet(name(8, 9), data)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "ids is empty"),
        ("n00000008", "ids is 'n00000008', but it must list names"),
        (["dog.n.01"], "'dog.n.01' is no noun synset: ids are n and eight digits, such as n02084071"),
        (["n8"], "'n8' is no noun synset"),
        (["v00000008"], "'v00000008' is no noun synset"),
        (["n00000008\n"], "is no noun synset"),
        ([8], "8 is no noun synset"),
        ([["n00000008"]], "is no noun synset"),
        (name(8, 9, 8), "'n00000008' is listed twice"),
        (
            name(8, 77, 88),
            r"2 of the 3 ids are no noun synsets of .*data\.noun \(WordNet 3\.0\), the first n00000077: .*"
            r"of ImageNet are those of WordNet 3\.0, which `barrow data wordnet`",
        ),
        (name(8, 19), "n00000008 is under the root n00000001 but n00000019 is under the root n00000019"),
    ],
)
def test_ids_that_make_no_tree_are_refused(tmp_path, ids, words):
    write(tmp_path / "data.noun", DAG)
    with pytest.raises(ValueError, match=words):
        Tree.from_wordnet(ids, tmp_path)


def test_another_version_is_told(tmp_path):
    write(tmp_path / "data.noun", DAG, HEADER.replace("3.0", "3.1"))
    with pytest.raises(ValueError, match=r"1 of the 1 ids are no .*data.noun \(WordNet 3\.1\), the first n02084071"):
        Tree.from_wordnet(["n02084071"], tmp_path)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("parent,child\n", "line 1 of .* is no noun synset of WordNet: data must name its data.noun"),
        (HEADER + synset(1, []) + "\n", "line 5 of"),
        (HEADER + synset(1, []).replace(" n ", " v ", 1), "line 4 of"),
        (HEADER + synset(2, [1]).replace(" 001 ", " 002 "), "line 4 of"),
        (HEADER + synset(2, [1]).replace("@ 00000001 n 0000 |", "@ 00000001 |"), "line 4 of"),
        (synset(1, []) + synset(8, [7]), "is incomplete: n00000007, a hypernym of n00000008, is not in it"),
        (synset(1, []) + synset(8, [9]) + synset(9, [8]), "run in a circle"),
        (synset(8, [8]), "the hypernyms of n00000008 run in a circle"),
        (synset(1, []) + synset(2, [1, 8]) + synset(3, [2]) + synset(8, [3]), "run in a circle"),
    ],
)
def test_damaged_files_are_refused(tmp_path, lines, words):
    (tmp_path / "data.noun").write_text(lines)
    with pytest.raises(ValueError, match=words):
        Tree.from_wordnet(name(8), tmp_path)


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "wordnet.zip"
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"wordnet\.zip is no whole archive with wordnet/data\.noun: .*`barrow data"):
        Tree.from_wordnet(name(8), path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("wordnet/data.verb", "")
    with pytest.raises(ValueError, match=r"is no whole archive with wordnet/data\.noun"):
        Tree.from_wordnet(name(8), path)


def test_the_version_is_read_from_the_notice(tmp_path):
    path = write(tmp_path / "data.noun", DAG)
    assert wordnet.version(path) == "WordNet 3.0"
    assert wordnet.version(write(path, DAG, "")) == ""


# -- the real one ------------------------------------------------------------------------------------------------------


def test_the_real_file():
    try:
        path = wordnet.find(None)
    except FileNotFoundError:
        pytest.skip("WordNet is not installed")
    nouns = wordnet.read(path)
    if "3.0" not in nouns.source:
        pytest.skip("this is another version of WordNet")
    assert len(nouns.hypernyms) == 82115
    assert [v for v, above in nouns.hypernyms.items() if not above] == [1740]
    assert sum(len(above) > 1 for above in nouns.hypernyms.values()) == 2213
    assert wordnet.words(["n02084071", "n01443537"], path) == {"n02084071": "dog", "n01443537": "goldfish"}
    # Goldfish, great white shark; dog and German shepherd.
    D = Tree.from_wordnet(["n01443537", "n01484850", "n02084071", "n02106662"], path).dense()
    assert D[2, 3] == 3
    assert D[0, 1] < D[0, 2] < D[0, 3]
