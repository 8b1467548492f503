"""Runs on small and on read-only disks: one line, no temporary, and only whole checkpoints and results."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.commit import MANIFEST, verify_directory
from coterie.config import CoterieError
from coterie.config.run import TrainConfig
from coterie.recipes.pretrain import pretrain
from tests.recipes.test_damaged_runs import run_of
from tests.recipes.tuned import base, conversations, tuned

SIZES = (16, 64, 128, 512, 1300, 1700, 2200, 3000, 8000)  # KiB


def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:  # lazily: prepared text stays mapped until its reader is collected
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Path], Any]]:
    """What is run, by name, each into the directory that it gets."""
    place = tmp_path_factory.mktemp("disk")
    (place / "text").mkdir()
    for index in range(12):
        words = [f"w{(index * 31 + at * at) % 89}" for at in range(80)]
        (place / "text" / f"{index}.txt").write_text(" ".join(words))
    pretrain(run_of(place / "start", place / "text"))
    conversations(place / "data.jsonl")
    further = run_of(place, place / "text").to_dict() | {
        "model": {"from": str(place / "start/model")},
        "optimiser": {"lr": 0.5},  # the first evaluation is the best, so its weights are kept apart
        "schedule": {"kind": "constant", "warmup_fraction": 1.0},
        "retention": str(place / "text"),
    }
    return {
        "train": lambda out: pretrain(run_of(out, place / "text")),
        "further": lambda out: pretrain(TrainConfig.from_dict(further | {"out": str(out)})),
        "tune": lambda out: tuned(base(place, "llama"), place / "data.jsonl", out, steps=4, save_every=2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "further", "tune"])
def test_a_full_disk_leaves_whole_files_and_one_line(
    name: str, jobs: dict[str, Callable[[Path], Any]], tmp_path: Path
) -> None:
    ends = []
    for size in SIZES:
        for _ in mounted(tmp_path / "small", f"size={size}k"):
            try:
                jobs[name](tmp_path / "small/run")
                ends.append(True)
            except CoterieError as error:
                said = str(error)
                assert "\n" not in said and ("space" in said or "room" in said) and "small/run" in said
                ends.append(False)
            assert not [*(tmp_path / "small").rglob("*.tmp*"), *(tmp_path / "small").rglob("*.old-*")]
            for manifest in (tmp_path / "small").rglob(MANIFEST):
                verify_directory(manifest.parent)
    assert ends == sorted(ends) and ends[0] is False and ends[-1] is True


@pytest.mark.parametrize("name", ["train", "tune"])
def test_a_read_only_disk_is_one_line(
    name: str, jobs: dict[str, Callable[[Path], Any]], tmp_path: Path
) -> None:
    for _ in mounted(tmp_path / "small", "ro,size=64k"):
        with pytest.raises(CoterieError, match=r"run: cannot be written \(Read-only file system\)"):
            jobs[name](tmp_path / "small/run")
