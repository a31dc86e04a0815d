"""Archives in the true formats, made of a few bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping

Files = Mapping[str, bytes]


def tar(files: Files, how: str = "gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=f"w:{how}") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def wheel(files: Files) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def debian(files: Files, how: str = "xz") -> bytes:
    """An ``ar`` of a version, control data and what is installed, each of which begins at an even place."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": b"odd",
        f"data.tar.{how}": tar({f"./{name}": content for name, content in files.items()}, how),
    }
    made = b"!<arch>\n"
    for name, content in parts.items():
        made += f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(content):<10}`\n".encode()
        made += content + b"\n" * (len(content) % 2)
    return made
