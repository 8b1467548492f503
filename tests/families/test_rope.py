"""Rotary positions under both spellings and in two places: the logits of transformers, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from coterie.checkpoints.directory import load_model
from coterie.config import ConfigError, RopeConfig
from coterie.families.reader import Reader
from coterie.families.rope import layer_ropes_to_hf, read_layer_ropes, read_rope, rope_to_hf
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import assert_model_close
from tests.families.hf import VOCAB, tiny

IDS = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(5))
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
GONE = object()


def edit(directory: Path, **keys: Any) -> None:
    file = directory / "config.json"
    data = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not GONE}))


def check(directory: Path) -> bool:
    """Compare logits with transformers; returns whether they differ from those without the edit."""
    reference = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model = load_model(directory).model
    with torch.no_grad():
        theirs = reference(IDS[None]).logits[0]
        assert_model_close(model.config, model.logits(model(IDS, ForwardContext.packed([40]))), theirs, 40)
    return True


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}},
        {"rope_scaling": YARN | {"rope_theta": 99.0}},
        {"rope_scaling": YARN, "rope_parameters": LLAMA3 | {"rope_theta": 10000.0}},
        {"rope_scaling": {}, "rope_parameters": YARN},
        {"rope_scaling": None, "rope_parameters": YARN | {"rope_theta": 77.0}, "rope_theta": 55.0},
        {"rope_scaling": LLAMA3, "rope_theta": 55.0},
        {"rope_scaling": {"type": "linear", "factor": 3.0}},
        {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 3.0}},
        {"rope_scaling": {"factor": 3.0}},
        {"rope_scaling": YARN | {"mscale": 0, "mscale_all_dim": 0}},
        {"rope_scaling": YARN | {"mscale": 1.5, "mscale_all_dim": 0}},
        {"rope_parameters": GONE, "rope_theta": 55.0},
        {"rope_parameters": GONE},
        {"rope_parameters": {"rope_theta": 33.0}},
        {"rope_parameters": {}, "rope_theta": 33},
        {"rope_scaling": {k: v for k, v in YARN.items() if k != "original_max_position_embeddings"}},
        {
            "rope_scaling": {k: v for k, v in YARN.items() if k != "original_max_position_embeddings"},
            "original_max_position_embeddings": 24,
        },
        {"rope_scaling": YARN, "partial_rotary_factor": 1.0},
        {"rope_scaling": {"rope_type": "default"}, "rope_parameters": YARN | {"rope_theta": 10000.0}},
    ],
)
def test_two_places_are_resolved_as_transformers_resolves_them(keys: dict[str, Any], tmp_path: Path) -> None:
    tiny("qwen3", num_hidden_layers=2, rope_parameters=DEFAULT).save_pretrained(tmp_path)
    edit(tmp_path, **keys)
    assert check(tmp_path)


@pytest.mark.parametrize(
    "name", ["gpt_oss_no_bias", "mixtral", "llama4_maverick", "deepseek_v3_half_full_query"]
)
@pytest.mark.parametrize("keys", [{"rope_parameters": GONE}, {"rope_scaling": YARN}])
def test_every_family_has_its_own_default_and_reads_both_places(
    name: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    tiny(name, num_hidden_layers=4).save_pretrained(tmp_path)
    edit(tmp_path, **keys)
    assert check(tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_theta": 500.0}}, "hides that of rope_parameters"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope' needs short_factors"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, "rope_type 'mrope'"),
        ({"rope_scaling": {"type": "su"}}, "rope_type 'su'"),
        ({"rope_parameters": {"full_attention": DEFAULT}}, r"per layer type \('full_attention'\)"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5"),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, "'partial_rotary_factor' is 0.5"),
        (
            {"rope_scaling": YARN, "original_max_position_embeddings": 99},
            "is 99, but 16 in the rope settings",
        ),
        ({"rope_scaling": [1]}, "must be an object"),
        ({"rope_scaling": "yarn"}, "must be an object"),
        ({"rope_scaling": YARN | {"ramp": 4}}, "ramp"),
    ],
)
def test_what_cannot_be_resolved_is_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    tiny("qwen3", num_hidden_layers=1, rope_parameters=DEFAULT).save_pretrained(tmp_path)
    edit(tmp_path, **keys)
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


HEADS = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("keys", "rotated"),
    [
        ({}, 8),
        ({"partial_rotary_factor": 0.25}, 4),
        ({"rope_parameters": {"partial_rotary_factor": 0.75, "rope_theta": 5.0}}, 12),
        ({"rope_parameters": {"partial_rotary_factor": 0.75}, "partial_rotary_factor": 0.25}, 12),
        ({"partial_rotary_factor": 1.0}, None),
        ({"partial_rotary_factor": 0.25, "head_dim": 32, "rope_scaling": {"type": "linear", "factor": 2}}, 8),
    ],
)
def test_part_of_a_head_rotates_as_either_place_says(keys: dict[str, Any], rotated: int | None) -> None:
    rope = read_rope(Reader(HEADS | keys, "x"), 100.0, partial=0.5)
    assert rope.rotated == rotated and not rope.proportional
    data = HEADS | keys
    back = data | rope_to_hf(rope, data.get("head_dim", 16), partial=True)
    assert read_rope(Reader(back, "x"), 1.0, partial=0.5) == rope


UNSAID = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
KEYS = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}


@pytest.mark.parametrize(
    ("keys", "full", "sliding"),
    [
        ({}, RopeConfig(theta=1e6, rotated=4, proportional=True), RopeConfig(theta=1e4)),
        (
            {"rope_theta": 5.0, "rope_local_base_freq": 6.0},
            RopeConfig(theta=5.0, rotated=4, proportional=True),
            RopeConfig(theta=6.0),
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 7.0}, "sliding_attention": None}},
            RopeConfig(theta=7.0),
            RopeConfig(theta=1e4),
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 5.0},
            RopeConfig.from_dict({"theta": 5.0, "scaling": {"kind": "linear", "factor": 8.0}}),
            RopeConfig(theta=1e4),
        ),
    ],
)
def test_each_layer_type_has_its_own_positions(
    keys: dict[str, Any], full: RopeConfig, sliding: RopeConfig
) -> None:
    ropes = read_layer_ropes(Reader(HEADS | keys, "x"), UNSAID, KEYS, partial=1.0)
    assert ropes == {"full_attention": full, "sliding_attention": sliding}
    written = HEADS | layer_ropes_to_hf(ropes, dict.fromkeys(ropes, 16), KEYS, partial=True)
    assert read_layer_ropes(Reader(written, "x"), UNSAID, KEYS, partial=1.0) == ropes
    assert written["rope_theta"] == full.theta and written["rope_local_base_freq"] == sliding.theta


def test_settings_outside_of_the_layer_types_are_refused() -> None:
    for settings, message in (({"rope_theta": 5.0}, "'rope_theta' outside"), ([1], "must be an object")):
        with pytest.raises(ConfigError, match=message):
            read_layer_ropes(Reader(HEADS | {"rope_parameters": settings}, "x"), UNSAID, KEYS)
