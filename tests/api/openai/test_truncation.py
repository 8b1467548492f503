"""`truncation: auto` leaves out the oldest turns, whole, and says which."""

from __future__ import annotations

from itertools import chain

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.api.openai.truncation import fitted
from coterie.hosting.errors import ApiError, too_long
from tests.serve.support import call

ROLES = st.lists(st.sampled_from(["user", "assistant", "system", "tool"]), min_size=1, max_size=30)


@given(ROLES, st.integers(0, 40))
def test_whole_turns_go_as_few_as_possible(roles, room):
    turns = [[]]
    for place, role in enumerate(roles):
        asked = any(roles[other] == "user" for other in turns[-1])
        if role == "user" and asked and roles[place - 1] != "user":
            turns.append([])
        turns[-1].append(place)

    def attempt(kept):
        if len(kept) > room:
            raise too_long(len(kept), None, room)
        return kept

    def without(number: int) -> list[int]:
        return [p for turn in turns[:number] for p in turn if roles[p] == "system"] + [
            *chain(*turns[number:])
        ]

    enough = [number for number in range(len(turns)) if len(without(number)) <= room]
    items = [(place, {"role": role, "id": str(place)}) for place, role in enumerate(roles)]
    if not enough:
        with pytest.raises(ApiError):
            fitted(items, attempt, lambda kept: True)
        return
    kept, gone = fitted(items, attempt, lambda kept: True)
    assert [place for place, _ in kept] == without(enough[0])
    assert sorted([*map(int, gone), *without(enough[0])]) == list(range(len(roles)))


def test_a_conversation_that_no_longer_fits_loses_its_oldest_turns(client, server):
    turns = []
    for number in range(12):
        turns += [
            {"role": "user", "content": f"question {number} " * 5},
            {"role": "assistant", "content": "so"},
        ]
    items = [{"role": "system", "content": "Be brief"}, *turns, {"role": "user", "content": "last"}]
    asked = {"model": "tiny", "input": items, "max_output_tokens": 100}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked)
    assert caught.value.code == "context_length_exceeded"
    status, headers, body = call(server.url, "POST", "/v1/responses", {**asked, "truncation": "auto"})
    gone = body["x_coterie_left_out"]
    assert status == 200 and headers["x-coterie-ignored"] == f"input.oldest:{len(gone)}"
    assert gone == [f"/input/{place}" for place in range(1, 1 + len(gone))] and len(gone) % 2 == 0
    kept = [items[0], *items[1 + len(gone) :]]
    assert (
        client.responses.create(**{**asked, "input": kept}).usage.input_tokens
        == body["usage"]["input_tokens"]
    )
    more = [items[0], *items[len(gone) - 1 :]]  # one turn more would not fit
    with pytest.raises(openai.BadRequestError):
        client.responses.create(**{**asked, "input": more})
    short = call(server.url, "POST", "/v1/responses", {**asked, "input": "Hello", "truncation": "auto"})
    assert "x-coterie-ignored" not in short[1] and short[2]["truncation"] == "auto"
    one = {**asked, "input": "Hello " * 2000, "truncation": "auto"}
    assert call(server.url, "POST", "/v1/responses", one)[2]["error"]["code"] == "context_length_exceeded"
