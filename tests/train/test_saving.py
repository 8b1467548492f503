"""Checkpoints of a run: how many stay, what a full disk does, what a resume chooses."""

import errno
import json
import os
import shutil
import subprocess

import pytest
import torch

from coterie.checkpoints.commit import step_path, verify_directory
from coterie.config import CheckpointError, TrainingError
from coterie.nn.kernels import measured
from coterie.train import Callback, SaveCheckpoint, resume
from tests.train.support import load_model, make_trainer, write_model


def saving_trainer(out, steps, every=2, keep=2, **options):
    trainer = make_trainer(steps=steps)
    trainer.callbacks = [SaveCheckpoint(out, write_model(trainer.model), every, keep, **options)]
    return trainer


def steps_in(out):
    return sorted(int(path.name.removeprefix("step-")) for path in out.iterdir())


def test_the_newest_k_stay_and_the_end_is_saved(tmp_path):
    saved = []

    class Listener(Callback):
        def on_save(self, trainer, path):
            saved.append((trainer.step_count, path.name))

    trainer = saving_trainer(
        tmp_path, 7, extra=lambda trainer: {"parent": "none", "metrics": {"lr": trainer.lr}}
    )
    trainer.callbacks.append(Listener())
    trainer.run()
    assert saved == [(2, "step-000002"), (4, "step-000004"), (6, "step-000006"), (7, "step-000007")]
    assert steps_in(tmp_path) == [6, 7]
    manifest = json.loads((tmp_path / "step-000007" / "coterie.json").read_text())
    assert manifest["step"] == 7 and manifest["tokens"] == trainer.tokens
    assert manifest["parent"] == "none" and manifest["metrics"] == {"lr": 0.02}
    files = {"model.safetensors", "train/optimizer.safetensors", "train/state.json"}
    assert set(manifest["files"]) == files


def test_a_failed_save_lets_the_run_go_on_and_a_failed_last_one_ends_it(tmp_path, caplog, monkeypatch):
    trainer = saving_trainer(tmp_path, 6)
    replace_at = {4: True, 6: False}
    fsync = os.fsync

    def full(descriptor):
        if replace_at.get(trainer.step_count):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert trainer.run() == "finished"
    assert steps_in(tmp_path) == [2, 6]
    (warning,) = caplog.records
    text = warning.getMessage()
    assert "step-000004: was not written (No space left on device)" in text and "step-000002" in text
    assert text.endswith("training continues") and "\n" not in text

    out = tmp_path / "second"
    trainer = saving_trainer(out, 6)
    replace_at[6] = True
    with pytest.raises(TrainingError, match=r"step-000006.*No space left on device.*step-000002") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert steps_in(out) == [2]
    verify_directory(step_path(out, 2))


def test_free_space_is_asked_for_first(tmp_path, monkeypatch):
    trainer = saving_trainer(tmp_path, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1 << 20))
    trainer.callbacks[0].write_model = lambda directory: pytest.fail("nothing may be written")
    with pytest.raises(
        TrainingError, match="step-000002: not saved, 1 MiB are needed and 1 MiB free; make room"
    ):
        trainer.run()
    assert steps_in(tmp_path) == []


def test_a_really_full_disk(tmp_path, monkeypatch):
    """The free-space check is blinded, so that the write itself fails."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if (
        os.geteuid() != 0
        or shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9))
        trainer = saving_trainer(disk, 8)
        with pytest.raises(TrainingError, match="No space left on device"):
            trainer.run()
        kept = steps_in(disk)
        assert kept and kept[-1] < 8
        verify_directory(step_path(disk, kept[-1]))
        second = make_trainer()
        assert resume(second, disk, load_model(second.model)) == step_path(disk, kept[-1])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_resume_falls_back_to_the_newest_that_verifies(tmp_path, caplog):
    trainer = saving_trainer(tmp_path, 6, keep=3)
    trainer.run()
    file = tmp_path / "step-000006" / "train" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    second = saving_trainer(tmp_path, 6, keep=3)
    assert resume(second, tmp_path, load_model(second.model)) == step_path(tmp_path, 4)
    assert second.step_count == 4 and second.last_checkpoint == str(step_path(tmp_path, 4))
    assert any("optimizer.safetensors" in record.getMessage() for record in caplog.records)
    second.run()
    assert steps_in(tmp_path) == [2, 4, 6]
    for ours, theirs in zip(trainer.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path):
    saving_trainer(tmp_path, 2).run()
    (tmp_path / "step-000002" / "train" / "state.json").unlink()
    trainer = saving_trainer(tmp_path, 2)
    with pytest.raises(CheckpointError, match="none of its checkpoints is whole"):
        resume(trainer, tmp_path, load_model(trainer.model))
    assert steps_in(tmp_path) == [2]


def test_a_fresh_directory_is_a_fresh_start_and_a_finished_one_runs_no_step(tmp_path):
    trainer = saving_trainer(tmp_path / "new", 3)
    assert resume(trainer, tmp_path / "new", load_model(trainer.model)) is None
    trainer.run()
    again = saving_trainer(tmp_path / "new", 3)
    resume(again, tmp_path / "new", load_model(again.model))
    again.callbacks[0].write_model = lambda directory: pytest.fail("nothing is new")
    assert again.run() == "finished" and again.step_count == 3


def test_another_thread_count_is_said(tmp_path, caplog):
    saving_trainer(tmp_path, 2).run()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        trainer = make_trainer()
        resume(trainer, tmp_path, load_model(trainer.model))
    finally:
        torch.set_num_threads(threads)
    assert f"threads {threads}, now {threads + 1}" in caplog.records[-1].getMessage()


def test_products_of_the_run_are_taken_again_on_the_same_machine_only(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv(measured.VARIABLE, "torch")
    measured.forget()
    saving_trainer(tmp_path, 2).run()

    def products():
        trainer = make_trainer()
        resume(trainer, tmp_path, load_model(trainer.model))
        return measured.in_use()

    monkeypatch.delenv(measured.VARIABLE)
    measured.forget()
    assert set(products().values()) == {"torch"} and not caplog.records
    monkeypatch.setenv(measured.VARIABLE, "onednn,blocks")
    assert "torch" not in set(products().values())
    assert f"other products than {measured.VARIABLE} chooses now" in caplog.records[-1].getMessage()
    monkeypatch.setattr(measured, "machine", lambda: "a quite different one")
    measured.forget()
    assert products() is None
    assert "on another machine" in caplog.records[-1].getMessage()


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        SaveCheckpoint(tmp_path, lambda directory: None, every=1, keep=0)
