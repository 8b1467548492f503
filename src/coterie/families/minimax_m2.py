"""MiniMax M2 (`minimax_m2`): whole queries and keys are normalised, and half of each head rotates.

The router is a sigmoid; a bias takes part in the choice alone. Source: the MiniMax-M2 model card (2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    read_attention,
    read_model,
    read_moe,
    routed_ffn,
    write_routed,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader, head_dim
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, moe_slots

_KEYS = frozenset(
    "num_local_experts num_experts_per_tok rotary_dim partial_rotary_factor router_aux_loss_coef "
    "router_bias_rate".split()
)
# What only the original code reads; each has one meaning here and goes back as it came.
_FIXED: tuple[tuple[str, Any], ...] = (
    ("scoring_func", "sigmoid"),
    ("use_qk_norm", True),
    ("qk_norm_type", "per_layer"),
    ("use_routing_bias", True),
    ("shared_intermediate_size", 0),
)
_NAMES = RoutedNames("block_sparse_moe", select_bias="e_score_correction_bias", parts=("w1", "w3", "w2"))


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    for name, value in _FIXED:
        reader.expect(name, value, None)
        reader.used.discard(name)
    width = head_dim(reader, 128)
    turning = reader.get("rotary_dim", default=width)
    rope = read_rope(reader, 5e6, partial=turning / width, width=width)
    if (rope.rotated or width) != turning and "rotary_dim" in data:
        raise ConfigError(
            f"{where}: 'rotary_dim' is {turning}, and 'partial_rotary_factor' says {rope.rotated or width}; "
            "give one of them"
        )
    router = {"score": "sigmoid", "select_bias": True, "renormalize": True, "renormalize_eps": 0.0}
    moe = read_moe(
        reader,
        reader.get("intermediate_size"),
        ("num_local_experts", "num_experts"),
        router,
        {"bias_rate": reader.get("router_bias_rate", default=0.001)},
    )
    attention = read_attention(reader, rope=rope, qk_norm="full", head_dim=width)
    blocks = [{"attention": attention, "ffn": moe}] * reader.get("num_hidden_layers")
    return read_model(reader, blocks, 1e-6, False)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, moe = write_routed(config, partial=True)
    turning = attention.rope.rotated if attention.rope else None
    return data | {"rotary_dim": turning or attention.head_dim, "router_bias_rate": moe.balance.bias_rate}


def _slots(config: ModelConfig) -> list[Slot]:
    for block in config.blocks:
        routed_ffn(config, block)
    return moe_slots(config, _NAMES)


MINIMAX_M2 = Family(
    "minimax_m2",
    "MiniMaxM2ForCausalLM",
    _read,
    _write,
    _slots,
    COMMON_KEYS | _KEYS,
    memory_names=((".mlp.", ".block_sparse_moe."),),
    examples="MiniMax M2, M2.1, M2.5, M2.7",
)
