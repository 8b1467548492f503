"""The registry: every family by its name, and counterparts that lead back to each other."""

from __future__ import annotations

import copy
import time

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from coterie.config import ConfigError
from coterie.families import FAMILIES, config_from_hf, config_to_hf, dense_forms, family, routed_form
from coterie.families.base import LayerKindError
from coterie.families.unsupported import UNSUPPORTED
from tests.families.hf import _BASE, CONFIGS
from tests.nn.test_transformer import SMALL


def test_a_dense_counterpart_exists_and_leads_back() -> None:
    for name, chosen in FAMILIES.items():
        assert family(name) is chosen and chosen.model_type == name
        if chosen.dense is not None:
            assert routed_form(chosen.dense) == name
        for dense in dense_forms(name):
            assert dense in FAMILIES and dense in dense_forms(str(routed_form(dense)))
        assert chosen.examples, f"{name} names no published model"
    assert routed_form("qwen3") == "qwen3_moe" and routed_form("gpt_oss") is None
    assert dense_forms("mixtral")[:2] == ("llama", "mistral") and dense_forms("gpt_oss") == ()


def test_an_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'qwen3_moe'"):
        family("qwen3_mo")
    with pytest.raises(ConfigError, match="did you mean 'llama'"):
        family("lama")
    for unlike in ("zzz", "lamb", "llama_moe_hybrid"):
        with pytest.raises(ConfigError, match="known: deepseek_v2"):
            family(unlike)


def test_a_published_type_is_never_taken_for_the_spelling_of_another() -> None:
    others = CONFIG_MAPPING_NAMES.keys() - FAMILIES.keys()
    assert {"gemma", "olmo", "ministral", "bamba"} <= others
    for name in sorted(others):
        with pytest.raises(ConfigError) as caught:
            family(name)
        assert "did you mean" not in str(caught.value), name


def test_a_known_type_that_is_not_supported_says_what_it_needs() -> None:
    assert not UNSUPPORTED.keys() & FAMILIES.keys()
    for name in ("deepseek_v4", "qwen4_exp_text"):
        with pytest.raises(ConfigError, match="is not supported: it needs hyper-connections") as caught:
            config_from_hf({"model_type": name})
        assert "\n" not in str(caught.value)


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


SIZES = ("hidden_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
NONSENSE = (2**32, 2**40, 2**63, -1, 0.5, float("nan"), [4], {"a": 4}, "many", [])


@pytest.mark.parametrize(
    "name", sorted({config["model_type"]: name for name, config in CONFIGS.items()}.values())
)
def test_a_hostile_config_is_refused_in_one_line_soon(name: str) -> None:
    """Readers build an entry for each layer: 2^32 of them would never end."""
    good = _BASE | CONFIGS[name]
    started = time.process_time()
    for key in ("num_hidden_layers", *SIZES):
        for value in (*NONSENSE, *((True, 4.0, "4", 20_000) if key == "num_hidden_layers" else ())):
            data = copy.deepcopy(good)
            inner = data["text_config"] if key in data.get("text_config", ()) else data
            if key not in inner:
                continue
            changed = {key: value} if inner is data else {"text_config": inner | {key: value}}
            try:
                found = config_from_hf(data | changed)
            except ConfigError as error:
                assert "\n" not in str(error) and len(str(error)) < 400, (key, value)
            else:  # a size that this model has no use for
                assert key in ("intermediate_size", "num_key_value_heads"), (key, value)
                assert found.blocks == config_from_hf(good).blocks
    assert time.process_time() - started < 30


def test_experts_of_all_layers_together_are_limited() -> None:
    data = _BASE | CONFIGS["qwen3_moe"] | {"num_hidden_layers": 9000, "num_experts": 60_000}
    with pytest.raises(ConfigError, match=r"experts in .* layers; at most"):
        config_from_hf(data)
