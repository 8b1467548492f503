"""Bloom filters keep what they were given, at the size that the rate asks for; SipHash as published."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.config.errors import DataError
from coterie.contamination.sketch import Bloom, SketchKey, in_sorted


def numbers(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize("rate", [1e-2, 1e-4])
def test_a_filter_holds_its_values_and_few_others(rate: float):
    kept, others = numbers(20_000, 0), numbers(200_000, 1)
    found = Bloom.of(kept, rate)
    assert found.has(kept).all()
    expected = rate * len(others)
    assert found.has(others).sum() <= expected + 5 * expected**0.5 + 1
    bits = 8 * len(found.bits) / len(kept)  # log2(e) * log2(1 / rate)
    assert bits == pytest.approx(1.4427 * np.log2(1 / rate), rel=0.01)


def test_a_filter_of_nothing_finds_nothing():
    assert not Bloom.of(numbers(0, 0), 1e-4).has(numbers(1000, 1)).any()


def test_search_in_a_sorted_array():
    kept = np.sort(numbers(1000, 0))
    asked = np.concatenate([kept[::7], numbers(50, 1)])
    assert in_sorted(kept, asked).tolist() == np.isin(asked, kept).tolist()
    assert not in_sorted(kept[:0], asked).any()


def test_siphash_is_the_published_one():
    """The 9th vector of the reference: key 00..0f, message 00..07."""
    key = SketchKey(int.from_bytes(bytes(range(8)), "little"), int.from_bytes(bytes(range(8, 16)), "little"))
    message = np.array([int.from_bytes(bytes(range(8)), "little")], dtype=np.uint64)
    assert int(key.applied(message)[0]) == 0x93F5F5799A932462


def test_other_keys_give_other_values():
    one, other = SketchKey.of(b"a" * 16), SketchKey.of(b"b" * 16)
    values = numbers(1000, 2)
    assert not np.isin(one.applied(values), other.applied(values)).any()
    assert one.check != other.check


def test_a_short_key_is_refused():
    with pytest.raises(DataError, match=r"k: holds 15 bytes, a key needs at least 16"):
        SketchKey.of(b"a" * 15, "k")
