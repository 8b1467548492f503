"""Layers that keep a state in an exported file: their keys, and what llama.cpp cannot run.

Each refusal was tried: without it, llama.cpp 0.3.36 answers otherwise, does not load the file, or dies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import ConfigError
from coterie.gguf.architectures import describe
from tests.gguf.models import write


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("lfm2", {"attention.head_count_kv": [0, 2, 0, 0], "shortconv.l_cache": 4}),
        ("lfm2_moe", {"leading_dense_block_count": 1, "expert_gating_func": 2, "feed_forward_length": 40}),
        (
            "qwen3_5",
            {
                "full_attention_interval": 4,
                "rope.dimension_sections": [2, 1, 1, 0],
                "rope.dimension_count": 8,
                "ssm.conv_kernel": 3,
                "ssm.state_size": 8,
                "ssm.group_count": 2,
                "ssm.time_step_rank": 6,
                "ssm.inner_size": 48,
            },
        ),
        # Where a config does not say it: pairs of a head in turn.
        (
            "qwen3_5_irregular",
            {
                "attention.recurrent_layers": [False, True, True, True],
                "rope.dimension_sections": [2, 1, 1, 0],
            },
        ),
        ("granite_hybrid", {"rope.scaling.finetuned": False, "ssm.group_count": 2, "ssm.inner_size": 64}),
        ("granite_hybrid_dense", {"rope.scaling.finetuned": True, "feed_forward_length": 20}),
        (
            "nemotron_h",
            {
                "feed_forward_length": [0, 40, 0, 40],
                "attention.head_count_kv": [0, 0, 2, 0],
                "attention.layer_norm_epsilon": 1e-4,
                "attention.layer_norm_rms_epsilon": 1e-4,
                "ssm.inner_size": 48,
                "ssm.time_step_rank": 8,
                "ssm.time_step_min": 1e-6,
                "expert_count": None,
            },
        ),
        (
            "nemotron_h_moe",
            {
                "feed_forward_length": [0, 12, 0, 12],
                "expert_feed_forward_length": 12,
                "expert_shared_feed_forward_length": 20,
                "expert_group_count": 4,
                "expert_group_used_count": 2,
                "expert_weights_scale": 1.7,
                "expert_weights_norm": True,
                "moe_latent_size": None,
                "ssm.time_step_min": None,  # that of the published models
            },
        ),
        ("nemotron_h_latent", {"moe_latent_size": 14, "expert_weights_norm": False, "ssm.group_count": 1}),
    ],
)
def test_the_keys(kind: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    found = describe(Checkpoint.open(write(kind, tmp_path / "m")).config).keys
    assert {name: found.get(name) for name in wanted} == wanted
    assert ("full_attention_interval" in found) == (kind == "qwen3_5")


_GRID = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("lfm2", {"conv_bias": True}, "'lfm2' architecture has no biases in its convolutions (conv_bias)"),
        ("lfm2", {"head_dim": 12}, "needs heads that fill the model's width (head_dim)"),
        ("lfm2_moe", {"routed_scaling_factor": 1.7}, "selects by a bias and scales no weights"),
        ("lfm2_moe", {"use_expert_bias": False}, "selects by a bias and scales no weights"),
        ("qwen3_5", {"linear_value_head_dim": 6}, "has one width for keys and values of the delta rule"),
        (
            "qwen3_5",
            {"rope_parameters": _GRID | {"mrope_section": [4, 0, 0]}},
            "turns every angle by time, height or width in turn (mrope_section)",
        ),
        ("qwen3_next", {"norm_topk_prob": False}, "always divides the chosen experts' weights by their sum"),
        ("qwen3_next", {"mlp_only_layers": [1]}, "has experts in every layer"),
        ("granite_hybrid", {"mamba_proj_bias": True}, "has no biases on Mamba's projections"),
        ("granite_hybrid", {"mamba_conv_bias": False}, "has a bias on Mamba's convolution"),
        ("granite_hybrid", {"time_step_limit": [0.3, 0.9]}, "does not limit Mamba's time steps"),
        ("granite_hybrid", {"mamba_expand": 3}, "has Mamba layers twice as wide as the model"),
        ("nemotron_h", {"hybrid_override_pattern": "-*-*"}, "needs a layer that keeps a state"),
        ("nemotron_h", {"use_bias": True}, "has no biases on Mamba's projections"),
        ("nemotron_h", {"use_conv_bias": False}, "has a bias on Mamba's convolution"),
        ("nemotron_h", {"mlp_hidden_act": "silu"}, "has no gate in the feed-forward and squares its ReLU"),
        ("nemotron_h_moe", {"mlp_hidden_act": "silu"}, "has no gate in the feed-forward and squares its"),
        ("nemotron_h_moe", {"hybrid_override_pattern": "ME*-"}, "has experts in every layer"),
    ],
)
def test_what_llama_cpp_cannot_run(kind: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = Checkpoint.open(write(kind, tmp_path / "m", **changes)).config
    with pytest.raises(ConfigError, match=re.escape(message)):
        describe(config)


def test_time_steps_without_a_limit_are_told(tmp_path: Path) -> None:
    found = describe(Checkpoint.open(write("nemotron_h_moe", tmp_path / "m")).config).differences
    assert found == (
        "llama.cpp takes Mamba's time steps as they are, the model none below 0.001 (time_step_min)",
    )


def test_the_rounding_of_lengths_is_told(tmp_path: Path) -> None:
    found = describe(Checkpoint.open(write("qwen3_5", tmp_path / "m")).config).differences
    assert len(found) == 1 and "delta rule" in found[0]
