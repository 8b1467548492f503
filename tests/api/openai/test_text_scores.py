"""Every token of a reply's text has its log-probabilities, also when its text was held back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coterie.api.openai.text_scores import TextScores


def entry(number: int) -> dict[str, Any]:
    return {"token": number, "logprob": -1.0}


def tokens(entries: list[dict[str, Any]]) -> list[int]:
    return [one["token"] for one in entries]


@given(st.lists(st.text("ab<", max_size=3), max_size=12), st.data())
def test_each_token_once_however_long_its_text_is_held_back(pieces: list[str], data: Any) -> None:
    """Text is given up to any point, and never before it was written."""
    scores, given_up_to, written, found = TextScores(), 0, "", []
    for number, piece in enumerate(pieces):
        scores.hold(piece, [entry(number)])
        written += piece
        upto = data.draw(st.integers(given_up_to, len(written)))
        if upto > given_up_to:
            found += tokens(scores.of(written[given_up_to:upto], begins=False))
        given_up_to = upto
    if len(written) > given_up_to:
        found += tokens(scores.of(written[given_up_to:], begins=False))
    last = max((number for number, piece in enumerate(pieces) if piece), default=-1)
    assert found == list(range(last + 1))  # tokens behind it that wrote nothing are the end's


def test_tokens_of_marks_reasoning_and_calls_are_left_out() -> None:
    scores = TextScores()
    for number, piece in enumerate(("Hm", ".", "</think>", "\n\n", "Hi")):
        scores.hold(piece, [entry(number)])
        if number < 2:
            scores.forget()
    assert tokens(scores.of("Hi", begins=True)) == [4]
    scores.hold("<tool_call>", [entry(5)])
    scores.hold("{", [entry(6)])
    scores.forget()
    scores.hold("}</tool_call>So", [entry(7)])
    assert tokens(scores.of("So", begins=True)) == [7]


def test_a_token_that_writes_nothing_belongs_to_the_character_that_it_begins() -> None:
    scores = TextScores()
    for number, piece in enumerate(("a", "", "", "é", "b")):
        scores.hold(piece, [entry(number)])
    assert tokens(scores.of("aé", begins=True)) == [0, 1, 2, 3]
    assert tokens(scores.of("b", begins=False)) == [4]
