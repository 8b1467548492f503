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
    ({"pattern": "^(a+)+$"}, '"' + "a" * 60 + '!"', "unchecked: the check took longer"),
]  # fmt: skip


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SECONDS", 1.0)
    for schema, text, begin in CASES:
        found = checks.verdict([("/s", schema, text)])
        assert found.startswith(begin) and "\n" not in found and found.isascii(), found
    several = [("/a", {"const": 1}, "1"), ("/b", {"const": "é\n" * 500}, "1")]
    assert checks.verdict(several).startswith("violated: /b/const ") and len(checks.verdict(several)) < 700


@pytest.mark.parametrize(
    ("schema", "place"),
    [({"not": 3}, "/not"), ({"properties": {"a": {"type": "strin"}}}, "/properties/a/type"),
     ({"exclusiveMinimum": True, "minimum": 1}, None), ({"items": [{}]}, None)],
)  # fmt: skip
def test_wrong_schemas(schema: dict[str, Any], place: str | None) -> None:
    found = checks.wrong_schema(schema)
    assert (None if found is None else found[0]) == place
