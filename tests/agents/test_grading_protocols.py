"""The checks of further protocols and of research fields catch each server that breaks one promise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coterie.agents.checks import CHECKS
from coterie.remote.client import Answer
from tests.agents.liar import Liar, changing, verdict
from tests.agents.test_grading import shifted

AREAS = ("responses", "messages", "ollama", "research", "batches", "protocols")


def without(*fields: str) -> Callable[[dict[str, Any]], None]:
    """A server that never sees these fields of a request or of its messages."""

    def strip(body: dict[str, Any]) -> None:
        for place in (body, *(m for m in body.get("messages", ()) if isinstance(m, dict))):
            for field in fields:
                place.pop(field, None)

    return strip


def without_references(body: dict[str, Any]) -> None:
    if isinstance(body.get("input"), list):
        body["input"] = [item for item in body["input"] if item.get("type") != "item_reference"]


@pytest.mark.parametrize(
    ("body", "name", "said"),
    [
        (without("previous_response_id"), "previous_response_id", "prompt tokens"),
        (without_references, "item_reference", "prompt tokens"),
        (without("prompt_logprobs"), "prompt_logprobs", "left out"),
        (without("truncate_prompt_tokens"), "truncate_prompt_tokens", "prompt tokens for"),
        (without("structured_outputs", "guided_choice"), "a choice of texts", "the reply is"),
        (without("structured_outputs", "guided_regex"), "a regular expression", "the reply is"),
        (without("tools", "tool_choice"), "tool_use", "no call"),
        (without("tools", "tool_choice"), "arguments in events", "no call made"),
        (without("tools"), "what the template shows", "'tools' was accepted"),
        (without("reasoning_content"), "what the template shows", "'messages.reasoning_content' was"),
    ],
)
def test_a_server_that_leaves_fields_out_is_caught(
    body: Callable[[dict[str, Any]], None], name: str, said: str, url: str
) -> None:
    found = verdict(Liar(url, body=body), name)
    assert found.verdict == "fail" and said in found.detail, found


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (changing("input_tokens", to=1), "input_tokens", "counts 1"),
        (changing("input_tokens", to=1), "count_tokens", "says 1"),
        (changing("stop_reason", to="eos"), "form of a message", "stop_reason is 'eos'"),
        (changing("content", 0, "text", to="other"), "events of a message add up", "streamed"),
        (changing("content", 0, "input", to={}), "tool_use", "breaks the schema"),
        (changing("type", to=None), "errors in its envelope", "another form"),
        (changing("message", "content", to="other"), "lines add up", "streamed"),
        (changing("models", to=[]), "tags, show and version", "is not among"),
        (changing("embeddings", 0, to=shifted), "embed", "different vectors"),
        (changing("error", to={"message": "x"}), "errors as text", "the error is not"),
        (changing("usage", "completion_tokens", to=3), "min_tokens and ignore_eos", "3 tokens"),
        (changing("results", to=lambda found: found[::-1]), "rerank and score", "not best first"),
        (changing("choices", 0, "prompt_logprobs", to=lambda v: [None, *v[2:], v[1]]), "prompt_logprobs",
         "no entry has"),
        (changing("usage", "input_tokens", to=lambda n: n + 1), "the same prompt in each", "differ"),
    ],
)  # fmt: skip
def test_answers_that_are_wrong_are_caught(
    change: Callable[[Any], Any], name: str, said: str, url: str
) -> None:
    found = verdict(Liar(url, answer=change), name)
    assert found.verdict == "fail" and said in found.detail, found


def dropping(kind: str) -> Callable[[str], str]:
    """A stream without its first event of that kind."""
    return lambda text: re.sub(rf"event: {kind}\n.*?\n\n", "", text, count=1, flags=re.S)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (dropping("response.output_text.delta"), "events add up", "do not add up"),
        (dropping("response.created"), "events add up", "the first event"),
        (
            lambda t: t.replace('"sequence_number":1,', '"sequence_number":0,'),
            "events add up",
            "sequence_number",
        ),
        (dropping("response.function_call_arguments.delta"), "arguments in events", "pieces"),
        (dropping("message_stop"), "events of a message add up", "the last event"),
        (dropping("content_block_delta"), "events of a message add up", "streamed"),
        (dropping("content_block_delta"), "tool_use", ""),
        (lambda t: t[: t.rindex("\n{")], "lines add up", "'done' is not the end"),
    ],
)
def test_streams_that_are_wrong_are_caught(
    text: Callable[[str], str], name: str, said: str, url: str
) -> None:
    found = verdict(Liar(url, text=text), name)
    assert found.verdict == "fail" and said in found.detail, found


def silent(method: str, answer: Answer) -> Answer:
    """A stream that is refused after it began, and says nothing."""
    if answer.status != 400:
        return answer
    return replace(answer, status=200, headers={"content-type": "text/event-stream"}, text="")


def unnamed(method: str, answer: Answer) -> Answer:
    """A stream whose ignored fields are not named."""
    kind = answer.headers["content-type"]
    if not kind.startswith("text/event-stream"):
        return answer
    text = answer.text.replace("ignored", "other")
    return replace(answer, headers={"content-type": kind}, text=text)


def lost(method: str, answer: Answer) -> Answer:
    return replace(answer, status=404) if method == "GET" else answer


def lost_batch(method: str, answer: Answer) -> Answer:
    kind = answer.data.get("object") if isinstance(answer.data, dict) else None
    return replace(answer, status=404) if method == "GET" and kind == "batch" else answer


@pytest.mark.parametrize(
    ("liar", "name", "said"),
    [
        ({"reply": lost}, "kept, fetched and deleted", "status 404 when fetched"),
        ({"skip": "DELETE"}, "kept, fetched and deleted", "status 200 for a response that was deleted"),
        ({"reply": lost_batch}, "a file of requests", "status 404 when fetched"),
        ({"reply": silent}, "streams that cannot begin", "no error"),
        ({"reply": unnamed}, "what a stream leaves out", "not in a stream"),
    ],
)
def test_other_lies_are_caught(liar: dict[str, Any], name: str, said: str, url: str) -> None:
    found = verdict(Liar(url, **liar), name)
    assert found.verdict == "fail" and said in found.detail, found


def test_a_surface_that_is_not_there_is_no_failure(url: str) -> None:
    gone = Liar(url, reply=lambda method, answer: Answer(404, {}, "{}", {}))
    wrong = {check.name: verdict(gone, check.name) for check in CHECKS if check.area in AREAS}
    assert not [found for found in wrong.values() if found.verdict != "absent"]
    error = {"error": {"message": "not here", "type": "invalid_request_error", "code": "unsupported"}}
    refused = Liar(url, reply=lambda method, answer: Answer(400, {}, "{}", error))
    assert "not here" in verdict(refused, "a choice of texts").detail
    assert (
        "any page"
        in verdict(
            Liar(
                url,
                reply=lambda method, answer: replace(answer, headers={"access-control-allow-origin": "*"}),
            ),
            "pages of other origins",
        ).detail
    )
