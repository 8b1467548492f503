"""Ministral 3 (`ministral3`): a Mistral whose queries grow with their position in every layer.

Queries are multiplied by `1 + beta log1p(floor(position / original context))` after the rotation, which YaRN
stretches. Source: transformers 5; the models are those of Mistral AI, December 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    read_attention,
    read_dense_layers,
    read_window,
    write_dense,
)
from coterie.families.reader import Reader, head_dim
from coterie.families.rope import read_rope, rope_settings
from coterie.families.slots import dense_model_slots

_BETA, _ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"
# What transformers uses where config.json says nothing about positions.
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    _ORIGINAL: 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    _BETA: 0.1,
}


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    settings = rope_settings(data, where, _YARN)
    rope = read_rope(reader, 10000.0, unsaid=_YARN, own=(_BETA, "max_position_embeddings"))
    floor = rope.scaling.original_max_positions if rope.scaling else None
    floor = settings.get(_ORIGINAL, floor)
    if floor is None or _BETA not in settings:
        missing = _BETA if _BETA not in settings else _ORIGINAL
        raise ConfigError(f"{where}: '{missing}' is missing in the rope settings")
    temperature = {"floor_scale": floor, "scale": settings[_BETA], "offset": 0}
    width = head_dim(reader, None if "head_dim" in data else 128)
    attention = read_attention(
        reader, rope=rope, temperature=temperature, head_dim=width, **read_window(reader)
    )
    return read_dense_layers(reader, [attention] * reader.get("num_hidden_layers"), 1e-5, False, False)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    temperature = attention.temperature
    if temperature is None:
        raise ConfigError("ministral3 needs queries that grow with their position ('temperature')")
    own = {_BETA: temperature.scale, _ORIGINAL: temperature.floor_scale}
    for name in ("rope_scaling", "rope_parameters"):
        data[name] = data[name] and data[name] | own
    return data | {"sliding_window": attention.window}


MINISTRAL3 = Family(
    "ministral3",
    "Ministral3ForCausalLM",
    _read,
    _write,
    dense_model_slots,
    COMMON_KEYS | {"sliding_window"},
    unrouted="its mixture (mistral4) has latent attention",
    examples="Ministral 3, Devstral 2, Mistral Medium 3.5",
)
