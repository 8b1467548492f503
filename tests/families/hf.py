"""Small transformers models of every family, all parameters randomised: the oracle of the parity tests."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.families.hf_mixers import CONFIGS as MIXERS
from tests.families.hf_newer import NEWER
from tests.families.hf_sandwich import SANDWICHES

VOCAB = 97
_BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_SCOUT_ROPE = _LLAMA3_ROPE | {"factor": 16.0, "high_freq_factor": 1.0}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "intermediate_size": 48, "rope_parameters": _LLAMA3_ROPE},
    "llama_tied_bias": {
        "model_type": "llama",
        "intermediate_size": 48,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 12,
    },
    "llama_yarn": {
        "model_type": "llama",
        "intermediate_size": 48,
        "head_dim": 16,
        "rope_parameters": _YARN_ROPE | {"truncate": False},
    },
    "qwen3_yarn_mscale": {
        "model_type": "qwen3",
        "intermediate_size": 48,
        "head_dim": 16,
        "rope_parameters": _YARN_ROPE | {"mscale": 1.3, "mscale_all_dim": 0.6},
    },
    "llama4_yarn": {
        "model_type": "llama4_text",
        "intermediate_size": 24,
        "intermediate_size_mlp": 40,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "attention_chunk_size": 9,
        "rope_parameters": _YARN_ROPE | {"attention_factor": 1.4},
    },
    "qwen3": {"model_type": "qwen3", "intermediate_size": 48, "head_dim": 16},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 24,
        "intermediate_size": 40,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "head_dim": 16,
        "mlp_only_layers": [1],
    },
    "mistral": {
        "model_type": "mistral",
        "intermediate_size": 48,
        "head_dim": 12,
        "sliding_window": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "mistral_full": {
        "model_type": "mistral",
        "intermediate_size": 40,
        "head_dim": 10,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-2,
        "rope_parameters": _YARN_ROPE,
    },
    "mixtral": {
        "model_type": "mixtral",
        "intermediate_size": 24,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
        "head_dim": 8,
    },
    "olmoe": {
        "model_type": "olmoe",
        "intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "clip_qkv": 0.8,
        "num_key_value_heads": 4,
    },
    "llama4_scout": {
        "model_type": "llama4_text",
        "intermediate_size": 24,
        "intermediate_size_mlp": 40,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "attention_chunk_size": 5,
        "floor_scale": 4,
        "attn_scale": 0.3,
        "attn_temperature_tuning": True,
        "rope_parameters": _SCOUT_ROPE,
    },
    "llama4_maverick": {
        "model_type": "llama4_text",
        "intermediate_size": 24,
        "intermediate_size_mlp": 40,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "interleave_moe_layer_step": 2,
        "use_qk_norm": False,
        "head_dim": 8,
        "attention_chunk_size": 7,
        "floor_scale": 4,
    },
}

_DEEPSEEK = {
    "num_key_value_heads": 4,
    "intermediate_size": 40,
    "moe_intermediate_size": 12,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
CONFIGS |= {
    "deepseek_v3": _DEEPSEEK
    | {
        "model_type": "deepseek_v3",
        "n_routed_experts": 12,
        "n_shared_experts": 1,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "rope_parameters": _YARN_ROPE | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "deepseek_v3_half_full_query": _DEEPSEEK
    | {
        "model_type": "deepseek_v3",
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "norm_topk_prob": False,
        "rope_interleave": False,
        "v_head_dim": 18,
        "first_k_dense_replace": 0,
    },
    "deepseek_v2_lite": _DEEPSEEK
    | {
        "model_type": "deepseek_v2",
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "q_lora_rank": None,
        "rope_parameters": _YARN_ROPE | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "deepseek_v2": _DEEPSEEK
    | {
        "model_type": "deepseek_v2",
        "n_routed_experts": 12,
        "n_shared_experts": 2,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 16.0,
        "rope_parameters": _YARN_ROPE | {"mscale": 1.2, "mscale_all_dim": 0.7},
    },
}
CONFIGS |= {
    "glm4_moe_lite": _DEEPSEEK
    | {
        "model_type": "glm4_moe_lite",
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.8,
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse"],
        "first_k_dense_replace": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "dots1": {
        "model_type": "dots1",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "head_dim": 12,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "hy_v3": {
        "model_type": "hy_v3",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "head_dim": 12,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "num_shared_experts": 2,
        "mlp_layer_types": ["dense", "sparse", "sparse", "dense"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "qwen2": {
        "model_type": "qwen2",
        "intermediate_size": 48,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "qwen2_tied": {"model_type": "qwen2", "intermediate_size": 40, "tie_word_embeddings": True},
    "smollm3": {
        "model_type": "smollm3",
        "intermediate_size": 48,
        "no_rope_layers": [1, 0, 1, 1],
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": _YARN_ROPE,
    },
    "seed_oss": {
        "model_type": "seed_oss",
        "intermediate_size": 48,
        "head_dim": 12,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "seed_oss_output_bias": {
        "model_type": "seed_oss",
        "intermediate_size": 48,
        "head_dim": 8,
        "attention_bias": False,
        "attention_out_bias": True,
        "mlp_bias": True,
    },
    "ernie4_5": {
        "model_type": "ernie4_5",
        "intermediate_size": 48,
        "head_dim": 12,
        "use_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "ernie4_5_tied": {"model_type": "ernie4_5", "intermediate_size": 48, "head_dim": 8},
    "ernie4_5_moe": {
        "model_type": "ernie4_5_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "moe_num_experts": 6,
        "moe_k": 3,
        "moe_num_shared_experts": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "ernie4_5_moe_every_second": {
        "model_type": "ernie4_5_moe",
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "moe_num_experts": 5,
        "moe_k": 2,
        "moe_num_shared_experts": 0,
        "moe_layer_interval": 2,
        "tie_word_embeddings": False,
        "num_hidden_layers": 5,
        "moe_norm_min": 0.9,
    },
}
CONFIGS |= {
    "gpt_oss": {
        "model_type": "gpt_oss",
        "intermediate_size": 20,
        "head_dim": 16,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "sliding_window": 5,
        "swiglu_limit": 0.6,
        "rope_parameters": _YARN_ROPE | {"truncate": False},
    },
    "gpt_oss_no_bias": {
        "model_type": "gpt_oss",
        "intermediate_size": 20,
        "head_dim": 8,
        "num_key_value_heads": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "sliding_window": 3,
        "swiglu_alpha": 1.1,
        "attention_bias": False,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
}
CONFIGS |= SANDWICHES
CONFIGS |= NEWER
CONFIGS |= MIXERS


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Every parameter random and not at its usual default: norms around 1, biases and matrices around 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * noise if "norm" in name or name.endswith("scale") else noise * 0.25
    for name, buffer in model.named_buffers():
        if name.endswith(("e_score_correction_bias", "expert_bias")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.5 - 0.6)
        elif name.endswith(("layer_scalar", "output_scale")):
            buffer.copy_(0.8 + 0.3 * torch.rand(buffer.shape, generator=generator))


def config_of(name: str, **changes: Any) -> Any:
    """transformers' config of `CONFIGS[name]`, with eager attention and experts."""
    data = copy.deepcopy(_BASE | CONFIGS[name] | changes)  # transformers writes into the parts
    config = AutoConfig.for_model(**data)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config


def tiny(name: str, seed: int = 0, **changes: Any) -> Any:
    """A randomised transformers model of `CONFIGS[name]`, fp32, eager attention and experts."""
    config = config_of(name, **changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomise(model, seed)
    return model
