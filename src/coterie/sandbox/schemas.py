"""JSON schemas: reading them, and checking what a model wrote. Outside references are never fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config.errors import ConfigError, CoterieError
from coterie.config.files import read_json
from coterie.config.json_text import JsonError, parse_json


def read_schema(path: Path) -> dict[str, Any]:
    """Read a schema. Errors: `ConfigError`, one line, for a file without a valid schema."""
    schema = read_json(path, "give a JSON schema")
    check_schema(schema, str(path))
    return schema


def check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Errors: `ConfigError` unless `schema` is a valid schema of draft 2020-12."""
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"{where}: no valid JSON schema at {error.json_path}: {error.message}") from None


def problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, in one line; None when it fits the schema."""
    import jsonschema
    import referencing.exceptions
    from jsonschema_specifications import REGISTRY

    # The default registry would fetch the URLs that a schema refers to.
    try:
        validator = jsonschema.Draft202012Validator(schema, registry=REGISTRY)
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except referencing.exceptions.Unresolvable as unknown:
        return f"the schema refers to {unknown.ref}, which it does not contain"
    except Exception as broken:  # of a foreign server: the validator trusts schemas, and fails in many ways
        return f"the schema cannot be used ({type(broken).__name__})"
    return None if error is None else f"{error.json_path}: {error.message}"


def check_text(text: str, schema: Mapping[str, Any]) -> None:
    """Errors: `CoterieError` when a reply is not JSON or does not fit the schema."""
    try:
        value = parse_json(text)
    except JsonError as error:
        raise CoterieError(f"the reply {error}, though a schema was asked for") from None
    wrong = problem(value, schema)
    if wrong is not None:
        raise CoterieError(f"the reply breaks the schema at {wrong}")
