"""Closes objects that list their properties: a schema that says nothing about others then allows none.

A small model that may invent properties goes on until its tokens are used up. Only what the schema leaves
open is closed: `additionalProperties` is kept where it is given, and an object that lists no properties stays
open.
Every value of the closed schema satisfies the given one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_NAMES = 5000  # that closing may add to one schema
MOST_STEPS = 100_000
# A schema with one of these says itself which properties an object has.
_OWN = ("properties", "required", "patternProperties", "additionalProperties", "minProperties")
_BRANCHES = ("allOf", "anyOf", "oneOf")
_CONDITIONS = ("if", "then", "else")


def close(
    raw: Mapping[str, Mapping[str, Any]],
    copies: Mapping[str, dict[str, Any]],
    references: Mapping[str, str],
    opened: set[str],
) -> bool:
    """Close the `copies` in place; False when that costs too much.

    `raw`, `copies`: schemas by their place, `copies` without those that no grammar enforces. `references`:
    where the `$ref` at a place leads. `opened`: places of objects that have more properties than they list.
    A schema whose parts describe one object together (`allOf`, or a `$ref` next to `properties`) is closed as
    a whole, with the names of all its parts; its parts alone would forbid each other's names.
    """
    groups = {place: _groups(place, raw, references) for place in raw}
    parts: set[str] = set()
    steps = names_added = 0
    for place in raw:
        if len(groups[place]) > 1:
            inside = _inside(place, groups)
            parts |= {*inside} - {place}
            steps += len(inside)
    for place, copy in copies.items():
        own = groups[place]
        described = len(own) > 1 or own == [[place]] or any(one in parts for group in own for one in group)
        if place in parts or not described:
            continue
        inside = _inside(place, groups)
        steps += len(inside)
        names = _names(inside, raw, copies, opened)
        if names is None:
            continue
        listed = copy.get("properties", {})
        more: dict[str, Any] = {name: {} for name in names if name not in listed}
        names_added += len(more)
        copy["properties"] = {**listed, **more}
        copy["additionalProperties"] = False
        if steps > MOST_STEPS or names_added > MOST_NAMES:
            return False
    return steps <= MOST_STEPS


def _groups(
    place: str, raw: Mapping[str, Mapping[str, Any]], references: Mapping[str, str]
) -> list[list[str]]:
    """What a value at a place must satisfy together: groups of schemas, of each of which one or more."""
    node = raw[place]
    groups = [[place]] if any(key in node for key in _OWN) else []
    for key in _BRANCHES:
        if isinstance(node.get(key), list):
            inside = [f"{place}/{key}/{at}" for at in range(len(node[key]))]
            groups += [[one] for one in inside] if key == "allOf" else [inside]
    if place in references:
        groups.append([references[place]])
    groups += [[f"{place}/{key}"] for key in _CONDITIONS]
    if isinstance(node.get("dependentSchemas"), Mapping):
        groups += [[f"{place}/dependentSchemas/{escaped(name)}"] for name in node["dependentSchemas"]]
    groups = [[one for one in group if one in raw] for group in groups]
    return [group for group in groups if group]


def _inside(place: str, groups: Mapping[str, list[list[str]]]) -> list[str]:
    """The place itself, then every place whose schema speaks of the same value."""
    found = {place: None}
    waiting = [place]
    while waiting:
        for group in groups[waiting.pop()]:
            new = [one for one in group if one not in found]
            found |= dict.fromkeys(new)
            waiting += new
    return list(found)


def _names(
    places: list[str],
    raw: Mapping[str, Mapping[str, Any]],
    copies: Mapping[str, Mapping[str, Any]],
    opened: set[str],
) -> list[str] | None:
    """The names that these schemas list for one object; None when it must stay open."""
    names: dict[str, None] = {}
    listed = False
    for place in places:
        node = copies.get(place, raw[place])
        if place in opened or "additionalProperties" in node:
            return None
        if len(places) > 1 and node.keys() & {"patternProperties", "minProperties", "maxProperties"}:
            return None
        for key in ("properties", "required"):
            if isinstance(node.get(key), Mapping | list):
                names.update(dict.fromkeys(name for name in node[key] if isinstance(name, str)))
        listed = listed or "patternProperties" in node or isinstance(node.get("properties"), Mapping)
    return list(names) if listed else None


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
