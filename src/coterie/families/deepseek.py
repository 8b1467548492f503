"""DeepSeek-V2 and V2-Lite (`deepseek_v2`), V3 and R1 (`deepseek_v3`).

Both have latent attention, groups of experts and shared experts (arXiv 2405.04434 and 2412.19437;
docs/design/families.md). They differ in the router only. V3 may have layers for multi-token prediction
(`model.layers.{L}.*`, past the last), which store copies of the embedding and of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coterie.config import ConfigError, FeedForwardConfig, MLAConfig, ModelConfig, MoEConfig
from coterie.families.base import COMMON_KEYS, Family, read_model, read_moe, write_model
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import moe_slots

EXPERT_KEYS = frozenset(
    "moe_intermediate_size n_routed_experts n_shared_experts num_experts_per_tok first_k_dense_replace "
    "routed_scaling_factor n_group topk_group aux_loss_alpha router_z_loss_coef".split()
)
LATENT_KEYS = EXPERT_KEYS | set(
    "q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim".split()
)


def read_latent(reader: Reader, style: str, **rope: Any) -> dict[str, Any]:
    """Latent attention from DeepSeek's keys, as data; `rope`: what `read_rope` takes besides."""
    num_heads = reader.get("num_attention_heads")
    reader.expect("num_key_value_heads", num_heads, None)
    nope, rope_dim = reader.get("qk_nope_head_dim"), reader.get("qk_rope_head_dim")
    # transformers derives both, and writes them
    for name in ("head_dim", "qk_head_dim"):
        reader.expect(name, None, rope_dim, nope + rope_dim)
    reader.used.discard("qk_head_dim")
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
        "rope": read_rope(reader, 10000.0, style=style, **rope),
    }


def read_experts(reader: Reader, router: dict[str, Any], default_scale: float) -> dict[str, Any]:
    """The routed and shared experts of a layer from DeepSeek's keys, as data; `router`: what differs."""
    expert_width, num_shared = reader.get("moe_intermediate_size"), reader.get("n_shared_experts")
    if num_shared < 1:
        raise ConfigError(f"{reader.where}: 'n_shared_experts' is {num_shared}; this family has at least one")
    bias_rate = reader.get("router_bias_rate", default=0.001) if "select_bias" in router else 0.0
    return read_moe(
        reader,
        expert_width,
        ("n_routed_experts", "num_local_experts", "num_experts"),
        router | {"scale": reader.get("routed_scaling_factor", default=default_scale)},
        {"z_loss_coef": reader.get("router_z_loss_coef", default=0.0), "bias_rate": bias_rate},
        "aux_loss_alpha",
        shared_width=num_shared * expert_width,
    )


def selecting_router(reader: Reader, groups: tuple[int, int], renormalize: bool) -> dict[str, Any]:
    """DeepSeek-V3's router as data: sigmoid, a bias for the choice alone, groups by their best two.

    `groups`, `renormalize`: what the family uses where the config says nothing.
    """
    for name, value in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        reader.expect(name, value, None)
        reader.used.discard(name)
    return {
        "score": "sigmoid",
        "select_bias": True,
        "renormalize": reader.flag("norm_topk_prob", renormalize),
        "num_groups": reader.get("n_group", default=1 if "n_group" in reader.data else groups[0]),
        "top_groups": reader.get("topk_group", default=1 if "topk_group" in reader.data else groups[1]),
        "group_score": "top2sum",
        "group_fill": "minus_infinity",
    }


def read_layers(
    reader: Reader,
    attention: dict[str, Any],
    moe: dict[str, Any],
    dense: Sequence[bool],
    default_eps: float,
    **variation: Any,
) -> ModelConfig:
    """A decoder with experts in all layers but those where `dense` is true."""
    # Without dense layers their width is not part of the model, and goes back as it came.
    ffn = {"kind": "dense", "width": reader.get("intermediate_size")} if any(dense) else {}
    blocks = [{"attention": attention, "ffn": ffn if plain else moe} for plain in dense]
    return read_model(reader, blocks, default_eps, False, **variation)


def leading(reader: Reader, unsaid: int = 0) -> list[bool]:
    """Whether each layer is dense: the first `first_k_dense_replace` are; `unsaid` without this key."""
    num_dense = reader.get("first_k_dense_replace", default=unsaid)
    return [index < num_dense for index in range(reader.get("num_hidden_layers"))]


def read_v3(
    reader: Reader, dense: Sequence[bool], default_scale: float, groups: tuple[int, int], default_eps: float
) -> ModelConfig:
    """A decoder of DeepSeek-V3's kind: latent attention, its router, layers for multi-token prediction."""
    router = selecting_router(reader, groups, True)
    moe = read_experts(reader, router, default_scale)
    style = "pairs" if reader.flag("rope_interleave", True) else "half"
    num_mtp_layers = reader.get("num_nextn_predict_layers", "num_mtp_layers", default=0)
    attention = read_latent(reader, style)
    return read_layers(reader, attention, moe, dense, default_eps, num_mtp_layers=num_mtp_layers)


def _read_v3(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    _every_layer(reader)
    return read_v3(reader, leading(reader), 2.5, (8, 4), 1e-6)


def _every_layer(reader: Reader) -> None:
    reader.expect("moe_layer_freq", 1, None)
    reader.used.discard("moe_layer_freq")  # read by the original code only: goes back as it came


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
    _every_layer(reader)
    moe = read_experts(reader, router, 1.0)
    return read_layers(reader, read_latent(reader, "pairs"), moe, leading(reader), 1e-6)


def _routed(config: ModelConfig) -> MoEConfig:
    if config.first_moe is None:
        raise ConfigError(f"{config.family} needs at least one MoE layer")
    return config.first_moe


def _latent(config: ModelConfig) -> MLAConfig:
    attention = config.blocks[0].attention
    if not isinstance(attention, MLAConfig):
        raise ConfigError(f"{config.family} needs latent attention (kind 'mla')")
    return attention


def write_experts(config: ModelConfig) -> dict[str, Any]:
    """DeepSeek's keys of the experts, and the width and number of the dense layers."""
    moe = _routed(config)
    dense = [block.ffn for block in config.blocks if isinstance(block.ffn, FeedForwardConfig)]
    kept = config.extra.get("intermediate_size", moe.expert_width * moe.router.top_k)
    return {
        "intermediate_size": dense[0].width if dense else kept,
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


def write_selecting(config: ModelConfig) -> dict[str, Any]:
    """`write_experts` with the keys of `selecting_router`."""
    moe = _routed(config)
    return write_experts(config) | {
        "n_group": moe.router.num_groups,
        "topk_group": moe.router.top_groups,
        "router_bias_rate": moe.balance.bias_rate,
    }


def write_latent(config: ModelConfig) -> dict[str, Any]:
    """The common keys of `config.json` and DeepSeek's keys of latent attention."""
    attention = _latent(config)
    return write_model(config, attention) | {
        "attention_bias": False,
        "q_lora_rank": attention.q_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_nope_head_dim": attention.nope_dim,
        "qk_rope_head_dim": attention.rope_dim,
        "v_head_dim": attention.value_dim,
    }


def write_v3(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a decoder that `read_v3` reads."""
    return (
        write_latent(config)
        | write_selecting(config)
        | {
            "rope_interleave": _latent(config).rope.style == "pairs",
            "num_nextn_predict_layers": config.num_mtp_layers,
        }
    )


def _write_v2(config: ModelConfig) -> dict[str, Any]:
    data = write_latent(config) | write_experts(config) | {"mlp_bias": False, "topk_method": "greedy"}
    router = _routed(config).router
    if router.num_groups == 1:
        return data
    groups = {"n_group": router.num_groups, "topk_group": router.top_groups}
    return data | groups | {"topk_method": "group_limited_greedy"}


DEEPSEEK_V2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    _read_v2,
    _write_v2,
    moe_slots,
    (COMMON_KEYS - {"head_dim"}) | LATENT_KEYS | {"topk_method"},
    examples="DeepSeek V2, V2-Lite, Coder V2",
)
V3_KEYS = (
    (COMMON_KEYS - {"head_dim"})
    | LATENT_KEYS
    | {"norm_topk_prob", "rope_interleave", "router_bias_rate", "num_nextn_predict_layers"}
)
DEEPSEEK_V3 = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    _read_v3,
    write_v3,
    moe_slots,
    V3_KEYS,
    examples="DeepSeek V3, V3.1, R1",
)
