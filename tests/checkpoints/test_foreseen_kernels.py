"""What `inspect` says that decoding runs on is what a loaded model's decoding runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import coterie
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.foreseen_kernels import foreseen_kernels
from coterie.config import Precision
from coterie.native import choice
from coterie.native.choice import describe, plan_for
from coterie.recipes.quantise import quantise_checkpoint
from tests.proof.test_records import make


@pytest.mark.parametrize("codes", [None, "attention=int8,block=32"])
def test_as_the_loaded_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: str | None) -> None:
    monkeypatch.setattr(choice, "SMALL", 0)
    wide = make(hidden_size=32, head_dim=16, num_attention_heads=2)
    save_model(tmp_path / "plain", wide, dtype="bfloat16")
    path = tmp_path / "plain"
    if codes is not None:
        path = tmp_path / "codes"
        quantise_checkpoint(tmp_path / "plain", path, Precision.parse(codes), outputs=False)
    checkpoint = Checkpoint.open(path, weights=False)
    said = foreseen_kernels(checkpoint.config, checkpoint)
    assert said.startswith("native (") and ("int8" in said) == (codes is not None)
    loaded = coterie.load(path, dtype="auto", quant="stored", device="cpu")
    assert describe(plan_for(loaded.model)) == said


def test_weights_that_cannot_be_read_leave_the_config(tmp_path: Path) -> None:
    save_model(tmp_path, make(), dtype="float32")
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    checkpoint = Checkpoint.open(tmp_path, weights=False)
    size = sum(tensor.numel() for tensor in (*make().parameters(), *make().buffers()))
    assert foreseen_kernels(checkpoint.config, checkpoint) == f"torch: the model is small ({size:,} numbers)"


def test_a_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "SMALL", 0)
    model = make()
    assert choice.foreseen(model) == "native (f32)"
    assert choice.foreseen(model, "cuda") == "torch: the model is on cuda"
    model.blocks[0].attention = torch.nn.Identity()
    assert choice.foreseen(model) == "torch: the native step does not know layers of kind Identity"
