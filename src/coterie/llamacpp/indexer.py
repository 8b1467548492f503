"""Tensors of an indexer, which chooses the keys of each query, as llama.cpp's tensors.

The decoder does not compute with them: a model carries them under their names on disk, and as many keys as
the indexer chooses all take part. llama.cpp does compute with them, so a file must hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config import CheckpointError, MLAConfig, ModelConfig
from coterie.llamacpp.slot import GgufSlot, Shape

TYPES = (
    "attention.indexer.types"  # layer by layer, whether it has an indexer or takes the keys of the last one
)
FULL, SHARED = "full", "shared"  # the same in config.json
_STORED = {
    "wq_b.weight": "attn_q_b.weight",
    "wk.weight": "attn_k.weight",
    "k_norm.weight": "k_norm.weight",
    "k_norm.bias": "k_norm.bias",
    "weights_proj.weight": "proj.weight",
}
_INDEXER = ".self_attn.indexer."


def indexer_types(config: ModelConfig, where: str | Path) -> list[str]:
    """`full` or `shared` of every layer; all are full where the config does not say.

    `where`: the model, for messages. Errors: `CheckpointError` for other values.
    """
    stated: Any = config.extra.get("indexer_types")
    types = [FULL] * config.num_layers if stated is None else stated
    known = isinstance(types, list) and all(one in (FULL, SHARED) for one in types)
    if not known or len(types) < config.num_layers:
        raise CheckpointError(
            f"{where}: 'indexer_types' is {str(stated)[:60]}; give '{FULL}' or '{SHARED}' for each of "
            f"{config.num_layers} layers"
        )
    if types[0] != FULL:
        raise CheckpointError(f"{where}: the first layer must have an indexer, no other can choose its keys")
    return types[: config.num_layers]


def indexer_shapes(config: ModelConfig, where: str | Path) -> dict[str, Shape]:
    """Shapes of the indexers' tensors by their names on disk.

    `where`: the model, for messages. Errors: `CheckpointError` for a size that the config lacks.
    """
    attention, sizes = config.attentions[0], []
    assert isinstance(attention, MLAConfig)
    if attention.q_rank is None:
        raise CheckpointError(f"{where}: has no 'q_lora_rank', and an indexer works on queries of low rank")
    for name in ("index_n_heads", "index_head_dim"):
        size = config.extra.get(name)
        if type(size) is not int or size < 1:
            raise CheckpointError(f"{where}: '{name}' is {size!r}; give a whole number from 1 up")
        sizes.append(size)
    heads, width = sizes
    shapes: dict[str, Shape] = {
        "wq_b.weight": (heads * width, attention.q_rank),
        "wk.weight": (width, config.width),
        "k_norm.weight": (width,),
        "k_norm.bias": (width,),
        "weights_proj.weight": (heads, config.width),
    }
    return {
        f"model.layers.{layer}{_INDEXER}{part}": shape
        for layer, kind in enumerate(indexer_types(config, where))
        if kind == FULL
        for part, shape in shapes.items()
    }


def indexer_slots(shapes: Mapping[str, Shape]) -> list[GgufSlot]:
    """Places in the file of those tensors that are an indexer's. `shapes`: by our names and those on disk."""
    slots = []
    for name, shape in shapes.items():
        before, found, part = name.partition(_INDEXER)
        if found:
            layer = before.rpartition(".")[2]
            slots.append(GgufSlot(f"blk.{layer}.indexer.{_STORED[part]}", shape, name))
    return slots


def unused_indexers(config: ModelConfig, where: str | Path) -> frozenset[str]:
    """Tensors that files may hold for layers that take the keys of another one."""
    return frozenset(
        f"blk.{layer}.indexer.{part}"
        for layer, kind in enumerate(indexer_types(config, where))
        if kind == SHARED
        for part in _STORED.values()
    )
