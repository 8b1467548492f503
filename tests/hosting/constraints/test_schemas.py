"""References inside schemas, keywords that say nothing, and schemas made to be expensive."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from coterie.hosting.constraints.schemas import fit
from coterie.hosting.errors import ApiError
from coterie.sandbox.schemas import problem
from tests.serve.support import ASK, call, tokenizer

CHAT = "/v1/chat/completions"
NO_REASONING = {str(tokenizer().token_id("<think>")): -100}


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SMALL = {"enum": ["x", "y"]}
END = {"type": "null"}
REFERENCES: dict[str, dict[str, Any]] = {
    "root": closed(v=SMALL, next={"anyOf": [{"$ref": "#"}, END]}),
    "root in items": closed(v=SMALL, kids={"type": "array", "maxItems": 1, "items": {"$ref": "#"}}),
    "property": closed(a=closed(x=SMALL), b={"$ref": "#/properties/a"}),
    "inside a property": closed(a=closed(x=SMALL), b={"$ref": "#/properties/a/properties/x"}),
    "items": closed(a={"type": "array", "maxItems": 1, "items": SMALL}, b={"$ref": "#/properties/a/items"}),
    "branch": closed(a={"anyOf": [END, SMALL]}, b={"$ref": "#/properties/a/anyOf/1"}),
    "$defs": closed(a={"$ref": "#/$defs/s"}) | {"$defs": {"s": SMALL}},
    "definitions": closed(a={"$ref": "#/definitions/s"}) | {"definitions": {"s": SMALL}},
    "chain": closed(a={"$ref": "#/$defs/s"}) | {"$defs": {"s": {"$ref": "#/$defs/t"}, "t": SMALL}},
    "escapes": closed(a={"$ref": "#/$defs/a~1b~0c%20d"}) | {"$defs": {"a/b~c d": SMALL}},
    "mutual": closed(a={"$ref": "#/$defs/s"})
    | {"$defs": {"s": closed(b={"anyOf": [{"$ref": "#"}, END]})}},
    "with an id": {"$id": "https://example.org/s", "$schema": "x", **closed(a={"$ref": "#/$defs/s"}),
                   "$defs": {"s": SMALL}},
    "says nothing": closed(
        a={"type": "array", "maxItems": 1, "uniqueItems": False, "items": SMALL},
        b={"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": False},
    ),
    "properties called like keywords": closed(**{"$ref": SMALL, "$id": SMALL, "$anchor": SMALL}),
}  # fmt: skip


def ask(server, how: str, schema: dict[str, Any], **more: Any) -> tuple[int, Any]:
    body: dict[str, Any] = {"model": "tiny", "messages": ASK, "logit_bias": NO_REASONING, **more}
    if how == "response_format":
        named = {"name": "n", "schema": schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    else:
        body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        body["tool_choice"] = "required"
    status, _, answer = call(server.url, "POST", CHAT, body)
    return status, answer


@pytest.mark.parametrize("how", ["response_format", "tool"])
@pytest.mark.parametrize("name", REFERENCES)
def test_replies_follow_references_inside_the_schema(server, name, how):
    """Also where the schema becomes a part of the schema of a whole call."""
    schema = REFERENCES[name]
    status, answer = ask(server, how, schema, parallel_tool_calls=False, seed=3, max_tokens=100)
    assert status == 200, answer
    choice = answer["choices"][0]
    if choice["finish_reason"] == "length" and '"$ref": "#"' in json.dumps(schema):
        return  # a random model may go on for ever where the schema lets it
    message = choice["message"]
    text = (
        message["content"] if how == "response_format" else message["tool_calls"][0]["function"]["arguments"]
    )
    checked = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    assert problem(json.loads(text), checked) is None, text


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "itself": ({"$ref": "#"}, "/$ref"),
    "its own definition": ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "/$ref"),
    "a circle": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "/$defs/a/$ref"),
    "nothing": (closed(a={"$ref": "#/$defs/no"}), "/properties/a/$ref"),
    "no schema": (closed(a={"$ref": "#/properties"}), "/properties/a/$ref"),
    "a value": ({"enum": [{"type": "null"}], "anyOf": [{"$ref": "#/enum/0"}]}, "/anyOf/0/$ref"),
    "a name": ({"$defs": {"a": {"$anchor": "s", **SMALL}}, "$ref": "#s"}, "/$ref"),
    "an anchor": ({"$anchor": "s", **SMALL}, "/$anchor"),
    "an inner id": (closed(a={"$id": "x", **SMALL}), "/properties/a/$id"),
    "a file": ({"$ref": "other.json#/a"}, "/$ref"),
    "dynamic": ({"$dynamicRef": "#s"}, "/$dynamicRef"),
    "names of properties": ({"type": "object", "propertyNames": {"not": {}}}, "/propertyNames"),
    "hidden in a definition": (
        {"$defs": {"a": {"x-guidance": {}}}, "$ref": "#/$defs/a"},
        "/$defs/a/x-guidance",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_references_that_cannot_be_followed(name):
    schema, place = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        fit(schema, "/s")
    assert (caught.value.status, caught.value.param) == (400, "/s" + place)


def test_references_move_with_the_schema():
    schema = closed(a={"$ref": "#"}, b={"$ref": "#/$defs/c"}) | {"$defs": {"c": {"enum": [{"$ref": "#"}]}}}
    moved = fit(schema, "/s", "/properties/arguments").schema
    assert moved["properties"]["a"]["$ref"] == "#/properties/arguments"
    assert moved["properties"]["b"]["$ref"] == "#/properties/arguments/$defs/c"
    assert moved["$defs"] == schema["$defs"] and schema["properties"]["a"]["$ref"] == "#"


PATTERNS = ["(.*)" * 200 + "(.*a.{12})", "(a|aa)+" * 100 + "b{900}", "((a{900}){900}){900}", "(x+x+)+y",
            "(.*a.{20})", r"\p{L}{500}"]  # fmt: skip
NUMBER = {"anyOf": [{"type": "integer"}, {"type": "number"}] * 20}
COSTLY: dict[str, dict[str, Any]] = {
    **{f"pattern {at}": {"type": "string", "pattern": pattern} for at, pattern in enumerate(PATTERNS)},
    "anyOf of 200": {
        "anyOf": [closed(**{f"k{i}": {"type": "string", "pattern": f"^a{{{i}}}b*$"}}) for i in range(200)]
    },
    "patterns": {"anyOf": [{"type": "string", "pattern": f".*a{{{i}}}.*b.{{{i % 9}}}"} for i in range(500)]},
    "arrays": {"type": "array", "minItems": 9000, "items": {"type": "array", "minItems": 9000}},
    "properties": closed(**{f"k{i}": {"type": "string"} for i in range(1200)}),
    "a long chain": {
        "$defs": {f"{i}": {"properties": {"a": {"$ref": f"#/$defs/{i + 1}"}}} for i in range(1000)}
        | {"1000": {}},
        "$ref": "#/$defs/0",
    },
    "allows nothing": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "ambiguous": {"anyOf": [{"type": "array", "items": NUMBER}] * 20},
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_schemas_are_answered_or_refused(server, name):
    begun = time.monotonic()
    status, answer = ask(server, "response_format", COSTLY[name], max_tokens=6)
    assert status == 200 or (
        status == 400 and answer["error"]["code"] in ("invalid_schema", "grammar_failed")
    )
    assert time.monotonic() - begun < 10
    assert call(server.url, "GET", "/ready")[0] == 200
