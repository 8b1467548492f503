"""Tiny configurations of further families, for `hf.CONFIGS`."""

from __future__ import annotations

from typing import Any

_PLAIN = {"rope_type": "default", "rope_theta": 300.0}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
NEWER: dict[str, dict[str, Any]] = {
    "glm4_moe": {
        "model_type": "glm4_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "head_dim": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
        "use_qk_norm": True,
        "attention_bias": True,
        "rope_parameters": _PLAIN,
    },
    "glm4_moe_air": {
        "model_type": "glm4_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "head_dim": 24,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 0,
        "norm_topk_prob": False,
        "rope_parameters": _YARN | {"partial_rotary_factor": 0.75},
    },
    "minimax_m2": {
        "model_type": "minimax_m2",
        "intermediate_size": 12,
        "head_dim": 12,
        "rotary_dim": 8,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "rope_parameters": _PLAIN,
    },
    "ministral3": {
        "model_type": "ministral3",
        "intermediate_size": 48,
        "head_dim": 12,
        "sliding_window": 9,
        "rope_parameters": _YARN
        | {
            "original_max_position_embeddings": 6,
            "llama_4_scaling_beta": 0.7,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "ministral3_tied": {
        "model_type": "ministral3",
        "intermediate_size": 48,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "rope_parameters": _PLAIN | {"original_max_position_embeddings": 5, "llama_4_scaling_beta": 0.4},
    },
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "mlp_only_layers": [2],
        "rope_parameters": _PLAIN,
    },
    "qwen2_moe_every_second": {
        "model_type": "qwen2_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 12,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 2,
        "qkv_bias": False,
    },
}
