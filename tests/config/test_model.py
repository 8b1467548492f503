"""What a model's config says about its layers with experts, and which settings contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError, ModelConfig
from coterie.config.feed_forward import MoEConfig, RouterConfig
from coterie.config.model import AttentionConfig
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


def _longrope(pairs: int, original: int) -> dict[str, Any]:
    factors = [1.0 + n for n in range(pairs)]
    scaling = {"kind": "longrope", "factor": 4.0, "original_max_positions": original}
    return {"scaling": scaling | {"short_factors": factors, "long_factors": factors}}


@pytest.mark.parametrize(
    ("attentions", "message"),
    [
        ([("mla", 3, 16)], "longrope needs 4 factors above 0, not 3"),
        ([("gqa", 3, 16)], "longrope needs 4 factors above 0, not 3"),
        ([("gqa", 4, 1)], "an original context of more than one position"),
        ([("gqa", 4, 16), ("gqa", 4, 32)], "all layers need the same original context"),
    ],
)
def test_longrope_that_cannot_be_computed_is_refused(attentions: list[Any], message: str) -> None:
    latent = {"kind": "mla", "num_heads": 2, "kv_rank": 4, "nope_dim": 4, "rope_dim": 8, "value_dim": 4}
    grouped = {"kind": "gqa", "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
    ffn = {"kind": "dense", "width": 8}
    blocks = [
        {
            "attention": (latent if kind == "mla" else grouped) | {"rope": _longrope(pairs, original)},
            "ffn": ffn,
        }
        for kind, pairs, original in attentions
    ]
    data = {"family": "any", "vocab_size": 9, "width": 8, "blocks": blocks, "max_positions": 64}
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(data, "test")
