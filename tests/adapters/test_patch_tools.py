"""Operations on patch directories: applied and removed again, described, compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coterie.adapters.patch import attach_subset, save_patch
from coterie.adapters.patch_tools import (
    apply_to_checkpoint,
    diff_patches,
    inspect_patch,
    remove_from_checkpoint,
)
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.config import CheckpointError
from tests.adapters.test_attach import built, logits
from tests.adapters.test_patch import disturb, selection


def made(directory: Path) -> torch.Tensor:
    """A base and two patches of it, `one` and `two`; the answers of the base with `one`."""
    save_model(directory / "base", built("qwen3_moe"), extra={"recipe": "test"})
    for seed, name in enumerate(("two", "one")):
        model = Checkpoint.open(directory / "base").load().model
        attach_subset(model, selection("qwen3_moe"))
        disturb(model, seed)
        save_patch(directory / name, model, directory / "base")
    return logits(model)


def test_apply_and_remove(tmp_path: Path) -> None:
    tuned = made(tmp_path)
    base = Checkpoint.open(tmp_path / "base")
    replaced = apply_to_checkpoint(base, [tmp_path / "one"], tmp_path / "applied")
    applied = Checkpoint.open(tmp_path / "applied")
    assert replaced == inspect_patch(tmp_path / "one").parameters
    torch.testing.assert_close(logits(applied.load().model), tuned, rtol=1e-5, atol=1e-5)
    assert applied.manifest["recipe"] == "test" and applied.manifest["parent"] == str(tmp_path / "base")
    assert remove_from_checkpoint(applied, tmp_path / "one", base, tmp_path / "restored") == replaced
    assert torch.equal(logits(Checkpoint.open(tmp_path / "restored").load().model), logits(base.load().model))
    with pytest.raises(CheckpointError, match="does not hold the patch's values"):
        remove_from_checkpoint(base, tmp_path / "one", base, tmp_path / "again")


def test_inspect_and_diff(tmp_path: Path) -> None:
    made(tmp_path)
    facts = inspect_patch(tmp_path / "one")
    assert facts.experts == {0: (1, 4), 3: (0,)} and facts.whole == () and facts.bytes > 4 * facts.parameters
    assert facts.to_dict()["experts"] == {"0": [1, 4], "3": [0]} and "whole" not in facts.to_dict()
    same, other = (diff_patches(tmp_path / "one", tmp_path / name) for name in ("one", "two"))
    assert same.total == 0 and same.only_in_a == () and other.total > 0.1
    moved = diff_patches(tmp_path / "one", tmp_path / "base")
    assert moved.only_in_a is None and "only_in_a" not in moved.to_dict()
    assert len(moved.distance) == 6 and min(moved.distance.values()) > 0.1
