"""The registry: every family by its name, and counterparts that lead back to each other."""

from __future__ import annotations

import pytest

from coterie.config import ConfigError
from coterie.families import FAMILIES, config_from_hf, config_to_hf, family, routed_form
from coterie.families.base import LayerKindError
from tests.nn.test_transformer import SMALL


def test_a_dense_counterpart_exists_and_leads_back() -> None:
    for name, chosen in FAMILIES.items():
        assert family(name) is chosen and chosen.model_type == name
        if chosen.dense is not None:
            assert chosen.dense in FAMILIES and routed_form(chosen.dense) == name
    assert routed_form("qwen3") == "qwen3_moe" and routed_form("gpt_oss") is None


def test_an_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'qwen3_moe'"):
        family("qwen3_mo")
    with pytest.raises(ConfigError, match="known: deepseek_v2"):
        family("zzz")


@pytest.mark.parametrize("target", ["llama", "qwen3"])
def test_a_dense_family_refuses_experts(target: str) -> None:
    config = config_from_hf(SMALL).model_copy(update={"family": target})
    for refused in (config_to_hf, FAMILIES[target].slots):
        with pytest.raises(LayerKindError, match="has no experts"):
            refused(config)


@pytest.mark.parametrize("target", ["mixtral", "olmoe"])
def test_a_routed_family_refuses_dense_layers(target: str) -> None:
    shape = {key: SMALL[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    dense = {"model_type": "llama", "num_attention_heads": 2, "intermediate_size": 8}
    config = config_from_hf(shape | dense | {"max_position_embeddings": 16})
    with pytest.raises(LayerKindError, match="has no dense layers"):
        config_to_hf(config.model_copy(update={"family": target}))
