"""Documents, and how they become token ids.

Training shards, held-out text, routing traces and `coterie verify --data` all use `document_ids`, so a text
has the same ids wherever it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.text.chat import Message, conversation_ids
from coterie.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Document:
    """One text.

    `slice`: the kind of text under which it is counted and evaluated. `number`: line or record in the source,
    from 1. `messages`: the turns of a conversation; `text` is then their rendering. `ids`: the tokens of that
    rendering, if a tokenizer was known when the document was read. `weight`: how often one epoch of training
    shows the document.
    """

    text: str
    source: str
    slice: str = "text"
    number: int = 1
    messages: tuple[Message, ...] = ()
    weight: float = 1.0
    ids: tuple[int, ...] | None = None


def document_ids(documents: Sequence[Document], tokenizer: Tokenizer, plain: bool = False) -> list[list[int]]:
    """`tokenizer.document_start` and the tokens of each document.

    With a tokenizer that has `start_ids`, a text also ends with the eos, because the next document's start is
    not an end. A conversation that the template begins with the start does not get it twice.
    A conversation is rendered with the tokenizer's chat template, unless it was read with this tokenizer and
    has its ids already. If the tokenizer has no template, or with `plain`, its text is encoded like any
    other.
    Errors: `DataError` if the template cannot render a conversation.
    """
    rendered = [None if plain else _conversation_ids(document, tokenizer) for document in documents]
    texts = [document.text for document, ids in zip(documents, rendered, strict=True) if ids is None]
    encoded = iter(tokenizer.encode_batch(texts))
    start = list(tokenizer.document_start)
    end = [tokenizer.eos_id] if tokenizer.start_ids and tokenizer.eos_id not in start else []
    return [
        [*start, *next(encoded), *end] if ids is None
        else list(ids) if list(ids[: len(start)]) == start
        else [*start, *ids]
        for ids in rendered
    ]  # fmt: skip


def _conversation_ids(document: Document, tokenizer: Tokenizer) -> Sequence[int] | None:
    if document.ids is not None:
        return document.ids
    if not document.messages or tokenizer.chat_template is None:
        return None
    return conversation_ids(tokenizer, document.messages)
