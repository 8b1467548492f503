"""Which tensors on disk are which parameters: Llama's names, and how other families differ from them.

`LAYER` gives the name on disk of each part of a layer by our name; a family passes another table,
usually `LAYER | {...}`. `RoutedNames` does so for the feed-forward. Linear layers with one name on disk are
one tensor there: their rows follow each other in the order of ours (q, k, v; gate, up). Mixers with a state:
`mixer_slots.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.config import (
    AttentionConfig,
    BlockConfig,
    ConfigError,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
)
from coterie.config.mixers import STATE_MIXERS
from coterie.families.base import dense_ffn
from coterie.families.mapping import Slot, View, expert, expert_half, rows_within, whole
from coterie.families.mixer_slots import gated_query_slots, mixer_slots

Names = dict[str, str]

LAYER: Names = {
    "model": "model",
    "embed": "embed_tokens",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "norm": "norm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.gate": "self_attn.gate_proj",
    "attention.sinks": "self_attn.sinks",
    "attention.q_a": "self_attn.q_a_proj",
    "attention.q_a_norm": "self_attn.q_a_layernorm",
    "attention.q_b": "self_attn.q_b_proj",
    "attention.kv_a": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_a_norm": "self_attn.kv_a_layernorm",
    "attention.kv_b": "self_attn.kv_b_proj",
}
# With norms before and after both parts, as Gemma names them: the norm after attention has the name that
# Llama gives the norm before the feed-forward.
SANDWICH: Names = LAYER | {
    "attention_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class RoutedNames:
    """What a family calls the parts of a feed-forward, below `model.layers.{n}.`; by default as Qwen3 does.

    `dense`: gate, up and down of a dense one and of the shared expert. `parts`: those of an expert.
    `latent`: into the space of the experts, and back. `bias_view`: of the selection bias on disk. `float32`:
    whether the router is float32 in files of any type.
    """

    layer: str = "mlp"
    dense: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    router: str = "gate.weight"
    select_bias: str = "gate.e_score_correction_bias"
    bias_view: View = whole
    float32: bool = False
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    shared: str = "shared_experts"
    shared_gate: str = "shared_expert_gate.weight"
    latent: tuple[str, str] = ("fc1_latent_proj", "fc2_latent_proj")


QWEN3_NAMES = RoutedNames()
_NORMS = {
    "pre": ("attention_norm", "ffn_norm"),
    "post": ("attention_post_norm", "ffn_post_norm"),
    "sandwich": ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm"),
}
# Parts of per-layer inputs by our names, in the model and in a layer; Gemma's are the only ones.
_PER_LAYER_INPUTS = {
    "embed": "embed_tokens_per_layer",
    "projection": "per_layer_model_projection",
    "norm": "per_layer_projection_norm",
}
_PER_LAYER = {
    "gate": "per_layer_input_gate",
    "projection": "per_layer_projection",
    "norm": "post_per_layer_input_norm",
}


def decoder_slots(config: ModelConfig, names: Names = LAYER) -> list[Slot]:
    """Everything outside the feed-forward: embedding, attention, norms and head."""
    model = names["model"]
    slots = [Slot(f"{model}.{names['embed']}.weight", "embed.weight")]
    for index, block in enumerate(config.blocks):
        slots += block_slots(f"{model}.layers.{index}", f"blocks.{index}", block, config.width, names)
    if config.per_layer_width is not None:
        slots += _per_layer_slots(model, "per_layer", _PER_LAYER_INPUTS)
    slots.append(Slot(f"{model}.{names['norm']}.weight", "norm.weight"))
    if not config.tie_embeddings:
        slots.append(Slot("lm_head.weight", "head.weight"))
    return slots


def block_slots(disk: str, ours: str, block: BlockConfig, width: int, names: Names = LAYER) -> list[Slot]:
    """One block's attention and its norms; `width` of the model.

    Errors: `ConfigError` for norms where the family has none.
    """
    mixer, slots = block.attention, list[Slot]()
    if isinstance(mixer, STATE_MIXERS):
        slots = mixer_slots(disk, f"{ours}.attention", mixer, width, names)
    elif mixer is not None:
        slots = _attention_slots(disk, ours, mixer, width, names)
    for part in _NORMS[block.norms]:
        if getattr(block, part.partition("_")[0]) is None:
            continue
        if part not in names:
            raise ConfigError(f"norms '{block.norms}' have no tensor in this family's layout ('{part}')")
        slots.append(Slot(f"{disk}.{names[part]}.weight", f"{ours}.{part}.weight"))
    if block.per_layer_width is not None:
        slots += _per_layer_slots(disk, f"{ours}.per_layer", _PER_LAYER)
    if block.output_scale:
        slots.append(Slot(f"{disk}.layer_scalar", f"{ours}.output_scale"))
    return slots


def _per_layer_slots(disk: str, ours: str, names: Names) -> list[Slot]:
    return [Slot(f"{disk}.{theirs}.weight", f"{ours}.{part}.weight") for part, theirs in names.items()]


def linear_slots(
    parts: Sequence[tuple[str, str, int]], columns: int, biases: Sequence[str] = ()
) -> list[Slot]:
    """Linear layers (name on disk, ours, rows) of `columns`; `biases`: our names of those that have one.

    Layers with one name on disk are parts of one tensor, in this order.
    """
    rows: dict[str, int] = {}
    slots = []
    for disk, _, count in parts:
        rows[disk] = rows.get(disk, 0) + count
    starts = dict.fromkeys(rows, 0)
    for disk, ours, count in parts:
        first, total = starts[disk], rows[disk]
        starts[disk] += count
        for kind in ("weight", "bias") if ours in biases else ("weight",):
            shape = (total, columns) if kind == "weight" else (total,)
            within = None if count == total else rows_within(shape, first, first + count)
            slots.append(Slot(f"{disk}.{kind}", f"{ours}.{kind}", within=within))
    return slots


_LATENT = ("kv_a", "kv_a_norm", "kv_b", "o")
_LATENT_QUERY = ("q_a", "q_a_norm", "q_b")


def _attention_slots(
    disk: str, ours: str, attention: AttentionConfig | MLAConfig, width: int, names: Names
) -> list[Slot]:
    def slot(part: str, kind: str = ".weight") -> Slot:
        return Slot(f"{disk}.{names[f'attention.{part}']}{kind}", f"{ours}.attention.{part}{kind}")

    if isinstance(attention, MLAConfig):
        return [slot(part) for part in (*(("q",) if attention.q_rank is None else _LATENT_QUERY), *_LATENT)]
    queries, keys = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
    # A gate with the name of the queries: one tensor that holds both, head by head.
    fused = attention.gate == "full" and names["attention.gate"] == names["attention.q"]
    rows = {} if fused else {"q": queries}
    if attention.keys_of is None:
        rows |= {"k": keys} if attention.keys_as_values else {"k": keys, "v": keys}
    parts = [
        (f"{disk}.{names[f'attention.{part}']}", f"{ours}.attention.{part}", count)
        for part, count in rows.items()
    ]
    slots = linear_slots(parts, width, [own for _, own, _ in parts] if attention.qkv_bias else ())
    slots.append(slot("o"))
    if attention.output_bias:
        slots.append(slot("o", ".bias"))
    if fused:
        slots += gated_query_slots(f"{disk}.{names['attention.q']}", f"{ours}.attention", attention, width)
    elif attention.gate != "none":
        slots.append(slot("gate"))
    if attention.qk_norm in ("head", "head_after", "full"):
        slots += [slot("q_norm"), *([slot("k_norm")] if attention.keys_of is None else [])]
    if attention.sinks:
        slots.append(slot("sinks", ""))
    return slots


def dense_slots(
    disk: str, ours: str, ffn: FeedForwardConfig, width: int, names: RoutedNames = QWEN3_NAMES
) -> list[Slot]:
    """A feed-forward's gate where it has one, up and down; `width` of the model."""
    gate, up, down = names.dense
    halves = [(f"{disk}.{gate}", f"{ours}.gate", ffn.width), (f"{disk}.{up}", f"{ours}.up", ffn.width)]
    halves = halves if ffn.gated else halves[1:]
    biases = [f"{ours}.{part}" for part in ("gate", "up", "down")] if ffn.bias else ()
    last = linear_slots([(f"{disk}.{down}", f"{ours}.down", width)], ffn.width, biases)
    return linear_slots(halves, width, biases) + last


def expert_slots(
    disk: str,
    ours: str,
    num_experts: int,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    gated: bool = True,
) -> list[Slot]:
    """A layer's experts, stored one by one as `{disk}.{expert}.{name}.weight`; `names`: gate, up and down."""
    gate, up, down = names
    slots = []
    for e in range(num_experts):
        if not gated:
            slots.append(Slot(f"{disk}.{e}.{up}.weight", f"{ours}.up.weight", expert(e)))
            slots.append(Slot(f"{disk}.{e}.{down}.weight", f"{ours}.down.weight", expert(e)))
            continue
        slots += [
            Slot(f"{disk}.{e}.{gate}.weight", f"{ours}.gate_up.weight", expert_half(e, 0)),
            Slot(f"{disk}.{e}.{up}.weight", f"{ours}.gate_up.weight", expert_half(e, 1)),
            Slot(f"{disk}.{e}.{down}.weight", f"{ours}.down.weight", expert(e)),
        ]
    return slots


def ffn_slots(
    disk: str,
    ours: str,
    ffn: FeedForwardConfig | MoEConfig,
    width: int,
    names: RoutedNames = QWEN3_NAMES,
) -> list[Slot]:
    """One layer's feed-forward, dense or routed with experts one by one; `width` of the model."""
    if isinstance(ffn, FeedForwardConfig):
        return dense_slots(disk, ours, ffn, width, names)
    slots = [Slot(f"{disk}.{names.router}", f"{ours}.router.weight", float32=names.float32)]
    if ffn.router.select_bias:
        slots.append(Slot(f"{disk}.{names.select_bias}", f"{ours}.router.select_bias", names.bias_view))
    num = ffn.router.num_experts
    slots += expert_slots(f"{disk}.experts", f"{ours}.experts", num, names.parts, ffn.gated)
    if ffn.latent_width is not None:
        slots.append(Slot(f"{disk}.{names.latent[0]}.weight", f"{ours}.latent_in.weight"))
        slots.append(Slot(f"{disk}.{names.latent[1]}.weight", f"{ours}.latent_out.weight"))
    return slots + shared_slots(disk, ours, ffn, width, names)


def shared_slots(
    disk: str, ours: str, ffn: MoEConfig, width: int, names: RoutedNames = QWEN3_NAMES
) -> list[Slot]:
    """The expert that every token visits, and its gate; none where the layer has none."""
    if ffn.shared_width is None:
        return []
    shared = FeedForwardConfig(width=ffn.shared_width, gated=ffn.gated)
    slots = dense_slots(f"{disk}.{names.shared}", f"{ours}.shared", shared, width, names)
    if ffn.shared_gate:
        slots.append(Slot(f"{disk}.{names.shared_gate}", f"{ours}.shared_gate.weight"))
    return slots


def moe_slots(config: ModelConfig, names: RoutedNames = QWEN3_NAMES, layer: Names = LAYER) -> list[Slot]:
    """The whole decoder with `ffn_slots` in every layer, and its layers for multi-token prediction."""
    slots = decoder_slots(config, layer)
    for index, block in enumerate(config.blocks):
        disk, ours = f"{layer['model']}.layers.{index}.{names.layer}", f"blocks.{index}.ffn"
        if block.ffn is not None:
            slots += ffn_slots(disk, ours, block.ffn, config.width, names)
    for depth in range(config.num_mtp_layers):
        slots += _mtp_slots(config, depth, names, layer)
    return slots


def dense_model_slots(
    config: ModelConfig, names: RoutedNames = QWEN3_NAMES, layer: Names = LAYER
) -> list[Slot]:
    """The whole of a dense decoder. Errors: `LayerKindError` for a routed one."""
    for block in config.blocks:
        dense_ffn(config, block)
    return moe_slots(config, names, layer)


def _mtp_slots(config: ModelConfig, depth: int, names: RoutedNames, layer: Names) -> list[Slot]:
    """A layer for multi-token prediction as DeepSeek-V3 and GLM store it: numbered on after the last block.

    The files repeat the embedding and the head.
    """
    disk, ours = f"model.layers.{config.num_layers + depth}", f"mtp.{depth}"
    head = "embed.weight" if config.tie_embeddings else "head.weight"
    slots = [
        Slot(f"{disk}.embed_tokens.weight", "embed.weight", copy=True),
        Slot(f"{disk}.shared_head.head.weight", head, copy=True),
        Slot(f"{disk}.enorm.weight", f"{ours}.enorm.weight"),
        Slot(f"{disk}.hnorm.weight", f"{ours}.hnorm.weight"),
        Slot(f"{disk}.eh_proj.weight", f"{ours}.proj.weight"),
        Slot(f"{disk}.shared_head.norm.weight", f"{ours}.norm.weight"),
    ]
    block = config.blocks[-1]
    slots += block_slots(disk, f"{ours}.block", block, config.width, layer)
    if block.ffn is None:
        return slots
    return slots + ffn_slots(f"{disk}.{names.layer}", f"{ours}.block.ffn", block.ffn, config.width, names)
