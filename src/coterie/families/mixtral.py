"""Mixtral (`mixtral`): softmax over all experts, top-2 renormalised. architectures.md section 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig, MoEConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    decoder_slots,
    grouped_query,
    read_attention,
    read_model,
    write_model,
)
from coterie.families.mapping import Slot, expert, expert_half
from coterie.families.reader import Reader

_KEYS = {"num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "sliding_window"}


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    window = reader.get("sliding_window", default=None)
    mask = {"mask": "sliding", "window": window} if window else {}
    ffn = {
        "kind": "moe",
        "expert_width": reader.get("intermediate_size"),
        "router": {
            "num_experts": reader.get("num_local_experts"),
            "top_k": reader.get("num_experts_per_tok"),
            "renormalize": True,
        },
        "balance": {"loss_coef": reader.get("router_aux_loss_coef", default=0.0)},
    }
    block = {"attention": read_attention(reader, rope=reader.rope(1e6), **mask), "ffn": ffn}
    return read_model(reader, [block] * reader.get("num_hidden_layers"), 1e-5, False)


def _write(config: ModelConfig) -> dict[str, Any]:
    block = config.blocks[0]
    assert isinstance(block.ffn, MoEConfig)
    return write_model(config, grouped_query(config, block)) | {
        "intermediate_size": block.ffn.expert_width,
        "num_local_experts": block.ffn.router.num_experts,
        "num_experts_per_tok": block.ffn.router.top_k,
        "router_aux_loss_coef": block.ffn.balance.loss_coef,
        "sliding_window": block.attention.window,
    }


def _slots(config: ModelConfig) -> list[Slot]:
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        assert isinstance(block.ffn, MoEConfig)
        disk, ours = f"model.layers.{index}.block_sparse_moe", f"blocks.{index}.ffn"
        slots.append(Slot(f"{disk}.gate.weight", f"{ours}.router.weight"))
        for e in range(block.ffn.router.num_experts):
            slots.append(
                Slot(f"{disk}.experts.{e}.w1.weight", f"{ours}.experts.gate_up.weight", expert_half(e, 0))
            )
            slots.append(
                Slot(f"{disk}.experts.{e}.w3.weight", f"{ours}.experts.gate_up.weight", expert_half(e, 1))
            )
            slots.append(Slot(f"{disk}.experts.{e}.w2.weight", f"{ours}.experts.down.weight", expert(e)))
    return slots


MIXTRAL = Family("mixtral", "MixtralForCausalLM", _read, _write, _slots, COMMON_KEYS | _KEYS)
