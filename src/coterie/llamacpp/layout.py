"""Our parameters as llama.cpp's tensors, for both ways: which `GgufSlot`s a model has.

The file has its own names, its own order of rows for rope in some architectures, experts stacked with gate
and up apart, and latent attention's `kv_b` in two halves. R rows, I numbers in a row, E experts, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from coterie.config import AttentionConfig, CheckpointError, MLAConfig, ModelConfig, MoEConfig, RopeConfig
from coterie.config.mixers import STATE_MIXERS
from coterie.families.mapping import View, whole
from coterie.llamacpp.fused import fused
from coterie.llamacpp.indexer import indexer_slots
from coterie.llamacpp.key_tables import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, Parts
from coterie.llamacpp.kinds import rotation_factors
from coterie.llamacpp.mixers import gated_query, mixer_slots
from coterie.llamacpp.slot import PLUS_ONE, GgufSlot, Shape
from coterie.llamacpp.targets import Target
from coterie.nn.rope import inverse_frequencies

STORED_BUFFERS = ("select_bias", "output_scale")  # ends of the names of buffers that a file holds
_PLAIN = {
    "attention_norm.weight": "attn_norm.weight",
    "attention_post_norm.weight": "post_attention_norm.weight",
    "ffn_post_norm.weight": "post_ffw_norm.weight",
    "attention.o.weight": "attn_output.weight",
    "attention.o.bias": "attn_output.bias",
    "attention.v.weight": "attn_v.weight",
    "attention.v.bias": "attn_v.bias",
    "attention.q_norm.weight": "attn_q_norm.weight",
    "attention.k_norm.weight": "attn_k_norm.weight",
    "attention.sinks": "attn_sinks.weight",
    "attention.q_a.weight": "attn_q_a.weight",
    "attention.q_a_norm.weight": "attn_q_a_norm.weight",
    "attention.kv_a_norm.weight": "attn_kv_a_norm.weight",
    "ffn.router.weight": "ffn_gate_inp.weight",
    "ffn.router.bias": "ffn_gate_inp.bias",
    "ffn.router.select_bias": "exp_probs_b.bias",
    "ffn.router.input_scale": "ffn_gate_inp.scale",
    "ffn.router.expert_scale": "ffn_down_exps.scale",
    "ffn.expert_norm.weight": "pre_ffw_norm_2.weight",
    "ffn.expert_post_norm.weight": "post_ffw_norm_2.weight",
    "ffn.shared_post_norm.weight": "post_ffw_norm_1.weight",
    "ffn.experts.down.bias": "ffn_down_exps.bias",
    "ffn.latent_in.weight": "ffn_latent_down.weight",
    "ffn.latent_out.weight": "ffn_latent_up.weight",
    "per_layer.gate.weight": "inp_gate.weight",
    "per_layer.projection.weight": "proj.weight",
    "per_layer.norm.weight": "post_norm.weight",
    "output_scale": "layer_output_scale.weight",
} | {
    f"ffn.{ours}{part}.{kind}": f"ffn_{part}{theirs}.{kind}"
    for part in ("gate", "up", "down")
    for kind in ("weight", "bias")
    for ours, theirs in (("", ""), ("shared.", "_shexp"))
}
_GATED: dict[str, Literal["q", "gate"]] = {"attention.q.weight": "q", "attention.gate.weight": "gate"}
# What tokens bring to every layer, outside of the layers.
_PER_LAYER = {
    "per_layer.embed.weight": "per_layer_token_embd.weight",
    "per_layer.projection.weight": "per_layer_model_proj.weight",
    "per_layer.norm.weight": "per_layer_proj_norm.weight",
}
# Matrices with rope among their rows: their name in the file.
_ROTATED = {
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.q_b": "attn_q_b",
    "attention.kv_a": "attn_kv_a_mqa",
}


def gguf_slots(
    config: ModelConfig, target: Target, shapes: Mapping[str, Shape], present: Collection[str] = ()
) -> list[GgufSlot]:
    """Every tensor of the file that holds a parameter, in the file's order.

    `shapes`: of the parameters and selection biases, by our names, and of an indexer's tensors, by theirs on
    disk. `present`: the tensors of a file that is read, where several forms mean the same. A tied embedding
    has a second slot as the head where the architecture wants one. Errors: `CheckpointError` for a parameter
    without a place there.
    """
    embedding = _whole(shapes, "embed.weight", "token_embd.weight")
    slots = [embedding, _whole(shapes, "norm.weight", f"{target.last_norm}.weight")]
    if not config.tie_embeddings:
        slots.append(_whole(shapes, "head.weight", "output.weight"))
    elif target.head:
        note = "the embedding, which llama.cpp does not share here"
        slots.append(replace(embedding, stored="output.weight", note=note))
    slots += [_whole(shapes, ours, theirs) for ours, theirs in _PER_LAYER.items() if ours in shapes]
    for name in shapes:
        if name.startswith("blocks."):
            _, index, part = name.split(".", 2)
            slots += _block(config, target, shapes, name, int(index), part, present)
    slots += indexer_slots(shapes) if target.indexer else []
    slots = fused(slots, target.fused, present, shapes)
    if config.norm_plus_one:
        inside = {  # norms of mixers with a state are applied as they are
            f"blocks.{index}.attention.norm.weight"
            for index, block in enumerate(config.blocks)
            if isinstance(block.attention, STATE_MIXERS)
        }
        slots = [
            replace(one, change=PLUS_ONE) if _is_norm(one.name) and one.name not in inside else one
            for one in slots
        ]
    lost = set(shapes) - {slot.name for slot in slots}
    if lost:
        raise CheckpointError(
            f"parameter '{min(lost)}' has no place in llama.cpp's '{target.name}' architecture"
        )
    return slots


def rope_factors(config: ModelConfig, target: Target) -> dict[str, Tensor]:
    """Tensors with what each plain frequency of rope is divided by: llama3's scaling and LongRoPE's.

    Where kinds of layers differ, they say which pairs of a full layer's heads rotate.
    """
    if target.by_kind:
        return {ROPE_FACTORS: rotation_factors(config)}
    attention = next((one for one in config.attentions if one.rope is not None), None)
    rope = attention.rope if attention else None
    if attention is None or rope is None or rope.scaling is None:
        return {}
    if rope.scaling.kind == "longrope":
        pairs = ((LONG_FACTORS, rope.scaling.long_factors), (SHORT_FACTORS, rope.scaling.short_factors))
        return {name: torch.tensor(factors, dtype=torch.float32) for name, factors in pairs}
    if rope.scaling.kind != "llama3":
        return {}
    plain = inverse_frequencies(RopeConfig(theta=rope.theta), attention.head_dim)
    return {ROPE_FACTORS: plain / inverse_frequencies(rope, attention.head_dim)}


def _block(
    config: ModelConfig,
    target: Target,
    shapes: Mapping[str, Shape],
    name: str,
    index: int,
    part: str,
    present: Collection[str],
) -> Iterable[GgufSlot]:
    prefix, mixer = f"blk.{index}.", config.blocks[index].attention
    if isinstance(mixer, STATE_MIXERS) and part.startswith("attention."):
        ours = name.removesuffix(part) + "attention"
        found = mixer_slots(mixer, target.mixed, prefix, ours, shapes, present)
        return [slot for slot in found if slot.name == name]
    if target.mixed is not None and target.mixed.gated and part in _GATED:
        assert isinstance(mixer, AttentionConfig)
        return [gated_query(name, f"{prefix}attn_q.weight", mixer, config.width, _GATED[part])]
    if part == "ffn_norm.weight":
        return [_whole(shapes, name, f"{prefix}{target.norm_before_ffn}.weight")]
    if part in _PLAIN:
        return [_whole(shapes, name, prefix + target.names.get(part, _PLAIN[part]))]
    if part == "ffn.shared_gate.weight":  # one row, which the file has without its first dimension
        row = ((whole, lambda parameter: parameter[0]),)
        return [GgufSlot(f"{prefix}ffn_gate_inp_shexp.weight", shapes[name][1:], name, row)]
    stem, _, kind = part.rpartition(".")
    attention = mixer
    if stem in _ROTATED:
        pieces = _turned(config, target, index, stem)
        note = "rows of rope in neighbouring pairs" if pieces else ""
        slot = _whole(shapes, name, f"{prefix}{_ROTATED[stem]}.{kind}")
        return [replace(slot, pieces=pieces or slot.pieces, note=note)]
    if part == "attention.kv_b.weight" and isinstance(attention, MLAConfig):
        return _key_and_value(name, prefix, attention)
    if stem == "ffn.experts.gate_up":
        ffn = config.blocks[index].ffn
        alternate = isinstance(ffn, MoEConfig) and ffn.gate_up_alternates
        half = shapes[name][1] // 2
        rows = [slice(0, None, 2), slice(1, None, 2)] if alternate else [slice(0, half), slice(half, None)]
        pairs = zip(("gate", "up"), rows, strict=True)
        return [_experts(shapes, name, f"{prefix}ffn_{side}_exps.{kind}", chosen) for side, chosen in pairs]
    if part in ("ffn.experts.up.weight", "ffn.experts.down.weight"):
        return [_experts(shapes, name, f"{prefix}ffn_{stem.rpartition('.')[2]}_exps.weight", slice(None))]
    return []


def _is_norm(name: str) -> bool:
    return name.removesuffix(".weight").endswith("norm")


def _whole(shapes: Mapping[str, Shape], name: str, stored: str) -> GgufSlot:
    return GgufSlot(stored, shapes[name], name)


def _experts(shapes: Mapping[str, Shape], name: str, stored: str, rows: slice) -> GgufSlot:
    """Rows `rows` of every expert, stacked (E, R, I); of a bias (E, R) the same."""
    count, height, *rest = shapes[name]
    shape = (count, len(range(*rows.indices(height))), *rest)
    return GgufSlot(stored, shape, name, ((whole, lambda parameter: parameter[:, rows]),), rows)


def _key_and_value(name: str, prefix: str, attention: MLAConfig) -> list[GgufSlot]:
    """`kv_b` split into keys (H, rank, nope), which llama.cpp absorbs into the queries, and values.

    The values are (H, value, rank).
    """
    heads, nope, value, rank = attention.num_heads, attention.nope_dim, attention.value_dim, attention.kv_rank

    def keys(parameter: Tensor) -> Tensor:
        return parameter.view(heads, nope + value, rank)[:, :nope].transpose(1, 2)

    def values(parameter: Tensor) -> Tensor:
        return parameter.view(heads, nope + value, rank)[:, nope:]

    return [
        GgufSlot(
            f"{prefix}attn_k_b.weight",
            (heads, rank, nope),
            name,
            ((whole, keys),),
            note="the keys' half, transposed by head",
        ),
        GgufSlot(
            f"{prefix}attn_v_b.weight",
            (heads, value, rank),
            name,
            ((whole, values),),
            note="the values' half",
        ),
    ]


def _turned(
    config: ModelConfig, target: Target, index: int, stem: str
) -> tuple[tuple[View, View], ...] | None:
    """How rows are reordered for an architecture that rotates neighbours (None: they are not).

    Our rope of style `half` rotates (x[j], x[j + D/2]); there the pair is (x[2j], x[2j + 1]). In latent
    attention only the last rows of a head are rotated.
    """
    attention = config.blocks[index].attention
    if attention is None or isinstance(attention, STATE_MIXERS):
        return None
    # Converters reorder all layers alike, those without positions too.
    rope = Parts.of(config).rope
    if not target.pairs or rope.style == "pairs":
        return None
    if isinstance(attention, MLAConfig):
        heads = 1 if stem == "attention.kv_a" else attention.num_heads
        width, plain = (
            attention.rope_dim,
            attention.kv_rank if stem == "attention.kv_a" else attention.nope_dim,
        )
    else:
        heads = attention.num_heads if stem == "attention.q" else attention.num_kv_heads
        width, plain = attention.head_dim, 0

    def by_head(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (heads, plain + width))

    def neighbours(stored: Tensor) -> Tensor:
        return by_head(stored)[:, plain:].unflatten(1, (width // 2, 2))

    def halves(parameter: Tensor) -> Tensor:
        return by_head(parameter)[:, plain:].unflatten(1, (2, width // 2)).transpose(1, 2)

    def unturned(tensor: Tensor) -> Tensor:
        return by_head(tensor)[:, :plain]

    turned = ((neighbours, halves),)
    return turned if plain == 0 else ((unturned, unturned), *turned)
