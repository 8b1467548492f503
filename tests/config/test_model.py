"""What a model's config says about its layers with experts, and which settings contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError, ModelConfig
from coterie.config.model import AttentionConfig, MoEConfig, RouterConfig
from coterie.config.positions import RopeConfig

ATTENTION = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 4}
DENSE = {"kind": "dense", "width": 8}


def routed(num_experts: int) -> dict[str, Any]:
    return {"kind": "moe", "expert_width": 8, "router": {"num_experts": num_experts, "top_k": 1}}


def config(*ffns: dict[str, Any]) -> ModelConfig:
    blocks = [{"attention": ATTENTION, "ffn": ffn} for ffn in ffns]
    sizes = {"vocab_size": 16, "width": 8, "max_positions": 32}
    return ModelConfig.from_dict({"family": "qwen3_moe", "blocks": blocks} | sizes)


def test_layers_with_experts() -> None:
    mixed = config(DENSE, routed(4), DENSE, routed(6))
    assert [(layer, moe.router.num_experts) for layer, moe in mixed.moe_layers()] == [(1, 4), (3, 6)]
    assert mixed.first_moe is mixed.blocks[1].ffn and mixed.is_moe
    dense = config(DENSE)
    assert dense.moe_layers() == [] and dense.first_moe is None and not dense.is_moe


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [
        (RouterConfig, {"num_experts": 4, "top_k": 5}, "top_k 5 is larger than num_experts 4"),
        (RouterConfig, {"num_experts": 4, "top_k": 1, "num_groups": 3}, "must be a multiple of num_groups 3"),
        (AttentionConfig, ATTENTION | {"num_heads": 3, "num_kv_heads": 2}, "must be a multiple of"),
        (AttentionConfig, ATTENTION | {"mask": "sliding"}, "need 'window'"),
        (MoEConfig, routed(4) | {"balance": {"bias_rate": 0.1}}, "needs router.select_bias"),
        (RopeConfig, {"scaling": {"kind": "linear", "factor": 2, "mscale": 1}}, "belongs to kind 'yarn'"),
    ],
)
def test_contradictions_are_one_line(settings: Any, data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.from_dict(data)
    assert words in str(caught.value) and "\n" not in str(caught.value)
