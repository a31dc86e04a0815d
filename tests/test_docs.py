"""What the documentation shows is what happens: docstrings, the README and docs/ are run."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import barrow

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = {name: getattr(barrow, name) for name in barrow.__all__}
PAGES = sorted(
    p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")) if p.exists()
)
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def modules():
    """barrow and all of its modules, but not the program that runs when one is executed."""
    found = [
        info.name for info in pkgutil.walk_packages(barrow.__path__, "barrow.") if not info.name.endswith("__main__")
    ]
    absent = ["barrow._core"]
    if importlib.util.find_spec("triton") is None:
        absent += [name for name in found if name.startswith("barrow.ops.triton.")]
    return [barrow] + [importlib.import_module(name) for name in found if name not in absent]


# -- docstrings --------------------------------------------------------------------------------------------------------


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in modules():
        globs = {**PUBLIC, "torch": torch, "barrow": barrow, **vars(module)}
        for test in finder.find(module, globs=globs):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(examples()))
def test_docstring(test):
    said = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=said.append, clear_globs=False)
    assert runner.failures == 0, "".join(said)


def test_a_wrong_example_fails():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(wrong, out=lambda _: None)
    assert runner.failures == 1


def undocumented(thing, name):
    """Names of public parts of ``thing`` without a docstring, their own or that of the method they implement."""
    if not inspect.getdoc(thing):
        yield name
    if inspect.isclass(thing) and thing.__module__.startswith("barrow"):
        for key, member in vars(thing).items():
            callable_part = inspect.isfunction(member) or isinstance(member, property | staticmethod | classmethod)
            if not key.startswith("_") and callable_part and not inspect.getdoc(getattr(thing, key)):
                yield f"{name}.{key}"


def test_the_whole_api_is_documented():
    public = [(thing, f"barrow.{name}") for name, thing in PUBLIC.items()]
    public += [(getattr(barrow.nn, name), f"barrow.nn.{name}") for name in barrow.nn.__all__]
    assert [name for thing, part in public for name in undocumented(thing, part)] == []
    for module in modules():
        own = (v for k, v in vars(module).items() if not k.startswith("_") and inspect.isroutine(v))
        bare = [f.__name__ for f in own if f.__module__ == module.__name__ and not f.__doc__]
        assert bare == [], module.__name__
        assert module.__doc__ or module.__name__ == "barrow.__main__", module.__name__


def test_a_missing_docstring_is_seen():
    class Silent:
        """Spoken."""

        def quiet(self):
            return None

        def loud(self):
            """Spoken."""

    Silent.__module__ = "barrow.silent"
    assert list(undocumented(Silent, "Silent")) == ["Silent.quiet"]


def quantities():
    module = importlib.import_module("barrow.functional")
    found = [f for f in (getattr(module, name) for name in module.__all__) if inspect.isfunction(f)]
    assert len(found) >= 10
    return found


@pytest.mark.parametrize("quantity", quantities(), ids=lambda f: f.__name__)
def test_quantities_have_an_example_a_source_and_a_public_name(quantity):
    assert ">>> " in quantity.__doc__
    assert re.search(r"^ *Source: \S", quantity.__doc__, re.MULTILINE)
    assert PUBLIC[quantity.__name__] is quantity


@pytest.mark.parametrize("name", barrow.__all__)
def test_every_public_name_exists_once(name):
    assert hasattr(barrow, name)
    assert barrow.__all__.count(name) == 1


# -- pages -------------------------------------------------------------------------------------------------------------


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_on_pages_runs(page, tmp_path, monkeypatch):
    """In order and in one namespace, as a reader would type it; ``>>>`` sessions also print what they show."""
    code = blocks(page, "python") + blocks(page, "pycon")
    if not code:
        pytest.skip("no python on this page")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__", "torch": torch, "barrow": barrow}
    for number, block in enumerate(code):
        name = f"{page.name}, block {number}"
        if block.lstrip().startswith(">>>"):
            session, said = doctest.DocTestParser().get_doctest(block, namespace, name, str(page), 0), []
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(session, out=said.append, clear_globs=False)
            assert runner.failures == 0, "".join(said)
            namespace.update(session.globs)
        else:
            exec(compile(block, name, "exec"), namespace)


def commands() -> set[str]:
    from typer.main import get_command

    return set(get_command(importlib.import_module("barrow.cli").app).commands)


def called(page: Path) -> list[str]:
    """The words after ``$ barrow`` in console blocks."""
    return [word for block in blocks(page, "console") for word in re.findall(r"^\$ barrow (\S+)", block, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_on_pages_exist(page):
    words = {word for word in called(page) if not word.startswith("-")}
    if not words:
        pytest.skip("no commands on this page")
    assert words <= commands()


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n```python\nx = 1\n```\n```console\n$ barrow distance a b\nout\n$ barrow nonsense\n```\n")
    assert blocks(page, "python") == ["x = 1\n"]
    assert called(page) == ["distance", "nonsense"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
