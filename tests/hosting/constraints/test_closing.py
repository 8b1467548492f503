"""Objects that list their properties are closed; every value of the closed schema satisfies the given one."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.hosting.constraints.schemas import fit
from coterie.hosting.errors import ApiError
from tests.hosting.constraints.walks import answers

N = {"enum": [1, 2]}
A: dict[str, Any] = {"type": "object", "properties": {"a": N}, "required": ["a"]}
B: dict[str, Any] = {"type": "object", "properties": {"b": N}, "required": ["b"]}
NULL = {"type": "null"}

# A schema, and every set of names that the objects of its replies may have.
CLOSED: dict[str, tuple[dict[str, Any], list[set[str]]]] = {
    "plain": (A, [{"a"}]),
    "nested": ({**A, "properties": {"a": B}}, [{"a"}]),
    "without properties": ({"type": "object", "properties": {}}, [set()]),
    "a definition": ({"$ref": "#/$defs/a", "$defs": {"a": A}}, [{"a"}]),
    "either": ({"anyOf": [A, B]}, [{"a"}, {"b"}]),
    "either or nothing": ({"anyOf": [{"$ref": "#/$defs/a"}, NULL], "$defs": {"a": A}}, [{"a"}]),
    "together": ({"allOf": [A, B]}, [{"a", "b"}]),
    "together with a definition": (
        {"allOf": [{"$ref": "#/$defs/a"}, B], "$defs": {"a": A}}, [{"a", "b"}]),
    "a definition and more": ({**B, "$ref": "#/$defs/a", "$defs": {"a": A}}, [{"a", "b"}]),
    "a definition used alone and together": (
        {"anyOf": [{"$ref": "#/$defs/a"}, {"allOf": [{"$ref": "#/$defs/a"}, B]}], "$defs": {"a": A}},
        [{"a"}, {"a", "b"}]),
    "properties and a choice": (
        {"properties": {"c": N}, "required": ["c"], "anyOf": [A, B]},
        [{"a", "c"}, {"b", "c"}, {"a", "b", "c"}]),
    "required but not listed": ({**A, "required": ["a", "z"]}, [{"a", "z"}]),
    "one of one": ({"allOf": [A]}, [{"a"}]),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_replies_have_the_listed_names_only(name: str) -> None:
    schema, allowed = CLOSED[name]
    values = [json.loads(text) for text in answers(schema, seeds=8)]
    assert values
    for value in values:
        jsonschema.validate(value, schema)
        assert value is None or set(value) in allowed


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": {"type": "integer"}},
        {"allOf": [A, {**B, "additionalProperties": {}}]},
        {"type": "object", "required": ["a"]},
    ],
)
def test_what_a_schema_says_itself_is_kept(schema: dict[str, Any]) -> None:
    assert fit(schema, "/s").schema == schema


@pytest.mark.parametrize("where", ["patternProperties", "unevaluatedProperties"])
def test_names_that_a_grammar_cannot_show_keep_an_object_open(where: str) -> None:
    given = {"^x": {}} if where == "patternProperties" else {"type": "integer"}
    fitted = fit({**A, where: given}, "/s", strict=False)
    assert fitted.schema == A and fitted.left == (f"/s/{where}",)


def test_names_under_conditions_are_allowed() -> None:
    schema = {**A, "if": {"properties": {"a": {"const": 1}}}, "then": B}
    assert set(fit(schema, "/s", strict=False).schema["properties"]) == {"a", "b"}


def test_closing_is_bounded() -> None:
    part = {"properties": {f"k{i}": {} for i in range(400)}}
    many = {f"d{i}": {"$ref": "#/$defs/p", "properties": {"z": {}}} for i in range(100)}
    with pytest.raises(ApiError, match="too many properties"):
        fit({"$defs": {"p": part, **many}}, "/s")


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c"])
    listed = st.dictionaries(names, inner, max_size=2)
    both = st.tuples(listed, st.booleans(), st.sampled_from([None, True, False, N]))

    def made(parts: tuple[dict[str, Any], bool, Any]) -> dict[str, Any]:
        properties, needed, more = parts
        required = {"required": list(properties)} if needed else {}
        rest = {} if more is None else {"additionalProperties": more}
        return {"type": "object", "properties": properties, **required, **rest}

    return both.map(made)


def several(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        lists.map(lambda schemas: {"anyOf": schemas}),
        lists.map(lambda schemas: {"allOf": schemas}),
        st.tuples(objects(inner), inner).map(lambda pair: {**pair[0], "anyOf": [pair[1]]}),
        objects(inner).map(lambda one: {**one, "$ref": "#/$defs/d"}),
        st.just({"$ref": "#/$defs/d"}),
        inner.map(lambda one: {"type": "array", "maxItems": 2, "items": one}),
    )


SCHEMAS = st.recursive(
    st.sampled_from([N, NULL, {"type": "boolean"}]),
    lambda inner: objects(inner) | several(inner),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(SCHEMAS, objects(st.just(N)), st.integers(0, 1000))
def test_a_constrained_reply_satisfies_its_schema(
    schema: dict[str, Any], definition: dict[str, Any], seed: int
) -> None:
    whole = {"anyOf": [schema, {"const": 0}], "$defs": {"d": definition}}
    try:
        (fitted, texts) = fit(whole, "/s"), answers(whole, seeds=3)
    except ApiError as refused:
        assert refused.code == "invalid_schema"
        return
    assert not fitted.left
    for text in texts:
        jsonschema.validate(json.loads(text), whole)
