"""Every weight matrix of a model, from its config: what adapters, patches and quantised forms act on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coterie.config import BlockConfig, MLAConfig, ModelConfig, MoEConfig
from coterie.config.mixers import STATE_MIXERS

MatrixGroup = Literal["attention", "experts", "shared", "dense", "router", "embedding", "head"]


@dataclass(frozen=True)
class Matrix:
    """`count` matrices of `rows` x `columns` (out x in): 1, or one per expert.

    `layer` is None outside the blocks.
    """

    group: MatrixGroup
    rows: int
    columns: int
    count: int = 1
    layer: int | None = None

    @property
    def size(self) -> int:
        return self.rows * self.columns * self.count


def matrices(config: ModelConfig) -> Iterator[Matrix]:
    """All matrices of the decoder. Gate and up of an expert are one, as they are stored and adapted."""
    yield Matrix("embedding", config.vocab_size, config.width)
    if config.per_layer_width is not None:
        inputs = config.num_layers * config.per_layer_width
        yield Matrix("embedding", config.vocab_size, inputs)
        yield Matrix("dense", inputs, config.width)
    for layer, block in enumerate(config.blocks):
        for rows, columns in _attention(block, config.width):
            yield Matrix("attention", rows, columns, layer=layer)
        yield from _feed_forward(block, config.width, layer)
        if block.per_layer_width is not None:
            yield Matrix("dense", block.per_layer_width, config.width, layer=layer)
            yield Matrix("dense", config.width, block.per_layer_width, layer=layer)
    if not config.tie_embeddings:
        yield Matrix("head", config.vocab_size, config.width)


def _attention(block: BlockConfig, width: int) -> list[tuple[int, int]]:
    a = block.attention
    if a is None:
        return []
    if isinstance(a, STATE_MIXERS):
        return a.matrices(width)
    if not isinstance(a, MLAConfig):
        queries, keys = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        gate = {"none": [], "head": [(a.num_heads, width)], "full": [(queries, width)]}[a.gate]
        number = 0 if a.keys_of is not None else 1 if a.keys_as_values else 2
        return [(queries, width), *[(keys, width)] * number, (width, queries), *gate]
    queries = a.num_heads * a.head_dim
    q = [(queries, width)] if a.q_rank is None else [(a.q_rank, width), (queries, a.q_rank)]
    kv = [(a.kv_rank + a.rope_dim, width), (a.num_heads * (a.nope_dim + a.value_dim), a.kv_rank)]
    return [*q, *kv, (width, a.num_heads * a.value_dim)]


def _feed_forward(block: BlockConfig, width: int, layer: int) -> Iterator[Matrix]:
    ffn = block.ffn
    if ffn is None:
        return
    reading = ffn.num_matrices - 1
    if not isinstance(ffn, MoEConfig):
        yield from _dense("dense", reading, ffn.width, width, layer)
        return
    num, inside = ffn.router.num_experts, ffn.latent_width or width
    yield Matrix("router", num, width, layer=layer)
    yield Matrix("experts", reading * ffn.expert_width, inside, num, layer)
    yield Matrix("experts", inside, ffn.expert_width, num, layer)
    if ffn.shared_width:
        yield from _dense("shared", reading, ffn.shared_width, width, layer)
    if ffn.shared_gate:
        yield Matrix("shared", 1, width, layer=layer)
    if ffn.latent_width is not None:
        yield Matrix("shared", inside, width, layer=layer)
        yield Matrix("shared", width, inside, layer=layer)


def _dense(
    group: Literal["dense", "shared"], reading: int, inner: int, width: int, layer: int
) -> Iterator[Matrix]:
    """`reading`: the matrices that read x, up alone or gate and up."""
    for _ in range(reading):
        yield Matrix(group, inner, width, layer=layer)
    yield Matrix(group, width, inner, layer=layer)
