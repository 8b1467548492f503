"""Tiny models with layers that keep a state, in the form that llama.cpp can run; see `models.py`."""

from __future__ import annotations

from typing import Any

_DELTA = {"linear_value_head_dim": 8}
_TURNS = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
_FOURTH = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
HYBRIDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "lfm2": ("lfm2", {"conv_bias": False}, "lfm2"),
    "lfm2_moe": ("lfm2_moe", {"routed_scaling_factor": 1.0}, "lfm2moe"),
    "qwen3_next": ("qwen3_next", _DELTA | {"mlp_only_layers": [], "norm_topk_prob": True}, "qwen3next"),
    "qwen3_5": (
        "qwen3_5_text",
        _DELTA | {"linear_num_value_heads": 6, "layer_types": _FOURTH},
        "qwen35",
    ),
    "qwen3_5_irregular": (
        "qwen3_5_text",
        _DELTA | {"layer_types": _FOURTH[::-1], "rope_parameters": _TURNS, "tie_word_embeddings": True},
        "qwen35",
    ),
    "qwen3_5_moe": ("qwen3_5_moe_text", _DELTA | {"linear_num_key_heads": 2}, "qwen35moe"),
    "granite_hybrid": ("granitemoehybrid", {}, "granitehybrid"),
    "granite_hybrid_dense": (
        "granitemoehybrid_dense",
        {"mamba_proj_bias": False, "attention_bias": True},
        "granitehybrid",
    ),
    "granite_hybrid_no_state": (
        "granitemoehybrid_dense",
        {"layer_types": ["attention"] * 4, "intermediate_size": 20},
        "granite",
    ),
    "nemotron_h": ("nemotron_h", {"use_bias": False, "time_step_min": 1e-6}, "nemotron_h"),
    "nemotron_h_moe": (
        "nemotron_h_moe",
        {"hybrid_override_pattern": "ME*E", "time_step_min": 0.001},
        "nemotron_h_moe",
    ),
    "nemotron_h_latent": (
        "nemotron_h_latent",
        {
            "use_conv_bias": True,
            "time_step_min": 0.001,
            "norm_topk_prob": False,
            "n_group": 1,
            "topk_group": 1,
        },
        "nemotron_h_moe",
    ),
}
