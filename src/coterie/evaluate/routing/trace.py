"""What the routers chose for given texts: documents read through one or several models.

T tokens, D width, K chosen experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.config import ConfigError, DataError
from coterie.data.heldout import HeldoutDocument
from coterie.nn.forward_context import ForwardContext
from coterie.nn.packed import PASS_TOKENS, groups_of
from coterie.nn.recording import Recorder
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer


@dataclass(frozen=True, eq=False)
class TracedText:
    """Some rows of one domain under one model.

    `ids_T` int64; `lengths`: of the rows, which sum to T; `h_TD`: hidden states after the final norm;
    `routing`: of each MoE layer by its index.
    """

    domain: str
    ids_T: Tensor
    lengths: tuple[int, ...]
    h_TD: Tensor
    routing: dict[int, Routing]


@torch.no_grad()
def trace(
    models: Sequence[Transformer], documents: Sequence[HeldoutDocument], row_length: int = 512
) -> Iterator[tuple[TracedText, ...]]:
    """The same rows through every model, at most `PASS_TOKENS` tokens at a time, one domain after another.

    Documents are cut to `row_length` tokens, or to the positions of the model that has fewest.
    Errors: `DataError` for a token that a model lacks.
    """
    limit = min([row_length, *(model.config.max_positions for model in models)])
    vocabulary = min(model.config.vocab_size for model in models)
    for domain in dict.fromkeys(document.slice for document in documents):
        rows = [
            document.ids[at : at + limit]
            for document in documents
            if document.slice == domain
            for at in range(0, len(document.ids), limit)
        ]
        for group in groups_of(rows, PASS_TOKENS):
            ids = np.concatenate(group).astype(np.int64)
            if ids.max() >= vocabulary:
                raise DataError(
                    f"{domain}: token {ids.max()} is outside the vocabulary of {vocabulary}; give the "
                    "tokenizer that belongs to the model"
                )
            yield tuple(_forward(model, domain, ids, tuple(map(len, group))) for model in models)


def _forward(model: Transformer, domain: str, ids: np.ndarray, lengths: tuple[int, ...]) -> TracedText:
    device = model.embed.weight.device
    ids_T = torch.from_numpy(ids).to(device)
    recorder = Recorder()
    h_TD = model(ids_T, ForwardContext.packed(list(lengths), device=device, recorder=recorder))
    return TracedText(domain, ids_T, lengths, h_TD, recorder.routing)


def require_experts(model: Transformer, name: str) -> dict[int, int]:
    """Layer -> number of experts.

    Errors: `ConfigError` for a dense model.
    """
    layers = {layer: r.config.num_experts for layer, r in model.routers() if layer < model.config.num_layers}
    if not layers:
        raise ConfigError(f"{name}: is a dense model without routers; give a mixture of experts")
    return layers
