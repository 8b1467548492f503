"""An indexer's tensors: which layers have them, their shapes, and their places in a file of llama.cpp."""

from __future__ import annotations

import re
from typing import Any

import pytest

from coterie.config import CheckpointError, ModelConfig
from coterie.families import config_from_hf
from coterie.llamacpp.indexer import indexer_shapes, indexer_slots, indexer_types, unused_indexers
from tests.families.hf import tiny
from tests.gguf.models import VOCAB


def config(**changes: Any) -> ModelConfig:
    data = tiny("glm_moe_dsa", vocab_size=VOCAB, index_n_heads=3).config.to_dict()
    return config_from_hf(data | changes)


def test_layers_that_share_keys_have_no_tensors() -> None:
    shapes = indexer_shapes(config(), "m")
    assert {name.split(".")[2] for name in shapes} == {"0", "2"}  # full, shared, full, shared
    indexer = "model.layers.2.self_attn.indexer"
    assert shapes[f"{indexer}.wq_b.weight"] == (36, 12) and shapes[f"{indexer}.wk.weight"] == (12, 32)
    assert shapes[f"{indexer}.weights_proj.weight"] == (3, 32)
    places = {slot.name: slot.stored for slot in indexer_slots(shapes | {"embed.weight": (1, 1)})}
    assert places.keys() == shapes.keys()
    assert places[f"{indexer}.wq_b.weight"] == "blk.2.indexer.attn_q_b.weight"
    assert places[f"{indexer}.weights_proj.weight"] == "blk.2.indexer.proj.weight"
    unused = unused_indexers(config(), "m")
    assert {name.split(".")[1] for name in unused} == {"1", "3"} and len(unused) == 10


def test_every_layer_has_an_indexer_where_the_config_says_nothing() -> None:
    assert indexer_types(config(indexer_types=None), "m") == ["full"] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"indexer_types": ["full"]},
            "m: 'indexer_types' is ['full']; give 'full' or 'shared' for each of 4",
        ),
        ({"indexer_types": [{}] * 4}, "m: 'indexer_types' is [{}, {}, {}, {}]; give"),
        ({"indexer_types": "full"}, "m: 'indexer_types' is full; give"),
        ({"indexer_types": ["shared", "full", "full", "full"]}, "m: the first layer must have an indexer"),
        ({"index_n_heads": None}, "m: 'index_n_heads' is None; give a whole number"),
        ({"index_head_dim": 0}, "m: 'index_head_dim' is 0; give a whole number"),
        ({"q_lora_rank": None}, "m: has no 'q_lora_rank'"),
    ],
)
def test_what_no_indexer_can_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        indexer_shapes(config(**changes), "m")
