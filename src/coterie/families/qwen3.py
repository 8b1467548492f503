"""Qwen3, dense (`qwen3`) and with experts (`qwen3_moe`), and OLMoE (`olmoe`).

Qwen3: arXiv 2505.09388. OLMoE (arXiv 2409.02060) normalises whole queries and keys instead of each head.
The mathematics is in docs/design/families.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig, MoEConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    first_ffns,
    grouped_query,
    read_attention,
    read_dense,
    read_model,
    read_moe,
    routed_ffn,
    write_dense,
    write_model,
)
from coterie.families.deepseek import read_layers
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import dense_model_slots, moe_slots

_ROUTER_KEYS = {"num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob"}
_BALANCE_KEYS = {"router_aux_loss_coef", "router_z_loss_coef", "output_router_logits"}


def _read_dense(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("use_sliding_window", False, None)
    reader.expect("attention_bias", False, None)
    return read_dense(reader, 10000.0, 1e-6, False, qk_norm="head")


def _write_dense(config: ModelConfig) -> dict[str, Any]:
    return write_dense(config)[0] | {"attention_bias": False}


def read_moe_ffn(reader: Reader, width_key: str, **variation: Any) -> dict[str, Any]:
    """Experts as data from Qwen's keys; `width_key`: of their width."""
    router = {"renormalize": reader.flag("norm_topk_prob", False)}
    balance = {"z_loss_coef": reader.get("router_z_loss_coef", default=0.0)}
    names = ("num_experts", "num_local_experts")
    return read_moe(reader, reader.get(width_key), names, router, balance, **variation)


def write_moe_ffn(ffn: MoEConfig, width_key: str) -> dict[str, Any]:
    """Qwen's keys of the experts."""
    data = {
        # transformers 5 reads num_local_experts and 4.x reads num_experts: write both.
        "num_experts": ffn.router.num_experts,
        "num_local_experts": ffn.router.num_experts,
        "num_experts_per_tok": ffn.router.top_k,
        "norm_topk_prob": ffn.router.renormalize,
        width_key: ffn.expert_width,
        "router_aux_loss_coef": ffn.balance.loss_coef,
    }
    return data | ({"router_z_loss_coef": ffn.balance.z_loss_coef} if ffn.balance.z_loss_coef else {})


def _read_moe(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("use_sliding_window", False, None)
    reader.expect("attention_bias", False, None)
    attention = read_attention(reader, rope=read_rope(reader, 10000.0), qk_norm="head")
    return read_sparse(reader, attention, read_moe_ffn(reader, "moe_intermediate_size"))


def read_sparse(reader: Reader, attention: dict[str, Any], moe: dict[str, Any]) -> ModelConfig:
    """A decoder with experts in some layers, as Qwen's keys say: `mlp_only_layers`, `decoder_sparse_step`."""
    num_layers = reader.get("num_hidden_layers")
    dense_layers = set(reader.get("mlp_only_layers", default=()))
    step = reader.get("decoder_sparse_step", default=1)
    dense = [index in dense_layers or (index + 1) % step != 0 for index in range(num_layers)]
    return read_layers(reader, attention, moe, dense, 1e-6)


def write_sparse(config: ModelConfig) -> dict[str, Any]:
    """The common keys, those of the experts, and the layers that have none."""
    dense = [index for index, block in enumerate(config.blocks) if isinstance(block.ffn, FeedForwardConfig)]
    first_dense, moe = first_ffns(config)
    if moe is None:
        raise ConfigError(f"{config.family} needs at least one MoE layer; for none, use a dense family")
    kept = config.extra.get("intermediate_size", moe.expert_width * moe.router.top_k)
    data = write_model(config, grouped_query(config, config.blocks[0]))
    return (
        data
        | write_moe_ffn(moe, "moe_intermediate_size")
        | {
            "decoder_sparse_step": 1,
            "mlp_only_layers": dense,
            "use_sliding_window": False,
            "intermediate_size": first_dense.width if first_dense is not None else kept,
        }
    )


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    return write_sparse(config) | {"attention_bias": False}


def _read_olmoe(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("attention_bias", False, None)
    clip = reader.get("clip_qkv", default=None)
    attention = read_attention(reader, rope=read_rope(reader, 10000.0), qk_norm="full", qkv_clip=clip)
    if attention["head_dim"] * attention["num_heads"] != reader.get("hidden_size"):
        raise ConfigError(f"{where}: olmoe needs head_dim * num_attention_heads equal to hidden_size")
    ffn = read_moe_ffn(reader, "intermediate_size")
    return read_model(
        reader, [{"attention": attention, "ffn": ffn}] * reader.get("num_hidden_layers"), 1e-5, False
    )


def _write_olmoe(config: ModelConfig) -> dict[str, Any]:
    block = config.blocks[0]
    attention = grouped_query(config, block)
    data = write_model(config, attention) | write_moe_ffn(routed_ffn(config, block), "intermediate_size")
    return data | {"clip_qkv": attention.qkv_clip, "attention_bias": False}


_MOE_KEYS = COMMON_KEYS | _ROUTER_KEYS | _BALANCE_KEYS
SPARSE_KEYS = _MOE_KEYS | {"moe_intermediate_size", "mlp_only_layers", "decoder_sparse_step"}
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    _read_dense,
    _write_dense,
    dense_model_slots,
    COMMON_KEYS,
    examples="Qwen3 0.6B to 32B",
)
QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    _read_moe,
    _write_moe,
    moe_slots,
    SPARSE_KEYS,
    dense="qwen3",
    examples="Qwen3 30B-A3B, 235B-A22B, Coder",
)
OLMOE = Family(
    "olmoe",
    "OlmoeForCausalLM",
    _read_olmoe,
    _write_olmoe,
    moe_slots,
    _MOE_KEYS | {"clip_qkv"},
    examples="OLMoE 1B-7B",
)
