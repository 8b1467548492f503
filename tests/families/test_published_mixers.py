"""Published models with recurrent mixers on the meta device: names, shapes and numbers of parameters.

The settings are those of the released config.json files as far as they are known here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from coterie.families import config_from_hf, config_to_hf, family
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters, kv_bytes
from coterie.plan.describe import describe

_QWEN = {
    "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6, "max_position_embeddings": 262144,
    "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "full_attention_interval": 4, "hidden_act": "silu",
}  # fmt: skip
_ROPE = {
    "rope_parameters": {
        "mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_type": "default",
        "rope_theta": 10000000, "partial_rotary_factor": 0.25,
    }
}  # fmt: skip
_EXPERTS = {
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_key_value_heads": 2,
    "num_attention_heads": 16, "hidden_size": 2048, "linear_num_value_heads": 32,
}  # fmt: skip
_LFM2 = {
    "vocab_size": 65536, "num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5,
    "conv_L_cache": 3, "conv_bias": False,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3.5-27B": _QWEN | _ROPE | {
        "model_type": "qwen3_5_text", "vocab_size": 248320, "hidden_size": 5120, "intermediate_size": 17408,
        "num_hidden_layers": 64, "num_attention_heads": 24, "linear_num_value_heads": 48,
    },
    "Qwen3.5-0.8B": _QWEN | _ROPE | {
        "model_type": "qwen3_5_text", "vocab_size": 248320, "hidden_size": 1024, "intermediate_size": 3584,
        "num_hidden_layers": 24, "num_attention_heads": 8, "num_key_value_heads": 2,
        "linear_num_value_heads": 16, "tie_word_embeddings": True,
    },
    "Qwen3.5-35B-A3B": _QWEN | _ROPE | _EXPERTS | {
        "model_type": "qwen3_5_moe_text", "vocab_size": 248320, "num_hidden_layers": 40, "num_experts": 256,
        "num_experts_per_tok": 8,
    },
    "Qwen3-Next-80B-A3B": _QWEN | _EXPERTS | {
        "model_type": "qwen3_next", "vocab_size": 151936, "num_hidden_layers": 48, "num_experts": 512,
        "num_experts_per_tok": 10, "rope_theta": 10000000, "partial_rotary_factor": 0.25,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "intermediate_size": 5120,
    },
}  # fmt: skip
_DENSE = {
    "model_type": "lfm2", "num_hidden_layers": 16, "rope_theta": 1000000.0, "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True, "tie_embedding": True,
    "layer_types": ["full_attention" if i in (2, 5, 8, 10, 12, 14) else "conv" for i in range(16)],
}  # fmt: skip
CONFIGS |= {
    "LFM2-350M": _LFM2 | _DENSE | {"hidden_size": 1024, "num_attention_heads": 16, "block_ff_dim": 6656},
    "LFM2-1.2B": _LFM2 | _DENSE | {"hidden_size": 2048, "num_attention_heads": 32, "block_ff_dim": 12288},
    "LFM2-8B-A1B": _LFM2 | {
        "model_type": "lfm2_moe", "num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 32,
        "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2, "num_experts": 32,
        "num_experts_per_tok": 4, "use_expert_bias": True, "norm_topk_prob": True, "rope_theta": 1000000.0,
        "routed_scaling_factor": 1.0, "tie_embedding": True,
        "layer_types": ["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)],
    },
}  # fmt: skip
CONFIGS |= {
    "granite-4.0-h-tiny": {
        "model_type": "granitemoehybrid", "vocab_size": 100352, "hidden_size": 1536, "num_hidden_layers": 40,
        "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 512,
        "num_local_experts": 64, "num_experts_per_tok": 6, "shared_intermediate_size": 1024,
        "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4,
        "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "position_embedding_type": "nope", "tie_word_embeddings": True,
        "embedding_multiplier": 12, "logits_scaling": 6, "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125,
        "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    },
}  # fmt: skip
_NEMOTRON = {
    "model_type": "nemotron_h", "vocab_size": 131072, "head_dim": 128, "mamba_head_dim": 64, "n_groups": 8,
    "conv_kernel": 4, "ssm_state_size": 128, "num_attention_heads": 32, "layer_norm_epsilon": 1e-5,
    "mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "use_conv_bias": True, "use_bias": False,
    "time_step_min": 0.001, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
    "mamba_proj_bias": False, "residual_in_fp32": False,
}  # fmt: skip
CONFIGS |= {
    "Nemotron-H-8B": _NEMOTRON | {
        "hidden_size": 4096, "num_hidden_layers": 52, "intermediate_size": 21504, "num_key_value_heads": 8,
        "mamba_num_heads": 128, "max_position_embeddings": 8192,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    },
    "Nemotron-3-Nano-30B-A3B": _NEMOTRON | {
        "hidden_size": 2688, "num_hidden_layers": 52, "num_key_value_heads": 2, "mamba_num_heads": 64,
        "max_position_embeddings": 262144, "n_routed_experts": 128, "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_shared_experts": 1,
        "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    },
}  # fmt: skip
# Billions of parameters without encoder and layers for multi-token prediction: total, active.
SIZES = {
    "Qwen3.5-27B": (26.9, 26.9),
    "Qwen3.5-0.8B": (0.75, 0.75),
    "Qwen3.5-35B-A3B": (34.7, 3.5),
    "Qwen3-Next-80B-A3B": (79.7, 3.9),
    "LFM2-350M": (0.354, 0.354),
    "LFM2-1.2B": (1.170, 1.170),
    "LFM2-8B-A1B": (8.34, 1.56),
    "granite-4.0-h-tiny": (6.94, 1.47),
    "Nemotron-H-8B": (8.10, 8.10),
    "Nemotron-3-Nano-30B-A3B": (31.58, 3.58),
}


def reference(data: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**data))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_survives_and_its_numbers_are_counted(name: str) -> None:
    data = CONFIGS[name]
    config = config_from_hf(data, strict=True)
    written = config_to_hf(config)
    assert config_from_hf(written) == config.model_copy(update={"extra": config_from_hf(written).extra})
    assert [key for key in data if written.get(key) != data[key]] == []
    counts = count_parameters(config)
    assert counts.total == sum(p.numel() for p in reference(data).parameters())
    total, active = SIZES[name]
    assert counts.total / 1e9 == pytest.approx(total, abs=0.05)
    assert counts.active_all / 1e9 == pytest.approx(active, abs=0.05)


@pytest.mark.parametrize("layers", [8, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_those_transformers_writes(name: str, layers: int | None) -> None:
    data = dict(CONFIGS[name])
    if layers is not None:
        data["num_hidden_layers"] = layers
        kinds = data.keys() & {"layer_types", "hybrid_override_pattern"}
        data |= {key: data[key][:layers] for key in kinds}
    config, theirs = config_from_hf(data), reference(data)
    with torch.device("meta"):
        model = Transformer(config)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total
    ours = {slot.disk: slot.disk_shape(own[slot.name]) for slot in family(config.family).slots(config)}
    expected = {
        key: tuple(tensor.shape)
        for key, tensor in revert_weight_conversion(theirs, theirs.state_dict()).items()
        if key != "lm_head.weight" or not config.tie_embeddings
    }
    assert ours == expected


def test_states_do_not_grow_and_are_described() -> None:
    config = config_from_hf(CONFIGS["Qwen3.5-27B"])
    state = 48 * 4 * (48 * 128 * 128 + (2 * 16 * 128 + 48 * 128) * 3)
    assert kv_bytes(config, 1000) == 16 * 1000 * 2 * 4 * 256 * 2 + state
    facts = describe(config)
    assert facts.kv_bytes_per_token == 16 * 2 * 4 * 256 * 2
    assert "gated delta rule, 48/16 heads of 128 x 128" in facts.layers[0]
    assert any(line.startswith("a state of fixed size") for line in facts.oddities)
