"""Qwen1.5-MoE and Qwen2-57B (`qwen2_moe`): Qwen2 with experts, and a shared one behind a gate.

The shared expert's result is multiplied by `sigmoid(w x)`, one number per token (arXiv 2407.10671).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import Family, first_ffns, grouped_query, read_attention
from coterie.families.mapping import Slot
from coterie.families.qwen3 import SPARSE_KEYS, read_moe_ffn, read_sparse, write_sparse
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, moe_slots

_SHARED = "shared_expert_intermediate_size"


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("use_sliding_window", False, None)
    bias = reader.flag("qkv_bias", True)
    attention = read_attention(reader, rope=read_rope(reader, 10000.0), qkv_bias=bias)
    width = reader.get(_SHARED)
    moe = read_moe_ffn(reader, "moe_intermediate_size", shared_width=width, shared_gate=True)
    return read_sparse(reader, attention, moe)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, (_, moe) = write_sparse(config), first_ffns(config)
    if moe is None or not moe.shared_gate:
        raise ConfigError("a qwen2_moe checkpoint has a shared expert behind a gate, which this model lacks")
    return data | {
        "qkv_bias": grouped_query(config, config.blocks[0]).qkv_bias,
        _SHARED: moe.shared_width,
    }


def _slots(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, RoutedNames(shared="shared_expert"))


QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    _read,
    _write,
    _slots,
    SPARSE_KEYS | {"qkv_bias", _SHARED},
    dense="qwen2",
    also_dense=("seed_oss",),  # with heads of another width
    shared="gated",
    examples="Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
)
