"""The held-out documents on which a training run is measured, and the measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from coterie.data.build import Prepared
from coterie.data.heldout import HeldoutDocument, sample, spread
from coterie.evaluate.bits import DocumentScore, bits_per_byte, score_documents
from coterie.nn.transformer import Transformer

EVAL_TOKENS = 32768


def evaluation_documents(
    prepared: Prepared,
    max_tokens: int,
    part: Literal["search", "final"] = "search",
    cut: bool = False,
) -> list[HeldoutDocument]:
    """Some of the held-out documents, spread evenly, of about `max_tokens` tokens.

    `cut`: where not all fit, take only the beginnings of long ones, so that there are several.

    `search` and `final` share no document (unless there is only one), so that no document both chooses a
    setting and judges its result.
    """
    everything = prepared.heldout_documents()
    documents = everything[1::2] if part == "search" else everything[::2]
    documents = documents or everything
    return sample(documents, max_tokens, prepared.tokenizer) if cut else spread(documents, max_tokens)


def heldout_scores(
    model: Transformer, prepared: Prepared, documents: Sequence[HeldoutDocument]
) -> list[DocumentScore]:
    """The scores of `documents`, read in rows of the length that training uses."""
    return score_documents(model, documents, prepared.tokenizer.document_start[0], prepared.row_length)


def heldout_bits(model: Transformer, prepared: Prepared, documents: Sequence[HeldoutDocument]) -> float:
    """Bits per byte of `documents` under `model`."""
    return bits_per_byte(heldout_scores(model, prepared, documents))
