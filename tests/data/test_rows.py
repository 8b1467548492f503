"""Rows cut from a token stream, against a slow reference, and rows packed from conversations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import DataError
from coterie.data.rows import MemoryStream, PackedRows, best_fit, row_of
from coterie.data.shards import write_shards
from tests.data.conftest import documents


@pytest.mark.parametrize("row_length", [1, 2, 7, 16, 33, 1000])
def test_rows_equal_the_slow_reference(tokenizer, tmp_path, row_length):
    shards = write_shards(documents(12), tokenizer, tmp_path, tokens_per_shard=100)
    rows = PackedRows(shards, row_length)
    stream, begins = [], set()
    for number in range(shards.num_documents):
        begins.add(len(stream))
        stream.extend(shards.document(number).tolist())
    targets = [*stream[1:], tokenizer.eos_id]
    assert len(rows) == -(-len(stream) // row_length)
    at = 0
    for row in rows:
        real = row_length - row.num_padding
        assert row.ids.dtype == row.targets.dtype == np.int32 and row.weights.dtype == np.float32
        assert row.ids[:real].tolist() == stream[at : at + real]
        assert row.targets[:real].tolist() == targets[at : at + real]
        assert row.weights.tolist() == [1.0] * real + [0.0] * row.num_padding
        assert sum(row.lengths) == row_length == len(row.ids) and all(n > 0 for n in row.lengths)
        edges = set((np.cumsum((0, *row.lengths))[:-1] + at).tolist())
        pad = {at + real} if row.num_padding else set()
        assert edges == {at} | {b for b in begins if at <= b < at + real} | pad
        if row.num_padding:
            assert row.lengths[-1] == row.num_padding and at + real == len(stream)
        at += real
    assert at == len(stream)


def test_whole_rows_of_documents_in_memory():
    documents = [np.array([0, 1, 2]), np.array([0, 3, 4, 5, 6, 7]), np.array([0, 8])]
    rows = PackedRows(MemoryStream(documents, 0), 4).whole()
    assert [row.ids.tolist() for row in rows] == [[0, 1, 2, 0], [3, 4, 5, 6]]
    assert [row.targets.tolist() for row in rows] == [[1, 2, 0, 3], [4, 5, 6, 7]]
    assert [row.lengths for row in rows] == [(3, 1), (4,)]
    assert all(row.ids.dtype == np.int32 and not row.num_padding for row in rows)
    with pytest.raises(DataError, match="less than one row"):
        PackedRows(MemoryStream([np.array([0, 1])], 0), 4).whole()


conversation = (
    st.integers(2, 12)
    .flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(1, 50), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n),
        )
    )
    .filter(lambda pair: any(pair[1][1:]))
)


def packed(talks, row_length):
    bins = best_fit([len(ids) - 1 for ids, _ in talks], row_length)
    return [row_of([talks[index] for index in members], row_length, 0) for members in bins]


@given(talks=st.lists(conversation, min_size=1, max_size=25), row_length=st.integers(11, 30))
@settings(max_examples=200, deadline=None)
def test_packed_conversations_are_whole_and_weighted(talks, row_length):
    found = []
    rows = packed(talks, row_length)
    for row in rows:
        lengths = row.lengths[:-1] if row.num_padding else row.lengths
        assert sum(row.lengths) == row_length == len(row.ids)
        at = 0
        for length in lengths:
            ids = [*row.ids[at : at + length].tolist(), int(row.targets[at + length - 1])]
            assert row.targets[at : at + length].tolist() == ids[1:]
            found.append((ids, row.weights[at : at + length].tolist()))
            at += length
        assert not row.weights[at:].any() and row.num_padding == row_length - at
    assert sorted(found) == sorted((ids, [float(m) for m in mask[1:]]) for ids, mask in talks)
    used = sorted(row_length - row.num_padding for row in rows)
    assert len(used) < 2 or used[0] + used[1] > row_length  # no two rows could have been one


def test_best_fit_by_hand():
    talks = [([9] * n, [True] * n) for n in (4, 6, 5, 3)]  # 3, 5, 4 and 2 positions
    assert [row.lengths for row in packed(talks, 7)] == [(5, 2), (4, 3)]
