"""Qwen2 and Qwen2.5, dense (`qwen2`): biases on queries, keys and values (arXiv 2412.15115)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import COMMON_KEYS, Family, read_dense, write_dense
from coterie.families.reader import Reader
from coterie.families.slots import dense_model_slots


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("use_sliding_window", False, None)
    if data.get("dual_chunk_attention_config"):
        raise ConfigError(
            f"{where}: 'dual_chunk_attention_config' is set: positions of long texts are remapped by chunks, "
            "which is not supported here; use a model without it"
        )
    return read_dense(reader, 10000.0, 1e-6, False, qkv_bias=True)


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_dense(config)[0] | {"use_sliding_window": False}


QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    _read,
    _write,
    dense_model_slots,
    COMMON_KEYS,
    examples="Qwen2, Qwen2.5, Coder, Math, QwQ, DeepSeek R1 distilled into Qwen",
)
