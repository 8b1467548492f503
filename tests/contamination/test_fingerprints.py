"""Winnowing against a plain loop, its guarantee, and the pieces of short questions."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.contamination.fingerprints import FLOOR, GRAM, WINDOW, fingerprints, grams_of, pieces_of
from coterie.contamination.units import RangeHashes, units_of
from tests.contamination.support import words


def all_grams(text: str) -> np.ndarray:
    batch = units_of([text])
    grams, valid = grams_of(RangeHashes(batch.hashes), batch.documents)
    return grams[valid]


def slow(text: str) -> set[int]:
    """The smallest hash of every window; of all grams where there are fewer than a window."""
    grams = all_grams(text).tolist()
    if 0 < len(grams) < WINDOW:
        return {min(grams)}
    return {min(grams[at : at + WINDOW]) for at in range(len(grams) - WINDOW + 1)}


@given(st.lists(st.text(st.sampled_from("abc \n"), max_size=80), max_size=5))
def test_the_smallest_of_every_window_is_kept(texts: list[str]):
    found = fingerprints(texts)
    for at, text in enumerate(texts):
        assert set(found.values[found.owners == at].tolist()) == slow(text)
        assert found.units[at] == len(text.split())


@settings(max_examples=300)
@given(
    st.integers(0, 2**32),
    st.integers(FLOOR, 40),
    st.tuples(*[st.integers(0, 30)] * 4),
    st.sampled_from([" ", "\n", ", ", " - ", "\u3000"]),
)
def test_texts_that_share_thirteen_units_share_a_fingerprint(seed, shared, around, separator):
    rng = random.Random(seed)
    both = words(rng, shared)
    before, after, other_before, other_after = (words(rng, count) for count in around)
    kept = fingerprints([f"{before} {both} {after}"]).values
    asked = all_grams(f"{other_before}{separator}{both.upper().replace(' ', separator)} {other_after}")
    assert np.isin(asked, kept).any()


def test_texts_that_share_less_than_a_gram_share_nothing():
    rng = random.Random(0)
    both = words(rng, GRAM - 1)
    kept = fingerprints([f"{words(rng, 50)} {both} {words(rng, 50)}"]).values
    assert not np.isin(all_grams(f"{words(rng, 50)} {both} {words(rng, 50)}"), kept).any()


def test_random_documents_are_never_found():
    """Under 1e-3 false hits per 1,000 documents: with 64 bits, the chance of one here is below 1e-9."""
    rng = random.Random(1)
    kept = np.unique(fingerprints([words(rng, 100) for _ in range(1000)]).values)
    asked = np.concatenate([all_grams(words(rng, 100)) for _ in range(1000)])
    assert len(asked) * len(kept) / 2**64 < 1e-8
    assert not np.isin(asked, kept).any()


def test_a_fingerprint_stands_for_three_and_a_half_units():
    """Of random hashes 2 / (WINDOW + 1) are kept; 60,000 of them leave under 0.5 % of error at four sigma."""
    found = fingerprints([words(random.Random(2), 60_000)])
    assert len(found.values) / 60_000 == pytest.approx(2 / (WINDOW + 1), abs=0.005)


def test_no_gram_crosses_two_texts():
    assert len(fingerprints(["a b c d", "e f g h"]).values) == 0


def pieces(text: str) -> set[int]:
    batch = units_of([text])
    return set(pieces_of(batch, RangeHashes(batch.hashes)).tolist())


@pytest.mark.parametrize(
    "text",
    [
        "Q: What is the capital of Zub?\nA: Quang",
        "before\n\nWhat is the capital of Zub?\n\n**Quang**\nafter",
        "Question: what is the capital of zub\nAnswer: quang.",
        "user\nWhat is the capital of Zub?\nassistant\nQuang\n",
        "What is the capital of Zub? Quang",
    ],
)
def test_a_short_question_with_its_answer_is_one_piece(text: str):
    assert pieces(text) & pieces("what is the capital of zub? quang")


def test_pieces_hold_nothing_that_does_not_ask():
    assert not pieces("the house is green\nand so is the tree\n")


def test_no_piece_crosses_two_texts():
    batch = units_of(["What is the capital of Zub?", "Quang"])
    asked = pieces("what is the capital of zub? quang")
    assert not asked & set(pieces_of(batch, RangeHashes(batch.hashes)).tolist())
