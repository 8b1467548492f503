"""JSON schemas of requests, checked and copied in the form that llguidance enforces.

What it cannot enforce is refused with a pointer to it, or left out and named where the request is not
strict. Schemas that are wrong or too large are always refused.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from coterie.hosting.constraints.checks import wrong_schema
from coterie.hosting.constraints.closing import close, escaped
from coterie.hosting.constraints.names import name_properties
from coterie.hosting.constraints.sizes import pattern_size
from coterie.hosting.errors import ApiError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_BOUND = 10_000  # of lengths and counts in a schema
MAX_PATTERN_SIZE = 20_000  # characters of a pattern whose repeats are written out
# Schemas inside each other, through references too; llguidance 1.9 overflows a stack of 8 MB at about 900.
MAX_LEVELS = 500
# llguidance refuses these, or accepts them and does not enforce them.
_UNENFORCED = ("not", "if", "then", "else", "uniqueItems", "unevaluatedProperties", "unevaluatedItems",
               "propertyNames", "dependentSchemas", "dependentRequired", "dependencies", "contains",
               "minContains", "maxContains", "$dynamicRef", "$recursiveRef")  # fmt: skip
_NAMES = ("$anchor", "$dynamicAnchor", "$recursiveAnchor", "$id")
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# llguidance enforces these; others are annotations, as JSON Schema has it.
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
# Where a schema holds schemas: under each of its keys, in its items, or as it is.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else",
           "propertyNames", "unevaluatedProperties", "unevaluatedItems")  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """A schema as llguidance enforces it, and pointers to the keywords that it does not enforce."""

    schema: dict[str, Any]
    left: tuple[str, ...] = ()


def fit(schema: Mapping[str, Any], pointer: str, moved_to: str = "", strict: bool = True) -> Fitted:
    """A copy of a schema without what says nothing; objects that list their properties have no others.

    References may lead to any schema inside it: "#", "#/properties/a", "#/$defs/a~1b". `moved_to`: the
    pointer under which the copy will stand in a larger schema; references are changed to match. `strict`:
    what cannot be enforced is refused, else it is left out; unknown formats are always left out.
    Errors: `ApiError` 400 `invalid_schema` with a pointer to the first problem.
    """
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise bad(pointer, f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
    return _fit(text, pointer, moved_to, strict)


@functools.lru_cache(128)
def _fit(text: str, pointer: str, moved_to: str, strict: bool) -> Fitted:
    schema = json.loads(text)
    reader = _Reader(schema, pointer, "", strict)
    copied, left = reader.whole(), reader.left
    why = refusal(copied).partition(". Enable")[0]  # an option of llguidance
    if why and not strict and "oneOf" in why:
        left += [f"{pointer}{place}/oneOf" for place in reader.copies if "oneOf" in reader.raw[place]]
        why = refusal({**copied, "x-guidance": {"coerce_one_of": True}})
    if why and (strict or "Unsatisfiable" in why):
        raise bad(pointer, f"this schema cannot be enforced ({why})")
    if why or any(map(matters, left)):
        wrong = wrong_schema(schema)
        if wrong is not None:
            raise bad(pointer + wrong[0], wrong[1])
    if why:
        kind = schema.get("type")
        return Fitted({"type": kind} if isinstance(kind, str) else {}, (*left, pointer))
    if moved_to:
        copied = _Reader(schema, pointer, moved_to, strict).whole()
    return Fitted(copied, tuple(left))


@functools.lru_cache(256)
def _refusal_of(text: str) -> str:
    from llguidance import LLMatcher

    wrong, notes = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(text), None)
    return notes[0] if wrong and notes else ""


def matters(pointer: str) -> bool:
    """Whether a reply may break the rule at a pointer: all but formats, which are mere notes."""
    return not pointer.endswith("/format")


def refusal(schema: Mapping[str, Any]) -> str:
    """Why llguidance cannot enforce a schema, in a line; "" when it can."""
    note = _refusal_of(json.dumps(schema)).strip()
    if "regex parse error" in note:  # its last line says what is wrong
        note = note.partition("error: ")[2].partition("error: ")[2] or note
    note = re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", note)
    return note.partition("\n")[0][:300]


class _Reader:
    """Copies one schema and notes its places and references, as pointers inside it.

    `raw`, `copies`: its objects by their place; those that were left out have no copy. `left`: pointers to
    the keywords that were left out.
    """

    def __init__(self, root: Mapping[str, Any], pointer: str, moved_to: str, strict: bool) -> None:
        self._root, self._pointer, self._moved_to, self._strict = root, pointer, moved_to, strict
        self.left: list[str] = []
        self.raw: dict[str, Mapping[str, Any]] = {}
        self.copies: dict[str, dict[str, Any]] = {}
        self._places: set[str] = set()
        self._references: dict[str, str] = {}  # place -> where its $ref leads
        self._heights: dict[str, int] = {}  # of what stands at a place: how many schemas inside each other
        self._height = 0
        self._opened: set[str] = set()  # objects with more properties than their copy lists

    def whole(self) -> dict[str, Any]:
        """The copy. Errors: `ApiError` 400."""
        copied = self._copy(self._root, "", True)
        self._check_references()
        if not close(self.raw, self.copies, self._references, self._opened):
            raise bad(self._pointer, "its parts that describe one object together have too many properties")
        return {key: value for key, value in copied.items() if key not in ("$schema", "$id")}

    def _copy(self, node: Any, place: str, kept: bool) -> Any:
        self._places.add(place)
        if not isinstance(node, Mapping):
            return node
        outer, self._height = self._height, 0
        copied = dict(node)
        self.raw[place] = node
        _check_sizes(node, self._pointer + place)
        if kept:
            self.copies[place] = copied
            self._reduce(copied, place)
        if isinstance(node.get("$ref"), str):
            self._follow(copied, place)
        for key in dict.fromkeys((*_MAPS, *_LISTS, *_SINGLE)):
            inside = kept and key in copied
            found = copied[key] if inside else node.get(key)
            made: Any = None
            if isinstance(found, Mapping) and key in _MAPS:
                made = {
                    name: self._copy(one, f"{place}/{key}/{escaped(name)}", inside)
                    for name, one in found.items()
                }
            elif isinstance(found, list) and key in _LISTS:
                made = [self._copy(one, f"{place}/{key}/{at}", inside) for at, one in enumerate(found)]
            elif isinstance(found, Mapping) and key in _SINGLE:
                made = self._copy(found, f"{place}/{key}", inside)
            if inside and made is not None:
                copied[key] = made
        self._heights[place] = self._height + 1
        self._height = max(outer, self._height + 1)
        return copied

    def _reduce(self, copied: dict[str, Any], place: str) -> None:
        """Leave out of one object what cannot be enforced. Errors: `ApiError` 400 where that is refused."""
        if copied.get("uniqueItems") is False or copied.get("maxItems") in (0, 1):
            copied.pop("uniqueItems", None)
        if copied.get("format") not in (None, *_FORMATS):
            del copied["format"]
            if copied.get("type") not in ("integer", "number", "boolean"):
                self.left.append(f"{self._pointer}{place}/format")
        name_properties(copied, self._root)
        for key in ("x-guidance", *_NAMES):
            if key in copied and (place or key != "$id"):
                self._leave(copied, key, place, "names of places are not supported; refer to '#/...'"
                            if key in _NAMES else "is not supported", named=key == "$id")  # fmt: skip
        if place and "$id" in self.raw[place]:  # references inside it lead elsewhere
            copied.clear()
            self._opened.add(place)
        for key in _UNENFORCED:
            if key in copied:
                self._leave(copied, key, place, "is not supported")
        pattern = copied.get("pattern")
        why = refusal({"type": "string", "pattern": pattern}) if isinstance(pattern, str) else ""
        if why:
            self._leave(copied, "pattern", place, f"this schema cannot be enforced ({why})")
        self._reduce_object(copied, place)

    def _reduce_object(self, copied: dict[str, Any], place: str) -> None:
        """The same for what is said of an object's properties."""
        patterns = copied.get("patternProperties")
        if isinstance(patterns, Mapping):
            why = refusal({"type": "object", "patternProperties": dict.fromkeys(patterns, True)})
            if copied.keys() & {"properties", "required"}:
                why = "goes with neither 'properties' nor 'required'"
            if why:
                self._leave(copied, "patternProperties", place, why)
                self._opened.add(place)
                if copied.get("additionalProperties") is False and isinstance(copied.get("required"), list):
                    free: dict[str, Any] = {name: {} for name in copied["required"] if isinstance(name, str)}
                    copied["properties"] = {**free, **copied.get("properties", {})}
        if self.raw[place].get("unevaluatedProperties", False) is not False:
            self._opened.add(place)
        names, required = copied.get("properties"), copied.get("required")
        listed = len(names) if isinstance(names, Mapping) else 0
        needed = len(required) if isinstance(required, list) else 0
        least = copied.get("minProperties", 0)
        if isinstance(least, int | float) and least > max(needed, 1):
            self._leave(copied, "minProperties", place, "a larger number than that of 'required'")
        for key in ("minProperties", "maxProperties"):
            if key in copied and listed > needed:
                self._leave(copied, key, place, "needs all properties to be required")

    def _leave(self, copied: dict[str, Any], key: str, place: str, why: str, named: bool = True) -> None:
        """Leave out a keyword, and name it. Errors: `ApiError` 400 where the request is strict."""
        if self._strict:
            raise bad(f"{self._pointer}{place}/{key}", why)
        copied.pop(key)
        if named:
            self.left.append(f"{self._pointer}{place}/{key}")

    def _check_references(self) -> None:
        """Refuse references that lead to no schema, or round in a circle. Errors: `ApiError` 400."""
        levels = sum(self._heights.get(place, 1) for place in {"", *self._references.values()})
        if levels > MAX_LEVELS:
            raise bad(self._pointer, f"is nested too deeply (its definitions together: {MAX_LEVELS} levels)")
        for place, target in self._references.items():
            if target not in self._places:
                raise bad(f"{self._pointer}{place}/$ref", "leads to no schema inside this one")
            seen = {place}
            while target in self._references:
                if target in seen:
                    raise bad(f"{self._pointer}{place}/$ref", "leads round in a circle, to itself")
                seen.add(target)
                target = self._references[target]
            if place in self.copies and target in self.raw and target not in self.copies:
                self._leave(self.copies[place], "$ref", place, "leads into what cannot be enforced")
                self._opened.add(place)

    def _follow(self, copied: dict[str, Any], place: str) -> None:
        """Note where a reference leads. Errors: `ApiError` 400 when it leads out of the schema."""
        reference = self.raw[place]["$ref"]
        if "$ref" in copied and re.fullmatch(r"#[A-Za-z_][\w.-]*", reference) and not self._strict:
            self._leave(copied, "$ref", place, "")
            self._opened.add(place)
        elif not re.fullmatch(r"#(/.*)?", reference, re.DOTALL):
            where = f"{self._pointer}{place}/$ref"
            raise bad(where, "only references of the form '#' or '#/...' are followed")
        else:
            self._references[place] = unquote(reference[1:])
            if "$ref" in copied:
                copied["$ref"] = "#" + self._moved_to + reference[1:]


def _check_sizes(node: Mapping[str, Any], where: str) -> None:
    for key in _BOUNDS:
        value = node.get(key)
        if isinstance(value, int | float) and value > MAX_BOUND:
            raise bad(f"{where}/{key}", f"at most {MAX_BOUND}")
    patterns = node.get("patternProperties")
    for pattern in [node.get("pattern"), *(patterns if isinstance(patterns, Mapping) else ())]:
        if isinstance(pattern, str):
            check_pattern(
                pattern, f"{where}/{'pattern' if pattern == node.get('pattern') else 'patternProperties'}"
            )


def check_pattern(pattern: str, pointer: str) -> None:
    """Errors: `ApiError` 400 for a pattern that is too large."""
    if len(pattern) > 1000 or pattern_size(pattern) > MAX_PATTERN_SIZE:
        raise bad(
            pointer, f"is too large (at most {MAX_PATTERN_SIZE} characters with its repeats written out)"
        )


def bad(pointer: str, why: str) -> ApiError:
    """400 for a schema, at the place of its problem."""
    return ApiError(400, f"{pointer[:200]}: {why}", "invalid_schema", pointer[:200])
