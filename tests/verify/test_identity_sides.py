"""Sides that are no checkpoint: an adapter on its base, a GGUF file with the directory it was written
from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.adapters.merge import merge_checkpoint
from coterie.config import CheckpointError, CoterieError
from coterie.gguf.export import export_gguf
from coterie.verify.identity import compare, open_side
from tests.adapters.test_merge import made
from tests.gguf.models import write
from tests.verify.test_identity import verdict


def test_a_merged_model_against_its_adapter(tmp_path: Path) -> None:
    made(tmp_path)
    merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    found = verdict(tmp_path / "out", tmp_path / "adapter", tmp_path / "base")
    assert found.same and found.tolerance == 1e-4 and found.gravity is not None and found.gravity > 0.99
    assert found.tensors is None
    assert found.notes == ["tensors not compared: the change of an adapter or patch is not a whole tensor"]
    found = verdict(tmp_path / "base", tmp_path / "adapter", tmp_path / "base")
    assert not found.same and found.reasons[0].startswith("A is the base") and found.gravity == 0


def test_rounding_of_a_merge_is_allowed_for(tmp_path: Path) -> None:
    made(tmp_path, dtype="bfloat16", size=0.1)
    merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    found = verdict(tmp_path / "out", tmp_path / "adapter")
    assert found.tolerance == 0.05 and found.difference.mean_logprob > 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gguf")
    for seed in range(2):
        write("qwen3_moe", root / str(seed), seed, num_hidden_layers=2)
        export_gguf(root / str(seed), root / f"{seed}.gguf", "f32")
    return root


def test_a_gguf_file_against_its_directory(exported: Path) -> None:
    found = verdict(exported / "0", exported / "0.gguf")
    assert (
        found.same and found.difference.max_logprob == 0 and found.tolerance == 0.05 and len(found.notes) == 2
    )
    assert verdict(exported / "0.gguf", exported / "0").same
    assert not verdict(exported / "0", exported / "1.gguf").same


def test_a_gguf_file_alone_cannot_be_run(exported: Path) -> None:
    with pytest.raises(CoterieError, match="one of the two must be a checkpoint directory"):
        verdict(exported / "0.gguf", exported / "1.gguf")
    with pytest.raises(CheckpointError, match=r"none\.gguf: no such file"):
        compare(open_side(str(exported / "0")), open_side(str(exported / "none.gguf")))
