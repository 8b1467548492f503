"""Text on its way into an index of what a model is trained on (`coterie.contamination`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex, Stage
from coterie.contamination.units import units_of
from coterie.data.documents import Document
from coterie.data.rows import Row
from coterie.data.sources import Reading, read_sources
from coterie.data.tokenised import TokenExample
from coterie.text.guarded import names_pattern
from coterie.text.tokenizer import SPECIALS, Tokenizer


def add_document(builder: IndexBuilder, document: Document, tokens: int, tokenizer: Tokenizer) -> None:
    """Give a document that was packed to its index. `tokens`: as packed."""
    text = _without(tokenizer.added_tokens, document)
    builder.add(text, tokens, document.slice, document.source, document.number)


def _without(names: Iterable[str], document: Document) -> str:
    """The text of a document; line breaks take the place of a rendered conversation's special tokens."""
    if not document.messages:
        return document.text
    return names_pattern(frozenset(names)).sub("\n", document.text)


def index_examples(
    examples: Sequence[TokenExample], rows: Sequence[Row], tokenizer: Tokenizer, stage: Stage
) -> ContaminationIndex:
    """The index of tuning examples, by the text of the tokens that `rows` hold.

    Errors: `DataError` where rows and examples hold other numbers of tokens.
    """
    builder = IndexBuilder(stage)
    breaks = [b"\n" if number in tokenizer.special_ids else None for number in range(tokenizer.vocab_size)]
    sequences = 0
    for example in examples:
        for sequence in example.sequences:
            parts = zip(sequence.ids, tokenizer.token_bytes(sequence.ids), strict=True)
            text = b"".join(breaks[number] or part for number, part in parts).decode(errors="replace")
            builder.add(
                text, len(sequence.ids), example.origin.file, example.origin.file, example.origin.line
            )
            sequences += 1
    # The last token of each sequence is only a target, so it takes no position of a row.
    return builder.finish(sum(len(row.ids) - row.num_padding for row in rows) + sequences)


def index_sources(sources: Sequence[str], stage: Stage) -> ContaminationIndex:
    """The index of text that was not packed here; its tokens are units of normalised text.

    Errors: `DataError` for sources that cannot be read.
    """
    builder = IndexBuilder(stage)
    total = 0
    for document in read_sources(sources, Reading()):
        text = _without(SPECIALS, document)
        size = int(units_of([text]).counts[0])
        builder.add(text, size, document.slice, document.source, document.number)
        total += size
    return builder.finish(total)
