"""The models that benchmarks compare, as keys of config.json: a dense one and three mixtures of experts."""

from __future__ import annotations

from typing import Any


def shape(width: int, layers: int, heads: int, head_dim: int, vocabulary: int) -> dict[str, Any]:
    """What all models of a benchmark share; four key/value heads."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 4,
        "head_dim": head_dim,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


def models(columns: int) -> dict[str, dict[str, Any]]:
    """Each with `columns` active feed-forward columns per token; Llama 4 with Scout's 16 experts."""
    return {
        "dense": {"model_type": "llama", "intermediate_size": columns},
        "mixtral": {
            "model_type": "mixtral",
            "intermediate_size": columns // 2,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        },
        "qwen3_moe": {
            "model_type": "qwen3_moe",
            "moe_intermediate_size": columns // 8,
            "intermediate_size": columns,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
        },
        "llama4": {
            "model_type": "llama4_text",
            "intermediate_size": columns // 2,
            "intermediate_size_mlp": columns,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 1024,
            "pad_token_id": 0,
        },
    }
