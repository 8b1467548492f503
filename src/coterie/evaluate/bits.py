"""Bits per byte of held-out documents, one record per document, so that models compare on the same texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from coterie.config import DataError
from coterie.data.heldout import HeldoutDocument
from coterie.data.progress import Ticker
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.packed import groups_of
from coterie.nn.transformer import Transformer

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class DocumentScore:
    """The score of one document: `nats` summed over its tokens and the separator after it."""

    slice: str
    nats: float
    num_bytes: int
    num_tokens: int


@torch.inference_mode()
def score_documents(
    model: Transformer,
    documents: Sequence[HeldoutDocument],
    end_id: int,
    row_length: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[DocumentScore]:
    """Score every token of every document, and `end_id` after it.

    A document longer than `row_length` tokens is read in parts of that length, each without the context of
    the part before it, as in training. `progress` is called with (parts done, parts in all); by default it
    logs a line every ten seconds.
    Errors: `DataError` for a document with a token that the model lacks.
    """
    progress = progress or Ticker("scoring: parts of text")
    pieces: list[tuple[int, np.ndarray]] = []
    for index, document in enumerate(documents):
        ids = np.append(document.ids, end_id).astype(np.int64)
        if ids.max() >= model.config.vocab_size:
            raise DataError(
                f"held-out document {index}: token {ids.max()} is outside the model's vocabulary of "
                f"{model.config.vocab_size}; the tokenizer and the model do not belong together"
            )
        pieces += [(index, ids[at : at + row_length + 1]) for at in range(0, len(ids) - 1, row_length)]
    nats = np.zeros(len(documents))
    # Neighbours of like length share a batch without waste.
    pieces.sort(key=lambda piece: len(piece[1]))
    done = 0
    for batch in groups_of([ids for _, ids in pieces], BATCH_TOKENS):
        lengths = [len(ids) - 1 for ids in batch]
        for part in _logprobs(model, batch, lengths).split(lengths):
            nats[pieces[done][0]] -= float(part.double().sum())
            done += 1
        progress(done, len(pieces))
    return [
        DocumentScore(document.slice, float(cost), document.num_bytes, len(document.ids))
        for document, cost in zip(documents, nats, strict=True)
    ]


def _logprobs(model: Transformer, pieces: list[np.ndarray], lengths: list[int]) -> torch.Tensor:
    device = model.embed.weight.device
    inputs = torch.from_numpy(np.concatenate([ids[:-1] for ids in pieces])).to(device)
    targets = torch.from_numpy(np.concatenate([ids[1:] for ids in pieces])).to(device)
    h_TD = model(inputs, ForwardContext.packed(lengths, device=device))
    return token_logprobs(h_TD, model.head_weight, targets, cap=model.logit_cap)


def bits_per_byte(scores: Sequence[DocumentScore]) -> float:
    """Total bits over total bytes."""
    return sum(s.nats for s in scores) / math.log(2) / sum(s.num_bytes for s in scores)


def perplexity(scores: Sequence[DocumentScore]) -> float:
    """The exponential of the mean nats per token; at most e^700, so that it stays finite."""
    return math.exp(min(700.0, sum(s.nats for s in scores) / sum(s.num_tokens for s in scores)))
