"""An index counts what was packed, however it arrived, and cannot be finished without a document."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from coterie.config.errors import DataError
from coterie.contamination import builder as module
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.fingerprints import fingerprints
from tests.contamination.support import index_of, words


def test_documents_are_counted_once_each(monkeypatch: pytest.MonkeyPatch):
    """Small batches and early merges give what one pass over each document gives."""
    monkeypatch.setattr(module, "_BATCH_CHARS", 500)
    monkeypatch.setattr(module, "_PENDING", 100)
    rng = random.Random(0)
    common = words(rng, 30)
    texts = [f"{words(rng, 40)} {common if at % 3 else ''} {words(rng, 20)}" for at in range(60)]
    sources = ["x" if at % 2 else "y" for at in range(60)]
    index = index_of(texts, sources)
    documents: Counter[int] = Counter()
    per_source: Counter[tuple[str, int]] = Counter()
    for text, source in zip(texts, sources, strict=True):
        own = set(fingerprints([text]).values.tolist())
        documents.update(own)
        per_source.update((source, value) for value in own)
    assert index.arrays["fingerprints"].tolist() == sorted(documents)
    often = {value: count for value, count in documents.items() if count >= 8}
    assert (
        dict(zip(index.arrays["frequent"].tolist(), index.arrays["frequent_documents"].tolist(), strict=True))
        == often
    )
    for at, value in enumerate(index.arrays["frequent"].tolist()):
        most = max("xy", key=lambda name: per_source[name, value])
        assert index.arrays["source_documents"][at] == per_source[most, value]
        assert index.arrays["source_share"][at] == pytest.approx(per_source[most, value] / 30)


def test_a_repeated_document_counts_its_tokens_and_no_fingerprint():
    rng = random.Random(1)
    text = words(rng, 40)
    once, often = index_of([text]), index_of([text] * 20)
    assert np.array_equal(once.arrays["fingerprints"], often.arrays["fingerprints"])
    assert len(often.arrays["frequent"]) == 0
    assert (often.header.documents, often.header.distinct, often.header.tokens) == (20, 1, 800)


def test_other_counts_than_packed_are_an_error():
    builder = IndexBuilder("tune")
    builder.add("one two", 3)
    with pytest.raises(DataError, match="stage tune has 3 tokens and 4 were packed, so it lacks text"):
        builder.finish(4)


def test_the_order_of_packing_is_stated():
    assert index_of(["a b", "c d"]).header.order != index_of(["c d", "a b"]).header.order
    assert index_of(["a b", "c d"]).header.order == index_of(["a b", "c d"]).header.order


def test_places_of_documents_are_kept():
    builder = IndexBuilder("pretrain")
    for at, (file, number) in enumerate([("a.txt", 7), ("b.txt", 9), ("a.txt", 8)]):
        builder.add(f"text {at}", 2, file, file, number)
    index = builder.finish(6)
    assert index.header.files == ["a.txt", "b.txt"]
    assert index.arrays["document_source"].tolist() == [0, 1, 0]
    assert index.arrays["document_number"].tolist() == [7, 9, 8]
    assert {name: one.documents for name, one in index.header.sources.items()} == {"a.txt": 2, "b.txt": 1}


def test_an_empty_stage_has_an_empty_index():
    index = IndexBuilder("tune").finish(0)
    assert (index.header.documents, len(index.arrays["fingerprints"])) == (0, 0)
