"""Llama 3.x, dense (`llama`): arXiv 2407.21783; docs/design/families.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    decoder_slots,
    dense_ffn,
    dense_slots,
    grouped_query,
    read_attention,
    read_model,
    write_model,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import read_rope


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    bias = bool(reader.get("attention_bias", default=False))
    attention = read_attention(reader, rope=read_rope(reader, 10000.0), qkv_bias=bias, output_bias=bias)
    mlp_bias = bool(reader.get("mlp_bias", default=False))
    block = {
        "attention": attention,
        "ffn": {"kind": "dense", "width": reader.get("intermediate_size"), "bias": mlp_bias},
    }
    return read_model(reader, [block] * reader.get("num_hidden_layers"), 1e-6, False)


def _write(config: ModelConfig) -> dict[str, Any]:
    block = config.blocks[0]
    ffn = dense_ffn(config, block)
    attention = grouped_query(config, block)
    return write_model(config, attention) | {
        "intermediate_size": ffn.width,
        "attention_bias": attention.qkv_bias,
        "mlp_bias": ffn.bias,
    }


def _slots(config: ModelConfig) -> list[Slot]:
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        bias = dense_ffn(config, block).bias
        slots += dense_slots(f"model.layers.{index}.mlp", f"blocks.{index}.ffn", bias)
    return slots


LLAMA = Family(
    "llama", "LlamaForCausalLM", _read, _write, _slots, COMMON_KEYS | {"attention_bias", "mlp_bias"}
)
