"""GLM-4, dense: `glm` (4-9B) and `glm4` (4-0414, with norms after each part too); half of a head rotates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import COMMON_KEYS, Family, read_attention, read_dense_layers, write_dense
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import LAYER, RoutedNames, dense_model_slots

# `post_attention_layernorm` is the norm before the feed-forward, as in Llama.
_LAYER = LAYER | {
    "attention_post_norm": "post_self_attn_layernorm",
    "ffn_post_norm": "post_mlp_layernorm",
}
_NAMES = RoutedNames(dense=("gate_up_proj", "gate_up_proj", "down_proj"))
_KEYS = COMMON_KEYS | {"attention_bias", "partial_rotary_factor"}


def _read(data: Mapping[str, Any], where: str, norms: str) -> ModelConfig:
    reader = Reader(data, where)
    rope = read_rope(reader, 10000.0, style="pairs", partial=0.5)
    attention = read_attention(reader, rope=rope, qkv_bias=reader.flag("attention_bias", True))
    layers = [attention] * reader.get("num_hidden_layers")
    return read_dense_layers(reader, layers, 1.5625e-7, False, block={"norms": norms})


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config, partial=True)
    return data | {"attention_bias": attention.qkv_bias}


def _family(model_type: str, architecture: str, norms: str, unrouted: str, examples: str) -> Family:
    return Family(
        model_type,
        architecture,
        lambda data, where: _read(data, where, norms),
        _write,
        lambda config: dense_model_slots(config, _NAMES, _LAYER),
        _KEYS,
        unrouted=f"its mixture (glm4_moe) {unrouted}",
        examples=examples,
    )


GLM = _family("glm", "GlmForCausalLM", "pre", "rotates other pairs of numbers", "GLM-4-9B")
GLM4 = _family(
    "glm4",
    "Glm4ForCausalLM",
    "sandwich",
    "has no norms after attention and feed-forward",
    "GLM-4-0414 9B and 32B, GLM-Z1",
)
