"""Places and names of a chat request in terms of the API that it was made from."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.hosting.errors import ApiError
from coterie.protocol.translation import chat_request, in_terms_of, rewriting

place = rewriting({"/stop": "/stop_sequences", "/format": "/output", "/format/schema": "/output/form"})


def test_places_are_rewritten_whole_and_the_longest_first() -> None:
    assert place("/stop/0: too long") == "/stop_sequences/0: too long"
    assert place("/format/schema/not and /format/type") == "/output/form/not and /output/type"
    for text in ("/stop_token_ids/0", "/messages/0/stop", "stop"):
        assert place(text) == text


def test_names_are_those_of_the_other_api_or_pointers() -> None:
    name = in_terms_of({"reasoning_effort": "think"}, place)
    assert [*map(name, ("reasoning_effort", "tools", "/format/schema/not"))] == [
        *("think", "tools", "/output/form/not")
    ]


def test_fields_that_are_none_are_left_out_and_errors_have_places_of_the_other_api() -> None:
    data: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": ""}], "seed": None}
    assert chat_request(data, place, True)[0].model_fields_set == {"model", "messages"}
    with pytest.raises(ApiError) as caught:
        chat_request({**data, "stop": ["x" * 2000]}, place, True)
    assert caught.value.param == "/stop_sequences/0" and str(caught.value).startswith("/stop_sequences/0")
