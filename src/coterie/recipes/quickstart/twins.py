"""A mixture of experts and its dense twin: equal active parameters, everything else the same."""

from __future__ import annotations

from typing import Any

from coterie.config import ModelConfig
from coterie.families import config_from_hf

ROW_LENGTH = 256
VOCAB_SIZE = 2048


def twins(minutes: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.json` settings of the pair for a run of about `minutes` on two cores: (mixture of experts,
    dense).

    The dense feed-forward is as wide as the chosen experts together plus the router's parameters, so that the
    dense twin never has fewer active parameters.
    """
    width, layers = (128, 4) if minutes < 30 else (256, 6)
    num_experts, top_k, expert_width = 16, 2, width
    common = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 64,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    }
    moe = common | {
        "model_type": "qwen3_moe",
        "num_experts": num_experts,
        "num_experts_per_tok": top_k,
        "norm_topk_prob": True,
        "moe_intermediate_size": expert_width,
        "router_aux_loss_coef": 0.01,
    }
    router_columns = -(-num_experts // 3)
    dense_width = -(-(top_k * expert_width + router_columns) // 8) * 8
    return moe, common | {"model_type": "qwen3", "intermediate_size": dense_width}


def read_twin(settings: dict[str, Any], vocab_size: int) -> ModelConfig:
    """The `ModelConfig` of one of `twins`."""
    return config_from_hf({"vocab_size": vocab_size} | settings, "twin", strict=True)
