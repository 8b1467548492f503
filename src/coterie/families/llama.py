"""Llama 3.x, dense (`llama`): arXiv 2407.21783; docs/design/families.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import COMMON_KEYS, Family, read_dense, write_dense
from coterie.families.reader import Reader
from coterie.families.slots import dense_model_slots


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    bias = reader.flag("attention_bias", False)
    mlp_bias = reader.flag("mlp_bias", False)
    return read_dense(reader, 10000.0, 1e-6, False, mlp_bias, qkv_bias=bias, output_bias=bias)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, ffn = write_dense(config)
    return data | {"attention_bias": attention.qkv_bias, "mlp_bias": ffn.bias}


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    _read,
    _write,
    dense_model_slots,
    COMMON_KEYS | {"attention_bias", "mlp_bias"},
    examples="Llama 3.x, SmolLM2, Yi, DeepSeek R1 distilled into Llama",
)
