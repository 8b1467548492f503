"""Small configs of Phi-3, GLM-4, Gemma and the newest latent attention for `hf.tiny`."""

from __future__ import annotations

from typing import Any

_PHI3_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.2, 1.7],
    "long_factor": [1.5, 3.0, 8.0],
}
SANDWICHES: dict[str, dict[str, Any]] = {
    "phi3": {"model_type": "phi3", "intermediate_size": 48, "sliding_window": 5},
    "phi3_longrope": {
        "model_type": "phi3",
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 20,
        "rope_parameters": _PHI3_LONGROPE | {"partial_rotary_factor": 0.75},
        "tie_word_embeddings": True,
    },
    "glm": {"model_type": "glm", "intermediate_size": 48, "head_dim": 12},
    "glm4": {"model_type": "glm4", "intermediate_size": 48, "head_dim": 16},
    "glm4_no_bias": {
        "model_type": "glm4",
        "intermediate_size": 40,
        "head_dim": 8,
        "attention_bias": False,
        "partial_rotary_factor": 1.0,
    },
    "gemma2": {
        "model_type": "gemma2",
        "intermediate_size": 48,
        "head_dim": 12,
        "sliding_window": 5,
        "query_pre_attn_scalar": 7,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.5,
    },
    "gemma2_bias": {
        "model_type": "gemma2",
        "intermediate_size": 40,
        "head_dim": 8,
        "sliding_window": 3,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "intermediate_size": 48,
        "head_dim": 12,
        "sliding_window": 5,
        "query_pre_attn_scalar": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    },
    "gemma3_text_plain": {
        "model_type": "gemma3_text",
        "intermediate_size": 40,
        "head_dim": 8,
        "sliding_window": 4,
        "num_hidden_layers": 7,
        "final_logit_softcapping": 3.0,
    },
}
_GEMMA4_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
SANDWICHES |= {
    "gemma4_text": {
        "model_type": "gemma4_text",
        "num_hidden_layers": 7,
        "layer_types": [*_GEMMA4_TYPES, *_GEMMA4_TYPES, "full_attention"],
        "intermediate_size": 40,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 5,
        "vocab_size_per_layer_input": 97,
        "hidden_size_per_layer_input": 12,
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
        "final_logit_softcapping": 2.5,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.5,
                "rope_theta": 700.0,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    },
    "gemma4_text_keys_as_values": {
        "model_type": "gemma4_text",
        "num_hidden_layers": 6,
        "intermediate_size": 48,
        "head_dim": 12,
        "global_head_dim": 24,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "sliding_window": 6,
        "hidden_size_per_layer_input": 0,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "use_bidirectional_attention": "vision",
    },
}
SANDWICHES["gemma4_text_moe"] = {
    "model_type": "gemma4_text",
    "num_hidden_layers": 5,
    "layer_types": [*_GEMMA4_TYPES, "sliding_attention", "full_attention"],
    "intermediate_size": 20,
    "enable_moe_block": True,
    "num_experts": 6,
    "top_k_experts": 3,
    "moe_intermediate_size": 12,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 5,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 2.5,
    "rms_norm_eps": 1e-3,
}
SANDWICHES["gemma4_unified_text"] = {
    "model_type": "gemma4_unified_text",
    "num_hidden_layers": 6,
    "layer_types": [*_GEMMA4_TYPES, "full_attention", "sliding_attention", "full_attention"],
    "intermediate_size": 40,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 4,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "sliding_window": 5,
    "final_logit_softcapping": 2.5,
}
_LATENT = {
    "num_key_value_heads": 4,
    "intermediate_size": 40,
    "moe_intermediate_size": 12,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}
_INDEXED = _LATENT | {"index_topk": 64, "index_head_dim": 12, "index_n_heads": 2}
SANDWICHES |= {
    "deepseek_v32": _INDEXED | {"model_type": "deepseek_v32", "n_group": 4, "topk_group": 2},
    "glm_moe_dsa": _INDEXED
    | {"model_type": "glm_moe_dsa", "indexer_types": ["full", "shared", "full", "shared"]},
}
# Inside another model only, as transformers has it.
MISTRAL4 = {
    **_LATENT,
    "model_type": "mistral4",
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.5,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 300.0,
        "factor": 4.0,
        "original_max_position_embeddings": 7,
        "beta_fast": 4.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.4,
    },
}
