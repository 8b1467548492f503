"""What a unit is, against a slow reading of the rules one character at a time."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.contamination.units import RangeHashes, normalised, units_of


def units(text: str) -> list[str]:
    batch = units_of([text])
    return batch.words(0, len(batch.hashes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Foo(bar, 1)", ["foo", "bar", "1"]),
        ("my_var = x+1", ["my", "var", "x", "1"]),
        ("  What's\tthis?\n\nA\u00a0test \u2014 \u201cyes\u201d.", "what s this a test yes".split()),
        ("Stra\u00dfe \ufb01ne \uff21\uff11", ["strasse", "fine", "a1"]),
        ("\u6c49\u5b57abc\u3002\u304b\u306a", ["\u6c49", "\u5b57", "abc", "\u304b", "\u306a"]),
        ("na\u00efve \u0441\u043b\u043e\u0432", ["na\u00efve", "\u0441\u043b\u043e\u0432"]),
        ("\ud55c\uad6d \uc5b4", ["\ud55c\uad6d", "\uc5b4"]),
        ("a\U0001f600b \u2211c", ["a", "b", "c"]),
        ("", []),
        (" \n", []),
    ],
)  # fmt: skip
def test_units(text: str, expected: list[str]):
    assert units(text) == expected


@given(st.lists(st.text(max_size=40), max_size=6))
def test_several_texts_have_the_units_of_each(texts: list[str]):
    batch = units_of(texts)
    assert len(batch.documents) == len(texts) + 1
    for at, text in enumerate(texts):
        alone = units_of([text])
        first, last = batch.documents[at], batch.documents[at + 1]
        assert np.array_equal(batch.hashes[first:last], alone.hashes)
        assert batch.words(first, last) == alone.words(0, len(alone.hashes))


@given(st.text(st.sampled_from("ab1 .\n\u00e9\u6c49"), max_size=30))
def test_equal_units_have_equal_hashes_and_others_do_not(text: str):
    batch = units_of([text])
    by_word: dict[str, int] = {}
    for word, number in zip(units(text), batch.hashes.tolist(), strict=True):
        assert by_word.setdefault(word, number) == number
    assert len(set(by_word.values())) == len(by_word)


def test_equal_words_have_one_hash_in_ascii_and_other_texts():
    ascii_only, mixed = units_of(["one two"]), units_of(["one two \u6c49"])
    assert ascii_only.hashes.tolist() == mixed.hashes[:2].tolist()


@given(st.text(max_size=50))
def test_normalised_text_is_folded(text: str):
    assert normalised(text) == unicodedata.normalize("NFKC", text).casefold()


def test_ranges_hash_as_the_same_units_elsewhere():
    here, there = units_of(["x y one two three z"]), units_of(["one two three"])
    first, last = (np.array([number]) for number in (2, 5))
    found = RangeHashes(here.hashes).plain(first, last)
    assert found == RangeHashes(there.hashes).plain(first - 2, last - 2)
    assert RangeHashes(here.hashes).grams(3)[2] == RangeHashes(there.hashes).grams(3)[0]


def test_ranges_of_too_few_units_have_no_grams():
    assert len(RangeHashes(units_of(["one two"]).hashes).grams(3)) == 0
