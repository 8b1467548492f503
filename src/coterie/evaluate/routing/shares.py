"""Which experts serve which kind of text: counts of the routers' choices by layer and slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.routing.trace import require_experts, trace
from coterie.nn.transformer import Transformer
from coterie.results.routing import RoutingShares


def routing_shares(
    model: Transformer,
    documents: Sequence[HeldoutDocument],
    max_tokens_per_slice: int = 20000,
    row_length: int = 512,
) -> RoutingShares:
    """Share of each slice's assignments by layer and expert, over up to `max_tokens_per_slice` tokens.

    If layers differ in their number of experts, each has as many columns as the largest, and experts that it
    lacks have share 0.
    Errors: `ConfigError` for a dense model.
    """
    sizes = require_experts(model, "the model")
    layers, num_experts = list(sizes), max(sizes.values())
    slices = sorted({document.slice for document in documents})
    counts = np.zeros((len(layers), len(slices), num_experts))
    for (text,) in trace([model], _limited(documents, max_tokens_per_slice), row_length):
        for layer, routing in text.routing.items():
            chosen = np.bincount(routing.ids_TK.flatten().cpu().numpy(), minlength=num_experts)
            counts[layers.index(layer), slices.index(text.domain)] += chosen
    share = counts / counts.sum(-1, keepdims=True)
    _, first = model.config.moe_layers()[0]
    return RoutingShares(
        layers=layers,
        num_experts=num_experts,
        top_k=first.router.top_k,
        slices=slices,
        share=share.tolist(),
    )


def _limited(documents: Sequence[HeldoutDocument], max_tokens: int) -> list[HeldoutDocument]:
    """Documents in order, until each slice has `max_tokens` tokens; the last of a slice is cut."""
    left: dict[str, int] = {}
    kept = []
    for document in documents:
        room = left.setdefault(document.slice, max_tokens)
        if room > 0:
            kept.append(replace(document, ids=document.ids[:room]))
            left[document.slice] = room - len(kept[-1].ids)
    return kept
