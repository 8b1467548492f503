"""LFM2, dense (`lfm2`) and with experts (`lfm2_moe`): short convolutions, and attention in some layers.

The mathematics is in docs/design/families.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import AttentionConfig, ConfigError, FeedForwardConfig, ModelConfig
from coterie.config.mixers import ShortConvConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    dense_ffn,
    first_ffns,
    read_attention,
    read_model,
    read_moe,
    write_model,
)
from coterie.families.mapping import Slot
from coterie.families.mixed_layers import first_of_both, kinds_of, read_kinds
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import LAYER, RoutedNames, dense_model_slots, moe_slots

_KINDS = {"conv": ShortConvConfig, "full_attention": AttentionConfig}
_KEYS = (COMMON_KEYS - {"rms_norm_eps"}) | {
    "norm_eps", "conv_L_cache", "conv_bias", "layer_types", "tie_embedding",
}  # fmt: skip
# What the width of the feed-forward follows from; kept as it is where it still gives that width.
_WIDTH_KEYS = frozenset(
    "intermediate_size block_ff_dim block_multiple_of block_ffn_dim_multiplier "
    "block_auto_adjust_ff_dim".split()
)
_ROUTER: dict[str, Any] = {
    "score": "sigmoid",
    "select_bias": True,
    "renormalize": True,
    "renormalize_eps": 1e-6,
}
_MOE_KEYS = frozenset(
    "moe_intermediate_size num_dense_layers num_experts num_experts_per_tok use_expert_bias "
    "routed_scaling_factor norm_topk_prob router_bias_rate router_aux_loss_coef".split()
)


def _read_layers(reader: Reader) -> list[dict[str, Any]]:
    num_layers = reader.get("num_hidden_layers")
    attending = reader.get("full_attn_idxs", default=None)
    attending = range(num_layers) if attending is None else attending
    usual = ["full_attention" if index in attending else "conv" for index in range(num_layers)]
    types = read_kinds(reader, _KINDS, usual)
    attention = read_attention(reader, rope=read_rope(reader, 1000000.0), qk_norm="head")
    kernel, bias = reader.get("conv_L_cache", default=3), reader.flag("conv_bias", False)
    conv = {"kind": "short_conv", "channels": reader.get("hidden_size"), "kernel": kernel, "bias": bias}
    return [attention if kind == "full_attention" else conv for kind in types]


def _read_whole(reader: Reader, ffns: list[dict[str, Any]]) -> ModelConfig:
    layers = _read_layers(reader)
    blocks = [{"attention": mixer, "ffn": ffn} for mixer, ffn in zip(layers, ffns, strict=True)]
    eps = reader.get("norm_eps", default=1e-5)
    tie = reader.get("tie_embedding", "tie_word_embeddings", default=True)
    return read_model(reader, blocks, 1e-5, True, norm_eps=eps, tie_embeddings=tie)


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader({"num_key_value_heads": 8} | dict(data), where)
    ffn = {"kind": "dense", "width": _width(data)}
    return _read_whole(reader, [ffn] * reader.get("num_hidden_layers"))


def _width(data: Mapping[str, Any]) -> int:
    """The width of the feed-forwards, as transformers works it out."""
    width = data.get("block_ff_dim")
    width = int(data.get("intermediate_size", 12288) if width is None else width)
    if not data.get("block_auto_adjust_ff_dim", True):
        return width
    width, factor = int(2 * width / 3), data.get("block_ffn_dim_multiplier", 1.0)
    if factor is None:
        return width
    multiple = data.get("block_multiple_of", 256)
    return int(multiple * -(-int(factor * width) // multiple))


def _read_moe(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader({"num_key_value_heads": 8} | dict(data), where)
    num_layers, num_dense = reader.get("num_hidden_layers"), reader.get("num_dense_layers", default=2)
    router = _ROUTER | {
        "select_bias": reader.flag("use_expert_bias", True),
        "renormalize": reader.flag("norm_topk_prob", True),
        "scale": reader.get("routed_scaling_factor", default=1.0),
    }
    balance = {"bias_rate": reader.get("router_bias_rate", default=0.0)}
    moe = read_moe(reader, reader.get("moe_intermediate_size"), ("num_experts",), router, balance)
    dense = {"kind": "dense", "width": reader.get("intermediate_size") if num_dense else 1}
    return _read_whole(reader, [dense if index < num_dense else moe for index in range(num_layers)])


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    attention, conv = first_of_both(config, ShortConvConfig)
    data = write_model(config, attention)
    del data["rms_norm_eps"]
    if attention.head_dim == config.width // attention.num_heads:
        del data["head_dim"]  # derived, and not among the keys of released files
    return data | {
        "norm_eps": config.norm_eps,
        "tie_embedding": config.tie_embeddings,
        "conv_L_cache": conv.kernel,
        "conv_bias": conv.bias,
        "layer_types": kinds_of(config, _KINDS),
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    data, width = _write_layers(config), dense_ffn(config, config.blocks[0]).width
    kept = {key: config.extra[key] for key in _WIDTH_KEYS if key in config.extra}
    if kept and _width(kept) == width:
        return data | kept
    return (
        data
        | dict.fromkeys(("intermediate_size", "block_ff_dim"), width)
        | {"block_auto_adjust_ff_dim": False}
    )


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    dense, moe = first_ffns(config)
    if moe is None:
        raise ConfigError("lfm2_moe needs at least one layer with experts; for none, use lfm2")
    balance = {
        "router_bias_rate": moe.balance.bias_rate,
        "router_aux_loss_coef": moe.balance.loss_coef,
    }
    return (
        _write_layers(config)
        | {
            "intermediate_size": dense.width if dense else config.extra.get("intermediate_size", 7168),
            "moe_intermediate_size": moe.expert_width,
            "num_dense_layers": sum(isinstance(block.ffn, FeedForwardConfig) for block in config.blocks),
            "num_experts": moe.router.num_experts,
            "num_experts_per_tok": moe.router.top_k,
            "use_expert_bias": moe.router.select_bias,
            "norm_topk_prob": moe.router.renormalize,
            "routed_scaling_factor": moe.router.scale,
        }
        | {key: value for key, value in balance.items() if value}
    )


_PARTS = ("w1", "w3", "w2")
_NAMES = RoutedNames("feed_forward", _PARTS, select_bias="expert_bias", parts=_PARTS)
_LAYER = LAYER | {
    "attention_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    "norm": "embedding_norm",
    "attention.o": "self_attn.out_proj",
    "attention.q_norm": "self_attn.q_layernorm",
    "attention.k_norm": "self_attn.k_layernorm",
    "short_conv": "conv",
}


def _slots(config: ModelConfig) -> list[Slot]:
    return dense_model_slots(config, _NAMES, _LAYER)


def _slots_moe(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, _NAMES, _LAYER)


LFM2 = Family(
    "lfm2",
    "Lfm2ForCausalLM",
    _read,
    _write,
    _slots,
    _KEYS | _WIDTH_KEYS | {"full_attn_idxs"},
    examples="LFM2 350M, 700M, 1.2B, 2.6B",
)
LFM2_MOE = Family(
    "lfm2_moe",
    "Lfm2MoeForCausalLM",
    _read_moe,
    _write_moe,
    _slots_moe,
    _KEYS | _MOE_KEYS,
    dense="lfm2",
    upcycled=_ROUTER,
    examples="LFM2 8B-A1B, 24B-A2B",
)
