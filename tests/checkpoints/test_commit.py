"""The commit protocol: what a damaged, unfinished or contested directory does."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from coterie.checkpoints import commit
from coterie.config import CheckpointError, TrainingError, temporaries
from tests.forked import Forked


def write_files(files: dict[str, bytes]):
    def write(directory: Path) -> None:
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)

    return write


def content_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 20, "train/state.json": b'{"a": 1}'}


def test_the_manifest_lists_every_file_with_size_and_hash(tmp_path):
    commit.commit_directory(tmp_path / "a", write_files({"x/y.bin": b"abc"}), {"step": 3, "parent": None})
    manifest = json.loads((tmp_path / "a" / "coterie.json").read_text())
    digest = (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, SHA-256 of "abc"
    )
    assert manifest["files"] == {"x/y.bin": [3, digest]}
    assert manifest["step"] == 3 and manifest["parent"] is None
    assert os.listdir(tmp_path) == ["a"]
    commit.verify_directory(tmp_path / "a")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_single_change_is_found_and_named(tmp_path, data):
    target = tmp_path / "step-000001"
    commit.commit_directory(target, write_files(FILES), {"step": 1})
    name = data.draw(st.sampled_from([*FILES, "coterie.json"]))
    content = bytearray((target / name).read_bytes())
    kind = data.draw(st.sampled_from(["bit", "truncate", "remove"]))
    position = data.draw(st.integers(0, len(content) - 1))
    if kind == "bit":
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    if kind == "remove":
        (target / name).unlink()
    else:
        (target / name).write_bytes(content if kind == "bit" else content[:position])
    if name == "coterie.json" and kind == "truncate" and position == len(content) - 1:
        commit.verify_directory(target)  # only the final newline is gone
        return
    with pytest.raises(CheckpointError) as caught:
        commit.verify_directory(target)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_the_quick_check_sees_sizes_of_all_files_and_samples_of_weights(tmp_path):
    weights = os.urandom(1024) * 8192  # 8 MiB, half of it in samples
    files = FILES | {"model.safetensors": weights}
    commit.commit_directory(tmp_path / "a", write_files(files))
    file, small = tmp_path / "a" / "model.safetensors", tmp_path / "a" / "config.json"
    small.write_bytes(b"[]")  # small files are for people to edit
    commit.verify_directory(tmp_path / "a", full=False)
    for start, found in (
        (0, True),
        (500 * (len(weights) // 1023), True),
        (len(weights) - 4096, True),
        (4096, False),
    ):
        file.write_bytes(weights[:start] + bytes(4096) + weights[start + 4096 :])
        if found:
            with pytest.raises(CheckpointError, match=r"samples differs\); use another copy; if you changed"):
                commit.verify_directory(tmp_path / "a", full=False)
        else:
            commit.verify_directory(tmp_path / "a", full=False)
        with pytest.raises(CheckpointError, match="SHA-256 differs"):
            commit.verify_directory(tmp_path / "a", suffix=".safetensors")
    file.write_bytes(weights[:-1])
    with pytest.raises(CheckpointError, match=f"{len(weights) - 1} bytes instead of {len(weights)}"):
        commit.verify_directory(tmp_path / "a", full=False)


@pytest.mark.parametrize("files", [None, {"../x": [1, "a"]}, {"/etc/passwd": [1, "a"]}, {"a": [1]}, {"a": 5}])
def test_a_manifest_of_nonsense_under_a_right_hash_is_refused(tmp_path, files):
    commit.commit_directory(tmp_path / "a", write_files({}))
    for change in ({"files": files}, {"sampled": {"a": 1}}, {"format": [1]}):
        manifest = {"format": 1, "files": {}, **change}
        manifest["sha256"] = commit._own_hash(manifest)
        (tmp_path / "a" / "coterie.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match=r"coterie\.json"):
            commit.verify_directory(tmp_path / "a")


def test_files_added_later_are_no_damage(tmp_path):
    commit.commit_directory(tmp_path / "a", write_files(FILES))
    (tmp_path / "a" / "README.md").write_text("notes")
    commit.verify_directory(tmp_path / "a")


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_directory_and_nothing_else(tmp_path, error):
    commit.commit_directory(tmp_path / "a", write_files(FILES))
    before = content_of(tmp_path / "a")

    def write(directory: Path) -> None:
        (directory / "half").write_bytes(b"1")
        raise error

    with pytest.raises(type(error)):
        commit.commit_directory(tmp_path / "a", write)
    assert content_of(tmp_path / "a") == before and os.listdir(tmp_path) == ["a"]


def test_a_failing_rename_brings_the_old_directory_back(tmp_path, monkeypatch):
    commit.commit_directory(tmp_path / "a", write_files({"x": b"old"}))
    rename = os.rename

    def refuse(source, target):
        if ".tmp-" in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        commit.commit_directory(tmp_path / "a", write_files({"x": b"new"}))
    assert (tmp_path / "a" / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_replacing_changes_all_files(tmp_path):
    commit.commit_directory(tmp_path / "a", write_files({"x": b"1", "gone": b"2"}))
    commit.commit_directory(tmp_path / "a", write_files({"x": b"3"}))
    assert set(content_of(tmp_path / "a")) == {"x", "coterie.json"}
    assert (tmp_path / "a" / "x").read_bytes() == b"3"


def test_reserved_and_unwritable_manifest_entries_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="files"):
        commit.commit_directory(tmp_path / "a", write_files(FILES), {"files": 1})
    with pytest.raises(ValueError):
        commit.commit_directory(tmp_path / "a", write_files(FILES), {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_all_files_get_the_permissions_of_new_files(tmp_path):
    """safetensors writes for the owner alone, so a model could not be read by the account that serves it."""
    before = os.umask(0o027)
    try:
        tensors = {"a": torch.zeros(2)}
        commit.commit_directory(
            tmp_path / "a", lambda folder: save_file(tensors, folder / "model.safetensors")
        )
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode for path in (tmp_path / "a").iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode} and len(list((tmp_path / "a").iterdir())) == 2


def test_newest_valid_falls_back_with_a_warning_for_each(tmp_path, caplog):
    assert commit.newest_valid(tmp_path / "none") is None
    for step in (5, 20, 100):
        commit.commit_directory(commit.step_path(tmp_path, step), write_files(FILES), {"step": step})
    (tmp_path / "step-000200.tmp-1").mkdir()
    assert commit.newest_valid(tmp_path) == tmp_path / "step-000100"
    assert not caplog.records
    (tmp_path / "step-000100" / "train" / "state.json").unlink()
    (tmp_path / "step-000020" / "config.json").write_bytes(b"[]")
    assert commit.newest_valid(tmp_path) == tmp_path / "step-000005"
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]
    assert "state.json" in caplog.records[0].getMessage() and "config.json" in caplog.records[1].getMessage()


def test_steps_sort_as_numbers(tmp_path):
    for step in (999_999, 1_000_000, 2):
        commit.commit_directory(commit.step_path(tmp_path, step), write_files({}))
    assert [step for step, _ in commit.step_directories(tmp_path)] == [2, 999_999, 1_000_000]


def killed(target: Path, moment: str) -> None:
    """Replace a directory in another process, which kills itself at a moment."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(directory: Path) -> None:
        (directory / "x").write_bytes(b"new" * 1000)
        if moment == "write":
            die()

    def first_then_die(a: str, b: str, rename: Any = os.rename) -> None:
        rename(a, b)
        die()

    if moment == "manifest":
        commit._write_manifest = die
    if moment == "flush":
        temporaries.flush = die
    if moment == "rename":
        os.rename = first_then_die
    commit.commit_directory(target, write)


@pytest.mark.parametrize("moment", ["write", "manifest", "flush", "rename"])
def test_a_kill_at_any_moment_leaves_a_whole_directory(tmp_path, moment):
    target = tmp_path / "model"
    commit.commit_directory(target, write_files({"x": b"old"}))
    assert Forked(killed, target, moment).wait() == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    temporaries.remove_dead(tmp_path)
    commit.verify_directory(target)
    assert (target / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["model"]


def hold(folder: Path) -> None:
    with commit.RunLock(folder):
        print("locked", flush=True)
        time.sleep(60)


def test_two_processes_never_share_a_run_and_a_killed_one_lets_go(tmp_path):
    holder = Forked(hold, tmp_path)
    assert holder.stdout.readline() == "locked\n"
    with (
        pytest.raises(TrainingError, match=f"process {holder.pid} is already running"),
        commit.RunLock(tmp_path),
    ):
        pass
    holder.kill()
    with (
        commit.RunLock(tmp_path),
        pytest.raises(TrainingError, match=str(os.getpid())),
        commit.RunLock(tmp_path),
    ):
        pass
    with commit.RunLock(tmp_path):
        pass


def test_a_really_full_disk_leaves_the_last_directory_whole(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if (
        os.geteuid() != 0
        or shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        commit.commit_directory(disk / "a", write_files({"x": b"1" * 20_000}))
        with pytest.raises(CheckpointError, match="No space left"):
            commit.commit_directory(disk / "a", write_files({"x": b"2" * 200_000}))
        assert os.listdir(disk) == ["a"]
        commit.verify_directory(disk / "a")
        assert (disk / "a" / "x").read_bytes() == b"1" * 20_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)
