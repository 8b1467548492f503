"""The response object and every event are what the types of the `openai` package say."""

from __future__ import annotations

import json

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.api.openai.test_responses import TOOL
from tests.hosting.constraints.test_grammar import CLOSES, NO_REASONING, OPENS, SCHEMA
from tests.serve.support import call

ASKED = {"model": "tiny", "input": "Hello", "max_output_tokens": 40, "seed": 2, "stream": True}
FORMAT = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
REQUESTS = {
    "words": {"logit_bias": NO_REASONING, "top_logprobs": 2, "metadata": {"a": "b"}, "user": "me"},
    "thoughts": {"logit_bias": {OPENS: 60, CLOSES: 50}, "reasoning": {"effort": "low"}},
    "calls": {
        "logit_bias": NO_REASONING,
        "tools": [TOOL],
        "tool_choice": "required",
        "max_output_tokens": 150,
    },
    "form": {
        "logit_bias": NO_REASONING,
        "text": {"format": FORMAT},
        "truncation": "auto",
        "temperature": 0.5,
    },
}
FIELDS = set(Response.model_fields) - {
    *("access_programs", "image", "input_transformations", "moderation", "prompt"),
    *("prompt_cache_diagnostics", "prompt_cache_options", "tool_usage"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_event_and_every_field(server, kind):
    raw = call(server.url, "POST", "/v1/responses", {**ASKED, **REQUESTS[kind]})[2]
    blocks = [block.split("\n") for block in raw.split("\n\n") if block and not block.startswith(":")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    adapter = TypeAdapter(ResponseStreamEvent)
    for number, ((name, _), event) in enumerate(zip(blocks, events, strict=True)):
        assert name == f"event: {event['type']}" and event["sequence_number"] == number
        assert adapter.validate_python(event).type == event["type"]
    final = events[-1]["response"]
    assert set(final) >= FIELDS and Response.model_validate(final).id == events[0]["response"]["id"]
    assert set(events[0]["response"]) >= FIELDS
    plain = call(server.url, "POST", "/v1/responses", {**ASKED, **REQUESTS[kind], "stream": False})[2]
    assert (
        set(final) - {"x_coterie_ignored"} == set(plain)
        and plain["usage"]["total_tokens"] == final["usage"]["total_tokens"]
    )
    params = {"temperature": 0.5 if kind == "form" else 1.0, "top_p": 1.0}
    assert {name: final[name] for name in params} == params
    whole = final["status"] == "completed"
    assert (final["completed_at"] is not None) == whole
    last = final["output"][-1]
    assert last["status"] == ("completed" if whole else "incomplete")
