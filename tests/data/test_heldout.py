"""How much a run is measured on: an eighth of what it trains on, in at least eight texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.heldout import (
    LEAST_MEASURED,
    MOST_MEASURED,
    HeldoutDocument,
    measured_tokens,
    retention_documents,
    sample,
    spread,
)
from coterie.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the quick brown fox jumps over the lazy dog"] * 4, vocab_size=300)


@pytest.mark.parametrize(
    ("trained", "measured"), [(0, LEAST_MEASURED), (40_000, 5000), (10**9, MOST_MEASURED)]
)
def test_measuring_takes_a_small_part_of_the_time(trained: int, measured: int) -> None:
    assert measured_tokens(trained) == measured


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(8, 400))
def test_some_of_the_texts_from_first_to_last(lengths: list[int], num_tokens: int) -> None:
    documents = [HeldoutDocument("a", np.full(length, at), length) for at, length in enumerate(lengths)]
    found = spread(documents, num_tokens)
    places = [int(document.ids[0]) for document in found]
    step = places[1] - places[0] if len(places) > 1 else len(lengths)
    assert places == list(range(0, len(lengths), step))
    assert (found == documents) == (sum(lengths) <= num_tokens or len(lengths) == 1)


def test_a_long_text_is_cut_with_its_bytes(tokenizer: Tokenizer) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 4
    ids = np.array([tokenizer.eos_id, *tokenizer.encode(text)])
    whole = HeldoutDocument("a", ids, len(text))
    assert sample([whole], len(ids), tokenizer) == [whole]
    (cut,) = sample([whole], 8 * 4, tokenizer)
    assert cut.ids.tolist() == ids[:4].tolist()
    beginning = tokenizer.decode(ids[1:4].tolist())
    assert text.startswith(beginning) and cut.num_bytes == len(beginning)


def test_few_tokens_of_other_text_are_still_several_texts(tokenizer: Tokenizer) -> None:
    found = retention_documents("primer", tokenizer, LEAST_MEASURED)
    assert len(found) >= 8 and max(len(d.ids) for d in found) <= LEAST_MEASURED // 8
    assert sum(len(d.ids) for d in found) <= LEAST_MEASURED
