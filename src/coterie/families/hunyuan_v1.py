"""Hunyuan, dense (`hunyuan_v1_dense`) and with experts (`hunyuan_v1_moe`): heads normalised after rotation.

The rotation of the releases is called "dynamic" and has a fixed `alpha`, which makes it static: theta becomes
`theta * alpha^(D / (D - 2))` for heads of width D. Every layer has a shared expert (arXiv 2411.02265).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import AttentionConfig, ConfigError, ModelConfig, RopeConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    read_attention,
    read_dense_layers,
    read_model,
    routed_ffn,
    write_dense,
    write_routed,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader, head_dim
from coterie.families.rope import read_rope, rope_settings
from coterie.families.slots import LAYER, RoutedNames, dense_model_slots, moe_slots

_LAYER = LAYER | {
    "attention.q_norm": "self_attn.query_layernorm",
    "attention.k_norm": "self_attn.key_layernorm",
}
_ROUTED = RoutedNames(router="gate.wg.weight", float32=True, shared="shared_mlp")
_ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
# What only the original code reads; each has one meaning here and goes back as it came.
_FIXED: tuple[tuple[str, Any], ...] = (
    ("use_qk_norm", True),
    ("use_cla", False),
    ("mlp_bias", False),
    ("norm_topk_prob", True),
    ("use_mixed_mlp_moe", True),
    ("moe_layer_num_skipped", 0),
)


def _rope(reader: Reader) -> RopeConfig:
    settings = rope_settings(reader.data, reader.where)
    alpha = settings.get("alpha")
    if (settings.get("rope_type") or settings.get("type")) != "dynamic" or not alpha:
        return read_rope(reader, 10000.0, own=("alpha",))
    width = head_dim(reader)
    theta = settings.get("rope_theta") or reader.data.get("rope_theta") or 10000.0
    # The keys stay as they came: the stretched theta would say the same in another way.
    return RopeConfig.from_dict({"theta": theta * alpha ** (width / (width - 2))}, f"{reader.where}: rope")


def _read_attention(reader: Reader) -> dict[str, Any]:
    for name, value in _FIXED:
        reader.expect(name, value, None)
        reader.used.discard(name)
    bias, rope = reader.flag("attention_bias", False), _rope(reader)
    return read_attention(reader, rope=rope, qkv_bias=bias, output_bias=bias, qk_norm="head_after")


def _write_attention(config: ModelConfig, attention: AttentionConfig) -> dict[str, Any]:
    """`attention_bias`, and the settings of the rotation as they came where they still are the model's."""
    kept = {key: config.extra[key] for key in _ROPE_KEYS if key in config.extra}
    same = kept and _rope(Reader(kept | {"head_dim": attention.head_dim}, "config.json")) == attention.rope
    return (kept if same else {}) | {"attention_bias": attention.qkv_bias}


def _read_dense(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    layers = [_read_attention(reader)] * reader.get("num_hidden_layers")
    return read_dense_layers(reader, layers, 1e-5, False)


def _write_dense(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    return data | _write_attention(config, attention)


def _read_moe(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    num_layers, width = reader.get("num_hidden_layers"), reader.get("intermediate_size")
    for name, value in (("moe_intermediate_size", width), ("num_shared_expert", 1)):
        _each_layer(reader, name, value, num_layers)
        reader.used.discard(name)
    top_k = _each_layer(reader, "moe_topk", None, num_layers)
    reader.used.discard("moe_topk")  # a list or one number: goes back as it came
    attention, num_experts = _read_attention(reader), reader.get("num_experts", "num_local_experts")
    balance = {"loss_coef": reader.get("router_aux_loss_coef", default=0.0)}
    moe = {"kind": "moe", "expert_width": width, "shared_width": width, "balance": balance}
    router = {"num_experts": num_experts, "renormalize": True}
    blocks = [{"attention": attention, "ffn": moe | {"router": router | {"top_k": k}}} for k in top_k]
    return read_model(reader, blocks, 1e-5, False)


def _each_layer(reader: Reader, name: str, expected: Any, num_layers: int) -> list[Any]:
    """One value for each layer: the key holds a list of them, or one for all.

    Errors: `ConfigError` for a short list, and for other values than `expected` where that is not None.
    """
    value = reader.get(name, default=1 if expected is None else expected)
    values = value[:num_layers] if isinstance(value, list) else [value] * num_layers
    if len(values) < num_layers or (expected is not None and set(values) != {expected}):
        wanted = "an entry for each layer" if expected is None else f"{expected} in every layer"
        raise ConfigError(f"{reader.where}: '{name}' is {value!r:.60}; {wanted} is needed here")
    return values


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    data, attention, moe = write_routed(config)
    del data["num_local_experts"], data["num_experts_per_tok"]  # transformers' names in memory
    top_k = [routed_ffn(config, block).router.top_k for block in config.blocks]
    listed = len(set(top_k)) > 1 or isinstance(config.extra.get("moe_topk"), list)
    own = {"num_experts": moe.router.num_experts, "moe_topk": top_k if listed else top_k[0]}
    return data | own | _write_attention(config, attention)


def _dense_slots(config: ModelConfig) -> list[Slot]:
    return dense_model_slots(config, layer=_LAYER)


def _moe_slots(config: ModelConfig) -> list[Slot]:
    for block in config.blocks:
        routed_ffn(config, block)
    return moe_slots(config, _ROUTED, _LAYER)


HUNYUAN_V1_DENSE = Family(
    "hunyuan_v1_dense",
    "HunYuanDenseV1ForCausalLM",
    _read_dense,
    _write_dense,
    _dense_slots,
    COMMON_KEYS | {"attention_bias"},
    examples="Hunyuan 0.5B to 7B, Hunyuan-MT",
)
HUNYUAN_V1_MOE = Family(
    "hunyuan_v1_moe",
    "HunYuanMoEV1ForCausalLM",
    _read_moe,
    _write_moe,
    _moe_slots,
    COMMON_KEYS | {"attention_bias", "num_experts", "moe_topk", "router_aux_loss_coef"},
    dense="hunyuan_v1_dense",
    shared="plain",
    examples="Hunyuan-A13B",
)
