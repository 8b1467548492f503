"""Whatever makes a model unlike a plain decoder is said in words."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ModelConfig
from coterie.plan.describe import describe, oddities

ATTENTION = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
FFN = {"kind": "dense", "width": 32}


def config(
    attention: dict[str, Any] | None = None, block: dict[str, Any] | None = None, **model: Any
) -> ModelConfig:
    own = dict(block or {})
    ffn = FFN | own.pop("ffn", {})
    one = {"attention": ATTENTION | (attention or {}), "ffn": ffn} | own
    sizes = {"family": "llama", "vocab_size": 64, "width": 32, "max_positions": 128}
    return ModelConfig.model_validate(sizes | {"blocks": [one, one]} | model)


def test_a_plain_decoder_has_no_oddities():
    assert oddities(config()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": {"rope": {"rotated": 4}}}, "rope turns 4 of 16 numbers of a head"),
        ({"attention": {"scale": 0.5}}, "attention scores times 0.5, not head width^-1/2"),
        ({"attention": {"query_factor": 2.0}}, "attention scores times 0.5, not head width^-1/2"),
        ({"attention": {"score_cap": 50.0}}, "attention scores capped at 50"),
        ({"attention": {"value_norm": True}}, "values normed"),
        ({"attention": {"gate": "full"}}, "attention whose result is gated"),
        ({"attention": {"temperature": {}}}, "queries grow with their position: all layers"),
        ({"block": {"norms": "sandwich"}}, "norms before and after attention and feed-forward"),
        ({"block": {"norms": "post"}}, "norms after attention and feed-forward, none before"),
        ({"block": {"ffn": {"activation": "gelu_tanh"}}}, "GELU (its tanh form) in place of SiLU"),
        ({"norm_plus_one": True}, "norms multiply by 1 + weight"),
        ({"norm_rounding": "after_weight"}, "norms round after their weight"),
        ({"embed_scale": 45.25}, "embeddings times 45.25"),
        ({"embed_norm": True}, "embeddings normed"),
        ({"residual_scale": 0.22}, "what a layer adds times 0.22"),
        ({"logit_scale": 0.125}, "scores of tokens times 0.125"),
        ({"logit_cap": 30.0}, "scores of tokens capped at 30"),
    ],
)
def test_each_difference_has_its_words(changes: dict[str, Any], words: str):
    assert oddities(config(**changes)) == [words]


def test_the_kind_of_norm_of_queries_is_in_the_line_of_the_layers():
    (line,) = describe(config({"qk_norm": "head_after"})).layers
    assert "query/key norm per head after rope" in line
