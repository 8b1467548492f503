"""What the routers chose for given texts: read documents through one or two models, piece by piece.

T tokens, K chosen experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coterie.config import ConfigError, DataError
from coterie.data.sources import read_sources
from coterie.evaluate.bits import HeldoutDocument
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.text.chat import render_ids
from coterie.text.tokenizer import Tokenizer

PIECE_TOKENS = 2048


def read_domains(
    sources: Sequence[str],
    tokenizer: Tokenizer | None,
    max_tokens: int = 50_000,
    model_name: str = "the model",
) -> list[HeldoutDocument]:
    """Documents of each source, at most about `max_tokens` of it; a source is one domain, named after its
    file.

    The built-in corpus has a domain per kind of text. Conversations are rendered by the tokenizer's template.
    Errors: `DataError` for a source that cannot be read, `ConfigError` without a tokenizer.
    """
    if tokenizer is None:
        raise ConfigError(f"{model_name}: has no tokenizer.json, which reading text needs; add one")
    documents: list[HeldoutDocument] = []
    names: set[str] = set()
    for source in sources:
        name = Path(source).name or source
        name = source if name in names else name
        names.add(name)
        used: dict[str, int] = {}
        for document in read_sources([source], max_bytes=16 * max_tokens):
            domain = document.slice if source == "primer" else name
            if used.get(domain, 0) >= max_tokens:
                continue
            if document.messages and tokenizer.chat_template:
                ids = render_ids(tokenizer, document.messages)[0]
            else:
                ids = [tokenizer.eos_id, *tokenizer.encode(document.text)]
            ids = ids[: max(2, max_tokens - used.get(domain, 0))]
            used[domain] = used.get(domain, 0) + len(ids)
            documents.append(
                HeldoutDocument(domain, np.array(ids, dtype=np.int64), len(document.text.encode()))
            )
    return documents


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
