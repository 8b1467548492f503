"""Rows kept in a checkpoint come back to the last bit."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.rows import Row
from coterie.reinforce.pending import pack_rows, unpack_rows


def row(seed: int, lengths: tuple[int, ...], padding: int = 0) -> Row:
    """A row with streams of several types and shapes."""
    rng, count = np.random.default_rng(seed), sum(lengths)
    return Row(
        rng.integers(0, 1000, count, dtype=np.int32),
        rng.integers(0, 1000, count, dtype=np.int32),
        rng.random(count, dtype=np.float32),
        lengths,
        padding,
        {
            "old_logp": rng.standard_normal(count).astype(np.float32),
            "sample": np.zeros(count, dtype=np.int64),
            "experts.3": rng.integers(-1, 60, (count, 2)).astype(np.int16),
        },
    )


@given(st.lists(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), max_size=3), max_size=4))
def test_rows_come_back(shapes: list[list[list[int]]]) -> None:
    pieces = [
        [row(n + 7 * m, tuple(one), one[-1] if n else 0) for n, one in enumerate(piece)]
        for m, piece in enumerate(shapes)
    ]
    found = unpack_rows(json.loads(json.dumps(pack_rows(pieces))))
    if not any(pieces):
        assert found == []
        return
    assert [len(piece) for piece in found] == [len(piece) for piece in pieces]
    for was, now in zip(chain(*pieces), chain(*found), strict=True):
        assert (was.lengths, was.num_padding) == (now.lengths, now.num_padding)
        arrays = [(was.ids, now.ids), (was.targets, now.targets), (was.weights, now.weights)]
        arrays += [(was.streams[name], now.streams[name]) for name in was.streams]
        assert was.streams.keys() == now.streams.keys()
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: "?" + text, lambda text: "AAAA"])
def test_damaged_rows_are_refused(damage) -> None:  # type: ignore[no-untyped-def]
    text = pack_rows([[row(1, (4, 3))]])
    with pytest.raises(ValueError, match="rows that were not learnt from yet cannot be read"):
        unpack_rows(damage(text))
