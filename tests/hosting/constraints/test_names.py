"""`propertyNames`: enforced as properties or as a pattern, else named."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from coterie.hosting.constraints.schemas import fit
from tests.hosting.constraints.walks import answers

N = {"enum": [1, 2]}


def record(names: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "propertyNames": names, "additionalProperties": N, **more}


COLOURS: dict[str, Any] = {"$defs": {"c": {"enum": ["red", "blue"], "type": "string", "title": "Colour"}}}


@pytest.mark.parametrize(
    "schema",
    [
        record({"type": "string"}, maxProperties=2),  # z.record(z.string(), ...)
        record({"type": "string", "enum": ["a", "b"]}, required=["a", "b"]),  # z.record(z.enum(...), ...)
        record({"$ref": "#/$defs/c"}) | COLOURS,  # dict[Colour, ...] of pydantic
        record({"const": "a"}, properties={"a": {"const": 3}, "b": {}}),
        record({"pattern": "^a[bc]$"}, maxProperties=2),
        record({"minLength": 2, "maxLength": 3}, maxProperties=2),
        {"type": "object", "patternProperties": {"^[ab]$": N}, "maxProperties": 2},
    ],
)
def test_names_follow_their_rule(schema: dict[str, Any]) -> None:
    assert not fit(schema, "/s").left
    values = [json.loads(text) for text in answers(schema, seeds=8)]
    assert values and any(values)
    for value in values:
        jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    "names",
    [
        {"pattern": "a", "minLength": 3},
        {"not": {"const": "a"}},
        {"format": "email"},
        {"maxLength": 5000},
        {"enum": [f"k{i}" * 20 for i in range(400)]},
    ],
)
def test_rules_that_cannot_be_followed_are_named(names: dict[str, Any]) -> None:
    schema = record(names) | {"additionalProperties": {"const": "x" * 200}}
    assert fit(schema, "/s", strict=False).left == ("/s/propertyNames",)


@pytest.mark.parametrize("extra", [{"properties": {"x": N}}, {"required": ["ab"]}])
def test_a_pattern_beside_names_is_left_out(extra: dict[str, Any]) -> None:
    """llguidance can then come to a place where no name is possible."""
    schema = {"type": "object", "patternProperties": {"^ab$": N}, "additionalProperties": False, **extra}
    assert fit(schema, "/s", strict=False).left == ("/s/patternProperties",)
