"""Phi-3, Phi-3.5 and Phi-4, dense (`phi3`): fused projections and LongRoPE (arXiv 2404.14219, 2402.13753)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    read_attention,
    read_dense_layers,
    read_window,
    write_dense,
)
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import LAYER, RoutedNames, dense_model_slots

_LAYER = LAYER | {f"attention.{part}": "self_attn.qkv_proj" for part in "qkv"}
_NAMES = RoutedNames(dense=("gate_up_proj", "gate_up_proj", "down_proj"))
_LONGROPE = ("su", "yarn")  # what old files call it


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(_renamed({"original_max_position_embeddings": 4096, **data}), where)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        reader.expect(name, False, None)
    attention = read_attention(reader, rope=read_rope(reader, 10000.0, partial=1.0), **read_window(reader))
    layers = [attention] * reader.get("num_hidden_layers")
    return read_dense_layers(reader, layers, 1e-5, False)


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    """The config with today's name of LongRoPE."""
    for key in ("rope_scaling", "rope_parameters"):
        settings = data.get(key)
        if not isinstance(settings, Mapping):
            continue
        kind = {name: "longrope" for name in ("rope_type", "type") if settings.get(name) in _LONGROPE}
        data[key] = dict(settings) | kind
    return data


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config, partial=True)
    scaling = attention.rope.scaling if attention.rope is not None else None
    original = config.max_positions if scaling is None else scaling.original_max_positions
    return data | {"sliding_window": attention.window, "original_max_position_embeddings": original}


PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    _read,
    _write,
    lambda config: dense_model_slots(config, _NAMES, _LAYER),
    COMMON_KEYS | {"sliding_window", "partial_rotary_factor", "original_max_position_embeddings"},
    examples="Phi-3, Phi-3.5 mini, Phi-4, Phi-4 mini",
)
