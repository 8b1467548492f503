"""Hunyuan 3 (`hy_v3`): Qwen3's attention, a sigmoid router with a selection bias, shared experts.

Layer L on disk, for multi-token prediction, is carried and not run, as in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import COMMON_KEYS, Family, grouped_query, read_attention, read_moe, write_model
from coterie.families.deepseek import read_layers, write_selecting
from coterie.families.glm4_moe_lite import layer_kinds, read_layer_kinds
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, moe_slots

_OURS = {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}
_OURS |= {"routed_scaling_factor": "router_scaling_factor", "aux_loss_alpha": "router_aux_loss_coef"}
_KEYS = frozenset(
    "num_experts num_experts_per_tok num_shared_experts moe_intermediate_size router_scaling_factor "
    "mlp_layer_types router_aux_loss_coef router_bias_rate".split()
)


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    for name in ("attention_bias", "mlp_bias"):
        reader.expect(name, False, None)
    dense = read_layer_kinds(reader)
    reader.used.discard("first_k_dense_replace")
    expert_width = reader.get("moe_intermediate_size")
    router = {
        "score": "sigmoid",
        "select_bias": True,
        "renormalize": True,
        "scale": reader.get("router_scaling_factor", default=2.826),
    }
    moe = read_moe(
        reader,
        expert_width,
        ("num_experts", "num_local_experts"),
        router,
        {"bias_rate": reader.get("router_bias_rate", default=0.001)},
        shared_width=expert_width * reader.get("num_shared_experts", default=1),
    )
    attention = read_attention(reader, rope=read_rope(reader, 11_158_840.0), qk_norm="head")
    return read_layers(reader, attention, moe, dense, 1e-5)


def _write(config: ModelConfig) -> dict[str, Any]:
    experts = {_OURS.get(key, key): value for key, value in write_selecting(config).items()}
    for name in ("first_k_dense_replace", "norm_topk_prob", "router_z_loss_coef", "n_group", "topk_group"):
        del experts[name]
    data = write_model(config, grouped_query(config, config.blocks[0])) | experts
    return data | {"mlp_layer_types": layer_kinds(config), "attention_bias": False, "mlp_bias": False}


_NAMES = RoutedNames(router="router.gate.weight", select_bias="expert_bias", shared="shared_mlp")


def _slots(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, _NAMES)


HY_V3 = Family(
    "hy_v3",
    "HYV3ForCausalLM",
    _read,
    _write,
    _slots,
    COMMON_KEYS | _KEYS,
    ("model.layers.{layers}.",),
    predicting=("model.layers.{layers}.",),
    memory_names=(
        (".mlp.gate", ".mlp.router.gate"),
        (".mlp.e_score_correction_bias", ".mlp.expert_bias"),
        (".mlp.shared_experts.", ".mlp.shared_mlp."),
    ),
    examples="Hunyuan 3 (HY 3)",
)
