"""What the routers chose for given texts: read documents through one or two models, piece by piece.

T tokens, K chosen experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.config import ConfigError, DataError
from coterie.data.heldout import HeldoutDocument
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer

PIECE_TOKENS = 2048


@dataclass(frozen=True)
class Piece:
    """Some rows of one domain under one model: ids and their hidden states, each layer's routing."""

    domain: str
    ids_T: Tensor
    lengths: tuple[int, ...]
    h_TD: Tensor
    routing: dict[int, Routing]


@torch.no_grad()
def trace(
    models: Sequence[Transformer], documents: Sequence[HeldoutDocument], row_length: int = 512
) -> Iterator[tuple[Piece, ...]]:
    """The same rows through every model, about `PIECE_TOKENS` at a time, a domain after another.

    Documents are cut to `row_length` (and to what every model takes). Errors: `DataError` for a token a model
    lacks.
    """
    limit = min([row_length, *(model.config.max_positions for model in models)])
    vocabulary = min(model.config.vocab_size for model in models)
    for domain in dict.fromkeys(document.slice for document in documents):
        rows = [
            d.ids[at : at + limit]
            for d in documents
            if d.slice == domain
            for at in range(0, len(d.ids), limit)
        ]
        group: list[np.ndarray] = []
        for index, row in enumerate(rows):
            group.append(row)
            if index + 1 == len(rows) or sum(map(len, group)) + len(rows[index + 1]) > PIECE_TOKENS:
                ids = np.concatenate(group).astype(np.int64)
                if ids.max() >= vocabulary:
                    raise DataError(
                        f"{domain}: token {ids.max()} is outside the vocabulary of {vocabulary}; give the "
                        "tokenizer that belongs to the model"
                    )
                yield tuple(_forward(model, domain, ids, tuple(map(len, group))) for model in models)
                group = []


def _forward(model: Transformer, domain: str, ids: np.ndarray, lengths: tuple[int, ...]) -> Piece:
    device = model.embed.weight.device
    ids_T = torch.from_numpy(ids).to(device)
    with recorded(model) as routing:
        h_TD = model(ids_T, ForwardContext.packed(list(lengths), device=device))
    return Piece(domain, ids_T, lengths, h_TD, routing)


@contextmanager
def recorded(model: Transformer) -> Iterator[dict[int, Routing]]:
    """Inside, every forward pass leaves each layer's routing here."""
    found: dict[int, Routing] = {}
    hooks = [
        router.register_forward_hook(lambda _m, _i, out, layer=layer: found.__setitem__(layer, out))
        for layer, router in model.routers()
        if layer < model.config.num_layers
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def require_experts(model: Transformer, name: str) -> dict[int, int]:
    """Layer -> number of experts. Errors: `ConfigError` for a dense model."""
    layers = {layer: r.config.num_experts for layer, r in model.routers() if layer < model.config.num_layers}
    if not layers:
        raise ConfigError(f"{name}: is a dense model, it has no routers; give a mixture of experts")
    return layers
