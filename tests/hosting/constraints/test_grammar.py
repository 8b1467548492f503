"""A random model must satisfy the schema; a schema that cannot be enforced is refused before it runs."""

from __future__ import annotations

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from tests.serve.support import ASK, call, tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 3, "maximum": 9},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["n", "kind", "tags"],
    "additionalProperties": False,
}
ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/small"}, "b": {"$ref": "#/$defs/small"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"small": {"type": "integer", "minimum": 0, "maximum": 99}},
    },
}
TOOLS = [
    {"type": "function", "function": ADD},
    {
        "type": "function",
        "function": {"name": "sing", "parameters": {"type": "object", "additionalProperties": False}},
    },
]


# A random model would open a reasoning block sooner or later, and never close it.
OPENS, CLOSES = (str(tokenizer().token_id(mark)) for mark in ("<think>", "</think>"))
NO_REASONING = {OPENS: -100}


def response_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.parametrize("seed", range(4))
def test_json_schema(client, seed):
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        seed=seed,
        max_tokens=200,
        response_format=response_format(SCHEMA),
        logit_bias=NO_REASONING,
    )
    choice = answer.choices[0]
    data = json.loads(choice.message.content)
    assert choice.finish_reason == "stop" and 3 <= data["n"] <= 9 and data["kind"] in "ab"
    assert all(len(tag) <= 3 for tag in data["tags"]) and len(data["tags"]) <= 2


class Fox(BaseModel):
    name: Literal["fox", "vixen"]
    age: int


def test_parse_helper(client):
    answer = client.chat.completions.parse(
        model="tiny", messages=ASK, seed=1, max_tokens=60, response_format=Fox, logit_bias=NO_REASONING
    )
    assert isinstance(answer.choices[0].message.parsed, Fox)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "sing"}}])
@pytest.mark.parametrize("seed", range(3))
def test_tool_choice_forces_a_call_streamed_or_not(client, choice, seed):
    settings = {"model": "tiny", "messages": ASK, "seed": seed, "tools": TOOLS, "tool_choice": choice,
                "parallel_tool_calls": False, "max_tokens": 120, "logit_bias": NO_REASONING}  # fmt: skip
    plain = client.chat.completions.create(**settings).choices[0]
    assert plain.finish_reason == "tool_calls" and plain.message.content is None
    (made,) = plain.message.tool_calls
    arguments = json.loads(made.function.arguments)
    if choice == "required":
        assert made.function.name in ("add", "sing")
    else:
        assert made.function.name == "sing" and arguments == {}
    if made.function.name == "add":
        assert set(arguments) == {"a", "b"} and all(0 <= value <= 99 for value in arguments.values())
    with client.chat.completions.stream(**settings) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.name == made.function.name
    assert final.message.tool_calls[0].function.arguments == made.function.arguments


def test_tools_that_are_not_called_leave_text(client):
    settings = {"model": "tiny", "messages": ASK, "seed": 3, "max_tokens": 16}
    answer = client.chat.completions.create(**settings, tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    bare = client.chat.completions.create(**settings)
    # Their description was not shown.
    assert answer.choices[0].message.content == bare.choices[0].message.content


def test_strict_tools_bind_only_once_a_call_begins(client, server):
    strict = [{"type": "function", "function": {**ADD, "strict": True}}]
    mark = call(server.url, "POST", "/tokenize", {"prompt": "<tool_call>", "add_special_tokens": False})[2][
        "tokens"
    ]
    info = client.chat.completions.create(model="tiny", messages=ASK, seed=0, max_tokens=6, tools=strict)
    assert info.choices[0].finish_reason in ("length", "stop")
    assert mark != [tokenizer().token_id("<tool_call>")]  # written by people it is text
    bias = {str(tokenizer().token_id("<tool_call>")): 30}
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        seed=0,
        max_tokens=200,
        tools=strict,
        logit_bias=bias,
        parallel_tool_calls=False,
    )
    (made,) = answer.choices[0].message.tool_calls
    assert made.function.name == "add" and set(json.loads(made.function.arguments)) == {"a", "b"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_grammar_waits_for_the_end_of_reasoning(client):
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, seed=0, max_tokens=200, response_format=response_format(SCHEMA),
        logit_bias={OPENS: 60, CLOSES: 60},
    )  # fmt: skip
    message = answer.choices[0].message
    assert set(json.loads(message.content)) == {"n", "kind", "tags"}
    assert answer.usage.completion_tokens_details.reasoning_tokens >= 1


@pytest.mark.parametrize("budget", [0, 1, 9])
def test_a_budget_ends_reasoning_that_would_not_end(client, budget):
    """The model opens reasoning and never closes it; the answer is complete, with or without a grammar."""
    given = {"model": "tiny", "messages": ASK, "seed": 0, "max_tokens": 120,
             "logit_bias": {OPENS: 60, CLOSES: -100}}  # fmt: skip
    endless = client.chat.completions.create(**given, response_format=response_format(SCHEMA)).choices[0]
    assert endless.finish_reason == "length" and not endless.message.content
    bounded = given | {"extra_body": {"thinking_token_budget": budget}}
    answer = client.chat.completions.create(**bounded, response_format=response_format(SCHEMA))
    assert answer.choices[0].finish_reason == "stop"
    assert set(json.loads(answer.choices[0].message.content)) == {"n", "kind", "tags"}
    assert budget <= answer.usage.completion_tokens_details.reasoning_tokens <= budget + 2  # its two marks
    free = (
        client.chat.completions.create(**bounded | {"logit_bias": {CLOSES: -100, OPENS: 60}})
        .choices[0]
        .message
    )
    assert free.content and "</think>" not in free.content


def test_a_budget_that_is_not_used_up_changes_nothing(client):
    given = {"model": "tiny", "messages": ASK, "seed": 4, "max_tokens": 30}
    plain = client.chat.completions.create(**given).choices[0].message
    assert (
        client.chat.completions.create(**given, extra_body={"thinking_token_budget": 500}).choices[0].message
        == plain
    )
    with pytest.raises(openai.BadRequestError, match="thinking_token_budget"):
        client.chat.completions.create(**given, extra_body={"thinking_token_budget": -1})


@pytest.mark.parametrize("form", ["schema", "call"])
def test_reasoning_that_wants_to_stop_goes_on_to_what_was_asked_for(client, form):
    asked = (
        {"response_format": response_format(SCHEMA)}
        if form == "schema"
        else {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    )
    stops = {str(stop): 90 for stop in tokenizer().stop_ids}
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        seed=0,
        max_tokens=120,
        logit_bias={**stops, OPENS: 60, CLOSES: 75},
        **asked,
    )
    (choice,) = answer.choices
    assert answer.usage.completion_tokens_details.reasoning_tokens >= 1
    if form == "schema":
        assert choice.finish_reason == "stop" and set(json.loads(choice.message.content)) == {
            "n",
            "kind",
            "tags",
        }
    else:
        assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1


def test_json_object(client):
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, seed=0, max_tokens=300, response_format={"type": "json_object"},
        logit_bias=NO_REASONING,
    )  # fmt: skip
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "object", "patternProperties": {"^a": {}}, "properties": {}}, "/patternProperties"),
        ({"type": "object", "properties": {"x": {"not": {"type": "string"}}}}, "/properties/x/not"),
        ({"type": "array", "uniqueItems": True}, "/uniqueItems"),
        ({"type": "string", "pattern": "a{1,1000000000}"}, "/pattern"),
        ({"type": "string", "maxLength": 10**9}, "/maxLength"),
        ({"enum": ["x" * 20 + str(i) for i in range(10**5)]}, ""),
        ({"$ref": "http://169.254.169.254/schema.json"}, "/$ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}}}, "/$defs/a/$ref"),
        ({"type": "string", "pattern": "(?=a)b"}, "/pattern"),
        ({"type": "strin"}, ""),
    ],
)
def test_schemas_that_are_refused(client, schema, pointer):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, response_format=response_format(schema))
    assert caught.value.code == "invalid_schema"
    # Our grammar is not theirs.
    assert "start:" not in caught.value.message and "\n" not in caught.value.message
    assert caught.value.param == "/response_format/json_schema/schema" + pointer


def test_a_property_may_be_called_like_a_keyword(client):
    schema = {
        "type": "object",
        "properties": {"patternProperties": {"const": 1}},
        "required": ["patternProperties"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        response_format=response_format(schema),
        max_tokens=60,
        logit_bias=NO_REASONING,
    )
    assert json.loads(answer.choices[0].message.content) == {"patternProperties": 1}


@pytest.mark.parametrize(
    "more",
    [
        {"tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}},
        {"tools": TOOLS + TOOLS},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_contradictions(client, more):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=ASK, **more)


@pytest.mark.parametrize("wanted", ["text", "call"])
def test_json_or_a_call(client, wanted):
    mark = str(tokenizer().token_id("<tool_call>"))
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        seed=0,
        tools=TOOLS,
        response_format=response_format(SCHEMA),
        max_tokens=150,
        logit_bias={**NO_REASONING, mark: 100 if wanted == "call" else -100},
    )
    message = answer.choices[0].message
    if wanted == "call":
        assert message.tool_calls[0].function.name in ("add", "sing") and message.content is None
    else:
        assert set(json.loads(message.content)) == {"n", "kind", "tags"} and message.tool_calls is None
