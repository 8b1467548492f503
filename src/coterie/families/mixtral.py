"""Mixtral (`mixtral`): softmax over all experts, the two best renormalised (arXiv 2401.04088)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    read_attention,
    read_model,
    read_moe,
    read_window,
    routed_ffn,
    write_routed,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, moe_slots

_KEYS = {"num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "sliding_window"}


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    ffn = read_moe(
        reader, reader.get("intermediate_size"), ("num_local_experts", "num_experts"), {"renormalize": True}
    )
    block = {
        "attention": read_attention(reader, rope=read_rope(reader, 1e6), **read_window(reader)),
        "ffn": ffn,
    }
    return read_model(reader, [block] * reader.get("num_hidden_layers"), 1e-5, False)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_routed(config)
    return data | {"sliding_window": attention.window}


_NAMES = RoutedNames("block_sparse_moe", parts=("w1", "w3", "w2"))


def _slots(config: ModelConfig) -> list[Slot]:
    for block in config.blocks:
        routed_ffn(config, block)
    return moe_slots(config, _NAMES)


MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    _read,
    _write,
    _slots,
    COMMON_KEYS | _KEYS,
    dense="llama",
    also_dense=("mistral", "phi3"),  # with a sliding window
    examples="Mixtral 8x7B, 8x22B",
    memory_names=((".mlp.", ".block_sparse_moe."),),
)
