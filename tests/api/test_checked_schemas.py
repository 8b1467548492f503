"""Every protocol says what became of a schema that a grammar does not enforce in full."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from coterie.serve.server import ServerThread
from tests.hosting.constraints.test_grammar import NO_REASONING
from tests.serve.support import call

# A grammar writes `x`, and does not enforce that it must be absent.
BROKEN = {
    "type": "object",
    "properties": {"x": {"const": 1}},
    "required": ["x"],
    "additionalProperties": False,
    "not": {"required": ["x"]},
}
HELLO = [{"role": "user", "content": "Hello"}]
FREE = {"logit_bias": NO_REASONING}
NAMED = {"type": "json_schema", "name": "n", "schema": BROKEN}
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": (
        {"messages": HELLO, "max_tokens": 99, **FREE,
         "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": BROKEN}}},
        "/response_format/json_schema/schema/not",
    ),
    "/v1/responses": (
        {"input": HELLO, "max_output_tokens": 99, **FREE, "text": {"format": NAMED}},
        "/text/format/schema/not",
    ),
    # A format that Messages cannot enforce is refused, as by Anthropic; a tool's schema is checked.
    "/v1/messages": (
        {"messages": HELLO, "max_tokens": 150, **FREE, "tools": [{"name": "f", "input_schema": BROKEN}],
         "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        "/tools/0/input_schema/not",
    ),
    "/api/chat": (
        {"messages": HELLO, "options": {"num_predict": 99}, "think": False, "format": BROKEN},
        "/format/not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("stream", [False, True])
def test_each_protocol_says_what_became_of_a_schema_with_its_own_places(
    server: ServerThread, path: str, stream: bool
) -> None:
    asked, place = FORMS[path]
    status, headers, answer = call(server.url, "POST", path, {"model": "tiny", "stream": stream, **asked})
    assert status == 200 and headers["x-coterie-ignored"] == place, answer
    text = answer if isinstance(answer, str) else json.dumps(answer)
    (said,) = re.findall(r'"x_coterie_schema": ?"([^"]*)', text)
    assert said.startswith(f"violated: {place} "), said
