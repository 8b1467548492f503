"""JSON schemas of requests, checked and copied in the form that llguidance enforces.

What it would not enforce, or would take too long to compile, is refused with a pointer to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from coterie.hosting.errors import ApiError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_BOUND = 10_000  # of lengths and counts in a schema
MAX_REPEAT = 1000  # {n,m} in a pattern
# llguidance accepts these and does not enforce them, or reads them as comments.
_REFUSED = ("patternProperties", "x-guidance", "unevaluatedProperties", "unevaluatedItems", "propertyNames",
            "dependentSchemas")  # fmt: skip
_NAMES = ("$anchor", "$dynamicAnchor", "$recursiveAnchor", "$dynamicRef", "$recursiveRef")
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# Where a schema holds schemas: under each of its keys, in its items, or as it is.
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else")


def enforceable(schema: Mapping[str, Any], pointer: str, moved_to: str = "") -> dict[str, Any]:
    """A copy of a schema without keywords that say nothing.

    References may lead to any schema inside it: "#", "#/properties/a", "#/$defs/a~1b". `moved_to`: the
    pointer under which the copy will stand in a larger schema; references are changed to match.
    Errors: `ApiError` 400 `invalid_schema` with a pointer to the first problem.
    """
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise bad(pointer, f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
    reader = _Reader(pointer, moved_to)
    copied = reader.copy(schema, "")
    reader.check_references()
    if not isinstance(copied, dict):
        raise bad(pointer, "an object was expected")
    return {key: value for key, value in copied.items() if key not in ("$schema", "$id")}


class _Reader:
    """Copies one schema and notes its places and references, as pointers inside it."""

    def __init__(self, pointer: str, moved_to: str) -> None:
        self._pointer, self._moved_to = pointer, moved_to
        self._places: set[str] = set()
        self._references: dict[str, str] = {}  # place -> where its $ref leads

    def copy(self, node: Any, place: str) -> Any:
        self._places.add(place)
        if not isinstance(node, Mapping):
            return node
        where = self._pointer + place
        copied = dict(node)
        if node.get("uniqueItems") is False:
            del copied["uniqueItems"]
        if node.get("propertyNames") in ({}, True, {"type": "string"}):
            del copied["propertyNames"]
        self._check(copied, place, where)
        if isinstance(node.get("$ref"), str):
            copied["$ref"] = self._follow(node["$ref"], place)
        for key in _MAPS:
            if isinstance(node.get(key), Mapping):
                copied[key] = {
                    name: self.copy(one, f"{place}/{key}/{_escaped(name)}") for name, one in node[key].items()
                }
        for key in _LISTS:
            if isinstance(node.get(key), list):
                copied[key] = [self.copy(one, f"{place}/{key}/{at}") for at, one in enumerate(node[key])]
        for key in _SINGLE:
            if isinstance(node.get(key), Mapping):
                copied[key] = self.copy(node[key], f"{place}/{key}")
        return copied

    def check_references(self) -> None:
        """Refuse references that lead to no schema, or round in a circle. Errors: `ApiError` 400."""
        for place, target in self._references.items():
            if target not in self._places:
                raise bad(f"{self._pointer}{place}/$ref", "leads to no schema inside this one")
            seen = {place}
            while target in self._references:
                if target in seen:
                    raise bad(f"{self._pointer}{place}/$ref", "leads round in a circle, to itself")
                seen.add(target)
                target = self._references[target]

    def _follow(self, reference: str, place: str) -> str:
        if not re.fullmatch(r"#(/.*)?", reference, re.DOTALL):
            raise bad(
                f"{self._pointer}{place}/$ref", "only references of the form '#' or '#/...' are followed"
            )
        target = unquote(reference[1:])
        self._references[place] = target
        return "#" + self._moved_to + reference[1:]

    def _check(self, node: Mapping[str, Any], place: str, where: str) -> None:
        for key in _REFUSED:
            if key in node:
                raise bad(f"{where}/{key}", "is not supported")
        for key in (*_NAMES, *(("$id",) if place else ())):
            if key in node:
                raise bad(f"{where}/{key}", "names of places are not supported; refer to '#/...'")
        for key in _BOUNDS:
            value = node.get(key)
            if isinstance(value, int | float) and value > MAX_BOUND:
                raise bad(f"{where}/{key}", f"at most {MAX_BOUND}")
        pattern = node.get("pattern")
        if isinstance(pattern, str):
            _check_pattern(pattern, f"{where}/pattern")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_pattern(pattern: str, pointer: str) -> None:
    counts = [
        int(number[:9]) for number in re.findall(r"\d+", " ".join(re.findall(r"\{([\d,]*)\}", pattern)))
    ]
    if len(pattern) > 1000 or any(count > MAX_REPEAT for count in counts):
        raise bad(pointer, f"is too large (repeats up to {MAX_REPEAT})")


def bad(pointer: str, why: str) -> ApiError:
    """400 for a schema, at the place of its problem."""
    return ApiError(400, f"{pointer[:200]}: {why}", "invalid_schema", pointer[:200])
