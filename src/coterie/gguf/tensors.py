"""Our parameters as llama.cpp's tensors: its names, its row order for rope, stacked experts, `kv_b` split.

Each tensor yields its rows in chunks, so that writing and checking hold one expert, or one matrix in its
stored type, and never a layer. R rows, I numbers in a row, E experts, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coterie.config import CheckpointError, MLAConfig, ModelConfig, MoEConfig, RopeConfig
from coterie.gguf.blocks import CHUNK, Array
from coterie.gguf.parameters import ParameterSource
from coterie.gguf.targets import Target
from coterie.nn.rope import inverse_frequencies


@dataclass(frozen=True)
class Mapped:
    """One tensor of the file: our parameter `origin`, changed as `note` says.

    `rows()`: the tensor as (R, I) fp32, in chunks of rows.
    """

    name: str
    shape: tuple[int, ...]
    origin: str
    rows: Callable[[], Iterator[Array]]
    note: str = ""


_PLAIN = {
    "attention_norm.weight": "attn_norm.weight",
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
    "ffn.experts.down.bias": "ffn_down_exps.bias",
} | {
    f"ffn.{ours}{part}.{kind}": f"ffn_{part}{theirs}.{kind}"
    for part in ("gate", "up", "down")
    for kind in ("weight", "bias")
    for ours, theirs in (("", ""), ("shared.", "_shexp"))
}
# Matrices with rope among their rows: their name in the file.
_ROTATED = {
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.q_b": "attn_q_b",
    "attention.kv_a": "attn_kv_a_mqa",
}


def map_tensors(source: ParameterSource, target: Target) -> list[Mapped]:
    """Every tensor of the file in its order.

    Errors: `CheckpointError` for a parameter that has no place in the architecture.
    """
    mapped = [_whole(source, "embed.weight", "token_embd.weight")]
    mapped += [_whole(source, "norm.weight", "output_norm.weight")]
    head = "embed.weight" if source.config.tie_embeddings else "head.weight"
    if target.head or not source.config.tie_embeddings:
        note = "the embedding, which llama.cpp does not share here" if source.config.tie_embeddings else ""
        mapped.append(replace(_whole(source, head, "output.weight"), note=note))
    mapped += _factors(source.config)
    for name in source.shapes:
        if name.startswith("blocks."):
            _, index, part = name.split(".", 2)
            mapped += _block(source, target, name, int(index), part)
    lost = set(source.shapes) - {tensor.origin for tensor in mapped}
    if lost:
        raise CheckpointError(
            f"parameter '{min(lost)}' has no place in llama.cpp's '{target.name}' architecture"
        )
    return mapped


def _block(source: ParameterSource, target: Target, name: str, index: int, part: str) -> list[Mapped]:
    prefix = f"blk.{index}."
    if part == "ffn_norm.weight":
        return [_whole(source, name, f"{prefix}{target.norm_before_ffn}.weight")]
    if part in _PLAIN:
        return [_whole(source, name, prefix + _PLAIN[part])]
    stem, _, kind = part.rpartition(".")
    attention = source.config.blocks[index].attention
    if stem in _ROTATED:
        turn = _turned(source.config, target, index, stem)
        note = "rows of rope in neighbouring pairs" if turn else ""
        return [replace(_whole(source, name, f"{prefix}{_ROTATED[stem]}.{kind}", turn), note=note)]
    if part == "attention.kv_b.weight" and isinstance(attention, MLAConfig):
        return _key_and_value(source, name, prefix, attention)
    if stem == "ffn.experts.gate_up":
        ffn = source.config.blocks[index].ffn
        alternate = isinstance(ffn, MoEConfig) and ffn.gate_up_alternates
        half = source.shapes[name][1] // 2
        rows = [slice(0, None, 2), slice(1, None, 2)] if alternate else [slice(0, half), slice(half, None)]
        pairs = zip(("gate", "up"), rows, strict=True)
        return [_experts(source, name, f"{prefix}ffn_{side}_exps.{kind}", chosen) for side, chosen in pairs]
    if part == "ffn.experts.down.weight":
        return [_experts(source, name, f"{prefix}ffn_down_exps.weight", slice(None))]
    return []


def _whole(
    source: ParameterSource, name: str, theirs: str, change: Callable[[Tensor], Tensor] | None = None
) -> Mapped:
    def rows() -> Iterator[Array]:
        tensor = source.read(name)
        yield from _pieces(tensor if change is None else change(tensor))

    return Mapped(theirs, source.shapes[name], name, rows)


def _experts(source: ParameterSource, name: str, theirs: str, chosen: slice) -> Mapped:
    """Rows `chosen` of every expert, stacked (E, rows, in); of a bias (E, rows) the same."""
    count, *inner = source.shapes[name]
    inner[0] = len(range(*chosen.indices(inner[0])))

    def rows() -> Iterator[Array]:
        if len(inner) == 1:
            yield from _pieces(source.read(name)[:, chosen])
            return
        for expert in source.experts(name, chosen):
            yield from _pieces(expert)

    return Mapped(theirs, (count, *inner), name, rows)


def _key_and_value(source: ParameterSource, name: str, prefix: str, attention: MLAConfig) -> list[Mapped]:
    """`kv_b` split into keys (H, rank, nope), which llama.cpp absorbs into the queries, and values.

    The values are (H, value, rank).
    """
    heads, nope, value, rank = attention.num_heads, attention.nope_dim, attention.value_dim, attention.kv_rank

    def of_heads(tensor: Tensor) -> Tensor:
        return tensor.reshape(heads, nope + value, rank)

    keys = _whole(
        source, name, f"{prefix}attn_k_b.weight", lambda tensor: of_heads(tensor)[:, :nope].transpose(1, 2)
    )
    values = _whole(source, name, f"{prefix}attn_v_b.weight", lambda tensor: of_heads(tensor)[:, nope:])
    return [
        replace(keys, shape=(heads, rank, nope), note="the keys' half, transposed by head"),
        replace(values, shape=(heads, value, rank), note="the values' half"),
    ]


def _turned(config: ModelConfig, target: Target, index: int, stem: str) -> Callable[[Tensor], Tensor] | None:
    """How to reorder rows for an architecture that rotates neighbours (None: no change).

    Our rope of style `half` rotates (x[j], x[j + D/2]); there the pair is (x[2j], x[2j + 1]).
    """
    attention = config.blocks[index].attention
    if not target.pairs or attention.rope is None or attention.rope.style == "pairs":
        return None
    if isinstance(attention, MLAConfig):
        heads = 1 if stem == "attention.kv_a" else attention.num_heads
        width = attention.rope_dim
    else:
        heads = attention.num_heads if stem == "attention.q" else attention.num_kv_heads
        width = attention.head_dim

    def turn(tensor: Tensor) -> Tensor:
        by_head = tensor.unflatten(0, (heads, -1))
        plain, turned = by_head[:, :-width], by_head[:, -width:]
        neighbours = turned.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return torch.cat((plain, neighbours), dim=1).flatten(0, 1)

    return turn


def _factors(config: ModelConfig) -> list[Mapped]:
    """llama3 scaling as a tensor: the factor that each frequency is divided by."""
    attention = next((block.attention for block in config.blocks if block.attention.rope is not None), None)
    rope = attention.rope if attention else None
    if attention is None or rope is None or rope.scaling is None or rope.scaling.kind != "llama3":
        return []
    plain = inverse_frequencies(RopeConfig(theta=rope.theta), attention.head_dim)
    factors = plain / inverse_frequencies(rope, attention.head_dim)
    return [
        Mapped(
            "rope_freqs.weight", tuple(factors.shape), "config", lambda: _pieces(factors), "llama3 scaling"
        )
    ]


def _pieces(tensor: Tensor) -> Iterator[Array]:
    rows = tensor.reshape(1, -1) if tensor.dim() == 1 else tensor.flatten(0, -2)
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step].float().numpy()
