"""Finished replies are checked in a process that can be ended; the verdict is one line."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.hosting.constraints import checks

CASES: list[tuple[Any, str, str]] = [
    ({"not": {"const": 1}}, "2", "satisfied"),
    ({"not": {"const": 1}}, "1", "violated: /s/not "),
    ({"properties": {"a/b": {"not": {}}}}, '{"a/b": 1}', "violated: /s/properties/a~1b/not "),
    ({"pattern": "^(?=a)"}, '"b"', "violated: /s/pattern "),
    ({"$ref": "http://169.254.169.254/"}, "1", "unchecked: /s cannot be used"),
    ({"items": [{"const": 1}], "additionalItems": False}, "[1, 2]", "violated: /s/additionalItems "),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "text", "begin"), CASES)
def test_what_is_said_of_one(schema: Any, text: str, begin: str) -> None:
    found = checks._problem("/s", schema, text) or "satisfied"
    assert found.startswith(begin) and "\n" not in found, found


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the process: it names the first violation, and does not outlast its time."""
    assert checks.verdict([("/a", {"not": {"const": 1}}, "2")]) == "satisfied"
    found = checks.verdict([("/a", {"const": 1}, "1"), ("/b", {"const": "é\n" * 500}, "1")])
    assert found.startswith("violated: /b/const ") and len(found) < 700
    assert "\n" not in found and found.isascii()
    monkeypatch.setattr(checks, "SECONDS", 0.5)
    endless = ({"pattern": "^(a+)+$"}, '"' + "a" * 60 + '!"')
    assert checks.verdict([("/s", *endless)]).startswith("unchecked: the check took longer")


@pytest.mark.parametrize(
    ("schema", "place"),
    [({"not": 3}, "/not"), ({"properties": {"a": {"type": "strin"}}}, "/properties/a/type"),
     ({"exclusiveMinimum": True, "minimum": 1}, None), ({"items": [{}]}, None)],
)  # fmt: skip
def test_wrong_schemas(schema: dict[str, Any], place: str | None) -> None:
    found = checks.wrong_schema(schema)
    assert (None if found is None else found[0]) == place
