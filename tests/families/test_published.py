"""Published configurations at full size on the meta device: tensor names, shapes and totals.

The names and shapes are those that transformers would write; totals are the published ones.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from coterie.config import ModelConfig
from coterie.families import config_from_hf, config_to_hf, family
from coterie.nn.transformer import Transformer
from coterie.plan import count_parameters

_MAVERICK = {
    "model_type": "llama4_text",
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts_per_tok": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
    "num_local_experts": 128,
    "interleave_moe_layer_step": 2,
    "use_qk_norm": False,
    "max_position_embeddings": 1048576,
    "rope_scaling": None,
}
_SCOUT_ROPE = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
_MLA = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_theta": 10000.0,
    "max_position_embeddings": 163840,
}
_DEEPSEEK_ROPE = {
    "type": "yarn",
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}
_QWEN3 = {"head_dim": 128, "rope_theta": 1e6, "vocab_size": 151936, "max_position_embeddings": 40960}
_QWEN3_MOE = _QWEN3 | {
    "model_type": "qwen3_moe",
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}
_GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "rope_theta": 150000.0,
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
_DEEPSEEK_V3 = _MLA | {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
    "rope_scaling": _DEEPSEEK_ROPE | {"mscale": 1.0, "mscale_all_dim": 1.0},
}
_DEEPSEEK_V2 = _MLA | {
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "rope_scaling": _DEEPSEEK_ROPE | {"mscale": 0.707, "mscale_all_dim": 0.707},
}


def _qwen3_moe(layers: int, width: int, heads: int, expert: int) -> dict[str, Any]:
    return _QWEN3_MOE | {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "moe_intermediate_size": expert,
        "intermediate_size": 3 * width,
    }


# name: config.json, published total (selection biases counted)
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.2-1B": (
        {
            "model_type": "llama",
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
            "rope_theta": 500000.0,
            "rope_scaling": _SCOUT_ROPE | {"factor": 32.0, "high_freq_factor": 4.0},
            "max_position_embeddings": 131072,
        },
        1235814400,
    ),
    "Llama-4-Scout": (
        _MAVERICK
        | {
            "num_local_experts": 16,
            "interleave_moe_layer_step": 1,
            "use_qk_norm": True,
            "rope_scaling": _SCOUT_ROPE,
            "max_position_embeddings": 10485760,
        },
        107769861120,
    ),
    "Llama-4-Maverick": (_MAVERICK, 400711848960),
    "Qwen3-0.6B": (
        _QWEN3
        | {
            "model_type": "qwen3",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        596049920,
    ),
    "Qwen3-30B-A3B": (_qwen3_moe(48, 2048, 32, 768), 30532122624),
    "Qwen3-235B-A22B": (_qwen3_moe(94, 4096, 64, 1536), 235093634560),
    "Mixtral-8x22B": (
        {
            "model_type": "mixtral",
            "vocab_size": 32768,
            "hidden_size": 6144,
            "intermediate_size": 16384,
            "num_hidden_layers": 56,
            "num_attention_heads": 48,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": None,
            "rope_theta": 1e6,
            "max_position_embeddings": 65536,
        },
        140630071296,
    ),
    "OLMoE": (
        {
            "model_type": "olmoe",
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "clip_qkv": None,
            "max_position_embeddings": 4096,
        },
        6919161856,
    ),
    "DeepSeek-V2-Lite": (
        _DEEPSEEK_V2
        | {
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "q_lora_rank": None,
            "n_routed_experts": 64,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "routed_scaling_factor": 1.0,
        },
        15706484224,
    ),
    "DeepSeek-V2": (
        _DEEPSEEK_V2
        | {
            "hidden_size": 5120,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "q_lora_rank": 1536,
            "n_routed_experts": 160,
            "n_group": 8,
            "topk_group": 3,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 16.0,
        },
        235741434880,
    ),
    "DeepSeek-V3": (_DEEPSEEK_V3, 671026419200),
    "gpt-oss-20b": (_GPT_OSS | {"num_hidden_layers": 24, "num_local_experts": 32}, 20914757184),
    "gpt-oss-120b": (_GPT_OSS | {"num_hidden_layers": 36, "num_local_experts": 128}, 116829156672),
}


def selection_biases(config: ModelConfig) -> int:
    return sum(b.ffn.router.num_experts for b in config.blocks if b.ffn.kind == "moe" and b.ffn.router.select_bias)


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones_and_the_config_survives(name: str) -> None:
    data, total = PUBLISHED[name]
    config = config_from_hf(data)
    assert count_parameters(config).total + selection_biases(config) == total
    written = config_to_hf(config)
    assert config_from_hf(written) == config.model_copy(update={"extra": config_from_hf(written).extra})
    for key, value in data.items():
        if key not in ("rope_scaling", "moe_layers", "interleave_moe_layer_step", "no_rope_layer_interval"):
            assert written[key] == value, key


@pytest.mark.parametrize("name", ["Llama-4-Maverick", "DeepSeek-V3", "Qwen3-235B-A22B", "gpt-oss-120b"])
def test_names_and_shapes_are_those_transformers_writes(name: str) -> None:
    data, total = PUBLISHED[name]
    config = config_from_hf(data)
    with torch.device("meta"):
        model = Transformer(config)
        reference = AutoModelForCausalLM.from_config(AutoConfig.for_model(**data))
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    ours = {slot.disk: tuple(slot.view(own[slot.name]).shape) for slot in family(config.family).slots(config)}
    theirs = {
        key: tuple(tensor.shape) for key, tensor in revert_weight_conversion(reference, reference.state_dict()).items()
    }
    further = f"model.layers.{config.num_layers}."
    assert len([key for key in ours if key.startswith(further)]) == (0 if not config.num_mtp_layers else 788)
    ours = {key: shape for key, shape in ours.items() if not key.startswith(further)}
    assert ours == theirs
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == total
