"""Files out of archives, by the standard library: wheels and zips, tars however compressed, Debian packages."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

DEBIAN = b"!<arch>\n"
#: What the standard library raises where an archive is damaged or is none.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError, NotImplementedError)


def members(archive: Path | bytes, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of the files at the paths ``wanted``, read in one pass; directories and links are never followed.

    Raises:
        ValueError: it is no archive, or lacks one of them.
        OSError: it cannot be opened.

    >>> import io, zipfile
    >>> file = io.BytesIO()
    >>> with zipfile.ZipFile(file, "w") as z:
    ...     z.writestr("package/words.txt", "earth mover")
    >>> members(file.getvalue(), ["package/words.txt"])
    {'package/words.txt': b'earth mover'}
    """
    found: dict[str, bytes] = {}
    try:
        with io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb") as file:
            for name, content in _entries(file, wanted):
                found[name] = content
                if len(found) == len(wanted):
                    break
    except DAMAGE as error:
        raise ValueError(f"it is no whole archive ({str(error).rstrip('.') or type(error).__name__})") from error
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"it lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    return found


def _entries(file: IO[bytes], wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    magic = file.read(len(DEBIAN))
    file.seek(0)
    if magic == DEBIAN:
        yield from _from_tar(_debian_data(file), wanted)
    elif magic[:2] == b"PK":
        with zipfile.ZipFile(file) as z:
            present = set(z.namelist())
            yield from ((name, z.read(name)) for name in wanted if name in present)
    else:
        yield from _from_tar(file, wanted)


def _from_tar(file: IO[bytes], wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file) as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            if entry.isfile() and name in wanted:
                content = tar.extractfile(entry)
                assert content is not None
                yield name, content.read()


def _debian_data(file: IO[bytes]) -> IO[bytes]:
    """A Debian package is an ``ar`` of three files; ``data.tar.*`` is what would be installed."""
    file.seek(len(DEBIAN))
    while len(header := file.read(60)) == 60:
        size = int(header[48:58])
        if header[:16].decode("ascii").startswith("data.tar"):
            content = file.read(size)
            if len(content) != size:
                raise EOFError(f"its data end after {len(content)} of {size} bytes")
            return io.BytesIO(content)
        file.seek(size + size % 2, io.SEEK_CUR)  # files begin at even places
    raise EOFError("it has no data.tar")
