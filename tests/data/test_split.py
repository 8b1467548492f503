"""Held-out sides follow from the content alone."""

import pytest

from coterie.config import DataError
from coterie.data.records import Origin
from coterie.data.split import place, split, split_examples
from coterie.data.tokenised import TokenExample, TokenSequence
from tests.data.conftest import documents


def test_split_depends_on_content_alone():
    corpus = documents(1000)
    train, heldout, forced = split(corpus, 0.1)
    assert not forced and 70 < len(heldout) < 130 and len(train) + len(heldout) == 1000
    again = split(corpus[::-1][:500], 0.1)
    assert {d.text for d in again[1]} <= {d.text for d in heldout}
    assert {d.text for d in again[0]} <= {d.text for d in train}
    assert all(place(d.text + "\n ") == place(d.text) < 0.1 for d in heldout)


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_split_never_leaves_a_side_empty(fraction):
    train, heldout, forced = split(documents(5), fraction)
    assert forced and sorted([len(train), len(heldout)]) == [1, 4]
    with pytest.raises(DataError, match="one document cannot be split"):
        split(documents(1) * 3, fraction)


def example(*ids):
    return TokenExample((TokenSequence(ids, (True,) * len(ids)),), Origin("f", 1))


def test_equal_examples_are_on_one_side():
    examples = [example(1, number // 2, 3) for number in range(40)]
    train, heldout = split_examples(examples, 0.3)
    assert heldout and len(train) + len(heldout) == 40
    assert not {e.sequences for e in train} & {e.sequences for e in heldout}
    assert split_examples(examples[::-1], 0.3)[1] == heldout[::-1]
    train, heldout = split_examples(examples, 1e-9)
    assert len(heldout) == 8  # a fifth of them, because ten would be more


@pytest.mark.parametrize(
    ("examples", "fraction"),
    [
        ([example(1, n) for n in range(9)], 0.5),
        ([example(1, 2)] * 20, 0.5),
        ([example(1, n) for n in range(20)], 0),
    ],
    ids=["few", "all equal", "nothing asked"],
)
def test_no_example_is_held_out(examples, fraction):
    assert split_examples(examples, fraction) == (examples, [])
