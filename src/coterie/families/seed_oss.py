"""Seed-OSS (`seed_oss`): a Llama with biases on queries, keys and values, and heads of a stated width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import COMMON_KEYS, Family, read_dense, write_dense
from coterie.families.reader import Reader
from coterie.families.slots import dense_model_slots


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    biases: dict[str, Any] = {
        "qkv_bias": reader.flag("attention_bias", True),
        "output_bias": reader.flag("attention_out_bias", False),
    }
    width = {"head_dim": 128} if "head_dim" not in data else {}
    return read_dense(reader, 10000.0, 1e-6, False, reader.flag("mlp_bias", False), **biases | width)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, ffn = write_dense(config)
    biases = {"attention_bias": attention.qkv_bias, "attention_out_bias": attention.output_bias}
    return data | biases | {"mlp_bias": ffn.bias}


SEED_OSS = Family(
    "seed_oss",
    "SeedOssForCausalLM",
    _read,
    _write,
    dense_model_slots,
    COMMON_KEYS | {"attention_bias", "attention_out_bias", "mlp_bias"},
    examples="Seed-OSS 36B",
)
