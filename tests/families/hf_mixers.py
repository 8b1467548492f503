"""Configs of `hf.py` for families with recurrent mixers."""

from __future__ import annotations

from typing import Any

_DELTA = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}
_DELTA_MOE = _DELTA | {
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_next": _DELTA_MOE
    | {
        "model_type": "qwen3_next",
        "intermediate_size": 40,
        "norm_topk_prob": False,
        "mlp_only_layers": [1],
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
    },
    "qwen3_5_text": _DELTA
    | {
        "model_type": "qwen3_5_text",
        "intermediate_size": 48,
        "linear_conv_kernel_dim": 3,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 300.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    },
    "qwen3_5_moe_text": _DELTA_MOE
    | {
        "model_type": "qwen3_5_moe_text",
        "linear_num_key_heads": 4,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [1, 1, 0]},
    },
}
CONFIGS |= {
    "lfm2": {
        "model_type": "lfm2",
        "intermediate_size": 50,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.2,
        "conv_bias": True,
        "conv_L_cache": 4,
        "layer_types": ["conv", "full_attention", "conv", "conv"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "lfm2_moe": {
        "model_type": "lfm2_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "num_dense_layers": 1,
        "routed_scaling_factor": 1.7,
        "tie_word_embeddings": False,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
    },
}
_NEMOTRON = {
    "model_type": "nemotron_h",
    "head_dim": 12,
    "mamba_num_heads": 8,
    "mamba_head_dim": 6,
    "ssm_state_size": 6,
    "n_groups": 2,
    "conv_kernel": 3,
    "intermediate_size": 40,
    "time_step_min": 0.3,
    "layer_norm_epsilon": 1e-4,
}
_NEMOTRON_MOE = _NEMOTRON | {
    "moe_intermediate_size": 12,
    "moe_shared_expert_intermediate_size": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
}
CONFIGS |= {
    "nemotron_h": _NEMOTRON | {"hybrid_override_pattern": "M-*-", "use_bias": True, "mlp_bias": True},
    "nemotron_h_moe": _NEMOTRON_MOE | {"hybrid_override_pattern": "ME*-"},
    "nemotron_h_latent": _NEMOTRON_MOE
    | {"hybrid_override_pattern": "E*ME", "moe_latent_size": 14, "use_conv_bias": False, "n_groups": 1},
}
_HYBRID = {
    "model_type": "granitemoehybrid",
    "intermediate_size": 12,
    "shared_intermediate_size": 20,
    "mamba_n_heads": 8,
    "mamba_d_state": 6,
    "mamba_n_groups": 2,
    "mamba_expand": 2,
    "embedding_multiplier": 1.7,
    "logits_scaling": 1.3,
    "residual_multiplier": 0.8,
    "attention_multiplier": 0.3,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
}
CONFIGS |= {
    "granitemoehybrid": _HYBRID | {"num_local_experts": 6, "num_experts_per_tok": 3},
    "granitemoehybrid_dense": _HYBRID
    | {
        "num_local_experts": 0,
        "mamba_n_groups": 1,
        "mamba_d_conv": 3,
        "mamba_proj_bias": True,
        "position_embedding_type": "rope",
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
}
