"""Every published model by name: counts and cache equal the table.

The table was computed independently of this code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.families import config_from_hf
from coterie.plan.describe import describe, layer_lines, ranges
from coterie.plan.encoders import encoder_parameters
from coterie.plan.published import find_published, published_models, suggest_published

TABLE: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published_counts.json").read_text())
NAMES = {
    "active_incl_embed_and_head": "active_all",
    "active_incl_head_only": "active_head",
    "active_excl_embed_and_head": "active_core",
    "embed": "embedding",
    "lm_head": "head",
    "routed_experts": "experts",
}


def test_the_table_is_complete() -> None:
    assert {name for name, model in published_models().items() if model.config is not None} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_counts_equal_the_published_table(name: str) -> None:
    model, expected = published_models()[name], TABLE[name]
    assert model.config is not None
    config = config_from_hf(model.config, name, strict=False)
    facts = describe(config).to_dict()
    counts = facts["parameters"]
    # The table counts selection biases with the parameters of the layers they stand in.
    further = config.first_moe.router.num_experts if counts["mtp"] and config.first_moe else 0
    biases = counts["selection_bias"] - further
    assert counts["total"] + biases + counts["vision"] == expected["total"]
    for theirs, ours in NAMES.items():
        assert counts[ours] + (biases if ours.startswith("active") else 0) == expected[theirs], theirs
    assert counts["vision"] == expected.get("vision", 0) + expected.get("projector", 0)
    assert facts["kv_bytes_per_token"] == expected["kv_bytes_per_token_bf16"]
    assert facts["kv_bytes_per_token_beyond_windows"] == expected["growing_bytes_per_token_beyond_window"]
    if "131072" in facts["kv_bytes"]:
        assert facts["kv_bytes"]["131072"] == expected["kv_bytes_at_128k"]
    if "mtp_unique_params_computed" in expected:
        assert counts["mtp"] + further == expected["mtp_unique_params_computed"]
        copies = counts["embedding"] + counts["head"]
        assert counts["everything"] + copies == expected["hub_total_computed_without_scales"]
    assert abs(expected["total"] / model.total - 1 - expected["total_rel_diff"]) < 1e-4
    active = expected[expected["active_best_matching_convention"]]
    assert abs(active / model.active - 1 - expected["active_rel_diff"]) < 1e-4


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("llama-4-scout", "llama-4-scout-17b-16e"),
        ("Llama 4 Maverick", "llama-4-maverick-17b-128e"),
        ("olmoe", "olmoe-1b-7b-0924"),
        ("Qwen3_8B", "qwen3-8b"),
        ("deepseek-v2", "deepseek-v2"),  # a whole name, though others begin with it
        ("qwen3-30b", "qwen3-30b-a3b"),
    ],
)
def test_names(given: str, name: str) -> None:
    found = find_published(given)
    assert found is not None and found.name == name


def test_names_that_are_none_or_several() -> None:
    assert (
        find_published("runs") is None and find_published("") is None and find_published("llama-4-sc") is None
    )
    assert suggest_published("llama-4-scot") == " (did you mean 'llama-4-scout'?)"
    assert suggest_published("deepsek-v3") == " (did you mean 'deepseek-v3'?)"
    assert suggest_published("zzz") == ""
    with pytest.raises(
        ConfigError, match="beginning of several published models: mixtral-8x7b, mixtral-8x22b"
    ):
        find_published("mixtral")
    with pytest.raises(ConfigError, match=r"llama-4-behemoth: was announced .* and never released"):
        find_published("llama-4-behemoth")


def test_words() -> None:
    assert ranges([0, 1, 2, 4, 7, 8]) == "0-2, 4, 7-8"
    assert (
        ranges([3, 7, 11]) == "3-11 every 4th" and ranges([0, 2, 4]) == "0-4 every 2nd" and ranges([5]) == "5"
    )
    scout = find_published("llama-4-scout")
    assert scout is not None and scout.config is not None
    config = config_from_hf(scout.config)
    assert [line.split(":")[0] for line in layer_lines(config)] == [
        "all layers but 3-47 every 4th",
        "layers 3-47 every 4th",
    ]
    odd = describe(config).oddities
    assert "no positions: layers 3-47 every 4th" in odd
    assert any(line.startswith("attention within chunks of 8,192") for line in odd)
    assert "router scores multiply the expert's input, not its output" in odd
    broken = {key: value for key, value in scout.config["vision_config"].items() if key != "image_size"}
    with pytest.raises(ConfigError, match="vision_config: 'image_size' is missing"):
        encoder_parameters(config.model_copy(update={"extra": {"vision_config": broken}}))
