"""Llama 4: chunked layers with rope, full layers without, scores on the expert's input.

`llama4_text` is the text model alone, `llama4` the released form with an image encoder around it.
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
    read_model,
    read_moe,
    write_model,
)
from coterie.families.mapping import Slot, transposed
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import RoutedNames, decoder_slots, dense_slots, shared_slots
from coterie.families.wrapper import wrapper

_KEYS = frozenset(
    "num_local_experts num_experts_per_tok intermediate_size_mlp interleave_moe_layer_step moe_layers "
    "no_rope_layers no_rope_layer_interval attention_chunk_size use_qk_norm attn_temperature_tuning "
    "floor_scale attn_scale router_aux_loss_coef".split()
)


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    reader.expect("attention_bias", False, None)
    num_layers = reader.get("num_hidden_layers")
    interval = reader.get("no_rope_layer_interval", default=4)
    uses_rope = reader.get("no_rope_layers", default=None) or [
        int((i + 1) % interval != 0) for i in range(num_layers)
    ]
    step = reader.get("interleave_moe_layer_step", default=1)
    moe_layers = reader.get("moe_layers", default=None)
    moe_layers = list(range(step - 1, num_layers, step)) if moe_layers is None else moe_layers
    reader.used.add("no_rope_layer_interval")
    masks = ["chunked_attention" if rope else "full_attention" for rope in uses_rope]
    reader.expect("layer_types", None, masks)  # one fact, stated twice
    local = _local_attention(reader)
    full = read_attention(reader, rope=None, temperature=_temperature(reader))
    width = reader.get("intermediate_size")
    router = {"score": "sigmoid", "score_after_topk": True, "apply_to": "input"}
    moe = read_moe(reader, width, ("num_local_experts",), router, shared_width=width)
    dense = {"kind": "dense", "width": reader.get("intermediate_size_mlp", default=width)}
    blocks = [
        {"attention": local if uses_rope[i] else full, "ffn": moe if i in moe_layers else dense}
        for i in range(num_layers)
    ]
    if len(moe_layers) == num_layers:
        reader.used.discard("intermediate_size_mlp")
    return read_model(reader, blocks, 1e-5, False)


def _local_attention(reader: Reader) -> dict[str, Any]:
    rope = read_rope(reader, 500000.0, style="pairs")
    chunk = reader.get("attention_chunk_size", default=8192)
    qk_norm = "weightless" if reader.get("use_qk_norm", default=True) else "none"
    return read_attention(reader, rope=rope, mask="chunked", window=chunk, qk_norm=qk_norm)


def _temperature(reader: Reader) -> dict[str, Any] | None:
    scale = {
        "floor_scale": reader.get("floor_scale", default=8192),
        "scale": reader.get("attn_scale", default=0.1),
    }
    return scale if bool(reader.get("attn_temperature_tuning", default=True)) else None


def _write(config: ModelConfig) -> dict[str, Any]:
    blocks = config.blocks
    attentions = [grouped_query(config, block) for block in blocks]
    local = next((attention for attention in attentions if attention.rope is not None), None)
    full = next((attention for attention in attentions if attention.rope is None), None)
    dense, moe = first_ffns(config)
    if moe is None or local is None:
        raise ConfigError("llama4_text needs at least one MoE layer and one layer with rotary positions")
    temperature = full.temperature if full else None
    return write_model(config, local) | {
        "intermediate_size": moe.expert_width,
        "intermediate_size_mlp": (
            dense.width if dense else config.extra.get("intermediate_size_mlp", 2 * moe.expert_width)
        ),
        "num_local_experts": moe.router.num_experts,
        "num_experts_per_tok": moe.router.top_k,
        "interleave_moe_layer_step": 1,
        "moe_layers": [index for index, _ in config.moe_layers()],
        "no_rope_layers": [int(one.rope is not None) for one in attentions],
        "layer_types": [
            "chunked_attention" if one.mask == "chunked" else "full_attention" for one in attentions
        ],
        "attention_chunk_size": local.window,
        "use_qk_norm": local.qk_norm == "weightless",
        "attn_temperature_tuning": temperature is not None,
        "floor_scale": temperature.floor_scale if temperature else 8192,
        "attn_scale": temperature.scale if temperature else 0.1,
        "attention_bias": False,
        "router_aux_loss_coef": moe.balance.loss_coef,
    }


def _slots(config: ModelConfig) -> list[Slot]:
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        disk, ours = f"model.layers.{index}.feed_forward", f"blocks.{index}.ffn"
        if isinstance(block.ffn, FeedForwardConfig):
            slots += dense_slots(disk, ours, block.ffn, config.width)
        if not isinstance(block.ffn, MoEConfig):
            continue
        slots.append(Slot(f"{disk}.router.weight", f"{ours}.router.weight"))
        slots.append(Slot(f"{disk}.experts.gate_up_proj", f"{ours}.experts.gate_up.weight", transposed))
        slots.append(Slot(f"{disk}.experts.down_proj", f"{ours}.experts.down.weight", transposed))
        slots += shared_slots(disk, ours, block.ffn, config.width, RoutedNames(shared="shared_expert"))
    return slots


LLAMA4_TEXT = Family(
    "llama4_text",
    "Llama4ForCausalLM",
    _read,
    _write,
    _slots,
    COMMON_KEYS | _KEYS,
    fused="in-out unmarked",
    examples="Llama 4, text part",
)
LLAMA4 = wrapper(
    "llama4",
    "Llama4ForConditionalGeneration",
    (LLAMA4_TEXT,),
    ("vision_model.", "multi_modal_projector."),
    examples="Llama 4 Scout, Maverick",
    memory_names=(),  # the text model has its head inside, in memory too
)
