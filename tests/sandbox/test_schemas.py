"""Schemas are read strictly, fetch nothing, and prove what a model wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.config.errors import ConfigError, CoterieError
from coterie.sandbox.schemas import check_text, problem, read_schema

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"type": "objekt"}), json.dumps({"properties": 3})])
def test_what_is_no_schema(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match=r"s\.json"):
        read_schema(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("text", "said"), [("not", "not valid JSON"), ("{}", "age"), ('{"age": -1}', "minimum")]
)
def test_replies_that_break_it(text: str, said: str) -> None:
    check_text('{"age": 3}', SCHEMA)
    with pytest.raises(CoterieError, match=said):
        check_text(text, SCHEMA)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("a schema made us open an address")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    assert "does not contain" in str(problem(1, {"$ref": "http://localhost:1/schema.json"}))
    assert (
        problem(1, {"$ref": "#/$defs/n", "$defs": {"n": {"type": "string"}}})
        == "$: 1 is not of type 'string'"
    )


@pytest.mark.parametrize(
    "schema", [{"properties": 5}, {"$ref": "#"}, {"pattern": "("}, {"enum": 5}, {"allOf": 1}]
)
def test_a_schema_that_is_none_is_a_problem_of_the_value_and_no_crash(schema: dict[str, Any]) -> None:
    found = problem("x" if "pattern" in schema else {"a": 1}, schema)
    assert found is not None and "\n" not in found
