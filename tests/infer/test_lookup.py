"""Lookups against a search of the whole sequence; predictions along replies that leave them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.infer.lookup import Lookup, Prediction


def matched(tokens: list[int], end: int) -> int:
    """How many tokens up to `end` equal those at the end of the sequence."""
    length = 0
    while length <= end and length < 16 and tokens[end - length] == tokens[-1 - length]:
        length += 1
    return length


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_a_lookup_finds_the_longest_match_among_the_latest(tokens: list[int], most: int) -> None:
    lookup = Lookup()
    for end in range(len(tokens) + 1):
        known = tokens[:end]
        draft, length = lookup(known, most)
        places = [place for place in range(len(known) - 1) if matched(known, place) >= 2]
        if not places:
            assert (draft, length) == ([], 0)
            continue
        lengths = {place: matched(known, place) for place in places[-8:]}
        best = max(lengths, key=lambda place: (lengths[place], place))
        assert length == lengths[best]
        whole = list(known)
        for _ in range(most):  # a copy of what follows, which may be the copy itself
            whole.append(whole[best + 1 + len(whole) - len(known)])
        assert draft == whole[len(known) :]


def test_a_prediction_is_followed_left_and_found_again() -> None:
    prediction = Prediction([1, 2, 3, 4, 5, 6, 7, 8])
    assert prediction.ahead(3) == [1, 2, 3]
    assert [prediction.follow(token) for token in (1, 2, 9, 9, 5)] == [True, True, False, False, False]
    assert prediction.ahead(2) == []
    assert [prediction.follow(token) for token in (6, 7, 8, 9)] == [False, True, True, False]
    assert prediction.num_accepted == 4 and prediction.num_rejected == 4


def test_a_prediction_that_repeats_itself_goes_on_at_the_next_place() -> None:
    prediction = Prediction([1, 2, 3, 1, 2, 4, 1, 2, 5])
    for token in (1, 2, 3, 1, 2, 9, 1, 2):
        prediction.follow(token)
    assert prediction.ahead(1) == [5]
    for token in (9, 1, 2):
        prediction.follow(token)
    assert prediction.ahead(1) == [5], "nothing is ahead: the last place"


@given(st.lists(st.integers(0, 3), max_size=20), st.lists(st.integers(0, 3), max_size=30))
def test_counts_of_a_prediction_add_up(predicted: list[int], reply: list[int]) -> None:
    prediction = Prediction(predicted)
    hits = sum(prediction.follow(token) for token in reply)
    assert prediction.num_accepted == hits
    assert 0 <= prediction.num_rejected <= len(predicted)
    if reply == predicted:
        assert prediction.num_rejected == 0
