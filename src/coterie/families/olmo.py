"""OLMo 2 (`olmo2`), OLMo 3 (`olmo3`) and FlexOlmo (`flex_olmo`): norms after attention and feed-forward.

`h += norm(attention(h)); h += norm(ffn(h))`, and norms over whole queries and keys (arXiv 2501.00656). OLMo 3
has sliding layers, and positions per kind of layer. FlexOlmo (arXiv 2507.07024) has experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig, RopeConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    grouped_query,
    layer_masks,
    layer_types,
    read_attention,
    read_dense_layers,
    read_layer_types,
    read_model,
    routed_ffn,
    write_dense,
    write_model,
)
from coterie.families.mapping import Slot
from coterie.families.qwen3 import read_moe_ffn, write_moe_ffn
from coterie.families.reader import Reader
from coterie.families.rope import layer_ropes_to_hf, read_layer_ropes, read_rope
from coterie.families.slots import LAYER, dense_model_slots, moe_slots

_AFTER = {"attention_post_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm"}
_NAMES = {part: name for part, name in LAYER.items() if part not in ("attention_norm", "ffn_norm")} | _AFTER
_NORMS = {"norms": "post"}
_LATE: dict[str, Any] = {"norm_rounding": "after_weight"}
_KINDS = ("full_attention", "sliding_attention")
_THETAS = {"full_attention": "rope_theta"}


def _read_attention(reader: Reader, **variation: Any) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return read_attention(reader, qk_norm="full", qkv_bias=bias, output_bias=bias, **variation)


def _read_olmo2(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    layers = [_read_attention(reader, rope=read_rope(reader, 10000.0))] * reader.get("num_hidden_layers")
    return read_dense_layers(reader, layers, 1e-5, False, block=_NORMS, **_LATE)


def _write_olmo2(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    return data | {"attention_bias": attention.qkv_bias}


def _read_olmo3(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    types = read_layer_types(reader, lambda index: _KINDS[(index + 1) % 4 != 0])
    ropes = read_layer_ropes(reader, {kind: {"rope_theta": 5e5} for kind in _KINDS}, _THETAS)
    stated = (data.get("rope_parameters") or {}).get("sliding_attention") or {}
    if ropes["full_attention"].theta != ropes["sliding_attention"].theta and "rope_theta" not in stated:
        raise ConfigError(
            f"{where}: 'rope_theta' is {data['rope_theta']!r}, which transformers gives to the layers with "
            "full attention alone; write rope_parameters with a rope_theta for each layer type"
        )
    attention = _read_attention(reader)
    layers = [
        attention | mask | {"rope": ropes[kind]}
        for kind, mask in zip(types, layer_masks(reader, types), strict=True)
    ]
    return read_dense_layers(reader, layers, 1e-5, False, block=_NORMS, **_LATE)


def _write_olmo3(config: ModelConfig) -> dict[str, Any]:
    attentions, types = [grouped_query(config, block) for block in config.blocks], layer_types(config)
    window = next((a.window for a in attentions if a.window is not None), config.extra.get("sliding_window"))
    ropes: dict[str, RopeConfig] = {}
    for kind, attention in zip(types, attentions, strict=True):
        if attention.rope is None:
            raise ConfigError("an olmo3 checkpoint has positions in every layer")
        ropes.setdefault(kind, attention.rope)
    written = layer_ropes_to_hf(ropes, dict.fromkeys(ropes, attentions[0].head_dim), _THETAS)
    if len({rope.theta for rope in ropes.values()}) > 1:
        del written["rope_theta"]  # transformers 4 gives it to both kinds of layers
    own = {"sliding_window": window, "layer_types": types}
    return {key: v for key, v in _write_olmo2(config).items() if "rope" not in key} | written | own


def _dense_slots(config: ModelConfig) -> list[Slot]:
    return dense_model_slots(config, layer=_NAMES)


def _read_flex(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    attention = _read_attention(reader, rope=read_rope(reader, 5e5))
    block = {"attention": attention, "ffn": read_moe_ffn(reader, "intermediate_size")} | _NORMS
    return read_model(reader, [block] * reader.get("num_hidden_layers"), 1e-6, False, **_LATE)


def _write_flex(config: ModelConfig) -> dict[str, Any]:
    block = config.blocks[0]
    attention, moe = grouped_query(config, block), routed_ffn(config, block)
    data = write_model(config, attention) | write_moe_ffn(moe, "intermediate_size")
    return data | {"attention_bias": attention.qkv_bias}


def _flex_slots(config: ModelConfig) -> list[Slot]:
    for block in config.blocks:
        routed_ffn(config, block)
    return moe_slots(config, layer=_NAMES)


OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    _read_olmo2,
    _write_olmo2,
    _dense_slots,
    COMMON_KEYS | {"attention_bias"},
    examples="OLMo 2 1B to 32B",
)
OLMO3 = Family(
    "olmo3",
    "Olmo3ForCausalLM",
    _read_olmo3,
    _write_olmo3,
    _dense_slots,
    COMMON_KEYS | {"attention_bias", "sliding_window", "layer_types"},
    unrouted="its mixture (flex_olmo) has no layers with a window",
    examples="OLMo 3 and 3.1, 7B and 32B",
)
FLEX_OLMO = Family(
    "flex_olmo",
    "FlexOlmoForCausalLM",
    _read_flex,
    _write_flex,
    _flex_slots,
    COMMON_KEYS
    | set(
        "attention_bias num_experts num_local_experts num_experts_per_tok norm_topk_prob "
        "router_aux_loss_coef router_z_loss_coef".split()
    ),
    dense="olmo2",
    examples="FlexOlmo 7x7B",
)
