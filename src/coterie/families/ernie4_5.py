"""ERNIE 4.5, dense (`ernie4_5`) and with experts (`ernie4_5_moe`).

Rope turns neighbouring numbers. The router is a softmax over all experts; a bias takes part in the choice
alone, and the chosen scores are divided by their sum. Source: the ERNIE 4.5 technical report (2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    first_ffns,
    grouped_query,
    read_attention,
    read_dense,
    read_model,
    write_dense,
    write_model,
)
from coterie.families.mapping import Slot, as_row
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, dense_model_slots, moe_slots

_THETA = 500000.0
_ROUTER: dict[str, Any] = {
    "select_bias": True,
    "renormalize": True,
    "renormalize_min": 1e-12,
    "renormalize_eps": 0.0,
}
_MOE_KEYS = frozenset(
    "moe_intermediate_size moe_num_experts num_experts moe_k num_experts_per_tok moe_num_shared_experts "
    "moe_layer_start_index moe_layer_end_index moe_layer_interval moe_norm_min router_aux_loss_coef "
    "router_bias_rate".split()
)


def _read_dense(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    bias = reader.flag("use_bias", False)
    width = {"head_dim": 128} if "head_dim" not in data else {}
    return read_dense(reader, _THETA, 1e-5, True, bias, "pairs", qkv_bias=bias, output_bias=bias, **width)


def _write_dense(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    return data | {"use_bias": attention.output_bias}


def _read_moe(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("use_bias", False, None)
    smallest = reader.get("moe_norm_min", default=_ROUTER["renormalize_min"])
    width, num_shared = reader.get("moe_intermediate_size"), reader.get("moe_num_shared_experts", default=0)
    moe = {
        "kind": "moe",
        "expert_width": width,
        "shared_width": width * num_shared or None,
        "router": _ROUTER
        | {
            "num_experts": reader.get("moe_num_experts", "num_experts"),
            "top_k": reader.get("moe_k", "num_experts_per_tok"),
            "renormalize_min": smallest,
        },
        "balance": {
            "loss_coef": reader.get("router_aux_loss_coef", default=0.0),
            "bias_rate": reader.get("router_bias_rate", default=0.001),
        },
    }
    dense = {"kind": "dense", "width": reader.get("intermediate_size")}
    attention = read_attention(reader, rope=read_rope(reader, _THETA, style="pairs"))
    routed = _routed_layers(reader)
    blocks = [{"attention": attention, "ffn": moe if one else dense} for one in routed]
    if all(routed):
        reader.used.discard("intermediate_size")  # not part of the model
    return read_model(reader, blocks, 1e-5, True)


def _routed_layers(reader: Reader) -> list[bool]:
    """Whether each layer has experts. Errors: `ConfigError` for numbers that make no sense."""
    num_layers = reader.get("num_hidden_layers")
    first, last = (
        reader.get(f"moe_layer_{name}_index", default=number) for name, number in (("start", 1), ("end", -1))
    )
    interval = reader.get("moe_layer_interval", default=1)
    last = num_layers - 1 if last == -1 else last
    return [(index + 1) % interval == 0 and first <= index <= last for index in range(num_layers)]


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    dense, moe = first_ffns(config)
    if moe is None:
        raise ConfigError("ernie4_5_moe needs at least one MoE layer; for none, use ernie4_5")
    layers = [index for index, _ in config.moe_layers()]
    kept = config.extra.get("intermediate_size", moe.expert_width * moe.router.top_k)
    return write_model(config, grouped_query(config, config.blocks[0])) | {
        "use_bias": False,
        "intermediate_size": dense.width if dense else kept,
        "moe_intermediate_size": moe.expert_width,
        "moe_num_experts": moe.router.num_experts,
        "moe_k": moe.router.top_k,
        "moe_num_shared_experts": (moe.shared_width or 0) // moe.expert_width,
        "moe_layer_start_index": layers[0],
        "moe_layer_end_index": layers[-1],
        "moe_layer_interval": layers[1] - layers[0] if len(layers) > 1 else 1,
        "moe_norm_min": moe.router.renormalize_min,
        "router_aux_loss_coef": moe.balance.loss_coef,
        "router_bias_rate": moe.balance.bias_rate,
    }


_NAMES = RoutedNames(select_bias="moe_statics.e_score_correction_bias", bias_view=as_row, float32=True)


def _moe_slots(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, _NAMES)


ERNIE4_5 = Family(
    "ernie4_5",
    "Ernie4_5ForCausalLM",
    _read_dense,
    _write_dense,
    dense_model_slots,
    COMMON_KEYS | {"use_bias"},
    examples="ERNIE 4.5 0.3B",
)
ERNIE4_5_MOE = Family(
    "ernie4_5_moe",
    "Ernie4_5_MoeForCausalLM",
    _read_moe,
    _write_moe,
    _moe_slots,
    COMMON_KEYS | _MOE_KEYS | {"use_bias"},
    ("model.mtp_",),
    predicting=("model.mtp_",),
    dense="ernie4_5",
    upcycled=_ROUTER,
    memory_names=((".mlp.gate.moe_statics.", ".mlp.moe_statics."),),
    examples="ERNIE 4.5 21B-A3B, 300B-A47B",
)
