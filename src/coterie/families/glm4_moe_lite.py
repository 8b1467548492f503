"""GLM-4.7-Flash (`glm4_moe_lite`): DeepSeek-V3's decoder with a list of dense and routed layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig
from coterie.families.base import Family
from coterie.families.deepseek import V3_KEYS, read_v3, write_v3
from coterie.families.reader import Reader
from coterie.families.slots import moe_slots


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    return read_v3(reader, read_layer_kinds(reader), 1.8, (1, 1), 1e-5)


def read_layer_kinds(reader: Reader) -> list[bool]:
    """Whether each layer is dense, from `mlp_layer_types`; without it the first one alone is.

    Errors: `ConfigError` for other kinds, a list of another length, and a `first_k_dense_replace`, which
    transformers ignores, that says something else.
    """
    num_layers = reader.get("num_hidden_layers")
    kinds = reader.get("mlp_layer_types", default=None)
    if kinds is None:
        kinds = ["dense"] + ["sparse"] * (num_layers - 1)
    if not isinstance(kinds, list) or len(kinds) < num_layers or set(kinds) - {"dense", "sparse"}:
        raise ConfigError(
            f"{reader.where}: 'mlp_layer_types' needs {num_layers} entries, each 'dense' or 'sparse'"
        )
    dense = [kind == "dense" for kind in kinds[:num_layers]]
    reader.expect("first_k_dense_replace", None, sum(dense))
    return dense


def layer_kinds(config: ModelConfig) -> list[str]:
    """`mlp_layer_types` of a model."""
    return ["dense" if isinstance(block.ffn, FeedForwardConfig) else "sparse" for block in config.blocks]


def _write(config: ModelConfig) -> dict[str, Any]:
    data, kinds = write_v3(config), layer_kinds(config)
    if kinds != sorted(kinds):  # dense layers after routed ones, which their number does not describe
        del data["first_k_dense_replace"]
    return data | {"mlp_layer_types": kinds}


GLM4_MOE_LITE = Family(
    "glm4_moe_lite",
    "Glm4MoeLiteForCausalLM",
    _read,
    _write,
    moe_slots,
    V3_KEYS | {"mlp_layer_types"},
    examples="GLM-4.7-Flash",
)
