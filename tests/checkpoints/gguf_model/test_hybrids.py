"""Which layers keep a state, as a file's keys say it, and one line for what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import AttentionConfig, CoterieError
from coterie.config.mixers import Mamba2Config
from tests.checkpoints.gguf_model.conftest import Exported
from tests.gguf.rewritten import Arrays, rewrite


def _attending(path: Path) -> list[int]:
    blocks = Checkpoint.open(path).config.blocks
    return [index for index, block in enumerate(blocks) if isinstance(block.attention, AttentionConfig)]


def test_every_nth_layer_attends_unless_each_is_stated(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("qwen3_5")
    silent = rewrite(file, tmp_path / "a.gguf", {"qwen35.full_attention_interval": None})
    assert _attending(file) == _attending(silent) == [3]
    every = rewrite(file, tmp_path / "b.gguf", {"qwen35.full_attention_interval": 2})
    assert _attending(every) == [1, 3]
    states = {"qwen35.attention.recurrent_layers": [False, True, True, False]}
    assert _attending(rewrite(file, tmp_path / "c.gguf", states)) == [0, 3]


def test_positions_are_switched_off_by_a_key(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("granite_hybrid_dense")
    off = rewrite(file, tmp_path / "m.gguf", {"granitehybrid.rope.scaling.finetuned": False})
    on, none = (Checkpoint.open(path).config.attentions[0] for path in (file, off))
    assert on.rope is not None and none.rope is None


def test_files_of_other_converters_state_less(exported: Exported, tmp_path: Path) -> None:
    """Time steps are then limited as in the published models, weights as llama.cpp takes them."""
    names = (
        "expert_weights_norm",
        "expert_weights_scale",
        "expert_feed_forward_length",
        "expert_gating_func",
    )
    names += ("expert_group_count", "expert_group_used_count", "attention.layer_norm_epsilon")
    keys: dict[str, Any] = {f"nemotron_h_moe.{name}": None for name in names}
    keys |= {"nemotron_h_moe.rope.scaling.finetuned": False, "nemotron_h_moe.rope.dimension_count": None}
    config = Checkpoint.open(rewrite(exported("nemotron_h_moe")[1], tmp_path / "m.gguf", keys)).config
    mixer, moe = config.blocks[0].attention, config.first_moe
    assert isinstance(mixer, Mamba2Config) and mixer.step_low == 0.001 and config.norm_eps == 1e-4
    assert moe is not None and (moe.expert_width, moe.router.renormalize, moe.router.scale) == (12, False, 1)
    assert (moe.router.num_groups, moe.router.top_groups) == (1, 1)


def test_layers_that_predict_further_tokens_are_left_out(exported: Exported, tmp_path: Path) -> None:
    """The last layer of such files holds attention and experts, and the lists by layer count it."""
    keys: dict[str, Any] = {"nemotron_h_moe.block_count": 5, "nemotron_h_moe.nextn_predict_layers": 1}
    keys["nemotron_h_moe.attention.head_count_kv"] = [0, 0, 2, 0, 2]
    keys["nemotron_h_moe.feed_forward_length"] = [0, 12, 0, 12, 12]
    _, plain = exported("nemotron_h_moe")

    def extend(tensors: Arrays) -> None:
        tensors["blk.4.nextn.enorm.weight"] = np.ones(32, np.float32)

    further = Checkpoint.open(rewrite(plain, tmp_path / "m.gguf", keys, change=extend))
    assert further.config == Checkpoint.open(plain).config
    assert further.load().model is not None


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("lfm2", {"lfm2.shortconv.l_cache": None}, "has no key 'lfm2.shortconv.l_cache'"),
        (
            "lfm2",
            {"lfm2.attention.head_count_kv": [0, 2, 1, 0]},
            "'lfm2.attention.head_count_kv' is [0, 2, 1, 0]; one number for all layers with attention, and 0",
        ),
        ("lfm2", {"lfm2.attention.head_count_kv": 2}, "'layer_types' needs 4 entries"),
        ("lfm2_moe", {"lfm2moe.expert_gating_func": 1}, "'lfm2moe.expert_gating_func' is 1; 2 can be read"),
        ("lfm2_moe", {"lfm2moe.expert_weights_scale": 1.7}, "'lfm2moe.expert_weights_scale' is 1.7"),
        ("qwen3_5", {"qwen35.ssm.group_count": None}, "has no key 'qwen35.ssm.group_count'"),
        ("qwen3_5", {"qwen35.ssm.time_step_rank": 0}, "a key of this 'qwen35' model cannot be used"),
        ("qwen3_5", {"qwen35.ssm.inner_size": 60}, "'blk.0.ssm_conv1d.weight' has shape (80, 3)"),
        ("granite_hybrid", {"granitehybrid.attention.scale": None}, "no key 'granitehybrid.attention.scale'"),
        (
            "granite_hybrid",
            {"granitehybrid.ssm.state_size": 7},
            "'blk.0.ssm_conv1d.weight' has shape (88",
        ),
        ("nemotron_h", {"nemotron_h.feed_forward_length": [0, 40, 0, 41]}, "one number for all dense layers"),
        (
            "nemotron_h",
            {"nemotron_h.feed_forward_length": [0, 40]},
            "'nemotron_h.feed_forward_length' is [0,",
        ),
        ("nemotron_h", {"nemotron_h.attention.head_count_kv": 0}, "one number for all layers with attention"),
        ("nemotron_h", {"nemotron_h.attention.head_count_kv": [0, 0, 3, 0]}, "num_kv_heads"),
        ("nemotron_h", {"nemotron_h.attention.layer_norm_epsilon": 0.5}, "which must be equal in this"),
        ("nemotron_h", {"nemotron_h.ssm.inner_size": 49}, "inner_size' is 49; a multiple of 8 heads can be"),
        (
            "nemotron_h",
            {"nemotron_h.ssm.time_step_min": -1.0, "nemotron_h.rope.dimension_count": 4},
            "step_low",
        ),
        (
            "nemotron_h_moe",
            {"nemotron_h_moe.expert_gating_func": 1},
            "expert_gating_func' is 1; 2 can be read",
        ),
        ("nemotron_h_moe", {"nemotron_h_moe.expert_shared_count": 2}, "expert_shared_count' is 2; 1 can be"),
        ("nemotron_h_moe", {"nemotron_h_moe.expert_group_used_count": None}, "expert_group_used_count'"),
        ("nemotron_h_latent", {"nemotron_h_moe.moe_latent_size": 15}, "'blk.0.ffn_"),
    ],
)
def test_what_cannot_be_read(
    kind: str, keys: dict[str, Any], message: str, exported: Exported, tmp_path: Path
) -> None:
    file = rewrite(exported(kind)[1], tmp_path / "m.gguf", keys)
    with pytest.raises(CoterieError, match=re.escape(message)) as error:
        Checkpoint.open(file).load()
    assert "\n" not in str(error.value)
