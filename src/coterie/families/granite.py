"""Granite 3 and 4.1: dense (`granite`), with experts (`granitemoe`), with a shared one (`granitemoeshared`).

Embeddings, what a layer adds, attention scores and logits have multipliers. The experts of a layer are two
tensors on disk, gate rows first. Sources: arXiv 2408.13359 (multipliers), the Granite 3.0 report (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import AttentionConfig, ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    read_attention,
    read_dense_layers,
    read_model,
    read_moe,
    routed_ffn,
    write_dense,
    write_routed,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, decoder_slots, dense_model_slots, shared_slots

_MULTIPLIERS = frozenset(
    "attention_multiplier embedding_multiplier residual_multiplier logits_scaling attention_bias".split()
)
_MOE_KEYS = frozenset("num_local_experts num_experts_per_tok router_aux_loss_coef".split())


def _read_attention(reader: Reader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return read_attention(
        reader,
        rope=read_rope(reader, 10000.0),
        qkv_bias=bias,
        output_bias=bias,
        scale=float(reader.get("attention_multiplier", default=1.0)),
    )


def _read_scales(reader: Reader) -> dict[str, Any]:
    return {
        "embed_scale": float(reader.get("embedding_multiplier", default=1.0)),
        "residual_scale": float(reader.get("residual_multiplier", default=1.0)),
        "logit_scale": 1 / reader.get("logits_scaling", default=1.0),
    }


def _write_scales(config: ModelConfig, attention: AttentionConfig) -> dict[str, Any]:
    divisor = 1 / config.logit_scale
    short = float(f"{divisor:.12g}")  # 1 / (1 / 49) is not 49
    return {
        "attention_bias": attention.qkv_bias,
        "attention_multiplier": attention.softmax_scale,
        "embedding_multiplier": config.embed_scale,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": short if 1 / short == config.logit_scale else divisor,
    }


def _read_dense(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    layers = [_read_attention(reader)] * reader.get("num_hidden_layers")
    bias = reader.flag("mlp_bias", False)
    return read_dense_layers(reader, layers, 1e-6, False, bias, **_read_scales(reader))


def _write_dense(config: ModelConfig) -> dict[str, Any]:
    data, attention, ffn = write_dense(config)
    return data | _write_scales(config, attention) | {"mlp_bias": ffn.bias}


def _read_moe(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    names, width = ("num_local_experts", "num_experts"), reader.get("intermediate_size")
    shared = None
    if data["model_type"] == "granitemoeshared":
        shared = reader.get("shared_intermediate_size", default=0) or None
    # A softmax over the chosen logits is the softmax over all of them, divided by the sum of the chosen.
    moe = read_moe(reader, width, names, {"renormalize": True}, shared_width=shared)
    blocks = [{"attention": _read_attention(reader), "ffn": moe}] * reader.get("num_hidden_layers")
    return read_model(reader, blocks, 1e-6, False, **_read_scales(reader))


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_routed(config)
    return data | _write_scales(config, attention)


def _write_shared(config: ModelConfig) -> dict[str, Any]:
    shared = routed_ffn(config, config.blocks[0]).shared_width
    return _write_moe(config) | {"shared_intermediate_size": shared or 0}


_SHARED = RoutedNames(dense=("input_linear", "input_linear", "output_linear"), shared="shared_mlp")


def _moe_slots(config: ModelConfig) -> list[Slot]:
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        ffn = routed_ffn(config, block)
        layer, ours = f"model.layers.{index}", f"blocks.{index}.ffn"
        disk = f"{layer}.block_sparse_moe"
        slots.append(Slot(f"{disk}.router.layer.weight", f"{ours}.router.weight"))
        slots.append(Slot(f"{disk}.input_linear.weight", f"{ours}.experts.gate_up.weight"))
        slots.append(Slot(f"{disk}.output_linear.weight", f"{ours}.experts.down.weight"))
        slots += shared_slots(layer, ours, ffn, config.width, _SHARED)
    return slots


_IN_MEMORY = (
    (".block_sparse_moe.experts.gate_up_proj", ".block_sparse_moe.input_linear.weight"),
    (".block_sparse_moe.experts.down_proj", ".block_sparse_moe.output_linear.weight"),
    (".router.weight", ".router.layer.weight"),
)
GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    _read_dense,
    _write_dense,
    dense_model_slots,
    COMMON_KEYS | _MULTIPLIERS | {"mlp_bias"},
    examples="Granite 3.0 to 3.3, 4.1",
)
GRANITEMOE = Family(
    "granitemoe",
    "GraniteMoeForCausalLM",
    _read_moe,
    _write_moe,
    _moe_slots,
    COMMON_KEYS | _MULTIPLIERS | _MOE_KEYS,
    dense="granite",
    memory_names=_IN_MEMORY,
    examples="Granite 3.0 and 3.1 1B-A400M, 3B-A800M",
)
GRANITEMOESHARED = Family(
    "granitemoeshared",
    "GraniteMoeSharedForCausalLM",
    _read_moe,
    _write_shared,
    _moe_slots,
    COMMON_KEYS | _MULTIPLIERS | _MOE_KEYS | {"shared_intermediate_size"},
    also_dense=("granite",),
    memory_names=_IN_MEMORY,
    examples="Granite MoE with shared experts",
)
