"""Files come out of every kind of archive as they went in, and damage is said in a sentence."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from barrow.studies.data.archives import members
from packing import debian, tar, wheel

FILES = {"package/a.txt": b"first", "package/deep/b.bin": bytes(range(256)) * 300, "package/other": b"not wanted"}
WANTED = ["package/deep/b.bin", "package/a.txt"]
MAKERS: dict[str, Callable[[], bytes]] = {
    "wheel": lambda: wheel(FILES),
    "tar": lambda: tar(FILES, ""),
    "tar.gz": lambda: tar(FILES, "gz"),
    "tar.bz2": lambda: tar(FILES, "bz2"),
    "deb, xz": lambda: debian(FILES, "xz"),
    "deb, gz": lambda: debian(FILES, "gz"),
}


@pytest.mark.parametrize("how", MAKERS)
def test_every_archive_gives_what_was_put_in(how: str, tmp_path: Path) -> None:
    made = MAKERS[how]()
    path = tmp_path / "archive"
    path.write_bytes(made)
    for archive in (made, path):
        assert members(archive, WANTED) == {name: FILES[name] for name in WANTED}
    assert members(made, []) == {}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")
def test_a_package_of_debians_own_tool_is_read(tmp_path: Path) -> None:
    (tmp_path / "it/DEBIAN").mkdir(parents=True)
    (tmp_path / "it/DEBIAN/control").write_text(
        "Package: some\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    )
    (tmp_path / "it/usr").mkdir()
    (tmp_path / "it/usr/words").write_bytes(b"earth\n")
    subprocess.run(
        ["dpkg-deb", "-Zxz", "--build", tmp_path / "it", tmp_path / "it.deb"], check=True, capture_output=True
    )
    assert members(tmp_path / "it.deb", ["usr/words"]) == {"usr/words": b"earth\n"}


@pytest.mark.parametrize("how", MAKERS)
def test_what_an_archive_lacks_is_named(how: str) -> None:
    with pytest.raises(ValueError, match=r"^it lacks package/none$"):
        members(MAKERS[how](), ["package/a.txt", "package/none"])
    with pytest.raises(ValueError, match=r"^it lacks x and 1 more$"):
        members(MAKERS[how](), ["x", "package/a.txt", "y"])


@pytest.mark.parametrize("how", MAKERS)
def test_an_archive_that_is_cut_short_is_refused(how: str) -> None:
    made = MAKERS[how]()
    # A tar without compression has nothing but its size to tell that it ends too early.
    kept = 1000 if how == "tar" else len(made) // 2
    with pytest.raises(ValueError, match=r"^it (is no whole archive|lacks)"):
        members(made[:kept], WANTED)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"!<arch>\n", b"!<arch>\n" + b" " * 60, b"plain text"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is no whole archive"):
        members(content, WANTED)


def test_links_and_folders_are_not_taken_for_files() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    for name in ("folder", "link"):
        with pytest.raises(ValueError, match=f"lacks {name}"):
            members(made.getvalue(), [name])
