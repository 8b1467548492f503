"""GLM-4.5, 4.6 and 4.7 (`glm4_moe`): DeepSeek-V3's experts behind plain attention (arXiv 2508.06471).

Half of each head rotates, unless the config says otherwise. The layer past the last one is for multi-token
prediction, as in DeepSeek-V3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
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

_KEYS = frozenset(
    "attention_bias use_qk_norm partial_rotary_factor norm_topk_prob router_bias_rate "
    "num_nextn_predict_layers".split()
)


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    moe = read_experts(reader, selecting_router(reader, (1, 1), True), 1.0)
    attention = read_attention(
        reader,
        rope=read_rope(reader, 10000.0, partial=0.5),
        qkv_bias=reader.flag("attention_bias", False),
        qk_norm="head" if reader.flag("use_qk_norm", False) else "none",
    )
    num_mtp_layers = reader.get("num_nextn_predict_layers", "num_mtp_layers", default=0)
    return read_layers(reader, attention, moe, leading(reader, 1), 1e-5, num_mtp_layers=num_mtp_layers)


def _write(config: ModelConfig) -> dict[str, Any]:
    attention = grouped_query(config, config.blocks[0])
    data = write_model(config, attention, partial=True) | write_selecting(config)
    return data | {
        "attention_bias": attention.qkv_bias,
        "use_qk_norm": attention.qk_norm == "head",
        "num_nextn_predict_layers": config.num_mtp_layers,
    }


GLM4_MOE = Family(
    "glm4_moe",
    "Glm4MoeForCausalLM",
    _read,
    _write,
    moe_slots,
    COMMON_KEYS | EXPERT_KEYS | _KEYS,
    examples="GLM-4.5, 4.6, 4.7 and their Air sizes",
)
