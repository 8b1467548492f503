"""`propertyNames` as what a grammar can follow: properties, or a pattern of their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_NOTES = {"title", "description", "default", "examples", "$comment", "$schema", "deprecated"}
_LARGEST = 64 * 1024  # bytes that repeating one schema for every name may take
_MOST = 1000  # characters in a name
_STEPS = 16  # references one after another


def name_properties(schema: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Rewrite the `propertyNames` of a schema in place, or leave it where its rule cannot be followed.

    A list of names becomes properties; a pattern or lengths become `patternProperties`. `root`: where its
    references lead.
    """
    rule = _resolved(schema.get("propertyNames"), root)
    if rule is None or "patternProperties" in schema:
        return
    kinds = {"string"} if "type" not in rule else {rule["type"]} if isinstance(rule["type"], str) else set()
    said = rule.keys() - _NOTES - {"type"}
    if kinds != {"string"}:
        return
    rest = schema.get("additionalProperties", True)
    if not said:
        del schema["propertyNames"]
    elif said == {"enum"} or said == {"const"}:
        _list(schema, rule["enum"] if "enum" in said else [rule["const"]], rest)
    elif not (schema.keys() & {"properties", "required"}) and rest is not False:
        pattern = _pattern(rule) if said <= {"minLength", "maxLength"} else rule.get("pattern")
        if isinstance(pattern, str) and said <= {"pattern", "minLength", "maxLength"}:
            if "pattern" in said and len(said) > 1:
                return
            del schema["propertyNames"]
            schema |= {"patternProperties": {pattern: rest}, "additionalProperties": False}


def _list(schema: dict[str, Any], names: Any, rest: Any) -> None:
    """Properties in place of a list of names."""
    own = schema.get("properties", {})
    if not isinstance(names, list) or not isinstance(own, Mapping):
        return
    new = [name for name in names if isinstance(name, str) and name not in own]
    if len(new) * len(json.dumps(rest)) > _LARGEST:
        return
    del schema["propertyNames"]
    listed = {name: one if name in names else False for name, one in own.items()}
    schema["properties"] = {**listed, **(dict.fromkeys(new, rest) if rest is not False else {})}
    schema["additionalProperties"] = False


def _pattern(rule: Mapping[str, Any]) -> str | None:
    """A pattern of names of these lengths."""
    least, most = rule.get("minLength", 0), rule.get("maxLength", "")
    if not all(isinstance(n, int) and 0 <= n <= _MOST for n in (least, most) if n != ""):
        return None
    return rf"^[\s\S]{{{least},{most}}}$"


def _resolved(rule: Any, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that a rule is, or that its references lead to; None for another kind of value."""
    if rule is True:
        return {}
    for _ in range(_STEPS):
        if not isinstance(rule, Mapping):
            return None
        reference = rule.get("$ref")
        if not isinstance(reference, str):
            return rule
        if rule.keys() - _NOTES != {"$ref"} or not reference.startswith("#/"):
            return None
        rule = root
        for step in unquote(reference[2:]).split("/"):
            rule = rule.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(rule, Mapping) else None
    return None
