"""What config.json says twice and differently is named in one line."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.families import FAMILIES, config_from_hf
from coterie.families.contradictions import contradictions
from tests.families.hf import CONFIGS, tiny

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"rope_scaling": YARN},
            "rope_parameters differs from it in factor, original_max_position_embeddings, rope_",
        ),
        ({"rope_scaling": YARN, "rope_parameters": YARN}, None),
        ({"rope_scaling": YARN | {"type": "yarn"}, "rope_parameters": YARN}, None),
        (
            {"rope_scaling": YARN, "rope_parameters": YARN | {"factor": 8.0}},
            "differs from it in factor and is ignored",
        ),
        ({"text_config": {"rope_theta": 5.0}}, "text_config: 'rope_theta' is ignored"),
        ({"text_config": {"num_hidden_layers": None, "torch_dtype": "float32"}}, None),
        ({"text_config": [1]}, "text_config is ignored: it is not an object"),
        (
            {"rotary_emb_base": 5.0, "rope_theta": 10000.0},
            "'rope_theta' 10000.0 decides; 'rotary_emb_base' 5.0",
        ),
        ({"rope_theta": 5.0}, "rope_theta 5.0 is ignored; the rope settings say 10000.0"),
        (
            {"rope_parameters": YARN | {"type": "linear"}},
            "rope_type 'yarn' decides; type 'linear' is ignored",
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 4.0}}, "name no rope_type, so factor is ignored"),
        (
            {"architectures": ["LlamaForCausalLM"]},
            "model_type 'qwen3_moe' decides; architectures names 'LlamaFor",
        ),
        ({"architectures": ["Qwen3MoeModel"]}, None),
        ({"architectures": None}, None),
        ({"hidden_activation": "gelu"}, "'hidden_act' 'silu' decides; 'hidden_activation' 'gelu' is ignored"),
        ({"hidden_activation": "silu"}, None),
        ({"moe_top_k": 7}, "'num_experts_per_tok' 3 decides; 'moe_top_k' 7 is ignored"),
        ({"n_routed_experts": 7}, "decides; 'n_routed_experts' 7 is ignored"),
        (
            {"dtype": "float32", "torch_dtype": "bfloat16"},
            "'dtype' 'float32' decides; 'torch_dtype' 'bfloat16'",
        ),
    ],
)
def test_the_loser_is_named(keys: dict[str, Any], line: str | None) -> None:
    base = tiny("qwen3_moe").config.to_dict() | {"architectures": ["Qwen3MoeForCausalLM"]}
    assert contradictions(base) == []
    found = contradictions(base | keys)
    assert [line in text for text in found] == [True] if line else not found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_experts": 8, "num_local_experts": 4}, "'num_experts' is 8 and 'num_local_experts' is 4"),
        ({"is_causal": False}, "'is_causal' is False"),
        ({"per_layer_config": {"0": {"sliding_window": 4}}}, "'per_layer_config'"),
        ({"layer_types": ["sliding_attention"] * 4}, "'layer_types' names 'sliding_attention'"),
        ({"use_sliding_window": True, "sliding_window": 4}, "'use_sliding_window' is True"),
        ({"attention_chunk_size": 4}, "'attention_chunk_size' is 4"),
        ({"head_dim": 0}, "head_dim"),
        ({"attention_bias": True}, "'attention_bias' is True"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
    ],
)
def test_what_changes_the_model_without_a_winner_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_from_hf(tiny("qwen3_moe").config.to_dict() | keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", sorted({data["model_type"]: name for name, data in CONFIGS.items()}.values())
)
@pytest.mark.parametrize("keys", [{"sliding_window": 4}, {"layer_types": ["chunked_attention"] * 4}])
def test_no_family_takes_a_mask_that_it_does_not_have(name: str, keys: dict[str, Any]) -> None:
    data = tiny(name).config.to_dict()
    own = ("mistral", "ministral3", "mixtral", "gpt_oss", "phi3", "gemma2", "gemma3_text", "olmo3")
    own += ("gemma4_text", "gemma4_unified_text")
    reads = data["model_type"] in own or "use_sliding_window" in data
    reads |= "max_window_layers" in data  # layer_types decides, and says full
    if reads and "sliding_window" in keys:
        assert config_from_hf(data | keys | {"use_sliding_window": False})
        return
    with pytest.raises(ConfigError, match=r"sliding_window|layer_types"):
        config_from_hf(data | keys)


def test_every_family_is_without_contradictions_as_transformers_writes_it() -> None:
    for name, data in CONFIGS.items():
        assert contradictions(tiny(name).config.to_dict()) == [], name
        assert data["model_type"] in FAMILIES
