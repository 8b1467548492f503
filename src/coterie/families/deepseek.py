"""DeepSeek-V2 and V2-Lite (`deepseek_v2`), V3 and R1 (`deepseek_v3`).

Both have latent attention, groups of experts and shared experts (arXiv 2405.04434 and 2412.19437;
docs/design/families.md). They differ in the router only. V3 may have layers for multi-token prediction
(`model.layers.{L}.*`, past the last), which store copies of the embedding and of the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, FeedForwardConfig, MLAConfig, ModelConfig, MoEConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    block_slots,
    ffn_slots,
    moe_slots,
    read_model,
    read_moe,
    write_model,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import read_rope

_KEYS = frozenset(
    "q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim moe_intermediate_size "
    "n_routed_experts n_shared_experts num_experts_per_tok first_k_dense_replace routed_scaling_factor "
    "n_group topk_group aux_loss_alpha router_z_loss_coef".split()
)


def _read_attention(reader: Reader, style: str) -> dict[str, Any]:
    num_heads = reader.get("num_attention_heads")
    reader.expect("num_key_value_heads", num_heads, None)
    nope, rope_dim = reader.get("qk_nope_head_dim"), reader.get("qk_rope_head_dim")
    # transformers derives both, and writes them
    for name in ("head_dim", "qk_head_dim"):
        reader.expect(name, None, rope_dim, nope + rope_dim)
    for name in ("attention_bias", "mlp_bias"):
        reader.expect(name, False, None)
    return {
        "kind": "mla",
        "num_heads": num_heads,
        "q_rank": reader.get("q_lora_rank", default=None),
        "kv_rank": reader.get("kv_lora_rank"),
        "nope_dim": nope,
        "rope_dim": rope_dim,
        "value_dim": reader.get("v_head_dim"),
        "rope": read_rope(reader, 10000.0, style=style),
    }


def _read(
    reader: Reader,
    style: str,
    router: dict[str, Any],
    bias_rate: float,
    default_scale: float,
    **variation: Any,
) -> ModelConfig:
    reader.expect("moe_layer_freq", 1, None)
    reader.used.discard("moe_layer_freq")  # read by the original code only: goes back as it came
    expert_width, num_shared = reader.get("moe_intermediate_size"), reader.get("n_shared_experts")
    if num_shared < 1:
        raise ConfigError(f"{reader.where}: 'n_shared_experts' is {num_shared}; this family has at least one")
    moe = read_moe(
        reader,
        expert_width,
        ("n_routed_experts", "num_local_experts", "num_experts"),
        router | {"scale": reader.get("routed_scaling_factor", default=default_scale)},
        {"z_loss_coef": reader.get("router_z_loss_coef", default=0.0), "bias_rate": bias_rate},
        "aux_loss_alpha",
        shared_width=num_shared * expert_width,
    )
    dense = {"kind": "dense", "width": reader.get("intermediate_size")}
    attention, num_dense = _read_attention(reader, style), reader.get("first_k_dense_replace", default=0)
    blocks = [
        {"attention": attention, "ffn": dense if index < num_dense else moe}
        for index in range(reader.get("num_hidden_layers"))
    ]
    if num_dense == 0:
        reader.used.discard("intermediate_size")  # not part of the model
    return read_model(reader, blocks, 1e-6, False, **variation)


def _read_v3(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    for name, value in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        reader.expect(name, value, None)
        reader.used.discard(name)
    router = {
        "score": "sigmoid",
        "select_bias": True,
        "renormalize": reader.flag("norm_topk_prob", True),
        "num_groups": reader.get("n_group", default=1 if "n_group" in data else 8),
        "top_groups": reader.get("topk_group", default=1 if "topk_group" in data else 4),
        "group_score": "top2sum",
        "group_fill": "minus_infinity",
    }
    style = "pairs" if reader.flag("rope_interleave", True) else "half"
    num_mtp_layers = reader.get("num_nextn_predict_layers", "num_mtp_layers", default=0)
    bias_rate = reader.get("router_bias_rate", default=0.001)
    return _read(reader, style, router, bias_rate, 2.5, num_mtp_layers=num_mtp_layers)


def _read_v2(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("scoring_func", "softmax", None)
    reader.used.discard("scoring_func")
    # The original code renormalises instead of scaling where this is true, transformers ignores it.
    reader.expect("norm_topk_prob", False, None)
    router = {"group_score": "max", "group_fill": "zero"}
    method = reader.get("topk_method", default="greedy")
    if method == "group_limited_greedy":
        router |= {"num_groups": reader.get("n_group"), "top_groups": reader.get("topk_group")}
    elif method != "greedy":
        raise ConfigError(f"{where}: topk_method '{method}' is not known; use greedy or group_limited_greedy")
    return _read(reader, "pairs", router, 0.0, 1.0)


def _routed(config: ModelConfig) -> MoEConfig:
    if config.first_moe is None:
        raise ConfigError(f"{config.family} needs at least one MoE layer")
    return config.first_moe


def _latent(config: ModelConfig) -> MLAConfig:
    attention = config.blocks[0].attention
    if not isinstance(attention, MLAConfig):
        raise ConfigError(f"{config.family} needs latent attention (kind 'mla')")
    return attention


def _write(config: ModelConfig) -> dict[str, Any]:
    attention, moe = _latent(config), _routed(config)
    dense = [block.ffn for block in config.blocks if isinstance(block.ffn, FeedForwardConfig)]
    width = (
        dense[0].width
        if dense
        else config.extra.get("intermediate_size", moe.expert_width * moe.router.top_k)
    )
    return write_model(config, attention) | {
        "attention_bias": False,
        "q_lora_rank": attention.q_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_nope_head_dim": attention.nope_dim,
        "qk_rope_head_dim": attention.rope_dim,
        "v_head_dim": attention.value_dim,
        "intermediate_size": width,
        "moe_intermediate_size": moe.expert_width,
        "first_k_dense_replace": len(dense),
        "n_routed_experts": moe.router.num_experts,
        "n_shared_experts": (moe.shared_width or 0) // moe.expert_width,
        "num_experts_per_tok": moe.router.top_k,
        "norm_topk_prob": moe.router.renormalize,
        "routed_scaling_factor": moe.router.scale,
        "aux_loss_alpha": moe.balance.loss_coef,
        "router_z_loss_coef": moe.balance.z_loss_coef,
    }


def _write_v3(config: ModelConfig) -> dict[str, Any]:
    moe = _routed(config)
    return _write(config) | {
        "n_group": moe.router.num_groups,
        "topk_group": moe.router.top_groups,
        "rope_interleave": _latent(config).rope.style == "pairs",
        "router_bias_rate": moe.balance.bias_rate,
        "num_nextn_predict_layers": config.num_mtp_layers,
    }


def _write_v2(config: ModelConfig) -> dict[str, Any]:
    data = _write(config) | {"mlp_bias": False, "topk_method": "greedy"}
    router = _routed(config).router
    if router.num_groups == 1:
        return data
    groups = {"n_group": router.num_groups, "topk_group": router.top_groups}
    return data | groups | {"topk_method": "group_limited_greedy"}


def _slots_v3(config: ModelConfig) -> list[Slot]:
    slots = moe_slots(config)
    for depth in range(config.num_mtp_layers):
        disk, ours = f"model.layers.{config.num_layers + depth}", f"mtp.{depth}"
        head = "embed.weight" if config.tie_embeddings else "head.weight"
        slots.append(Slot(f"{disk}.embed_tokens.weight", "embed.weight", copy=True))
        slots.append(Slot(f"{disk}.shared_head.head.weight", head, copy=True))
        for theirs, part in (
            ("enorm", "enorm"),
            ("hnorm", "hnorm"),
            ("eh_proj", "proj"),
            ("shared_head.norm", "norm"),
        ):
            slots.append(Slot(f"{disk}.{theirs}.weight", f"{ours}.{part}.weight"))
        slots += block_slots(disk, f"{ours}.block", config.blocks[-1])
        slots += ffn_slots(f"{disk}.mlp", f"{ours}.block.ffn", config.blocks[-1].ffn)
    return slots


DEEPSEEK_V2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    _read_v2,
    _write_v2,
    moe_slots,
    (COMMON_KEYS - {"head_dim"}) | _KEYS | {"topk_method"},
)
DEEPSEEK_V3 = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    _read_v3,
    _write_v3,
    _slots_v3,
    (COMMON_KEYS - {"head_dim"})
    | _KEYS
    | {"norm_topk_prob", "rope_interleave", "router_bias_rate", "num_nextn_predict_layers"},
)
