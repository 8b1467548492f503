"""Small files are read without blocking, and a file is absent only where nothing has its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coterie.config import CheckpointError
from coterie.config.files import present


def test_what_has_the_name_of_a_file_and_is_none_is_not_taken_as_absent(tmp_path: Path) -> None:
    assert not present(tmp_path / "absent", CheckpointError)
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    assert present(tmp_path / "file", CheckpointError) and present(tmp_path / "link", CheckpointError)
    (tmp_path / "half").symlink_to("blobs/missing")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("half", "a link to nothing"),
        ("round", "a link to nothing"),
        ("folder", "a directory"),
        ("pipe", "not a file"),
    ):
        with pytest.raises(CheckpointError, match=f"{name}: is {said}"):
            present(tmp_path / name, CheckpointError)
