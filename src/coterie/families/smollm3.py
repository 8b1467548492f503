"""SmolLM3 (`smollm3`): a Llama in which every fourth layer has no positions (arXiv 2501.18795)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import COMMON_KEYS, Family, read_attention, read_dense_layers, write_dense
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import dense_model_slots


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("use_sliding_window", False, None)
    num_layers = reader.get("num_hidden_layers")
    interval = reader.get("no_rope_layer_interval", default=4)
    uses_rope = reader.get("no_rope_layers", default=None)
    reader.used.discard("no_rope_layer_interval")  # says the same as the list, and goes back as it came
    if uses_rope is None:
        uses_rope = [int((index + 1) % interval != 0) for index in range(num_layers)]
    if not isinstance(uses_rope, list) or len(uses_rope) < num_layers:
        raise ConfigError(f"{where}: 'no_rope_layers' needs an entry for each of the {num_layers} layers")
    bias = reader.flag("attention_bias", False)
    rope = read_rope(reader, 2e6)
    layers = [
        read_attention(reader, rope=rope if used else None, qkv_bias=bias, output_bias=bias)
        for used in uses_rope[:num_layers]
    ]
    return read_dense_layers(reader, layers, 1e-6, True, reader.flag("mlp_bias", False))


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, ffn = write_dense(config)
    return data | {
        "no_rope_layers": [int(one.rope is not None) for one in config.attentions],
        "use_sliding_window": False,
        "attention_bias": attention.qkv_bias,
        "mlp_bias": ffn.bias,
    }


SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    _read,
    _write,
    dense_model_slots,
    COMMON_KEYS | {"no_rope_layers", "no_rope_layer_interval", "attention_bias", "mlp_bias"},
    unrouted="the mixture with layers without positions (llama4_text) weights what experts read",
    examples="SmolLM3 3B",
)
