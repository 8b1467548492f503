"""Qwen3-Next and Qwen3.5: three layers of Gated DeltaNet to one of gated attention.

`qwen3_next`: with experts. `qwen3_5_text`, `qwen3_5_moe_text`: the text models of Qwen3.5, dense and with
experts; `qwen3_5`, `qwen3_5_moe`: the released forms, with an image encoder around them. Layers for
multi-token prediction are carried through. The mathematics is in docs/design/families.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.config import AttentionConfig, ConfigError, FeedForwardConfig, ModelConfig, MoEConfig
from coterie.config.mixers import DeltaNetConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    dense_ffn,
    first_ffns,
    read_attention,
    read_model,
    read_moe,
    routed_ffn,
    write_model,
)
from coterie.families.mapping import Slot
from coterie.families.mixed_layers import first_of_both, kinds_of, read_kinds
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import LAYER, RoutedNames, moe_slots
from coterie.families.wrapper import wrapper

_LINEAR = {
    "linear_num_key_heads": ("num_key_heads", 16),
    "linear_num_value_heads": ("num_value_heads", 32),
    "linear_key_head_dim": ("key_dim", 128),
    "linear_value_head_dim": ("value_dim", 128),
    "linear_conv_kernel_dim": ("kernel", 4),
}
_KINDS = {"linear_attention": DeltaNetConfig, "full_attention": AttentionConfig}
# The angles of height and width, which are those of the position for text.
_GRID = ("mrope_section", "mrope_interleaved")
_KEYS = COMMON_KEYS | _LINEAR.keys() | {"layer_types", "full_attention_interval", "partial_rotary_factor"}
_MOE_KEYS = frozenset(
    "num_experts num_local_experts num_experts_per_tok moe_intermediate_size "
    "shared_expert_intermediate_size router_aux_loss_coef output_router_logits".split()
)
_STEP_KEYS = {"norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"}


def _read_layers(reader: Reader) -> list[dict[str, Any]]:
    """The mixer of every layer."""
    reader.expect("attention_bias", False, None)
    num_layers = reader.get("num_hidden_layers")
    interval = reader.get("full_attention_interval", default=4)
    usual = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(num_layers)]
    types = read_kinds(reader, _KINDS, usual)
    reader.used.discard("full_attention_interval")  # kept as it is: layer_types, which is written, decides
    linear = {name: reader.get(key, default=usual) for key, (name, usual) in _LINEAR.items()}
    rope = read_rope(reader, 10000.0, partial=0.25, own=_GRID)
    full = read_attention(reader, rope=rope, qk_norm="head", gate="full")
    layers = {"linear_attention": {"kind": "gated_delta"} | linear, "full_attention": full}
    return [layers[kind] for kind in types]


def _read(data: Mapping[str, Any], where: str, ffns: Callable[[Reader], list[dict[str, Any]]]) -> ModelConfig:
    reader = Reader({"head_dim": 256, "num_key_value_heads": 2} | dict(data), where)
    mixers = _read_layers(reader)
    blocks = [{"attention": mixer, "ffn": ffn} for mixer, ffn in zip(mixers, ffns(reader), strict=True)]
    norms = {"norm_plus_one": True, "norm_rounding": "after_weight"}
    config = read_model(reader, blocks, 1e-6, False, **norms)
    stored = data.get("rope_scaling") or data.get("rope_parameters") or {}
    grid = {key: stored[key] for key in _GRID if key in stored}
    return config.model_copy(update={"extra": config.extra | ({"rope_parameters": grid} if grid else {})})


def _dense(reader: Reader) -> list[dict[str, Any]]:
    ffn = {"kind": "dense", "width": reader.get("intermediate_size")}
    return [ffn] * reader.get("num_hidden_layers")


def _routed(reader: Reader) -> dict[str, Any]:
    """The experts of a layer, with a gated shared one."""
    return read_moe(
        reader,
        reader.get("moe_intermediate_size"),
        ("num_experts", "num_local_experts"),
        {"renormalize": bool(reader.get("norm_topk_prob", default=True))},
        shared_width=reader.get("shared_expert_intermediate_size", default=512),
        shared_gate=True,
    )


def _always_routed(reader: Reader) -> list[dict[str, Any]]:
    reader.expect("norm_topk_prob", True, None)
    for name in ("decoder_sparse_step", "mlp_only_layers"):
        reader.expect(name, None, 1 if name == "decoder_sparse_step" else [])
    return [_routed(reader)] * reader.get("num_hidden_layers")


def _some_routed(reader: Reader) -> list[dict[str, Any]]:
    step, num_layers = reader.get("decoder_sparse_step", default=1), reader.get("num_hidden_layers")
    dense = set(reader.get("mlp_only_layers", default=None) or ())
    routed = [index not in dense and (index + 1) % step == 0 for index in range(num_layers)]
    moe = _routed(reader)
    if all(routed):
        return [moe] * num_layers
    plain = {"kind": "dense", "width": reader.get("intermediate_size")}
    return [moe if one else plain for one in routed]


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    full, linear = first_of_both(config, DeltaNetConfig)
    data = write_model(config, full, partial=True)
    grid = config.extra.get("rope_parameters", {})
    data["rope_parameters"] = {key: grid[key] for key in _GRID if key in grid} | data["rope_parameters"]
    return data | {
        "attention_bias": False,
        "layer_types": kinds_of(config, _KINDS),
        **{key: getattr(linear, name) for key, (name, _) in _LINEAR.items()},
    }


def _write_dense(config: ModelConfig) -> dict[str, Any]:
    return _write_layers(config) | {"intermediate_size": dense_ffn(config, config.blocks[0]).width}


def _write_experts(config: ModelConfig, moe: MoEConfig) -> dict[str, Any]:
    if moe.shared_width is None or not moe.shared_gate:
        raise ConfigError(f"a {config.family} model has a shared expert with a gate in every routed layer")
    return {
        "num_experts": moe.router.num_experts,
        "num_experts_per_tok": moe.router.top_k,
        "moe_intermediate_size": moe.expert_width,
        "shared_expert_intermediate_size": moe.shared_width,
        "router_aux_loss_coef": moe.balance.loss_coef,
    }


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    return _write_layers(config) | _write_experts(config, routed_ffn(config, config.blocks[0]))


def _write_next(config: ModelConfig) -> dict[str, Any]:
    dense, moe = first_ffns(config)
    if moe is None:
        raise ConfigError("qwen3_next needs at least one MoE layer")
    plain = [i for i, block in enumerate(config.blocks) if isinstance(block.ffn, FeedForwardConfig)]
    data = _write_layers(config) | _write_experts(config, moe)
    data |= {"norm_topk_prob": moe.router.renormalize, "decoder_sparse_step": 1, "mlp_only_layers": plain}
    return data | ({"intermediate_size": dense.width} if dense else {})


_NAMES = RoutedNames(shared="shared_expert")
_LAYER = LAYER | {"attention.gate": "self_attn.q_proj", "gated_delta": "linear_attn"}


def _slots(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, _NAMES, _LAYER)


def _slots_next(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, _NAMES, _LAYER | {"attention.qkvz": "linear_attn.in_proj_qkvz"})


_FURTHER = ("mtp.",)
QWEN3_NEXT = Family(
    "qwen3_next",
    "Qwen3NextForCausalLM",
    lambda data, where: _read(data, where, _some_routed),
    _write_next,
    _slots_next,
    _KEYS | _MOE_KEYS | _STEP_KEYS,
    _FURTHER,
    predicting=_FURTHER,
    examples="Qwen3-Next 80B-A3B",
)
QWEN3_5_TEXT = Family(
    "qwen3_5_text",
    "Qwen3_5ForCausalLM",
    lambda data, where: _read(data, where, _dense),
    _write_dense,
    _slots,
    _KEYS,
    _FURTHER,
    predicting=_FURTHER,
    examples="Qwen3.5 0.8B to 27B, text alone",
)
QWEN3_5_MOE_TEXT = Family(
    "qwen3_5_moe_text",
    "Qwen3_5MoeForCausalLM",
    lambda data, where: _read(data, where, _always_routed),
    _write_moe,
    _slots,
    _KEYS | _MOE_KEYS,
    _FURTHER,
    dense="qwen3_5_text",
    shared="gated",
    predicting=_FURTHER,
    examples="Qwen3.5 35B-A3B to 397B-A17B, text alone",
)
QWEN3_5 = wrapper(
    "qwen3_5",
    "Qwen3_5ForConditionalGeneration",
    (QWEN3_5_TEXT,),
    ("model.visual.", "mtp."),
    layout="inside",
    examples="Qwen3.5 0.8B, 2B, 4B, 9B, 27B",
)
QWEN3_5_MOE = wrapper(
    "qwen3_5_moe",
    "Qwen3_5MoeForConditionalGeneration",
    (QWEN3_5_MOE_TEXT,),
    ("model.visual.", "mtp."),
    layout="inside",
    dense="qwen3_5",
    examples="Qwen3.5 35B-A3B, 122B-A10B, 397B-A17B",
)
