"""gpt-oss (`gpt_oss`): attention sinks, biases everywhere, sliding and full layers in turn.

arXiv 2508.10925; docs/design/families.md. The released files pack the experts as MXFP4, which
`checkpoints.tensor_reader` unpacks; configs and slots are those of bfloat16 or float32 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig, MoEConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    grouped_query,
    layer_masks,
    layer_types,
    read_attention,
    read_layer_types,
    read_model,
    read_moe,
    write_model,
)
from coterie.families.mapping import Slot, transposed
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import decoder_slots

_KEYS = frozenset(
    "num_local_experts num_experts_per_tok sliding_window layer_types attention_bias swiglu_alpha "
    "swiglu_limit router_aux_loss_coef".split()
)
# What transformers uses where config.json says nothing about positions.
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    types = read_layer_types(reader, lambda index: "full_attention" if index % 2 else "sliding_attention")
    bias = bool(reader.get("attention_bias", default=True))
    attention = read_attention(
        reader,
        rope=read_rope(reader, 150000.0, unsaid=_YARN),
        sinks=True,
        qkv_bias=bias,
        output_bias=bias,
    )
    moe = read_moe(
        reader,
        reader.get("intermediate_size"),
        ("num_local_experts", "num_experts"),
        {"score_after_topk": True, "bias": True},
        clamped={
            "alpha": reader.get("swiglu_alpha", default=1.702),
            "limit": reader.get("swiglu_limit", default=7.0),
        },
    )
    blocks = [{"attention": attention | mask, "ffn": moe} for mask in layer_masks(reader, types)]
    return read_model(reader, blocks, 1e-5, False, norm_rounding="after_weight")


def _write(config: ModelConfig) -> dict[str, Any]:
    attentions = [grouped_query(config, block) for block in config.blocks]
    moe = config.blocks[0].ffn
    if not isinstance(moe, MoEConfig) or moe.clamped is None:
        raise ConfigError("gpt_oss needs MoE layers with the clamped activation")
    window = next((a.window for a in attentions if a.window is not None), config.extra.get("sliding_window"))
    return write_model(config, attentions[0]) | {
        "intermediate_size": moe.expert_width,
        "num_local_experts": moe.router.num_experts,
        "num_experts_per_tok": moe.router.top_k,
        "swiglu_alpha": moe.clamped.alpha,
        "swiglu_limit": moe.clamped.limit,
        "router_aux_loss_coef": moe.balance.loss_coef,
        "attention_bias": attentions[0].qkv_bias,
        "sliding_window": window,
        "layer_types": layer_types(config),
    }


def _slots(config: ModelConfig) -> list[Slot]:
    slots = decoder_slots(config)
    for index in range(config.num_layers):
        disk, ours = f"model.layers.{index}.mlp", f"blocks.{index}.ffn"
        slots += [Slot(f"{disk}.router.{kind}", f"{ours}.router.{kind}") for kind in ("weight", "bias")]
        for part in ("gate_up", "down"):
            slots.append(Slot(f"{disk}.experts.{part}_proj", f"{ours}.experts.{part}.weight", transposed))
            slots.append(Slot(f"{disk}.experts.{part}_proj_bias", f"{ours}.experts.{part}.bias"))
    return slots


GPT_OSS = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    _read,
    _write,
    _slots,
    COMMON_KEYS | _KEYS,
    fused="in-out",
    examples="gpt-oss 20b, 120b",
)
