"""dots.llm1 (`dots1`): Qwen3's attention with DeepSeek-V3's router and shared experts (arXiv 2506.05767)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import COMMON_KEYS, Family, grouped_query, read_attention, write_model
from coterie.families.deepseek import (
    EXPERT_KEYS,
    leading,
    read_experts,
    read_layers,
    selecting_router,
    write_selecting,
)
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import moe_slots


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("attention_bias", False, None)
    dense = leading(reader)
    _no_windows(reader, len(dense))
    moe = read_experts(reader, selecting_router(reader, (1, 1), False), 1.0)
    attention = read_attention(reader, rope=read_rope(reader, 10000.0), qk_norm="head")
    return read_layers(reader, attention, moe, dense, 1e-6)


def _no_windows(reader: Reader, num_layers: int) -> None:
    """Refuse a window in the last layers, which no release has. Errors: `ConfigError`."""
    window, full = reader.data.get("sliding_window", 4096), reader.data.get("max_window_layers", 62)
    if reader.data.get("layer_types") is None and window is not None and full < num_layers:
        raise ConfigError(
            f"{reader.where}: layers from 'max_window_layers' {full} on have a window of {window}, which is "
            "not supported here"
        )
    reader.inert.add("sliding_window")


def _write(config: ModelConfig) -> dict[str, Any]:
    data = write_model(config, grouped_query(config, config.blocks[0])) | write_selecting(config)
    return data | {"attention_bias": False}


DOTS1 = Family(
    "dots1",
    "Dots1ForCausalLM",
    _read,
    _write,
    moe_slots,
    COMMON_KEYS | EXPERT_KEYS | {"norm_topk_prob", "router_bias_rate"},
    examples="dots.llm1",
)
