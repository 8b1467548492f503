"""Custom tools: shown as a function, called with text, bound by a pattern or a grammar, sent back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from coterie.protocol.customs import CustomCalls, input_of
from coterie.text.messages import ToolCall
from coterie.text.replies import CallPart, Delta, NumberedCall
from tests.protocol.test_demands import NO_REASONING, ask, tools
from tests.serve.support import ASK, call

LARK = 'start: (line LF)~1..2\nline: ("+" | "-") /[ab"]{1,2}/\n%import common.LF'
ROUND = 'start: "(" start ")" | "x"'


def custom(form: dict[str, Any] | None = None, name: str = "patch") -> dict[str, Any]:
    return {
        "type": "custom",
        "custom": {"name": name, "description": "d", **({"format": form} if form else {})},
    }


def grammar(syntax: str, definition: str) -> dict[str, Any]:
    return {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (grammar("regex", r"\d{2}-[a\"\n]"), r'\d{2}-[a"\n]'),
        (grammar("lark", LARK), '([+-][ab"]{1,2}\n){1,2}'),
    ],
)
def test_the_input_follows_its_grammar_streamed_or_not(server, form, pattern):
    named = {"type": "custom", "custom": {"name": "patch"}}
    asked = {"tools": [*tools("f"), custom(form)], "tool_choice": named, "max_tokens": 60}
    choice, ignored, _ = ask(server, **asked)
    (made,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and not ignored
    assert made["type"] == "custom" and made["custom"]["name"] == "patch" and "function" not in made
    assert re.fullmatch(pattern, made["custom"]["input"])
    body = {"model": "tiny", "messages": ASK, "logit_bias": NO_REASONING, "seed": 1, "stream": True, **asked}
    _, _, events = call(server.url, "POST", "/v1/chat/completions", body)
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    (part,) = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert part["custom"] == made["custom"] and part["type"] == "custom" and part["index"] == 0
    history = [*ASK, {**choice["message"]}, {"role": "tool", "tool_call_id": made["id"], "content": "done"}]
    _, ignored, size = ask(server, messages=history, max_tokens=1)
    function = {"name": "patch", "arguments": json.dumps({"input": made["custom"]["input"]})}
    plain = [{"id": made["id"], "type": "function", "function": function}]
    history[1] = {"role": "assistant", "content": None, "tool_calls": plain}
    assert ask(server, messages=history, max_tokens=1)[2] == size and not ignored


def test_what_cannot_be_enforced_is_named_or_refused(server):
    for form in (grammar("lark", ROUND), grammar("regex", "(?=a)b")):
        _, ignored, _ = ask(server, tools=[custom(form)], max_tokens=2)
        assert ignored == ["tools/0/custom/format"]
        body = {"model": "tiny", "messages": ASK, "tools": [custom(form)], "tool_choice": "required"}
        status, _, answer = call(server.url, "POST", "/v1/chat/completions", body)
        assert status == 400 and answer["error"]["param"] == "/tools/0/custom/format/grammar/definition"


def test_free_text_and_functions_go_together(server):
    choice, _, _ = ask(
        server,
        tools=[custom(), *tools("f")],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=90,
    )
    (made,) = choice["message"]["tool_calls"]
    assert made["type"] == ("custom" if "custom" in made else "function")


def numbered(text: str, arguments: dict[str, Any], broken: bool = False) -> NumberedCall:
    return NumberedCall(1, "c", ToolCall("patch", arguments), text, broken)


def test_inputs():
    assert input_of(numbered('{"input": "a\\nb"}', {"input": "a\nb"})) == "a\nb"
    assert input_of(numbered('{"input": "a\\nb\\u00', {}, True)) == "a\nb"
    assert input_of(numbered('{"x": 1}', {"x": 1})) == '{"x": 1}'
    assert input_of(numbered('{"in', {}, True)) == '{"in'


def test_parts_of_other_calls_pass():
    turns = CustomCalls({"patch"})
    other = CallPart(0, "a", "f", '{"x"')
    first = turns.turned(Delta(parts=[other, CallPart(1, "c", "patch", '{"input": ')], content="y"))
    assert first.parts == [other] and first.content == "y" and not first.calls
    last = turns.turned(Delta(parts=[CallPart(1, None, None, '"z"}')],
                              calls=[numbered('{"input": "z"}', {"input": "z"})]))  # fmt: skip
    (part,), (made,) = last.parts, last.calls
    assert part == CallPart(1, "c", "patch", "z", custom=True) and made.custom and made.arguments == "z"


def test_custom_tools_of_the_responses_api(server):
    """A call with its events; its output comes back as the history."""
    form = {"type": "grammar", "syntax": "regex", "definition": "[ab]{2}"}
    choice = {"type": "custom", "name": "patch"}
    tool = {"type": "custom", "name": "patch", "format": form}
    body = {"model": "tiny", "input": "x", "tools": [tool], "tool_choice": choice,
            "logit_bias": NO_REASONING, "seed": 1, "max_output_tokens": 60}  # fmt: skip
    status, _, answer = call(server.url, "POST", "/v1/responses", body)
    assert status == 200, answer
    (made,) = answer["output"]
    assert made["type"] == "custom_tool_call" and re.fullmatch("[ab]{2}", made["input"])
    _, _, events = call(server.url, "POST", "/v1/responses", {**body, "stream": True})
    said = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    (done,) = [one for one in said if one["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == made["input"]
    output = {"type": "custom_tool_call_output", "call_id": made["call_id"], "output": "ok"}
    history = [{"role": "user", "content": "x"}, made, output]
    more = {"model": "tiny", "input": history, "max_output_tokens": 1}
    assert call(server.url, "POST", "/v1/responses", more)[0] == 200
    body["tools"] = [{"type": "web_search"}, {**tool, "format": {**form, "definition": "(?=a)"}}]
    _, _, answer = call(server.url, "POST", "/v1/responses", body)
    assert answer["error"]["param"] == "/tools/1/format/definition"
    _, headers, _ = call(server.url, "POST", "/v1/responses", {**body, "tool_choice": "auto"})
    assert headers["x-coterie-ignored"] == "tools/0,tools/1/format"
