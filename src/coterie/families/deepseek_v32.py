"""DeepSeek-V3.2 (`deepseek_v32`) and GLM-5 (`glm_moe_dsa`): DeepSeek-V3's decoder with chosen keys.

An indexer chooses the `index_topk` keys that a query attends to (arXiv 2512.02556). Up to as many tokens it
chooses all of them, which is plain latent attention; longer sequences are refused here, and the indexer's
tensors are carried unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import Family
from coterie.families.deepseek import V3_KEYS, leading, read_v3, write_v3
from coterie.families.glm4_moe_lite import layer_kinds, read_layer_kinds
from coterie.families.reader import Reader
from coterie.families.slots import moe_slots

# Where the config says nothing: (groups, chosen groups) of experts, and the norms' epsilon.
_UNSAID = {"deepseek_v32": ((8, 4), 1e-6), "glm_moe_dsa": ((1, 1), 1e-5)}
_LONGEST = "max_position_embeddings"


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader({"first_k_dense_replace": 3, "index_topk": 2048, **data}, where)
    groups, eps = _UNSAID[data["model_type"]]
    reader.expect("rope_interleave", True, None)
    num_layers, chosen = reader.get("num_hidden_layers"), reader.get("index_topk")
    reader.expect("layer_types", None, ["indexed_attention"] * num_layers)
    if type(chosen) is not int or chosen < 1:
        raise ConfigError(f"{where}: 'index_topk' is {chosen!r}; give a whole number from 1 up")
    dense = leading(reader) if data.get("mlp_layer_types") is None else read_layer_kinds(reader)
    config = read_v3(reader, dense, 2.5, groups, eps)
    kept = config.extra | {_LONGEST: config.max_positions, "index_topk": chosen}
    most = min(config.max_positions, chosen)
    return config.model_copy(update={"max_positions": most, "extra": kept})


def _write(config: ModelConfig) -> dict[str, Any]:
    longest = config.extra.get(_LONGEST, config.max_positions)
    chosen = config.extra.get("index_topk", config.max_positions)
    if min(longest, chosen) != config.max_positions:
        raise ConfigError(
            f"a {config.family} checkpoint chooses {chosen} keys, and the model takes {config.max_positions} "
            "positions; give it as many"
        )
    return write_v3(config) | {
        _LONGEST: longest,
        "index_topk": chosen,
        "mlp_layer_types": layer_kinds(config),
        "layer_types": ["indexed_attention"] * config.num_layers,
    }


def _family(model_type: str, architecture: str, examples: str) -> Family:
    return Family(
        model_type,
        architecture,
        _read,
        _write,
        moe_slots,
        V3_KEYS | {"mlp_layer_types", "index_topk"},
        ("model.layers.{layer}.self_attn.indexer.",),
        examples=examples,
    )


DEEPSEEK_V32 = _family(
    "deepseek_v32", "DeepseekV32ForCausalLM", "DeepSeek V3.2, up to the 2,048 keys that it chooses"
)
GLM_MOE_DSA = _family("glm_moe_dsa", "GlmMoeDsaForCausalLM", "GLM-5, up to 2,048 positions")
