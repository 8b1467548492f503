"""Which documents and examples are held out for evaluation.

The content alone decides, so equal texts are on the same side and a text stays on its side when others are
added. A hash of the content gives a place in [0, 1); places below the held-out fraction are held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from coterie.config.errors import DataError
from coterie.data.dedup import content_digest
from coterie.data.documents import Document
from coterie.data.tokenised import TokenExample

LEAST_HELD_OUT = 10  # examples, where they are at most a fifth of all: fewer show little
MIN_EXAMPLES = 10  # of fewer tuning examples none is held out: all are needed for training


def place(text: str) -> float:
    """The place of a text, in [0, 1). It depends on the words only, not on white space."""
    return int.from_bytes(content_digest(text)[-8:], "big") / 2**64


def split(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document], bool]:
    """(train, held out, forced). `forced`: a side was empty, so the document nearest to the limit moved.

    Errors: `DataError` when there are not two different documents.
    """
    places = [place(document.text) for document in documents]
    if len(set(places)) < 2:
        raise DataError("one document cannot be split into training and held-out text; give more text")
    held, forced = _held_out(places, fraction)
    train = [document for document, out in zip(documents, held, strict=True) if not out]
    return train, [document for document, out in zip(documents, held, strict=True) if out], forced


def split_examples(
    examples: Sequence[TokenExample], fraction: float
) -> tuple[list[TokenExample], list[TokenExample]]:
    """(train, held out) of tuning examples, by their token ids; the parts of a long text stay together.

    A small share of few examples holds out `LEAST_HELD_OUT` of them, or a fifth if that is less.
    Nothing is held out for a fraction of 0, of fewer than `MIN_EXAMPLES`, or when all examples are equal.
    """
    places: list[float] = []
    for example in examples:
        places.append(places[-1] if example.part and places else _token_place(example))
    if fraction == 0 or len(examples) < MIN_EXAMPLES or len(set(places)) < 2:
        return list(examples), []
    least = sorted(places)[min(LEAST_HELD_OUT, len(places) // 5)]
    held, _ = _held_out(places, max(fraction, least))
    train = [example for example, out in zip(examples, held, strict=True) if not out]
    return train, [example for example, out in zip(examples, held, strict=True) if out]


def _token_place(example: TokenExample) -> float:
    ids = [token for sequence in example.sequences for token in sequence.ids]
    digest = hashlib.sha256(np.asarray(ids, dtype=np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _held_out(places: Sequence[float], fraction: float) -> tuple[list[bool], bool]:
    """Which places are held out, and whether the limit moved to fill a side. Two places must differ."""
    limit, forced = fraction, False
    if min(places) >= fraction:
        limit, forced = sorted(set(places))[1], True
    elif max(places) < fraction:
        limit, forced = max(places), True
    return [at < limit for at in places], forced
