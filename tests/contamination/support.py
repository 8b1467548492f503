"""Random text, items, and an index of documents in a few words."""

from __future__ import annotations

import random
from collections.abc import Sequence

from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.items import QueriedItem
from coterie.results.contamination import IndexFacts

_SYLLABLES = "ka lo mi ter van su pel dor ni ash quo bre fen gul tor wex yan zib".split()


def words(rng: random.Random, count: int) -> str:
    """Text of `count` words out of a vocabulary of millions, so that no two texts share a gram by chance."""
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 6))) for _ in range(count))


def items(count: int, seed: int = 0, units: int = 30) -> list[QueriedItem]:
    """Items with questions of `units` words and answers of three."""
    rng = random.Random(f"items {seed}")
    return [QueriedItem(f"item-{at}", words(rng, units) + "?", (words(rng, 3),)) for at in range(count)]


def index_of(texts: Sequence[str], sources: Sequence[str] | None = None) -> ContaminationIndex:
    """The exact index of some texts, in memory."""
    builder = IndexBuilder("pretrain")
    for at, text in enumerate(texts):
        builder.add(text, len(text.split()), sources[at] if sources else "text", "file.txt", at + 1)
    return builder.finish(sum(len(text.split()) for text in texts))


def facts(index: ContaminationIndex) -> IndexFacts:
    """The index as one stage."""
    header = index.header
    return IndexFacts(
        stage="pretrain",
        digest="0" * 64,
        kind=header.kind,
        documents=header.documents,
        tokens=header.tokens,
        coverage=1.0,
    )
