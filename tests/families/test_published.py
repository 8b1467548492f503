"""Published configurations at full size on the meta device: names and shapes are those that transformers
would write.

Totals are checked against the makers' own in `tests/plan/test_published.py`.
"""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

from coterie.families import config_from_hf, config_to_hf, family
from coterie.nn.transformer import Transformer
from coterie.plan.published import published_models

CONFIGS: dict[str, dict[str, Any]] = {
    name: model.config for name, model in published_models().items() if model.config is not None
}
# Its makers state no number of active parameters.
CONFIGS["flex-olmo-7x7b"] = {
    "model_type": "flex_olmo",
    "vocab_size": 100352,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000,
    "num_experts": 7,
    "num_experts_per_tok": 5,
    "norm_topk_prob": False,
}
# Gemma 4 E2B's text model.
CONFIGS["gemma-4-e2b-text"] = {
    "model_type": "gemma4_text",
    "vocab_size": 262144,
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "global_head_dim": 512,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
    "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 256,
    "final_logit_softcapping": 30.0,
}
# Gemma 4 26B-A4B's.
CONFIGS["gemma-4-26b-a4b-text"] = {
    "model_type": "gemma4_text",
    "vocab_size": 262144,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "sliding_window": 1024,
    "max_position_embeddings": 262144,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
    "final_logit_softcapping": 30.0,
}
# Keys that say the same in another way in what we write.
_OTHER_WAY = (
    "rope_scaling",
    "moe_layers",
    "interleave_moe_layer_step",
    "no_rope_layer_interval",
    "no_rope_layers",
    "rope_parameters",
)
_KNOWN_AS = {"kimi_k2": "deepseek_v3"}  # what transformers takes Kimi K2 for


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_survives(name: str) -> None:
    data = CONFIGS[name]
    config = config_from_hf(data)
    written = config_to_hf(config)
    assert config_from_hf(written) == config.model_copy(update={"extra": config_from_hf(written).extra})
    for key, value in data.items():
        if key == "text_config":
            value = {inner: value[inner] for inner in value if inner not in _OTHER_WAY}
            assert value.items() <= written[key].items()
        elif key not in _OTHER_WAY:
            assert written[key] == value, key


# Thousands of experts of forms seen elsewhere: in a smaller model of the family here, or in test_parity.py.
_LARGE = {"kimi-k2", "hunyuan-3", "ernie-4.5-300b-a47b", "glm-4.5", "qwen3-235b-a22b", "deepseek-v2"}
_LARGE |= {"minimax-m2", "dots.llm1"}


# One name for each configuration: some models are other weights of the same one.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in _LARGE else [])
        for name in {repr(config): name for name, config in CONFIGS.items()}.values()
    ],
)
def test_names_and_shapes_are_those_transformers_writes(name: str) -> None:
    data = CONFIGS[name]
    config = config_from_hf(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.device("meta"):
        model = Transformer(config)
        automatic = AutoModelForImageTextToText if "vision_config" in data else AutoModelForCausalLM
        known = data | {"model_type": _KNOWN_AS.get(data["model_type"], data["model_type"])}
        reference = automatic.from_config(AutoConfig.for_model(**known))
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    chosen = family(config.family)
    ours = {slot.disk: tuple(slot.view(own[slot.name]).shape) for slot in chosen.slots(config)}
    carried = chosen.carries(config)
    theirs = {
        key: tuple(tensor.shape)
        for key, tensor in revert_weight_conversion(reference, reference.state_dict()).items()
        if not key.startswith(carried)
    }
    if config.tie_embeddings:
        del theirs["lm_head.weight"]  # the embedding itself; not written
    # transformers drops the layer for multi-token prediction: one like the last, and six tensors around it.
    further, last = (f"model.layers.{config.num_layers - back}." for back in (0, 1))
    beside = len([key for key in theirs if key.startswith(last)]) + 6
    assert len([key for key in ours if key.startswith(further)]) == (beside if config.num_mtp_layers else 0)
    assert {key: shape for key, shape in ours.items() if not key.startswith(further)} == theirs
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    assert grown < 2_000_000, f"{grown} KiB"
