"""Mistral Small 4 (`mistral4`): latent attention whose queries grow with the position, softmax experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, FeedForwardConfig, MLAConfig, ModelConfig, MoEConfig
from coterie.families.base import COMMON_KEYS, Family
from coterie.families.deepseek import (
    LATENT_KEYS,
    leading,
    read_experts,
    read_latent,
    read_layers,
    write_experts,
    write_latent,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import rope_settings
from coterie.families.slots import decoder_slots, dense_slots, shared_slots

_BETA, _ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"
# Stated with the rope settings; they follow from the rest.
_REPEATED = ("max_position_embeddings", "partial_rotary_factor")
_UNSAID = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 128.0,
    _ORIGINAL: 8192,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    _BETA: 0.1,
}


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    settings = rope_settings(data, where, _UNSAID)
    beta, original = settings.get(_BETA), settings.get(_ORIGINAL, data.get(_ORIGINAL))
    if beta is None or original is None:
        raise ConfigError(f"{where}: the rope settings of mistral4 need {_BETA} and {_ORIGINAL}")
    style = "pairs" if reader.flag("rope_interleave", True) else "half"
    attention = read_latent(reader, style, unsaid=_UNSAID, own=(_BETA, *_REPEATED))
    attention["temperature"] = {"floor_scale": original, "scale": beta, "offset": 0}
    router = {
        "renormalize": reader.flag("norm_topk_prob", True),
        "num_groups": reader.get("n_group", default=1),
        "top_groups": reader.get("topk_group", default=1),
        "group_score": "top2sum",
        "group_fill": "zero",
    }
    return read_layers(reader, attention, read_experts(reader, router, 1.0), leading(reader), 1e-6)


def _write(config: ModelConfig) -> dict[str, Any]:
    attention, moe = config.blocks[0].attention, config.first_moe
    if not isinstance(attention, MLAConfig) or attention.temperature is None or moe is None:
        raise ConfigError("mistral4 needs latent attention with a temperature, and experts")
    data = write_latent(config) | write_experts(config)
    further = {_BETA: attention.temperature.scale, _ORIGINAL: attention.temperature.floor_scale}
    further["partial_rotary_factor"] = attention.rope_dim / attention.head_dim
    for key in ("rope_parameters", "rope_scaling"):
        data[key] = None if data[key] is None else data[key] | further
    return data | {
        "head_dim": attention.head_dim,
        "rope_interleave": attention.rope.style == "pairs",
        "n_group": moe.router.num_groups,
        "topk_group": moe.router.top_groups,
    }


def _slots(config: ModelConfig) -> list[Slot]:
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        disk, ours = f"model.layers.{index}.mlp", f"blocks.{index}.ffn"
        if isinstance(block.ffn, FeedForwardConfig):
            slots += dense_slots(disk, ours, block.ffn, config.width)
        if not isinstance(block.ffn, MoEConfig):
            continue
        slots.append(Slot(f"{disk}.gate.weight", f"{ours}.router.weight"))
        for part in ("gate_up", "down"):
            slots.append(Slot(f"{disk}.experts.{part}_proj", f"{ours}.experts.{part}.weight"))
        slots += shared_slots(disk, ours, block.ffn, config.width)
    return slots


MISTRAL4 = Family(
    "mistral4",
    "Mistral4ForCausalLM",
    _read,
    _write,
    _slots,
    (COMMON_KEYS - {"head_dim"}) | LATENT_KEYS | {"norm_topk_prob", "rope_interleave"},
    examples="Mistral Small 4 119B",
)
