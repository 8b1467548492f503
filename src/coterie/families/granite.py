"""Granite: dense, with experts, with a shared one (`...shared`), with Mamba-2 layers (`...hybrid`, 4.0).

Embeddings, what a layer adds, attention scores and logits have multipliers. The experts of a layer are two
tensors on disk, gate rows first. Sources: arXiv 2408.13359 (multipliers), the Granite 3.0 report (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import AttentionConfig, ConfigError, FeedForwardConfig, ModelConfig, MoEConfig
from coterie.config.mixers import Mamba2Config
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    grouped_query,
    read_attention,
    read_dense_layers,
    read_model,
    read_moe,
    routed_ffn,
    write_dense,
    write_model,
    write_routed,
)
from coterie.families.mapping import Slot
from coterie.families.mixed_layers import step_limits
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import (
    LAYER,
    Names,
    RoutedNames,
    decoder_slots,
    dense_model_slots,
    dense_slots,
    shared_slots,
)

_MULTIPLIERS = frozenset(
    "attention_multiplier embedding_multiplier residual_multiplier logits_scaling attention_bias".split()
)
_MOE_KEYS = frozenset("num_local_experts num_experts_per_tok router_aux_loss_coef".split())


def _read_attention(reader: Reader) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return read_attention(
        reader,
        rope=read_rope(reader, 10000.0),
        qkv_bias=bias,
        output_bias=bias,
        scale=float(reader.get("attention_multiplier", default=1.0)),
    )


def _read_scales(reader: Reader) -> dict[str, Any]:
    return {
        "embed_scale": float(reader.get("embedding_multiplier", default=1.0)),
        "residual_scale": float(reader.get("residual_multiplier", default=1.0)),
        "logit_scale": 1 / reader.get("logits_scaling", default=1.0),
    }


def _write_scales(config: ModelConfig, attention: AttentionConfig) -> dict[str, Any]:
    divisor = 1 / config.logit_scale
    short = float(f"{divisor:.12g}")  # 1 / (1 / 49) is not 49
    return {
        "attention_bias": attention.qkv_bias,
        "attention_multiplier": attention.softmax_scale,
        "embedding_multiplier": config.embed_scale,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": short if 1 / short == config.logit_scale else divisor,
    }


def _read_dense(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    layers = [_read_attention(reader)] * reader.get("num_hidden_layers")
    bias = reader.flag("mlp_bias", False)
    return read_dense_layers(reader, layers, 1e-6, False, bias, **_read_scales(reader))


def _write_dense(config: ModelConfig) -> dict[str, Any]:
    data, attention, ffn = write_dense(config)
    return data | _write_scales(config, attention) | {"mlp_bias": ffn.bias}


def _read_moe(data: Mapping[str, Any], where: str) -> ModelConfig:
    return _read_routed(Reader(data, where), None)


def _read_shared(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    return _read_routed(reader, reader.get("shared_intermediate_size", default=0) or None)


def _read_routed(reader: Reader, shared: int | None) -> ModelConfig:
    names, width = ("num_local_experts", "num_experts"), reader.get("intermediate_size")
    # A softmax over the chosen logits is the softmax over all of them, divided by the sum of the chosen.
    moe = read_moe(reader, width, names, {"renormalize": True}, shared_width=shared)
    blocks = [{"attention": _read_attention(reader), "ffn": moe}] * reader.get("num_hidden_layers")
    return read_model(reader, blocks, 1e-6, False, **_read_scales(reader))


def _write_moe(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_routed(config)
    return data | _write_scales(config, attention)


def _write_shared(config: ModelConfig) -> dict[str, Any]:
    shared = routed_ffn(config, config.blocks[0]).shared_width
    return _write_moe(config) | {"shared_intermediate_size": shared or 0}


_KINDS = {"mamba": Mamba2Config, "attention": AttentionConfig}
_SPELLINGS = {"linear_attention": "mamba", "full_attention": "attention"}
_MAMBA = {
    "mamba_n_heads": ("num_heads", 128),
    "mamba_d_state": ("state", 256),
    "mamba_n_groups": ("groups", 1),
    "mamba_d_conv": ("kernel", 4),
    "mamba_conv_bias": ("conv_bias", True),
    "mamba_proj_bias": ("bias", False),
}
_HYBRID_KEYS = frozenset(
    "layer_types position_embedding_type shared_intermediate_size mamba_d_head mamba_expand "
    "time_step_limit".split()
)


def _read_mamba(reader: Reader) -> dict[str, Any]:
    """The Mamba-2 layer of a hybrid model."""
    mixer = {name: reader.get(key, default=usual) for key, (name, usual) in _MAMBA.items()}
    inner = reader.get("mamba_expand", default=2) * reader.get("hidden_size")
    head_dim = reader.get("mamba_d_head", default="auto")
    head_dim = inner // mixer["num_heads"] if head_dim == "auto" else head_dim
    if head_dim * mixer["num_heads"] != inner:
        raise ConfigError(
            f"{reader.where}: mamba_n_heads {mixer['num_heads']} times mamba_d_head {head_dim} must be "
            f"mamba_expand times hidden_size, {inner}"
        )
    low, high = step_limits(reader)
    return {"kind": "mamba2", "head_dim": head_dim, "step_low": low, "step_high": high} | mixer


def _read_hybrid(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    num_layers = reader.get("num_hidden_layers")
    types = reader.get("layer_types", default=None) or ["mamba"] * num_layers
    types = [_SPELLINGS.get(kind, kind) for kind in types]
    if len(types) != num_layers or set(types) - set(_KINDS) or "attention" not in types:
        raise ConfigError(
            f"{where}: 'layer_types' needs {num_layers} entries out of mamba and attention, and one of "
            "attention at least"
        )
    attention = _read_attention(reader)
    reader.expect("position_embedding_type", "rope", "nope", None)
    if data.get("position_embedding_type") != "rope":
        attention["rope"] = None
    layers = {"attention": attention} | ({"mamba": _read_mamba(reader)} if "mamba" in types else {})
    width = reader.get("shared_intermediate_size", default=1024)
    ffn = {"kind": "dense", "width": width}
    if reader.get("num_local_experts", default=8):
        experts = reader.get("intermediate_size")
        ffn = read_moe(reader, experts, ("num_local_experts",), {"renormalize": True}, shared_width=width)
    blocks = [{"attention": layers[kind], "ffn": ffn} for kind in types]
    return read_model(reader, blocks, 1e-6, False, **_read_scales(reader))


def _write_hybrid(config: ModelConfig) -> dict[str, Any]:
    mixers = [block.attention for block in config.blocks]
    others = [block for block in config.blocks if not isinstance(block.attention, Mamba2Config)]
    attentions = [grouped_query(config, block) for block in others]
    if not attentions:
        raise ConfigError("a granitemoehybrid model needs at least one layer of attention")
    attention, ffn = attentions[0], config.blocks[0].ffn
    data = write_model(config, attention) | _write_scales(config, attention)
    data |= {
        "layer_types": ["mamba" if isinstance(mixer, Mamba2Config) else "attention" for mixer in mixers],
        "position_embedding_type": "rope" if attention.rope is not None else "nope",
    }
    if isinstance(ffn, MoEConfig):
        data |= {"intermediate_size": ffn.expert_width, "num_local_experts": ffn.router.num_experts}
        data |= {"num_experts_per_tok": ffn.router.top_k, "shared_intermediate_size": ffn.shared_width}
        data |= {"router_aux_loss_coef": ffn.balance.loss_coef}
    elif ffn is not None:
        data |= {"num_local_experts": 0, "shared_intermediate_size": ffn.width}
    mamba = next((mixer for mixer in mixers if isinstance(mixer, Mamba2Config)), None)
    if mamba is None:
        return data
    high = {"__float__": "Infinity"} if mamba.step_high is None else mamba.step_high
    data |= {key: getattr(mamba, name) for key, (name, _) in _MAMBA.items()}
    return data | {
        "mamba_d_head": mamba.head_dim,
        "mamba_expand": mamba.output_width // config.width,
        "time_step_limit": [mamba.step_low, high],
    }


_SHARED = RoutedNames(dense=("input_linear", "input_linear", "output_linear"), shared="shared_mlp")


_HYBRID = LAYER | {"mamba2": "mamba"}


def _moe_slots(config: ModelConfig) -> list[Slot]:
    for block in config.blocks:
        routed_ffn(config, block)
    return _hybrid_slots(config, LAYER)


def _hybrid_slots(config: ModelConfig, names: Names = _HYBRID) -> list[Slot]:
    slots = decoder_slots(config, names)
    for index, block in enumerate(config.blocks):
        ffn = block.ffn
        layer, ours = f"model.layers.{index}", f"blocks.{index}.ffn"
        if isinstance(ffn, FeedForwardConfig):
            slots += dense_slots(f"{layer}.shared_mlp", ours, ffn, config.width, _SHARED)
        if not isinstance(ffn, MoEConfig):
            continue
        disk = f"{layer}.block_sparse_moe"
        slots.append(Slot(f"{disk}.router.layer.weight", f"{ours}.router.weight"))
        slots.append(Slot(f"{disk}.input_linear.weight", f"{ours}.experts.gate_up.weight"))
        slots.append(Slot(f"{disk}.output_linear.weight", f"{ours}.experts.down.weight"))
        slots += shared_slots(layer, ours, ffn, config.width, _SHARED)
    return slots


_IN_MEMORY = (
    (".block_sparse_moe.experts.gate_up_proj", ".block_sparse_moe.input_linear.weight"),
    (".block_sparse_moe.experts.down_proj", ".block_sparse_moe.output_linear.weight"),
    (".router.weight", ".router.layer.weight"),
)
GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    _read_dense,
    _write_dense,
    dense_model_slots,
    COMMON_KEYS | _MULTIPLIERS | {"mlp_bias"},
    examples="Granite 3.0 to 3.3, 4.1",
)
GRANITEMOE = Family(
    "granitemoe",
    "GraniteMoeForCausalLM",
    _read_moe,
    _write_moe,
    _moe_slots,
    COMMON_KEYS | _MULTIPLIERS | _MOE_KEYS,
    dense="granite",
    memory_names=_IN_MEMORY,
    examples="Granite 3.0 and 3.1 1B-A400M, 3B-A800M",
)
GRANITEMOESHARED = Family(
    "granitemoeshared",
    "GraniteMoeSharedForCausalLM",
    _read_shared,
    _write_shared,
    _moe_slots,
    COMMON_KEYS | _MULTIPLIERS | _MOE_KEYS | {"shared_intermediate_size"},
    also_dense=("granite",),
    memory_names=_IN_MEMORY,
    examples="Granite MoE with shared experts",
)
GRANITEMOEHYBRID = Family(
    "granitemoehybrid",
    "GraniteMoeHybridForCausalLM",
    _read_hybrid,
    _write_hybrid,
    _hybrid_slots,
    COMMON_KEYS | _MULTIPLIERS | _MOE_KEYS | _HYBRID_KEYS | _MAMBA.keys(),
    dense="granitemoehybrid",  # the same type with no experts
    shared="plain",
    memory_names=_IN_MEMORY,
    examples="Granite 4.0 micro, h-micro, h-tiny, h-small",
)
