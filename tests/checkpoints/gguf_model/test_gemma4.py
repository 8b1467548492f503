"""Gemma 4 in GGUF: what other files hold or leave out, and one line for what cannot be read or written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from tests.checkpoints.gguf_model.conftest import Exported
from tests.checkpoints.gguf_model.test_source import logits
from tests.gguf.rewritten import rewrite


def test_a_file_with_projections_that_no_layer_uses_and_experts_in_two_tensors(
    exported: Exported, tmp_path: Path
) -> None:
    def others(tensors: dict[str, Any]) -> None:
        for layer in (4, 5, 6):
            for part in ("attn_k", "attn_v", "attn_k_norm"):
                tensors[f"blk.{layer}.{part}.weight"] = tensors["blk.1.attn_k.weight"]

    def apart(tensors: dict[str, Any]) -> None:
        for layer in range(5):
            both = tensors.pop(f"blk.{layer}.ffn_gate_up_exps.weight")
            for part, rows in zip(("gate", "up"), np.split(both, 2, axis=1), strict=True):
                tensors[f"blk.{layer}.ffn_{part}_exps.weight"] = np.ascontiguousarray(rows)

    for kind, change in (("gemma4", others), ("gemma4_moe", apart)):
        file = exported(kind)[1]
        again = rewrite(file, tmp_path / f"{kind}.gguf", change=change)
        assert torch.equal(
            logits(Checkpoint.open(again).load().model), logits(Checkpoint.open(file).load().model)
        )


def test_a_file_without_a_cap_has_that_of_llama_cpp(exported: Exported, tmp_path: Path) -> None:
    """0 is none; where the key is missing, llama.cpp takes 30, for Gemma 2 also 50 for scores."""
    for kind, key, cap in (
        ("gemma4_keys_as_values", "gemma4.final_logit_softcapping", 30.0),
        ("gemma2", "gemma2.final_logit_softcapping", 30.0),
        ("gemma2", "gemma2.attn_logit_softcapping", 50.0),
    ):
        file = exported(kind)[1]
        config = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", {key: None})).config
        attention = config.blocks[0].attention
        found = config.logit_cap if "final" in key else getattr(attention, "score_cap", None)
        assert found == cap, key
    assert Checkpoint.open(exported("gemma4_keys_as_values")[1]).config.logit_cap is None


@pytest.mark.parametrize(
    ("kind", "keys", "change", "message"),
    [
        ("gemma4", {"gemma4.attention.value_length": 8}, None, "value_length' is 8; 16 can be read here"),
        ("gemma4", {"gemma4.rope.dimension_count_swa": 4}, None, "dimension_count_swa' is 4; 8 can be read"),
        ("gemma4", {"gemma4.feed_forward_length": [40] * 6 + [60]}, None, "one width, or twice it in layers"),
        (
            "gemma4",
            {"gemma4.attention.head_count_kv": [2] * 6 + [1]},
            None,
            "one number for each kind of layer",
        ),
        ("gemma4_moe", {"gemma4.expert_gating_func": 2}, None, "expert_gating_func' is 2; 1 can be read"),
        ("gemma4_moe", {"gemma4.rope.scaling.type": "linear"}, None, "scaling.type' is linear; none can be"),
        (
            "gemma4",
            {},
            lambda tensors: tensors.pop("rope_freqs.weight"),
            "'rope_freqs.weight' does not say which pairs of a head rotate",
        ),
        (
            "gemma4",
            {},
            lambda tensors: tensors.pop("blk.1.attn_v.weight"),
            "the tensor 'blk.1.attn_v.weight' is missing; other full layers have one",
        ),
    ],
)
def test_what_cannot_be_read(
    kind: str, keys: dict[str, Any], change: Any, message: str, exported: Exported, tmp_path: Path
) -> None:
    file = rewrite(exported(kind)[1], tmp_path / "m.gguf", keys, change)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        Checkpoint.open(file).load()
    assert "\n" not in str(caught.value)
