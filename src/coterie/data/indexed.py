"""Text on its way into an index of what a model is trained on (`coterie.contamination`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from coterie.config.data import ExcludedItems
from coterie.config.errors import DataError
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex, Stage
from coterie.contamination.items import read_items
from coterie.contamination.scan import FoundItem, ItemScanner, scan_all
from coterie.contamination.units import units_of
from coterie.data.documents import Document
from coterie.data.rows import Row
from coterie.data.sources import Reading, read_sources
from coterie.data.tokenised import TokenExample
from coterie.text.guarded import names_pattern
from coterie.text.tokenizer import SPECIALS, Tokenizer

_log = logging.getLogger("coterie")


def add_document(builder: IndexBuilder, document: Document, tokens: int, tokenizer: Tokenizer) -> None:
    """Give a document that was packed to its index. `tokens`: as packed."""
    text = _without(tokenizer.added_tokens, document)
    builder.add(text, tokens, document.slice, document.source, document.number)


def without_items(documents: Sequence[Document], settings: ExcludedItems) -> tuple[list[Document], int]:
    """The documents that hold no evaluation item, and how many others there were.

    Errors: `DataError` for the first of these where `settings` says so; for items that cannot be read.
    """
    found = find_items(documents, settings.items, settings.least_run)
    holding = {one.document for one in found}
    if found and settings.on_found == "stop":
        first = documents[found[0].document]
        raise DataError(
            f"{first.source}:{first.number}: holds evaluation item '{found[0].item}' ({found[0].units} units "
            f"in a row), one of {len(holding):,} such documents; remove them, or set "
            "data.exclude.on_found=drop"
        )
    if holding:
        _log.info(f"data: {len(holding):,} documents hold evaluation items and are left out")
    return [one for at, one in enumerate(documents) if at not in holding], len(holding)


def find_items(documents: Sequence[Document], files: Sequence[str], least_run: int) -> list[FoundItem]:
    """The items of several files in documents. Errors: `DataError` for files that cannot be read."""
    scanners = [ItemScanner(read_items(file), least_run) for file in files]
    texts = [_without(SPECIALS, one) for one in documents]
    found = [one for scanner in scanners for one in scan_all(scanner, texts)]
    return sorted(found, key=lambda one: (one.document, one.item))


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
