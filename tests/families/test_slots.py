"""Tables of names: fused tensors, and norms that a layout lacks."""

from __future__ import annotations

import pytest
import torch

from coterie.config import BlockConfig, ConfigError, FeedForwardConfig
from coterie.families.slots import LAYER, RoutedNames, block_slots, dense_slots, linear_slots

FUSED = LAYER | dict.fromkeys(("attention.q", "attention.k", "attention.v"), "self_attn.qkv_proj")
ATTENTION = {"num_heads": 3, "num_kv_heads": 1, "head_dim": 4, "qkv_bias": True}
FFN_DATA = {"kind": "dense", "width": 5}


def block(**variation: object) -> BlockConfig:
    return BlockConfig.from_dict({"attention": ATTENTION, "ffn": FFN_DATA} | variation)


def test_parts_with_one_name_are_rows_of_one_tensor_in_our_order() -> None:
    slots = [s for s in block_slots("l", "b", block(), width=7, names=FUSED) if "qkv" in s.disk]
    kinds = [(slot.disk, slot.name) for slot in slots]
    assert kinds == [
        (f"l.self_attn.qkv_proj.{kind}", f"b.attention.{part}.{kind}")
        for part in "qkv"
        for kind in ("weight", "bias")
    ]
    stored = {"weight": torch.arange(20 * 7).reshape(20, 7), "bias": torch.arange(20)}
    rows = {"q": slice(0, 12), "k": slice(12, 16), "v": slice(16, 20)}
    for slot in slots:
        *_, part, kind = slot.name.split(".")
        assert slot.disk_shape(torch.empty(0)) == tuple(stored[kind].shape)
        assert torch.equal(slot.part(stored[kind]), stored[kind][rows[part]])


def test_gate_and_up_of_one_name_are_halves_and_others_are_whole() -> None:
    names = RoutedNames(dense=("gate_up_proj", "gate_up_proj", "down_proj"))
    gate, up, down = dense_slots("l.mlp", "b.ffn", FeedForwardConfig(width=5), 7, names)
    assert gate.disk == up.disk == "l.mlp.gate_up_proj.weight" and down.within is None
    stored = torch.arange(70).reshape(10, 7)
    assert torch.equal(gate.part(stored), stored[:5]) and torch.equal(up.part(stored), stored[5:])
    (alone,) = linear_slots([("x", "y", 3)], 2)
    assert (alone.disk, alone.name, alone.within) == ("x.weight", "y.weight", None)


def test_norms_without_a_name_are_refused() -> None:
    names = {part for part in LAYER if part.endswith("_norm") and "." not in part}
    assert names == {"attention_norm", "ffn_norm"}
    for norms in ("post", "sandwich"):
        with pytest.raises(ConfigError, match=f"norms '{norms}' have no tensor"):
            block_slots("l", "b", block(norms=norms), 7)
    after = LAYER | {"attention_post_norm": "after_attention", "ffn_post_norm": "after_ffn"}
    found = [slot.disk for slot in block_slots("l", "b", block(norms="sandwich"), 7, after)[-4:]]
    assert found == [
        "l.input_layernorm.weight",
        "l.after_attention.weight",
        "l.post_attention_layernorm.weight",
        "l.after_ffn.weight",
    ]
