"""States of long computations on disk: whole or refused, never lost."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["load", "previous", "save"]

_HEADER = "barrow checkpoint 1 sha256 {} bytes {:020d}\n"
_PATTERN = re.compile(rb"barrow checkpoint 1 sha256 ([0-9a-f]{64}) bytes ([0-9]{20})\n")
_LENGTH = len(_HEADER.format("0" * 64, 0))
_BEGINNING = b"barrow checkpoint 1 sha256 "
_PLAIN = (type(None), bool, int, float, str)


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state to a file so that at every moment a whole one is on the disk.

    It is written aside in the same folder, forced to the disk, and takes the name in one step; what had the name before
    is kept as :func:`previous`. A full disk, a missing permission or a kill at any moment leaves the checkpoint before
    as it was. Choose it for what cost hours; for weights to hand to others `torch.save` is the common format. Not for
    two processes at once under one name.

    Args:
        path: where to; its folder must exist.
        state: names to tensors, numbers, strings, None, and dicts, lists and tuples of them, nested at will.

    Raises:
        ValueError: something in the state could not be loaded again without running code, or the file that is there
            is no checkpoint.
        OSError: it cannot be written; the message says that nothing was lost.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.ckpt"
    >>> for step in (1, 2):
    ...     save(path, {"step": step, "weights": torch.ones(3)})
    >>> load(path)["step"], load(previous(path))["step"]
    (2, 1)

    Source: Pillai and others, "All file systems are not created equal", OSDI 2014, for the order of the writes.
    """
    path = Path(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"state is a {type(state).__name__}, but a checkpoint holds a dict of names")
    _refuse_opaque(dict(state), "state")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)  # in memory: its own writer to a file cannot survive a full disk
    content = buffer.getbuffer()
    header = _HEADER.format(hashlib.sha256(content).hexdigest(), len(content)).encode()
    aside = path.with_name(path.name + ".writing")
    try:
        keep = _may_be_replaced(path)
        try:
            with open(aside, "wb") as file:
                file.write(header)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep:
                _keep(path)
            os.replace(aside, path)
            _sync_folder(path.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        kept = f"what {path} held before is untouched" if path.exists() else "nothing is there"
        raise OSError(
            error.errno, f"the checkpoint {path} was not written ({error.strerror or error}): {kept}"
        ) from error


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the state that :func:`save` wrote, all tensors on the CPU; every bit of it has been checked.

    Only tensors and plain containers are read, so no file can run code.

    Args:
        path: of the checkpoint.

    Returns:
        The state.

    Raises:
        FileNotFoundError: there is none; the one before is named if it is there.
        ValueError: the file is cut off, damaged or something else; the one before is named.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.ckpt"
    >>> save(path, {"step": 7})
    >>> _ = path.write_bytes(path.read_bytes()[:-1])
    >>> load(path)
    Traceback (most recent call last):
    ValueError: ...run.ckpt is cut off...
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}{_before(path)}") from None
    except OSError as error:
        raise OSError(error.errno, f"the checkpoint {path} cannot be read ({error.strerror}){_before(path)}") from error
    found = _PATTERN.match(raw)
    if found is None:
        raise ValueError(f"{path} {_no_header(raw[:_LENGTH])}{_before(path)}")
    content = memoryview(raw)[_LENGTH:]
    digest, size = found[1].decode(), int(found[2])
    if len(content) < size:
        raise ValueError(f"{path} is cut off: {len(raw)} of {_LENGTH + size} bytes are there{_before(path)}")
    if len(content) > size or hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its bytes are not those that were written{_before(path)}")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def previous(path: str | os.PathLike[str]) -> Path:
    """Where the checkpoint before the last one under this name is kept.

    >>> previous("runs/gp.ckpt").name
    'gp.ckpt.previous'
    """
    path = Path(path)
    return path.with_name(path.name + ".previous")


def _refuse_opaque(value: object, where: str) -> None:
    """Refuse what `torch.load` would not read back with weights_only=True."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) not in _PLAIN:
                raise ValueError(f"{where} has the key {key!r}, but keys must be strings or numbers")
            _refuse_opaque(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for k, item in enumerate(value):  # type: ignore[arg-type]
            _refuse_opaque(item, f"{where}[{k}]")
    elif type(value) not in _PLAIN and not isinstance(value, Tensor):
        raise ValueError(
            f"{where} is a {type(value).__name__}, but a checkpoint holds tensors, numbers, strings and dicts, lists "
            "and tuples of them: store what it was made from"
        )


def _may_be_replaced(path: Path) -> bool:
    """Whether a checkpoint is there that is worth keeping; refuse to replace what is no checkpoint."""
    try:
        with open(path, "rb") as file:
            header = file.read(_LENGTH)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    found = _PATTERN.match(header)
    if found is None:
        if _no_header(header).startswith("is no"):
            raise ValueError(f"{path} is no barrow checkpoint and would be lost: choose another name, or remove it")
        return False
    return size == _LENGTH + int(found[2])  # a torn one must not push out the whole one before it


def _no_header(header: bytes) -> str:
    """What a file is that does not begin as it should."""
    if not header:
        return "is empty"
    if _BEGINNING.startswith(header[: len(_BEGINNING)]):
        return "is cut off within its first line" if len(header) < _LENGTH else "is damaged in its first line"
    return "is no barrow checkpoint: it does not begin like one"


def _keep(path: Path) -> None:
    """Give the present checkpoint a second name, so that at no moment there is none under the first."""
    aside = path.with_name(path.name + ".keeping")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a file system without links
        try:
            with open(path, "rb") as old, open(aside, "wb") as new:
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    os.replace(aside, previous(path))
    aside.unlink(missing_ok=True)  # POSIX: of two names of one file, neither goes


def _sync_folder(folder: Path) -> None:
    """Force the new names to the disk, where a folder can be forced; the content is there already."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _before(path: Path) -> str:
    """The end of a complaint: whether there is something to fall back on."""
    kept = previous(path)
    return f"; the checkpoint before it is {kept}: load that one" if kept.exists() else ""
