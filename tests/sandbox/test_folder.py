"""The folder: files are read and written in it, and no path leads out."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from coterie.sandbox.folder import Folder, FolderError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file outside it and links that lead there."""
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.txt").write_text("héllo")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (inside / "link.txt").symlink_to("../secret.txt")
    (inside / "inner-link.txt").symlink_to("a.txt")
    (inside / "out").symlink_to("../secrets")
    (inside / "self").symlink_to(".")
    return inside


def test_files(place: Path) -> None:
    folder = Folder(place)
    assert folder.names(".") == ["a.txt", "inner-link.txt", "link.txt", "out", "self", "sub/"]
    assert folder.read("./a.txt") == "héllo"
    (place / "a.txt").chmod(0o755)
    assert folder.write("a.txt", "neu\u00eb") == 5 and (place / "a.txt").read_bytes() == "neuë".encode()
    assert (place / "a.txt").stat().st_mode & 0o777 == 0o755
    folder.write("new/deep/file.txt", "x")
    assert folder.names("new/deep") == ["file.txt"] and folder.read("new/deep/file.txt") == "x"
    assert sorted(os.listdir(place)) == ["a.txt", "inner-link.txt", "link.txt", "new", "out", "self", "sub"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "/etc/passwd", "link.txt", "inner-link.txt", "out/x", "self/a.txt",
        "sub/../../secret.txt", "sub", "nothing.txt", "a.txt/x", "", ".", "a\0b", "x" * 300,
    ],
)  # fmt: skip
def test_no_way_out(path: str, place: Path) -> None:
    folder = Folder(place)
    for action in (lambda: folder.read(path), lambda: folder.write(path, "changed")):
        if path == "nothing.txt" and action is not None and action.__code__.co_consts[-1] == "changed":
            continue  # a new file may be written
        with pytest.raises(FolderError) as refused:
            action()
        assert "\n" not in str(refused.value)
    if path.startswith(("..", "/", "out", "self", "link")):
        with pytest.raises(FolderError):
            folder.names(path)
    assert (place.parent / "secret.txt").read_text() == "secret" and not os.listdir(place.parent / "secrets")
    assert (place / "a.txt").read_text() == "héllo"


def test_what_is_no_text_or_no_file(place: Path) -> None:
    folder = Folder(place, longest=10)
    (place / "long.txt").write_text("x" * 11)
    (place / "bytes.bin").write_bytes(b"\xff\xfe")
    os.mkfifo(place / "pipe")
    started = time.monotonic()
    for name in ("long.txt", "bytes.bin", "pipe"):
        with pytest.raises(FolderError, match=name):
            folder.read(name)
    assert time.monotonic() - started < 1, "a pipe without a writer is not waited for"
    for name, text in (("pipe", "x"), ("new.txt", "x" * 11)):
        with pytest.raises(FolderError):
            folder.write(name, text)
    assert not (place / "new.txt").exists()


def test_a_folder_swapped_for_a_link_leads_nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is replaced between its opening and the writing: the write lands in the folder that was
    opened.
    """
    folder, real = Folder(place), os.rename

    def swap(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(os, "rename", real)
        real(place / "sub", place / "moved")
        (place / "sub").symlink_to("../secrets")
        real(*args, **kwargs)

    monkeypatch.setattr(os, "rename", swap)
    folder.write("sub/x.txt", "text")
    assert not os.listdir(place.parent / "secrets") and (place / "moved/x.txt").read_text() == "text"
