"""Sliding and full layers that a file describes apart, as Gemma 4 has them: sizes, positions, shared keys.

Where other architectures have one value for all layers, this one has heads, widths and positions per kind of
layer. llama.cpp finds the layer whose keys another one uses by its place: the last layers before the sharing
ones are a sliding one and then a full one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from coterie.config import AttentionConfig, FeedForwardConfig, ModelConfig

NEVER_TURNS = 1e30  # divides the frequency of a pair that does not rotate


def keys_by_kind(config: ModelConfig) -> dict[str, Any]:
    """The keys of a model that llama.cpp can run (`lacking`), without the architecture's prefix."""
    attentions = _attentions(config)
    full = next(one for one in attentions if one.mask == "causal")
    sliding = next((one for one in attentions if one.mask == "sliding"), full)
    heads = [one.num_kv_heads for one in attentions]
    widths = [_dense_width(config, layer) for layer in range(config.num_layers)]
    keys: dict[str, Any] = {
        "feed_forward_length": _one_or_all(widths),
        "embedding_length_per_layer_input": config.per_layer_width or 0,
        "attention.head_count_kv": _one_or_all(heads),
        "attention.shared_kv_layers": sum(one.keys_of is not None for one in attentions),
        "final_logit_softcapping": config.logit_cap or 0.0,
        "attention.sliding_window": sliding.window or config.max_positions,
        "attention.sliding_window_pattern": [one.mask == "sliding" for one in attentions],
        "rope.dimension_count": full.head_dim,
        "rope.dimension_count_swa": sliding.head_dim,
    }
    for part in ("key", "value"):
        keys[f"attention.{part}_length"] = full.head_dim
        keys[f"attention.{part}_length_swa"] = sliding.head_dim
    if sliding.rope is not None:
        keys["rope.freq_base_swa"] = sliding.rope.theta
    return keys


def lacking(config: ModelConfig) -> Iterator[str]:
    """What llama.cpp's graph has, of which the model needs something else."""
    attentions = _attentions(config)
    first = sum(one.keys_of is None for one in attentions)
    for one in attentions:
        if one.qkv_bias or one.output_bias:
            yield "has no biases in the attention (attention_bias)"
        if one.keys_of is not None and one.keys_of != first - (2 if one.mask == "sliding" else 1):
            yield (
                "takes shared keys of the last layers before, a sliding one and then a full one "
                "(layer_types, num_kv_shared_layers)"
            )
        if one.mask == "sliding" and one.rope is not None and one.rope.rotated is not None:
            yield "rotates whole heads of sliding layers (rope_parameters)"


def rotation_factors(config: ModelConfig) -> Tensor:
    """(D/2,) float32 of full layers: 1 for the pairs of a head that rotate, `NEVER_TURNS` for the others."""
    full = next(one for one in _attentions(config) if one.mask == "causal")
    factors = torch.ones(full.head_dim // 2)
    if full.rope is not None and full.rope.rotated is not None:
        factors[full.rope.rotated // 2 :] = NEVER_TURNS
    return factors


def unused_projections(config: ModelConfig) -> frozenset[str]:
    """Tensors that files may hold for layers that use the keys and values of another one."""
    layers = [
        layer
        for layer, block in enumerate(config.blocks)
        if isinstance(block.attention, AttentionConfig) and block.attention.keys_of is not None
    ]
    parts = ("attn_k", "attn_v", "attn_k_norm")
    return frozenset(f"blk.{layer}.{part}.weight" for layer in layers for part in parts)


def _attentions(config: ModelConfig) -> list[AttentionConfig]:
    found = [block.attention for block in config.blocks]
    assert all(isinstance(one, AttentionConfig) for one in found)
    return [one for one in found if isinstance(one, AttentionConfig)]


def _dense_width(config: ModelConfig, layer: int) -> int:
    """Of the feed-forward that every token visits."""
    ffn = config.blocks[layer].ffn
    assert ffn is not None
    return ffn.width if isinstance(ffn, FeedForwardConfig) else ffn.shared_width or 0


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
