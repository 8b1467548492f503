"""Which documents are kept for evaluation: their content alone decides, so no text is ever on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.config.errors import DataError
from coterie.data.dedup import content_digest
from coterie.data.sources import Document


def place(text: str) -> float:
    """A number in [0, 1) that depends on the content only (white space evened out)."""
    return int.from_bytes(content_digest(text)[-8:], "big") / 2**64


def split(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document], bool]:
    """(train, heldout, forced). A document is held out when its place lies below `fraction`.

    `forced`: so few documents that the rule left one side empty; the one nearest to the limit was moved over.
    Errors: `DataError` when there are not two different documents.
    """
    places = [place(document.text) for document in documents]
    if len(set(places)) < 2:
        raise DataError("one document cannot be split into training and held-out text; give more text")
    limit, forced = fraction, False
    if min(places) >= fraction:
        limit, forced = sorted(set(places))[1], True
    elif max(places) < fraction:
        limit, forced = max(places), True
    sides = [at < limit for at in places]
    train = [document for document, held in zip(documents, sides, strict=True) if not held]
    heldout = [document for document, held in zip(documents, sides, strict=True) if held]
    return train, heldout, forced
