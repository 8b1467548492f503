"""Temporaries: what is not renamed goes, what killed writers left goes, what a live one writes stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.config import ConfigError
from coterie.config.files import write_text
from coterie.config.temporaries import remove_dead, remove_tree, replace_with, temporary

WRITER = """
import os, signal, sys, time
from pathlib import Path
from coterie.config.temporaries import temporary
final, directory = Path(sys.argv[1]), sys.argv[2] == "directory"
with temporary(final, directory) as part:
    (part / "x" if directory else part).write_text("half")
    print(part.name, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_alive(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "notes.tmp-1"  # not a name of ours
    mine.mkdir()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a"), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        name = writer.stdout.readline().strip()
        write_text(tmp_path / "b", "whole")
        assert sorted(os.listdir(tmp_path)) == sorted([name, "b", "notes.tmp-1"])
        writer.send_signal(signal.SIGKILL)
    write_text(tmp_path / "c", "whole")
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "notes.tmp-1"]


def test_a_directory_that_was_set_aside_returns_unless_its_replacement_came(tmp_path: Path) -> None:
    for name in ("a.old-1-00000001", "b.old-1-00000002", "b", "c.old-1-00000003", "c.tmp-1-00000003"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    remove_dead(tmp_path)
    assert {path.name: (path / "file").read_text() for path in tmp_path.iterdir()} == {
        "a": "a.old-1-00000001",
        "b": "b",
        "c": "c.old-1-00000003",
    }


def test_a_directory_set_aside_by_a_live_writer_stays(tmp_path: Path) -> None:
    with temporary(tmp_path / "a", directory=True) as part:
        aside = tmp_path / part.name.replace(".tmp-", ".old-")
        aside.mkdir()
        remove_dead(tmp_path)
        assert aside.is_dir() and part.is_dir()
    remove_dead(tmp_path)
    assert os.listdir(tmp_path) == ["a"]  # the writer ended without a result, so what was there returned


def test_what_the_system_refuses_is_said_of_the_final_place(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "none" / "a", "x")
    assert caught.value.filename == str(tmp_path / "none" / "a")
    with pytest.raises(OSError) as caught, temporary(tmp_path / "a", directory=True) as part:
        (part / "b" / "c").write_text("x")
    assert caught.value.filename == str(tmp_path / "a" / "b" / "c")


@pytest.mark.parametrize("directory", [False, True])
def test_what_is_not_renamed_goes_and_errors_name_the_final_place(tmp_path: Path, directory: bool) -> None:
    with pytest.raises(ConfigError) as caught, temporary(tmp_path / "a", directory) as part:
        raise ConfigError(f"{part}: is wrong")
    assert str(caught.value) == f"{tmp_path / 'a'}: is wrong" and os.listdir(tmp_path) == []


def test_replace_with_replaces_files_and_directories_whole(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with temporary(tmp_path / "d" / "a", directory=True) as part:
            (part / content).write_text(content)
            replace_with(part, tmp_path / "d" / "a")
        write_text(tmp_path / "f", content)
    assert [path.name for path in (tmp_path / "d" / "a").iterdir()] == ["2"]
    assert (tmp_path / "f").read_text() == "2"
    assert sorted(os.listdir(tmp_path)) == ["d", "f"] and os.listdir(tmp_path / "d") == ["a"]
    remove_tree(tmp_path / "d" / "a")
    assert os.listdir(tmp_path / "d") == []


def test_a_file_gets_the_permissions_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
